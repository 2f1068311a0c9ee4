"""Placement of a window: known similarities come back, spoilt ones are told."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
import scene
from scene import RELATIVE, predict_truth, random_similarity
from scipy.spatial.transform import Rotation

from vggt_ros.core.alignment import align, sample_matches, shared_frames, weighted_median
from vggt_ros.core.config import AlignmentConfig, Config
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, Sim3, invert_rigid, rotation_angle
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.placement import Placement, Seam, SeamStatus
from vggt_ros.core.submap import Submap

FIRST = Sim3.from_rigid(BODY_FROM_OPTICAL)


def stamps(start, count):
    return [scene.START_NS + i * scene.FRAME_NS for i in range(start, start + count)]


def two_windows(seed, shared=4, path=None):
    """A placed submap of 6 frames, the next window that shares some, and the true map_from_window of that window."""
    rng = np.random.default_rng(seed)
    poses = scene.walk(14) if path is None else path
    before_from_world, window_from_world, map_from_before = (random_similarity(rng) for _ in range(3))
    start = 6 - shared
    before = predict_truth(poses[:6], before_from_world, stamps(0, 6))
    window = predict_truth(poses[start : start + 6], window_from_world, stamps(start, 6))
    latest = Submap(before, Placement(map_from_before, Seam(SeamStatus.FIRST)))
    return latest, window, map_from_before @ before_from_world @ window_from_world.inverse()


def place(latest, window, **values):
    return align(window, latest, AlignmentConfig(**values), FIRST)


def assert_same(found, truth, tolerance=RELATIVE):
    assert abs(math.log(found.scale / truth.scale)) < tolerance
    assert rotation_angle(found.R.T @ truth.R) < tolerance
    assert np.linalg.norm(found.t - truth.t) < tolerance * truth.scale * 10  # metres of room and path


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('shared', [1, 2, 5])
def test_any_similarity_between_windows_is_found(seed, shared):
    latest, window, truth = two_windows(seed, shared)
    placement = place(latest, window)
    assert_same(placement.map_from_window, truth)
    seam = placement.seam
    assert (seam.status, seam.shared_frames, seam.inlier_ratio) == (SeamStatus.ALIGNED, shared, 1.0)
    np.testing.assert_allclose(seam.scale_ratio, truth.scale / latest.placement.map_from_window.scale, rtol=RELATIVE)
    assert seam.residual < RELATIVE * latest.placement.map_from_window.scale
    assert seam.rotation_deg < 0.01


def test_a_first_window_lands_where_it_is_told():
    _, window, _ = two_windows(0)
    placement = align(window, None, AlignmentConfig(), FIRST)
    assert placement.map_from_window is FIRST
    assert placement.seam.status is SeamStatus.FIRST


def test_depth_corrupted_in_blocks_does_not_move_the_window():
    latest, window, truth = two_windows(1)
    depth = window.depth.copy()
    depth[:, :, :14] *= 2.5  # 30 % of the picture, all to one side
    placement = place(latest, dataclasses.replace(window, depth=depth))
    assert_same(placement.map_from_window, truth)
    assert 0.65 < placement.seam.inlier_ratio < 0.75
    assert placement.seam.status is SeamStatus.ALIGNED


def test_one_shared_camera_that_is_badly_wrong_is_outvoted():
    latest, window, truth = two_windows(2, shared=4)
    wrong = window.cam_from_window.copy()
    wrong[1, :3, :3] = Rotation.from_euler('y', 40, degrees=True).as_matrix() @ wrong[1, :3, :3]
    wrong[1, :3, 3] += 2.0
    placement = place(latest, dataclasses.replace(window, cam_from_window=wrong))
    # what is far off keeps (noise / distance)^2 of its weight: 0.5 degrees / 40 degrees, a third of that in the mean
    assert_same(placement.map_from_window, truth, tolerance=math.radians(40) * (0.5 / 40) ** 2)
    assert 0.7 < placement.seam.inlier_ratio < 0.8  # its points disagree
    assert placement.seam.rotation_deg > 15  # 40 degrees in one of four


def test_confident_pixels_decide_the_scale():
    latest, window, truth = two_windows(3)
    confidence, depth = window.confidence.copy(), window.depth.copy()
    confidence[:, :, 18:] = 1.001  # 62 % of the picture, hardly trusted and wrong
    depth[:, :, 18:] *= 1.4
    confidence[:, :, :18] = 20.0
    latest.prediction.confidence[...] = 30.0
    placement = place(latest, dataclasses.replace(window, depth=depth, confidence=confidence))
    np.testing.assert_allclose(placement.map_from_window.scale, truth.scale, rtol=RELATIVE)


def test_residual_is_the_distance_of_partners_in_map_units():
    latest, window, _ = two_windows(11, shared=1)
    window.depth[:] *= np.exp(np.random.default_rng(0).normal(0, 0.01, window.depth.shape)).astype(np.float32)
    seam = place(latest, window).seam
    # without a turn between the clouds a point moves along its ray, by 1 % of its way
    ways = np.linalg.norm(sample_matches(latest.prediction, window, [(5, 0)], 10**6).y - eye_of(latest, 5), axis=1)
    expected = 0.01 * np.sqrt((ways**2).mean()) * latest.placement.map_from_window.scale
    np.testing.assert_allclose(seam.residual, expected, rtol=0.05)  # of 1728 draws


def eye_of(submap, i):
    return submap.prediction.window_from_cam[i, :3, 3]


def test_windows_that_disagree_are_told():
    latest, window, _ = two_windows(4)
    rng = np.random.default_rng(0)
    noise = np.exp(rng.normal(0, 1.0, window.depth.shape)).astype(np.float32)
    seam = place(latest, dataclasses.replace(window, depth=window.depth * noise)).seam
    assert seam.status is SeamStatus.REFUSED
    assert seam.inlier_ratio < 0.3


def test_a_handful_of_points_gives_the_scale_but_no_trust():
    latest, window, truth = two_windows(5)
    depth = np.full_like(window.depth, np.nan)
    depth[:, 10:12, 20:22] = window.depth[:, 10:12, 20:22]
    placement = place(latest, dataclasses.replace(window, depth=depth))
    assert placement.seam.status is SeamStatus.DEGENERATE
    assert_same(placement.map_from_window, truth)


def test_frames_shared_without_depth_still_give_turn_and_shift():
    latest, window, truth = two_windows(6, shared=5)
    latest.prediction.depth[1:4] = np.nan  # as if not decoded
    placement = place(latest, window)
    assert_same(placement.map_from_window, truth)
    assert placement.seam.shared_frames == 5


def test_no_shared_depth_holds_the_shared_camera_and_the_scale():
    latest, window, truth = two_windows(7, shared=3)
    placement = place(latest, dataclasses.replace(window, depth=np.full_like(window.depth, np.nan)))
    assert placement.seam.status is SeamStatus.HELD
    assert placement.map_from_window.scale == latest.placement.map_from_window.scale
    held = placement.map_from_window.transform_pose(window.window_from_cam[2])
    before = latest.placement.map_from_window.transform_pose(latest.prediction.window_from_cam[5])
    np.testing.assert_allclose(held, before, atol=1e-9)
    assert rotation_angle(placement.map_from_window.R.T @ truth.R) < 1e-6


def test_poses_of_nan_hold_and_stay_finite():
    latest, window, _ = two_windows(8)
    broken = dataclasses.replace(window, cam_from_window=np.full_like(window.cam_from_window, np.nan))
    placement = place(latest, broken)
    assert placement.seam.status is SeamStatus.HELD
    assert np.isfinite(placement.map_from_window.t).all()
    assert align(broken, None, AlignmentConfig(), FIRST).seam.status is SeamStatus.HELD


def test_a_shared_frame_without_a_pose_is_left_out():
    latest, window, truth = two_windows(9, shared=4)
    cam_from_window = window.cam_from_window.copy()
    cam_from_window[2] = np.nan
    placement = place(latest, dataclasses.replace(window, cam_from_window=cam_from_window))
    assert_same(placement.map_from_window, truth)
    assert placement.seam.shared_frames == 3


def test_shared_frames_are_found_by_stamp_newest_first():
    latest, window, _ = two_windows(0, shared=2)
    assert shared_frames(latest.prediction, window) == [(5, 1), (4, 0)]


@pytest.mark.parametrize('max_points', [100, 1000, 100_000])
def test_matches_are_bounded_spread_and_the_same_scene_points(max_points):
    latest, window, _ = two_windows(10, shared=3)
    before = latest.prediction
    matches = sample_matches(before, window, shared_frames(before, window), max_points)
    available = 3 * scene.HEIGHT * scene.WIDTH
    assert min(max_points, available) / 4 <= len(matches) <= max_points
    assert set(matches.pair) == {0, 1, 2}
    # a similarity keeps ratios of distances: the same points seen twice
    x, y = (np.linalg.norm(points[1:] - points[:-1], axis=1) for points in (matches.x, matches.y))
    np.testing.assert_allclose(x / y, np.median(x / y), rtol=1e-3)
    np.testing.assert_allclose(np.exp(-matches.log_ratio), np.median(x / y), rtol=1e-4)


def test_weighted_median_splits_the_weight():
    assert weighted_median(np.array([5.0, 1.0, 3.0]), np.ones(3)) == 3.0
    assert weighted_median(np.array([5.0, 1.0, 3.0]), np.array([10.0, 1.0, 1.0])) == 5.0


def spoil_like_a_network(seed):
    """A smooth 3 % in depth, 0.3 degrees in the cameras' turns and 1 % of the window's extent in their places."""
    rng = np.random.default_rng(seed)

    def spoil(prediction, _):
        count = len(prediction.stamps_ns)
        poses = prediction.window_from_cam
        extent = np.ptp(poses[:, :3, 3], axis=0).max()
        turns = Rotation.from_rotvec(rng.normal(0, math.radians(0.3) / math.sqrt(3), (count, 3))).as_matrix()
        poses[:, :3, :3] = poses[:, :3, :3] @ turns
        poses[:, :3, 3] += rng.normal(0, 0.01 * extent / math.sqrt(3), (count, 3))
        size = (scene.WIDTH, scene.HEIGHT)
        smooth = [cv2.resize(rng.normal(0, 0.03, (3, 4)), size, interpolation=cv2.INTER_CUBIC) for _ in range(count)]
        depth = prediction.depth * (1 + np.stack(smooth)).astype(np.float32)
        return dataclasses.replace(prediction, cam_from_window=invert_rigid(poses), depth=depth)

    return spoil


def test_noise_of_a_good_network_does_not_add_up():
    # The walk is 14 m long in a room of 6 m. With seams this noisy, alignment by camera centres alone ends 0.6 m off.
    errors = []
    for seed in range(3):
        predictor = scene.SimulatedPredictor(scene.walk(120), seed, spoil_like_a_network(seed))
        pipeline = Pipeline(Config(), predictor)
        frames = [*map(pipeline.add_frame, scene.frames_of(predictor.world_from_cams))]
        estimate = [f.map_from_cam[:3, 3] for f in scene.placed(update for update in frames if update is not None)]
        errors.append(scene.trajectory_error(np.array(estimate), predictor.world_from_cams[: len(estimate), :3, 3]))
        assert pipeline.statistics.degenerate == pipeline.statistics.held == 0
    assert np.median(errors) < 0.04  # metres, Sim(3); measured 0.024 as the median of 6
