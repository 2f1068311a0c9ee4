"""VoxelMap against a plain dictionary that does the same, slowly."""

import time

import numpy as np
import pytest

from vggt_ros.core.geometry import Sim3, rotation_from_vector
from vggt_ros.core.voxels import VoxelMap, first_of_each


class SlowMap:
    """Voxel -> first point, in order of arrival, the oldest dropped."""

    def __init__(self, voxel_size, max_points):
        self.voxel_size, self.max_points, self.voxels = voxel_size, max_points, {}

    def insert(self, xyz, rgb):
        fresh = {}
        for point, colour in zip(xyz, rgb, strict=True):
            voxel = tuple(np.floor(point / np.float32(self.voxel_size)).astype(int))
            if voxel not in self.voxels and voxel not in fresh:
                fresh[voxel] = (point, colour)
        self.voxels.update(fresh)
        for voxel in list(self.voxels)[: -self.max_points]:
            del self.voxels[voxel]

    def points(self):
        return tuple(np.array(column) for column in zip(*self.voxels.values(), strict=True))


@pytest.mark.parametrize('max_points', [1, 7, 100, 1000, 5000])
@pytest.mark.parametrize('voxel_size', [0.05, 0.3])
def test_it_holds_what_a_dictionary_would(max_points, voxel_size):
    rng = np.random.default_rng(max_points)
    fast, slow = VoxelMap(voxel_size, max_points), SlowMap(voxel_size, max_points)
    for k in range(12):
        xyz = rng.normal([0.3 * k, 0, -0.2 * k], 0.4, (500, 3)).astype(np.float32)
        rgb = rng.integers(0, 255, (500, 3), dtype=np.uint8)
        fast.insert(xyz, rgb)
        slow.insert(xyz, rgb)
        for found, expected in zip(fast.points(), slow.points(), strict=True):
            np.testing.assert_array_equal(found, expected)
        assert len(fast) == len(slow.voxels) <= max_points


def test_a_voxel_that_was_dropped_can_come_back():
    one = VoxelMap(1.0, 2)
    for x in (0.5, 1.5, 2.5, 0.5):
        one.insert(np.array([[x, 0, 0]], np.float32), np.zeros((1, 3), np.uint8))
    np.testing.assert_array_equal(one.points()[0][:, 0], [2.5, 0.5])


@pytest.mark.parametrize('max_points', [5000, 1600])
def test_points_moved_in_place_are_those_of_a_map_sorted_anew(max_points):
    """Also where the ring has come round; only which point of a voxel stays may differ."""
    rng = np.random.default_rng(0)
    one = VoxelMap(0.1, max_points)
    for k in range(8):
        one.insert(rng.uniform([k, 0, 0], [k + 1, 1, 1], (200, 3)).astype(np.float32), np.zeros((200, 3), np.uint8), k)
        if k == 5:
            moves = {3: Sim3(1.0, np.eye(3), np.array([0.0, 5.0, 0.0])), 4: Sim3(1.0, np.eye(3), np.array([0.0, 7, 0]))}
            anew = one.moved(moves)
            assert not one.move(moves, 10)  # too many
            before = one.points()[0]
            full = VoxelMap(0.1, len(before))
            full.insert(*one.points(), one.owners())
            assert not full.move(moves, 1000)  # no room but that of others
            assert one.move(moves, 1000)
            assert one.empty > 0
            assert len(one) == len(one.points()[0]) == len(anew) == len(before)
            found, expected = (cloud.points()[0][np.lexsort(cloud.points()[0].T)] for cloud in (one, anew))
            np.testing.assert_allclose(found, expected, atol=1e-6)
            np.testing.assert_array_equal(np.bincount(one.owners()), np.bincount(anew.owners()))
    assert len(one) == len(one.points()[0]) <= max_points
    assert len(np.unique(np.floor(one.points()[0] / np.float32(0.1)), axis=0)) == len(one)  # one a voxel
    one.insert(*one.points())
    assert len(one) == len(one.points()[0])  # what moved away is not taken for there


@pytest.mark.parametrize('owners', [[0, 3, 1, 3, 0, 7, 1], [2, 2, 2, 2, 2, 2, 2], [0], []])
def test_each_point_moves_with_its_own_submap(owners):
    """By turns, shifts and scales; whoever has no move stays, and a move of no point does nothing."""
    rng = np.random.default_rng(1)
    moves = {
        int(owner): Sim3(scale, rotation_from_vector(rng.normal(size=3)), rng.normal(size=3))
        for owner, scale in ((0, 1.5), (3, 0.7), (7, 1.0), (2, 1.1), (9, 2.0), (-1, 3.0))
    }
    xyz = rng.uniform(-5, 5, (len(owners), 3)).astype(np.float32)
    one = VoxelMap(0.001, 100)
    one.insert(xyz, np.zeros((len(owners), 3), np.uint8), np.array(owners, np.int32))
    moved = one.moved(moves)
    expected = [moves[owner].transform_points(p) if owner in moves else p for p, owner in zip(xyz, owners, strict=True)]
    np.testing.assert_allclose(moved.points()[0], np.reshape(expected, (-1, 3)), atol=1e-5)
    np.testing.assert_array_equal(moved.owners(), owners)
    np.testing.assert_array_equal(one.points()[0], xyz)


def test_points_move_in_place_up_to_as_many_as_are_allowed():
    move = {4: Sim3(1.0, np.eye(3), np.array([0.0, 3.0, 0.0]))}
    xyz = np.arange(6, dtype=np.float32)[:, None] * [[1, 0, 0]] + np.float32(0.5)
    owners = np.array([4, 5, 4, 3, 4, 6], np.int32)
    for allowed, room in ((2, 20), (3, 8), (3, 9)):
        one = VoxelMap(1.0, room)
        one.insert(xyz, np.arange(18, dtype=np.uint8).reshape(6, 3), owners)
        assert one.move({}, 0)  # nothing to move
        if (allowed, room) != (3, 9):
            assert not one.move(move, allowed)
            np.testing.assert_array_equal(one.points()[0], xyz)
            continue
        assert one.move(move, allowed)
        found, colours = one.points()
        np.testing.assert_array_equal(found, [*xyz[[1, 3, 5]], *(xyz[[0, 2, 4]] + np.float32([0, 3, 0]))])
        np.testing.assert_array_equal(colours[:, 0], [3, 9, 15, 0, 6, 12])
        np.testing.assert_array_equal(one.owners(), [5, 3, 6, 4, 4, 4])
        assert (len(one), one.empty, one.count) == (6, 3, 9)


def test_nothing_in_and_nothing_out():
    one = VoxelMap(0.1, 10)
    one.insert(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8))
    assert one.points()[0].shape == one.points()[1].shape == (0, 3)


def test_points_are_copies():
    one = VoxelMap(0.1, 10)
    one.insert(np.ones((1, 3), np.float32), np.ones((1, 3), np.uint8))
    one.points()[0][:] = 7
    assert one.points()[0][0, 0] == 1


def test_points_beyond_the_grid_are_left_out():
    one = VoxelMap(0.02, 10)
    one.insert(np.array([[1e9, 0, 0], [-30_000.0, 0, 0], [-20_000.0, 0, 0]], np.float32), np.zeros((3, 3), np.uint8))
    assert one.points()[0][:, 0] == -20_000.0


@pytest.mark.parametrize('values', [1, 3, 100, 10**6])
def test_first_of_each_is_that_of_unique(values):
    key = np.random.default_rng(values).integers(0, values, 5000) * 0x123456789
    np.testing.assert_array_equal(first_of_each(key), np.sort(np.unique(key, return_index=True)[1]))


def test_cost_does_not_grow_with_the_map():
    rng = np.random.default_rng(0)
    one, seconds = VoxelMap(0.02, 1_000_000), []
    for k in range(60):
        xyz = (rng.uniform(0, 1, (20_000, 3)) * [2, 2, 0.2] + [0, 0, 0.3 * k]).astype(np.float32)
        rgb = np.zeros((20_000, 3), np.uint8)
        start = time.process_time()
        one.insert(xyz, rgb)
        seconds.append(time.process_time() - start)
    assert len(one) > 800_000
    # caches miss more as it grows; to look at every voxel would cost 20 times as much
    assert np.median(seconds[-20:]) < 4 * np.median(seconds[1:21])
