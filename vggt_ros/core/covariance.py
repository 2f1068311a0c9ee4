"""How well a pose in the map is known: a rough covariance that grows along the path.

A pose error is a small shift and a small turn in the fixed axes of the map. It is carried along the path to first
order; what each step and seam adds is rough: residuals measured at the seam, and shares of the motion assumed below.
Neighbouring pixels err together, so a seam's residual is taken as one measurement, not as thousands.
"""

from __future__ import annotations

import math

import numpy as np

from vggt_ros.core.geometry import cross_matrix
from vggt_ros.core.placement import Placement, SeamStatus
from vggt_ros.core.prediction import Prediction

STEP_SHARE = 0.01  # of the way between two frames: standard deviation of its length, assumed
WINDOW_ROTATION = math.radians(0.3)  # standard deviation of a window's turn, assumed
HELD_ROTATION = math.radians(30.0)  # of a camera that was not seen to move
DOUBTED_SHIFT = 0.1  # of the depth: where points do not agree they lie further apart than this (alignment.AGREE)
START = np.eye(6) * 1e-8  # the first camera defines the map; consumers ask for positive (a tenth of a millimetre)
LOST = np.eye(6) * 9999.0  # what rtabmap reads as lost: CoreWrapper.cpp, covariance of 9999 and more


def move_covariance(covariance: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Carry a pose covariance along a rigid arm: a turn error at its start swings its end.

    Args:
        covariance: [6, 6] at the start; shift and turn in the axes of the map.
        step: [3] from start to end, in the map.

    Source: first order of exp(turn) @ step, turn x step = -[step]x turn; Barfoot, State Estimation for Robotics, 8.3.
    """
    J = np.eye(6)
    J[:3, 3:] = -cross_matrix(step)
    return J @ covariance @ J.T


def step_covariance(step: np.ndarray) -> np.ndarray:
    """[6, 6] that the way from one frame to the next adds."""
    return _diagonal(STEP_SHARE * float(np.linalg.norm(step)), 0.0)


def seam_covariance(placement: Placement, prediction: Prediction) -> np.ndarray:
    """[6, 6] that the placement of a window adds, map units and radians.

    The camera of a held window may have gone anywhere unseen; the depth of what it sees stands for how far.
    """
    seam, depth = placement.seam, _median_depth(prediction) * placement.map_from_window.scale
    if seam.status is SeamStatus.FIRST:
        return np.zeros((6, 6))
    if seam.status is SeamStatus.HELD:
        return _diagonal(depth, HELD_ROTATION)
    shift = seam.residual if math.isfinite(seam.residual) else depth
    if seam.status is SeamStatus.DEGENERATE:
        shift = max(shift, DOUBTED_SHIFT * depth)
    return _diagonal(shift, math.hypot(WINDOW_ROTATION, math.radians(seam.rotation_deg)))


def _median_depth(prediction: Prediction) -> float:
    sampled = prediction.depth[:, ::8, ::8]
    sampled = sampled[np.isfinite(sampled)]
    return float(np.median(sampled)) if sampled.size else 1.0


def _diagonal(shift: float, turn: float) -> np.ndarray:
    return np.diag([shift**2] * 3 + [turn**2] * 3)
