"""Metres from the height of the camera: the floor is found in the depth, and how high above it the camera looks."""

from __future__ import annotations

import math

import cv2
import numpy as np

from vggt_ros.core.geometry import move_points, unproject_depth
from vggt_ros.core.metric.scale import MAD_TO_SIGMA, Measurement, NoEvidence
from vggt_ros.core.prediction import Prediction

COLUMNS = 56  # of the grid on which planes are looked for: a floor fills hundreds of its cells
BIN = 0.04  # of the log of the height below the camera
LOWEST = 0.3  # of the fullest bin: the floor is the lowest level with so much, not the table that fills the picture
MIN_SHARE = 0.04  # of all cells; less is a ledge
MIN_CELLS = 30  # in all frames of a window
NEAR = 0.06  # of the height: a cell nearer than this to the level belongs to it
MIN_WIDTH = 0.15  # of the height, rms: what is narrower has no slope that can be told
BENT = math.radians(1.5)  # a slope of the floor that a bent depth makes; on the benchmark's cabinet it is 0.6 degrees
FARTHEST = 8.0  # heights away, along the floor; at grazing view a small turn moves the floor by all of its height


def measure_floor(
    prediction: Prediction, up_in_window: np.ndarray, camera_heights: np.ndarray, max_tilt: float
) -> Measurement | NoEvidence:
    """Metres in a unit of a window, from its cameras' height above the floor.

    What is level tells up better than up_in_window: floors and tables share one normal. The floor is then the lowest
    height at which many level pixels lie, and a plane is fitted to it.

    Args:
        prediction: the window.
        up_in_window: [3] unit vector against gravity, in the window's frame.
        camera_heights: [S] true heights of the cameras, metres.
        max_tilt: how far up_in_window may be off, radians.
    """
    posed = np.flatnonzero(prediction.is_posed).tolist()  # a window without is not asked
    grids = [_grid(prediction, i) for i in posed]
    cells = sum(int(np.isfinite(points[..., 2]).sum()) for points, _ in grids)
    level = [_level_cells(points, centre, up_in_window, max_tilt) for points, centre in grids]
    points, offsets, normals = (np.concatenate(parts) for parts in zip(*level, strict=True))
    if len(points) < max(MIN_CELLS, MIN_SHARE * cells):
        return NoEvidence('no floor in view: nothing level below the camera')
    below = -offsets @ _common_normal(normals)
    points, below = points[below > 0], below[below > 0]
    height = _lowest_level(below)
    is_floor = np.abs(np.log(below / height)) < NEAR
    if is_floor.sum() < max(MIN_CELLS, MIN_SHARE * cells):
        return NoEvidence('no floor in view: what is level below the camera is too small')
    normal, centroid, width = _fit_plane(points[is_floor], NEAR * height)
    if width < MIN_WIDTH * height:
        return NoEvidence('too narrow a strip of floor in view to tell its slope')
    normal = normal if normal @ up_in_window > 0 else -normal
    if normal @ up_in_window < math.cos(max_tilt):
        return NoEvidence('the floor in view is not level with the robot: is base -> camera right in TF?', True)
    normal = _towards(normal, up_in_window)
    centres = prediction.window_from_cam[prediction.is_posed][:, :3, 3]
    heights = (centres - centroid) @ normal
    if not np.median(heights) > 0:
        return NoEvidence('the floor that was found lies above the camera', True)
    log_metres = np.log(camera_heights[prediction.is_posed] / np.maximum(heights, 1e-9))
    median = float(np.median(log_metres))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(log_metres - median)))
    return Measurement(median, spread / math.sqrt(len(heights)))


def _grid(prediction: Prediction, i: int) -> tuple[np.ndarray, np.ndarray]:
    """[h, w, 3] points of frame i in the window on a coarse grid, NaN where unknown, and its camera's centre [3]."""
    step = max(1, prediction.depth.shape[2] // COLUMNS)
    K = prediction.K[i] / [[step], [step], [1.0]]
    points = unproject_depth(prediction.depth[i, ::step, ::step].astype(np.float64), K)
    window_from_cam = prediction.window_from_cam[i]
    return move_points(window_from_cam, points.reshape(-1, 3)).reshape(points.shape), window_from_cam[:3, 3]


def _level_cells(
    points: np.ndarray, centre: np.ndarray, up: np.ndarray, max_tilt: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points [N, 3] below the camera whose surface looks up, as they lie from the camera [N, 3], and normals [N, 3]."""
    inner = points[1:-1, 1:-1]
    normal = np.cross(points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1])
    with np.errstate(invalid='ignore', divide='ignore'):
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        normal *= np.sign(normal @ up)[..., None]  # a surface that is seen from above can only look up
        below = -((inner - centre) @ up)
        away = np.linalg.norm(inner - centre, axis=-1)
        is_level = (normal @ up > math.cos(max_tilt)) & (below > 0) & (away < FARTHEST * below)
    return inner[is_level], (inner - centre)[is_level], normal[is_level]


def _common_normal(normals: np.ndarray) -> np.ndarray:
    """[3] the direction about which most of [N, 3] unit vectors gather."""
    mean = normals.mean(axis=0)
    for _ in range(3):
        cosine = normals @ (mean / np.linalg.norm(mean))
        mean = normals[cosine >= np.median(cosine)].mean(axis=0)
    return mean / np.linalg.norm(mean)


def _towards(normal: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The normal [3] of a plane that was seen, with what it leans from up believed only where it is much.

    Depth bends with distance, by a percent in a depth camera, and a slope of that size moves the floor under the camera
    by as much as the scale is to be known. A map that really leans, leans by more.
    """
    axis = np.cross(up, normal)
    angle = math.asin(min(1.0, float(np.linalg.norm(axis))))
    if angle < 1e-9:
        return up
    kept = angle**3 / (angle**2 + BENT**2)
    return cv2.Rodrigues(kept * axis / np.linalg.norm(axis))[0] @ up


def _lowest_level(below: np.ndarray) -> float:
    """The lowest height below the camera at which many cells lie."""
    logs = np.log(below)
    bins = np.arange(logs.min() - BIN, logs.max() + 2 * BIN, BIN)
    count, edges = np.histogram(logs, bins)
    count = np.convolve(count, np.ones(3), 'same')
    peak = int(np.flatnonzero(count >= LOWEST * count.max())[-1])
    while peak > 0 and count[peak - 1] > count[peak]:  # to the top of that hill
        peak -= 1
    near = logs[np.abs(logs - edges[peak] - BIN / 2) < 1.5 * BIN]
    return math.exp(float(np.median(near)))


def _fit_plane(points: np.ndarray, near: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Normal [3], centroid [3] and rms width of the narrower direction of the plane through most of the points."""
    for _ in range(5):
        centroid = points.mean(axis=0)
        _, D, Vt = np.linalg.svd(points - centroid, full_matrices=False)
        off = np.abs((points - centroid) @ Vt[2])
        kept = points[off < max(near / 2, 2 * MAD_TO_SIGMA * float(np.median(off)))]
        if len(kept) == len(points):
            break
        points = kept
    return Vt[2], centroid, float(D[1] / math.sqrt(len(points)))
