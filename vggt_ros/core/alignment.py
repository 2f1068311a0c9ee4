"""Placement of a window in the map: a robust Sim(3) from the frames it shares with the window before."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from vggt_ros.core.config import AlignmentConfig
from vggt_ros.core.geometry import Sim3, move_points, nearest_rotation, rotation_angle, umeyama, unproject_pixels
from vggt_ros.core.placement import Placement, Seam, SeamStatus
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.submap import Submap

AGREE = 0.05  # of its depth: a point nearer to its partner counts as agreeing; three times a good network's depth error
MIN_POINTS = 32  # fewer correspondences than a 6x6 grid of pixels say too little about a turn
MIN_SPREAD = 0.01  # of the depth: points all nearer to one line leave the turn about that line open
MAX_DISAGREEMENT = math.radians(5.0)  # between points and cameras; networks err by fractions of a degree in a window
TUKEY = 4.685  # standard deviations; 95 % efficient on Gaussian noise (Holland and Welsch 1977)
MAD_TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a Gaussian
MIN_SIGMA = 1e-5  # of the depth; far under any network's noise, far over that of float32
MAX_ITERATIONS = 30
CONVERGED = 1e-9  # change of scale, rotation and translation (in depths) in a step


@dataclass(frozen=True, eq=False)
class Matches:
    """The same pixels of the same images, seen by two windows.

    Args:
        x, y: [N, 3] points in the new window and in the one before, each in its window's unit.
        depth: [N] depth of y in its camera, the yardstick of its error.
        log_ratio: [N] log of the depth in the window before over the depth in the new one.
        weight: [N] trust from both confidences.
        pair: [N] which shared frame.
    """

    x: np.ndarray
    y: np.ndarray
    depth: np.ndarray
    log_ratio: np.ndarray
    weight: np.ndarray
    pair: np.ndarray

    def __len__(self) -> int:
        return len(self.depth)


def align(prediction: Prediction, latest: Submap | None, config: AlignmentConfig, map_from_first: Sim3) -> Placement:
    """Place a window in the map.

    Depths of the shared frames give the scale, their points and rotations the rest; what the points cannot tell is
    taken from the shared cameras, and what nothing can tell is held at the last pose and scale known.

    Args:
        prediction: the window to place.
        latest: the submap before it; None at the start of a map.
        config: how many frames and points to compare, and when not to trust them.
        map_from_first: the place of a map's first window.

    Returns:
        map_from_window, always finite, and how well the seam fits.
    """
    if latest is None:
        return Placement(map_from_first, Seam(SeamStatus.FIRST if prediction.is_posed.any() else SeamStatus.HELD))
    before = latest.prediction
    pairs = shared_frames(before, prediction)
    matches = sample_matches(before, prediction, pairs[: config.max_frames], config.max_points)
    if len(matches) == 0:
        return Placement(_hold(prediction, latest, pairs), Seam(SeamStatus.HELD))

    pairs = pairs[: config.max_frames]
    by_cameras = _fit_cameras(before, prediction, pairs, _median_scale(matches))
    by_points, is_trusted = _fit_points(matches, by_cameras, config)
    before_from_window = by_points if is_trusted else by_cameras
    status = SeamStatus.ALIGNED if is_trusted else SeamStatus.DEGENERATE
    seam = _judge(before, prediction, pairs, matches, before_from_window)
    map_from_before = latest.placement.map_from_window
    seam = dataclasses.replace(seam, status=status, residual=map_from_before.scale * seam.residual)
    return Placement(map_from_before @ before_from_window, seam)


def shared_frames(before: Prediction, prediction: Prediction) -> list[tuple[int, int]]:
    """Indices (in before, in prediction) of the frames that both hold with a pose, the newest first."""
    index_before = {stamp: i for i, stamp in enumerate(before.stamps_ns) if before.is_posed[i]}
    return [
        (index_before[stamp], i)
        for i, stamp in reversed(list(enumerate(prediction.stamps_ns)))
        if stamp in index_before and prediction.is_posed[i]
    ]


def sample_matches(
    before: Prediction, prediction: Prediction, pairs: list[tuple[int, int]], max_points: int
) -> Matches:
    """At most max_points pixels of the shared frames, on a regular grid, where both windows know the depth."""
    known = [np.isfinite(before.depth[i]) & np.isfinite(prediction.depth[j]) for i, j in pairs]
    total = sum(int(mask.sum()) for mask in known)
    step = max(1, int(math.sqrt(total / max_points)))
    window_before_from_cam, window_from_cam = before.window_from_cam, prediction.window_from_cam
    parts = []
    for pair, ((i, j), mask) in enumerate(zip(pairs, known, strict=True)):
        v, u = np.nonzero(mask[step // 2 :: step, step // 2 :: step])
        v, u = v * step + step // 2, u * step + step // 2
        z_before, z = before.depth[i, v, u].astype(np.float64), prediction.depth[j, v, u].astype(np.float64)
        confidence = np.minimum(before.confidence[i, v, u], prediction.confidence[j, v, u]).astype(np.float64)
        y = move_points(window_before_from_cam[i], unproject_pixels(u, v, z_before, before.K[i]))
        x = move_points(window_from_cam[j], unproject_pixels(u, v, z, prediction.K[j]))
        parts.append((x, y, z_before, np.log(z_before / z), confidence, np.full(len(u), pair)))
    if not parts:
        return Matches(*(np.zeros((0, 3)),) * 2, *(np.zeros(0),) * 4)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if len(columns[0]) > max_points:
        keep = np.linspace(0, len(columns[0]) - 1, max_points).astype(int)
        columns = [column[keep] for column in columns]
    return Matches(*columns)


def _median_scale(matches: Matches) -> float:
    """Unit of the new window in units of the one before: the median log-ratio of each frame, then over frames."""
    return math.exp(np.median([np.median(matches.log_ratio[matches.pair == pair]) for pair in np.unique(matches.pair)]))


def _fit_cameras(before: Prediction, prediction: Prediction, pairs: list[tuple[int, int]], scale: float) -> Sim3:
    """before_from_window from the mean turn and the median shift of the shared cameras, at a given scale."""
    in_before = before.window_from_cam[[i for i, _ in pairs]]
    in_window = prediction.window_from_cam[[j for _, j in pairs]]
    R = nearest_rotation((in_before[:, :3, :3] @ np.swapaxes(in_window[:, :3, :3], 1, 2)).sum(axis=0))
    shifts = in_before[:, :3, 3] - scale * in_window[:, :3, 3] @ R.T
    return Sim3(scale, R, np.median(shifts, axis=0))


def _fit_points(matches: Matches, start: Sim3, config: AlignmentConfig) -> tuple[Sim3, bool]:
    """before_from_window by iteratively reweighted least squares on the points, and whether the points can tell."""
    if len(matches) < MIN_POINTS:
        return start, False
    fit = Sim3(start.scale, start.R, np.median(matches.y - start.scale * matches.x @ start.R.T, axis=0))
    for _ in range(MAX_ITERATIONS):
        weight = _robust_weight(matches, fit)
        step, fit = fit, umeyama(matches.x, matches.y, weight)
        if _change(step, fit, matches.depth) < CONVERGED:
            break
    agreeing = _relative_residual(matches, fit) < AGREE
    is_trusted = (
        agreeing.mean() >= config.min_inlier_ratio
        and agreeing.sum() >= MIN_POINTS
        and _spread(matches, weight) > MIN_SPREAD
        and rotation_angle(fit.R.T @ start.R) < MAX_DISAGREEMENT
    )
    return fit, bool(is_trusted)


def _relative_residual(matches: Matches, fit: Sim3) -> np.ndarray:
    """[N] distance of the partners in depths: depth networks err in proportion to the depth."""
    return np.linalg.norm(matches.y - fit.transform_points(matches.x), axis=1) / matches.depth


def _robust_weight(matches: Matches, fit: Sim3) -> np.ndarray:
    """[N] trust times Tukey's biweight of the residual, for squared distances (hence over depth squared)."""
    residual = _relative_residual(matches, fit)
    sigma = max(MAD_TO_SIGMA * float(np.median(residual)), MIN_SIGMA)
    biweight = np.maximum(0.0, 1.0 - (residual / (TUKEY * sigma)) ** 2) ** 2
    return matches.weight * biweight / matches.depth**2


def _change(old: Sim3, new: Sim3, depth: np.ndarray) -> float:
    shift = float(np.linalg.norm(new.t - old.t) / np.median(depth))
    return max(abs(math.log(new.scale / old.scale)), float(rotation_angle(old.R.T @ new.R)), shift)


def _spread(matches: Matches, weight: np.ndarray) -> float:
    """How far the points lie from one line, in depths: the second axis of their spread."""
    share = weight / weight.sum()
    centred = matches.y - share @ matches.y
    variances = np.linalg.eigvalsh((centred * share[:, None]).T @ centred)  # ascending
    return math.sqrt(max(float(variances[1]), 0.0)) / float(np.median(matches.depth))


def _judge(
    before: Prediction, prediction: Prediction, pairs: list[tuple[int, int]], matches: Matches, fit: Sim3
) -> Seam:
    """The figures of a seam, lengths in units of the window before."""
    agreeing = _relative_residual(matches, fit) < AGREE
    squared = ((matches.y - fit.transform_points(matches.x)) ** 2).sum(axis=1)
    weight = matches.weight * agreeing
    residual = math.sqrt(float(weight @ squared / weight.sum())) if agreeing.any() else float('nan')
    turns = [
        rotation_angle(before.cam_from_window[i, :3, :3] @ fit.R @ prediction.window_from_cam[j, :3, :3])
        for i, j in pairs
    ]
    return Seam(
        status=SeamStatus.ALIGNED,
        shared_frames=len(pairs),
        inlier_ratio=float(agreeing.mean()),
        residual=residual,
        scale_ratio=fit.scale,
        rotation_deg=math.degrees(math.sqrt(float(np.mean(np.square(turns))))),
    )


def _hold(prediction: Prediction, latest: Submap, pairs: list[tuple[int, int]]) -> Sim3:
    """map_from_window with the scale kept, and a shared camera, or else the last one before, at its old pose."""
    map_from_before = latest.placement.map_from_window
    if pairs:
        i, j = pairs[0]
    else:
        i, j = int(np.flatnonzero(latest.prediction.is_posed)[-1]), int(prediction.is_posed.argmax())
    map_from_cam = map_from_before.transform_pose(latest.prediction.window_from_cam[i])
    held = Sim3.from_rigid(map_from_cam, map_from_before.scale)
    return held @ Sim3.from_rigid(prediction.cam_from_window[j]) if prediction.is_posed[j] else held
