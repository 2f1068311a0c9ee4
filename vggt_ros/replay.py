"""A recording -> live topics with their clock, as the camera sent them."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vggt_ros.core.errors import SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.messages import bag_typestore
from vggt_ros.recorded.recording import RecordedTopic, Recording, open_recording
from vggt_ros.recorded.source import Source, is_bag, open_source

log = logging.getLogger(__name__)

CAMERA = '/camera'  # prefix of the topics of a recording that has none
DEPTH = 10  # messages kept for a slow subscriber, as `ros2 bag play` has it
LATE_S = 0.5  # further behind than this we do not keep up, and say so


@dataclass(frozen=True)
class TapeTopic:
    """A topic to publish: its name and type, how many messages it has, and whether late subscribers get the last."""

    name: str
    type: str
    count: int
    latched: bool = False


class TapeMessage(NamedTuple):
    """What is published when: a message of rclpy's classes, or its CDR bytes."""

    topic: str
    time_ns: int
    message: Any


class Tape(Protocol):
    """Messages in order of time."""

    topics: list[TapeTopic]

    def __iter__(self) -> Iterator[TapeMessage]:
        """From the start, each time."""

    def close(self) -> None:
        """Free the files."""


class BagTape:
    """A bag as it was recorded; the bytes of ROS 2 messages go out as they are.

    Args:
        recording: the bag.
        only: topics to play; none named plays all but /clock, which the player makes itself.

    Raises:
        SourceError: a named topic is not there.
    """

    def __init__(self, recording: Recording, only: Collection[str] = ()) -> None:
        self._recording = recording
        missing = [name for name in only if name not in recording.topics]
        if missing:
            raise SourceError(f'no topic {", ".join(missing)}; the bag has {", ".join(sorted(recording.topics))}')
        self.topics = [
            TapeTopic(one.name, one.type, one.count, _is_latched(one.name, one.qos))
            for one in recording.topics.values()
            if (one.name in only if only else one.name != '/clock') and _can_convert(recording, one)
        ]

    def __iter__(self) -> Iterator[TapeMessage]:
        convert = (lambda data, _: bytes(data)) if self._recording.is_ros2 else _ros1_converter()
        for one in self._recording.messages([topic.name for topic in self.topics]):
            yield TapeMessage(one.topic, one.log_time_ns, convert(one.data, one.type))

    def close(self) -> None:
        self._recording.close()


class FrameTape:
    """A video or a folder of images as a camera: image_raw and, where it is calibrated, camera_info.

    Args:
        source: the frames; their stamps are the times.
        camera: prefix of the topics.
        count: play only so many frames from the start; 0 plays all.
    """

    def __init__(self, source: Source, camera: str = CAMERA, count: int = 0) -> None:
        from vggt_ros.encode import MessageMaker
        from vggt_ros.messages import ros_messages

        self._source = source
        self._count = min(count, len(source)) if count else len(source)
        self._make = MessageMaker(ros_messages())
        self.image_topic, self.camera_info_topic = f'{camera}/image_raw', f'{camera}/camera_info'
        self.topics = [
            TapeTopic(self.camera_info_topic, 'sensor_msgs/msg/CameraInfo', self._count),
            TapeTopic(self.image_topic, 'sensor_msgs/msg/Image', self._count),
        ]

    def __iter__(self) -> Iterator[TapeMessage]:
        for number, frame in enumerate(self._source):
            if number == self._count:
                return
            yield from self._messages(frame)

    def close(self) -> None:
        self._source.close()

    def _messages(self, frame: Frame) -> Iterator[TapeMessage]:
        stamp = frame.stamp_ns
        if frame.K is not None:
            info = self._make.camera_info(stamp, frame.frame_id, frame.size, frame.K)
            yield TapeMessage(self.camera_info_topic, stamp, info)
        yield TapeMessage(self.image_topic, stamp, self._make.image(stamp, frame.frame_id, 'rgb8', frame.image))


class Player:
    """Publishes a tape in its own time.

    Args:
        node: owns the publishers; it need not spin.
        tape: what to play.
        rate: seconds of the tape per second.
        clock_hz: /clock messages a second; 0 publishes none.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        node: Any,
        tape: Tape,
        *,
        rate: float = 1.0,
        clock_hz: float = 0.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._tape, self._rate, self._clock_hz, self._sleep = tape, rate, clock_hz, sleep
        self._publishers: dict[str, Any] = {}
        for topic in tape.topics:
            self._add(node, topic)
        if not self._publishers:
            raise SourceError('nothing to play: no topic has a type that is installed here')
        self._clock = _ClockPublisher(node) if clock_hz > 0 else None
        self._is_late = False

    def image_subscribers(self) -> int:
        """Subscribers of the images, the least of all image topics."""
        counts = [
            self._publishers[topic.name].get_subscription_count()
            for topic in self._tape.topics
            if topic.name in self._publishers and topic.type.endswith('Image')
        ]
        return min(counts, default=0)

    def play(self, progress: Callable[[TapeMessage], object] = lambda message: None) -> None:
        """Once from start to end; progress is called after each message."""
        start: float | None = None
        first_ns = 0
        for message in self._tape:
            if start is None:
                start, first_ns = time.monotonic(), message.time_ns
            due = start + (message.time_ns - first_ns) * 1e-9 / self._rate
            self._wait(due, start, first_ns)
            publisher = self._publishers.get(message.topic)
            if publisher is not None:
                publisher.publish(message.message)
            progress(message)

    def _add(self, node: Any, topic: TapeTopic) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

        from vggt_ros.messages import ros_messages

        try:
            kind = ros_messages()[topic.type]
        except (ImportError, AttributeError, ValueError):
            log.warning('%s is left out: its type %s is not installed here', topic.name, topic.type)
            return
        durability = DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE
        # Reliable whatever the recording says: it suits reliable and best-effort subscribers.
        qos = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE, durability=durability)
        self._publishers[topic.name] = node.create_publisher(kind, topic.name, qos)

    def _wait(self, due: float, start: float, first_ns: int) -> None:
        """Sleep until `due` on the steady clock, and let the tape's clock tick meanwhile."""
        while True:
            now = time.monotonic()
            if self._clock is not None:
                self._clock.tick(first_ns + round((min(now, due) - start) * self._rate * 1e9), 1 / self._clock_hz)
            left = due - now
            if left <= 0:
                break
            self._sleep(min(left, 1 / self._clock_hz) if self._clock is not None else left)
        if left < -LATE_S and not self._is_late:
            self._is_late = True
            log.warning('reading takes longer than the rate allows: the recording plays slower')


class _ClockPublisher:
    """/clock, at most so often."""

    def __init__(self, node: Any) -> None:
        from rosgraph_msgs.msg import Clock

        self._kind, self._last = Clock, 0.0
        self._publisher = node.create_publisher(Clock, '/clock', 1)

    def tick(self, time_ns: int, period_s: float) -> None:
        now = time.monotonic()
        if now - self._last < period_s:
            return
        self._last = now
        message = self._kind()
        message.clock.sec, message.clock.nanosec = divmod(time_ns, 1_000_000_000)
        self._publisher.publish(message)


def open_tape(path: Path | str, topics: Collection[str] = (), *, rate: float = 10.0, frame_id: str = '') -> Tape:
    """A bag as it is, or a video or folder of images as a camera.

    Args:
        path: what open_recording or open_source takes.
        topics: of a bag; none named plays all.
        rate: images a second of a folder that does not tell.
        frame_id: name of the optical frame, where the recording has none.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f'{path} does not exist')
    if is_bag(path):
        return BagTape(open_recording(path), topics)
    if topics:
        raise SourceError(f'{path} is no bag, so it has no topics to choose from')
    return FrameTape(open_source(path, rate=rate, frame_id=frame_id))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', metavar='SOURCE', help='rosbag2 folder, .mcap, .db3, .bag, video, or image folder')
    parser.add_argument('--rate', type=float, default=1.0, help='seconds of the recording per second (1)')
    parser.add_argument('--loop', action='store_true', help='start again at the end, until interrupted')
    parser.add_argument(
        '--clock', type=float, nargs='?', const=100.0, default=0.0, metavar='HZ',
        help='publish /clock, so many times a second (100), for nodes with use_sim_time',
    )  # fmt: skip
    parser.add_argument('--topics', nargs='+', default=[], metavar='TOPIC', help='play only these')
    parser.add_argument(
        '--wait', type=float, default=0.0, metavar='SECONDS', help='wait so long for somebody to take the images'
    )
    parser.add_argument('--quiet', action='store_true', help='no progress bar')


def main(args: argparse.Namespace) -> int:
    if args.rate <= 0 or args.clock < 0:
        raise SourceError(f'--rate must be above 0 and --clock at least 0, got {args.rate:g} and {args.clock:g}')
    tape = open_tape(args.source, args.topics)
    try:
        _play(tape, args)
    finally:
        tape.close()
    return 0


def _play(tape: Tape, args: argparse.Namespace) -> None:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from vggt_ros.dds import make_room_for_images

    make_room_for_images()
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is the command line's
    try:
        player = Player(rclpy.create_node('vggt_replay'), tape, rate=args.rate, clock_hz=args.clock)
        wait_for_subscriber(player, args.wait)
        total = sum(topic.count for topic in tape.topics)
        while True:
            with logging_redirect_tqdm(), tqdm(total=total, unit='msg', disable=args.quiet or None) as bar:
                player.play(lambda message: bar.update())
            if not args.loop:
                return
    finally:
        time.sleep(0.2)  # the last messages are still on their way out
        rclpy.try_shutdown()


def wait_for_subscriber(player: Player, seconds: float) -> None:
    """Until somebody takes the images, or so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if player.image_subscribers():
            time.sleep(0.5)  # DDS matches both ends one after the other, and tells about the near one only
            return
        time.sleep(0.05)
    if seconds > 0:
        log.warning('nobody took the images within %g s; playing all the same', seconds)


def _is_latched(name: str, offered: Collection[Any]) -> bool:
    """Static TF always: a node that starts after it was played could not place anything."""
    is_transient = any(str(getattr(getattr(qos, 'durability', ''), 'name', '')) == 'TRANSIENT_LOCAL' for qos in offered)
    return name == '/tf_static' or is_transient


def _can_convert(recording: Recording, topic: RecordedTopic) -> bool:
    if recording.is_ros2 or topic.type in bag_typestore().types:
        return True
    log.warning('%s is left out: its type %s is not known to ROS 2', topic.name, topic.type)
    return False


def _ros1_converter() -> Callable[[Any, str], bytes]:
    """ROS 1 bytes -> CDR, by the types of ROS 2: headers lose their sequence number, the rest keeps its layout."""
    store = bag_typestore()
    return lambda data, kind: bytes(store.ros1_to_cdr(data, kind))
