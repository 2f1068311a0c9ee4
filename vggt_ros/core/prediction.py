"""Prediction: what the network says about one window, in the window's own frame and unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from vggt.preprocessing import ImageTransform
from vggt_ros.core.device_frame import DeviceFrame
from vggt_ros.core.geometry import invert_rigid


@dataclass(frozen=True, eq=False)
class Prediction:
    """Depth and cameras of the S frames of a window, on the network's pixel grid [h, w].

    The window's frame is the optical frame of its first keyframe: cam_from_window[0] is the identity, or NaN where the
    network failed on that frame (then no pose of this window is known).
    Its length unit is the network's own and differs from window to window.

    Args:
        stamps_ns: S stamps, those of the frames.
        frame_ids: S names of optical frames.
        image: [S, h, w, 3] uint8 RGB, the frames on the network's grid.
        cam_from_window: [S, 4, 4] float64, rigid; NaN where the network gave none.
        K: [S, 3, 3] float64 intrinsics to unproject depth with, in pixels of the network's grid.
        K_network: [S, 3, 3] float64 intrinsics as the network saw them; equal to K where no calibration is used.
        depth: [S, h, w] float32 along the optical axis, window units; NaN where unknown or not decoded.
        confidence: [S, h, w] float32, at least 1; NaN where not decoded.
        transform: where the grid lies in the source images; None where they are on the grid already.
        prepare_s: seconds spent before the network, on resizing.
        adjust_s: seconds spent after it, on bundle adjustment.
        ahead_s: seconds of it, resizing and network, that had passed before anybody asked (Foresight).
        descriptors: [S, D] what the frames look like as a whole (retrieval.describe); None where nothing asks for it.
        patches: [S, rows, columns, C] and part by part (retrieval.thin_patches); None likewise.
        views: what the rig's other cameras saw; empty without a rig.
        metres_per_unit, metres_error: of the window's length unit, where a rig's known mounts tell it, and the relative
            standard error of that; NaN elsewhere.
        on_device: by frame, what the network's device still holds of it; empty on a processor.
    """

    stamps_ns: tuple[int, ...]
    frame_ids: tuple[str, ...]
    image: np.ndarray
    cam_from_window: np.ndarray
    K: np.ndarray
    K_network: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    transform: ImageTransform | None = None
    prepare_s: float = 0.0
    adjust_s: float = 0.0
    views: tuple[View, ...] = ()
    metres_per_unit: float = float('nan')
    descriptors: np.ndarray | None = None
    patches: np.ndarray | None = None
    metres_error: float = float('nan')
    ahead_s: float = 0.0
    on_device: Mapping[int, DeviceFrame] = field(default_factory=dict)

    @cached_property
    def is_posed(self) -> np.ndarray:
        """[S] whether the frame has a pose."""
        return np.isfinite(self.cam_from_window).all(axis=(1, 2))

    def device_frame(self, i: int) -> DeviceFrame | None:
        """A frame on the network's device, as long as `depth` is what the network said."""
        frame = self.on_device.get(i)
        return None if frame is None else frame.of(self.depth)

    @cached_property
    def median_depth(self) -> float:
        """Of every 8th row and column, window units; 1 where no depth is known."""
        sampled = self.depth[:, ::8, ::8]
        sampled = sampled[np.isfinite(sampled)]
        return float(np.median(sampled)) if sampled.size else 1.0

    @cached_property
    def window_from_cam(self) -> np.ndarray:
        """[S, 4, 4] poses of the cameras in the window."""
        return invert_rigid(self.cam_from_window)


@dataclass(frozen=True, eq=False)
class View:
    """What one of a rig's other cameras saw in a window.

    Args:
        camera: its index, above 0.
        rows: R indices of the window's frames, rising: those at whose moments this camera has an image too.
        prediction: R frames in the same window's frame; cam_from_window is that of this camera, none is the identity.
    """

    camera: int
    rows: tuple[int, ...]
    prediction: Prediction
