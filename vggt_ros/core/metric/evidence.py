"""Evidence: what other sensors of the robot said, by stamp, kept until a window is ready to be compared with it."""

from __future__ import annotations

import threading
from bisect import insort
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vggt_ros.core.config import Config
from vggt_ros.core.errors import ShapeError
from vggt_ros.core.geometry import move_points
from vggt_ros.core.metric.pose_track import TIME_JUMP_NS, PoseTrack

KEEP_S = 20.0  # a window of 8 frames at 1 Hz and the time to compute it; older evidence meets no window any more
MAX_POINTS = 4096  # of one depth image or sweep: 30 MB for 20 s of a camera at 30 Hz; more tell the same


class Mounts(Protocol):
    """How the frames of a robot stand to each other: TF, or what a recording knows of it."""

    def find(self, target: str, source: str, stamp_ns: int) -> np.ndarray | None:
        """[4, 4] rigid target_from_source in metres at a stamp; None where it is not known."""


class NoMounts:
    """Nothing is known but that a frame is itself."""

    def find(self, target: str, source: str, stamp_ns: int) -> np.ndarray | None:
        """The identity for one frame, nothing else."""
        return np.eye(4) if target == source else None


@dataclass(frozen=True, order=True)
class _Points:
    stamp_ns: int
    frame_id: str = field(compare=False)
    points: np.ndarray = field(compare=False)


@dataclass(frozen=True, order=True)
class _Up:
    stamp_ns: int
    frame_id: str = field(compare=False)
    up: np.ndarray = field(compare=False)


class Evidence:
    """Takes what other sensors say, from any thread, and gives it to the pipeline's thread by stamp.

    Args:
        mounts: where the sensors sit. It is asked from the pipeline's thread only, so it may wait.
        base_frame, odom_frame: names of the robot's frame, and of that of its odometry.
        sync_s: how far in time a depth image or sweep may be from an image.
        odometry_from_tf: whether the mounts are asked for the robot's odometry, instead of what add_odometry was given.
    """

    def __init__(
        self,
        mounts: Mounts | None = None,
        *,
        base_frame: str = 'base_link',
        odom_frame: str = 'odom',
        sync_s: float = 0.05,
        odometry_from_tf: bool = False,
    ) -> None:
        self.mounts: Mounts = mounts or NoMounts()
        self.base_frame, self.odom_frame = base_frame, odom_frame
        self._sync_ns = round(sync_s * 1e9)
        self._odometry_from_tf = odometry_from_tf
        self._lock = threading.Lock()
        self.clear()

    @staticmethod
    def of(config: Config, mounts: Mounts | None = None) -> Evidence:
        """With the names and tolerances of the settings."""
        frames, scale = config.frames, config.scale
        return Evidence(
            mounts,
            base_frame=frames.base_frame,
            odom_frame=frames.odom_frame,
            sync_s=scale.scale_sync_s,
            odometry_from_tf=scale.scale_source == 'tf',
        )

    def clear(self) -> None:
        """Forget what the sensors said; where they sit stays known."""
        with self._lock:
            self._odometry = PoseTrack(KEEP_S)
            self._body_frame = self.base_frame
            self._points: list[_Points] = []
            self._ups: list[_Up] = []

    def add_odometry(self, stamp_ns: int, odom_from_body: np.ndarray, body_frame: str = '') -> None:
        """A pose of the robot in its own odometry.

        Args:
            stamp_ns: of the pose.
            odom_from_body: [4, 4] rigid, metres.
            body_frame: whose pose it is; the robot's own frame unless said.

        Raises:
            ShapeError: it is no finite rigid transform.
        """
        with self._lock:
            self._odometry.add(stamp_ns, odom_from_body)
            self._body_frame = body_frame or self.base_frame

    def add_points(self, stamp_ns: int, frame_id: str, points: np.ndarray) -> None:
        """Points [N, 3] that a depth camera or lidar measured, metres, in its own frame; thinned to MAX_POINTS.

        Raises:
            ShapeError: they have another shape.
        """
        if points.ndim != 2 or points.shape[1] != 3:
            raise ShapeError(f'points must be [N, 3], got {points.shape}')
        points = points[np.isfinite(points).all(axis=1)]
        points = points[:: max(1, -(-len(points) // MAX_POINTS))].astype(np.float32)
        with self._lock:
            _keep(self._points, _Points(stamp_ns, frame_id, points))

    def add_up(self, stamp_ns: int, frame_id: str, up: np.ndarray) -> None:
        """What an IMU says of up: [3] in its own frame, any length.

        At rest the reading of an accelerometer points up: it measures what holds it against gravity.
        Source: sensor_msgs/msg/Imu; REP 145.
        """
        if up.shape != (3,) or not np.isfinite(up).all() or not up.any():
            raise ShapeError(f'up must be a finite [3] that is not zero, got {up!r}')
        with self._lock:
            _keep(self._ups, _Up(stamp_ns, frame_id, up.astype(np.float64)))

    def base_from_cam(self, optical_frame: str, stamp_ns: int) -> np.ndarray | None:
        """[4, 4] where the camera sits on the robot; None where nobody knows."""
        return self.mounts.find(self.base_frame, optical_frame, stamp_ns)

    def odom_from_cam(self, optical_frame: str, stamp_ns: int) -> np.ndarray | None:
        """[4, 4] pose of the camera as the robot's odometry has it, lever arm and all; None where it is not known."""
        odom_from_body, body_frame = self._odom_from_body(stamp_ns)
        if odom_from_body is None:
            return None
        body_from_cam = self.mounts.find(body_frame, optical_frame, stamp_ns)
        return None if body_from_cam is None else odom_from_body @ body_from_cam

    def points_in(self, optical_frame: str, stamp_ns: int) -> np.ndarray | None:
        """[N, 3] points of the nearest depth image or sweep in a camera's optical frame, metres; None without any."""
        with self._lock:
            nearest = min(self._points, key=lambda one: abs(one.stamp_ns - stamp_ns), default=None)
        if nearest is None or abs(nearest.stamp_ns - stamp_ns) > self._sync_ns:
            return None
        cam_from_sensor = self.mounts.find(optical_frame, nearest.frame_id, stamp_ns)
        return None if cam_from_sensor is None else move_points(cam_from_sensor, nearest.points)

    def ups_in(self, optical_frame: str, start_ns: int, end_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Stamps [N] and directions [N, 3] of up in a camera's optical frame, measured between two stamps."""
        with self._lock:
            between = [one for one in self._ups if start_ns <= one.stamp_ns <= end_ns]
        turns: dict[str, np.ndarray | None] = {}
        for one in between:
            if one.frame_id not in turns:
                turns[one.frame_id] = self.mounts.find(optical_frame, one.frame_id, one.stamp_ns)
        known = [(one, turn) for one in between if (turn := turns[one.frame_id]) is not None]
        ups = np.array([turn[:3, :3] @ one.up for one, turn in known]).reshape(-1, 3)
        return np.array([one.stamp_ns for one, _ in known], np.int64), ups

    def _odom_from_body(self, stamp_ns: int) -> tuple[np.ndarray | None, str]:
        if self._odometry_from_tf:
            return self.mounts.find(self.odom_frame, self.base_frame, stamp_ns), self.base_frame
        with self._lock:
            return self._odometry.at(stamp_ns), self._body_frame


def _keep(items: list, one: _Points | _Up) -> None:
    """Add to a list that is sorted by stamp; what is older than KEEP_S, or of another run of the clock, goes."""
    if items and one.stamp_ns < items[-1].stamp_ns - TIME_JUMP_NS:
        items.clear()
    insort(items, one)
    oldest_ns = items[-1].stamp_ns - round(KEEP_S * 1e9)
    while items[0].stamp_ns < oldest_ns:
        del items[0]
