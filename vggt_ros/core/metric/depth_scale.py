"""Metres from a sensor that measures them: points of a depth camera or a lidar, against the depth that a window saw."""

from __future__ import annotations

import math

import cv2
import numpy as np

from vggt_ros.core.metric.scale import MAD_TO_SIGMA, Measurement, NoEvidence
from vggt_ros.core.prediction import Prediction

MIN_POINTS = 30  # in a frame: a line of a lidar of 16 gives more
MIN_AGREEING = 0.5  # of a frame's points within AGREE of its median; fewer: the two do not show the same thing
AGREE = 0.2  # of the depth
EXPLAINED = 0.7  # of the spread of measured depth: where more is left of it, the prediction knows nothing of its shape
FLAT = 0.1  # a spread of log depth that nothing needs to explain: a wall
EDGE = 1.1  # nearest neighbours' largest depth over their smallest: beyond lies an edge, where a pixel's shift is all
CELL = 4  # pixels; of the points in a cell the nearest hide those behind
NEAREST = 0.1  # metres; what is nearer is the robot itself, or the sensor's way to say nothing


def measure_depth(prediction: Prediction, points_in_cams: list[np.ndarray | None]) -> Measurement | NoEvidence:
    """Metres in a unit of a window, from ratios of measured to predicted depth.

    Pixels at edges of the predicted depth are left out, as there the least misfit of the two sensors compares the thing
    in front with the wall behind. Of points that fall on one spot only the nearest count: another sensor sees round
    corners. Each frame gives its median, and the window the median of those.

    Args:
        prediction: the window.
        points_in_cams: S arrays [N, 3] of measured points in the optical frame of each camera, metres; None without.
    """
    medians, disagreeing, compared = [], 0, 0
    for i, points in enumerate(points_in_cams):
        if points is None:
            continue
        compared += 1
        measured, predicted = paired_depths(prediction, i, points)
        if len(measured) < MIN_POINTS:
            continue
        if not _is_alike(measured, predicted):
            disagreeing += 1
            continue
        medians.append(float(np.median(np.log(measured / predicted))))
    if not compared:
        return NoEvidence('no depth near the stamps of the images, or no transform from its frame to the camera')
    if disagreeing > len(medians):
        return NoEvidence(
            'measured and predicted depth differ in shape: is the sensor registered to this camera, and does the '
            'network see the scene well enough?',
            is_conflict=True,
        )
    if not medians:
        return NoEvidence('too few measured points fall on known depth')
    log_metres = float(np.median(medians))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(np.array(medians) - log_metres)))
    return Measurement(log_metres, spread / math.sqrt(len(medians)))


def paired_depths(prediction: Prediction, i: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measured and predicted depth [N], where points [M, 3] fall on smooth and confident depth of frame i."""
    u, v, z = _project(points, prediction.K[i], prediction.depth.shape[1:])
    u, v, z = _in_front(u, v, z)
    is_good = _smooth(prediction.depth[i]) & _confident(prediction.confidence[i])
    on_good = is_good[v, u]
    return z[on_good], prediction.depth[i, v, u][on_good].astype(np.float64)


def _is_alike(measured: np.ndarray, predicted: np.ndarray) -> bool:
    """Whether the two differ by a factor, more or less: most points agree on it, and it explains the shape."""
    log_ratio = np.log(measured / predicted)
    off = np.abs(log_ratio - np.median(log_ratio))
    if (off < AGREE).mean() < MIN_AGREEING:
        return False
    spread = float(np.median(np.abs(np.log(measured) - np.median(np.log(measured)))))
    return float(np.median(off)) < max(FLAT, EXPLAINED * spread)


def _project(points: np.ndarray, K: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels and depths of the points that fall into an image of [h, w] = size."""
    x, y, z = points[points[:, 2] > NEAREST].T
    u = np.round(K[0, 0] * x / z + K[0, 2]).astype(int)
    v = np.round(K[1, 1] * y / z + K[1, 2]).astype(int)
    inside = (u >= 0) & (u < size[1]) & (v >= 0) & (v < size[0])
    return u[inside], v[inside], z[inside]


def _in_front(u: np.ndarray, v: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Those points that no other in their cell hides."""
    if not len(z):
        return u, v, z
    cell = (v // CELL) * (u.max() // CELL + 1) + u // CELL
    nearest = np.full(cell.max() + 1, np.inf)
    np.minimum.at(nearest, cell, z)
    seen = z < EDGE * nearest[cell]
    return u[seen], v[seen], z[seen]


def _smooth(depth: np.ndarray) -> np.ndarray:
    """[h, w] whether a pixel and its neighbours are known and lie on one surface."""
    known = np.where(np.isfinite(depth), depth, np.float32(0))  # 0 makes every neighbour an edge
    kernel = np.ones((3, 3), np.uint8)
    low = cv2.erode(known, kernel, borderType=cv2.BORDER_REPLICATE)
    return (low > 0) & (cv2.dilate(known, kernel, borderType=cv2.BORDER_REPLICATE) < EDGE * low)


def _confident(confidence: np.ndarray) -> np.ndarray:
    """[h, w] the better part of a frame's pixels; all where they are alike."""
    known = confidence[np.isfinite(confidence)]
    return confidence >= (np.percentile(known, 20) if known.size else np.inf)
