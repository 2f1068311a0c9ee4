"""Submap: a Prediction placed in the map; Map: the submaps so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from vggt_ros.core.geometry import Sim3
from vggt_ros.core.prediction import Prediction


class SeamStatus(Enum):
    """How a window came to its place in the map."""

    FIRST = 'first'  # it defines the map
    ALIGNED = 'aligned'  # by dense points and rotations of the shared frames
    DEGENERATE = 'degenerate'  # points could not tell; by the shared cameras' poses and the ratio of depths
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
    """

    status: SeamStatus
    shared_frames: int = 0
    inlier_ratio: float = float('nan')
    residual: float = float('nan')
    scale_ratio: float = float('nan')
    rotation_deg: float = float('nan')


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a window stands in the map, and how well that is known."""

    map_from_window: Sim3
    seam: Seam


@dataclass(frozen=True, eq=False)
class Submap:
    """A prediction placed in the map.

    Args:
        prediction: what the network said.
        placement: map_from_window and its seam.
        shared: how many of its frames, from the front, an earlier submap holds too.
    """

    prediction: Prediction
    placement: Placement
    shared: int = 0


@dataclass(frozen=True, eq=False)
class PlacedFrame:
    """A frame with its depth and its pose in the map, ready to publish.

    Args:
        stamp_ns, frame_id: those of the source image.
        image: [h, w, 3] uint8 RGB on the grid of depth.
        depth: [h, w] float32 along the optical axis, map units (metres once scale is known); NaN where unknown.
        confidence: [h, w] float32, raw.
        K: [3, 3] intrinsics of this grid.
        map_from_cam: [4, 4] rigid pose of the optical frame.
        covariance: [6, 6] of that pose: x, y, z, rotation about x, y, z; map units and radians; fixed axes of the map.
    """

    stamp_ns: int
    frame_id: str
    image: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    K: np.ndarray
    map_from_cam: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class StageTimes:
    """Seconds of one window by stage, for the report; not part of any message."""

    prepare_s: float = 0.0  # resize, normalise, copy in
    network_s: float = 0.0
    align_s: float = 0.0
    map_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Update:
    """What one window adds to the map.

    Args:
        frames: the new frames, oldest first; each stamp appears in one update only.
        window_stamps_ns, map_from_window_cams: all S frames of the window, shared ones re-estimated: stamps and [S, 4, 4].
        map_from_window, seam: the window's place and how well it fits.
        index: number of the window, from 0.
        metric: whether map units are metres.
        times: seconds by stage.
    """

    frames: tuple[PlacedFrame, ...]
    window_stamps_ns: tuple[int, ...]
    map_from_window_cams: np.ndarray
    map_from_window: Sim3
    seam: Seam
    index: int
    metric: bool
    times: StageTimes = field(default_factory=StageTimes)
