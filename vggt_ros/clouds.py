"""Depth and colour -> packed x y z rgb points, as PointCloud2 wants them; arrays only, no messages."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Points(NamedTuple):
    """N coloured points, one array a coordinate: arithmetic on it is several times as fast as on packed points.

    Args:
        xyz: [3, N] float32 coordinates, finite.
        rgb: [N] uint32, 0x00RRGGBB.
    """

    xyz: np.ndarray
    rgb: np.ndarray

    def take(self, indices: np.ndarray) -> Points:
        return Points(self.xyz[:, indices], self.rgb[indices])

    def transformed(self, target_from_source: np.ndarray) -> Points:
        """Moved by a [4, 4] rigid transform."""
        R, t = target_from_source[:3, :3].astype(np.float32), target_from_source[:3, 3:].astype(np.float32)
        return Points(R @ self.xyz + t, self.rgb)

    def packed(self) -> np.ndarray:
        """[N, 4] float32: x, y, z and the colour's bits."""
        x, y, z = self.xyz
        return _pack(x, y, z, self.rgb)


def lift(depth: np.ndarray, image: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One coloured point per pixel, in the optical frame.

    Args:
        depth: [H, W] float32 along the optical axis; NaN where unknown.
        image: [H, W, 3] uint8 RGB on the same grid.
        K: [3, 3] intrinsics of this grid, pixel centres at integers.

    Returns:
        x, y, z [H, W] float32, NaN where unknown, and rgb [H, W] uint32, 0x00RRGGBB.
    """
    height, width = depth.shape
    z = depth.astype(np.float32, copy=False)
    x = z * ((np.arange(width) - K[0, 2]) / K[0, 0]).astype(np.float32)
    y = z * ((np.arange(height) - K[1, 2]) / K[1, 1]).astype(np.float32)[:, None]
    bgra = cv2.cvtColor(image, cv2.COLOR_RGB2BGRA)  # little-endian: blue is the lowest byte
    return x, y, z, bgra.view(np.uint32)[..., 0] & np.uint32(0x00FFFFFF)


def organised_cloud(x: np.ndarray, y: np.ndarray, z: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Four [H, W] planes of `lift` -> [H, W, 4] float32 packed points; unknown ones stay, as NaN."""
    return _pack(x, y, z, rgb)


def known_points(x: np.ndarray, y: np.ndarray, z: np.ndarray, rgb: np.ndarray, stride: int = 1) -> Points:
    """Four [H, W] planes of `lift` -> every stride-th row and column, without the unknown."""
    if stride > 1:
        x, y, z, rgb = (np.ascontiguousarray(plane[::stride, ::stride]) for plane in (x, y, z, rgb))
    known = np.flatnonzero(np.isfinite(z))
    return Points(np.stack([plane.reshape(-1)[known] for plane in (x, y, z)]), rgb.reshape(-1)[known])


def coloured_points(points: np.ndarray, rgb: np.ndarray) -> Points:
    """[N, 3] points and [N, 3] uint8 RGB colours -> Points."""
    red, green, blue = rgb.astype(np.uint32).T
    return Points(np.ascontiguousarray(points.T, np.float32), red << 16 | green << 8 | blue)


def first_in_voxel(xyz: np.ndarray, voxel_size: float) -> np.ndarray:
    """Which points to keep so that each voxel keeps the first of its points.

    A hash table filled by one indexed assignment, and again for the few that met a full slot, instead of the sort
    inside np.unique.

    Args:
        xyz: [3, N] finite coordinates.
        voxel_size: edge, in the same unit.

    Returns:
        [M] indices, ascending.
    """
    cells = np.floor(xyz * np.float32(1 / voxel_size)).astype(np.int64)
    # 21 bits an axis: 40 km at 2 cm before two voxels share a key.
    keys = ((cells[0] & 0x1FFFFF) << 42 | (cells[1] & 0x1FFFFF) << 21 | (cells[2] & 0x1FFFFF)).view(np.uint64)
    waiting = np.arange(keys.size, dtype=np.int32)
    bits = keys.size.bit_length() + 1
    table = np.empty(1 << bits, np.int32)
    kept = [waiting[:0]]
    multiplier = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: Fibonacci hashing, Knuth vol. 3, sec. 6.4
    while waiting.size:
        slots = ((keys * np.uint64(multiplier)) >> np.uint64(64 - bits)).view(np.int64)
        order = np.arange(waiting.size, dtype=np.int32)
        table[slots[::-1]] = order[::-1]  # of a repeated index the last assignment stays: the first point
        winners = table[slots]
        kept.append(waiting[winners == order])
        left = keys != keys[winners]  # another voxel has the slot
        keys, waiting = keys[left], waiting[left]
        multiplier = (multiplier + 0x3C6EF372FE94F82A) % 2**64  # even step: it stays odd, and the slots change
    return np.sort(np.concatenate(kept))


def _pack(x: np.ndarray, y: np.ndarray, z: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    packed = np.empty((*x.shape, 4), np.float32)
    packed[..., 0], packed[..., 1], packed[..., 2] = x, y, z
    packed.view(np.uint32)[..., 3] = rgb  # as integers: a float copy may change a NaN's bits
    return packed
