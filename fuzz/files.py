"""Targets: readers of recordings and results. A valid file is damaged, or its words are replaced."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from fuzz.draw import WORDS, Draw
from fuzz.messages import HEIGHT, PICTURE, PICTURES, STAMP_NS, WIDTH, require_finite, require_frame
from vggt_ros.core.config import Config
from vggt_ros.messages import bag_messages, bag_typestore
from vggt_ros.recorded.masks import masks_of
from vggt_ros.recorded.sensors import open_sensors
from vggt_ros.recorded.source import open_source
from vggt_ros.results import evaluate
from vggt_ros.results.depth_error import DepthFolder, measure_depth
from vggt_ros.results.tum import read_tum

MOST = 40  # frames of a source that are looked at
IMAGE, INFO = '/camera/image_raw', '/camera/camera_info'
POSES = '# stamp tx ty tz qx qy qz qw\n' + '\n'.join(f'{100 + i}.25 {i} 0 {i * i} 0 0 0.6 0.8' for i in range(6))
CAMERA = {
    'width': WIDTH, 'height': HEIGHT, 'fx': 10.0, 'fy': 10.0, 'cx': 3.5, 'cy': 2.5, 'depth_scale': 1000,
    'distortion_model': 'plumb_bob', 'distortion': [0.0, 0.0, 0.0, 0.0, 0.0],
}  # fmt: skip


def bag(draw: Draw) -> None:
    """A damaged bag of each kind -> frames and fixed transforms."""
    with scratch() as folder:
        read(_place_bag(draw, folder), draw, draw.mostly(IMAGE, ('', '/depth/image_rect', '/odom', '/nothing')))


def bag_sensors(draw: Draw) -> None:
    """A damaged bag of each kind -> what other sensors said, and masks."""
    source = draw.choice(('odometry', 'tf', 'depth', 'lidar', 'none'))
    values = {'scale_source': source, 'publish_odom_to_base_tf': False, 'gravity_source': 'imu', 'mask_mode': 'latest'}
    config = Config().with_values(values)
    with scratch() as folder:
        path = _place_bag(draw, folder)
        sensors = open_sensors(path, config)
        try:
            sensors.read_to(STAMP_NS + 10**10)
            require_finite(sensors.evidence.odom_from_cam('camera', STAMP_NS))
            require_finite(sensors.evidence.points_in('camera', STAMP_NS))
        finally:
            sensors.close()
        masks_of(path, config, '/mask')


def video(draw: Draw) -> None:
    """A damaged video -> frames."""
    name = draw.choice(('v.avi', 'v.mp4', 'v.mkv'))
    with scratch() as folder:
        (folder / name).write_bytes(draw.damaged(_videos()[name]))
        read(folder / name, draw)


def image_folder(draw: Draw) -> None:
    """A folder with strange names, lists, calibrations and pictures -> frames."""
    with scratch() as folder:
        for i in range(1 + draw.below(3)):
            name = draw.choice((f'{i:04}.png', f'{STAMP_NS + i}.jpg', f'17000000{i}.25.png', f'a{i}.webp'))
            _write(folder, draw.word(name), draw.damaged(draw.choice(PICTURES)))
        if draw.flag():
            text = draw.text('# s f\n1.5 0000.png\n2.5 a0.webp')
            _write(folder, draw.choice(('frames.txt', 'rgb.txt')), _encode(draw, text))
        if draw.flag():
            _write(folder, 'camera.json', _encode(draw, _json(draw, CAMERA)))
        read(folder, draw)


def depth_folder(draw: Draw) -> None:
    """A folder of depth images -> depth, and the error of a result against it."""
    with scratch() as folder:
        picture = draw.mostly(PICTURES[3], PICTURES)
        _write(folder, 'd.png', draw.damaged(picture))
        lines = f'# s f d\n{STAMP_NS / 1e9:.9f} i.png d.png\n2.5 i.png d.png'
        _write(folder, 'frames.txt', _encode(draw, draw.text(lines)))
        _write(folder, 'camera.json', _encode(draw, _json(draw, CAMERA)))
        depths = DepthFolder(folder)
        K = np.array([[10.0, 0, 3.5], [0, 10.0, 2.5], [0, 0, 1]])
        depths.sample(STAMP_NS, 10**9, K, (HEIGHT, WIDTH))
        for _ in itertools.islice(depths, MOST):
            pass
        if draw.flag():
            measure_depth(_place_bag(draw, folder), depths, 10**9, 1.0)


def trajectory(draw: Draw) -> None:
    """A trajectory in the TUM format -> poses."""
    with scratch() as folder:
        _write(folder, 't.txt', _encode(draw, draw.text(POSES)))
        require_finite(read_tum(folder / 't.txt').world_from_cam)


def evaluation(draw: Draw) -> None:
    """Two trajectories and a summary -> the figures of `vggt_ros evaluate`."""
    with scratch() as folder:
        _write(folder, 'reference.txt', _encode(draw, draw.text(POSES)))
        _write(folder, 'trajectory_tum.txt', _encode(draw, draw.text(POSES)))
        summary = {'seams': [{'stamp_ns': 101 * 10**9}, {'stamp_ns': 1}]}
        _write(folder, 'summary.json', _encode(draw, _json(draw, summary)))
        arguments = SimpleNamespace(
            result=str(folder), reference=str(folder / 'reference.txt'), depth=None, json=str(folder / 'out.json'),
            plot=None, tolerance=draw.number(0.01), way=draw.number(1.0),
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            evaluate.main(arguments)  # type: ignore[arg-type]
        json.loads((folder / 'out.json').read_text(), parse_constant=lambda word: word / 0)  # JSON has no NaN


def read(path: Path, draw: Draw, topic: str = '') -> None:
    source = open_source(path, topic, skip_bad=draw.flag(), rectify=draw.flag())
    try:
        len(source)
        for frame in itertools.islice(source, MOST):
            require_frame(frame, None)
        source.static_transforms().find('base_link', 'camera')
    finally:
        source.close()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is such a disk, gone afterwards."""
    place = '/dev/shm' if Path('/dev/shm').is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix='fuzz_', dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, name: str, data: bytes) -> None:
    """Where the file system takes such a name."""
    with contextlib.suppress(OSError, ValueError):
        if Path(name).name == name:
            (folder / name).write_bytes(data)


def _encode(draw: Draw, text: str) -> bytes:
    data = text.encode('utf-8', 'surrogatepass')
    return draw.damaged(data) if draw.byte() & 3 == 3 else data


def _json(draw: Draw, valid: object) -> str:
    text = json.dumps(draw.value(valid))
    return draw.mostly(text, ('[' * 100_000, '{"a":' * 3000, '', '9' * 5000, '1e999', '"\\ud800"', WORDS[9]))


def _place_bag(draw: Draw, folder: Path) -> Path:
    """A damaged bag as a file, or as a folder with its metadata."""
    name = draw.choice(list(_bags()))
    data = draw.damaged(_bags()[name])
    if draw.byte() & 3 != 3 or name.endswith('.bag'):
        path = folder / ('bag' + Path(name).suffix)
        path.write_bytes(data)
        return path
    (folder / 'bag').mkdir()
    (folder / 'bag' / name).write_bytes(data)
    if draw.flag():
        _write(folder / 'bag', 'metadata.yaml', _encode(draw, draw.text(_metadata(name))))
    return folder / 'bag'


@functools.cache
def _bags() -> dict[str, bytes]:
    """Small whole bags: sqlite3, rosbag1, and MCAP with and without compression."""
    with scratch() as folder:
        return {
            'plain.mcap': _mcap(folder, 'NONE'),
            'zstd.mcap': _mcap(folder, 'ZSTD'),
            'lz4.mcap': _mcap(folder, 'LZ4'),
            'one.db3': _sqlite(folder),
            'one.bag': _rosbag1(folder),
        }


@functools.cache
def _messages() -> list[tuple[str, str, Any]]:
    types = bag_messages()
    time = types['builtin_interfaces/msg/Time'](sec=STAMP_NS // 10**9, nanosec=STAMP_NS % 10**9)
    header = types['std_msgs/msg/Header'](stamp=time, frame_id='camera')
    vector, point = types['geometry_msgs/msg/Vector3'], types['geometry_msgs/msg/Point']
    turn = types['geometry_msgs/msg/Quaternion'](x=0.0, y=0.0, z=0.6, w=0.8)
    roi = types['sensor_msgs/msg/RegionOfInterest'](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    K = np.array([10.0, 0, 3.5, 0, 10, 2.5, 0, 0, 1])
    info = types['sensor_msgs/msg/CameraInfo'](
        header=header, height=HEIGHT, width=WIDTH, distortion_model='plumb_bob', d=np.array([0.01, 0, 0, 0, 0]),
        k=K, r=np.eye(3).reshape(9), p=np.insert(K, [3, 6, 9], 0.0), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip
    edge = types['geometry_msgs/msg/Transform'](translation=vector(x=0.1, y=0.0, z=0.5), rotation=turn)
    transform = types['geometry_msgs/msg/TransformStamped']
    tf = types['tf2_msgs/msg/TFMessage']
    pose = types['geometry_msgs/msg/Pose'](position=point(x=1.0, y=0.0, z=0.0), orientation=turn)
    still = types['geometry_msgs/msg/Twist'](linear=vector(x=0.0, y=0.0, z=0.0), angular=vector(x=0.0, y=0.0, z=0.0))
    zeros = np.zeros(36)
    field = types['sensor_msgs/msg/PointField']
    image = types['sensor_msgs/msg/Image']

    def image_of(encoding: str, pixels: np.ndarray) -> Any:
        data = pixels.reshape(-1).view(np.uint8)
        return image(
            header=header, height=HEIGHT, width=WIDTH, encoding=encoding, is_bigendian=0,
            step=data.size // HEIGHT, data=data,
        )  # fmt: skip

    return [
        ('/tf_static', 'tf2_msgs/msg/TFMessage', tf([transform(header, 'base_link', edge)])),
        ('/tf', 'tf2_msgs/msg/TFMessage', tf([transform(header, 'odom', edge)])),
        (INFO, 'sensor_msgs/msg/CameraInfo', info),
        (IMAGE, 'sensor_msgs/msg/Image', image_of('rgb8', PICTURE)),
        ('/depth/camera_info', 'sensor_msgs/msg/CameraInfo', info),
        ('/depth/image_rect', 'sensor_msgs/msg/Image', image_of('32FC1', np.ones((HEIGHT, WIDTH), '<f4'))),
        ('/mask', 'sensor_msgs/msg/Image', image_of('mono8', PICTURE[..., 0].copy())),
        (
            '/odom',
            'nav_msgs/msg/Odometry',
            types['nav_msgs/msg/Odometry'](
                header=header, child_frame_id='base_link',
                pose=types['geometry_msgs/msg/PoseWithCovariance'](pose=pose, covariance=zeros),
                twist=types['geometry_msgs/msg/TwistWithCovariance'](twist=still, covariance=zeros),
            ),
        ),
        (
            '/imu',
            'sensor_msgs/msg/Imu',
            types['sensor_msgs/msg/Imu'](
                header=header, orientation=turn, orientation_covariance=np.zeros(9),
                angular_velocity=vector(x=0.0, y=0.0, z=0.0), angular_velocity_covariance=np.zeros(9),
                linear_acceleration=vector(x=0.0, y=0.0, z=9.8), linear_acceleration_covariance=np.zeros(9),
            ),
        ),
        (
            '/points',
            'sensor_msgs/msg/PointCloud2',
            types['sensor_msgs/msg/PointCloud2'](
                header=header, height=1, width=2, fields=[field(name, 4 * i, 7, 1) for i, name in enumerate('xyz')],
                is_bigendian=False, point_step=12, row_step=24, data=np.ones(6, '<f4').view(np.uint8), is_dense=True,
            ),
        ),
    ]  # fmt: skip


def _mcap(folder: Path, compression: str) -> bytes:
    from mcap.writer import CompressionType, Writer

    store, out = bag_typestore(), io.BytesIO()
    writer = Writer(out, chunk_size=1500, compression=CompressionType[compression])
    writer.start(profile='ros2')
    for i, (topic, kind, message) in enumerate(_messages()):
        text, _ = store.generate_msgdef(kind, ros_version=2)
        schema = writer.register_schema(kind, 'ros2msg', text.encode())
        channel = writer.register_channel(topic, 'cdr', schema, {'offered_qos_profiles': ''})
        data = bytes(store.serialize_cdr(message, kind))
        for k in range(2):
            writer.add_message(channel, STAMP_NS + i + 50 * k, data, STAMP_NS + i + 50 * k)
    writer.finish()
    return out.getvalue()


def _sqlite(folder: Path) -> bytes:
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = bag_typestore()
    with Writer(folder / 'db3', version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        for i, (topic, kind, message) in enumerate(_messages()):
            connection = writer.add_connection(topic, kind, typestore=store)
            writer.write(connection, STAMP_NS + i, store.serialize_cdr(message, kind))
    return next((folder / 'db3').glob('*.db3')).read_bytes()


def _rosbag1(folder: Path) -> bytes:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    kinds = store.types
    time = kinds['builtin_interfaces/msg/Time'](sec=STAMP_NS // 10**9, nanosec=STAMP_NS % 10**9)
    image = kinds['sensor_msgs/msg/Image'](
        header=kinds['std_msgs/msg/Header'](seq=0, stamp=time, frame_id='camera'), height=HEIGHT, width=WIDTH,
        encoding='rgb8', is_bigendian=0, step=3 * WIDTH, data=PICTURE.reshape(-1),
    )  # fmt: skip
    with Writer(folder / 'one.bag') as writer:
        connection = writer.add_connection(IMAGE, 'sensor_msgs/msg/Image', typestore=store)
        for i in range(2):
            writer.write(connection, STAMP_NS + i, store.serialize_ros1(image, 'sensor_msgs/msg/Image'))
    return (folder / 'one.bag').read_bytes()


def _metadata(name: str) -> str:
    storage = 'mcap' if name.endswith('.mcap') else 'sqlite3'
    topics = '\n'.join(
        f'  - topic_metadata:\n      name: {topic}\n      type: {kind}\n      serialization_format: cdr\n'
        f"      offered_qos_profiles: ''\n    message_count: 1"
        for topic, kind, _ in _messages()
    )
    return (
        f'rosbag2_bagfile_information:\n  version: 5\n  storage_identifier: {storage}\n  relative_file_paths:\n'
        f'  - {name}\n  duration:\n    nanoseconds: 100\n  starting_time:\n    nanoseconds_since_epoch: {STAMP_NS}\n'
        f"  message_count: 10\n  compression_format: ''\n  compression_mode: ''\n  topics_with_message_count:\n{topics}"
    )


@functools.cache
def _videos() -> dict[str, bytes]:
    codes = {'v.avi': 'MJPG', 'v.mp4': 'mp4v', 'v.mkv': 'MJPG'}
    with scratch() as folder:
        for name, code in codes.items():
            writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*code), 10.0, (32, 24))
            for i in range(4):
                writer.write(np.full((24, 32, 3), 40 * i, np.uint8))
            writer.release()
        return {name: (folder / name).read_bytes() for name in codes}
