"""Update -> messages: read back as a subscriber would, with both kinds of message classes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from recordings import FRAME_NS, START_NS, placed_frame, update_of
from scipy.spatial.transform import Rotation

from vggt_ros import cdr
from vggt_ros.clouds import first_in_voxel
from vggt_ros.core.config import Config
from vggt_ros.core.covariance import LOST
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, Sim3, invert_rigid
from vggt_ros.core.submap import SeamStatus
from vggt_ros.decode import stamp_ns
from vggt_ros.encode import Encoder, MessageMaker, colour_depth, standalone_tf_static
from vggt_ros.messages import MessageTypes, bag_messages, bag_typestore, ros_messages
from vggt_ros.topics import TOPIC, TOPICS, resolve, topics_of

BASE_FROM_CAM = BODY_FROM_OPTICAL.copy()
BASE_FROM_CAM[:3, 3] = 0.3, 0.05, 0.4  # in front of the robot's centre, above ground
PER_FRAME = (
    '/tf', '~/odom', '~/pose', '~/camera_pose', '~/depth/image_rect', '~/depth/camera_info', '~/rgb/image_rect_color',
    '~/rgb/camera_info', '~/confidence', '~/depth/image_color', '~/points', '~/points_filtered',
)  # fmt: skip
PER_WINDOW = ('~/world_points', '~/window_poses', '~/path', '~/map_points')


def map_points() -> tuple[np.ndarray, np.ndarray]:
    return np.arange(12, dtype=np.float32).reshape(4, 3), np.array([[1, 2, 3]] * 4, np.uint8)


def encoder(messages: MessageTypes | None = None, **values: Any) -> Encoder:
    return Encoder(Config().with_values(values), messages or bag_messages(), map_points)


def encode_one(messages: MessageTypes, **values: Any) -> dict[str, Any]:
    outputs = encoder(messages, **values).encode(update_of(placed_frame()), BASE_FROM_CAM)
    return {output.topic: output.message for output in outputs}


def points_of(cloud: Any) -> tuple[np.ndarray, np.ndarray]:
    """xyz and rgb by the offsets that the message states."""
    data = np.frombuffer(cloud.data, np.uint8).reshape(cloud.height, cloud.width, cloud.point_step)
    offsets = {field.name: field.offset for field in cloud.fields}
    xyz = np.concatenate([data[..., offsets[axis] :][..., :4].copy().view('<f4') for axis in 'xyz'], axis=-1)
    packed = data[..., offsets['rgb'] :][..., :4].copy().view('<u4')[..., 0]
    return xyz, np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1)


def matrix_of(pose: Any) -> np.ndarray:
    position = getattr(pose, 'position', None) or pose.translation
    q = getattr(pose, 'orientation', None) or pose.rotation
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    matrix[:3, 3] = position.x, position.y, position.z
    return matrix


def test_messages_come_frame_by_frame_tf_first_then_what_belongs_to_the_window():
    frames = [placed_frame(i) for i in range(3)]
    outputs = encoder().encode(update_of(*frames), BASE_FROM_CAM)
    assert [output.topic for output in outputs] == [*PER_FRAME * 3, *PER_WINDOW]
    stamps = [output.stamp_ns for output in outputs]
    assert stamps == sorted(stamps)
    assert set(stamps) == {frame.stamp_ns for frame in frames}


def test_each_message_is_of_the_type_its_topic_promises(messages: MessageTypes):
    outputs = encoder(messages).encode(update_of(placed_frame()), BASE_FROM_CAM)
    for output in outputs:
        assert type(output.message).__name__.split('__')[-1] == TOPIC[output.topic].type.split('/')[-1]
    assert {output.topic for output in outputs} == {topic.name for topic in TOPICS} - {'/tf_static'}


def test_stamps_are_the_images_to_the_nanosecond(messages: MessageTypes):
    for output in encoder(messages).encode(update_of(placed_frame()), BASE_FROM_CAM):
        head = output.message.transforms[0].header if output.topic == '/tf' else output.message.header
        assert stamp_ns(head.stamp) == START_NS == output.stamp_ns


def test_depth_is_metres_along_z_with_nan_where_unknown(messages: MessageTypes):
    message = encode_one(messages)['~/depth/image_rect']
    assert (message.encoding, message.height, message.width, message.step) == ('32FC1', 30, 40, 160)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.float32).reshape(30, 40), placed_frame().depth)


def test_colour_is_rgb8_on_the_grid_of_depth(messages: MessageTypes):
    message = encode_one(messages)['~/rgb/image_rect_color']
    assert (message.encoding, message.height, message.width, message.step) == ('rgb8', 30, 40, 120)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8).reshape(30, 40, 3), placed_frame().image)


def test_confidence_is_raw(messages: MessageTypes):
    message = encode_one(messages)['~/confidence']
    np.testing.assert_array_equal(np.frombuffer(message.data, np.float32).reshape(30, 40), placed_frame().confidence)


def test_camera_info_is_a_pinhole_of_the_depth_image(messages: MessageTypes):
    outputs, frame = encode_one(messages), placed_frame()
    for topic in ('~/depth/camera_info', '~/rgb/camera_info'):
        info = outputs[topic]
        assert (info.height, info.width, info.distortion_model) == (30, 40, 'plumb_bob')
        assert list(info.d) == [0, 0, 0, 0, 0]
        np.testing.assert_array_equal(np.array(info.k).reshape(3, 3), frame.K)
        np.testing.assert_array_equal(np.array(info.r).reshape(3, 3), np.eye(3))
        np.testing.assert_array_equal(np.array(info.p).reshape(3, 4), np.hstack([frame.K, np.zeros((3, 1))]))


def test_the_organised_cloud_projects_back_onto_its_own_pixels(messages: MessageTypes):
    outputs = encode_one(messages)
    cloud, info, frame = outputs['~/points'], outputs['~/depth/camera_info'], placed_frame()
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (30, 40, 16, 640)
    assert not cloud.is_dense
    assert cloud.header.frame_id == 'camera'
    xyz, rgb = points_of(cloud)
    known = np.isfinite(frame.depth)
    np.testing.assert_array_equal(np.isfinite(xyz).all(axis=-1), known)
    uvw = xyz[known].astype(np.float64) @ np.array(info.k).reshape(3, 3).T
    v, u = np.nonzero(known)
    np.testing.assert_allclose(uvw[:, :2] / uvw[:, 2:], np.stack([u, v], axis=1), atol=1e-3)  # float32 of 40 pixels
    np.testing.assert_array_equal(xyz[known][:, 2], frame.depth[known])
    np.testing.assert_array_equal(rgb[known], frame.image[known])


def test_the_filtered_cloud_is_finite_one_point_a_voxel(messages: MessageTypes):
    cloud = encode_one(messages, voxel_size=0.25)['~/points_filtered']
    xyz, _ = points_of(cloud)
    assert cloud.is_dense
    assert cloud.height == 1
    assert np.isfinite(xyz).all()
    cells = np.floor(xyz[0] / 0.25).astype(int)
    assert len(np.unique(cells, axis=0)) == len(cells)
    full, _ = points_of(encode_one(messages)['~/points'])
    every = np.unique(np.floor(full[np.isfinite(full[..., 2])] / 0.25).astype(int), axis=0)
    assert len(cells) == len(every)  # and no voxel is lost


def test_world_points_are_the_frames_points_moved_by_their_poses(messages: MessageTypes):
    frames = [placed_frame(i, seed=i) for i in range(2)]
    outputs = encoder(messages).encode(update_of(*frames), BASE_FROM_CAM)
    clouds = [points_of(output.message)[0] for output in outputs if output.topic == '~/points']
    (world,) = [output.message for output in outputs if output.topic == '~/world_points']
    moved = [
        cloud[np.isfinite(cloud[..., 2])] @ frame.map_from_cam[:3, :3].T + frame.map_from_cam[:3, 3]
        for cloud, frame in zip(clouds, frames, strict=True)
    ]
    assert world.header.frame_id == 'odom'
    np.testing.assert_allclose(points_of(world)[0][0], np.concatenate(moved), atol=1e-5)  # float32


def test_cloud_stride_thins_the_unorganised_clouds_only(messages: MessageTypes):
    outputs = encode_one(messages, cloud_stride=2)
    known = np.isfinite(placed_frame().depth[::2, ::2]).sum()
    assert outputs['~/world_points'].width == known
    assert outputs['~/points'].width == 40


def test_tf_odometry_and_poses_tell_one_story(messages: MessageTypes):
    frame = placed_frame(3)
    outputs = encoder(messages).encode(update_of(frame), BASE_FROM_CAM)
    by_topic = {output.topic: output.message for output in outputs}
    (tf,) = by_topic['/tf'].transforms
    odom = by_topic['~/odom']
    assert (tf.header.frame_id, tf.child_frame_id) == ('odom', 'base_link')
    assert (odom.header.frame_id, odom.child_frame_id) == ('odom', 'base_link')
    odom_from_base = frame.map_from_cam @ invert_rigid(BASE_FROM_CAM)
    for pose in (tf.transform, odom.pose.pose, by_topic['~/pose'].pose.pose):
        np.testing.assert_allclose(matrix_of(pose), odom_from_base, atol=1e-12)
    np.testing.assert_allclose(matrix_of(by_topic['~/camera_pose'].pose), frame.map_from_cam, atol=1e-12)
    # The chain odom -> base -> camera ends where the camera is.
    np.testing.assert_allclose(matrix_of(tf.transform) @ BASE_FROM_CAM, frame.map_from_cam, atol=1e-12)


def test_velocity_is_in_the_robots_own_axes():
    """A robot that has turned left by 90 deg and drives ahead at 3 m/s, turning left at 0.6 rad/s."""
    poses = []
    for i in range(2):
        world_from_base = np.eye(4)
        yaw = np.pi / 2 + 0.6 * FRAME_NS * 1e-9 * i
        world_from_base[:3, :3] = Rotation.from_euler('z', yaw).as_matrix()
        world_from_base[1, 3] = 3.0 * FRAME_NS * 1e-9 * i  # along y of the world, which is ahead of the robot
        poses.append(world_from_base @ BASE_FROM_CAM)
    frames = [placed_frame(i, map_from_cam=pose) for i, pose in enumerate(poses)]
    outputs = encoder().encode(update_of(*frames), BASE_FROM_CAM)
    first, second = [output.message.twist for output in outputs if output.topic == '~/odom']
    linear, angular = second.twist.linear, second.twist.angular
    # The axes are those at the end of the step: turned by 0.02 rad, which is what the tolerance allows.
    np.testing.assert_allclose([linear.x, linear.y, linear.z], [3, 0, 0], atol=0.07)
    np.testing.assert_allclose([angular.x, angular.y, angular.z], [0, 0, 0.6], atol=1e-6)
    assert np.array(first.covariance).reshape(6, 6)[0, 0] == LOST[0, 0]  # nothing before: not known
    diagonal = np.diag(np.array(second.covariance).reshape(6, 6))
    assert (diagonal > 0).all()
    assert (diagonal < 1).all()


def test_velocity_errs_where_the_step_errs():
    """A camera that looks along y of the world, whose step errs along that: the robot's speed ahead is in doubt."""
    R = Rotation.from_euler('z', 90, degrees=True).as_matrix()
    poses = [np.eye(4) for _ in range(2)]
    for i, pose in enumerate(poses):
        pose[:3, :3], pose[1, 3] = R @ BODY_FROM_OPTICAL[:3, :3], 0.1 * i
    step = np.diag([1e-8, 0.01**2, 1e-8, 1e-8, 1e-8, 0.02**2])
    frames = [placed_frame(i, map_from_cam=pose) for i, pose in enumerate(poses)]
    frames[1] = dataclasses.replace(frames[1], step_covariance=step)
    outputs = encoder().encode(update_of(*frames), BODY_FROM_OPTICAL)
    twist = [output.message.twist for output in outputs if output.topic == '~/odom'][-1]
    seconds, speed = FRAME_NS * 1e-9, twist.twist.linear.x
    assert speed == pytest.approx(0.1 / seconds)
    floor = (0.05 * speed) ** 2 + 1e-6  # what two poses do not tell of the motion between them
    found = np.diag(np.array(twist.covariance).reshape(6, 6))
    np.testing.assert_allclose(found[:3], np.array([0.01**2, 1e-8, 1e-8]) / seconds**2 + floor)
    np.testing.assert_allclose(found[5], (0.02 / seconds) ** 2 + 1e-6)


def test_a_rotation_error_of_the_camera_swings_the_base():
    """Covariance of the base: 0.1 rad about the vertical, with the base 2 m behind, is 0.2 m to the side."""
    far = np.eye(4)
    far[:3, :3], far[0, 3] = BODY_FROM_OPTICAL[:3, :3], 2.0
    frame = placed_frame()
    covariance = np.zeros((6, 6))
    covariance[5, 5] = 0.1**2
    frame = type(frame)(**{**vars(frame), 'covariance': covariance})
    outputs = encoder().encode(update_of(frame), far)
    (odom,) = [output.message for output in outputs if output.topic == '~/odom']
    moved = np.array(odom.pose.covariance).reshape(6, 6)
    np.testing.assert_allclose(np.diag(moved), [0, 0.2**2, 0, 0, 0, 0.1**2], atol=1e-12)
    np.testing.assert_allclose(moved, moved.T)


def test_a_lost_pose_says_so_in_pose_and_twist():
    frames = [placed_frame(i) for i in range(2)]
    lost = type(frames[1])(**{**vars(frames[1]), 'covariance': LOST})
    outputs = encoder().encode(update_of(frames[0], lost), BASE_FROM_CAM)
    odom = [output.message for output in outputs if output.topic == '~/odom'][-1]
    for covariance in (odom.pose.covariance, odom.twist.covariance):
        assert (np.diag(np.array(covariance).reshape(6, 6)) >= 9999).all()


def test_no_velocity_is_claimed_across_a_seam_that_did_not_hold():
    one = encoder()
    one.encode(update_of(placed_frame(0)), BASE_FROM_CAM)
    outputs = one.encode(update_of(placed_frame(1), status=SeamStatus.HELD), BASE_FROM_CAM)
    (odom,) = [output.message for output in outputs if output.topic == '~/odom']
    assert np.array(odom.twist.covariance)[0] >= 9999


def test_without_a_known_mount_only_the_camera_is_published():
    outputs = encoder().encode(update_of(placed_frame()), None)
    topics = {output.topic for output in outputs}
    assert not topics & {'/tf', '~/odom', '~/pose'}
    assert topics >= {'~/camera_pose', '~/points', '~/depth/image_rect', '~/path'}


def test_only_what_is_wanted_is_made():
    outputs = encoder().encode(update_of(placed_frame()), BASE_FROM_CAM, wanted=['~/odom', '~/world_points'])
    assert [output.topic for output in outputs] == ['~/odom', '~/world_points']


def test_tf_flags():
    assert '/tf' not in encode_one(bag_messages(), publish_odom_to_base_tf=False)
    both = encode_one(bag_messages(), publish_map_to_odom_tf=True)['/tf'].transforms
    assert [(one.header.frame_id, one.child_frame_id) for one in both] == [('map', 'odom'), ('odom', 'base_link')]
    np.testing.assert_array_equal(matrix_of(both[0].transform), np.eye(4))


def test_publish_frames_latest_keeps_the_newest_of_a_window():
    frames = [placed_frame(i) for i in range(3)]
    outputs = encoder(publish_frames='latest').encode(update_of(*frames), BASE_FROM_CAM)
    assert {output.stamp_ns for output in outputs} == {frames[-1].stamp_ns}


def test_the_path_grows_and_is_bounded():
    one = encoder(path_max_size=5)
    for i in range(4):
        outputs = one.encode(update_of(placed_frame(2 * i), placed_frame(2 * i + 1)), BASE_FROM_CAM)
    (path,) = [output.message for output in outputs if output.topic == '~/path']
    assert [stamp_ns(pose.header.stamp) for pose in path.poses] == [START_NS + i * FRAME_NS for i in range(3, 8)]


def test_when_the_scale_is_found_the_path_changes_size_and_the_lever_arm_does_not():
    one = encoder()
    one.encode(update_of(placed_frame(0), placed_frame(1)), BASE_FROM_CAM)
    last = placed_frame(1).map_from_cam[:3, 3]
    grown = Sim3(2.5, np.eye(3), -1.5 * last)  # about the camera published last
    update = dataclasses.replace(update_of(placed_frame(2)), output_from_before=grown)
    outputs = one.encode(update, BASE_FROM_CAM)
    (path,) = [output.message for output in outputs if output.topic == '~/path']
    cams = [matrix_of(pose.pose) @ BASE_FROM_CAM for pose in path.poses]
    np.testing.assert_allclose(cams[0][:3, 3], last + 2.5 * (placed_frame(0).map_from_cam[:3, 3] - last), atol=1e-12)
    np.testing.assert_allclose(cams[1][:3, 3], last, atol=1e-12)
    (odometry,) = [output.message for output in outputs if output.topic == '~/odom']
    # it goes on from where it was: 0.1 in a frame's time, whatever became of the unit
    assert odometry.twist.twist.linear.x == pytest.approx(0.1 / (FRAME_NS * 1e-9))


def test_the_map_is_throttled_by_stamps_alone():
    one, sent = encoder(map_publish_period=0.1), []
    for i in range(10):
        outputs = one.encode(update_of(placed_frame(i)), BASE_FROM_CAM)
        sent += [output.stamp_ns for output in outputs if output.topic == '~/map_points']
    assert sent == [START_NS + i * FRAME_NS for i in (0, 4, 8)]  # 3 frames are 99.999999 ms


def test_map_points_hold_the_map(messages: MessageTypes):
    xyz, rgb = points_of(encode_one(messages)['~/map_points'])
    np.testing.assert_array_equal(xyz[0], map_points()[0])
    np.testing.assert_array_equal(rgb[0], map_points()[1])


def test_window_poses_are_all_cameras_of_the_window(messages: MessageTypes):
    frames = [placed_frame(i) for i in range(3)]
    outputs = encoder(messages).encode(update_of(*frames), BASE_FROM_CAM)
    (array,) = [output.message for output in outputs if output.topic == '~/window_poses']
    for pose, frame in zip(array.poses, frames, strict=True):
        np.testing.assert_allclose(matrix_of(pose), frame.map_from_cam, atol=1e-12)


def test_intrinsics_stay_constant_for_a_frame_id_where_the_network_varies_them():
    one = encoder(intrinsics_mode='per_window')
    first, second = placed_frame(0), placed_frame(1)
    second = type(second)(**{**vars(second), 'K': second.K * np.array([[1.01], [1.01], [1]])})
    seen = []
    for frame in (first, second):
        outputs = {output.topic: output.message for output in one.encode(update_of(frame), BASE_FROM_CAM)}
        seen.append(np.array(outputs['~/depth/camera_info'].k))
        xyz, _ = points_of(outputs['~/points'])  # lifted with what is published
        known = np.isfinite(frame.depth)
        np.testing.assert_allclose(xyz[..., 0][known], (frame.depth * (np.arange(40) - 19.3) / 50)[known], atol=1e-5)
    np.testing.assert_array_equal(seen[0], seen[1])


def test_a_calibration_that_really_changes_is_published_and_warned_of(caplog: pytest.LogCaptureFixture):
    one, second = encoder(), placed_frame(1)
    second = type(second)(**{**vars(second), 'K': second.K * np.array([[2], [2], [1]])})
    one.encode(update_of(placed_frame(0)), BASE_FROM_CAM)
    outputs = {output.topic: output.message for output in one.encode(update_of(second), BASE_FROM_CAM)}
    assert np.array(outputs['~/rgb/camera_info'].k)[0] == 100
    assert 'intrinsics' in caplog.text


def test_a_recording_that_begins_again_starts_a_new_path():
    one = encoder()
    one.encode(update_of(placed_frame(5), placed_frame(6)), BASE_FROM_CAM)
    outputs = one.encode(update_of(placed_frame(0)), BASE_FROM_CAM)
    (path,) = [output.message for output in outputs if output.topic == '~/path']
    assert len(path.poses) == 1


def test_the_standalone_mount_is_rep_103(messages: MessageTypes):
    (one,) = standalone_tf_static(messages, Config(), START_NS, 'camera').transforms
    assert (one.header.frame_id, one.child_frame_id) == ('base_link', 'camera')
    base_from_cam = matrix_of(one.transform)
    np.testing.assert_allclose(base_from_cam[:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-12)  # what it looks at is ahead
    np.testing.assert_allclose(base_from_cam[:3, :3] @ [0, 1, 0], [0, 0, -1], atol=1e-12)  # down in the image is down


def test_pictures_of_depth_show_near_red_far_blue_unknown_black():
    depth = np.linspace(1, 5, 64, dtype=np.float32)[None].repeat(32, axis=0)
    depth[:, 30] = np.nan
    picture = colour_depth(depth).astype(int)
    assert picture[0, 0, 0] > 100 > picture[0, 0, 2]
    assert picture[0, -1, 2] > picture[0, -1, 0]
    assert (picture[:, 30] == 0).all()
    assert (colour_depth(np.full((8, 8), np.nan, np.float32)) == 0).all()


def test_first_in_voxel_keeps_the_first_of_each_voxel_like_a_plain_loop():
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(3, 5000)).astype(np.float32)
    cells = np.floor(xyz * np.float32(1 / 0.2)).astype(int).T
    seen: dict[tuple[int, ...], int] = {}
    for i, cell in enumerate(cells):
        seen.setdefault(tuple(cell), i)
    np.testing.assert_array_equal(first_in_voxel(xyz, 0.2), sorted(seen.values()))
    assert first_in_voxel(xyz[:, :0], 0.2).size == 0


def test_first_in_voxel_of_a_picture_with_holes_is_that_of_its_points_in_a_row():
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:40, :60].astype(np.float32)
    xyz = np.stack([columns / 20, rows / 20, np.sin(columns / 9) + rng.normal(scale=0.01, size=rows.shape)], axis=0)
    xyz = xyz.astype(np.float32)
    xyz[:, rng.random(rows.shape) < 0.2] = np.nan
    xyz[:, 10:13, :30] = np.nan
    known = np.flatnonzero(np.isfinite(xyz[2]))
    in_a_row = first_in_voxel(xyz.reshape(3, -1)[:, known], 0.2)
    assert 100 < len(in_a_row) < len(known) / 4
    np.testing.assert_array_equal(first_in_voxel(xyz, 0.2), known[in_a_row])


def test_a_message_holds_the_bytes_it_is_given_and_no_copy(messages: MessageTypes):
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    image = MessageMaker(messages).image(START_NS, 'c', 'rgb8', pixels)
    assert np.shares_memory(np.frombuffer(image.data, np.uint8), pixels)


def test_rclpy_serialises_images_and_clouds_so_that_another_reader_finds_every_byte():
    serialise = pytest.importorskip('rclpy.serialization', reason='needs ROS 2').serialize_message
    ours, theirs = encode_one(ros_messages()), encode_one(bag_messages())
    sized = [name for name, message in ours.items() if hasattr(message, 'data')]
    assert len(sized) == 8
    for name in sized:
        read = bag_typestore().deserialize_cdr(serialise(ours[name]), TOPIC[name].type)
        np.testing.assert_array_equal(read.data, theirs[name].data)
        assert (read.header.frame_id, read.height, read.width) == (
            theirs[name].header.frame_id, theirs[name].height, theirs[name].width
        )  # fmt: skip


@pytest.mark.parametrize(
    'names', [('m', 'o', 'b'), ('ma', 'od', 'bas'), ('map', 'odom', 'base_link'), ('m' * 5, 'o' * 8, 'b' * 7)]
)
def test_poses_and_odometry_made_as_bytes_read_as_any_other(names: tuple[str, str, str]):
    world, odom, base = names
    frames = {'world_frame': world, 'map_frame': world, 'odom_frame': odom, 'base_frame': base}
    serialised, plain = encoder(ros_messages(publishes_bytes=True), **frames), encoder(bag_messages(), **frames)
    store = bag_typestore()
    for i in range(2):  # the second has a velocity
        update = update_of(placed_frame(i))
        ours = {one.topic: one.message for one in serialised.encode(update, BASE_FROM_CAM)}
        theirs = {one.topic: one.message for one in plain.encode(update, BASE_FROM_CAM)}
        made = [name for name, message in ours.items() if isinstance(message, bytes)]
        assert made == ['~/odom', '~/pose', '~/camera_pose', '~/window_poses', '~/path']
        for name in made:
            assert bytes(store.serialize_cdr(theirs[name], TOPIC[name].type)) == ours[name]
            read = store.deserialize_cdr(ours[name], TOPIC[name].type)
            assert read.header == theirs[name].header


@pytest.mark.parametrize('frame_id', ['', 'm', 'ma', 'map', 'map0', 'map_', 'odom_1', 'odom_21', 'köln'])
def test_a_path_that_is_serialised_pose_by_pose_reads_as_any_other(frame_id: str):
    rng = np.random.default_rng(len(frame_id))
    for count in range(4):
        poses = [(START_NS + i, rng.normal(size=3), rng.normal(size=4)) for i in range(count)]
        records = [cdr.pose_stamped(stamp, frame_id, *pose) for stamp, *pose in poses]
        data = cdr.path(START_NS - 1, frame_id, records)
        path = bag_typestore().deserialize_cdr(data, 'nav_msgs/msg/Path')
        assert bytes(bag_typestore().serialize_cdr(path, 'nav_msgs/msg/Path')) == data
        assert (path.header.frame_id, stamp_ns(path.header.stamp)) == (frame_id, START_NS - 1)
        assert len(path.poses) == count
        for one, (stamp, position, orientation) in zip(path.poses, poses, strict=True):
            p, q = one.pose.position, one.pose.orientation
            assert (one.header.frame_id, stamp_ns(one.header.stamp)) == (frame_id, stamp)
            assert [p.x, p.y, p.z, q.x, q.y, q.z, q.w] == [*position, *orientation]


def test_a_serialised_path_is_what_rclpy_makes_of_the_message():
    pytest.importorskip('rclpy')
    from rclpy.serialization import deserialize_message

    one, other = encoder(ros_messages(publishes_bytes=True)), encoder(ros_messages())
    grown = Sim3(2.5, np.eye(3), np.array([0.1, 0.2, 0.3]))
    for i in range(3):
        update = dataclasses.replace(update_of(placed_frame(i)), output_from_before=grown if i == 2 else None)
        (path,) = [output.message for output in one.encode(update, BASE_FROM_CAM) if output.topic == '~/path']
        (expected,) = [output.message for output in other.encode(update, BASE_FROM_CAM) if output.topic == '~/path']
        assert deserialize_message(path, type(expected)) == expected
        assert len(expected.poses) == i + 1


def test_topics_resolve_under_the_nodes_name():
    assert resolve('~/odom') == '/vggt/odom'
    assert resolve('~/odom', '/robot1/vggt') == '/robot1/vggt/odom'
    assert resolve('/tf', '/robot1/vggt') == '/tf'
    assert len(TOPIC) == len(TOPICS)


def test_each_camera_of_a_rig_has_its_own_images_and_clouds_and_the_robot_one_pose(messages: MessageTypes):
    view = dataclasses.replace(placed_frame(0, frame_id='left_optical', seed=5), camera=1, stamp_ns=START_NS + 7)
    frame = dataclasses.replace(placed_frame(0, frame_id='front_optical'), views=(view,))
    config = Config().with_values({'camera_names': 'front,left'})
    outputs = Encoder(config, messages).encode(update_of(frame), BODY_FROM_OPTICAL)
    topics = [output.topic for output in outputs]
    assert sorted(topics) == sorted({*topics})
    assert set(topics) == {topic.name for topic in topics_of(('front', 'left'))} - {'/tf_static', '~/map_points'}
    by_topic = {output.topic: output for output in outputs}
    for name, one in (('front', frame), ('left', view)):
        depth = by_topic[f'~/{name}/depth/image_rect']
        assert depth.stamp_ns == one.stamp_ns
        assert depth.message.header.frame_id == f'{name}_optical'
        np.testing.assert_array_equal(np.frombuffer(depth.message.data, np.float32).reshape(one.depth.shape), one.depth)
    assert by_topic['~/world_points'].message.width == sum(int(np.isfinite(one.depth).sum()) for one in (frame, view))
    (few,) = Encoder(config, messages).encode(update_of(frame), None, {'~/left/points'})
    assert few.topic == '~/left/points'


def closed(moved: np.ndarray) -> list[Any]:
    """Two updates; before the second a loop moved the map, so that what lay at x in it now lies at `moved @ x`."""
    first, second = placed_frame(0), placed_frame(1)
    known = {first.stamp_ns: moved @ first.map_from_cam}
    second = dataclasses.replace(second, map_from_cam=moved @ second.map_from_cam)
    after = dataclasses.replace(update_of(second, index=1), map_from_odom=moved, moved_path=known)
    return [update_of(first), after]


MOVED = np.array([[0.0, -1.0, 0.0, 2.0], [1.0, 0.0, 0.0, -1.0], [0.0, 0.0, 1.0, 0.5], [0.0, 0.0, 0.0, 1.0]])


@pytest.mark.parametrize('world', ['odom', 'map'])
def test_a_closed_loop_goes_into_map_to_odom_and_never_into_odom_to_base(world: str):
    flags = {'publish_map_to_odom_tf': True, 'world_frame': world, 'map_publish_period': 1e-3}
    plain, looped = encoder(**flags), encoder(**flags)
    expected = [plain.encode(update_of(placed_frame(i), index=i), BASE_FROM_CAM) for i in range(2)][1]
    found = [looped.encode(update, BASE_FROM_CAM) for update in closed(MOVED)][1]
    (tf,), (expected_tf,) = ([one.message for one in outputs if one.topic == '/tf'] for outputs in (found, expected))
    edges = {(one.header.frame_id, one.child_frame_id): matrix_of(one.transform) for one in tf.transforms}
    np.testing.assert_allclose(edges['map', 'odom'], MOVED, atol=1e-12)
    np.testing.assert_allclose(edges['odom', 'base_link'], matrix_of(expected_tf.transforms[-1].transform), atol=1e-12)
    by_topic = {one.topic: one.message for one in found}
    before = {one.topic: one.message for one in expected}
    np.testing.assert_allclose(
        matrix_of(by_topic['~/odom'].pose.pose), matrix_of(before['~/odom'].pose.pose), atol=1e-12
    )
    np.testing.assert_allclose(by_topic['~/odom'].twist.covariance, before['~/odom'].twist.covariance, atol=1e-9)
    world_from_odom = MOVED if world == 'map' else np.eye(4)
    for topic, pose in (('~/pose', lambda m: m.pose.pose), ('~/camera_pose', lambda m: m.pose)):
        expected_pose = world_from_odom @ matrix_of(pose(before[topic]))
        np.testing.assert_allclose(matrix_of(pose(by_topic[topic])), expected_pose, atol=1e-12)
    path = [matrix_of(one.pose) for one in by_topic['~/path'].poses]
    for one, was in zip(path, before['~/path'].poses, strict=True):  # the whole way moved, and agrees with the robot
        np.testing.assert_allclose(one, world_from_odom @ matrix_of(was.pose), atol=1e-12)
    world_from_map = np.eye(4) if world == 'map' else np.linalg.inv(MOVED)
    xyz, _ = points_of(by_topic['~/map_points'])
    np.testing.assert_allclose(
        xyz[0], map_points()[0] @ world_from_map[:3, :3].T + world_from_map[:3, 3], rtol=1e-5, atol=1e-5
    )  # float32
