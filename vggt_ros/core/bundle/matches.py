"""Matches: where the frames of a window show the same points, to a fraction of a pixel.

Each frame is laid upon every other one as the network's depth and cameras say. What is left is a shift of a few pixels,
however far the camera moved, and dense optical flow measures it; so wide motion, turns about the optical axis and
changes of size, on which flow between the pictures themselves fails, are the network's part.

Source: Kroeger et al., Fast Optical Flow using Dense Inverse Search, 2016, as OpenCV has it; points are the corners of
Shi and Tomasi, Good Features to Track, 1994.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from vggt_ros.core.geometry import invert_rigid, move_points, unproject_depth

_SIGMA_PX = 0.3  # of a match along u and v where there is texture, in pixels of the picture that flow is sought in
_FAINT = 2.0  # smaller eigenvalue of the structure tensor where the variance is twice that, without noise
_FAINT_BY_NOISE = 0.7  # what a grey level of noise, squared, adds to it
_TEXTURE_OF_NOISE = 0.1  # eigenvalue of a grey level of noise, squared, where there is nothing else
_COLUMNS = 16  # of cells, each with one point
_SMALLEST_CELL = 8  # pixels
_FINE_WIDTH = 192  # a wider picture is halved for the flow until it is no wider
_BLANK = 0.02  # texture, as a share of what is faint, below which nothing is seen at all
_CHANCE_PX = 0.87  # of the flow's pixels; so measured with noise at 128x96
_LONGEST_LOOP = 1.0  # there and back again ends within so many of the flow's pixels of the start
_MARGIN = 1  # pixels at the border where nothing is matched
_LEAST_SHARED = 0.1  # of a picture must be seen in another one
_NEAREST = 1e-3  # of the median depth: what comes nearer to a camera, or behind it, is not seen by it


@dataclass(frozen=True, eq=False)
class Matches:
    """P points of each of S frames, and where the other frames show them; pixel centres are at integers.

    Args:
        pixel: [S, P, 2] int, u and v of a frame's points.
        seen: [S, S, P, 2] u and v in the second frame of the points of the first; any number where they are not seen.
        is_seen: [S, S, P] whether they are.
        sigma_px: [S, P] standard deviation of u and of v in `seen` of a point: large where there is little texture.
        chance_px: median distance from anything sensible at which matches of pictures of noise still come back.
    """

    pixel: np.ndarray
    seen: np.ndarray
    is_seen: np.ndarray
    sigma_px: np.ndarray
    chance_px: float


def match_frames(image: np.ndarray, cam_from_window: np.ndarray, K: np.ndarray, depth: np.ndarray) -> Matches:
    """Find what the frames of a window share.

    Args:
        image: [S, h, w, 3] uint8 RGB.
        cam_from_window: [S, 4, 4], as is thought.
        K: [S, 3, 3] in pixels of the images.
        depth: [S, h, w] float32 along the optical axis in the unit of the cameras; where it is NaN nothing is matched.
    """
    frames, _, width = depth.shape
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in image]
    known = np.isfinite(depth)
    median = float(np.median(depth[known])) if known.any() else 1.0
    points = [
        unproject_depth(np.where(k, d, np.float32(median)), one) for k, d, one in zip(known, depth, K, strict=True)
    ]
    halvings = max(0, math.ceil(math.log2(width / _FINE_WIDTH)))
    dense_flow = _DenseFlow(halvings)
    found_corners = [_corners(one, there) for one, there in zip(grey, known, strict=True)]
    corners, texture = (np.stack(both) for both in zip(*found_corners, strict=True))
    has_depth = [_known_at(there, at) for there, at in zip(known, corners, strict=True)]
    seen = np.zeros((frames, frames, corners.shape[1], 2))
    is_seen = np.zeros(seen.shape[:3], bool)
    longest = _LONGEST_LOOP * 2**halvings
    window_from_cam = invert_rigid(cam_from_window)

    def expected(a: int, b: int) -> np.ndarray:
        b_from_a = cam_from_window[b] @ window_from_cam[a]
        return _project(b_from_a, points[a], K[b], _NEAREST * median)

    for a in range(frames):
        for b in range(a + 1, frames):
            in_b, in_a = expected(a, b), expected(b, a)
            if max(_share_inside(in_b), _share_inside(in_a)) < _LEAST_SHARED:
                continue
            there, back = dense_flow(grey[a], grey[b], in_b), dense_flow(grey[b], grey[a], in_a)
            for one, other, forth, home in ((a, b, there, back), (b, a, back, there)):
                found = corners[one] + _sample(forth, corners[one])
                loop = np.linalg.norm(found + _sample(home, found) - corners[one], axis=-1)
                seen[one, other] = found
                is_seen[one, other] = (loop < longest) & has_depth[one] & _known_at(known[other], found)
    sigma_px = _SIGMA_PX * 2**halvings * np.sqrt(1 + 1 / np.maximum(texture, _BLANK))
    return Matches(corners, seen, is_seen & (texture > _BLANK)[:, None], sigma_px, _CHANCE_PX * 2**halvings)


class _DenseFlow:
    """Flow between two pictures of which one is first laid upon the other."""

    def __init__(self, halvings: int) -> None:
        preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
        self._flow = cv2.DISOpticalFlow_create(preset)  # type: ignore[attr-defined]
        self._flow.setFinestScale(halvings)
        self._flow.setPatchStride(4)
        self._flow.setGradientDescentIterations(6)
        self._flow.setVariationalRefinementIterations(0)  # a third of the time, and poses are no better for it
        self._grid: np.ndarray | None = None

    def __call__(self, first: np.ndarray, second: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """[h, w, 2] float32 from a pixel of the first to where the second shows it.

        Args:
            first, second: [h, w] uint8.
            expected: [h, w, 2] float32 u and v in the second where the first's pixels are thought to be.
        """
        if self._grid is None:
            self._grid = np.stack(np.meshgrid(*map(np.arange, reversed(first.shape))), axis=-1).astype(np.float32)
        laid_upon = _sample(second, expected)
        reached = self._grid + self._flow.calc(first, laid_upon, None)
        return _sample(expected, reached) - self._grid


def _corners(grey: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[P, 2] int u and v of the pixel of each cell that is most of a corner and has a depth, and [P] how much it is."""
    height, width = grey.shape
    cell = max(_SMALLEST_CELL, width // _COLUMNS)
    sharpness = cv2.cornerMinEigenVal(cv2.GaussianBlur(grey, (0, 0), 0.8).astype(np.float32), 5)
    sharpness[~known] = -1.0
    rows, columns = height // cell, width // cell
    cells = sharpness[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).transpose(0, 2, 1, 3)
    pixels = cells.reshape(rows * columns, cell * cell)
    best = pixels.argmax(axis=1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    corners = np.stack([column * cell + best % cell, row * cell + best // cell], axis=-1)
    variance = _noise(grey) ** 2
    texture = np.maximum(pixels.max(axis=1) - _TEXTURE_OF_NOISE * variance, 0.0)
    return corners, texture / (_FAINT + _FAINT_BY_NOISE * variance)


def _noise(grey: np.ndarray) -> float:
    """Standard deviation of a picture's noise in grey levels, about 0 where it has none.

    Source: Immerkaer, Fast Noise Variance Estimation, 1996, with the median in place of the mean, as edges are few.
    """
    residue = cv2.filter2D(grey, cv2.CV_32F, np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32))
    return float(np.median(np.abs(residue))) / (6 * 0.6745)


def _project(b_from_a: np.ndarray, points: np.ndarray, K: np.ndarray, nearest: float) -> np.ndarray:
    """[h, w, 2] float32 u and v of points [h, w, 3] of camera a in camera b; far outside where they are behind it."""
    x, y, z = move_points(b_from_a, points.reshape(-1, 3)).T
    z = np.maximum(z, nearest)
    uv = np.stack([x / z * K[0, 0] + K[0, 2], y / z * K[1, 1] + K[1, 2]], axis=-1)
    return uv.reshape(*points.shape[:2], 2).astype(np.float32)


def _share_inside(expected: np.ndarray) -> float:
    """Of every 8th row and column."""
    height, width = expected.shape[:2]
    return float(((expected[::8, ::8] >= 0) & (expected[::8, ::8] < (width, height))).all(axis=-1).mean())


def _sample(field: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """What a field [h, w] or [h, w, C] is between its pixels, at [..., 2] u and v."""
    at = pixel.astype(np.float32)
    rows = at if at.ndim == 3 else at[:, None]
    u, v = (np.ascontiguousarray(rows[..., axis]) for axis in range(2))
    sampled = cv2.remap(field, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled if at.ndim == 3 else sampled[:, 0]


def _known_at(known: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """[P] whether [P, 2] u and v lie well inside a frame and depth is known there."""
    height, width = known.shape
    u, v = np.round(pixel).astype(int).T
    is_inside = (u >= _MARGIN) & (u < width - _MARGIN) & (v >= _MARGIN) & (v < height - _MARGIN)
    return is_inside & known[v.clip(0, height - 1), u.clip(0, width - 1)]
