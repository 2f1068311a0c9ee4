"""The border to metres in the whole pipeline: metric where it says so, no step anywhere, one map that fits itself."""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np
import pytest
import scene
from scene import placed
from scipy.spatial.transform import Rotation

from vggt_ros.core.config import Config
from vggt_ros.core.covariance import LOST
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, invert_rigid, unproject_depth
from vggt_ros.core.metric.evidence import Evidence
from vggt_ros.core.metric.scale_report import ScaleState
from vggt_ros.core.pipeline import Pipeline

COUNT = 60
UP = np.array([0.0, -1.0, 0.0])  # of the room


class Mounts:
    """Fixed frames of a robot: target, source -> pose."""

    def __init__(self, **base_from):
        self.base_from = {'base_link': np.eye(4), **base_from}

    def find(self, target, source, stamp_ns):
        if target not in self.base_from or source not in self.base_from:
            return None
        return invert_rigid(self.base_from[target]) @ self.base_from[source]


def mounted(pitch_deg=0.0, height=0.9):
    """base_from_cam of a camera that looks ahead and down, above the robot's origin on the floor."""
    T = np.eye(4)
    T[:3, :3] = BODY_FROM_OPTICAL[:3, :3] @ Rotation.from_euler('X', -pitch_deg, degrees=True).as_matrix()
    T[:3, 3] = [0.25, 0.05, height]
    return T


def drive(count=COUNT, height=0.9, pitch_deg=0.0, base_from_cam=None):
    """[count, 4, 4] world_from_base of a robot that drives round the room, and world_from_cam."""
    base_from_cam = mounted(pitch_deg, height) if base_from_cam is None else base_from_cam
    a = np.radians(4.0) * np.arange(count)
    world_from_base = np.tile(np.eye(4), (count, 1, 1))
    for pose, one in zip(world_from_base, a, strict=True):
        yaw = scene.look([1.4 * np.sin(one), 1.5, 1.2 * np.cos(one)], 90 + np.degrees(one))
        pose[:] = yaw @ invert_rigid(BODY_FROM_OPTICAL)  # the world has optical axes; the robot's are those of a body
    return world_from_base, world_from_base @ base_from_cam


def config_of(**values):
    return Config().with_values({'confidence_percentile': 0.0, 'window_size': 6, 'window_stride': 3, **values})


def run(config, world_from_cams, evidence, seed=3, spoil=None):
    network = scene.SimulatedPredictor(world_from_cams, seed, *([spoil] if spoil else []))
    pipeline = Pipeline(config, network, evidence)
    mount = evidence.base_from_cam('camera_optical', scene.START_NS)
    if mount is not None:
        pipeline.map.map_from_first_camera = mount
    answers = [pipeline.add_frame(frame) for frame in scene.frames_of(world_from_cams)] + [pipeline.flush()]
    return [update for update in answers if update is not None], pipeline, network


def evidence_of(config, world_from_base, base_from_cam, lies=None, noise=0.0):
    """Odometry that starts at the robot; `lies` is a factor for each stretch from one frame to the next."""
    evidence = Evidence.of(config, Mounts(camera_optical=base_from_cam))
    rng, odom_from_base = np.random.default_rng(0), np.eye(4)
    for i, pose in enumerate(world_from_base):
        if i:
            step = invert_rigid(world_from_base[i - 1]) @ pose
            step[:3, 3] *= (1.0 if lies is None else lies[i]) * (1 + rng.normal(0, noise))
            odom_from_base = odom_from_base @ step
        evidence.add_odometry(scene.START_NS + i * scene.FRAME_NS, odom_from_base)
    return evidence


def metric_run(seed=3, **values):
    base_from_cam = mounted(15)
    base, cams = drive(base_from_cam=base_from_cam)
    config = config_of(scale_source='odometry', **values)
    evidence = evidence_of(config, base, base_from_cam)
    return (*run(config, cams, evidence, seed), cams)


@pytest.mark.parametrize('seed', [0, 3, 4])
def test_metres_are_found_and_everything_after_is_metric(seed):
    updates, _, network, cams = metric_run(seed)
    assert network.scales[0] != pytest.approx(1, rel=0.1)
    locked = [update for update in updates if update.metric]
    assert len(locked) >= len(updates) - 4
    for update in locked:
        for frame in update.frames:
            truth = scene.render(cams[(frame.stamp_ns - scene.START_NS) // scene.FRAME_NS])
            np.testing.assert_allclose(frame.depth, truth, rtol=1e-3)
    way = [np.linalg.norm(np.diff([f.map_from_cam[:3, 3] for f in placed(locked)], axis=0), axis=1)]
    first = (placed(locked)[0].stamp_ns - scene.START_NS) // scene.FRAME_NS
    np.testing.assert_allclose(way[0], np.linalg.norm(np.diff(cams[first:, :3, 3], axis=0), axis=1), rtol=1e-3)


def test_no_pose_makes_a_step_when_the_scale_is_found():
    """In units or metres: the way from one frame to the next is the true one times a factor between the two."""
    updates, _, network, cams = metric_run()
    frames = placed(updates)
    steps = np.linalg.norm(np.diff([frame.map_from_cam[:3, 3] for frame in frames], axis=0), axis=1)
    truth = np.linalg.norm(np.diff(cams[:, :3, 3], axis=0), axis=1)
    low, high = sorted([1.0, network.scales[0]])
    assert ((0.999 * low < steps / truth) & (steps / truth < 1.001 * high)).all()


def test_what_was_published_before_moves_along_and_the_whole_map_fits_the_room():
    updates, pipeline, _, cams = metric_run()
    poses = []
    for update in updates:
        if update.output_from_before is not None:
            poses = [update.output_from_before.transform_pose(pose) for pose in poses]
        poses += [frame.map_from_cam for frame in update.frames]
    assert sum(update.output_from_before is not None for update in updates) >= 1
    world_from_map = cams[-1] @ invert_rigid(poses[-1])
    np.testing.assert_allclose([(world_from_map @ pose)[:3, 3] for pose in poses], cams[:, :3, 3], atol=5e-3)
    xyz, _ = pipeline.points()
    in_world = xyz.astype(np.float64) @ world_from_map[:3, :3].T + world_from_map[:3, 3]
    assert len(xyz) > 1000
    assert scene.distance_to_surface(in_world).max() < 0.01


def test_in_the_end_everything_has_the_size_that_all_windows_say():
    """What finish() returns brings what was published to where way and cloud are then; the camera stays."""
    base_from_cam = mounted(15)
    base, cams = drive(base_from_cam=base_from_cam)
    config = config_of(scale_source='odometry')
    updates, pipeline, _ = run(config, cams, evidence_of(config, base, base_from_cam, noise=0.05))
    _, before = pipeline.trajectory()
    xyz, _ = pipeline.points()
    moved = pipeline.finish()
    assert moved is not None
    np.testing.assert_allclose(pipeline.trajectory()[1], moved.transform_pose(before), atol=1e-9)
    np.testing.assert_allclose(pipeline.points()[0], moved.transform_points(xyz), atol=1e-4)
    np.testing.assert_allclose(pipeline.trajectory()[1][-1], placed(updates)[-1].map_from_cam, atol=1e-9)
    assert pipeline.finish() is None  # and no second time


def test_voxels_have_the_size_in_metres_that_was_asked_for():
    _, pipeline, network, _ = metric_run(voxel_size=0.1)
    xyz, _ = pipeline.map.points()
    voxels = np.floor(xyz * network.scales[0] ** -1 / 0.1)
    assert len(np.unique(voxels, axis=0)) > 0.5 * len(xyz)  # of a tenth of the size it would be a few percent


def test_until_the_lock_everything_says_so(caplog):
    with caplog.at_level(logging.INFO, logger='vggt_ros'):
        updates, _, _, _ = metric_run()
    before = [update for update in updates if not update.metric]
    assert before
    for update in before:
        assert update.scale.state is ScaleState.WAITING
        for frame in update.frames:
            np.testing.assert_array_equal(frame.covariance, LOST)
    for frame in placed([update for update in updates if update.metric]):
        assert np.trace(frame.covariance[:3, :3]) < 1.0
    assert sum('scale locked' in record.getMessage() for record in caplog.records) == 1


def test_wheels_that_count_double_for_a_quarter_of_the_way_change_nothing():
    base_from_cam = mounted()
    base, cams = drive(90, base_from_cam=base_from_cam)
    config = config_of(scale_source='odometry')
    lies = np.where((np.arange(90) >= 50) & (np.arange(90) < 62), 2.0, 1.0)
    updates, pipeline, network = run(config, cams, evidence_of(config, base, base_from_cam, lies))
    assert updates[-1].metric
    assert pipeline.metres.factor * network.scales[0] == pytest.approx(1.0, rel=0.01)
    assert updates[-1].scale.agreeing < updates[-1].scale.observations


def test_wheels_that_begin_to_count_double_are_told_of(caplog):
    base_from_cam = mounted()
    base, cams = drive(120, base_from_cam=base_from_cam)
    config = config_of(scale_source='odometry')
    lies = np.where(np.arange(120) >= 60, 2.0, 1.0)
    with caplog.at_level(logging.WARNING, logger='vggt_ros'):
        updates, pipeline, network = run(config, cams, evidence_of(config, base, base_from_cam, lies))
    assert updates[-1].scale.state is ScaleState.DOUBTED
    assert not updates[-1].metric
    assert pipeline.metres.factor * network.scales[0] == pytest.approx(1.0, rel=0.03)
    assert np.all(updates[-1].frames[-1].covariance == LOST)
    assert any('not believed' in record.getMessage() for record in caplog.records)


def test_dead_odometry_leaves_a_locked_scale_and_says_why():
    base_from_cam = mounted()
    base, cams = drive(base_from_cam=base_from_cam)
    config = config_of(scale_source='odometry')
    updates, _, _ = run(config, cams, evidence_of(config, base[:35], base_from_cam))
    assert updates[-1].metric
    assert 'no odometry' in updates[-1].scale.reason
    updates, _, _ = run(config, cams, evidence_of(config, base[:0], base_from_cam))
    assert not updates[-1].metric
    assert 'no odometry' in updates[-1].scale.describe()


def test_a_wrong_mount_is_never_locked_to_and_named():
    base, cams = drive()
    config = config_of(scale_source='odometry')
    wrong = mounted()
    wrong[:3, :3] = Rotation.from_euler('Z', 90, degrees=True).as_matrix() @ wrong[:3, :3]
    updates, _, _ = run(config, cams, evidence_of(config, base, wrong))
    assert not any(update.metric for update in updates)
    assert updates[-1].scale.is_conflict
    assert 'base -> camera' in updates[-1].scale.describe()


@pytest.mark.parametrize('source', ['depth', 'lidar', 'camera_height', 'tf'])
def test_every_other_source_finds_the_same_metres(source):
    base_from_cam = mounted(20)
    base, cams = drive(base_from_cam=base_from_cam)
    config = config_of(scale_source=source, publish_odom_to_base_tf=source != 'tf')
    sensor = mounted(5, 1.1)
    mounts = Mounts(camera_optical=base_from_cam, sensor=sensor)
    if source == 'tf':
        start_ns, fixed = scene.START_NS, mounts.find

        def find(target, source, stamp_ns):
            if (target, source) == ('odom', 'base_link'):
                return invert_rigid(base[0]) @ base[(stamp_ns - start_ns) // scene.FRAME_NS]
            return fixed(target, source, stamp_ns)

        mounts.find = find
    evidence = Evidence.of(config, mounts)
    for i, world_from_base in enumerate(base):
        depth = scene.render(world_from_base @ sensor)
        points = unproject_depth(depth, scene.K).reshape(-1, 3)
        evidence.add_points(scene.START_NS + i * scene.FRAME_NS + 20_000_000, 'sensor', points)
    updates, pipeline, network = run(config, cams, evidence)
    assert updates[-1].metric, updates[-1].scale.describe()
    assert pipeline.metres.factor * network.scales[0] == pytest.approx(1.0, rel=0.01)


def test_a_gap_in_the_images_does_not_cost_the_scale():
    """After it the map goes on at the scale that the evidence gives, not at the one that was guessed."""
    base_from_cam = mounted()
    base, cams = drive(base_from_cam=base_from_cam)
    config = config_of(scale_source='odometry', max_frame_gap_s=0.5)
    network = scene.SimulatedPredictor(cams, 5)
    pipeline = Pipeline(config, network, evidence_of(config, base, base_from_cam))
    frames = scene.frames_of(cams)
    updates = [pipeline.add_frame(frame) for frame in frames[:30] + frames[40:]] + [pipeline.flush()]
    updates = [update for update in updates if update is not None]
    assert pipeline.statistics.restarts == 1
    assert updates[-1].metric
    last = updates[-1].frames[-1]
    truth = scene.render(cams[(last.stamp_ns - scene.START_NS) // scene.FRAME_NS])
    assert np.median(last.depth / truth) == pytest.approx(1.0, rel=0.01)


def test_a_unit_that_drifts_from_window_to_window_is_held_to_metres():
    """Each window sees its end a little deeper than its start: seams alone make that add up."""
    base_from_cam = mounted()
    base, cams = drive(90, base_from_cam=base_from_cam)

    def spoil(prediction, _):
        factors = 1.001 ** np.arange(len(prediction.depth), dtype=np.float32)
        return dataclasses.replace(prediction, depth=prediction.depth * factors[:, None, None])

    def growth(source):
        config = config_of(scale_source=source)
        updates, _, _ = run(config, cams, evidence_of(config, base, base_from_cam), spoil=spoil)
        frames = placed(updates)
        ways = np.linalg.norm(np.diff([frame.map_from_cam[:3, 3] for frame in frames], axis=0), axis=1)
        ways /= np.linalg.norm(np.diff(cams[:, :3, 3], axis=0), axis=1)
        return abs(math.log(ways[-10:].mean() / ways[35:45].mean()))

    assert growth('none') > 0.03  # 3 frames a window make 0.3 % of it, 15 windows 4.5 %
    assert growth('odometry') < 0.01


def test_noise_in_every_window_costs_little_and_the_error_is_told():
    base_from_cam = mounted()
    base, cams = drive(base_from_cam=base_from_cam)
    config = config_of(scale_source='odometry')
    rng = np.random.default_rng(1)

    def spoil(prediction, _):
        poses = prediction.cam_from_window.copy()
        poses[1:, :3, 3] += rng.normal(0, 0.01, poses[1:, :3, 3].shape) * np.linalg.norm(poses[-1, :3, 3])
        depth = prediction.depth * rng.normal(1, 0.03, prediction.depth.shape).astype(np.float32)
        return dataclasses.replace(prediction, cam_from_window=poses, depth=depth)

    updates, pipeline, network = run(config, cams, evidence_of(config, base, base_from_cam, noise=0.01), spoil=spoil)
    assert updates[-1].metric
    off = math.log(pipeline.metres.factor * network.scales[0])
    assert abs(off) < 0.03
    assert 0.001 < updates[-1].scale.error < 0.03


@pytest.mark.parametrize('source', ['mount', 'imu'])
def test_a_camera_that_looks_down_from_a_level_robot_gives_a_floor_whose_normal_is_z(source):
    base_from_cam = mounted(20)
    _, cams = drive(20, base_from_cam=base_from_cam)
    config = config_of(gravity_source=source)
    evidence = Evidence.of(config, Mounts(camera_optical=base_from_cam))
    network = scene.SimulatedPredictor(cams, 2)
    pipeline = Pipeline(config, network, evidence)
    if source == 'mount':
        pipeline.map.map_from_first_camera = base_from_cam
    else:  # nobody says how the camera is tilted; what holds it up does
        rng = np.random.default_rng(0)
        for i in range(40):
            pose = cams[min(i // 4, 19)]
            reading = pose[:3, :3].T @ (9.81 * UP) + rng.normal(0, 0.5, 3)
            evidence.add_up(scene.START_NS + i * scene.FRAME_NS // 4, 'camera_optical', reading)
    for frame in scene.frames_of(cams):
        pipeline.add_frame(frame)
    # 3 degrees of noise a reading, over 24 of them
    assert angle_to_z(floor_normal(pipeline, network)) < (0.1 if source == 'mount' else 1.5)


def test_a_robot_on_a_ramp_is_levelled_by_its_imu_and_not_by_its_mount():
    ramp = Rotation.from_euler('XYZ', [8, -5, 0], degrees=True).as_matrix()
    base_from_cam = mounted(10)
    base, _ = drive(12, base_from_cam=base_from_cam)
    leaning = base.copy()
    leaning[:, :3, :3] = base[:, :3, :3] @ ramp
    leaning[:, 1, 3] -= 0.3
    cams = leaning @ base_from_cam
    for source, limit in (('mount', (9.0, 10.0)), ('imu', (0.0, 0.2))):
        config = config_of(gravity_source=source)
        evidence = Evidence.of(config, Mounts(camera_optical=base_from_cam))
        for i, pose in enumerate(leaning):
            evidence.add_up(scene.START_NS + i * scene.FRAME_NS, 'base_link', pose[:3, :3].T @ UP)
        network = scene.SimulatedPredictor(cams, 2)
        pipeline = Pipeline(config, network, evidence)
        pipeline.map.map_from_first_camera = base_from_cam
        for frame in scene.frames_of(cams):
            pipeline.add_frame(frame)
        assert limit[0] < angle_to_z(floor_normal(pipeline, network)) < limit[1]


def test_without_an_imu_the_mount_holds_and_the_log_says_so(caplog):
    _, cams = drive(12)
    pipeline = Pipeline(config_of(gravity_source='imu'), scene.SimulatedPredictor(cams, 2))
    for frame in scene.frames_of(cams):
        pipeline.add_frame(frame)
    assert any('no IMU' in record.getMessage() for record in caplog.records)
    np.testing.assert_allclose(pipeline.map.levelling, np.eye(4))


def floor_normal(pipeline, network):
    """Of the plane through the map's points that lie on the true floor."""
    xyz = pipeline.points()[0].astype(np.float64)
    cam_from_map = invert_rigid(pipeline.map.path[0][1])
    in_world = (xyz @ cam_from_map[:3, :3].T + cam_from_map[:3, 3]) / network.scales[0]
    in_world = in_world @ network.world_from_cams[0, :3, :3].T + network.world_from_cams[0, :3, 3]
    floor = xyz[np.abs(in_world[:, 1] - 1.5) < 1e-3]
    assert len(floor) > 300
    return np.linalg.svd(floor - floor.mean(axis=0), full_matrices=False)[2][2]


def angle_to_z(normal):
    return math.degrees(math.acos(min(1.0, abs(normal[2]))))


@pytest.mark.parametrize('up', [[0, -1, 0], [0.3, -0.9, 0.1], [0, 1, 0], [0, 0, 1]])
def test_levelling_brings_any_up_to_z_and_is_rigid(up):
    from vggt_ros.core.metric.gravity import levelling

    level = levelling(BODY_FROM_OPTICAL, np.array(up, float))
    turned = level[:3, :3] @ BODY_FROM_OPTICAL[:3, :3] @ up
    np.testing.assert_allclose(turned, [0, 0, np.linalg.norm(up)], atol=1e-12)
    np.testing.assert_allclose(level[:3, :3] @ level[:3, :3].T, np.eye(3), atol=1e-12)
