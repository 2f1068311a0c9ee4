"""Sky: what is far beyond all else, what the network doubts, and what reaches the top of the picture.

A network puts the sky somewhere far off with little confidence; as a surface in a map it is a lid. The camera is taken
to be upright.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from vggt_ros.core.prediction import Prediction

FAR = 4.0  # times the median depth of a frame; of a street or a yard, houses across it are nearer
SAMPLE = 4  # every 4th row and column tells the medians


def without_sky(prediction: Prediction) -> Prediction:
    """The same with the depth of the sky unknown."""
    depth = prediction.depth.copy()
    for i, confidence in enumerate(prediction.confidence):
        depth[i][sky_pixels(depth[i], confidence)] = np.nan
    return dataclasses.replace(prediction, depth=depth)


def sky_pixels(depth: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """[h, w] bool of one frame: far, doubted, and joined to the top row.

    Args:
        depth: [h, w] any unit; NaN where unknown.
        confidence: [h, w], NaN where unknown.
    """
    known = np.isfinite(depth[::SAMPLE, ::SAMPLE]) & np.isfinite(confidence[::SAMPLE, ::SAMPLE])
    if not known.any():
        return np.zeros(depth.shape, bool)
    far = FAR * float(np.median(depth[::SAMPLE, ::SAMPLE][known]))
    usual = float(np.median(confidence[::SAMPLE, ::SAMPLE][known]))
    candidates = (depth > far) & (confidence < usual)  # NaN compares false
    count, labels = cv2.connectedComponents(candidates.astype(np.uint8), connectivity=4)
    reaches_top = np.zeros(count, bool)
    reaches_top[labels[0]] = True
    reaches_top[0] = False  # what is no candidate
    return reaches_top[labels]
