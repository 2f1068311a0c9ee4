"""The real node in one process; in this one a robot that sends real frames and reads the results with its own code."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PoseArray, PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from robot import OPTICAL, Clip, NodeProcess, Robot
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage

COUNT, SIZE, STRIDE = 12, 4, 2  # frames sent; windows of 4 with 2 new: the last frame ends the fifth window
GRID = (84, 112)  # height and width of the fake network's output for 640x480
SPEED = 0.1  # metres a second to the right: what the fake network sees
WALL = 2.0  # metres
PER_FRAME = {
    '/vggt/depth/image_rect': Image,
    '/vggt/depth/camera_info': CameraInfo,
    '/vggt/rgb/image_rect_color': Image,
    '/vggt/rgb/camera_info': CameraInfo,
    '/vggt/confidence': Image,
    '/vggt/depth/image_color': Image,
    '/vggt/points': PointCloud2,
    '/vggt/points_filtered': PointCloud2,
    '/vggt/odom': Odometry,
    '/vggt/pose': PoseWithCovarianceStamped,
    '/vggt/camera_pose': PoseStamped,
}
PER_WINDOW = {'/vggt/world_points': PointCloud2, '/vggt/path': Path, '/vggt/window_poses': PoseArray}


@pytest.fixture(scope='module')
def live(module_robot: Robot, start_module_node: Callable[..., NodeProcess], clip: Clip) -> Robot:
    """All that the node published for COUNT frames."""
    robot = module_robot
    robot.start_camera()
    for topic, kind in {**PER_FRAME, **PER_WINDOW}.items():
        robot.listen(kind, topic)
    robot.listen(Image, '/vggt/depth/image_rect', key='best effort depth', reliable=False)
    robot.listen(TFMessage, '/tf')
    robot.listen(TFMessage, '/tf_static', latched=True)
    node = start_module_node(
        standalone=True,
        window_size=SIZE,
        window_stride=STRIDE,
        confidence_percentile=0.0,
        input_reliability='reliable',  # so that every frame arrives
    )
    robot.wait_for_match()
    for i in range(COUNT):
        robot.publish_clip(clip, range(i, i + 1), period_s=0.3)  # time to take it, also on a busy machine
        sent, windows = i + 1, (i + 1 - SIZE) // STRIDE + 1
        if sent >= SIZE and (sent - SIZE) % STRIDE == 0:
            has_all = {**dict.fromkeys(PER_FRAME, sent), **dict.fromkeys(PER_WINDOW, windows)}
            robot.wait_until(
                lambda due=has_all: all(len(robot.received[topic]) >= count for topic, count in due.items()),
                f'results of the window that ends with frame {i}',
            )
    robot.wait_until(lambda: robot.received['/tf_static'], 'static TF')
    node.wait_for_text('waiting for images')
    return robot


@pytest.mark.parametrize('topic', PER_FRAME)
def test_each_frame_comes_back_once_in_order_with_its_own_stamp(live: Robot, clip: Clip, topic: str) -> None:
    assert [stamp_ns(message) for message in live.received[topic]] == clip.stamps_ns[:COUNT]


def test_tf_has_each_stamp_once_and_in_order(live: Robot, clip: Clip) -> None:
    stamps = [stamp_ns(transform) for message in live.received['/tf'] for transform in message.transforms]
    assert stamps == clip.stamps_ns[:COUNT]


def test_best_effort_subscribers_receive_as_well(live: Robot) -> None:
    # How many is up to the transport: DDS may drop what best effort asked for, above all from a burst.
    live.wait_until(lambda: live.received['best effort depth'], 'best effort depth')


def test_frames_are_those_of_rep_103_and_105(live: Robot) -> None:
    optical = {topic for topic, kind in PER_FRAME.items() if kind in (Image, CameraInfo, PointCloud2)}
    for topic, messages in live.received.items():
        if topic in optical:
            assert {message.header.frame_id for message in messages} == {OPTICAL}, topic
        elif topic.startswith('/vggt/'):
            assert {message.header.frame_id for message in messages} == {'odom'}, topic
    assert {message.child_frame_id for message in live.received['/vggt/odom']} == {'base_link'}


def test_images_have_the_encodings_and_one_size(live: Robot) -> None:
    encodings = {'depth/image_rect': '32FC1', 'rgb/image_rect_color': 'rgb8', 'confidence': '32FC1'}
    encodings['depth/image_color'] = 'rgb8'
    for topic, encoding in encodings.items():
        for message in live.received[f'/vggt/{topic}']:
            assert (message.encoding, message.height, message.width) == (encoding, *GRID)
            assert len(message.data) == message.step * message.height


def test_camera_info_is_the_calibration_moved_to_the_grid(live: Robot, clip: Clip) -> None:
    scale = GRID[1] / 640
    expected = clip.K * scale
    expected[2, 2] = 1
    expected[:2, 2] += (scale - 1) / 2  # pixel centres are at integers: c' = (c + 0.5) s - 0.5
    for topic in ('/vggt/depth/camera_info', '/vggt/rgb/camera_info'):
        for info in live.received[topic]:
            assert (info.height, info.width) == GRID
            np.testing.assert_allclose(np.reshape(info.k, (3, 3)), expected, rtol=1e-12)
            np.testing.assert_array_equal(np.reshape(info.p, (3, 4))[:, :3], np.reshape(info.k, (3, 3)))
            assert not np.any(info.d)
            assert np.array_equal(np.reshape(info.r, (3, 3)), np.eye(3))


def test_colour_is_that_of_the_image_sent(live: Robot, clip: Clip) -> None:
    for message, image in zip(live.received['/vggt/rgb/image_rect_color'], clip.images, strict=False):
        got = np.frombuffer(message.data, np.uint8).reshape(*GRID, 3).astype(int)
        expected = cv2.resize(image, GRID[::-1], interpolation=cv2.INTER_AREA).astype(int)
        # A swap of red and blue would show as tens of levels; another resampling filter as a few.
        assert np.abs(got - expected).mean() < 3


def test_cloud_is_the_depth_image_seen_through_k(live: Robot) -> None:
    for depth_message, info, cloud in zip(
        *(live.received[f'/vggt/{t}'] for t in ('depth/image_rect', 'depth/camera_info', 'points')), strict=True
    ):
        depth = np.frombuffer(depth_message.data, '<f4').reshape(GRID)
        assert (cloud.height, cloud.width, cloud.point_step, cloud.is_dense) == (*GRID, 16, False)
        assert [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields] == [
            ('x', 0, 7, 1), ('y', 4, 7, 1), ('z', 8, 7, 1), ('rgb', 12, 7, 1),
        ]  # fmt: skip
        points = np.frombuffer(cloud.data, '<f4').reshape(*GRID, 4)
        fx, _, cx, _, fy, cy = info.k[:6]
        known = np.isfinite(depth)
        assert known.any()
        assert np.array_equal(known, np.isfinite(points[..., 2]))
        v, u = np.nonzero(known)
        x, y, z = points[known][:, :3].astype(np.float64).T
        assert np.abs(x / z * fx + cx - u).max() < 1e-3  # pixels
        assert np.abs(y / z * fy + cy - v).max() < 1e-3
        np.testing.assert_array_equal(points[known][:, 2], depth[known])


def test_points_carry_the_colour_of_their_pixel(live: Robot) -> None:
    cloud, image = live.received['/vggt/points'][3], live.received['/vggt/rgb/image_rect_color'][3]
    for u, v in ((0, 0), (50, 40), (111, 83)):
        (packed,) = struct.unpack_from('<I', cloud.data, v * cloud.row_step + u * 16 + 12)
        assert list(packed.to_bytes(4, 'big')[1:]) == list(image.data[v * image.step + 3 * u :][:3])


def test_filtered_cloud_is_finite(live: Robot) -> None:
    for cloud in live.received['/vggt/points_filtered']:
        points = np.frombuffer(cloud.data, '<f4').reshape(-1, 4)[:, :3]
        assert cloud.is_dense
        assert cloud.height == 1
        assert cloud.width == len(points) > 0
        assert np.isfinite(points).all()


def test_odometry_is_the_known_motion(live: Robot, clip: Clip) -> None:
    """The fake network sees a camera gliding to the right, which is -y of a robot that looks ahead."""
    for message, stamp in zip(live.received['/vggt/odom'], clip.stamps_ns, strict=False):
        seconds = (stamp - clip.stamps_ns[0]) / 1e9
        position, _ = pose_of(message.pose.pose)
        np.testing.assert_allclose(position, [0, -SPEED * seconds, 0], atol=1e-6)
        assert message.twist.twist.linear.y == pytest.approx(-SPEED, abs=1e-6) or stamp == clip.stamps_ns[0]
        covariance = np.reshape(message.pose.covariance, (6, 6))
        assert (np.diag(covariance) > 0).all()


def test_tf_equals_odometry_and_leads_to_the_camera(live: Robot) -> None:
    (static,) = live.received['/tf_static'][0].transforms
    assert (static.header.frame_id, static.child_frame_id) == ('base_link', OPTICAL)
    base_from_cam = transform_of(static)
    # REP 103: forward of the camera (z) is forward of the base (x), down (y) is -z.
    np.testing.assert_allclose(base_from_cam[:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(base_from_cam[:3, :3] @ [0, 1, 0], [0, 0, -1], atol=1e-12)
    for tf, odometry, camera in zip(
        *(live.received[t] for t in ('/tf', '/vggt/odom', '/vggt/camera_pose')), strict=True
    ):
        (transform,) = tf.transforms
        assert (transform.header.frame_id, transform.child_frame_id) == ('odom', 'base_link')
        odom_from_base = transform_of(transform)
        np.testing.assert_allclose(odom_from_base, matrix(*pose_of(odometry.pose.pose)), atol=1e-12)
        np.testing.assert_allclose(odom_from_base @ base_from_cam, matrix(*pose_of(camera.pose)), atol=1e-9)


def test_world_points_are_the_wall_in_the_world(live: Robot) -> None:
    for cloud in live.received['/vggt/world_points']:
        points = np.frombuffer(cloud.data, '<f4').reshape(-1, 4)[:, :3]
        np.testing.assert_allclose(points[:, 0], WALL, atol=1e-5)  # x of the world is ahead of the first camera


def test_tf_leaves_before_the_images_and_clouds_of_its_stamp(live: Robot) -> None:
    for topic in ('/vggt/depth/image_rect', '/vggt/points'):
        for tf_sent, sent in zip(live.sent_at['/tf'], live.sent_at[topic], strict=True):
            assert tf_sent < sent


def test_window_poses_and_path_cover_the_window_and_the_way(live: Robot, clip: Clip) -> None:
    assert [len(message.poses) for message in live.received['/vggt/window_poses']] == [SIZE] * 5
    path = live.received['/vggt/path'][-1]
    assert [stamp_ns(pose) for pose in path.poses] == clip.stamps_ns[:COUNT]


def test_who_comes_late_still_gets_the_map(live: Robot) -> None:
    """The topic is latched, and the camera has stopped by now."""
    live.listen(PointCloud2, '/vggt/map_points', latched=True)
    live.wait_until(lambda: live.received['/vggt/map_points'], 'map')


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def pose_of(pose: Any) -> tuple[np.ndarray, np.ndarray]:
    """Position and unit quaternion xyzw."""
    p, q = pose.position, pose.orientation
    return np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])


def transform_of(transform: Any) -> np.ndarray:
    p, q = transform.transform.translation, transform.transform.rotation
    return matrix(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))


def matrix(position: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """[4, 4] from a position and a quaternion xyzw, written out so that no library's order is trusted."""
    x, y, z, w = quaternion
    assert math.isclose(x * x + y * y + z * z + w * w, 1, abs_tol=1e-9)
    result = np.eye(4)
    result[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    result[:3, 3] = position
    return result
