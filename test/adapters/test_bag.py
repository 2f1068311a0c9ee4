"""Bags -> frames: formats, choice of topic, broken files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import (
    FRAME_NS,
    START_NS,
    camera_bag,
    coloured_image,
    compressed_message,
    image_message,
    info_message,
    write_bag,
)
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores, get_typestore

from vggt_ros.core.errors import EncodingError, SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.encode import MessageMaker
from vggt_ros.messages import bag_messages
from vggt_ros.recorded.bag import BagSource
from vggt_ros.recorded.recording import open_recording
from vggt_ros.recorded.source import open_source
from vggt_ros.results.result_bag import ResultBag

TYPES = bag_messages()
IMAGE, INFO = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CameraInfo'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])


def image(i: int = 0, encoding: str = 'rgb8', pixels: np.ndarray | None = None):
    pixels = coloured_image() if pixels is None else pixels
    return image_message(TYPES, pixels, encoding, stamp_ns=START_NS + i * FRAME_NS)


def info(i: int = 0, scale: float = 1.0):
    return info_message(TYPES, K * [[scale], [scale], [1]], (48, 64), stamp_ns=START_NS + i * FRAME_NS)


@pytest.mark.parametrize('storage', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize('what', ['folder', 'file'])
def test_rosbag2_gives_its_frames(tmp_path: Path, storage: StoragePlugin, what: str):
    bag = camera_bag(tmp_path / 'bag', 3, storage=storage)
    path = bag if what == 'folder' else next(file for file in bag.iterdir() if file.suffix in ('.mcap', '.db3'))
    source = open_source(path)
    frames = list(source)
    assert [frame.stamp_ns for frame in frames] == [START_NS + i * FRAME_NS for i in range(3)]
    assert len(source) == 3
    assert frames[0].frame_id == 'camera'
    np.testing.assert_array_equal(frames[2].image, coloured_image())
    np.testing.assert_array_equal(frames[2].K, K)
    source.close()


def test_a_folder_without_metadata_is_read_by_its_files(tmp_path: Path):
    bag = camera_bag(tmp_path / 'bag', 3)
    (bag / 'metadata.yaml').unlink()
    assert len(list(open_source(bag))) == 3


def test_rosbag1_gives_its_frames(tmp_path: Path):
    """ROS 1 spells CameraInfo in capitals, and its time in nsecs."""
    store = get_typestore(Stores.ROS1_NOETIC)
    time = store.types['builtin_interfaces/msg/Time'](sec=START_NS // 10**9, nanosec=START_NS % 10**9)
    header = store.types['std_msgs/msg/Header'](seq=0, stamp=time, frame_id='/camera')
    roi = store.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    new = info()
    messages = {
        ('/cam/camera_info', INFO): store.types[INFO](
            header, 48, 64, 'plumb_bob', np.zeros(5), new.k, new.r, new.p, 0, 0, roi
        ),
        ('/cam/image_raw', IMAGE): store.types[IMAGE](header, 48, 64, 'rgb8', 0, 192, coloured_image().reshape(-1)),
    }
    with Writer1(tmp_path / 'old.bag') as writer:
        for (topic, kind), message in messages.items():
            connection = writer.add_connection(topic, kind, typestore=store)
            writer.write(connection, START_NS, store.serialize_ros1(message, kind))
    (frame,) = open_source(tmp_path / 'old.bag')
    assert frame.stamp_ns == START_NS
    assert frame.frame_id == 'camera'
    np.testing.assert_array_equal(frame.image, coloured_image())
    np.testing.assert_array_equal(frame.K, K)


def test_compressed_images_are_found_with_the_camera_info_of_their_camera(tmp_path: Path):
    data = cv2.imencode('.png', coloured_image()[..., ::-1])[1].tobytes()
    entries = [
        ('/cam/camera_info', INFO, START_NS, info()),
        ('/cam/image_raw/compressed', COMPRESSED, START_NS, compressed_message(TYPES, data, 'png')),
    ]
    (frame,) = open_source(write_bag(tmp_path / 'bag', entries))
    np.testing.assert_array_equal(frame.image, coloured_image())
    np.testing.assert_array_equal(frame.K, K)


def test_depth_beside_colour_does_not_make_it_ambiguous(tmp_path: Path):
    depth = np.ones((48, 64), np.uint16)
    entries = [
        ('/cam/depth/image_raw', IMAGE, START_NS, image(0, '16UC1', depth)),
        ('/cam/image_raw', IMAGE, START_NS, image()),
        ('/cam/image_raw/compressed', COMPRESSED, START_NS, compressed_message(TYPES, b'x')),
    ]
    assert BagSource(write_bag(tmp_path / 'bag', entries)).topic == '/cam/image_raw'


def two_cameras(path: Path) -> Path:
    return write_bag(path, [(f'/{side}/image_raw', IMAGE, START_NS, image()) for side in ('left', 'right')])


def test_several_cameras_are_listed_and_one_can_be_named(tmp_path: Path):
    bag = two_cameras(tmp_path / 'bag')
    with pytest.raises(SourceError, match=r'(?s)--topic.*/left/image_raw.*/right/image_raw'):
        open_source(bag)
    assert BagSource(bag, '/right/image_raw').topic == '/right/image_raw'


def test_a_topic_that_is_not_there_or_holds_no_images_is_refused_with_a_list(tmp_path: Path):
    bag = camera_bag(tmp_path / 'bag', 1)
    with pytest.raises(SourceError, match=r'(?s)no topic /camera/color.*/camera/image_raw'):
        open_source(bag, '/camera/color')
    with pytest.raises(SourceError, match=r'(?s)holds sensor_msgs/msg/CameraInfo, not images.*/camera/image_raw'):
        open_source(bag, '/camera/camera_info')


def test_a_bag_without_images_says_what_it_has(tmp_path: Path):
    with pytest.raises(SourceError, match=r'(?s)no image topic.*/cam/camera_info'):
        open_source(write_bag(tmp_path / 'bag', [('/cam/camera_info', INFO, START_NS, info())]))


def test_a_bag_with_depth_only_says_so(tmp_path: Path):
    depth = np.ones((48, 64), np.float32)
    with pytest.raises(SourceError, match='depth images only'):
        open_source(write_bag(tmp_path / 'bag', [('/cam/depth', IMAGE, START_NS, image(0, '32FC1', depth))]))


def test_without_camera_info_frames_are_uncalibrated_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (frame,) = open_source(write_bag(tmp_path / 'bag', [('/cam/image_raw', IMAGE, START_NS, image())]))
    assert frame.K is None
    assert 'no CameraInfo on /cam/camera_info' in caplog.text


def test_another_camera_info_topic_can_be_named(tmp_path: Path):
    entries = [('/cam/image_raw', IMAGE, START_NS, image()), ('/calibration', INFO, START_NS, info())]
    bag = write_bag(tmp_path / 'bag', entries)
    (frame,) = open_source(bag, camera_info_topic='/calibration')
    np.testing.assert_array_equal(frame.K, K)
    with pytest.raises(SourceError, match='no CameraInfo on /nothing'):
        open_source(bag, camera_info_topic='/nothing')


def test_images_that_come_before_their_first_camera_info_wait_for_it(tmp_path: Path):
    entries = [('/cam/image_raw', IMAGE, START_NS + i, image(i)) for i in range(3)]
    entries += [('/cam/camera_info', INFO, START_NS + 3, info(0)), ('/cam/image_raw', IMAGE, START_NS + 4, image(4))]
    frames = list(open_source(write_bag(tmp_path / 'bag', entries)))
    assert [frame.stamp_ns for frame in frames] == [START_NS + i * FRAME_NS for i in (0, 1, 2, 4)]
    assert all(frame.K is not None for frame in frames)


def test_a_calibration_that_changes_is_followed(tmp_path: Path):
    entries = []
    for i, scale in enumerate((1.0, 2.0)):
        entries += [('/cam/camera_info', INFO, START_NS + i, info(i, scale))]
        entries += [('/cam/image_raw', IMAGE, START_NS + i, image(i))]
    assert [frame.K[0, 0] for frame in open_source(write_bag(tmp_path / 'bag', entries))] == [60, 120]


def test_lens_distortion_is_taken_out_or_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    P = K * [[0.8], [0.8], [1]]
    distorted = info_message(TYPES, K, (48, 64), P=P, d=(0.1, 0, 0, 0, 0))
    for name, rectify, focal in (('image_raw', True, 48), ('image_raw', False, 60), ('image_rect_color', True, 48)):
        caplog.clear()
        entries = [('/cam/camera_info', INFO, START_NS, distorted), (f'/cam/{name}', IMAGE, START_NS, image())]
        (frame,) = open_source(write_bag(tmp_path / f'{name}{rectify}', entries), rectify=rectify)
        assert frame.K[0, 0] == pytest.approx(focal)  # that of P where the image is rectified
        assert np.array_equal(frame.image, coloured_image()) != (name == 'image_raw' and rectify)
        assert ('distortion' in caplog.text) != rectify


def with_a_bad_image(path: Path) -> Path:
    entries = [('/cam/image_raw', IMAGE, START_NS + i, image(i)) for i in range(4)]
    entries[2][3].encoding = 'hologram'
    return write_bag(path, entries)


def test_a_bad_image_stops_the_source_and_names_the_way_out(tmp_path: Path):
    frames = iter(open_source(with_a_bad_image(tmp_path / 'bag')))
    next(frames)
    next(frames)
    with pytest.raises(EncodingError, match=r"/cam/image_raw.*'hologram'.*--skip-bad"):
        next(frames)


def test_a_bad_image_is_skipped_and_counted_when_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    source = open_source(with_a_bad_image(tmp_path / 'bag'), skip_bad=True)
    assert [frame.stamp_ns for frame in source] == [START_NS + i * FRAME_NS for i in (0, 1, 3)]
    assert source.skipped == 1
    assert 'hologram' in caplog.text


def bag_of_large_images(path: Path, count: int) -> tuple[Path, np.ndarray]:
    """Images of a megabyte each: the file has many chunks."""
    pixels = np.full((600, 600, 3), 7, np.uint8)
    entries = [('/cam/image_raw', IMAGE, START_NS + i, image(i, pixels=pixels)) for i in range(count)]
    return write_bag(path, entries), pixels


@pytest.mark.parametrize('share', [0.35, 0.6, 0.95])
def test_a_truncated_mcap_gives_the_frames_that_are_whole(
    tmp_path: Path, share: float, caplog: pytest.LogCaptureFixture
):
    pixels = np.full((600, 600, 3), 7, np.uint8)
    bag = write_bag(
        tmp_path / 'bag', [('/cam/image_raw', IMAGE, START_NS + i, image(i, pixels=pixels)) for i in range(12)]
    )
    (file,) = bag.glob('*.mcap')
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    for path in (file, bag):
        source = open_source(path)
        frames = list(source)
        assert len(frames) == len(source)
        assert abs(len(frames) - 12 * share) <= 1.5  # the chunk that was cut is lost
        np.testing.assert_array_equal(frames[-1].image, pixels)
        assert 'truncated' in caplog.text


def test_a_recording_that_says_nothing_readable_is_refused(tmp_path: Path):
    bag = camera_bag(tmp_path / 'bag', 2)
    (file,) = bag.glob('*.mcap')
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(SourceError, match='no whole message'):
        open_source(bag)


@pytest.mark.parametrize('name', ['broken.mcap', 'broken.db3', 'broken.bag'])
@pytest.mark.parametrize('content', [b'', b'not a bag at all, whatever its name says' * 10])
def test_a_file_that_is_no_bag_is_refused_by_name_with_what_may_mend_it(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=rf'{name} cannot be read.*mend it: (mcap recover|sqlite3|rosbag reindex)'):
        open_source(tmp_path / name)


def test_a_truncated_database_is_refused(tmp_path: Path):
    """SQLite keeps its index in the file's own pages: without all of them it gives nothing."""
    bag = camera_bag(tmp_path / 'bag', 6, storage=StoragePlugin.SQLITE3)
    (file,) = bag.glob('*.db3')
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(SourceError, match=r'malformed.*mend it: sqlite3'):
        open_source(bag)


def test_a_damaged_middle_gives_what_comes_before_and_then_an_error(tmp_path: Path):
    """One byte of a pixel is enough: the chunks have checksums."""
    pixels = np.full((600, 600, 3), 7, np.uint8)
    with ResultBag(tmp_path / 'bag.mcap') as bag:
        bag.add_topic('/cam/image_raw', IMAGE)
        for i in range(9):
            bag.write('/cam/image_raw', START_NS + i, image(i, pixels=pixels))
    data = bytearray((tmp_path / 'bag.mcap').read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / 'bag.mcap').write_bytes(data)
    seen, frames = [], iter(open_source(tmp_path / 'bag.mcap'))
    with pytest.raises(SourceError, match=r'bag\.mcap breaks off.*checksum'):
        collect(frames, seen)
    assert len(seen) == 4


def collect(frames: Iterator[Frame], seen: list[Frame]) -> None:
    for frame in frames:
        seen.append(frame)


def test_a_missing_bag_is_named(tmp_path: Path):
    with pytest.raises(SourceError, match=r'nothing\.mcap does not exist'):
        open_source(tmp_path / 'nothing.mcap')


def test_the_mount_is_read_from_static_tf(tmp_path: Path):
    make, pose = MessageMaker(TYPES), np.eye(4)
    pose[:3, 3] = 0.1, 0.2, 0.3
    tf = make.tf([make.transform(START_NS, 'base_link', 'camera', pose)])
    entries = [('/tf_static', 'tf2_msgs/msg/TFMessage', START_NS, tf), ('/cam/image_raw', IMAGE, START_NS, image())]
    source = open_source(write_bag(tmp_path / 'bag', entries))
    np.testing.assert_allclose(source.static_transforms().find('base_link', 'camera'), pose)


def test_a_recording_gives_its_bytes_untouched(tmp_path: Path):
    recording = open_recording(camera_bag(tmp_path / 'bag', 2))
    store = get_typestore(Stores.ROS2_HUMBLE)
    (first, second) = recording.messages(['/camera/image_raw'])
    assert store.deserialize_cdr(first.data, first.type).header.stamp.nanosec == START_NS % 10**9
    assert second.log_time_ns == START_NS + FRAME_NS
    assert recording.is_ros2
    assert {topic.name: topic.count for topic in recording.topics.values()} == {
        '/camera/image_raw': 2,
        '/camera/camera_info': 2,
    }
    recording.close()


@pytest.mark.parametrize('encoding', ['raw', 'jpeg'])
@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_bags_of_real_frames_agree_with_the_folder_they_come_from(
    shared_bag: Callable[..., Path], sequence: Callable[[str], Path], encoding: str, storage: str
):
    bag = shared_bag('redwood_micro', '--encoding', encoding, '--storage', storage)
    ours, folder = list(open_source(bag)), list(open_source(sequence('redwood_micro')))
    assert len(ours) == len(folder) == 5
    for one, other in zip(ours, folder, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_allclose(one.K, other.K)


def test_logging_stays_below_our_name(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    open_source(two_cameras(tmp_path / 'bag'), '/left/image_raw')
    assert {record.name.split('.')[0] for record in caplog.records} == {'vggt_ros'}


@pytest.mark.parametrize('text', [b'\xff', b'uint8 [', b'string name\nnonsense/Type x'], ids=['bytes', 'torn', 'type'])
def test_a_torn_mcap_with_a_schema_that_is_none_gives_its_other_topics(tmp_path: Path, text: bytes):
    from mcap.writer import Writer

    path, store, image = tmp_path / 'torn.mcap', get_typestore(Stores.ROS2_HUMBLE), 'sensor_msgs/msg/Image'
    message = image_message(bag_messages(), coloured_image(), 'rgb8')
    with path.open('wb') as file:
        writer = Writer(file, use_chunking=False)
        writer.start(profile='ros2')
        broken = writer.register_schema('nonsense/msg/Broken', 'ros2msg', text)
        good = writer.register_schema(image, 'ros2msg', store.generate_msgdef(image)[0].encode())
        for topic, schema in (('/broken', broken), ('/image', good)):
            data = bytes(store.serialize_cdr(message, image))
            writer.add_message(writer.register_channel(topic, 'cdr', schema), START_NS, data, START_NS)
    (frame,) = BagSource(path)
    np.testing.assert_array_equal(frame.image, coloured_image())


@pytest.mark.parametrize('place', [9, 17])
def test_an_mcap_that_claims_exabytes_is_refused(tmp_path: Path, place: int):
    (path,) = camera_bag(tmp_path / 'bag', 1).glob('*.mcap')
    data = bytearray(path.read_bytes())
    data[place : place + 8] = (2**62).to_bytes(8, 'little')
    (tmp_path / 'claims.mcap').write_bytes(data)
    with pytest.raises(SourceError, match=r'claims\.mcap'):
        open_source(tmp_path / 'claims.mcap')
