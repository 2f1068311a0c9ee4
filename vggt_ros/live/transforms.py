"""RobotTransforms: where the camera sits on the robot, from TF."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import tf2_ros
import tf_transformations
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from vggt_ros.core.config import FramesConfig
from vggt_ros.core.geometry import BODY_FROM_OPTICAL
from vggt_ros.core.pipeline import TIME_JUMP_NS
from vggt_ros.decode import stamp_ns
from vggt_ros.throttle import Throttle

log = logging.getLogger(__name__)

POLL_S = 0.01  # a transform that is late by network time comes within a few of these


class RobotTransforms:
    """Looks up transforms at the stamp of an image, waiting for late ones on the steady clock.

    tf2's own waiting counts in ROS time, which stands still while a simulation is paused; this one always ends. To be
    called from the worker's thread, while the executor fills the buffer.

    Args:
        node: subscribes to /tf and /tf_static, from `listen` on.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._buffer = tf2_ros.Buffer(node=node)
        self._listener: _Listener | None = None
        self._throttle = Throttle()
        self._stopped = threading.Event()

    def listen(self) -> None:
        """Subscribe, once: every transform of the robot wakes the executor, so not where nobody asks (reads_tf)."""
        if self._listener is None:
            self._listener = _Listener(self._buffer, self._node)

    def resume(self) -> None:
        """Wait for transforms again."""
        self._stopped.clear()

    def stop_waiting(self) -> None:
        """Let a waiting lookup give up at once."""
        self._stopped.set()

    def base_from_cam(
        self, frames: FramesConfig, optical_frame: str, stamp_ns: int, timeout_s: float
    ) -> np.ndarray | None:
        """[4, 4] pose of the optical frame in the robot's frame, metres; None, and said so, where TF has none.

        Args:
            frames: names, and whether there is no robot: then the base is at the camera, axes after REP 103.
            optical_frame: frame of the image.
            stamp_ns: stamp of the image.
            timeout_s: steady seconds to wait for a transform that is not there yet.
        """
        if frames.standalone:
            return BODY_FROM_OPTICAL
        if frames.base_frame == optical_frame:
            return np.eye(4)
        consequence = 'images and clouds go out in the optical frame, odometry and TF of the robot do not'
        return self._lookup(frames.base_frame, optical_frame, stamp_ns, timeout_s, consequence)

    def ref_from_cam(
        self, frames: FramesConfig, reference: str, optical_frame: str, stamp_ns: int, timeout_s: float
    ) -> np.ndarray | None:
        """[4, 4] pose of a rig's camera in the optical frame of its reference; None, and said so, where TF has none."""
        if reference == optical_frame:
            return np.eye(4)
        consequence = 'the cameras of the rig stand where the network sees them, not where they are mounted'
        return self._lookup(reference, optical_frame, stamp_ns, timeout_s, consequence)

    def odom_from_base(self, frames: FramesConfig, stamp_ns: int, timeout_s: float) -> np.ndarray | None:
        """[4, 4] pose of the robot as its own odometry has it; None, and said so, where TF has none."""
        consequence = f'{frames.map_frame} -> {frames.odom_frame} stays as it was last; is the odometry alive?'
        return self._lookup(frames.odom_frame, frames.base_frame, stamp_ns, timeout_s, consequence)

    def find(self, target: str, source: str, stamp_ns: int, timeout_s: float) -> np.ndarray | None:
        """[4, 4] target_from_source of any two frames; None, and said so, where TF has none."""
        return self._lookup(target, source, stamp_ns, timeout_s, 'the scale or the level of the map go without it')

    def _lookup(self, target: str, source: str, stamp_ns: int, timeout_s: float, consequence: str) -> np.ndarray | None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return matrix(self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp_ns)))
            except tf2_ros.TransformException as error:
                if time.monotonic() >= deadline or self._stopped.wait(POLL_S):
                    text = f'TF has no {target} <- {source} at the stamp of the image: {consequence}. {error}'
                    self._throttle(log.warning, f'{target} {source}', text)
                    return None


class _Listener(tf2_ros.TransformListener):
    """Fills the buffer, and empties it first where the stamps of a frame jump back: a bag loops, a clock was set.

    tf2 takes nothing that is ten seconds older than the newest it holds, so odometry would be lost until the stamps are
    back where they were. It empties itself where ROS time jumps, which without /clock it does not.
    Source: ros2/geometry2, tf2/src/time_cache.cpp, insertData; tf2_ros_py/tf2_ros/buffer.py. Static ones survive.
    """

    def __init__(self, buffer: tf2_ros.Buffer, node: Node) -> None:
        self._newest_ns: dict[str, int] = {}
        super().__init__(buffer, node)

    def callback(self, data: TFMessage) -> None:
        """Of /tf."""
        stamps = {one.child_frame_id: stamp_ns(one.header.stamp) for one in data.transforms}
        if any(stamp < self._newest_ns.get(child, 0) - TIME_JUMP_NS for child, stamp in stamps.items()):
            log.info('stamps on /tf went back: forgetting the transforms before')
            self.buffer.clear()
            self._newest_ns.clear()
        for child, stamp in stamps.items():
            self._newest_ns[child] = max(stamp, self._newest_ns.get(child, 0))
        super().callback(data)


class TfMounts:
    """Where sensors sit on the robot, after TF, for the evidence of the scale (core.evidence.Mounts).

    A lookup waits for a transform that is late, until one fails; after that none waits until one succeeds: what is
    missing for good must not hold up every window.

    Args:
        transforms: where to look.
        timeout_s: steady seconds to wait.
    """

    def __init__(self, transforms: RobotTransforms, timeout_s: float) -> None:
        self._transforms, self._timeout_s = transforms, timeout_s
        self._missing: set[tuple[str, str]] = set()

    def find(self, target: str, source: str, stamp_ns: int) -> np.ndarray | None:
        """[4, 4] target_from_source at a stamp; None, and said so, where TF has none."""
        if target == source:
            return np.eye(4)
        edge = target, source
        timeout_s = 0.0 if edge in self._missing else self._timeout_s
        found = self._transforms.find(target, source, stamp_ns, timeout_s)
        if found is None:
            self._missing.add(edge)
        else:
            self._missing.discard(edge)
        return found


def matrix(transform: TransformStamped) -> np.ndarray:
    """TransformStamped -> [4, 4] target_from_source, the target being header.frame_id."""
    rotation, translation = transform.transform.rotation, transform.transform.translation
    target_from_source = tf_transformations.quaternion_matrix((rotation.x, rotation.y, rotation.z, rotation.w))
    target_from_source[:3, 3] = translation.x, translation.y, translation.z
    return target_from_source
