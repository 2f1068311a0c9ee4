"""The way of the camera moves with the windows that placed its frames."""

from __future__ import annotations

import numpy as np
import scene

from vggt_ros.core.geometry import Sim3
from vggt_ros.core.trail import Trail

RNG = np.random.default_rng(0)
POSES = scene.walk(12)
STAMPS = [scene.START_NS + i * scene.FRAME_NS for i in range(12)]
KNOWN = np.ones(4, dtype=bool)


def trail_of(max_windows: int = 10) -> tuple[Trail, dict[int, Sim3]]:
    """Three windows of four frames."""
    trail = Trail(max_windows)
    places = {index: scene.random_similarity(RNG) for index in range(3)}
    for index, place in places.items():
        rows = slice(4 * index, 4 * index + 4)
        trail.add(index, place, STAMPS[rows], POSES[rows], KNOWN)
    return trail, places


def test_frames_come_back_as_they_went_in():
    stamps, poses = trail_of()[0].poses()
    assert stamps.tolist() == STAMPS
    np.testing.assert_allclose(poses, POSES, atol=1e-12)
    stamps, poses = trail_of()[0].poses(last=5)
    assert stamps.tolist() == STAMPS[-5:]


def test_frames_move_with_their_window_alone():
    trail, places = trail_of()
    move = scene.random_similarity(RNG)
    trail.move({1: move @ places[1]})
    _, poses = trail.poses()
    np.testing.assert_allclose(poses[[0, 1, 2, 3, 8, 9, 10, 11]], POSES[[0, 1, 2, 3, 8, 9, 10, 11]], atol=1e-12)
    np.testing.assert_allclose(poses[4:8], move.transform_pose(POSES[4:8]), atol=1e-9)


def test_lost_frames_lie_between_their_neighbours():
    trail = Trail(10)
    straight = np.stack([scene.look([0.1 * i, 0.0, 0.0], 3.0 * i) for i in range(12)])
    held = straight.copy()
    held[4:8] = straight[3]  # as published: at the last pose known
    for index, is_known in enumerate((True, False, True)):
        rows = slice(4 * index, 4 * index + 4)
        trail.add(index, Sim3.identity(), STAMPS[rows], held[rows], np.full(4, is_known))
    _, poses = trail.poses()
    np.testing.assert_allclose(poses, straight, atol=1e-6)  # an even motion, so the truth


def test_a_pose_learnt_later_takes_the_place_of_a_held_one():
    trail = Trail(10)
    trail.add(0, Sim3.identity(), STAMPS[:4], POSES[:4], KNOWN)
    trail.add(0, Sim3.identity(), STAMPS[4:8], np.tile(POSES[3], (4, 1, 1)), ~KNOWN)
    known = np.ones(6, dtype=bool)
    trail.add(1, Sim3.identity(), STAMPS[6:12], POSES[6:12], known, shared=2)
    stamps, poses = trail.poses()
    assert stamps.tolist() == STAMPS
    np.testing.assert_allclose(poses[6:], POSES[6:], atol=1e-12)


def test_the_oldest_windows_leave():
    trail, _ = trail_of(max_windows=2)
    stamps, _ = trail.poses()
    assert stamps.tolist() == STAMPS[4:]
    assert list(trail.map_from_windows) == [1, 2]
