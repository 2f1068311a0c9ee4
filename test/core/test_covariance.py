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


def test_lost_and_start_are_what_consumers_read():
    assert (np.diag(LOST) >= 9999).all()  # rtabmap: lost
    assert (np.diag(START)[:6] > 0).all()
