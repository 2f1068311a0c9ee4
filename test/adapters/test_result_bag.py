"""ResultBag: read back with mcap-ros2-support and with rosbags, whole and after a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from recordings import START_NS, coloured_image, image_message, placed_frame, read_mcap, update_of
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability

from vggt_ros.core.config import Config
from vggt_ros.core.errors import OutputError
from vggt_ros.core.geometry import BODY_FROM_OPTICAL
from vggt_ros.encode import Encoder
from vggt_ros.messages import bag_messages
from vggt_ros.results import result_bag
from vggt_ros.results.result_bag import ResultBag
from vggt_ros.topics import TOPIC, TOPICS, resolve

BIG = image_message(bag_messages(), np.zeros((600, 600, 3), np.uint8), 'rgb8')  # a megabyte


def fill(bag: ResultBag, windows: int = 2) -> list[str]:
    """All topics of some windows; returns the topics in the order written."""
    encoder = Encoder(Config(), bag_messages(), lambda: (np.ones((4, 3), np.float32), np.ones((4, 3), np.uint8)))
    written = []
    for i in range(windows):
        update = update_of(placed_frame(2 * i), placed_frame(2 * i + 1), index=i)
        for output in encoder.encode(update, BODY_FROM_OPTICAL):
            bag.write(*output)
            written.append(resolve(output.topic))
    return written


def test_an_independent_reader_sees_every_message_in_order(tmp_path: Path):
    with ResultBag(tmp_path / 'result.mcap') as bag:
        written = fill(bag)
    read = read_mcap(tmp_path / 'result.mcap')
    assert [message.topic for message in read] == written
    images = [message.fields for message in read if message.topic == '/vggt/rgb/image_rect_color']
    assert images[0].header.stamp.sec * 10**9 + images[0].header.stamp.nanosec == START_NS
    pixels = np.frombuffer(images[1].data, np.uint8).reshape(images[1].height, images[1].width, 3)
    np.testing.assert_array_equal(pixels, placed_frame(1).image)
    assert {message.log_time_ns for message in read} == {START_NS + i * 33_333_333 for i in range(4)}


@pytest.mark.parametrize('what', ['file', 'folder'])
def test_file_and_folder_are_both_bags_with_the_qos_of_the_table(tmp_path: Path, what: str):
    with ResultBag(tmp_path / 'result.mcap') as bag:
        written = fill(bag)
    path = tmp_path / 'result.mcap' if what == 'file' else tmp_path
    with AnyReader([path]) as reader:
        assert reader.message_count == len(written)
        assert {name: info.msgcount for name, info in reader.topics.items()} == {
            topic: written.count(topic) for topic in set(written)
        }
        for connection in reader.connections:
            (topic,) = [one for one in TOPICS if resolve(one.name) == connection.topic]
            (qos,) = connection.ext.offered_qos_profiles
            assert connection.msgtype == topic.type
            assert qos.reliability is QosReliability.RELIABLE
            assert qos.depth == topic.depth
            assert (qos.durability is QosDurability.TRANSIENT_LOCAL) == topic.latched
        for connection, _, data in reader.messages():
            reader.deserialize(data, connection.msgtype)


def test_bytes_that_are_serialised_already_pass_through(tmp_path: Path):
    with ResultBag(tmp_path / 'a.mcap') as bag:
        bag.write('~/rgb/image_rect_color', START_NS, image_message(bag_messages(), coloured_image(), 'rgb8'))
    with AnyReader([tmp_path / 'a.mcap']) as reader:
        (data,) = [data for _, _, data in reader.messages()]
    with ResultBag(tmp_path / 'b.mcap', node_name='/other') as bag:
        bag.add_topic('/extra', 'sensor_msgs/msg/Image')
        bag.write_cdr('/extra', START_NS, memoryview(data))
    (message,) = read_mcap(tmp_path / 'b.mcap')
    assert message.topic == '/extra'
    assert bytes(message.fields.data) == coloured_image().tobytes()


def test_an_empty_bag_is_still_a_bag(tmp_path: Path):
    ResultBag(tmp_path / 'result.mcap').close()
    assert read_mcap(tmp_path / 'result.mcap') == []


def test_nothing_is_left_beside_the_bag(tmp_path: Path):
    with ResultBag(tmp_path / 'result.mcap') as bag:
        fill(bag)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['metadata.yaml', 'result.mcap']


def write_a_hundred(bag: ResultBag) -> None:
    """A hundred messages of a megabyte."""
    for i in range(100):
        bag.write('~/rgb/image_rect_color', START_NS + i, BIG)


class Disk:
    """A disk with so many bytes left: files take from it, and so does what is reserved."""

    def __init__(self, size: int) -> None:
        self.size, self.reserved, self.written = size, 0, 0

    def allocate(self, descriptor: int, offset: int, length: int) -> None:
        if self.written + length > self.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.reserved = length

    def room(self) -> int:
        return max(self.size - self.written - self.reserved, 0)


class FileOnDisk:
    """A file of that disk: a write takes what there is room for, and fails when there is none."""

    def __init__(self, file, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data) -> int:
        part = data[: self._disk.room()]
        if data and not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._disk.written += len(part)
        return self._file.write(part)

    def __getattr__(self, name: str):
        return getattr(self._file, name)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """40 MB of disk under result.mcap."""
    disk = Disk(40 << 20)
    monkeypatch.setattr(os, 'posix_fallocate', disk.allocate, raising=False)
    plain = result_bag._Stream.__init__
    release = result_bag._Reserve.release

    def start(self, path, reserve):
        plain(self, path, reserve)
        self._file = FileOnDisk(self._file, disk)

    def give_back(self):
        disk.reserved = 0
        release(self)

    monkeypatch.setattr(result_bag._Stream, '__init__', start)
    monkeypatch.setattr(result_bag._Reserve, 'release', give_back)
    return disk


def test_a_full_disk_ends_the_file_properly_and_says_how_much_is_kept(tmp_path: Path, disk: Disk):
    bag = ResultBag(tmp_path / 'result.mcap')
    with pytest.raises(OutputError, match=r'No space left.*\d+ messages so far are kept') as caught:
        write_a_hundred(bag)
    bag.close()
    read = read_mcap(tmp_path / 'result.mcap')
    assert f'its {len(read)} messages' in str(caught.value)
    assert len(read) > 20
    assert [message.log_time_ns for message in read] == [START_NS + i for i in range(len(read))]
    with AnyReader([tmp_path / 'result.mcap']) as reader:
        assert reader.message_count == len(read)


def test_another_process_that_takes_the_room_does_not_break_the_file(tmp_path: Path, disk: Disk):
    bag = ResultBag(tmp_path / 'result.mcap')
    bag.write('~/rgb/image_rect_color', START_NS, BIG)
    disk.size = disk.written + disk.reserved  # all but our reserve is gone
    with pytest.raises(OutputError, match='No space left'):
        write_a_hundred(bag)
    assert len(read_mcap(tmp_path / 'result.mcap')) >= 1


def test_a_disk_that_is_full_from_the_start_is_said_at_once(tmp_path: Path, disk: Disk):
    disk.size = 1000
    with pytest.raises(OutputError, match='No space left'):
        ResultBag(tmp_path / 'result.mcap')


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(OutputError, match='nowhere'):
        ResultBag(tmp_path / 'nowhere' / 'result.mcap')


def test_every_topic_of_the_table_can_be_written(tmp_path: Path):
    with ResultBag(tmp_path / 'result.mcap') as bag:
        fill(bag, 1)
        assert set(bag.counts) == set(TOPIC) - {'/tf_static'}
