"""Several cameras on one robot, and several robots: the real node, real topics, real TF."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from mcap.reader import make_reader
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from robot import Clip, Robot, rgb8
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from tf2_ros import StaticTransformBroadcaster

from vggt_ros.core.config import Config
from vggt_ros.core.frame import Frame
from vggt_ros.core.predictor import FakePredictor
from vggt_ros.node import VggtNode
from vggt_ros.recorded.static_tf import StaticTransforms
from vggt_ros.run import run

NAMES = ('front', 'side')
RIG = {'camera_names': 'front,side', 'window_size': 4, 'window_stride': 2, 'confidence_percentile': 0.0}


class Cameras:
    """Drivers of the rig's cameras, on topics of their own.

    Args:
        robot: owns the publishers.
    """

    def __init__(self, robot: Robot) -> None:
        self._publishers = {
            (name, kind): robot.create_publisher(kind, f'/{name}/{topic}', QoSProfile(depth=50))
            for name in NAMES
            for kind, topic in ((Image, 'image'), (CameraInfo, 'camera_info'))
        }

    def wait(self, robot: Robot, node: VggtNode) -> None:
        robot.wait_until(lambda: all(p.get_subscription_count() for p in self._publishers.values()), 'the node')
        robot.wait_until(lambda: all(s.get_publisher_count() for s in node._inputs._subscriptions), 'the cameras')

    def send(
        self, clip: Clip, i: int, name: str, late_ns: int = 0, focal: float = 1.0, stamp_ns: int | None = None
    ) -> None:
        stamp = (clip.stamps_ns[i] if stamp_ns is None else stamp_ns) + late_ns
        header = Header(frame_id=f'{name}_optical')
        header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
        height, width = clip.images[i].shape[:2]
        K = clip.K * [[focal], [focal], [1]]
        self._publishers[name, CameraInfo].publish(
            CameraInfo(header=header, height=height, width=width, k=K.reshape(9))
        )
        self._publishers[name, Image].publish(rgb8(header, clip.images[i]))


def publish_mounts(robot: Robot, side_x: float = FakePredictor.BASELINE) -> None:
    """base_link -> front camera: half a metre up, looking along x; the side camera to its right, looking alike."""
    transforms = []
    for name, y in (('front', 0.0), ('side', -side_x)):
        transform = TransformStamped(child_frame_id=f'{name}_optical')
        transform.header.frame_id = 'base_link'
        transform.transform.translation.y, transform.transform.translation.z = y, 0.5
        rotation = transform.transform.rotation  # x_cam -> -y, y_cam -> -z, z_cam -> x
        rotation.x, rotation.y, rotation.z, rotation.w = -0.5, 0.5, -0.5, 0.5
        transforms.append(transform)
    robot.broadcaster = StaticTransformBroadcaster(robot)
    robot.broadcaster.sendTransform(transforms)


def test_a_rig_publishes_one_base_pose_and_images_and_clouds_of_each_camera(
    robot: Robot, make_node: Callable[..., VggtNode], clip: Clip
) -> None:
    publish_mounts(robot)
    cameras = Cameras(robot)
    for name in NAMES:
        robot.listen(Image, f'/vggt/{name}/depth/image_rect')
        robot.listen(CameraInfo, f'/vggt/{name}/depth/camera_info')
        robot.listen(PointCloud2, f'/vggt/{name}/points')
    robot.listen(Odometry, '/vggt/odom')
    robot.listen(TFMessage, '/tf')
    robot.listen(PointCloud2, '/vggt/world_points')
    robot.listen(DiagnosticArray, '/diagnostics')
    node = make_node(**RIG)
    cameras.wait(robot, node)
    late_ns = 2_000_000
    for i in range(6):
        cameras.send(clip, i, 'side', late_ns, focal=1.5)
        cameras.send(clip, i, 'front')
        robot.wait_until(lambda count=i + 1: node._pipeline.statistics.frames == count, f'taking of moment {i}')
    robot.wait_until(lambda: len(robot.received['/vggt/side/points']) == 6, 'clouds of the side camera')
    for name, offset in (('front', 0), ('side', late_ns)):
        for topic in ('depth/image_rect', 'depth/camera_info', 'points'):
            messages = robot.received[f'/vggt/{name}/{topic}']
            assert [stamp(message) for message in messages] == [s + offset for s in clip.stamps_ns[:6]]
            assert {message.header.frame_id for message in messages} == {f'{name}_optical'}
    infos = [robot.received[f'/vggt/{name}/depth/camera_info'] for name in NAMES]
    assert infos[1][0].k[0] == pytest.approx(1.5 * infos[0][0].k[0])  # to each its own calibration
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 6, 'odometry')
    assert [stamp(message) for message in robot.received['/vggt/odom']] == clip.stamps_ns[:6]
    transforms = [one for message in robot.received['/tf'] for one in message.transforms]
    assert [(one.header.frame_id, one.child_frame_id) for one in transforms] == [('odom', 'base_link')] * 6
    for message, at in zip(robot.received['/vggt/odom'], clip.stamps_ns, strict=False):
        position = message.pose.pose.position
        right = -FakePredictor.SPEED * (at - clip.stamps_ns[0]) / 1e9
        np.testing.assert_allclose([position.x, position.y, position.z], [0, right, 0], atol=1e-6)
    points = np.frombuffer(robot.received['/vggt/world_points'][0].data, '<f4').reshape(-1, 4)
    np.testing.assert_allclose(points[:, 0], FakePredictor.DISTANCE, atol=1e-5)  # one wall for both
    robot.wait_until(
        lambda: figure(robot, 'side off its mount, degrees') == '0.00', 'fit of the rig in the diagnostics'
    )
    assert figure(robot, 'metres per unit') == '1'


class Recorded:
    """The same cameras as a recording: frames with views, and the mounts."""

    path, skipped = Path('rig'), 0

    def __init__(self, clip: Clip, mounts: TFMessage, late_ns: int) -> None:
        self._clip, self._late_ns = clip, late_ns
        self._mounts = StaticTransforms()
        self._mounts.add(mounts)

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[Frame]:
        for i in range(6):
            stamp, image = self._clip.stamps_ns[i], self._clip.images[i]
            side = Frame(stamp + self._late_ns, image, 'side_optical', self._clip.K * [[1.5], [1.5], [1]], camera=1)
            yield Frame(stamp, image, 'front_optical', self._clip.K, views=(side,))

    def static_transforms(self) -> StaticTransforms:
        return self._mounts

    def close(self) -> None:
        pass


def test_a_rig_gives_the_same_messages_live_and_offline(
    robot: Robot, make_node: Callable[..., VggtNode], clip: Clip, tmp_path: Path
) -> None:
    publish_mounts(robot)
    robot.listen(TFMessage, '/tf_static', latched=True)
    cameras, late_ns = Cameras(robot), 2_000_000
    kinds = {'odom': Odometry, 'world_points': PointCloud2, 'side/points': PointCloud2, 'side/depth/image_rect': Image}
    for topic, kind in kinds.items():
        robot.listen(kind, f'/vggt/{topic}')
    node = make_node(**RIG)
    cameras.wait(robot, node)
    for i in range(6):
        cameras.send(clip, i, 'side', late_ns, focal=1.5)
        cameras.send(clip, i, 'front')
        robot.wait_until(lambda count=i + 1: node._pipeline.statistics.frames == count, f'taking of moment {i}')
    counts = {'odom': 6, 'world_points': 2, 'side/points': 6, 'side/depth/image_rect': 6}
    robot.wait_until(lambda: all(len(robot.received[f'/vggt/{t}']) == n for t, n in counts.items()), 'all results')
    robot.wait_until(lambda: robot.received['/tf_static'], 'mounts')

    config = Config().with_values({**RIG, 'backend': 'fake'})
    run(Recorded(clip, robot.received['/tf_static'][0], late_ns), tmp_path / 'out', config)
    offline: dict[str, list[Any]] = {}
    with (tmp_path / 'out/result.mcap').open('rb') as file:
        for schema, channel, message in make_reader(file).iter_messages(log_time_order=False):
            topic = channel.topic.removeprefix('/vggt/')
            if topic in kinds:
                assert schema.name.endswith(kinds[topic].__name__)
                offline.setdefault(topic, []).append(deserialize_message(message.data, kinds[topic]))
    live = {topic: robot.received[f'/vggt/{topic}'] for topic in kinds}
    for topic in ('side/points', 'side/depth/image_rect'):
        assert offline[topic] == live[topic], topic
    # tf2 and our own reading of /tf_static multiply quaternions and matrices in another order: the last bits differ.
    for ours, theirs in zip(offline['odom'], live['odom'], strict=True):
        assert ours.header == theirs.header
        for field in ('position', 'orientation'):
            a, b = (getattr(one.pose.pose, field) for one in (ours, theirs))
            names = [name.lstrip('_') for name in a.get_fields_and_field_types()]
            np.testing.assert_allclose(*([getattr(one, name) for name in names] for one in (a, b)), atol=1e-9)
    for ours, theirs in zip(offline['world_points'], live['world_points'], strict=True):
        assert ours.header == theirs.header
        xyz = [np.frombuffer(one.data, '<f4').reshape(-1, 4)[:, :3] for one in (ours, theirs)]
        np.testing.assert_allclose(*xyz, atol=1e-5)  # float32, metres


def test_a_camera_that_falls_silent_is_named_and_the_rest_goes_on(
    robot: Robot, make_node: Callable[..., VggtNode], clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('vggt_ros.node.SILENCE_S', 3.0)
    publish_mounts(robot)
    cameras = Cameras(robot)
    robot.listen(Odometry, '/vggt/odom')
    robot.listen(Image, '/vggt/side/depth/image_rect')
    robot.listen(DiagnosticArray, '/diagnostics')
    node = make_node(**RIG)
    cameras.wait(robot, node)
    sent, deadline = 0, time.monotonic() + 60

    def send_until(is_true: Callable[[], object], *names: str) -> None:
        nonlocal sent
        while not is_true():
            assert time.monotonic() < deadline, messages_of(robot)
            for name in names:
                cameras.send(clip, sent % len(clip), name, stamp_ns=clip.stamps_ns[0] + sent * 100_000_000)
            sent += 1
            time.sleep(0.1)

    send_until(lambda: len(robot.received['/vggt/side/depth/image_rect']) >= 4, *NAMES)
    before = len(robot.received['/vggt/odom'])
    send_until(lambda: 'no image on /side/image' in messages_of(robot), 'front')
    assert 'no image on /front/image' not in messages_of(robot)
    send_until(lambda: len(robot.received['/vggt/odom']) >= before + 4, 'front')
    send_until(lambda: int(figure(robot, 'moments without some camera')) >= 4, 'front')


def test_without_mounts_in_tf_the_rig_says_so(
    robot: Robot, make_node: Callable[..., VggtNode], clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    cameras = Cameras(robot)
    robot.listen(Image, '/vggt/side/depth/image_rect')
    robot.listen(DiagnosticArray, '/diagnostics')
    node = make_node(**RIG, standalone=True, tf_timeout_s=0.05)
    cameras.wait(robot, node)
    for i in range(4):
        for name in NAMES:
            cameras.send(clip, i, name)
        robot.wait_until(lambda count=i + 1: node._pipeline.statistics.frames == count, f'taking of moment {i}')
    robot.wait_until(lambda: len(robot.received['/vggt/side/depth/image_rect']) == 4, 'results all the same')
    said = [one.getMessage() for one in caplog.records if 'not where they are mounted' in one.getMessage()]
    assert len(said) == 1
    assert 'front_optical' in said[0]
    assert 'side_optical' in said[0]
    robot.wait_until(lambda: 'no mounts in TF' in messages_of(robot), 'word in the diagnostics')


def stamp(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def figure(robot: Robot, key: str) -> str | None:
    arrays = robot.received['/diagnostics']
    values = [v for status in arrays[-1].status for v in status.values] if arrays else []
    return next((value.value for value in values if value.key == key), None)


def messages_of(robot: Robot) -> str:
    arrays = robot.received['/diagnostics']
    return '\n'.join(status.message for status in arrays[-1].status) if arrays else ''
