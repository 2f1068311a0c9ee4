"""What one forward pass gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vggt.errors import InputError
from vggt.geometry import world_points_from_depth
from vggt.pose_encoding import decode_pose_encoding


@dataclass(frozen=True)
class VGGTOutput:
    """Estimates for B scenes of S frames; what no head gave is None.

    The world is roughly the camera of frame 0, and the unit of length is the network's own: only ratios mean
    something. Confidences are above 1 and have no unit.

    Attributes:
        image_size: (H, W) of the images in pixels.
        pose_encoding: [B, S, 9], see vggt.pose_encoding.
        pose_encodings: [iterations, B, S, 9], every refinement round.
        depth, depth_confidence: [B, S, H, W], along the optical axis.
        world_points: [B, S, H, W, 3]; world_points_confidence: [B, S, H, W].
        tracks: [iterations, B, S, Nq, 2] pixels (x, y) of the query points in each frame.
        visibility, track_confidence: [B, S, Nq] in 0..1.
        ready: of a GPU, comes when all of this is computed, for whoever reads it on another stream; None: not told.
    """

    image_size: tuple[int, int]
    pose_encoding: Tensor | None = None
    pose_encodings: Tensor | None = None
    depth: Tensor | None = None
    depth_confidence: Tensor | None = None
    world_points: Tensor | None = None
    world_points_confidence: Tensor | None = None
    tracks: Tensor | None = None
    visibility: Tensor | None = None
    track_confidence: Tensor | None = None
    ready: torch.cuda.Event | None = None

    def cameras(self) -> tuple[Tensor, Tensor]:
        """cam_from_world [B, S, 3, 4] and K [B, S, 3, 3] in pixels of the model's input.

        Raises:
            InputError: the model has no camera head.
        """
        if self.pose_encoding is None:
            raise InputError('this output has no cameras; build the model with its camera head')
        return decode_pose_encoding(self.pose_encoding, self.image_size)

    def points(self, branch: Literal['depth', 'point_map'] = 'depth') -> tuple[Tensor, Tensor]:
        """World points and their confidence by one of the two ways the network offers.

        Args:
            branch: 'depth' lifts the depth image with the estimated camera, which is the more accurate of the two
                (Wang et al., VGGT, 2025, sec. 4.2); 'point_map' takes the point head's answer.

        Returns:
            [B, S, H, W, 3] and [B, S, H, W].

        Raises:
            InputError: the heads that the branch needs are missing, or depth was decoded for a part of the frames.
        """
        if branch == 'point_map':
            if self.world_points is None or self.world_points_confidence is None:
                raise InputError("branch 'point_map' needs the point head; load the model with it or use 'depth'")
            return self.world_points, self.world_points_confidence
        if branch != 'depth':
            raise InputError(f"branch must be 'depth' or 'point_map', got {branch!r}")
        if self.depth is None or self.depth_confidence is None or self.pose_encoding is None:
            raise InputError("branch 'depth' needs the depth and camera heads; load the model with both")
        if self.depth.shape[1] != self.pose_encoding.shape[1]:
            raise InputError(
                f'depth was decoded for {self.depth.shape[1]} of {self.pose_encoding.shape[1]} frames; pick their '
                'cameras and use vggt.geometry.world_points_from_depth'
            )
        return world_points_from_depth(self.depth, *self.cameras()), self.depth_confidence
