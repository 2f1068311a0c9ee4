"""Metres from the cameras of a rig, whose distances are known: all see the scene at one time, in one window."""

from __future__ import annotations

import math

from vggt_ros.core.metric.scale import Measurement, NoEvidence
from vggt_ros.core.prediction import Prediction


def measure_rig(prediction: Prediction) -> Measurement | NoEvidence:
    """Metres in a unit of a window, from where the cameras of a rig are mounted (rig.Rig)."""
    if math.isfinite(prediction.metres_per_unit):
        return Measurement(math.log(prediction.metres_per_unit), prediction.metres_error)
    return NoEvidence(
        'the distances between the cameras of the rig were not seen: their mounts are not in TF, they are in one '
        'place, or the scene is too far away'
    )
