"""The bench for faults: a camera that lies, a real node in its own process, and a check of all that comes back.

Every image has a colour of its own, made from its number. What the node publishes under a stamp must show the colour of
the image that was sent with that stamp, once, and in the order of sending: a result under another's stamp cannot hide.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from robot import DEADLINE_S, IMAGE, OPTICAL, ROOT, NodeProcess, Robot, raw_image, spinning
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

DEPTH, COLOUR, POINTS, ODOM = '/vggt/depth/image_rect', '/vggt/rgb/image_rect_color', '/vggt/points', '/vggt/odom'
CHECKED = {DEPTH: Image, COLOUR: Image, POINTS: PointCloud2, ODOM: Odometry, '/vggt/depth/camera_info': CameraInfo}
SIZE = (120, 160)
PERIOD_S = 1 / 30
PATIENCE_S = 30.0  # for what must come; far above what it takes, for machines that do much else
START_S = 100.0  # for a process that imports torch, on a machine that does much else
COLD_S = 0.1  # waited for the result of a frame that may only be the first of a window
GAP_S = 1.0
# Waited for any other: waiting as long as the gap would end the window, and so on with the next frame.
WARM_S = 0.8 * GAP_S
PARAMETERS: dict[str, object] = {
    'backend': 'fake',
    'window_size': 4,
    'window_stride': 1,
    'input_reliability': 'reliable',
    'tf_timeout_s': 0.3,
    'max_frame_gap_s': GAP_S,
    'save_formats': 'ply',
}
# What the node says, in its diagnostics, of images that get no result: for newer ones, in its mailbox or already in the
# subscription, and for their age.
GIVEN_UP = ('skipped because newer ones came', 'lost before they were taken', 'dropped as too late')
# The stand-in network does what a file says, so that a fault begins and ends when the test wants it to.
BREAKABLE = """
import pathlib, time
import numpy as np
from vggt_ros.core.predictor import FakePredictor
works, order = FakePredictor.predict, pathlib.Path({order!r})
class OutOfMemoryError(RuntimeError):
    pass
def predict(self, window):
    fault = order.read_text()
    if fault == 'memory' or fault == 'memory of large windows' and len(window.frames) > 2:
        raise OutOfMemoryError('CUDA out of memory')
    if fault == 'device':
        raise RuntimeError('CUDA error: unspecified launch failure')
    if fault == 'slow':
        time.sleep(0.3)
    while fault == 'stuck' and order.read_text() == 'stuck':
        time.sleep(0.05)
    prediction = works(self, window)
    if fault == 'nan':
        prediction.depth[:] = prediction.cam_from_window[:] = np.nan
    return prediction
FakePredictor.predict = predict
FakePredictor.works_on_device = True  # on a thread of its own, as a network on a GPU is
import vggt_ros.live.save_services as saving
saves = saving.write_folder
def write_folder(*arguments):
    while order.read_text() == 'slow save':
        time.sleep(0.05)
    return saves(*arguments)
saving.write_folder = write_folder
"""


@dataclass(frozen=True)
class Sent:
    """An image that was sent: its stamp, its colour, and whether its results have to come."""

    stamp_ns: int
    colour: tuple[int, int, int]
    must: bool


@dataclass
class Outcome:
    """What one try of a fault showed.

    Args:
        sees: what the user reads, word for word, in the log or the diagnostics.
        lost: good frames whose results never came, beyond those the fault itself took.
        skipped: those that never came, as the node says that it gave them up (GIVEN_UP): it is slower than the camera.
        recover_s: from the end of the fault to the first result of a frame sent after it.
        wrong: results under a stamp that is not theirs, twice, or out of order.
        sent: good frames in all.
    """

    sees: list[str] = field(default_factory=list)
    lost: int = 0
    skipped: int = 0
    recover_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    sent: int = 0


class Bench:
    """One node, one camera, and the checker.

    Args:
        folder: for logs, saved maps and the file that tells the network what to do.
        prefix: command that runs the node, such as one that puts it into another network.
        parameters: of the node, beyond PARAMETERS.
    """

    def __init__(self, folder: Path, *, prefix: Sequence[str] = (), **parameters: object) -> None:
        self.folder, self._prefix = folder, prefix
        self.order = folder / 'order'
        self.order.write_text('')
        self.maps = folder / 'maps'
        self.maps.mkdir()
        context = rclpy.Context()
        rclpy.init(context=context)
        self._stack = contextlib.ExitStack()
        self._stack.callback(rclpy.try_shutdown, context=context)
        self.robot = Robot(context)
        self._stack.callback(self.robot.destroy_node)
        self._stack.enter_context(spinning(self.robot, context))
        self.robot.start_camera()
        self._tf = self.robot.create_publisher(TFMessage, '/tf', 50)
        for topic, kind in CHECKED.items():
            self.robot.listen(kind, topic)
        self.robot.listen(DiagnosticArray, '/diagnostics')
        self.node = self.start_node('node', **parameters)
        self.offset_ns = 0  # of the camera's clock
        self.tf_delay_s: float | None = 0.0  # None: TF is dead
        self.how: dict[str, Any] = {}  # of the images: encoding, size
        self.of_network: dict[str, Any] = {}  # what the process found that tries the faults of the network
        self._clients: dict[str, Any] = {}
        self._number = 0
        self.last_ns = 0
        self._sent: list[Sent] = []
        self._earlier: set[int] = set()  # stamps of the tries before
        self._is_warm = False
        self.robot.wait_until(lambda: 'waiting for images' in self.node.text, 'start of the node', START_S)
        self.robot.wait_for_match()
        self.good(5)
        self.robot.wait_until(lambda: self.robot.received['/diagnostics'], 'diagnostics')
        self._diagnostics_before: list[DiagnosticArray] = []
        self.begin()

    def start_node(
        self, log: str, before: str | None = None, *, name: str = 'vggt', **parameters: object
    ) -> NodeProcess:
        """Another process with the node, that ends with the bench."""
        code = BREAKABLE.format(order=str(self.order)) if before is None else before
        given = {**PARAMETERS, 'save_directory': str(self.maps), **parameters}
        rules = {'image': IMAGE, '__node': name}
        process = NodeProcess(given, rules, self.folder / f'{log}.log', code, prefix=self._prefix)
        self._stack.callback(_kill, process.process)
        return process

    def start_program(self, arguments: list[str], log: str = 'program') -> subprocess.Popen[bytes]:
        """Another Python process, that ends with the bench."""
        environment = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'}
        with (self.folder / f'{log}.log').open('w') as output:
            process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=output, env=environment)
        self._stack.callback(_kill, process)
        return process

    def client(self, kind: type, name: str) -> Any:
        """Of a service; the same at each call."""
        if name not in self._clients:
            self._clients[name] = self.robot.create_client(kind, name)
        return self._clients[name]

    def close(self) -> None:
        """End all of it."""
        self._stack.close()

    @property
    def log(self) -> str:
        """What the node said in this try."""
        return self.node.text[self._log_at :]

    @property
    def stamps(self) -> set[int]:
        """Of the images of this try."""
        return {one.stamp_ns for one in self._sent}

    # What a row begins and ends with.

    def begin(self) -> None:
        """A new try: what was sent and said before does not count."""
        self._diagnostics_before = self.robot.received['/diagnostics'][-1:] or self._diagnostics_before
        for topic in (*CHECKED, '/diagnostics'):
            self.robot.received[topic].clear()
        self._earlier.update(one.stamp_ns for one in self._sent)
        self._sent.clear()
        self._log_at = len(self.node.text)
        self.outcome = Outcome()

    def finish(self) -> Outcome:
        """All good frames must have come back by now; check what came."""
        with contextlib.suppress(AssertionError):
            self.robot.wait_until(lambda: not self._missing(), 'last results', deadline_s=5.0)
        missing = len(self._missing())
        if missing:
            self.outcome.skipped = min(missing, self._count_skipped())
        self.outcome.lost = missing - self.outcome.skipped
        self.outcome.sent = sum(one.must for one in self._sent)
        self.outcome.wrong = self._check()
        return self.outcome

    @contextlib.contextmanager
    def fault(self, *, takes_recovery: bool = False) -> Iterator[None]:
        """What happens in here is the fault; then good frames, until one comes back.

        Args:
            takes_recovery: those until then belong to the fault: a link sends again what it lost, or gives it up.
        """
        yield
        start, self._is_warm, before = time.monotonic(), False, len(self._sent)
        while not {one.stamp_ns for one in self._sent[before:]} & {stamp_of(one) for one in list(self._came())}:
            assert time.monotonic() - start < PATIENCE_S, f'no recovery within {PATIENCE_S:g} s:\n{self.node.text}'
            self._is_warm = False  # a result that comes now may be of an image from before
            self.good(1, must=not takes_recovery)
        self.outcome.recover_s = time.monotonic() - start
        self.good(4)

    # What a row does.

    def good(self, count: int, *, stamp_ns: int | None = None, must: bool = True) -> None:
        """Frames as they should be, each answered before the next is sent, where an answer is due."""
        for _ in range(count):
            before = len(self._came())
            sent_at = time.monotonic()
            self.send(stamp_ns, must=must)
            deadline = sent_at + (WARM_S if self._is_warm else COLD_S)
            while len(self._came()) == before and time.monotonic() < deadline:
                time.sleep(0.005)
            self._is_warm = len(self._came()) > before
            time.sleep(max(0.0, PERIOD_S - (time.monotonic() - sent_at)))

    def send(
        self,
        stamp_ns: int | None = None,
        *,
        must: bool = True,
        change: Callable[[Image], object] | None = None,
        change_info: Callable[[CameraInfo], object] | None = None,
    ) -> int:
        """One image with its CameraInfo and its TF; `must` says whether its results have to come. Its stamp."""
        if stamp_ns is None:
            stamp_ns = self.last_ns = max(time.time_ns() + self.offset_ns, self.last_ns + 1_000_000)
        self._number += 1
        header = Header(stamp=to_time(stamp_ns), frame_id=OPTICAL)
        image = picture(header, self._number, **self.how)
        info = CameraInfo(header=header, height=image.height, width=image.width, distortion_model='plumb_bob')
        info.k = [float(image.width), 0.0, image.width / 2, 0.0, float(image.width), image.height / 2, 0.0, 0.0, 1.0]
        if change is not None:
            change(image)
        if change_info is not None:
            change_info(info)
        if self.tf_delay_s is not None and not self.tf_delay_s:
            self._send_tf(header)
        shown = colour(self._number)
        self._sent.append(Sent(stamp_ns, shown if image.encoding != 'mono8' else (shown[1],) * 3, must))
        self.robot.publish(image, info)
        if self.tf_delay_s:
            time.sleep(self.tf_delay_s)
            self._send_tf(header)
        return stamp_ns

    def sees(self, *sentences: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until the user reads each of these (regular expressions) in the log or the diagnostics of the try."""
        for sentence in sentences:
            what = f'{sentence!r} in the log or the diagnostics'
            self.robot.wait_until(lambda wanted=sentence: self.find(wanted), what, deadline_s)
            self.outcome.sees.append(self.find(sentence))

    def insist(self, sentence: str, act: Callable[[], object]) -> None:
        """Do something again and again until the user reads this: a busy node passes images over for newer ones."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.find(sentence):
            assert time.monotonic() < deadline, f'no {sentence!r}'
            act()
            time.sleep(0.05)
        self.outcome.sees.append(self.find(sentence))

    def set_parameters(self, **values: object) -> list[Any]:
        messages = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParameters.Request(parameters=messages)
        return list(self.robot.call(SetParameters, '/vggt/set_parameters', request).results)

    def change_state(self, *transitions: str, node: str = 'vggt') -> list[bool]:
        """Through the services of a lifecycle node; whether each succeeded."""
        return [
            self.robot.call(
                ChangeState, f'/{node}/change_state',
                ChangeState.Request(transition=Transition(id=getattr(Transition, f'TRANSITION_{name.upper()}'))),
            ).success
            for name in transitions
        ]  # fmt: skip

    def start_subscriber(self) -> subprocess.Popen[bytes]:
        """Another process that takes clouds and depth, to be stopped or killed."""
        code = (
            'import rclpy\nfrom sensor_msgs.msg import Image, PointCloud2\nrclpy.init()\n'
            f'node = rclpy.create_node("consumer")\ngot = lambda m: print("got", flush=True)\n'
            f'a = node.create_subscription(PointCloud2, "{POINTS}", got, 5)\n'
            f'b = node.create_subscription(Image, "{DEPTH}", got, 5)\nrclpy.spin(node)\n'
        )
        process = self.start_program(['-c', code], 'consumer')
        log = self.folder / 'consumer.log'
        deadline = time.monotonic() + PATIENCE_S
        while 'got' not in log.read_text():
            assert time.monotonic() < deadline, 'the other subscriber gets nothing'
            self.good(1)
        return process

    # The check.

    def _came(self) -> list[Any]:
        return self.robot.received[DEPTH]

    def _missing(self) -> list[Sent]:
        came = {index for index, _ in self._match([stamp_of(message) for message in list(self._came())], [], DEPTH)}
        return [one for index, one in enumerate(self._sent) if one.must and index not in came]

    def _count_skipped(self) -> int:
        """How many images were given up in this try; counted anew at each activation."""
        heard = len(self.robot.received['/diagnostics'])
        self.robot.wait_until(lambda: len(self.robot.received['/diagnostics']) >= heard + 2, 'diagnostics')
        figures: dict[str, list[int]] = {key: [] for key in GIVEN_UP}
        for array in self._diagnostics_before + list(self.robot.received['/diagnostics']):
            for value in itertools.chain.from_iterable(status.values for status in array.status):
                if value.key in figures:
                    figures[value.key].append(int(value.value))
        pairs = itertools.chain.from_iterable(map(itertools.pairwise, figures.values()))
        return sum(max(now - was, 0) for was, now in pairs)

    def _match(self, stamps: list[int], wrong: list[str], topic: str) -> list[tuple[int, int]]:
        """(index of the image sent, index of the message) of each; those that fit to none are told to `wrong`."""
        found, at = [], 0
        for index, stamp in enumerate(stamps):
            sent = next((i for i in range(at, len(self._sent)) if self._sent[i].stamp_ns == stamp), None)
            if sent is not None:
                found.append((sent, index))
                at = sent + 1
            elif any(one.stamp_ns == stamp for one in self._sent):
                wrong.append(f'{topic}: stamp {stamp} comes twice or out of order')
            elif stamp not in self._earlier:
                wrong.append(f'{topic}: stamp {stamp} was never sent')
        return found

    def _check(self) -> list[str]:
        wrong: list[str] = []
        for topic in CHECKED:
            messages = list(self.robot.received[topic])
            for sent, index in self._match([stamp_of(message) for message in messages], wrong, topic):
                message = messages[index]
                if topic != ODOM and message.header.frame_id != OPTICAL:
                    wrong.append(f'{topic}: its frame is {message.header.frame_id!r}')
                if topic == COLOUR:
                    got = np.frombuffer(message.data, np.uint8).reshape(-1, 3).mean(axis=0)
                    if all(np.abs(got - colour).max() > 2 for colour in self._colours(sent)):
                        wrong.append(f'{topic}: image {sent} has the colour {got} of another')
        return wrong

    def _colours(self, index: int) -> list[tuple[int, int, int]]:
        """Of an image and of those sent right after it under its stamp: a busy node may take the second alone."""
        stamp_ns = self._sent[index].stamp_ns
        return [one.colour for one in itertools.takewhile(lambda one: one.stamp_ns == stamp_ns, self._sent[index:])]

    def find(self, wanted: str) -> str:
        """The first line of the try's log or diagnostics that says so; empty where none does."""
        for line in self.log.splitlines():
            if re.search(wanted, line):
                return re.sub(r'^(\[[^\]]*\] ?:? ?)+(?=\S)', '', line).strip()
        for array in list(self.robot.received['/diagnostics']):
            for status in array.status:
                task = status.name.rpartition(': ')[2]
                said = [f'{task}: {status.message}', *(f'{task}, {one.key}: {one.value}' for one in status.values)]
                for line in said:
                    if re.search(wanted, line):
                        return line
        return ''

    def _send_tf(self, header: Header) -> None:
        transform = TransformStamped(header=Header(stamp=header.stamp, frame_id='base_link'), child_frame_id=OPTICAL)
        transform.transform.rotation.x, transform.transform.rotation.y = -0.5, 0.5
        transform.transform.rotation.z, transform.transform.rotation.w = -0.5, 0.5
        self._tf.publish(TFMessage(transforms=[transform]))


def picture(header: Header, number: int, *, encoding: str = 'rgb8', size: tuple[int, int] = SIZE) -> Image:
    """An image all of one colour, which tells its number."""
    red, green, blue = colour(number)
    pixel = {'bgr8': (blue, green, red), 'mono8': (green,)}.get(encoding, (red, green, blue))
    return raw_image(header, encoding, np.full((*size, len(pixel)), pixel, np.uint8))


def colour(number: int) -> tuple[int, int, int]:
    """No two of 200 images in a row have the same."""
    return number * 37 % 200 + 28, number * 91 % 200 + 28, number * 53 % 200 + 28


def to_time(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def stamp_of(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
