"""Errors of trajectories: known offsets in, known errors out; conventions that could flip quietly."""

import math

import numpy as np
import pytest
import scene
from scipy.spatial.transform import Rotation

from vggt_ros.core.errors import TrajectoryError
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.trajectory import (
    Trajectory,
    associate,
    frame_pairs,
    path_pairs,
    position_errors,
    relative_errors,
    rms,
    umeyama,
)

EXACT = 1e-9  # float64 at metres


def trajectory(poses, start_ns=scene.START_NS, step_ns=scene.FRAME_NS):
    return Trajectory(start_ns + step_ns * np.arange(len(poses), dtype=np.int64), poses)


def walk(count=40):
    return trajectory(scene.walk(count))


def ate(estimate, reference, *, with_scale):
    fit = umeyama(estimate.centres, reference.centres, with_scale=with_scale)
    return rms(position_errors(estimate.moved(fit), reference)), fit.scale


@pytest.mark.parametrize('seed', range(3))
def test_a_similarity_between_two_trajectories_is_no_error_and_its_scale_comes_back(seed):
    similarity = scene.random_similarity(np.random.default_rng(seed))
    error, scale = ate(walk().moved(similarity), walk(), with_scale=True)
    assert error < EXACT
    assert scale == pytest.approx(1 / similarity.scale)  # reference units per estimated unit


def test_a_wrong_scale_is_an_error_after_a_rigid_fit():
    # With all else exact the rigid fit leaves what the scale makes of the spread about the mean.
    reference = walk()
    spread = rms(np.linalg.norm(reference.centres - reference.centres.mean(axis=0), axis=1))
    error, scale = ate(reference.moved(Sim3(1.5, np.eye(3), np.ones(3))), reference, with_scale=False)
    assert error == pytest.approx(0.5 * spread)
    assert scale == 1.0


def test_known_offsets_give_the_known_error():
    # Offsets that turn, shift and scale cannot explain: the four corners of a square go up and down in turn.
    corners = np.tile(np.eye(4), (4, 1, 1))
    corners[:, :3, 3] = [[1, 1, 0], [1, -1, 0], [-1, -1, 0], [-1, 1, 0]]
    spoilt = corners.copy()
    spoilt[:, 2, 3] = [0.1, -0.1, 0.1, -0.1]
    assert ate(trajectory(spoilt), trajectory(corners), with_scale=False)[0] == pytest.approx(0.1)
    # The best scale s minimises 2 (s - 1)^2 + 0.01 s^2: s = 1 / 1.005.
    error, scale = ate(trajectory(spoilt), trajectory(corners), with_scale=True)
    assert scale == pytest.approx(1 / 1.005)
    assert error**2 == pytest.approx(2 * (scale - 1) ** 2 + 0.01 * scale**2)


def test_error_agrees_with_the_closed_form_of_the_scene():
    rng = np.random.default_rng(0)
    noisy = scene.walk(40)
    noisy[:, :3, 3] += rng.normal(0, 0.1, (40, 3))
    error, _ = ate(trajectory(noisy), walk(), with_scale=True)
    assert error == pytest.approx(scene.trajectory_error(noisy[:, :3, 3], scene.walk(40)[:, :3, 3]), abs=EXACT)


def test_a_mirror_image_is_not_explained_away():
    mirrored = scene.walk(40)
    mirrored[:, 1, 3] *= -1
    mirrored[:, 0, 3] += 0.3 * mirrored[:, 1, 3]  # no plane of symmetry
    reference = scene.walk(40)
    reference[:, 0, 3] -= 0.3 * reference[:, 1, 3]
    fit = umeyama(mirrored[:, :3, 3], reference[:, :3, 3], with_scale=True)
    assert np.linalg.det(fit.R) == pytest.approx(1)
    assert ate(trajectory(mirrored), trajectory(reference), with_scale=True)[0] > 0.05


def test_inverse_poses_are_another_trajectory():
    assert ate(walk().inverted(), walk(), with_scale=True)[0] > 0.2  # metres, of a walk of 1.2 by 0.8
    np.testing.assert_allclose(walk().inverted().inverted().world_from_cam, walk().world_from_cam, atol=EXACT)


def test_a_straight_line_can_still_be_aligned():
    line = np.tile(np.eye(4), (5, 1, 1))
    line[:, 0, 3] = np.arange(5)
    error, scale = ate(trajectory(line).moved(Sim3(2.0, scene.look([0, 0, 0], 70)[:3, :3], np.ones(3))),
                       trajectory(line), with_scale=True)  # fmt: skip
    assert error < EXACT
    assert scale == pytest.approx(0.5)


def test_a_camera_that_stands_still_has_no_scale():
    still = trajectory(np.tile(scene.look([100.0, 1, 2], 20), (10, 1, 1)))
    with pytest.raises(TrajectoryError, match='no scale'):
        umeyama(still.centres, walk(10).centres, with_scale=True)
    assert ate(still, walk(10), with_scale=False)[0] > 0


def test_each_step_turned_and_stretched_by_a_known_amount():
    # The estimate turns 1 degree more at each step, about its own axis, and goes 10 % too far.
    step, wrong = np.eye(4), np.eye(4)
    step[:3, 3] = [0.2, 0, 0]
    wrong[:3, 3] = [0.22, 0, 0]
    wrong[:3, :3] = Rotation.from_euler('y', 1, degrees=True).as_matrix()
    true = [np.linalg.matrix_power(step, i) for i in range(11)]
    estimated = [np.linalg.matrix_power(wrong, i) for i in range(11)]
    reference, estimate = trajectory(np.array(true)), trajectory(np.array(estimated))
    shift, turn = relative_errors(estimate, reference, frame_pairs(11))
    np.testing.assert_allclose(shift, 0.02)
    np.testing.assert_allclose(turn, math.radians(1))
    start, end = path_pairs(reference, 0.999999)  # 5 steps of 0.2 sum to 1 but for rounding
    np.testing.assert_array_equal([start, end], [[0, 5], [5, 10]])
    np.testing.assert_allclose(relative_errors(estimate, reference, (start, end))[1], math.radians(5))
    assert [len(part) for part in path_pairs(reference, 3.0)] == [0, 0]


def test_motion_is_compared_in_the_camera_not_in_the_world():
    # A turn of the whole world changes no motion. Were poses inverted, it would.
    turned = walk().moved(Sim3(1.0, Rotation.from_rotvec([0.3, -1, 2]).as_matrix(), np.array([5.0, 6, 7])))
    shift, turn = relative_errors(turned, walk(), frame_pairs(40))
    assert max(shift.max(), turn.max()) < EXACT
    shift, _ = relative_errors(turned.inverted(), walk().inverted(), frame_pairs(40))
    assert shift.max() > 0.1


def test_stamps_are_matched_to_the_nanosecond():
    reference = walk(10)
    late = Trajectory(reference.stamps_ns + 1000, reference.world_from_cam)
    assert [len(part) for part in associate(late, reference, 1000)] == [10, 10]
    assert [len(part) for part in associate(late, reference, 999)] == [0, 0]


def test_each_pose_is_used_once_and_the_nearest_wins():
    reference = trajectory(scene.walk(3), step_ns=100)
    stamps = scene.START_NS + np.array([-30, 4, 90, 103, 160, 900], np.int64)
    estimate = Trajectory(stamps, scene.walk(6))
    matched, of_reference = associate(estimate, reference, 45)
    np.testing.assert_array_equal(matched.stamps_ns - scene.START_NS, [4, 103, 160])
    np.testing.assert_array_equal(of_reference.stamps_ns - scene.START_NS, [0, 100, 200])
    empty = trajectory(np.zeros((0, 4, 4)))
    assert [len(part) for part in associate(empty, reference, 10**9)] == [0, 0]


def test_stamps_that_go_back_are_refused():
    with pytest.raises(TrajectoryError, match='must increase'):
        trajectory(scene.walk(3), step_ns=-1)
