"""The other side of the tests: a clip of real frames, the rest of a robot, and the node in its own process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

ROOT = Path(__file__).resolve().parents[2]
CLIPS = (ROOT / 'vggt_ros/data/cabinet', ROOT.parent / 'shared/data/tum_fr3_cabinet')
OPTICAL = 'front_camera_optical_frame'
IMAGE, CAMERA_INFO = '/camera/image_raw', '/camera/camera_info'
SETTLE_S = 1.0  # DDS matches both ends one after the other, and tells only about the near one
DEADLINE_S = 90.0  # of every wait; far above what any takes: with ten others on two cores a node took 45 s to start


class Clip:
    """Real camera frames with the stamps they were taken at; read without the code under test.

    Args:
        folder: rgb/, frames.txt with `stamp file`, camera.json.
        count: frames from the start.
    """

    def __init__(self, folder: Path, count: int) -> None:
        camera = json.loads((folder / 'camera.json').read_text())
        self.K = np.array([[camera['fx'], 0, camera['cx']], [0, camera['fy'], camera['cy']], [0, 0, 1.0]])
        lines = [line.split() for line in (folder / 'frames.txt').read_text().splitlines() if line[:1].isdigit()]
        self.stamps_ns = []
        self.images = []
        for stamp, file in (line[:2] for line in lines[:count]):
            seconds, _, fraction = stamp.partition('.')
            self.stamps_ns.append(int(seconds) * 10**9 + int(f'{fraction:0<9}'[:9]))
            self.images.append(cv2.cvtColor(cv2.imread(str(folder / file)), cv2.COLOR_BGR2RGB))

    def __len__(self) -> int:
        return len(self.images)


class Robot(Node):
    """The rest of a robot: a camera driver, and whoever reads the results. Knows nothing of vggt_ros."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__('robot', context=context)
        self.received: dict[str, list[Any]] = defaultdict(list)
        self.sent_at: dict[str, list[int]] = defaultdict(list)  # the publisher's clock, ns: tells order over topics
        self._camera: dict[str, Any] = {}
        self._results: list[Any] = []
        self._service_clients: dict[str, Any] = {}

    def listen(self, kind: type, topic: str, *, key: str = '', reliable: bool = True, latched: bool = False) -> None:
        qos = QoSProfile(
            depth=100,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

        def keep(message: Any, info: Any) -> None:
            self.received[key or topic].append(message)
            self.sent_at[key or topic].append(info['source_timestamp'])

        self._results.append(self.create_subscription(kind, topic, keep, qos))

    def start_camera(self, *, reliable: bool = True, kind: type = Image, image: str = IMAGE) -> None:
        qos = QoSProfile(
            depth=50, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        )
        self._camera = {
            'image': self.create_publisher(kind, image, qos),
            'info': self.create_publisher(CameraInfo, CAMERA_INFO, qos),
        }

    def wait_for_match(self, node: Any = None) -> None:
        """Until node and robot hear each other; a node of this process is asked itself."""
        self.wait_until(lambda: all(p.get_subscription_count() for p in self._camera.values()), 'subscriber')
        self.wait_until(lambda: all(s.get_publisher_count() for s in self._results), 'publisher')
        if node is None:
            time.sleep(SETTLE_S)
            return
        ours = {subscription.topic_name for subscription in self._results}
        self.wait_until(
            lambda: (
                all(p.get_subscription_count() for p in node.publishers if p.topic_name in ours)
                and all(s.get_publisher_count() for s in node._inputs._subscriptions)
            ),
            'match at the end of the node',
        )

    def publish_frame(
        self, clip: Clip, i: int, stamp_ns: int | None = None, make: Callable[..., Any] | None = None, info: bool = True
    ) -> None:
        stamp_ns = clip.stamps_ns[i] if stamp_ns is None else stamp_ns
        header = Header(stamp=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id=OPTICAL)
        height, width = clip.images[i].shape[:2]
        if info:
            self._camera['info'].publish(
                CameraInfo(header=header, height=height, width=width, k=clip.K.reshape(9), distortion_model='plumb_bob')
            )
        self._camera['image'].publish((make or rgb8)(header, clip.images[i]))

    def publish(self, image: Any, info: CameraInfo) -> None:
        """An image as it is, and its calibration."""
        self._camera['info'].publish(info)
        self._camera['image'].publish(image)

    def publish_clip(self, clip: Clip, indices: range, node: Any = None, *, period_s: float = 0.02, **how: Any) -> None:
        """Publish frames; those a node of this process takes go one by one, so that none is passed over for a newer."""

        def taken() -> int:
            return node._pipeline.statistics.frames + node._worker.tally.bad_images

        for i in indices:
            before = taken() if node is not None else 0
            self.publish_frame(clip, i, **how)
            if node is not None:
                self.wait_until(lambda count=before + 1: taken() >= count, f'taking of frame {i}')
            else:
                time.sleep(period_s)

    def call(self, kind: type, name: str, request: Any) -> Any:
        """The answer of a service."""
        if name not in self._service_clients:
            self._service_clients[name] = self.create_client(kind, name)
        client = self._service_clients[name]
        if not client.service_is_ready():
            assert client.wait_for_service(DEADLINE_S), f'no service {name} within {DEADLINE_S} s'
            time.sleep(SETTLE_S / 2)  # else the answer may find nobody: its way back is matched after the way there
        future = client.call_async(request)
        self.wait_until(future.done, f'answer of {name}')
        return future.result()

    def published_by(self, name: str, namespace: str = '/') -> dict[str, list[str]]:
        """Types by topic that a node publishes, as far as they are known here; nothing of a node that is not yet."""
        try:
            return dict(self.get_publisher_names_and_types_by_node(name, namespace))
        except NodeNameNonExistentError:  # its name and its topics are discovered one after the other
            return {}

    def wait_until(self, is_true: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
        def said() -> str:
            counts = {topic: len(messages) for topic, messages in self.received.items()}
            return f'no {what}; received {counts}'

        wait_until(is_true, said, deadline_s)


def wait_until(
    is_true: Callable[[], object],
    said: Callable[[], str] = str,
    deadline_s: float = DEADLINE_S,
    period_s: float = 0.01,
) -> None:
    """Fails where it is not within the deadline, with what is said then."""
    deadline = time.monotonic() + deadline_s
    while not is_true():
        assert time.monotonic() < deadline, f'not within {deadline_s} s: {said()}'
        time.sleep(period_s)


def rgb8(header: Header, image: np.ndarray) -> Image:
    return raw_image(header, 'rgb8', image)


def raw_image(header: Header, encoding: str, pixels: np.ndarray) -> Image:
    message = Image(header=header, encoding=encoding, height=pixels.shape[0], width=pixels.shape[1])
    message.step = pixels.nbytes // pixels.shape[0]
    message.data.frombytes(pixels.tobytes())
    return message


class spinning:  # noqa: N801 (a context manager that reads as a verb)
    """Spin a node in a thread while the block runs."""

    def __init__(self, node: Node, context: rclpy.Context) -> None:
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._stopped = False

    def _spin(self) -> None:
        try:
            while not self._stopped:
                with contextlib.suppress(InvalidHandle):  # of an event whose subscription a test has just taken down
                    self._executor.spin_once(timeout_sec=0.05)
        except ExternalShutdownException:
            pass

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join(DEADLINE_S)
        self._executor.shutdown()


class NodeProcess:
    """The real node in a process of its own.

    Args:
        parameters: ROS parameters.
        remappings: topic rules.
        log: file for its output.
        before: Python to run before the node starts, to make it slow or broken.
        program: of vggt_ros: node, relay or fleet.
        arguments: of the program.
        prefix: command that runs the node, such as one that puts it into another network.
    """

    def __init__(
        self,
        parameters: dict[str, object],
        remappings: dict[str, str],
        log: Path,
        before: str = '',
        program: str = 'node',
        arguments: tuple[str, ...] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        self.log = log
        arguments = [*arguments, *([] if '--ros-args' in arguments else ['--ros-args'])]
        for name, value in parameters.items():
            arguments += ['-p', f'{name}:={str(value).lower() if isinstance(value, bool) else value}']
        for name, topic in remappings.items():
            arguments += ['-r', f'{name}:={topic}']
        code = f'import sys\n{before}\nfrom vggt_ros.{program} import main\nsys.exit(main())'
        # As a command line would: what nothing follows is the node's own business.
        command = [*prefix, sys.executable, '-c', code, *arguments]
        environment = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'}
        with log.open('w') as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)

    @property
    def text(self) -> str:
        return self.log.read_text()

    def wait_for_text(self, text: str, deadline_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + deadline_s
        while text not in self.text:
            assert self.process.poll() is None, f'the node ended with {self.process.returncode}:\n{self.text}'
            assert time.monotonic() < deadline, f'no {text!r} within {deadline_s} s:\n{self.text}'
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask the process to end; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)
