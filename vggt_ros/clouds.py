"""Depth and colour -> packed x y z rgb points, as PointCloud2 wants them; arrays only, no messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from vggt_ros.core.geometry import ray_slopes
from vggt_ros.core.voxels import BITS, first_of_each

Planes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, y, z, rgb, as of lift
_AXIS_MASK = (1 << BITS) - 1  # 42 km at 2 cm before two voxels share a key


class Points(NamedTuple):
    """N coloured points, one array a coordinate: arithmetic on it is several times as fast as on packed points.

    Args:
        xyz: [3, N] float32 coordinates, finite.
        rgb: [N] uint32, 0x00RRGGBB.
    """

    xyz: np.ndarray
    rgb: np.ndarray

    def take(self, indices: np.ndarray) -> Points:
        return Points(self.xyz.take(indices, axis=1), self.rgb.take(indices))

    def transformed(self, target_from_source: np.ndarray) -> Points:
        """Moved by a [4, 4] rigid transform."""
        R, t = target_from_source[:3, :3].astype(np.float32), target_from_source[:3, 3:].astype(np.float32)
        xyz = np.einsum('ij,jn->in', R, self.xyz)  # a third less than a product of BLAS with so thin a matrix
        xyz += t
        return Points(xyz, self.rgb)

    def pack(self, packed: np.ndarray) -> None:
        """Into [N, 4] float32, in place: x, y, z and the colour's bits."""
        if self.rgb.size:
            x, y, z = self.xyz[:, None]
            pack_planes(x, y, z, self.rgb[None], packed[None])


def lift(depth: np.ndarray, image: np.ndarray, K: np.ndarray) -> Planes:
    """One coloured point per pixel, in the optical frame.

    Args:
        depth: [H, W] float32 along the optical axis; NaN where unknown.
        image: [H, W, 3] uint8 RGB on the same grid.
        K: [3, 3] intrinsics of this grid, pixel centres at integers.

    Returns:
        x, y, z [H, W] float32, NaN where unknown, and rgb [H, W] uint32, 0x00RRGGBB.
    """
    z = depth.astype(np.float32, copy=False)
    x_over_z, y_over_z = ray_slopes(K, *depth.shape)
    x, y = z * x_over_z, z * y_over_z[:, None]
    rgb = cv2.cvtColor(image, cv2.COLOR_RGB2BGRA).view(np.uint32)[..., 0]  # little-endian: blue is the lowest byte
    return x, y, z, np.bitwise_and(rgb, np.uint32(0x00FFFFFF), out=rgb)


def pack_planes(x: np.ndarray, y: np.ndarray, z: np.ndarray, rgb: np.ndarray, packed: np.ndarray) -> None:
    """Four [H, W] planes of `lift` -> packed [H, W, 4] float32, in place; unknown points stay, as NaN."""
    cv2.merge((x, y, z, rgb.view(np.float32)), packed)  # moves bits: a float copy may change a NaN's


def unpack_planes(packed: np.ndarray) -> Planes:
    """The way back from `pack_planes`."""
    x, y, z, rgb = cv2.split(packed)
    return x, y, z, rgb.view(np.uint32)


def thinned(planes: Planes, stride: int) -> Planes:
    """Every stride-th row and column of four [H, W] planes."""
    if stride == 1:
        return planes
    x, y, z, rgb = (np.ascontiguousarray(plane[::stride, ::stride]) for plane in planes)
    return x, y, z, rgb


def known_points(x: np.ndarray, y: np.ndarray, z: np.ndarray, rgb: np.ndarray) -> Points:
    """Four [H, W] planes of `lift` -> their points without the unknown."""
    known = np.isfinite(z)
    count = np.count_nonzero(known)
    if count == z.size:
        return Points(np.stack([plane.reshape(-1) for plane in (x, y, z)]), rgb.reshape(-1))
    xyz = np.empty((3, count), np.float32)
    for row, plane in zip(xyz, (x, y, z), strict=True):
        row[:] = plane[known]
    return Points(xyz, rgb[known])


def voxel_points(x: np.ndarray, y: np.ndarray, z: np.ndarray, rgb: np.ndarray, voxel_size: float) -> Points:
    """Four [H, W] planes of `lift` -> the first known point of each voxel."""
    kept = first_in_voxel((x, y, z), voxel_size)
    return Points(np.stack([plane.reshape(-1)[kept] for plane in (x, y, z)]), rgb.reshape(-1)[kept])


def coloured_points(points: np.ndarray, rgb: np.ndarray) -> Points:
    """[N, 3] points and [N, 3] uint8 RGB colours -> Points."""
    red, green, blue = rgb.astype(np.uint32).T
    return Points(np.ascontiguousarray(points.T, np.float32), red << 16 | green << 8 | blue)


def first_in_voxel(xyz: np.ndarray | Sequence[np.ndarray], voxel_size: float) -> np.ndarray:
    """Which points to keep so that each voxel keeps the first of its points.

    Neighbours mostly share a voxel, and a point that shares one with the point before or above is not the first: that
    leaves few to be looked up in a table.

    Args:
        xyz: three arrays of one shape, [N] or [H, W]: coordinates, NaN where unknown.
        voxel_size: edge, in the same unit.

    Returns:
        [M] indices into the flattened arrays, ascending, of known points.
    """
    cells = [np.multiply(plane, np.float32(1 / voxel_size)) for plane in xyz]
    for cell in cells:
        np.floor(cell, out=cell)
    starts = np.isfinite(cells[2]).reshape(-1)
    flat = [cell.reshape(-1) for cell in cells]
    for step in {1, cells[2].shape[-1]}:  # to the pixel before, and to the one above
        differs = flat[0][step:] != flat[0][:-step]
        for cell in flat[1:]:
            differs |= cell[step:] != cell[:-step]
        starts[step:] &= differs  # NaN differs from all
    first = np.flatnonzero(starts)
    x, y, z = (cell[first].astype(np.int64) & _AXIS_MASK for cell in flat)
    return first[first_of_each(x << 2 * BITS | y << BITS | z)]
