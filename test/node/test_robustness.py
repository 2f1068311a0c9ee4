"""Section 6 of the contract: what goes wrong on robots, and what the node does then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.parameter import Parameter
from robot import CAMERA_INFO, IMAGE, OPTICAL, Clip, Robot, raw_image, rgb8
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from vggt_ros.core.predictor import FakePredictor
from vggt_ros.node import VggtNode

DEPTH, INFO, COLOUR = '/vggt/depth/image_rect', '/vggt/depth/camera_info', '/vggt/rgb/image_rect_color'
SMALL = {'standalone': True, 'window_size': 4, 'window_stride': 2}
MakeNode = Callable[..., VggtNode]


class Camera:
    """A driver that sends an image, and with it whatever CameraInfo a test wants.

    Args:
        robot: owns the publishers.
        clip: the images.
    """

    def __init__(self, robot: Robot, clip: Clip) -> None:
        self._robot, self._clip = robot, clip
        robot.start_camera()

    def send(
        self, node: VggtNode, i: int, *, image: np.ndarray | None = None, stamp_ns: int | None = None, **info: Any
    ) -> None:
        """Send frame i and wait until it is taken; info are fields of CameraInfo."""
        image = self._clip.images[i] if image is None else image
        stamp_ns = self._clip.stamps_ns[i] if stamp_ns is None else stamp_ns
        header = Header(frame_id=OPTICAL)
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
        height, width = image.shape[:2]
        fields = {
            'height': height,
            'width': width,
            'k': self._clip.K.reshape(9),
            'distortion_model': 'plumb_bob',
            **info,
        }
        before = node._pipeline.statistics.frames + node._worker.tally.bad_images
        self._robot._camera['info'].publish(CameraInfo(header=header, **fields))
        time.sleep(0.05)  # the calibration first: the two topics are not ordered
        self._robot._camera['image'].publish(rgb8(header, image))
        self._robot.wait_until(
            lambda: node._pipeline.statistics.frames + node._worker.tally.bad_images > before, f'taking of image {i}'
        )


@pytest.fixture
def camera(robot: Robot, clip: Clip) -> Camera:
    return Camera(robot, clip)


# Calibration.


def test_a_distorted_lens_is_rectified_and_published_as_a_pinhole(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    """Compared with OpenCV's undistort, which shares no code with the maps in use."""
    robot.listen(CameraInfo, INFO)
    robot.listen(Image, COLOUR)
    robot.listen(Image, DEPTH)
    node = make_node(**SMALL, confidence_percentile=0.0, output_resolution='input')
    robot.wait_for_match(node)
    d = [-0.3, 0.1, 0.001, -0.002, 0.0]
    P = clip.K * [[0.8], [0.8], [1.0]] + [[0, 0, 60.0], [0, 0, 40.0], [0, 0, 0]]  # wider than the lens: a black border
    for i in range(4):
        camera.send(node, i, d=d, p=np.hstack([P, np.zeros((3, 1))]).reshape(12), r=np.eye(3).reshape(9))
    robot.wait_until(lambda: len(robot.received[COLOUR]) == 4, 'results')
    info = robot.received[INFO][0]
    assert not np.any(info.d)
    np.testing.assert_allclose(np.reshape(info.k, (3, 3)), P, rtol=1e-9)
    message = robot.received[COLOUR][0]
    got = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
    expected = cv2.undistort(clip.images[0], clip.K, np.array(d), None, P)
    inner = (slice(120, 360), slice(160, 480))
    assert np.abs(got[inner].astype(int) - expected[inner]).mean() < 1  # of 255; the raw image is some 20 off
    robot.wait_until(lambda: robot.received[DEPTH], 'depth')
    depth = np.frombuffer(robot.received[DEPTH][0].data, '<f4').reshape(message.height, message.width)
    assert np.isnan(depth[:8, :8]).all()  # the border shows nothing
    assert np.isfinite(depth[inner]).all()
    assert 'distortion' not in caplog.text


def test_without_rectifying_distortion_is_warned_of_once(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    robot.listen(CameraInfo, INFO)
    node = make_node(**SMALL, rectify='never')
    robot.wait_for_match(node)
    for i in range(4):
        camera.send(node, i, d=[-0.3, 0.1, 0.0, 0.0, 0.0])
    robot.wait_until(lambda: len(robot.received[INFO]) == 4, 'results')
    assert not np.any(robot.received[INFO][0].d)
    assert sum('lens distortion' in record.getMessage() for record in caplog.records) == 1


def test_region_of_interest_and_binning_reach_the_published_intrinsics(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip
) -> None:
    robot.listen(CameraInfo, INFO)
    node = make_node(**SMALL, output_resolution='input')
    robot.wait_for_match(node)
    roi = RegionOfInterest(x_offset=100, y_offset=60, width=400, height=300)
    for i in range(4):
        image = np.ascontiguousarray(clip.images[i][60:360:2, 100:500:2])
        camera.send(node, i, image=image, height=480, width=640, roi=roi, binning_x=2, binning_y=2)
    robot.wait_until(lambda: len(robot.received[INFO]) == 4, 'results')
    K = np.reshape(robot.received[INFO][0].k, (3, 3))
    assert (robot.received[INFO][0].width, robot.received[INFO][0].height) == (200, 150)
    expected = [clip.K[0, 0] / 2, clip.K[1, 1] / 2, (clip.K[0, 2] - 99.5) / 2 - 0.5, (clip.K[1, 2] - 59.5) / 2 - 0.5]
    np.testing.assert_allclose([K[0, 0], K[1, 1], K[0, 2], K[1, 2]], expected, rtol=1e-9)


def test_a_calibration_that_comes_late_is_waited_for(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip
) -> None:
    robot.listen(CameraInfo, INFO)
    node = make_node(**SMALL, camera_info_timeout_s=20.0)
    robot.wait_for_match(node)
    for i in range(3):
        robot.publish_frame(clip, i, info=False)
    time.sleep(0.5)
    assert node._pipeline.statistics.frames == 0
    robot.publish_frame(clip, 3)
    robot.wait_until(lambda: len(robot.received[INFO]) >= 2, 'results')
    for message in robot.received[INFO]:
        assert message.k[0] == pytest.approx(clip.K[0, 0] * message.width / 640)


def test_an_uncalibrated_camera_counts_as_one_without_camera_info(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip
) -> None:
    """K[0] of 0 says so. Source: sensor_msgs/msg/CameraInfo.msg."""
    robot.listen(CameraInfo, INFO)
    robot.listen(DiagnosticArray, '/diagnostics')
    node = make_node(**SMALL)
    robot.wait_for_match(node)
    for i in range(4):
        camera.send(node, i, k=np.zeros(9))
    robot.wait_until(lambda: len(robot.received[INFO]) == 4, 'results')
    assert robot.received[INFO][0].k[0] == robot.received[INFO][0].width  # what the fake network sees
    robot.wait_until(lambda: 'no CameraInfo' in said(robot, 'input')[1], 'word of it in the diagnostics')


def test_a_calibration_or_size_that_changes_is_an_error_in_the_diagnostics(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    robot.listen(CameraInfo, INFO)
    robot.listen(DiagnosticArray, '/diagnostics')
    node = make_node(**SMALL)
    robot.wait_for_match(node)
    for i in range(4):
        camera.send(node, i)
    half = [np.ascontiguousarray(image[::2, ::4]) for image in clip.images[4:8]]
    for i, image in enumerate(half, 4):
        camera.send(node, i, image=image, k=(clip.K * [[0.25], [0.5], [1]]).reshape(9))
    robot.wait_until(lambda: len(robot.received[INFO]) == 8, 'results of both')
    sizes = [(message.width, message.height) for message in robot.received[INFO]]
    assert len(set(sizes[:4])) == len(set(sizes[4:])) == 1
    assert sizes[0] != sizes[-1]
    assert node._pipeline.statistics.restarts == 1  # no window has images of two sizes
    robot.wait_until(lambda: OPTICAL in said(robot, 'output')[1], 'error')
    assert said(robot, 'output')[0] == b'\x02'
    assert 'nvblox' in said(robot, 'output')[1]


# Images.


@pytest.mark.parametrize('encoding', ['mono8', 'mono16'])
def test_grey_images_are_taken_and_said_once(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip, caplog: pytest.LogCaptureFixture, encoding: str
) -> None:
    def grey(header: Header, image: np.ndarray) -> Image:
        pixels = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return raw_image(header, encoding, pixels if encoding == 'mono8' else pixels.astype(np.uint16) * 257)

    caplog.set_level(logging.INFO)
    robot.listen(Image, COLOUR)
    node = make_node(**SMALL)
    robot.wait_for_match(node)
    robot.publish_clip(clip, range(4), node, make=grey)
    robot.wait_until(lambda: len(robot.received[COLOUR]) == 4, 'results')
    pixels = np.frombuffer(robot.received[COLOUR][0].data, np.uint8).reshape(-1, 3)
    assert (pixels == pixels[:, :1]).all()
    assert 50 < pixels.mean() < 200
    assert sum('images are grey' in record.getMessage() for record in caplog.records) == 1


def test_a_zero_stamp_and_a_duplicate_are_dropped(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    robot.listen(Image, DEPTH)
    node = make_node(**SMALL)
    robot.wait_for_match(node)
    for i in (0, 1, 1, 2):
        camera.send(node, i)
    camera.send(node, 3, stamp_ns=0)
    camera.send(node, 3)
    robot.wait_until(lambda: len(robot.received[DEPTH]) == 4, 'results')
    assert [stamp(message) for message in robot.received[DEPTH]] == clip.stamps_ns[:4]
    assert node._pipeline.statistics.duplicates == 1
    assert 'stamp 0' in caplog.text


@pytest.mark.parametrize('form', ['.jpg', '.png'])
def test_compressed_colour_and_sixteen_bit_grey_are_taken(
    robot: Robot, make_node: MakeNode, clip: Clip, form: str
) -> None:
    def compress(header: Header, image: np.ndarray) -> CompressedImage:
        if form == '.png':
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257
            message = CompressedImage(header=header, format='mono16; png compressed ')
            message.data.frombytes(cv2.imencode(form, grey)[1].tobytes())
        else:
            message = CompressedImage(header=header, format='bgr8; jpeg compressed bgr8')
            message.data.frombytes(cv2.imencode(form, image[..., ::-1])[1].tobytes())
        return message

    robot.start_camera(kind=CompressedImage, image=f'{IMAGE}/compressed')
    robot.listen(Image, COLOUR)
    node = make_node(**SMALL, image_transport='compressed')
    robot.wait_for_match(node)
    robot.publish_clip(clip, range(4), node, make=compress)
    robot.wait_until(lambda: len(robot.received[COLOUR]) == 4, 'results')
    message = robot.received[COLOUR][0]
    got = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3).astype(float)
    expected = cv2.resize(clip.images[0], (message.width, message.height), interpolation=cv2.INTER_AREA).astype(float)
    if form == '.png':
        expected = np.repeat((expected @ [0.299, 0.587, 0.114])[..., None], 3, axis=-1)
    assert np.abs(got - expected).mean() < 4  # swapped colours would cost tens


# Time.


def test_a_stamp_in_the_future_is_said_and_processed_all_the_same(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    robot.listen(Image, DEPTH)
    node = make_node(**SMALL)
    robot.wait_for_match(node)
    ahead = time.time_ns() + 60 * 10**9
    for i in range(4):
        camera.send(node, i, stamp_ns=ahead + i * 10**8)
    robot.wait_until(lambda: len(robot.received[DEPTH]) == 4, 'results')
    lines = [record.getMessage() for record in caplog.records if 'ahead of the clock here' in record.getMessage()]
    assert len(lines) == 1
    assert 'synchronise' in lines[0]


def test_a_gap_in_the_images_shows_in_the_diagnostics_and_ends(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip
) -> None:
    robot.listen(Odometry, '/vggt/odom')
    robot.listen(DiagnosticArray, '/diagnostics')
    node = make_node(**SMALL, max_frame_gap_s=1.0)
    robot.wait_for_match(node)
    for i in range(5):
        camera.send(node, i)
    robot.wait_until(lambda: 'max_frame_gap_s is 1' in said(robot, 'input')[1], 'gap')
    assert said(robot, 'input')[0] == b'\x01'
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 5, 'what waited')
    for i in range(5, 9):
        camera.send(node, i, stamp_ns=clip.stamps_ns[i] + 3 * 10**9)
    robot.wait_until(lambda: said(robot, 'input')[1] == 'images come', 'end of the gap')
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 9, 'results after the gap')
    assert len({message.header.frame_id for message in robot.received['/vggt/odom']}) == 1


# TF.


def test_another_publisher_of_our_transform_is_named(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    robot.listen(Odometry, '/vggt/odom')
    robot.listen(DiagnosticArray, '/diagnostics')
    rival = robot.create_publisher(TFMessage, '/tf', 10)
    node = make_node(**SMALL)
    robot.wait_for_match(node)
    for i in range(4):
        camera.send(node, i)
    robot.wait_until(lambda: node._tf_watch._subscription is not None, 'watch')
    deadline = time.monotonic() + 10
    while 'another node publishes' not in caplog.text and time.monotonic() < deadline:
        transform = TransformStamped(child_frame_id='base_link')
        transform.header.frame_id = 'wheel_odom'
        transform.header.stamp = robot.get_clock().now().to_msg()
        transform.transform.rotation.w = 1.0
        rival.publish(TFMessage(transforms=[transform]))
        time.sleep(0.05)
    (line,) = [r.getMessage() for r in caplog.records if 'another node publishes' in r.getMessage()]
    assert 'wheel_odom -> base_link' in line
    assert 'publish_odom_to_base_tf' in line
    assert 'robot' in line.rpartition(':')[2]  # the node that does it
    robot.wait_until(lambda: 'wheel_odom -> base_link' in said(robot, 'output')[1], 'word in the diagnostics')


def test_our_own_transforms_are_no_rival(robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip) -> None:
    robot.listen(TFMessage, '/tf')
    node = make_node(**SMALL)
    robot.wait_for_match(node)
    robot.wait_until(lambda: node._tf_watch._subscription is not None, 'watch')
    robot.wait_until(lambda: node._tf_watch._subscription.get_publisher_count() > 0, 'watch to hear us')
    for i in range(4):
        camera.send(node, i)
    robot.wait_until(lambda: len(robot.received['/tf']) == 4, 'TF')
    time.sleep(0.3)
    assert node._tf_watch.describe() == ''


def test_edges_can_be_inverted_and_turned_off(robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip) -> None:
    robot.listen(TFMessage, '/tf')
    robot.listen(Odometry, '/vggt/odom')
    node = make_node(**SMALL, invert_odom_to_base_tf=True)
    robot.wait_for_match(node)
    for i in range(4):
        camera.send(node, i)
    robot.wait_until(lambda: len(robot.received['/tf']) == 4, 'TF')
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 4, 'odometry')
    for message, odometry in zip(robot.received['/tf'], robot.received['/vggt/odom'], strict=True):
        (transform,) = message.transforms
        assert (transform.header.frame_id, transform.child_frame_id) == ('base_link', 'odom')
        there, back = odometry.pose.pose.position, transform.transform.translation
        np.testing.assert_allclose([back.x, back.y, back.z], [-there.x, -there.y, -there.z], atol=1e-9)
    (result,) = node.set_parameters([Parameter('publish_odom_to_base_tf', value=False)])
    assert result.successful
    for i in range(4, 6):
        camera.send(node, i)
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 6, 'odometry without TF')
    assert len(robot.received['/tf']) == 4


def test_the_static_transform_is_there_for_who_comes_late(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip
) -> None:
    robot.listen(Odometry, '/vggt/odom')
    node = make_node(**SMALL)
    robot.wait_for_match(node)
    for i in range(4):
        camera.send(node, i)
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 4, 'results')
    robot.listen(TFMessage, '/tf_static', latched=True)
    robot.wait_until(lambda: robot.received['/tf_static'], 'static TF')
    (transform,) = robot.received['/tf_static'][0].transforms
    assert (transform.header.frame_id, transform.child_frame_id) == ('base_link', OPTICAL)


# The network.


class OutOfMemoryError(RuntimeError):
    """As torch.cuda's is called."""


def test_windows_are_halved_when_the_memory_runs_out(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    works = FakePredictor.predict

    def predict(self: FakePredictor, window: Any) -> Any:
        if len(window.frames) > 4:
            raise OutOfMemoryError('CUDA out of memory')
        return works(self, window)

    monkeypatch.setattr(FakePredictor, 'predict', predict)
    robot.listen(Image, DEPTH)
    robot.listen(DiagnosticArray, '/diagnostics')
    node = make_node(standalone=True, window_size=8, window_stride=4)
    robot.wait_for_match(node)
    for i in range(14):
        camera.send(node, i)
    robot.wait_until(lambda: len(robot.received[DEPTH]) >= 8, 'results of smaller windows')
    stamps = [stamp(message) for message in robot.received[DEPTH]]
    assert stamps == clip.stamps_ns[5 : 5 + len(stamps)]  # of the eight that were too many, three get another chance
    assert 'going on with windows of 4 frames, 2 of them new' in caplog.text
    robot.wait_until(lambda: 'half as long' in said(robot, 'inference')[1], 'word in the diagnostics')
    assert node._state_machine.current_state[1] == 'active'


def test_memory_that_is_never_enough_deactivates_the_node_and_nothing_dies(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def predict(self: FakePredictor, window: Any) -> Any:
        raise OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(FakePredictor, 'predict', predict)
    node = make_node(**SMALL)
    robot.wait_for_match(node)
    for i in range(8):
        robot.publish_frame(clip, i)
        time.sleep(0.05)
    robot.wait_until(lambda: node._state_machine.current_state[1] == 'inactive', 'deactivation')
    assert 'lower window_size or input_width' in caplog.text


def test_nothing_but_nan_is_published_as_unknown_and_lost(
    robot: Robot, camera: Camera, make_node: MakeNode, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = FakePredictor.predict

    def predict(self: FakePredictor, window: Any) -> Any:
        prediction = works(self, window)
        prediction.depth[:] = np.nan
        prediction.cam_from_window[:] = np.nan
        return prediction

    monkeypatch.setattr(FakePredictor, 'predict', predict)
    robot.listen(Image, DEPTH)
    robot.listen(Odometry, '/vggt/odom')
    node = make_node(**SMALL)
    robot.wait_for_match(node)
    for i in range(4):
        camera.send(node, i)
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 4, 'odometry')
    robot.wait_until(lambda: len(robot.received[DEPTH]) == 4, 'depth')
    for message in robot.received[DEPTH]:
        assert np.isnan(np.frombuffer(message.data, '<f4')).all()
    for message in robot.received['/vggt/odom']:
        assert min(message.pose.covariance[0], message.twist.covariance[0]) >= 9999  # what rtabmap reads as lost


def stamp(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def said(robot: Robot, task: str) -> tuple[bytes, str]:
    """Level and sentence of a task in the newest diagnostics."""
    arrays = robot.received['/diagnostics']
    statuses = [one for one in arrays[-1].status if one.name.endswith(f': {task}')] if arrays else []
    return (statuses[0].level, statuses[0].message) if statuses else (b'', '')


assert CAMERA_INFO.rpartition('/')[0] == IMAGE.rpartition('/')[0]  # the sibling that is found by itself
