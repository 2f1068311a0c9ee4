"""Placement: where a window stands in the map; Seam: how well it fits the one before."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vggt_ros.core.geometry import Sim3


class SeamStatus(Enum):
    """How a window came to its place in the map."""

    FIRST = 'first'  # it defines the map
    ALIGNED = 'aligned'  # by depths and cameras of the shared frames, confirmed by their dense points
    BRIDGED = 'bridged'  # likewise, on the last window that is trusted, past one that was refused
    DEGENERATE = 'degenerate'  # by depths and cameras as well, but the points do not confirm it: too few, for one
    REFUSED = 'refused'  # its points disagree: no pose and no point of it is believed
    HELD = 'held'  # nothing shared, or nothing that could be trusted: at the last pose and scale known


@dataclass(frozen=True, eq=False)
class Seam:
    """How well a window fits the one before.

    Args:
        status: how it was placed.
        shared_frames: frames compared.
        inlier_ratio: share of dense correspondences that agree, 0 to 1; NaN where none were compared.
        residual: weighted rms distance of those that agree, map units; NaN likewise.
        scale_ratio: scale of this window over that of the one before; NaN likewise.
        rotation_deg: spread of the shared cameras' rotations after placement, degrees; NaN likewise.
        refused: passes of the network over these frames that were refused before this one.
    """

    status: SeamStatus
    shared_frames: int = 0
    inlier_ratio: float = float('nan')
    residual: float = float('nan')
    scale_ratio: float = float('nan')
    rotation_deg: float = float('nan')
    refused: int = 0


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a window stands in the map, and how well that is known."""

    map_from_window: Sim3
    seam: Seam
