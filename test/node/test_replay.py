"""Recordings played into live topics: the same bytes, in their own time, with their clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robot import CAMERA_INFO, IMAGE, OPTICAL, Clip, Robot
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from vggt_ros.core.errors import SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.encode import MessageMaker
from vggt_ros.messages import bag_messages, bag_typestore
from vggt_ros.recorded.recording import open_recording
from vggt_ros.replay import BagTape, FrameTape, Player, TapeMessage, TapeTopic, open_tape

STEP_NS = 100_000_000
START_NS = 1_700_000_000_123_456_789


@pytest.fixture
def bag(clip: Clip, tmp_path: Path) -> Path:
    """Four images, ten a second, with calibration, static TF and a clock of their own."""
    make, store = MessageMaker(bag_messages()), bag_typestore()
    path = tmp_path / 'bag'
    with Writer2(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        kinds = {
            IMAGE: 'sensor_msgs/msg/Image',
            CAMERA_INFO: 'sensor_msgs/msg/CameraInfo',
            '/tf_static': 'tf2_msgs/msg/TFMessage',
            '/clock': 'rosgraph_msgs/msg/Clock',
        }
        connections = {name: writer.add_connection(name, kind, typestore=store) for name, kind in kinds.items()}

        def write(name: str, time_ns: int, message: Any) -> None:
            writer.write(connections[name], time_ns, store.serialize_cdr(message, kinds[name]))

        write('/tf_static', START_NS, make.tf([make.transform(START_NS, 'base_link', OPTICAL, np.eye(4))]))
        for i in range(4):
            stamp = START_NS + i * STEP_NS
            write('/clock', stamp, store.types['rosgraph_msgs/msg/Clock'](make.header(stamp, '').stamp))
            write(CAMERA_INFO, stamp, make.camera_info(stamp, OPTICAL, (480, 640), clip.K))
            write(IMAGE, stamp, make.image(stamp, OPTICAL, 'rgb8', clip.images[i]))
    return path


def stamps(messages: list[Any]) -> list[int]:
    return [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in messages]


def play(robot: Robot, tape: Any, **how: Any) -> float:
    """Play once; seconds it took."""
    player = Player(robot, tape, **how)
    robot.wait_until(lambda: player.image_subscribers(), 'subscriber')
    robot.wait_for_match()
    start = time.monotonic()
    player.play()
    return time.monotonic() - start


def test_a_bag_goes_out_as_it_was_recorded(robot: Robot, bag: Path, clip: Clip) -> None:
    robot.listen(Image, IMAGE)
    robot.listen(Image, IMAGE, key='best effort', reliable=False)
    robot.listen(CameraInfo, CAMERA_INFO)
    play(robot, open_tape(bag))
    expected = [START_NS + i * STEP_NS for i in range(4)]
    robot.wait_until(lambda: all(len(robot.received[t]) == 4 for t in (IMAGE, CAMERA_INFO, 'best effort')), 'messages')
    assert stamps(robot.received[IMAGE]) == stamps(robot.received[CAMERA_INFO]) == expected
    for message, image in zip(robot.received[IMAGE], clip.images, strict=False):
        assert (message.encoding, message.header.frame_id) == ('rgb8', OPTICAL)
        assert np.array_equal(np.frombuffer(message.data, np.uint8).reshape(480, 640, 3), image)
    for message in robot.received[CAMERA_INFO]:
        np.testing.assert_array_equal(np.reshape(message.k, (3, 3)), clip.K)
    robot.listen(TFMessage, '/tf_static', latched=True)  # who comes late still gets static TF
    robot.wait_until(lambda: robot.received['/tf_static'], 'static TF')


def test_rate_and_clock_are_those_asked_for(robot: Robot, bag: Path) -> None:
    robot.listen(Image, IMAGE)
    robot.listen(Clock, '/clock', reliable=False)
    seconds = play(robot, open_tape(bag), rate=0.5, clock_hz=50)
    assert seconds == pytest.approx(0.6, abs=0.25)  # 0.3 s of recording at half speed; the machine may be slow
    robot.wait_until(lambda: len(robot.received['/clock']) > 10, 'clock')
    times = [m.clock.sec * 10**9 + m.clock.nanosec for m in robot.received['/clock']]
    assert times == sorted(times)
    assert times[0] >= START_NS
    assert times[-1] <= START_NS + 3 * STEP_NS + 1


def test_only_the_topics_asked_for_are_played(robot: Robot, bag: Path) -> None:
    tape = open_tape(bag, [IMAGE])
    assert [topic.name for topic in tape.topics] == [IMAGE]
    with pytest.raises(SourceError, match='/camera/other'):
        open_tape(bag, ['/camera/other'])
    assert '/clock' not in {topic.name for topic in open_tape(bag).topics}  # the player makes its own


def test_a_bag_of_ros_1_is_converted(robot: Robot, clip: Clip, tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    kinds = store.types
    header = kinds['std_msgs/msg/Header'](
        seq=7, stamp=kinds['builtin_interfaces/msg/Time'](sec=12, nanosec=345), frame_id=OPTICAL
    )
    image = kinds['sensor_msgs/msg/Image'](
        header=header,
        height=480,
        width=640,
        encoding='rgb8',
        is_bigendian=0,
        step=1920,
        data=clip.images[0].reshape(-1),
    )
    path = tmp_path / 'old.bag'
    with Writer1(path) as writer:
        connection = writer.add_connection(IMAGE, 'sensor_msgs/msg/Image', typestore=store)
        writer.write(connection, 12_000_000_345, store.serialize_ros1(image, 'sensor_msgs/msg/Image'))
    robot.listen(Image, IMAGE)
    play(robot, open_tape(path))
    robot.wait_until(lambda: robot.received[IMAGE], 'image')
    (message,) = robot.received[IMAGE]
    assert stamps([message]) == [12_000_000_345]
    assert message.header.frame_id == OPTICAL
    assert np.array_equal(np.frombuffer(message.data, np.uint8).reshape(480, 640, 3), clip.images[0])


class TwoFrames:
    """A source without calibration for its second frame."""

    path, skipped = Path('two'), 0

    def __init__(self, clip: Clip) -> None:
        self._frames = [Frame(START_NS, clip.images[0], OPTICAL, clip.K), Frame(START_NS + 1, clip.images[1], OPTICAL)]

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)

    def close(self) -> None:
        pass


def test_frames_become_a_camera(clip: Clip) -> None:
    messages = list(FrameTape(TwoFrames(clip)))  # type: ignore[arg-type]
    assert [message.topic for message in messages] == [CAMERA_INFO, IMAGE, IMAGE]
    info, image, _ = (message.message for message in messages)
    np.testing.assert_array_equal(np.reshape(info.k, (3, 3)), clip.K)
    assert np.array_equal(np.frombuffer(image.data, np.uint8).reshape(480, 640, 3), clip.images[0])
    assert stamps([image]) == [START_NS]
    assert len(list(FrameTape(TwoFrames(clip), count=1))) == 2  # type: ignore[arg-type]


class Tape:
    def __init__(self, topics: list[TapeTopic], messages: list[TapeMessage]) -> None:
        self.topics, self._messages = topics, messages

    def __iter__(self) -> Iterator[TapeMessage]:
        return iter(self._messages)

    def close(self) -> None:
        pass


def test_types_that_are_not_installed_are_left_out_by_name(robot: Robot, caplog: pytest.LogCaptureFixture) -> None:
    good, odd = TapeTopic(IMAGE, 'sensor_msgs/msg/Image', 1), TapeTopic('/odd', 'nobody_msgs/msg/Nothing', 1)
    player = Player(robot, Tape([good, odd], [TapeMessage('/odd', 0, b''), TapeMessage(IMAGE, 0, Image())]))
    assert '/odd is left out' in caplog.text
    player.play()  # passes over it
    with pytest.raises(SourceError, match='nothing to play'):
        Player(robot, Tape([odd], []))


def test_a_tape_of_a_bag_can_be_played_again(bag: Path) -> None:
    tape = BagTape(open_recording(bag), [IMAGE])
    first: Callable[[], list[int]] = lambda: [message.time_ns for message in tape]  # noqa: E731
    assert first() == first() == [START_NS + i * STEP_NS for i in range(4)]
