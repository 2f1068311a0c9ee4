"""Poses between stamps: a straight shift and a turn about one axis, and nothing where nobody knows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from vggt_ros.core.errors import ShapeError
from vggt_ros.core.geometry import BODY_FROM_OPTICAL
from vggt_ros.core.metric.pose_track import PoseTrack, interpolate_rigid

SECOND = 10**9
START = 1_700_000_000 * SECOND


def pose(x: float, degrees: float = 0.0) -> np.ndarray:
    T = BODY_FROM_OPTICAL.copy()
    T[:3, :3] = Rotation.from_rotvec([0.1, degrees, -5], degrees=True).as_matrix() @ T[:3, :3]
    T[:3, 3] = x, -2 * x, 0.5
    return T


@pytest.mark.parametrize('share', [0.0, 0.25, 0.9, 1.0])
def test_a_pose_between_two_lies_on_the_straight_way_and_the_shortest_turn(share):
    start, end = pose(1.0, 10), pose(3.0, 130)
    between = interpolate_rigid(start, end, share)
    np.testing.assert_allclose(between[:3, 3], (1 - share) * start[:3, 3] + share * end[:3, 3])
    turn = Slerp([0, 1], Rotation.from_matrix([start[:3, :3], end[:3, :3]]))(share).as_matrix()
    np.testing.assert_allclose(between[:3, :3], turn, atol=1e-9)
    np.testing.assert_array_equal(between[3], [0, 0, 0, 1])


def test_a_track_answers_between_its_poses_and_nowhere_else():
    track = PoseTrack(keep_s=60.0, max_gap_s=0.5)
    assert track.at(START) is None
    for tenths, x in ((0, 0.0), (2, 2.0), (7, 3.0), (13, 4.0)):  # gaps of 0.2, 0.5 and 0.6 s
        track.add(START + tenths * SECOND // 10, pose(x))
    np.testing.assert_array_equal(track.at(START), pose(0.0))
    np.testing.assert_array_equal(track.at(START + 13 * SECOND // 10), pose(4.0))
    np.testing.assert_allclose(track.at(START + SECOND // 20), pose(0.5), atol=1e-12)
    np.testing.assert_allclose(track.at(START + 3 * SECOND // 10), pose(2.2), atol=1e-12)
    for tenths in (-1, 8, 12, 14):
        assert track.at(START + tenths * SECOND // 10) is None


def test_a_late_pose_finds_its_place_a_second_one_replaces_and_a_jump_back_starts_anew():
    track = PoseTrack()
    track.add(START, pose(0.0))
    track.add(START + SECOND // 2, pose(4.0))
    track.add(START + SECOND // 4, pose(1.0))
    np.testing.assert_allclose(track.at(START + SECOND // 8), pose(0.5), atol=1e-12)
    track.add(START + SECOND // 4, pose(3.0))
    assert len(track) == 3
    np.testing.assert_array_equal(track.at(START + SECOND // 4), pose(3.0))
    track.add(START + SECOND // 2 - SECOND, pose(9.0))  # late by just a second: kept in order
    assert len(track) == 4
    track.add(START + SECOND // 2 - SECOND - 1, pose(7.0))
    assert len(track) == 1
    np.testing.assert_array_equal(track.at(START - SECOND // 2 - 1), pose(7.0))


def test_a_track_is_bounded_and_forgets_nothing_younger_than_it_shall_keep():
    track = PoseTrack(keep_s=2.0)
    for i in range(1000):
        track.add(START + i * SECOND // 10, pose(float(i)))
        for back in range(min(i, 20) + 1):
            np.testing.assert_array_equal(track.at(START + (i - back) * SECOND // 10), pose(float(i - back)))
        assert len(track) <= 43  # twice those of two seconds, at most


@pytest.mark.parametrize('wrong', [np.eye(3), 1.01 * np.eye(4), np.full((4, 4), np.nan), np.diag([1.0, 1.0, 0.9, 1.0])])
def test_what_is_no_rigid_pose_is_refused(wrong):
    with pytest.raises(ShapeError, match='rigid'):
        PoseTrack().add(START, wrong)
    track = PoseTrack()
    track.add(START, np.eye(4) + 1e-5)  # rounding of single precision
    assert len(track) == 1
