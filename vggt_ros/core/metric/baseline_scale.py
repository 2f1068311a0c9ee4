"""Metres from a second camera at a known distance: both see the scene at one time, in one window."""

from __future__ import annotations

import math

import numpy as np

from vggt_ros.core.metric.scale import MAD_TO_SIGMA, Measurement, NoEvidence
from vggt_ros.core.prediction import Prediction


def measure_baseline(prediction: Prediction, baseline: float, sync_ns: int) -> Measurement | NoEvidence:
    """Metres in a unit of a window, from pairs of frames of two cameras.

    Args:
        prediction: the window; cameras are told apart by their optical frames.
        baseline: distance of the two, metres.
        sync_ns: how far apart the stamps of two frames of one moment may be.
    """
    posed = np.flatnonzero(prediction.is_posed)
    names = sorted({prediction.frame_ids[i] for i in posed})
    if len(names) < 2:
        return NoEvidence('only one camera in the window: a baseline needs frames of two')
    if len(names) > 2:
        return NoEvidence(f'one baseline cannot tell {len(names)} cameras apart ({", ".join(names)})', True)
    centres = prediction.window_from_cam[:, :3, 3]
    left, right = ([i for i in posed if prediction.frame_ids[i] == name] for name in names)
    apart = [
        float(np.linalg.norm(centres[i] - centres[j]))
        for i in left
        for j in right
        if abs(prediction.stamps_ns[i] - prediction.stamps_ns[j]) <= sync_ns
    ]
    if not apart or min(apart) <= 0:
        return NoEvidence('no two frames of the two cameras belong to one moment')
    log_metres = np.log(baseline / np.array(apart))
    median = float(np.median(log_metres))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(log_metres - median)))
    return Measurement(median, spread / math.sqrt(len(apart)))


def measure_rig(prediction: Prediction) -> Measurement | NoEvidence:
    """Metres in a unit of a window, from where the cameras of a rig are mounted (rig.Rig)."""
    if math.isfinite(prediction.metres_per_unit):
        return Measurement(math.log(prediction.metres_per_unit), prediction.metres_error)
    return NoEvidence(
        'the distances between the cameras of the rig were not seen: their mounts are not in TF, they are in one '
        'place, or the scene is too far away'
    )
