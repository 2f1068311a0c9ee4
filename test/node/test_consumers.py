"""Do those who read our topics accept what the node publishes for real frames? And would they notice if not?"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import judges
import numpy as np
import pytest
import rclpy
import tf2_ros
from geometry_msgs.msg import PoseStamped, TransformStamped
from judges import RejectedError, stamp_ns
from nav_msgs.msg import Odometry
from robot import IMAGE, OPTICAL, Clip, Robot, spinning
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from tf2_ros import StaticTransformBroadcaster

from vggt_ros.node import VggtNode
from vggt_ros.node import start as start_node_now

COUNT = 8
TOPICS = {
    'depth/image_rect': Image,
    'depth/camera_info': CameraInfo,
    'rgb/image_rect_color': Image,
    'rgb/camera_info': CameraInfo,
    'points': PointCloud2,
    'points_filtered': PointCloud2,
    'odom': Odometry,
    'camera_pose': PoseStamped,
}


class Published:
    """What the node published: `[topic]` in order, and TF in a buffer of tf2's own."""

    def __init__(self, robot: Robot) -> None:
        self._received = robot.received
        self.buffer = tf2_ros.Buffer(cache_time=rclpy.duration.Duration(seconds=3600))
        for message in robot.received['/tf']:
            for one in message.transforms:
                self.buffer.set_transform(one, 'node')
        for message in robot.received['/tf_static']:
            for one in message.transforms:
                self.buffer.set_transform_static(one, 'robot')

    def __getitem__(self, topic: str) -> list[Any]:
        return self._received[f'/vggt/{topic}']

    def frames(self, *topics: str) -> list[tuple[Any, ...]]:
        """Messages of these topics, frame by frame."""
        return list(zip(*(self[topic] for topic in topics), strict=True))


@pytest.fixture(scope='module')
def published(module_robot: Robot, clip: Clip) -> Iterator[Published]:
    """The node with the network that ships, on real frames, on a robot whose camera looks 15 degrees down."""
    with contextlib.ExitStack() as stack:
        robot = module_robot
        robot.start_camera()
        for topic, kind in TOPICS.items():
            robot.listen(kind, f'/vggt/{topic}')
        robot.listen(TFMessage, '/tf')
        robot.listen(TFMessage, '/tf_static', latched=True)
        publish_mount(robot)
        context = rclpy.Context()
        rclpy.init(context=context)
        stack.callback(rclpy.try_shutdown, context=context)
        values = {'window_size': 4, 'window_stride': 2, 'input_width': 112, 'device': 'cpu', 'voxel_size': 0.05,
                  'input_reliability': 'reliable', 'max_latency_s': 9.0, 'tf_timeout_s': 5.0}  # fmt: skip
        node = VggtNode(
            context=context,
            parameter_overrides=[rclpy.parameter.Parameter(name, value=value) for name, value in values.items()],
            cli_args=['--ros-args', '-r', f'image:={IMAGE}'],
        )
        stack.callback(node.destroy_node)
        stack.enter_context(spinning(node, context))
        stack.callback(node.close)
        assert start_node_now(node)
        robot.wait_for_match(node)
        robot.publish_clip(clip, range(COUNT), node)
        robot.wait_until(
            lambda: all(len(robot.received[f'/vggt/{topic}']) == COUNT for topic in TOPICS), 'all that was published'
        )
        robot.wait_until(lambda: len(robot.received['/tf']) == COUNT, 'TF')
        yield Published(robot)


def publish_mount(robot: Robot) -> None:
    """base_link -> camera, 0.4 m up and 0.2 m ahead."""
    transform = TransformStamped(child_frame_id=OPTICAL)
    transform.header.frame_id = 'base_link'
    transform.transform.translation.x, transform.transform.translation.z = 0.2, 0.4
    # REP 103 optical axes, then pitched down by 15 degrees about the camera's x: q_base * q_pitch.
    half = np.radians(-15.0) / 2
    ax, ay, az, aw = -0.5, 0.5, -0.5, 0.5
    bx, bw = np.sin(half), np.cos(half)
    rotation = transform.transform.rotation
    rotation.x, rotation.y = aw * bx + ax * bw, ay * bw + az * bx
    rotation.z, rotation.w = az * bw - ay * bx, aw * bw - ax * bx
    robot.broadcaster = StaticTransformBroadcaster(robot)
    robot.broadcaster.sendTransform(transform)


def test_the_mount_of_this_test_looks_down(published: Published) -> None:
    base_from_cam = judges.transform_at(published.buffer, 'base_link', OPTICAL, published['odom'][0].header.stamp)
    np.testing.assert_allclose(base_from_cam[:3, 2], [np.cos(np.radians(15)), 0, -np.sin(np.radians(15))], atol=1e-9)


def test_depth_image_proc_gets_the_points_that_we_publish(published: Published) -> None:
    for depth, colour, info, cloud in published.frames(
        'depth/image_rect', 'rgb/image_rect_color', 'rgb/camera_info', 'points'
    ):
        points, colours = judges.depth_image_proc(depth, colour, info)
        ours = np.stack(judges.cloud_columns(cloud, 'x', 'y', 'z'), axis=-1).reshape(points.shape)
        assert np.array_equal(np.isfinite(ours[..., 2]), np.isfinite(points[..., 2]))
        known = np.isfinite(points[..., 2])
        assert known.mean() > 0.5
        error = np.linalg.norm(ours[known] - points[known], axis=-1) / np.linalg.norm(points[known], axis=-1)
        assert error.max() < 1e-5  # float32; the contract asks for 1e-3
        np.testing.assert_array_equal(judges.rviz_colours(cloud)[known], colours[known])
        assert np.ptp(points[known][:, 2]) > 0.1  # a real scene, no flat wall


def test_nvblox_integrates_every_frame_and_never_stops(published: Published) -> None:
    nvblox = judges.Nvblox(published.buffer)
    for frame in published.frames('depth/image_rect', 'depth/camera_info', 'rgb/image_rect_color', 'rgb/camera_info'):
        nvblox.take(*frame)
    assert nvblox.integrated == COUNT


def test_rtabmap_synchronises_every_frame_and_believes_the_odometry(published: Published) -> None:
    rtabmap = judges.Rtabmap(published.buffer)
    for frame in published.frames('rgb/image_rect_color', 'depth/image_rect', 'rgb/camera_info', 'odom'):
        rtabmap.take(*frame)
        assert not rtabmap.is_lost
    assert len(rtabmap.variances) == COUNT


def test_octomap_casts_its_rays_from_the_camera(published: Published) -> None:
    for topic in ('points', 'points_filtered'):
        for cloud, camera in published.frames(topic, 'camera_pose'):
            origin, ends = judges.octomap(cloud, published.buffer)
            position = camera.pose.position
            np.testing.assert_allclose(origin, [position.x, position.y, position.z], atol=1e-6)
            assert len(ends) > 100


def test_nav2_marks_what_is_above_the_floor_and_near(published: Published) -> None:
    for cloud in published['points_filtered']:
        everything = judges.nav2_obstacles(cloud, published.buffer, -np.inf, np.inf, np.inf)
        assert len(everything) == cloud.width  # finite, every one of them
        median = float(np.median(everything[:, 2]))
        upper = judges.nav2_obstacles(cloud, published.buffer, median, np.inf, np.inf)
        assert 0.4 < len(upper) / len(everything) < 0.6


def test_rviz_draws_the_depth_cloud(published: Published) -> None:
    for depth, info in published.frames('depth/image_rect', 'depth/camera_info'):
        judges.rviz_depth_cloud('/vggt/depth/image_rect', depth, {'/vggt/depth/camera_info': info})


def test_a_laser_scan_for_slam_toolbox_is_the_middle_row_of_the_cloud(published: Published) -> None:
    for depth, info, cloud in published.frames('depth/image_rect', 'depth/camera_info', 'points'):
        angles, ranges = judges.laserscan(depth, info)
        x, _, z = (one.reshape(cloud.height, cloud.width) for one in judges.cloud_columns(cloud, 'x', 'y', 'z'))
        row = int(info.k[5] - 0.5)
        known = np.isfinite(ranges)
        np.testing.assert_allclose(ranges[known], np.hypot(x[row], z[row])[known], rtol=1e-5)
        np.testing.assert_allclose(angles[known], -np.arctan2(x[row], z[row])[known], atol=1e-5)
        assert (np.diff(angles) < 0).all()


# The judges do reject what the consumers reject.


def changed(message: Any, change: Callable[[Any], None]) -> Any:
    other = copy.deepcopy(message)
    change(other)
    return other


def test_judges_notice_other_stamps_sizes_and_encodings(published: Published) -> None:
    depth, colour, info = (published[t][0] for t in ('depth/image_rect', 'rgb/image_rect_color', 'rgb/camera_info'))
    late = changed(colour, lambda one: setattr(one.header.stamp, 'nanosec', one.header.stamp.nanosec ^ 1))
    wide = changed(colour, lambda one: setattr(one, 'width', one.width + 1))
    blue = changed(colour, lambda one: setattr(one, 'encoding', 'bgr8'))
    odom = published['odom'][0]
    for other, reason in ((late, 'stamps'), (wide, 'size')):
        with pytest.raises(RejectedError, match=reason):
            judges.depth_image_proc(depth, other, info)
        with pytest.raises(RejectedError, match=reason):
            judges.Rtabmap(published.buffer).take(other, depth, info, odom)
    with pytest.raises(RejectedError, match='bgr8'):
        judges.Nvblox(published.buffer).take(depth, info, blue, info)


def test_judges_notice_a_camera_that_changes(published: Published) -> None:
    (depth, info, colour, _), *_ = published.frames(
        'depth/image_rect', 'depth/camera_info', 'rgb/image_rect_color', 'rgb/camera_info'
    )
    nvblox = judges.Nvblox(published.buffer)
    nvblox.take(depth, info, colour, info)
    zoomed = changed(info, lambda one: one.k.__setitem__(0, one.k[0] * 1.001))
    with pytest.raises(RejectedError, match='CHECK failed'):
        nvblox.take(depth, zoomed, colour, zoomed)


def test_judges_notice_missing_tf(published: Published) -> None:
    depth, info, colour = (published[t][0] for t in ('depth/image_rect', 'depth/camera_info', 'rgb/image_rect_color'))
    empty = tf2_ros.Buffer()
    with pytest.raises(RejectedError, match='no transform odom'):
        judges.Nvblox(empty).take(depth, info, colour, info)
    with pytest.raises(RejectedError, match='no transform'):
        judges.octomap(published['points'][0], empty)


def test_judges_notice_odometry_that_begins_anew_and_covariance_of_nothing(published: Published) -> None:
    colour, depth, info, odom = published.frames('rgb/image_rect_color', 'depth/image_rect', 'rgb/camera_info', 'odom')[
        -1
    ]

    def identity(one: Odometry) -> None:
        one.pose.pose.position.x = one.pose.pose.position.y = one.pose.pose.position.z = 0.0
        one.pose.pose.orientation.x = one.pose.pose.orientation.y = one.pose.pose.orientation.z = 0.0
        one.pose.pose.orientation.w = 1.0

    rtabmap = judges.Rtabmap(published.buffer)
    rtabmap.take(colour, depth, info, odom)
    with pytest.raises(RejectedError, match='a new map begins'):
        rtabmap.take(colour, depth, info, changed(odom, identity))
    zero = changed(odom, lambda one: [c.__setitem__(0, 0.0) for c in (one.pose.covariance, one.twist.covariance)])
    with pytest.raises(RejectedError, match='ignored'):
        judges.Rtabmap(published.buffer).take(colour, depth, info, zero)
    lost = changed(odom, lambda one: [c.__setitem__(0, 9999.0) for c in (one.pose.covariance, one.twist.covariance)])
    rtabmap.take(colour, depth, info, lost)
    assert rtabmap.is_lost


def test_judges_notice_a_cloud_in_another_frame_than_the_camera(published: Published) -> None:
    """In the world frame octomap would cast its rays from the world's origin."""
    cloud, camera = published['points'][-1], published['camera_pose'][-1]
    in_world = changed(cloud, lambda one: setattr(one.header, 'frame_id', 'odom'))
    origin, _ = judges.octomap(in_world, published.buffer)
    position = camera.pose.position
    assert np.linalg.norm(origin - [position.x, position.y, position.z]) > 0.1


def test_stamps_of_all_topics_are_those_of_the_images(published: Published, clip: Clip) -> None:
    for topic in TOPICS:
        assert [stamp_ns(message) for message in published[topic]] == clip.stamps_ns[:COUNT], topic
