"""Pose covariances: carried exactly to first order, as large as the errors are, honest about what is not known."""

from __future__ import annotations

import dataclasses
import functools
from itertools import pairwise

import numpy as np
import pytest
import scene
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from vggt_ros.core.config import Config
from vggt_ros.core.covariance import (
    LOST,
    START,
    CameraNoise,
    Joint,
    Uncertainty,
    doubted,
    held,
    loop_drift,
    measure_joint,
    move_covariance,
    nees,
)
from vggt_ros.core.geometry import Sim3, invert_rigid
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.placement import Placement, Seam, SeamStatus
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.submap import PlacedFrame, Submap
from vggt_ros.core.window import Window

FRAMES, RUNS = 48, 20


@functools.cache
def walked() -> Prediction:
    """What a perfect network says of the whole walk, in the world."""
    return scene.predict_truth(scene.walk(FRAMES), Sim3.identity())


class ErringNetwork:
    """Knows the walk; every camera and every depth image of a window errs on its own, in a unit of the window's own.

    Args:
        seed: of errors and units.
        turn_deg, shift: rms of a camera's turn, and of its shift as a share of the window's extent.
        depth: standard deviation of the log of a frame's depth.
    """

    def __init__(self, seed: int, turn_deg: float = 0.3, shift: float = 0.01, depth: float = 0.01) -> None:
        self.rng, self.scales = np.random.default_rng(seed), []
        self.turn, self.shift, self.depth = np.radians(turn_deg) / np.sqrt(3), shift / np.sqrt(3), depth

    def predict(self, window: Window) -> Prediction:
        rows = [(frame.stamp_ns - scene.START_NS) // scene.FRAME_NS for frame in window.frames]
        truth, count, scale = walked(), len(rows), 3 ** self.rng.uniform(-1, 1)
        window_from_cam = truth.window_from_cam[rows]
        extent = np.ptp(window_from_cam[:, :3, 3], axis=0).max()
        turns = Rotation.from_rotvec(self.rng.normal(0, self.turn, (count, 3)))
        window_from_cam[:, :3, :3] = window_from_cam[:, :3, :3] @ turns.as_matrix()
        window_from_cam[:, :3, 3] += self.rng.normal(0, self.shift * extent, (count, 3))
        window_from_cam[:, :3, 3] *= scale
        cam_from_window = invert_rigid(window_from_cam) @ window_from_cam[0]
        cam_from_window[0] = np.eye(4)
        factors = scale * np.exp(self.rng.normal(0, self.depth, (count, 1, 1)))
        self.scales.append(scale)
        return dataclasses.replace(
            truth,
            stamps_ns=tuple(frame.stamp_ns for frame in window.frames),
            frame_ids=truth.frame_ids[:count],
            image=truth.image[rows],
            cam_from_window=cam_from_window,
            K=truth.K[rows],
            K_network=truth.K_network[rows],
            depth=(truth.depth[rows] * factors).astype(np.float32),
            confidence=truth.confidence[rows],
        )

    def reset(self) -> None:
        """Nothing is kept."""


def run(seed: int, stride: int = 4, **errors: float) -> tuple[list[PlacedFrame], np.ndarray]:
    """A walk under a network that errs: the frames as published, and their true poses in the map."""
    poses = scene.walk(FRAMES)
    network = ErringNetwork(seed, **errors)
    config = Config().with_values({'window_size': 8, 'window_stride': stride, 'voxel_size': 1.0, 'cloud_stride': 16})
    pipeline = Pipeline(config, network)
    answers = [*map(pipeline.add_frame, scene.frames_of(poses)), pipeline.flush()]
    frames = scene.placed(update for update in answers if update is not None)
    truth = poses.copy()
    truth[:, :3, 3] *= network.scales[0]
    return frames, frames[0].map_from_cam @ invert_rigid(truth[0]) @ truth


def pose_nees(frames: list[PlacedFrame], truth: np.ndarray) -> list[float]:
    """[N - 1] of each pose but the first, which defines the map."""
    answers = []
    for frame, map_from_cam in zip(frames[1:], truth[1:], strict=True):
        turn = Rotation.from_matrix(frame.map_from_cam[:3, :3] @ map_from_cam[:3, :3].T).as_rotvec()
        error = np.concatenate([frame.map_from_cam[:3, 3] - map_from_cam[:3, 3], turn])
        answers.append(nees(error, frame.covariance))
    return answers


def step_nees(frames: list[PlacedFrame], truth: np.ndarray) -> list[float]:
    """[N - 1] of the way from each frame to the next, as its first camera sees it."""
    answers = []
    for (before, frame), (true_before, true_now) in zip(pairwise(frames), pairwise(truth), strict=True):
        step = invert_rigid(before.map_from_cam) @ frame.map_from_cam
        true_step = invert_rigid(true_before) @ true_now
        turn = Rotation.from_matrix(step[:3, :3] @ true_step[:3, :3].T).as_rotvec()
        R = before.map_from_cam[:3, :3]
        error = np.concatenate([R @ (step[:3, 3] - true_step[:3, 3]), R @ turn])
        answers.append(nees(error, frame.step_covariance))
    return answers


@pytest.mark.parametrize('stride, errors', [(4, {}), (2, {}), (4, {'turn_deg': 0.1, 'shift': 0.003})])
def test_poses_err_as_much_as_they_say(stride, errors):
    """Mean of 20 runs within the 95 % bounds of chi-square, for poses far enough on that seams have shown the errors.

    Source: Bar-Shalom, Li and Kirubarajan, Estimation with Applications to Tracking and Navigation, sec. 5.4.2.
    """
    runs = [run(seed, stride, **errors) for seed in range(RUNS)]
    poses = np.mean([pose_nees(*one) for one in runs], axis=0)
    steps = np.mean([step_nees(*one) for one in runs], axis=0)
    lowest, highest = chi2.ppf([0.025, 0.975], 6 * RUNS) / RUNS
    for found in (poses[-12:], steps[-24:]):
        assert lowest < found.mean() < highest


def test_a_network_that_errs_more_gets_larger_covariances():
    good, bad = (run(0, turn_deg=0.3 * much, shift=0.01 * much, depth=0.01 * much)[0] for much in (1.0, 3.0))
    ratio = np.diag(bad[-1].covariance) / np.diag(good[-1].covariance)
    assert (ratio > 4).all()  # nine times the variance, of residuals that one run knows to a third
    assert (ratio < 18).all()


def test_moved_covariance_is_that_of_many_disturbed_arms():
    rng = np.random.default_rng(0)
    mixed = rng.normal(0, 0.01, (7, 7))
    covariance, arm = mixed @ mixed.T, np.array([2.0, -1.0, 0.5])
    drawn = rng.multivariate_normal(np.zeros(7), covariance, 200_000)
    ends = drawn[:, :3] + np.exp(drawn[:, 6:]) * Rotation.from_rotvec(drawn[:, 3:6]).apply(arm) - arm
    sampled = np.cov(np.hstack([ends, drawn[:, 3:]]).T)
    # 1 % is the noise of as many draws and more than the second order of turns of 0.02
    np.testing.assert_allclose(move_covariance(covariance, arm), sampled, atol=0.02 * np.abs(sampled).max())
    np.testing.assert_allclose(move_covariance(covariance[:6, :6], arm)[3:, 3:], covariance[3:6, 3:6])


def test_a_turn_error_swings_the_far_end_and_not_along_the_arm():
    covariance = np.diag([0, 0, 0, 0, 0, 0.01**2])  # about z
    moved = move_covariance(covariance, np.array([10.0, 0.0, 0.0]))
    np.testing.assert_allclose(np.diag(moved)[:3], [0.0, 0.1**2, 0.0], atol=1e-12)


def test_a_scale_error_shows_along_the_way():
    covariance = np.diag([0, 0, 0, 0, 0, 0, 0.05**2])
    moved = move_covariance(covariance, np.array([10.0, 0.0, 0.0]))
    np.testing.assert_allclose(np.diag(moved)[:3], [0.5**2, 0.0, 0.0], atol=1e-12)


def test_two_moves_are_one():
    covariance = np.diag([1.0, 2, 3, 4, 5, 6, 7])
    a, b = np.array([1.0, 2, 3]), np.array([-2.0, 0, 1])
    np.testing.assert_allclose(move_covariance(move_covariance(covariance, a), b), move_covariance(covariance, a + b))


def test_nees_counts_standard_deviations():
    assert nees(np.array([2.0, 0, 0, 0, 0, 0.3]), np.diag([1.0, 1, 1, 1, 1, 0.01])) == pytest.approx(4 + 9)


def submap_of(status: SeamStatus, start: int = 0, shift: float = 0.0) -> Submap:
    """The truth of two frames at half a unit a metre, the second window off by a shift."""
    poses = scene.walk(start + 4)[start:]
    stamps = [scene.START_NS + i * scene.FRAME_NS for i in range(start, start + 4)]
    prediction = scene.predict_truth(poses, Sim3.identity(), stamps)
    return Submap(prediction, Placement(Sim3(0.5, np.eye(3), np.array([shift, 0, 0])), Seam(status)), 2 if start else 0)


def covariance_after(status: SeamStatus) -> np.ndarray:
    uncertainty, first, second = Uncertainty(4, 100), submap_of(SeamStatus.FIRST), submap_of(status, 2)
    for submap, before in ((first, None), (second, first)):
        poses = submap.placement.map_from_window.transform_pose(submap.prediction.window_from_cam)
        answers = uncertainty.place(submap, before, poses)
    return answers[-1].pose


def test_worse_seams_weigh_more():
    variances = [
        np.diag(covariance_after(status)) for status in (SeamStatus.ALIGNED, SeamStatus.DEGENERATE, SeamStatus.HELD)
    ]
    assert all((a < b).all() for a, b in pairwise(variances))
    depth = 0.5 * np.median(submap_of(SeamStatus.HELD, 2).prediction.depth)
    assert (variances[2][:3] > 0.9 * depth**2).all()  # it may have gone as far as it sees


def test_what_nothing_tells_is_as_far_as_the_camera_sees_and_what_is_doubted_a_tenth_of_it():
    for covariance, deviations in (
        (held(3.0), [3.0] * 3 + [np.radians(30)] * 3 + [np.log(2)]),
        (doubted(3.0), [0.3] * 3 + [np.radians(10)] * 3 + [0.1]),
    ):
        np.testing.assert_allclose(covariance, np.diag(np.square(deviations)), rtol=1e-12)


def test_frames_of_a_first_window_err_as_their_cameras_and_by_the_swing_of_the_first():
    """By hand: 0.3 degrees and 1 % of the window's extent a camera, shared out over three axes."""
    first = submap_of(SeamStatus.FIRST)
    poses = first.placement.map_from_window.transform_pose(first.prediction.window_from_cam)
    said = Uncertainty(4, 100).place(first, None, poses)
    centres = poses[:, :3, 3]
    apart = max(np.linalg.norm(a - b) for a in centres for b in centres)
    extent = np.hypot(apart, 0.03 * 0.5 * np.median(first.prediction.depth[:, ::8, ::8]))
    own = np.diag([(0.01 * extent) ** 2 / 3] * 3 + [np.radians(0.3) ** 2 / 3] * 3)
    np.testing.assert_array_equal(said[0].pose, START[:6, :6])
    np.testing.assert_array_equal(said[0].step, LOST)
    for i in (1, 2, 3):
        expected = START[:6, :6] + own + move_covariance(own, centres[i] - centres[0])
        np.testing.assert_allclose(said[i].pose, expected, rtol=1e-6, atol=1e-14)
        expected = own + move_covariance(own, centres[i] - centres[i - 1])
        np.testing.assert_allclose(said[i].step, expected, rtol=1e-6, atol=1e-14)


def windows_that_differ(depths=(0.1, -0.1)) -> tuple[Submap, Submap]:
    """Four frames each, two of them shared: the later window is turned by a degree, shifted, and larger by half."""
    stamps = [scene.START_NS + i * scene.FRAME_NS for i in range(6)]
    then = scene.predict_truth(scene.walk(6)[:4], Sim3.identity(), stamps[:4])
    now = scene.predict_truth(scene.walk(6)[2:], Sim3.identity(), stamps[2:])
    factors = np.exp([*depths, 0.0, 0.0]).astype(np.float32)
    now = dataclasses.replace(now, depth=now.depth * factors[:, None, None])
    turn = Rotation.from_euler('z', 1.0, degrees=True).as_matrix()
    return (
        Submap(then, Placement(Sim3.identity(), Seam(SeamStatus.FIRST))),
        Submap(now, Placement(Sim3(1.5, turn, np.array([0.1, 0.0, -0.2])), Seam(SeamStatus.ALIGNED)), 2),
    )


def test_a_joint_is_measured_on_the_frames_that_both_windows_hold():
    then, now = windows_that_differ()
    joint = measure_joint(now, then, 0.7, 4)
    centres = scene.walk(6)[:, :3, 3]
    moved = now.placement.map_from_window.transform_points(centres[2:4])
    assert joint.stamps_ns == joint.depth_stamps_ns == now.prediction.stamps_ns[:2]
    np.testing.assert_allclose(joint.centre, centres[2:4].mean(axis=0))
    assert joint.turn_squares == pytest.approx(2 * np.radians(1.0) ** 2)
    assert joint.shift_squares == pytest.approx(np.square(moved - centres[2:4]).sum())
    assert joint.depth_squares == pytest.approx(2 * 0.1**2, rel=1e-4)  # about the mean, whatever the scales are
    apart = max(np.linalg.norm(a - b) for a in centres[:4] for b in centres[:4])
    depth = np.median(then.prediction.depth[:, ::8, ::8])
    assert (joint.extent, joint.extent_before) == (0.7, pytest.approx(np.hypot(apart, 0.03 * depth)))
    newest = measure_joint(now, then, 0.7, 1)
    assert newest.stamps_ns == joint.stamps_ns
    assert newest.depth_stamps_ns == joint.stamps_ns[1:]  # of the depth only the newest are compared


def test_frames_without_a_pose_join_nothing():
    then, now = windows_that_differ()
    poses = now.prediction.cam_from_window.copy()
    poses[0] = np.nan
    one = dataclasses.replace(now, prediction=dataclasses.replace(now.prediction, cam_from_window=poses))
    assert measure_joint(one, then, 0.7, 4).stamps_ns == now.prediction.stamps_ns[1:2]
    poses = then.prediction.cam_from_window.copy()
    poses[3] = np.nan
    other = dataclasses.replace(then, prediction=dataclasses.replace(then.prediction, cam_from_window=poses))
    assert measure_joint(one, other, 0.7, 4) is None
    blind = dataclasses.replace(now.prediction, depth=np.full_like(now.prediction.depth, np.nan))
    joint = measure_joint(dataclasses.replace(now, prediction=blind), then, 0.7, 4)
    assert (joint.count, joint.depth_count, joint.depth_squares) == (2, 0, 0.0)


def test_a_loop_errs_by_both_its_joints_the_first_swung_to_the_second():
    then, now = windows_that_differ()
    later = Submap(now.prediction, now.placement)  # all four frames are shared with the window between
    drift = loop_drift(then, now, later, 4)
    extent = measure_joint(now, then, 1.0, 4).extent_before
    poses = now.placement.map_from_window.transform_pose(now.prediction.window_from_cam)
    apart = max(np.linalg.norm(a - b) for a in poses[:, :3, 3] for b in poses[:, :3, 3])
    wide = np.hypot(apart, 0.03 * 1.5 * now.prediction.median_depth)
    first, second = measure_joint(now, then, wide, 4), measure_joint(later, now, wide, 4)
    assert second.extent_before == pytest.approx(wide)
    assert extent == first.extent_before
    np.testing.assert_allclose(drift.place, second.centre)
    expected = move_covariance(first.of_noise(), second.centre - first.centre) + second.of_noise()
    np.testing.assert_allclose(drift.of_noise, expected)
    assert not drift.fixed.any()
    few = loop_drift(then, now, later, 1)  # depth of one frame tells the scale: four times as badly at the second joint
    assert few.of_noise[2, 6, 6] == pytest.approx(2 * 1.2 * (1 + 1))
    assert drift.of_noise[2, 6, 6] == pytest.approx(2 * 1.2 * (1 / 2 + 1 / 4))
    stranger = scene.predict_truth(scene.walk(2), Sim3.identity(), [1, 2])
    assert loop_drift(Submap(stranger, now.placement), now, later, 4) is None


def joint_of(stamps_ns: tuple[int, ...], squares: float, count: int = 4) -> Joint:
    return Joint(stamps_ns, np.zeros(3), squares, squares, stamps_ns, squares, 1.0, 1.0)


def test_noise_is_learnt_from_residuals():
    noise = CameraNoise()
    for _ in range(60):  # four cameras whose pairs lie 0.1 apart on each axis: nine degrees of freedom, three of depth
        noise = noise.learn(joint_of((1, 2, 3, 4), 9 * 0.1**2))
    assert noise.turn.variance == pytest.approx(0.1**2 / 2, rel=0.02)  # two cameras err in a pair
    assert noise.shift.variance == pytest.approx(0.1**2 / 2, rel=0.02)
    assert noise.depth.variance == pytest.approx(3 * 0.1**2 / 2, rel=0.04)


def test_one_shared_camera_teaches_nothing():
    assert CameraNoise().learn(joint_of((1,), 5.0)) == CameraNoise()


def test_cameras_in_two_seams_cancel():
    """Of a window whose every camera joins it to both sides nothing is left but what the outer windows err by."""
    joint = joint_of((1, 2, 3, 4), 0.0)
    through = joint.of_noise()[0] + joint.of_noise()[0] - joint.echo(joint)[0]
    assert through[3, 3] < 0.6 * (joint.of_noise()[0] * 2)[3, 3]
    assert np.all(np.diag(through) >= 0)
    assert not joint.echo(joint_of((5, 6), 0.0)).any()


def test_a_joint_errs_as_the_means_of_two_windows_and_shares_with_the_last_what_the_window_between_has():
    joint = Joint((1, 2, 3, 4), np.zeros(3), 0.0, 0.0, (2, 3, 4), 0.0, 3.0, 2.0)
    turn, shift, depth = (np.diag(one) for one in joint.of_noise())
    np.testing.assert_allclose(turn, [0, 0, 0] + [1.1 * 2 / 4] * 3 + [0])  # 1.1: robust means are a little worse
    np.testing.assert_allclose(shift, [1.1 * (9 + 4) / 4] * 3 + [0] * 4)
    np.testing.assert_allclose(depth, [0] * 6 + [1.2 * 2 / 3])  # 1.2: and so are medians
    pair = Joint((1, 2), np.zeros(3), 0.0, 0.0, (), 0.0, 3.0, 2.0)
    np.testing.assert_allclose(pair.of_noise()[:, 5, 5], [1.0, 0, 0])  # a mean of two is as good as it can be
    np.testing.assert_allclose(pair.of_noise()[:, 6, 6], [0, 0, 2.4])
    last = Joint((3, 4, 5), np.zeros(3), 0.0, 0.0, (4, 5), 0.0, 9.0, 9.0)
    turn, shift, depth = (np.diag(one) for one in joint.echo(last))
    both = 2 / (4 * 3)  # two cameras are in both means, of four and of three
    np.testing.assert_allclose(turn, [0, 0, 0] + [2 * both] * 3 + [0])
    np.testing.assert_allclose(shift, [2 * both * 2.0**2] * 3 + [0] * 4)
    np.testing.assert_allclose(depth, [0] * 6 + [2 * 1 / (3 * 2)])
    assert not pair.echo(pair)[2].any()


def test_lost_and_start_are_what_consumers_read():
    assert (np.diag(LOST) >= 9999).all()  # rtabmap: lost
    assert (np.diag(START)[:6] > 0).all()
