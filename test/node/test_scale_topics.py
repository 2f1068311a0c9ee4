"""Metres and up from each kind of topic, with the real rclpy on both sides.

The fake network sees a camera that glides to its right at SPEED along a wall DISTANCE away, in units. What the rest of
the robot says is METRES times as long.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from robot import OPTICAL, Clip, Robot, raw_image
from sensor_msgs.msg import CameraInfo, Image, Imu, PointCloud2, PointField
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from tf2_ros import StaticTransformBroadcaster

from vggt_ros.core.predictor import FakePredictor
from vggt_ros.node import VggtNode

DEPTH = '/vggt/depth/image_rect'
SMALL = {'window_size': 4, 'window_stride': 2}
METRES = 2.5
MakeNode = Callable[..., VggtNode]


def header(stamp_ns: int, frame_id: str) -> Header:
    return Header(stamp=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id=frame_id)


def publish_mount(robot: Robot, *more: TransformStamped) -> None:
    """base_link -> camera: 0.5 m up, looking to the left (+y): right of the image is +x, down is -z."""
    mount = TransformStamped(header=Header(frame_id='base_link'), child_frame_id=OPTICAL)
    mount.transform.translation.z = 0.5
    mount.transform.rotation.x, mount.transform.rotation.w = -math.sqrt(0.5), math.sqrt(0.5)
    robot.broadcaster = StaticTransformBroadcaster(robot)
    robot.broadcaster.sendTransform([mount, *more])


def stamps_up_to(clip: Clip, i: int) -> Iterator[int]:
    """Ten a second, from the frame before to a little after frame i."""
    start = clip.stamps_ns[i - 1] if i else clip.stamps_ns[0] - 200_000_000
    return iter(range(start, clip.stamps_ns[i] + 110_000_000, 100_000_000))


class Wheels:
    """Odometry of a robot that drives ahead."""

    def __init__(self, robot: Robot, clip: Clip, direction: tuple[float, float] = (1.0, 0.0)) -> None:
        self.publisher, self.clip, self.direction = robot.create_publisher(Odometry, '/odom', 50), clip, direction

    def before(self, i: int) -> None:
        for stamp_ns in stamps_up_to(self.clip, i):
            message = Odometry(header=header(stamp_ns, 'odom'), child_frame_id='base_link')
            way = METRES * FakePredictor.SPEED * (stamp_ns - self.clip.stamps_ns[0]) / 1e9
            pose = message.pose.pose
            pose.position.x, pose.position.y = way * self.direction[0], way * self.direction[1]
            pose.orientation.w = 1.0
            self.publisher.publish(message)


class WheelsInTf:
    """The same as TF odom -> base_link."""

    def __init__(self, robot: Robot, clip: Clip, start: float = 0.0) -> None:
        self.publisher, self.clip, self.start = robot.create_publisher(TFMessage, '/tf', 50), clip, start

    def before(self, i: int) -> None:
        for stamp_ns in stamps_up_to(self.clip, i):
            transform = TransformStamped(header=header(stamp_ns, 'odom'), child_frame_id='base_link')
            way = METRES * FakePredictor.SPEED * (stamp_ns - self.clip.stamps_ns[0]) / 1e9
            transform.transform.translation.x = self.start + way
            transform.transform.rotation.w = 1.0
            self.publisher.publish(TFMessage(transforms=[transform]))


class DepthCamera:
    """A depth camera in the place of the camera, of another size: millimetres, a fifth of them missing."""

    def __init__(self, robot: Robot, clip: Clip) -> None:
        self.images = robot.create_publisher(Image, '/depth_camera/image', 10)
        self.infos = robot.create_publisher(CameraInfo, '/depth_camera/camera_info', 10)
        self.clip, self.rng = clip, np.random.default_rng(0)

    def before(self, i: int) -> None:
        stamp_ns = self.clip.stamps_ns[i] + 15_000_000
        depth = self.rng.normal(METRES * FakePredictor.DISTANCE * 1000, 20, (240, 320))
        depth[self.rng.random(depth.shape) < 0.2] = 0
        K = [260.0, 0, 159.5, 0, 260.0, 119.5, 0, 0, 1]
        self.infos.publish(CameraInfo(header=header(stamp_ns, OPTICAL), height=240, width=320, k=K))
        self.images.publish(raw_image(header(stamp_ns, OPTICAL), '16UC1', depth.astype('<u2')))


class Lidar:
    """A lidar on the robot's base that sees the wall to the left, in lines, and much else behind itself."""

    def __init__(self, robot: Robot, clip: Clip) -> None:
        self.publisher, self.clip = robot.create_publisher(PointCloud2, '/lidar', 10), clip

    def before(self, i: int) -> None:
        azimuth, elevation = np.meshgrid(np.linspace(-3.1, 3.1, 900), np.radians(np.linspace(-20, 20, 16)))
        wall = METRES * FakePredictor.DISTANCE
        reach = np.where(np.sin(azimuth) > 0.3, wall / np.maximum(np.sin(azimuth), 0.3), 3.0)
        x, y, z = reach * np.cos(azimuth), reach * np.sin(azimuth), reach * np.tan(elevation)
        rows = np.stack([x, y, z, np.zeros_like(x)], axis=-1).reshape(-1, 4).astype('<f4')
        message = PointCloud2(header=header(self.clip.stamps_ns[i] - 20_000_000, 'lidar_link'), height=1)
        message.width, message.point_step, message.row_step = len(rows), 16, 16 * len(rows)
        message.fields = [PointField(name=n, offset=4 * k, datatype=7, count=1) for k, n in enumerate('xyz')]
        message.data.frombytes(rows.tobytes())
        self.publisher.publish(message)


def lidar_mount() -> TransformStamped:
    mount = TransformStamped(header=Header(frame_id='base_link'), child_frame_id='lidar_link')
    mount.transform.translation.z = 0.5
    mount.transform.rotation.w = 1.0
    return mount


SOURCES: dict[str, Callable[[Robot, Clip], Any]] = {
    'odometry': Wheels, 'tf': WheelsInTf, 'depth': DepthCamera, 'lidar': Lidar,
}  # fmt: skip


def node_of(make_node: MakeNode, **parameters: object) -> VggtNode:
    return make_node(**{**SMALL, 'tf_timeout_s': 1.0, **parameters})


def send(robot: Robot, node: VggtNode, clip: Clip, sensor: Any, indices: range) -> None:
    """Frames and what the sensor says about them; nothing is lost, as each is waited for."""
    for i in indices:
        sensor.before(i)
        time.sleep(0.1)  # another topic has another queue
        robot.publish_clip(clip, range(i, i + 1), node)


def scale_status(robot: Robot) -> DiagnosticStatus | None:
    arrays = robot.received['/diagnostics']
    return next((s for s in arrays[-1].status if s.name.endswith('scale')), None) if arrays else None


def value(status: DiagnosticStatus | None, key: str) -> str:
    return next((one.value for one in status.values if one.key == key), '') if status else ''


def remap(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """Start nodes of this process with one more remapping."""
    init = VggtNode.__init__

    def with_remapping(self: VggtNode, **arguments: Any) -> None:
        arguments['cli_args'] = [*arguments['cli_args'], '-r', rule]
        init(self, **arguments)

    monkeypatch.setattr(VggtNode, '__init__', with_remapping)


@pytest.fixture
def sensor_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The depth camera's topic is remapped, as on a robot; its CameraInfo is found beside it."""
    remap(monkeypatch, 'depth_anchor:=/depth_camera/image')


@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.usefixtures('sensor_topics')
def test_each_topic_gives_metres(robot: Robot, make_node: MakeNode, clip: Clip, source: str) -> None:
    publish_mount(robot, lidar_mount())
    robot.start_camera()
    for kind, topic in ((Image, DEPTH), (Odometry, '/vggt/odom'), (DiagnosticArray, '/diagnostics')):
        robot.listen(kind, topic)
    sensor = SOURCES[source](robot, clip)
    node = node_of(make_node, scale_source=source, scale_min_observations=3, publish_odom_to_base_tf=source != 'tf')
    robot.wait_for_match(node)
    time.sleep(0.5)  # the sensor's topic as well
    send(robot, node, clip, sensor, range(12))
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 12, 'results')
    first, last = (np.frombuffer(robot.received[DEPTH][i].data, np.float32) for i in (0, -1))
    assert np.nanmedian(first) == pytest.approx(FakePredictor.DISTANCE)
    # a depth camera of 20 mm noise in 5 m over thousands of pixels: 0.1 %; the others are exact but for interpolation
    assert np.nanmedian(last) == pytest.approx(METRES * FakePredictor.DISTANCE, rel=0.005)
    first, last = (robot.received['/vggt/odom'][i] for i in (0, -1))
    assert first.pose.covariance[0] >= 9999
    assert last.pose.covariance[0] < 1
    assert last.twist.twist.linear.x == pytest.approx(METRES * FakePredictor.SPEED, rel=0.01)
    robot.wait_until(lambda: value(scale_status(robot), 'state') == 'locked', 'lock in the diagnostics')
    status = scale_status(robot)
    assert status is not None
    assert status.level == DiagnosticStatus.OK
    assert float(value(status, 'metres per unit of the map')) == pytest.approx(METRES, rel=0.005)


def test_poses_go_on_without_a_step_when_metres_are_found(robot: Robot, make_node: MakeNode, clip: Clip) -> None:
    publish_mount(robot)
    robot.start_camera()
    robot.listen(Odometry, '/vggt/odom')
    node = node_of(make_node, scale_source='odometry', scale_min_observations=3)
    robot.wait_for_match(node)
    time.sleep(0.5)
    send(robot, node, clip, Wheels(robot, clip), range(12))
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 12, 'results')
    places = np.array([message.pose.pose.position.x for message in robot.received['/vggt/odom']])
    speeds = np.diff(places) / (np.diff(clip.stamps_ns[:12]) / 1e9) / FakePredictor.SPEED
    # Windows end with frames 4, 6, 8 ...: what the third says holds for its new frames, and the way to them.
    assert np.isclose(speeds, [1] * 5 + [METRES] * 6, rtol=0.01).all()
    z = [message.pose.pose.position.z for message in robot.received['/vggt/odom']]
    np.testing.assert_allclose(z, 0, atol=1e-6)  # the lever arm to the camera is in metres from the start


def test_an_odometry_that_moves_elsewhere_than_the_images_is_told(
    robot: Robot, make_node: MakeNode, clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    """As a camera whose mount is said to look ahead, and which looks to the left."""
    publish_mount(robot)
    robot.start_camera()
    robot.listen(DiagnosticArray, '/diagnostics')
    node = node_of(make_node, scale_source='odometry')
    robot.wait_for_match(node)
    time.sleep(0.5)
    send(robot, node, clip, Wheels(robot, clip, direction=(0.0, 1.0)), range(6))
    robot.wait_until(lambda: 'base -> camera' in (getattr(scale_status(robot), 'message', '')), 'word of it')
    assert scale_status(robot).level == DiagnosticStatus.ERROR
    assert any('odometry and images disagree' in record.getMessage() for record in caplog.records)


def test_a_dead_odometry_is_named_with_its_topic(
    robot: Robot, make_node: MakeNode, clip: Clip, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('vggt_ros.live.sensors.SILENCE_S', 0.5)
    publish_mount(robot)
    robot.start_camera()
    robot.listen(DiagnosticArray, '/diagnostics')
    robot.listen(Odometry, '/vggt/odom')
    node = node_of(make_node, scale_source='odometry')
    robot.wait_for_match(node)
    robot.publish_clip(clip, range(4), node)
    robot.wait_until(lambda: 'nothing on /odom: no publisher' in getattr(scale_status(robot), 'message', ''), 'word')
    assert scale_status(robot).level == DiagnosticStatus.WARN
    assert any('not metres until the scale is locked' in record.getMessage() for record in caplog.records)
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 4, 'results all the same')


def test_a_node_that_is_given_its_own_odometry_does_not_start(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remap(monkeypatch, 'odom:=/vggt/odom')
    node = node_of(make_node, scale_source='odometry', start=False)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
    assert any('which this node publishes itself' in record.getMessage() for record in caplog.records)


def test_an_imu_makes_the_map_level(robot: Robot, make_node: MakeNode, clip: Clip) -> None:
    """The camera looks down by 20 degrees, and nobody but its IMU knows."""
    robot.start_camera()
    robot.listen(Odometry, '/vggt/odom')
    imu = robot.create_publisher(Imu, '/imu', 50)
    node = node_of(make_node, gravity_source='imu', standalone=True)
    robot.wait_for_match(node)
    time.sleep(0.5)
    tilt = math.radians(20)
    for i in range(4):
        for stamp_ns in stamps_up_to(clip, i):
            message = Imu(header=header(stamp_ns, OPTICAL))
            reading = message.linear_acceleration
            reading.y, reading.z = -9.81 * math.cos(tilt), -9.81 * math.sin(tilt)
            message.orientation.w = 1.0  # as drivers send that have none: it must not count
            imu.publish(message)
        time.sleep(0.1)
        robot.publish_clip(clip, range(i, i + 1), node)
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 4, 'results')
    q = robot.received['/vggt/odom'][0].pose.pose.orientation
    # nose down is a positive turn about y, which points to the left
    assert (q.x, q.y, q.z, q.w) == pytest.approx((0, math.sin(tilt / 2), 0, math.cos(tilt / 2)), abs=1e-3)


def test_map_to_odom_is_sent_again_and_again_dated_ahead(robot: Robot, make_node: MakeNode, clip: Clip) -> None:
    """A robot asks for its place in the map 20 times a second, and a window takes longer than that."""
    publish_mount(robot)
    robot.start_camera()
    robot.listen(TFMessage, '/tf')
    node = node_of(
        make_node, publish_odom_to_base_tf=False, publish_map_to_odom_tf=True, scale_source='fixed', scale=METRES,
        tf_tolerance=0.25,
    )  # fmt: skip
    robot.wait_for_match(node)
    time.sleep(0.5)
    sent_at = time.monotonic()
    send(robot, node, clip, WheelsInTf(robot, clip, start=1.0), range(4))

    def corrections() -> list[TransformStamped]:
        return [t for m in list(robot.received['/tf']) for t in m.transforms if t.child_frame_id == 'odom']

    robot.wait_until(lambda: len(corrections()) >= 20, 'corrections')
    got = corrections()
    stamps = np.array([t.header.stamp.sec * 10**9 + t.header.stamp.nanosec for t in got])
    assert stamps[0] == clip.stamps_ns[3]  # so that what is published of that image has its place in the map
    assert (np.diff(stamps) > 0).all()
    assert np.median(np.diff(stamps[1:])) == pytest.approx(0.05e9, rel=0.5)
    assert stamps[1] - stamps[0] > 0.2e9
    assert (stamps[-1] - stamps[0]) / 1e9 < time.monotonic() - sent_at + 0.25
    for one in got:
        assert one.header.frame_id == 'map'
        assert one.transform.translation.x == pytest.approx(-1, abs=1e-3)
    # With odometry of our own there is nothing to correct.
    node.set_parameters([Parameter('publish_map_to_odom_tf', value=False)])
    time.sleep(0.2)
    count = len(corrections())
    time.sleep(0.3)
    assert len(corrections()) == count
    node.set_parameters([Parameter('publish_map_to_odom_tf', value=True)])
    robot.wait_until(lambda: len(corrections()) > count + 1, 'corrections again')
