"""Sensors beside the images of a recording: each kind is found, decoded to known numbers, and gives the run metres."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import (
    SHARED,
    START_NS,
    TruthPredictor,
    header,
    image_message,
    info_message,
    write_bag,
)
from scipy.spatial.transform import Rotation

from vggt_ros.core.config import Config
from vggt_ros.core.errors import EncodingError, SourceError
from vggt_ros.core.metric.evidence import MAX_POINTS, Evidence
from vggt_ros.core.predictor import FakePredictor
from vggt_ros.decode_sensors import add_imu, add_odometry, decode_depth, decode_points, sample_points
from vggt_ros.messages import bag_messages
from vggt_ros.recorded.sensors import open_sensors
from vggt_ros.recorded.source import open_source
from vggt_ros.recorded.tf import RecordedTransforms
from vggt_ros.run import run

TYPES = bag_messages()
K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
METRES = 2.5
COUNT = 24
RATE_NS = 200_000_000
KITCHEN = SHARED / 'data' / 'redkitchen_clip'


def config_of(**values: Any) -> Config:
    settings = {'backend': 'fake', 'window_size': 4, 'window_stride': 2, 'scale_min_observations': 3, **values}
    return Config().with_values(settings)


def transform(
    parent: str, child: str, stamp_ns: int, shift: tuple[float, ...], q: tuple[float, ...] = (0, 0, 0, 1)
) -> Any:
    vector, quaternion = TYPES['geometry_msgs/msg/Vector3'], TYPES['geometry_msgs/msg/Quaternion']
    body = TYPES['geometry_msgs/msg/Transform'](
        translation=vector(*map(float, shift)), rotation=quaternion(*map(float, q))
    )
    stamped = TYPES['geometry_msgs/msg/TransformStamped']
    one = stamped(header=header(TYPES, stamp_ns, parent), child_frame_id=child, transform=body)
    return TYPES['tf2_msgs/msg/TFMessage'](transforms=[one])


def odometry(stamp_ns: int, x: float, child: str = 'base_link') -> Any:
    point, quaternion = TYPES['geometry_msgs/msg/Point'], TYPES['geometry_msgs/msg/Quaternion']
    vector = TYPES['geometry_msgs/msg/Vector3']
    pose = TYPES['geometry_msgs/msg/Pose'](position=point(x, 0.0, 0.0), orientation=quaternion(0.0, 0.0, 0.0, 1.0))
    twist = TYPES['geometry_msgs/msg/Twist'](linear=vector(0.0, 0.0, 0.0), angular=vector(0.0, 0.0, 0.0))
    return TYPES['nav_msgs/msg/Odometry'](
        header=header(TYPES, stamp_ns, 'odom'),
        child_frame_id=child,
        pose=TYPES['geometry_msgs/msg/PoseWithCovariance'](pose=pose, covariance=np.zeros(36)),
        twist=TYPES['geometry_msgs/msg/TwistWithCovariance'](twist=twist, covariance=np.zeros(36)),
    )


def imu(
    stamp_ns: int, acceleration: tuple[float, ...], orientation: tuple[float, ...] = (0, 0, 0, 1), has: str = 'a'
) -> Any:
    vector, quaternion = TYPES['geometry_msgs/msg/Vector3'], TYPES['geometry_msgs/msg/Quaternion']
    covariance, none = np.zeros(9), np.array([-1.0, *[0.0] * 8])
    return TYPES['sensor_msgs/msg/Imu'](
        header=header(TYPES, stamp_ns, 'camera'),
        orientation=quaternion(*map(float, orientation)),
        orientation_covariance=covariance if 'o' in has else none,
        angular_velocity=vector(0.0, 0.0, 0.0),
        angular_velocity_covariance=covariance,
        linear_acceleration=vector(*map(float, acceleration)),
        linear_acceleration_covariance=covariance if 'a' in has else none,
    )


def cloud(stamp_ns: int, points: np.ndarray, frame_id: str = 'camera', kind: str = '<f4', step: int = 20) -> Any:
    """x, y, z after four bytes of something else."""
    size = np.dtype(kind).itemsize
    data = np.zeros((len(points), max(step, 4 + 3 * size)), np.uint8)
    data[:, 4 : 4 + 3 * size] = np.ascontiguousarray(points.astype(kind)).view(np.uint8).reshape(len(points), -1)
    field = TYPES['sensor_msgs/msg/PointField']
    fields = [
        field(name=name, offset=4 + size * k, datatype=7 if size == 4 else 8, count=1) for k, name in enumerate('xyz')
    ]
    return TYPES['sensor_msgs/msg/PointCloud2'](
        header=header(TYPES, stamp_ns, frame_id), height=1, width=len(points), fields=fields,
        is_bigendian=kind.startswith('>'), point_step=data.shape[1], row_step=data.size, data=data.reshape(-1),
        is_dense=True,
    )  # fmt: skip


def robot_bag(path: Path, *sensors: str, more: list[Any] | None = None) -> Path:
    """A camera that looks to the left of a robot that drives ahead, as the fake network sees it, and its sensors."""
    q = Rotation.from_matrix([[1, 0, 0], [0, 0, 1], [0, -1, 0]]).as_quat()
    mount = transform('base_link', 'camera', START_NS, (0.3, 0, 0.5), tuple(q))
    entries = [('/tf_static', 'tf2_msgs/msg/TFMessage', START_NS - 10, mount), *(more or [])]
    picture = np.full((48, 64, 3), 128, np.uint8)
    for i in range(COUNT):
        stamp = START_NS + i * RATE_NS
        x = METRES * FakePredictor.SPEED * i * RATE_NS / 1e9
        entries.append(
            (
                '/camera/camera_info',
                'sensor_msgs/msg/CameraInfo',
                stamp,
                info_message(TYPES, K, (48, 64), stamp_ns=stamp),
            )
        )
        entries.append(
            ('/camera/image_raw', 'sensor_msgs/msg/Image', stamp, image_message(TYPES, picture, 'rgb8', stamp_ns=stamp))
        )
        if 'odometry' in sensors:  # half a period off the images, and logged late
            half = stamp + RATE_NS // 2
            step = METRES * FakePredictor.SPEED * RATE_NS / 2e9
            entries.append(('/wheels', 'nav_msgs/msg/Odometry', half + 40_000_000, odometry(half, x + step)))
            if i == 0:
                entries.append(
                    ('/wheels', 'nav_msgs/msg/Odometry', stamp - 5, odometry(stamp - RATE_NS // 2, x - step))
                )
        if 'tf' in sensors:
            entries.append(
                ('/tf', 'tf2_msgs/msg/TFMessage', stamp + 30_000_000, transform('odom', 'base_link', stamp, (x, 0, 0)))
            )
        if 'depth' in sensors:
            depth = np.full((48, 64), METRES * FakePredictor.DISTANCE * 1000, '<u2')
            depth[::5] = 0
            message = image_message(TYPES, depth, '16UC1', stamp_ns=stamp + 20_000_000)
            entries.append(('/depth/image', 'sensor_msgs/msg/Image', stamp + 70_000_000, message))
            info = info_message(TYPES, K, (48, 64), stamp_ns=stamp + 20_000_000)
            entries.append(('/depth/camera_info', 'sensor_msgs/msg/CameraInfo', stamp + 70_000_000, info))
        if 'lidar' in sensors:
            u, v = np.meshgrid(np.linspace(-1, 1, 60), np.linspace(-0.5, 0.5, 8))
            wall = METRES * FakePredictor.DISTANCE * np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3)
            entries.append(('/sweep', 'sensor_msgs/msg/PointCloud2', stamp + 60_000_000, cloud(stamp, wall)))
    return write_bag(path, sorted(entries, key=lambda entry: entry[2]))


@pytest.mark.parametrize('source', ['odometry', 'tf', 'depth', 'lidar'])
def test_a_run_finds_metres_in_each_kind_of_topic(tmp_path: Path, source: str) -> None:
    bag = robot_bag(tmp_path / 'bag', source)
    config = config_of(scale_source=source, publish_odom_to_base_tf=source != 'tf')
    opened = open_source(bag)
    report = run(opened, tmp_path / 'out', config, predictor=FakePredictor(config))
    opened.close()
    assert report.scale.is_metric, report.scale.describe()
    assert report.scale.factor == pytest.approx(METRES, rel=1e-3)
    summary = json.loads((tmp_path / 'out/summary.json').read_text())
    assert summary['unit'] == 'm'
    assert summary['scale']['state'] == 'locked'
    # All of the way, also what was seen before the lock: the files are in metres throughout.
    lines = [line.split() for line in (tmp_path / 'out/trajectory_tum.txt').read_text().splitlines() if line[0] != '#']
    places = np.array([[float(word) for word in words[1:4]] for words in lines])
    way = np.linalg.norm(np.diff(places, axis=0), axis=1)
    np.testing.assert_allclose(way, METRES * FakePredictor.SPEED * RATE_NS / 1e9, rtol=2e-3)


def test_an_imu_levels_a_run(tmp_path: Path) -> None:
    tilt = math.radians(15)  # the camera's own right side hangs down
    more = [
        (
            '/imu',
            'sensor_msgs/msg/Imu',
            START_NS + i * 50_000_000,
            imu(START_NS + i * 50_000_000, (-9.8 * math.sin(tilt), -9.8 * math.cos(tilt), 0)),
        )
        for i in range(20)
    ]
    bag = robot_bag(tmp_path / 'bag', more=more)
    config = config_of(gravity_source='imu')
    opened = open_source(bag)
    report = run(opened, tmp_path / 'out', config, predictor=FakePredictor(config))
    opened.close()
    up = report.poses[0][:3, :3] @ [-math.sin(tilt), -math.cos(tilt), 0]
    np.testing.assert_allclose(up, [0, 0, 1], atol=1e-6)


def test_what_a_recording_lacks_is_said_with_what_it_has(tmp_path: Path) -> None:
    bag = robot_bag(tmp_path / 'bag', 'depth')
    with pytest.raises(SourceError, match=r'no topic of nav_msgs/msg/Odometry(.|\n)*/depth/image'):
        open_sensors(bag, config_of(scale_source='odometry'))
    with pytest.raises(SourceError, match='no topic /elsewhere'):
        open_sensors(bag, config_of(scale_source='depth'), {'depth': '/elsewhere'})
    with pytest.raises(SourceError, match='no odom'):
        open_sensors(tmp_path, config_of(scale_source='odometry'))
    two = robot_bag(
        tmp_path / 'two', 'odometry', more=[('/other', 'nav_msgs/msg/Odometry', START_NS, odometry(START_NS, 0.0))]
    )
    with pytest.raises(SourceError, match='several topics'):
        open_sensors(two, config_of(scale_source='odometry'))
    open_sensors(two, config_of(scale_source='odometry'), {'odom': '/wheels'}).close()


def test_the_depth_images_of_a_folder_give_metres(tmp_path: Path) -> None:
    """Real images and depth, under a network that knows the truth at a scale of its own."""
    if not KITCHEN.is_dir():
        pytest.skip(f'no {KITCHEN}')
    config = config_of(scale_source='depth', window_size=6, window_stride=3)
    source = open_source(KITCHEN)
    report = run(_First(source, 24), tmp_path / 'out', config, predictor=TruthPredictor(KITCHEN))
    assert report.scale.is_metric, report.scale.describe()
    truth = TruthPredictor(KITCHEN).world_from_cam
    ways = [
        (np.linalg.norm(b[:3, 3] - a[:3, 3]), np.linalg.norm(truth[s][:3, 3] - truth[r][:3, 3]))
        for a, b, r, s in zip(report.poses, report.poses[8:], report.stamps_ns, report.stamps_ns[8:], strict=False)
    ]
    ours, true = np.array(ways).T
    assert np.median(ours / true) == pytest.approx(1.0, rel=0.01)


class _First:
    """The first frames of a source."""

    def __init__(self, source: Any, count: int) -> None:
        self._source, self._count, self.path, self.skipped = source, count, source.path, 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self):
        return (frame for frame, _ in zip(self._source, range(self._count), strict=False))

    def static_transforms(self):
        return self._source.static_transforms()

    def close(self) -> None:
        self._source.close()


@pytest.mark.parametrize(
    'encoding, kind, values',
    [
        ('16UC1', '<u2', [0, 1500, 65535]),
        ('16UC1', '>u2', [0, 1500, 65535]),
        ('32FC1', '<f4', [np.nan, 1.5, 65.535]),
        ('32FC1', '>f4', [np.inf, 1.5, 65.535]),
    ],
)
def test_depth_images_of_both_kinds_and_byte_orders(encoding: str, kind: str, values: list[float]) -> None:
    pixels = np.array([values, values], kind)
    padded = np.zeros((2, pixels.shape[1] * pixels.itemsize + 6), np.uint8)
    padded[:, :-6] = pixels.view(np.uint8)
    message = image_message(TYPES, padded, encoding, size=(2, 3), step=padded.shape[1], is_bigendian=kind[0] == '>')
    np.testing.assert_allclose(decode_depth(message), [[np.nan, 1.5, 65.535]] * 2, rtol=1e-6)


def test_depth_images_that_are_none_are_refused() -> None:
    with pytest.raises(EncodingError, match='16UC1'):
        decode_depth(image_message(TYPES, np.zeros((2, 3, 3), np.uint8), 'rgb8'))
    with pytest.raises(EncodingError, match='truncated'):
        decode_depth(image_message(TYPES, np.zeros((2, 3), '<u2'), '16UC1', size=(9, 3)))


def test_points_of_a_depth_image_project_back_and_leave_out_edges() -> None:
    depth = np.full((48, 64), 2.0, np.float32)
    depth[:, 32:] = 4.0
    depth[10:14, 5:9] = np.nan
    points = sample_points(depth, K)
    u, v = (points[:, 0] / points[:, 2] * 60 + 31.5), (points[:, 1] / points[:, 2] * 60 + 23.5)
    np.testing.assert_allclose(points[:, 2], depth[v.round().astype(int), u.round().astype(int)])
    assert not np.isin(u.round(), [31, 32]).any()
    assert len(points) > 2000
    assert len(sample_points(np.ones((1080, 1920), np.float32), K)) <= MAX_POINTS


@pytest.mark.parametrize('kind', ['<f4', '>f4', '<f8'])
def test_clouds_of_any_layout(kind: str) -> None:
    points = np.array([[1.0, 2.0, 3.0], [np.nan, 0.0, 0.0], [-1.5, 0.25, 8.0]])
    np.testing.assert_allclose(decode_points(cloud(START_NS, points, kind=kind, step=40)), points)
    broken = cloud(START_NS, points)
    broken.fields.pop()
    with pytest.raises(EncodingError, match='x, y'):
        decode_points(broken)


def test_up_is_what_the_accelerometer_says_before_what_an_orientation_may_say() -> None:
    def up_of(message: Any) -> np.ndarray:
        evidence = Evidence()
        add_imu(evidence, message)
        return evidence.ups_in('camera', START_NS, START_NS)[1][0]

    turned = tuple(Rotation.from_euler('x', 90, degrees=True).as_quat())  # lies on its side: its y points up
    np.testing.assert_allclose(up_of(imu(START_NS, (0.0, -9.8, 0.0), turned, has='ao')), [0, -9.8, 0])
    np.testing.assert_allclose(up_of(imu(START_NS, (0.0, 0.0, 0.0), turned, has='ao')), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(up_of(imu(START_NS, (1.0, 1.0, 1.0), turned, has='o')), [0, 1, 0], atol=1e-12)
    with pytest.raises(EncodingError, match='neither'):
        up_of(imu(START_NS, (0.0, 0.0, 0.0), has=''))


def test_an_odometry_with_a_broken_quaternion_is_refused() -> None:
    message = odometry(START_NS, 1.0)
    message.pose.pose.orientation.w = 0.0
    with pytest.raises(EncodingError, match='length 1'):
        add_odometry(Evidence(), message)


def test_a_message_without_a_stamp_belongs_to_nothing() -> None:
    evidence = Evidence()
    add_odometry(evidence, odometry(START_NS, 1.0))
    with pytest.raises(EncodingError, match='stamp is zero'):
        add_odometry(evidence, odometry(0, 1.0))
    assert evidence.odom_from_cam('base_link', START_NS) is not None  # what was heard before is still known


def test_moving_and_fixed_frames_make_one_tree() -> None:
    tree = RecordedTransforms()
    tree.fixed.add(transform('base_link', 'camera', 0, (0.5, 0, 0)))
    for i in range(3):
        tree.add_moving(transform('odom', 'base_link', START_NS + i * RATE_NS, (1.0 * i, 0, 0)))
    middle = tree.find('odom', 'camera', START_NS + RATE_NS // 2)
    np.testing.assert_allclose(middle[:3, 3], [1.0, 0, 0])
    back = tree.find('camera', 'odom', START_NS + RATE_NS // 2)
    np.testing.assert_allclose(back @ middle, np.eye(4), atol=1e-12)
    assert tree.find('odom', 'camera', START_NS - 1) is None
    assert tree.find('odom', 'camera', START_NS + 3 * RATE_NS) is None
    assert tree.find('odom', 'elsewhere', START_NS) is None


@pytest.mark.parametrize('size', [(0, 8), (6, 0)])
def test_a_depth_image_of_no_pixels_is_refused(size: tuple[int, int]):
    with pytest.raises(EncodingError, match='empty'):
        decode_depth(image_message(TYPES, np.ones((6, 8), np.float32), '32FC1', size=size, step=32))


@pytest.mark.parametrize('shape', [(1, 8), (6, 1), (2, 2)])
def test_a_depth_image_that_is_all_edge_has_no_points(shape: tuple[int, int]):
    assert sample_points(np.ones(shape, np.float32), K).shape == (0, 3)


@pytest.mark.parametrize('offset', [9, 12, 2**32 - 1])
def test_a_cloud_whose_fields_lie_outside_of_its_points_is_refused(offset: int):
    field = TYPES['sensor_msgs/msg/PointField']
    message = TYPES['sensor_msgs/msg/PointCloud2'](
        header=header(TYPES, START_NS), height=1, width=2, is_bigendian=False, point_step=12, row_step=24,
        fields=[field('x', 0, 7, 1), field('y', 4, 7, 1), field('z', offset, 7, 1)], is_dense=True,
        data=np.ones(6, np.float32).view(np.uint8),
    )  # fmt: skip
    with pytest.raises(EncodingError, match='point_step of 12'):
        decode_points(message)


def test_a_cloud_of_no_points_has_none_however_large_a_point_is():
    field = TYPES['sensor_msgs/msg/PointField']
    message = TYPES['sensor_msgs/msg/PointCloud2'](
        header=header(TYPES, START_NS), height=1, width=0, is_bigendian=False, point_step=2**32 - 1, row_step=0,
        fields=[field(name, 4 * i, 7, 1) for i, name in enumerate('xyz')], is_dense=True, data=np.zeros(0, np.uint8),
    )  # fmt: skip
    assert decode_points(message).shape == (0, 3)
