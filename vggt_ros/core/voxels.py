"""VoxelMap: one coloured point a voxel, bounded, the oldest out first."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from vggt_ros.core.geometry import Sim3, move_points

BITS = 21  # of a voxel index on each axis: 42 km across at 2 cm
EMPTY = -1  # in the place of a voxel's key, which is never negative
HASH = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio; Source: Knuth, TAOCP vol. 3, sec. 6.4


class VoxelMap:
    """A cloud in which the first point seen stands for its voxel; each point knows which submap it belongs to.

    Voxels are numbered 1, 2, 3 ... as they come and live in a ring, so the oldest are overwritten. A hash table chains
    them newest first; numbers along a chain fall, so a chain simply ends at the first number that the ring has lost.
    Nothing is ever deleted or rebuilt: a window costs what its own points cost, however large the map is. Points that
    are moved in place leave their slots empty until the ring comes round.

    Args:
        voxel_size: edge of a voxel.
        max_points: voxels kept.
    """

    def __init__(self, voxel_size: float, max_points: int) -> None:
        self.voxel_size, self.max_points = voxel_size, max_points
        self._count = 0
        self.empty = 0  # slots of the ring whose points have moved away
        buckets = 1 << max(4, (max_points - 1).bit_length())
        self._shift = np.uint64(64 - buckets.bit_length() + 1)
        # zeros are given by the operating system page by page as they are touched: a small map stays small
        self._newest = np.zeros(buckets, dtype=np.int64)
        self._older = np.zeros(max_points, dtype=np.int64)
        self._key = np.zeros(max_points, dtype=np.int64)
        self._xyz = np.zeros((max_points, 3), dtype=np.float32)
        self._rgb = np.zeros((max_points, 3), dtype=np.uint8)
        self._owner = np.zeros(max_points, dtype=np.int32)

    def __len__(self) -> int:
        return self._used - self.empty

    @property
    def _used(self) -> int:
        return min(self._count, self.max_points)

    def insert(self, xyz: np.ndarray, rgb: np.ndarray, owner: int | np.ndarray = 0) -> None:
        """Add [N, 3] finite points with [N, 3] uint8 colours; those in a voxel that is known change nothing.

        Args:
            xyz, rgb: the points.
            owner: number of the submap they belong to, or [N] numbers.
        """
        owners = np.broadcast_to(np.asarray(owner, dtype=np.int32), len(xyz))
        index = np.floor(np.ascontiguousarray(xyz.T) / np.float32(self.voxel_size))  # [3, N]: rows add up faster
        inside = np.abs(index).max(axis=0) < 1 << (BITS - 1)
        if not inside.all():
            index, xyz, rgb, owners = index[:, inside], xyz[inside], rgb[inside], owners[inside]
        x, y, z = index.astype(np.int64) + (1 << (BITS - 1))
        key = (x << 2 * BITS) | (y << BITS) | z
        first = first_of_each(key)
        first = first[~self._holds(key[first])][-self.max_points :]
        self._append(key[first], xyz[first], rgb[first], owners[first])

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies, the oldest first: [N, 3] float32 and [N, 3] uint8."""
        slots = self._slots()
        return self._xyz[slots], self._rgb[slots]

    def owners(self) -> np.ndarray:
        """[N] int32 submaps that the points belong to, in the order of points()."""
        return self._owner[self._slots()]

    @property
    def count(self) -> int:
        """Points that ever came in; the newest has this number."""
        return self._count

    def points_since(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points numbered above `count`, as insert takes them: places, colours, owners."""
        slots = self._filled(max(count, self._count - self._used))
        return self._xyz[slots], self._rgb[slots], self._owner[slots]

    def without(self, owner: int) -> VoxelMap:
        """A copy that lacks the points of one submap."""
        (xyz, rgb), owners = self.points(), self.owners()
        kept = owners != owner
        copy = VoxelMap(self.voxel_size, self.max_points)
        copy.insert(xyz[kept], rgb[kept], owners[kept])
        return copy

    def move(self, new_from_old: Mapping[int, Sim3], at_most: int) -> bool:
        """Move the points of some submaps in place, where that is cheap; they count as the newest from then on.

        Args:
            new_from_old: how each submap moves in the map.
            at_most: points that may move.

        Returns:
            Whether they moved; False leaves all as it was: there are more, or the ring has no room for them.
        """
        slots = self._slots()
        last = max(new_from_old, default=0)
        is_moving = np.zeros(last + 2, dtype=bool)
        is_moving[list(new_from_old)] = True
        slots = slots[is_moving[np.minimum(self._owner[slots], last + 1)]]
        if len(slots) > at_most or self._count + len(slots) > self.max_points:
            return False
        xyz, rgb, owners = self._xyz[slots], self._rgb[slots], self._owner[slots]
        _move_owned(xyz, owners, new_from_old)
        self._key[slots] = EMPTY
        self.empty += len(slots)
        self.insert(xyz, rgb, owners)
        return True

    def snapshot(self) -> Callable[[Mapping[int, Sim3]], VoxelMap]:
        """What moved() does, on the points as they are now; it may be called on another thread."""
        points = (*self.points(), self.owners())
        return lambda new_from_old: self._moved(*points, new_from_old)

    def moved(self, new_from_old: Mapping[int, Sim3]) -> VoxelMap:
        """A copy in which the points have moved with their submaps; where voxels fall together, the older point stays.

        Args:
            new_from_old: how each submap moves in the map; points of others stay.
        """
        return self.snapshot()(new_from_old)

    def _moved(
        self, xyz: np.ndarray, rgb: np.ndarray, owners: np.ndarray, new_from_old: Mapping[int, Sim3]
    ) -> VoxelMap:
        _move_owned(xyz, owners, new_from_old)
        copy = VoxelMap(self.voxel_size, self.max_points)
        copy.insert(xyz, rgb, owners)
        return copy

    def _slots(self) -> np.ndarray:
        return self._filled(self._count - self._used)

    def _filled(self, since: int) -> np.ndarray:
        """Slots of the points numbered above `since`."""
        slots = np.arange(since, self._count) % self.max_points
        return slots[self._key[slots] != EMPTY] if self.empty else slots

    def _bucket(self, key: np.ndarray) -> np.ndarray:
        return ((key.view(np.uint64) * HASH) >> self._shift).view(np.int64)

    def _holds(self, key: np.ndarray) -> np.ndarray:
        """[N] whether a voxel with this key is in the ring."""
        held = np.zeros(len(key), dtype=bool)
        number = self._newest[self._bucket(key)]
        waiting = np.arange(len(key))
        while True:
            alive = number > self._count - self._used
            number, waiting = number[alive], waiting[alive]
            if len(waiting) == 0:
                return held
            slot = (number - 1) % self.max_points
            equal = self._key[slot] == key[waiting]
            held[waiting[equal]] = True
            number, waiting = self._older[slot[~equal]], waiting[~equal]

    def _append(self, key: np.ndarray, xyz: np.ndarray, rgb: np.ndarray, owner: np.ndarray) -> None:
        number = self._count + 1 + np.arange(len(key))
        slot = (number - 1) % self.max_points
        if self.empty:
            self.empty -= np.count_nonzero(self._key[slot] == EMPTY)
        self._key[slot], self._xyz[slot], self._rgb[slot], self._owner[slot] = key, xyz, rgb, owner
        bucket = self._bucket(key)
        order = np.argsort(bucket, kind='stable')  # voxels of one bucket side by side, numbers rising
        bucket, number, slot = bucket[order], number[order], slot[order]
        follows = np.zeros(len(key), dtype=bool)
        follows[1:] = bucket[1:] == bucket[:-1]
        self._older[slot] = np.where(follows, np.roll(number, 1), self._newest[bucket])
        is_last = ~np.roll(follows, -1)
        self._newest[bucket[is_last]] = number[is_last]
        self._count += len(key)


def _move_owned(xyz: np.ndarray, owners: np.ndarray, new_from_old: Mapping[int, Sim3]) -> None:
    """Move [N, 3] points with the submaps [N] that they belong to, in place."""
    order = np.argsort(owners, kind='stable')
    starts = np.searchsorted(owners, np.arange(owners.max(initial=-1) + 2), sorter=order)
    for owner, transform in new_from_old.items():
        if 0 <= owner < len(starts) - 1:
            own = order[starts[owner] : starts[owner + 1]]
            xyz[own] = move_points(transform.matrix(), xyz[own])


def first_of_each(key: np.ndarray) -> np.ndarray:
    """Where each value of [N] int64 comes first, rising; what np.unique finds by sorting, in half the time.

    Every key claims a bucket, the first claim wins; keys that lost to another value try again with another hash.
    """
    waiting = np.flatnonzero(np.diff(key, prepend=key[:1] - 1))  # neighbours are mostly alike: drop runs at once
    bits = max(1, (2 * len(waiting)).bit_length())
    claimed_by = np.zeros(1 << bits, dtype=np.int64)
    firsts = [waiting[:0]]
    factor = int(HASH)
    while len(waiting):
        bucket = ((key[waiting].view(np.uint64) * np.uint64(factor)) >> np.uint64(64 - bits)).view(np.int64)
        claimed_by[bucket[::-1]] = waiting[::-1]  # of several values for one place, numpy keeps the last
        winner = claimed_by[bucket]
        firsts.append(waiting[winner == waiting])
        waiting = waiting[key[winner] != key[waiting]]
        factor = (factor * int(HASH)) % 2**64  # odd times odd stays odd
    return np.sort(np.concatenate(firsts))
