"""Adjustment: cameras and depth of a window, mended by what its frames share."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vggt_ros.core.bundle.matches import Matches, match_frames
from vggt_ros.core.bundle.solver import Problem, Solution

PASSES = 2  # in the second, frames are laid upon each other as the first has mended them
_FEWEST = 20  # matches a frame, below which the network is believed
_LEAST_GAIN = 1e-6  # of the cost: pictures without any texture agree with everything
_NEAR_CHANCE = 0.95  # of what noise ends at, beyond which matches are mostly by chance
_LEAST_TOLD = 0.3  # share of a point's weight that a place without points has: there depth stays the network's


@dataclass(frozen=True, eq=False)
class Geometry:
    """Cameras and depth of the S frames of a window.

    Args:
        cam_from_window: [S, 4, 4] rigid; NaN where unknown.
        K: [S, 3, 3] in pixels of the depth images, without skew.
        depth: [S, h, w] float32 along the optical axis in the unit of the cameras; NaN where unknown.
    """

    cam_from_window: np.ndarray
    K: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True, eq=False)
class Adjusted:
    """A window as it agrees best with what its frames share.

    Args:
        geometry: the first camera is as it was, depth is NaN where it was, focal lengths stay where they are known.
        residual_px, residual_before_px: median distance of what was matched from where it is thought to be, now and by
            the network alone, pixels.
        matches: how many there are.
    """

    geometry: Geometry
    residual_px: float
    residual_before_px: float
    matches: int


def adjust(image: np.ndarray, said: Geometry, *, is_focal_known: bool) -> Adjusted | None:
    """Bundle adjustment of one window that begins with the network's answer.

    Args:
        image: [S, h, w, 3] uint8 RGB.
        said: by the network; a frame without a pose is left alone.
        is_focal_known: K is a calibration; else one factor on all focal lengths is sought too.

    Returns:
        None where the frames share too little, or nothing was found that agrees better: the network's answer stands.
    """
    posed = np.flatnonzero(np.isfinite(said.cam_from_window).all(axis=(1, 2)))
    if len(posed) < 2:
        return None
    seen = Geometry(said.cam_from_window[posed], said.K[posed], said.depth[posed])
    now, estimate = seen, None
    for _ in range(PASSES):
        matches = match_frames(image[posed], now.cam_from_window, now.K, now.depth)
        if matches.is_seen.sum() < _FEWEST * len(posed):
            return None
        u, v = matches.pixel[..., 0], matches.pixel[..., 1]
        depth = seen.depth[np.arange(len(posed))[:, None], v, u].astype(float)
        depth[~np.isfinite(depth)] = 1.0
        problem = Problem(matches, seen.cam_from_window, seen.K, depth, is_focal_known=is_focal_known)
        solution = problem.solve(estimate)
        is_better = solution.cost < solution.cost_before * (1 - _LEAST_GAIN)  # nor where it is NaN
        if not is_better or solution.residual_px > _NEAR_CHANCE * matches.chance_px:
            return None
        estimate, now = solution.estimate, _mended(seen, matches, solution)
    whole = Geometry(said.cam_from_window.copy(), said.K.copy(), said.depth.copy())
    whole.cam_from_window[posed], whole.K[posed], whole.depth[posed] = now.cam_from_window, now.K, now.depth
    return Adjusted(whole, solution.residual_px, solution.residual_before_px, int(matches.is_seen.sum()))


def _mended(said: Geometry, matches: Matches, solution: Solution) -> Geometry:
    """What the network said, with the solution's cameras, and its depth at points carried to the pixels between."""
    estimate, size = solution.estimate, said.depth.shape[1:]
    K, depth = said.K.copy(), said.depth.copy()
    K[:, :2, :2] *= np.exp(estimate.focal)
    reach = float(np.sqrt(size[0] * size[1] / matches.pixel.shape[1]))  # distance of points
    for i, scale in enumerate(estimate.frame):
        between = spread(estimate.point[i] - scale, solution.share_told[i] ** 2, matches.pixel[i], size, reach)
        depth[i] *= np.exp(scale + between).astype(np.float32)
    return Geometry(estimate.cam_from_window, K, depth)


def spread(value: np.ndarray, weight: np.ndarray, pixel: np.ndarray, size: tuple[int, int], reach: float) -> np.ndarray:
    """Carry values at points to all pixels: means of those about, that sink to 0 where there are none.

    Args:
        value, weight: [P], weights from 0 to 1.
        pixel: [P, 2] int, u and v.
        size: (h, w).
        reach: standard deviation of the Gaussian in pixels, about the distance of points.

    Returns:
        [h, w] float32.
    """
    u, v = pixel.T
    told = np.zeros((*size, 2), np.float32)
    told[v, u] = np.stack([weight * value, weight], axis=-1)
    total, weights = np.moveaxis(cv2.GaussianBlur(told, (0, 0), reach), -1, 0)
    alone = _LEAST_TOLD / (2 * np.pi * reach**2)  # what a Gaussian has in its middle
    return np.asarray(total / (weights + alone))
