"""Depth and colour -> packed x y z rgb points, as PointCloud2 wants them; arrays only, no messages."""

from __future__ import annotations

import numpy as np

from vggt_ros.core.geometry import unproject_depth


def organised_cloud(depth: np.ndarray, image: np.ndarray, K: np.ndarray) -> np.ndarray:
    """One point per pixel, coloured.

    Args:
        depth: [H, W] float32 along the optical axis; NaN where unknown.
        image: [H, W, 3] uint8 RGB on the same grid.
        K: [3, 3] intrinsics of this grid.

    Returns:
        [H, W, 4] float32: x, y, z in the optical frame, NaN where unknown, and 0x00RRGGBB in the bits of the fourth.
    """
    cloud = np.empty((*depth.shape, 4), np.float32)
    cloud[..., :3] = unproject_depth(depth, K)
    rgb = cloud[..., 3:].view(np.uint8)  # little-endian: blue first
    rgb[..., 0], rgb[..., 1], rgb[..., 2], rgb[..., 3] = image[..., 2], image[..., 1], image[..., 0], 0
    return cloud


def known_points(cloud: np.ndarray, stride: int = 1) -> np.ndarray:
    """[H, W, 4] organised cloud -> [N, 4], every stride-th row and column, without the unknown."""
    thinned = cloud[::stride, ::stride]
    return thinned[np.isfinite(thinned[..., 2])]


def coloured_points(points: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """[N, 3] points and [N, 3] uint8 colours -> [N, 4] packed as above."""
    packed = np.empty((len(points), 4), np.float32)
    packed[:, :3] = points
    bits = packed[:, 3:].view(np.uint8)
    bits[:, 0], bits[:, 1], bits[:, 2], bits[:, 3] = rgb[:, 2], rgb[:, 1], rgb[:, 0], 0
    return packed


def transform_cloud(target_from_source: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[N, 4] packed points moved by a [4, 4] rigid transform; the colour stays."""
    moved = np.empty_like(points)
    moved[:, :3] = points[:, :3] @ target_from_source[:3, :3].T.astype(np.float32)
    moved[:, :3] += target_from_source[:3, 3].astype(np.float32)
    moved.view(np.uint32)[:, 3] = points.view(np.uint32)[:, 3]  # as integers: a float copy may quiet a NaN's bits
    return moved


def first_in_voxel(points: np.ndarray, voxel_size: float) -> np.ndarray:
    """Which points to keep so that each voxel keeps the first of its points.

    A hash table filled by one indexed assignment, again for the few that meet a full slot: no sort, 3 times as fast as
    np.unique on 200 000 points.

    Args:
        points: [N, 3+] coordinates in metres, finite.
        voxel_size: edge in metres.

    Returns:
        [M] indices, ascending.
    """
    cells = np.floor(points[:, :3].T * np.float32(1 / voxel_size)).astype(np.int64)  # (3, N)
    keys = (cells[0] << 42) ^ ((cells[1] & 0x1FFFFF) << 21) ^ (cells[2] & 0x1FFFFF)
    bits = max(int(np.ceil(np.log2(max(len(keys), 1)))) + 1, 4)
    table = np.empty(1 << bits, np.int64)
    waiting, kept = np.arange(len(keys)), []
    multiplier = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: Fibonacci hashing, Knuth vol. 3, sec. 6.4
    while len(waiting):
        slots = (keys[waiting].view(np.uint64) * np.uint64(multiplier)) >> np.uint64(64 - bits)
        table[slots[::-1]] = waiting[::-1]  # of a repeated index the last assignment stays: the first point
        winners = table[slots]
        kept.append(waiting[winners == waiting])
        waiting = waiting[keys[waiting] != keys[winners]]
        multiplier = (multiplier + 0x3C6EF372FE94F82A) % 2**64  # even: the multiplier stays odd, the slots change
    return np.sort(np.concatenate(kept)) if kept else np.empty(0, np.int64)
