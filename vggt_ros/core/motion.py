"""What has moved: pixels that the other frames of a window look through.

A point of the room is where it is in every frame that looks there. Where another frame sees something farther along the
same ray, the point was not there at that time. Depth beyond the point is needed, so what hides it says nothing.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from vggt_ros.core.geometry import move_points, unproject_pixels
from vggt_ros.core.prediction import Prediction

GRID = 96  # columns looked at: half a degree of a common lens
THROUGH = 0.15  # of its depth: so much farther must be what is seen in its place; thrice what good depths differ by
WITNESSES = 2  # frames that must look through it, and more of them than see it


def moving_pixels(prediction: Prediction, start: int = 0) -> np.ndarray:
    """[S - start, h, w] bool: pixels that show something which has moved.

    Args:
        prediction: a window; frames without pose or depth neither tell nor are told of.
        start: frames before this one are witnesses only.
    """
    count, height, width = prediction.depth.shape
    stride = max(1, math.ceil(width / GRID))
    posed = prediction.is_posed & np.isfinite(prediction.depth).any(axis=(1, 2))
    nearest = {int(j): _nearest(prediction.depth[j]) for j in np.flatnonzero(posed)}
    answers = np.zeros((count - start, height, width), bool)
    for i in range(start, count):
        if posed[i]:
            small = _looked_through(prediction, i, nearest, stride)
            # one pixel of the grid more: edges of depth are soft
            grown = cv2.dilate(small.astype(np.uint8), np.ones((3, 3), np.uint8))
            answers[i - start] = np.repeat(np.repeat(grown, stride, 0), stride, 1)[:height, :width]
    return answers


def _nearest(depth: np.ndarray) -> np.ndarray:
    """[h, w] the nearest depth around each pixel, 0 where some of it is unknown: then nothing is looked through."""
    return cv2.erode(np.nan_to_num(depth, nan=0.0), np.ones((3, 3), np.uint8))


def _looked_through(prediction: Prediction, i: int, nearest: dict[int, np.ndarray], stride: int) -> np.ndarray:
    """[h / stride, w / stride] bool of one frame."""
    depth = prediction.depth[i, ::stride, ::stride]
    v, u = np.nonzero(depth > 0)
    in_window = move_points(
        prediction.window_from_cam[i],
        unproject_pixels(u * stride, v * stride, depth[v, u].astype(np.float64), prediction.K[i]),
    )
    through, there = np.zeros(len(u), int), np.zeros(len(u), int)
    for j, seen in nearest.items():
        if j == i:
            continue
        x, y, z = move_points(prediction.cam_from_window[j], in_window).T
        K = prediction.K[j]
        with np.errstate(divide='ignore', invalid='ignore'):
            column, row = np.rint(K[0, 0] * x / z + K[0, 2]), np.rint(K[1, 1] * y / z + K[1, 2])
        height, width = seen.shape
        inside = np.flatnonzero((z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height))
        at = seen[row[inside].astype(int), column[inside].astype(int)] / z[inside]
        through[inside] += at > 1 + THROUGH
        there[inside] += np.abs(at - 1) <= THROUGH
    moved = np.zeros(depth.shape, bool)
    moved[v, u] = (through >= WITNESSES) & (through > there)
    return cv2.medianBlur(moved.astype(np.uint8), 3).astype(bool)  # single pixels are noise
