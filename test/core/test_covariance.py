"""Pose covariances: carried exactly to first order, honest about what is not known."""

from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from vggt_ros.core.covariance import LOST, START, move_covariance, seam_covariance, step_covariance
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.placement import Placement, Seam, SeamStatus
from vggt_ros.core.prediction import Prediction


def test_moved_covariance_is_that_of_many_disturbed_arms():
    rng = np.random.default_rng(0)
    mixed = rng.normal(0, 0.01, (6, 6))
    covariance, arm = mixed @ mixed.T, np.array([2.0, -1.0, 0.5])
    drawn = rng.multivariate_normal(np.zeros(6), covariance, 200_000)
    ends = drawn[:, :3] + Rotation.from_rotvec(drawn[:, 3:]).apply(arm) - arm
    sampled = np.cov(np.hstack([ends, drawn[:, 3:]]).T)
    # 1 % is the noise of as many draws and more than the second order of turns of 0.02
    np.testing.assert_allclose(move_covariance(covariance, arm), sampled, atol=0.02 * np.abs(sampled).max())


def test_a_turn_error_swings_the_far_end_and_not_along_the_arm():
    covariance = np.diag([0, 0, 0, 0, 0, 0.01**2])  # about z
    moved = move_covariance(covariance, np.array([10.0, 0.0, 0.0]))
    np.testing.assert_allclose(np.diag(moved)[:3], [0.0, 0.1**2, 0.0], atol=1e-12)


def test_two_moves_are_one():
    covariance = np.diag([1.0, 2, 3, 4, 5, 6])
    a, b = np.array([1.0, 2, 3]), np.array([-2.0, 0, 1])
    np.testing.assert_allclose(move_covariance(move_covariance(covariance, a), b), move_covariance(covariance, a + b))


def seam(status, **values):
    depth = np.full((2, 16, 16), 4.0, np.float32)
    eye = np.tile(np.eye(4), (2, 1, 1))
    prediction = Prediction((1, 2), ('c', 'c'), depth[..., None], eye, eye[:, :3, :3], eye[:, :3, :3], depth, depth)
    return seam_covariance(Placement(Sim3(0.5, np.eye(3), np.zeros(3)), Seam(status, **values)), prediction)


def test_worse_seams_weigh_more():
    first = seam(SeamStatus.FIRST)
    good = seam(SeamStatus.ALIGNED, residual=0.01, rotation_deg=0.1)
    bad = seam(SeamStatus.ALIGNED, residual=0.10, rotation_deg=2.0)
    doubted = seam(SeamStatus.DEGENERATE, residual=0.01, rotation_deg=0.1)  # of the few that agree by chance
    none = seam(SeamStatus.DEGENERATE, rotation_deg=0.1)  # no point agreed
    held = seam(SeamStatus.HELD)
    variances = [np.diag(one) for one in (first, good, bad, held)]
    assert all((a < b).all() for a, b in pairwise(variances))
    np.testing.assert_allclose(np.diag(held)[:3], 2.0**2)  # depth 4 at half a unit each
    np.testing.assert_allclose(np.diag(none)[:3], 2.0**2)
    np.testing.assert_allclose(np.diag(doubted)[:3], 0.2**2)
    assert np.diag(good)[0] == 0.01**2


def test_lost_and_start_are_what_consumers_read():
    assert (np.diag(LOST) >= 9999).all()  # rtabmap: lost
    assert (np.diag(START) > 0).all()
    assert step_covariance(np.array([3.0, 4.0, 0.0]))[0, 0] == 0.05**2
