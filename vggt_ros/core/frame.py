"""Frame: one stamped RGB image, its K and the name of its optical frame; with what other cameras of a rig saw then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vggt_ros.core.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Frame:
    """One camera image, as every input hands it to the pipeline.

    Args:
        stamp_ns: time of exposure in integer nanoseconds; it identifies the frame.
        image: [H, W, 3] uint8, RGB.
        frame_id: name of the camera's optical frame (x right, y down, z forward).
        K: [3, 3] calibrated intrinsics in pixels of this image, pixel centres at integers; None where unknown.
        mask: [H, W] bool, True where the image shows the scene: False in the empty border of a rectified image, for
            one. Depth is unknown where it is False. None: the scene everywhere.
        camera: index of the camera in its rig; 0 is the reference, and all there is without a rig.
        views: what the rig's other cameras saw at that moment, of the same size, by rising camera; stamps may differ
            by a little, and some may be missing.

    Raises:
        ShapeError: image, K or mask has another shape or type, or a view another size.
    """

    stamp_ns: int
    image: np.ndarray
    frame_id: str
    K: np.ndarray | None = None
    mask: np.ndarray | None = None
    camera: int = 0
    views: tuple[Frame, ...] = ()

    def __post_init__(self) -> None:
        shape = getattr(self.image, 'shape', None)
        if shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape or self.image.dtype != np.uint8:
            raise ShapeError(f'image must be [H, W, 3] uint8 RGB, got {shape} {getattr(self.image, "dtype", "")}')
        if self.K is not None and (self.K.shape != (3, 3) or not np.isfinite(self.K).all() or self.K[0, 0] <= 0):
            raise ShapeError(f'K must be [3, 3] with a positive focal length, or None where unknown, got {self.K!r}')
        if self.mask is not None and (self.mask.shape != shape[:2] or self.mask.dtype != np.bool_):
            raise ShapeError(f'mask must be {list(shape[:2])} bool, got {list(self.mask.shape)} {self.mask.dtype}')
        for view in self.views:
            if view.size != self.size:
                raise ShapeError(
                    f'all cameras of a rig must have images of one size, got {self.size[1]}x{self.size[0]} of '
                    f'{self.frame_id!r} and {view.size[1]}x{view.size[0]} of {view.frame_id!r}'
                )

    @property
    def key(self) -> tuple[int, int]:
        """(stamp_ns, camera): no other frame has it."""
        return self.stamp_ns, self.camera

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]
