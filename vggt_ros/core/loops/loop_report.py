"""What is said of a pair of places that was looked at closely."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Evidence:
    """How well two visits fit together; each is compared with a bound.

    Args:
        similarity: of what they look like, -1 to 1.
        inliers_old, inliers_new: share of points on which the network, seeing both, agrees with either visit.
        overlap: share of the old frames' points that a new frame sees.
        agreement: share of those that lie where it sees them.
        correlation: of the grey of those, -1 to 1.
        shared_view: share of patches that both visits show, all shifted alike; NaN where the network gives no patches.
    """

    similarity: float
    inliers_old: float = 0.0
    inliers_new: float = 0.0
    overlap: float = 0.0
    agreement: float = 0.0
    correlation: float = 0.0
    shared_view: float = math.nan


@dataclass(frozen=True)
class LoopReport:
    """A pair of visits that was looked at closely.

    Args:
        window, old_window: numbers of the windows.
        stamp_ns, old_stamp_ns: of the newest frame of either visit.
        evidence: for it.
        drift: how far it is from what the seams say, in standard deviations; NaN where the network did not confirm it.
        is_closed: whether the graph has it.
    """

    window: int
    old_window: int
    stamp_ns: int
    old_stamp_ns: int
    evidence: Evidence
    drift: float
    is_closed: bool
