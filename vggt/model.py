"""The whole network in one short forward.

Source: Wang et al., VGGT: Visual Geometry Grounded Transformer, CVPR 2025.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vggt.aggregator import Aggregator
from vggt.config import VGGTConfig
from vggt.errors import InputError
from vggt.heads.camera import CameraHead
from vggt.heads.dense import DenseHead
from vggt.heads.track import TrackHead
from vggt.output import VGGTOutput
from vggt.validation import check_images, check_query_points

DEFAULT_CONFIG = VGGTConfig()


class VGGT(nn.Module):
    """Images of a scene to cameras, depth, points and tracks, in one pass and in any order but the first."""

    def __init__(self, config: VGGTConfig = DEFAULT_CONFIG) -> None:
        super().__init__()
        self.config = config
        dim, patch = 2 * config.embed_dim, config.patch_size  # frame and global tokens side by side
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config.camera_head, dim) if config.camera_head else None
        self.point_head = DenseHead(config.point_head, dim, patch, num_values=3) if config.point_head else None
        self.depth_head = DenseHead(config.depth_head, dim, patch, num_values=1) if config.depth_head else None
        self.track_head = TrackHead(config.track_head, dim, patch) if config.track_head else None

    def forward(self, images: Tensor, query_points: Tensor | None = None) -> VGGTOutput:
        """Estimate everything that the heads give.

        Args:
            images: [B, S, 3, H, W] or [S, 3, H, W], RGB in [0, 1]; H and W multiples of config.patch_size.
            query_points: [B, Nq, 2] or [Nq, 2] pixels (x, y) in frame 0 to be tracked.

        Raises:
            InputError: images or query points of another form.
        """
        images = check_images(images, self.config.patch_size)
        layers = self.aggregator(images, keep=self.layers_read(self.config.heads))
        return self.read_heads(layers, (images.shape[-2], images.shape[-1]), query_points)

    def layers_read(self, heads: Sequence[str]) -> set[int]:
        """Entries of the aggregator's list that the named heads read."""
        last = {self.config.depth - 1} if 'camera' in heads else set()
        dense = [getattr(self.config, f'{name}_head').layers for name in heads if name != 'camera']
        return last.union(*dense)

    def read_heads(
        self,
        layers: Mapping[int, Tensor],
        image_size: tuple[int, int],
        query_points: Tensor | None = None,
        *,
        heads: Sequence[str] | None = None,
        frames: Sequence[int] | None = None,
        chunk: int | None = None,
    ) -> VGGTOutput:
        """Aggregator layers to estimates, in the precision of the heads' weights even under autocast.

        Args:
            layers: layer index to [B, S, N, 2C].
            image_size: (H, W) in pixels.
            query_points: as in forward.
            heads: which of the heads to run; None runs all that are built.
            frames: which frames the dense heads decode; None decodes all.
            chunk: frames that a dense head decodes at a time; None takes its configuration's.
        """
        wanted = self.config.heads if heads is None else heads
        special = self.config.num_special_tokens
        any_layer = next(iter(layers.values()))
        found: dict[str, Any] = {}
        with torch.autocast(any_layer.device.type, enabled=False):
            if self.camera_head is not None and 'camera' in wanted:
                found['pose_encodings'] = self.camera_head(layers[self.config.depth - 1][:, :, 0])
                found['pose_encoding'] = found['pose_encodings'][-1]
            decoded = layers if frames is None else {i: pick(layer, frames) for i, layer in layers.items()}
            if self.depth_head is not None and 'depth' in wanted:
                depth, found['depth_confidence'] = self.depth_head(decoded, image_size, special, chunk)
                found['depth'] = depth.squeeze(-1)
            if self.point_head is not None and 'point' in wanted:
                points = self.point_head(decoded, image_size, special, chunk)
                found['world_points'], found['world_points_confidence'] = points
            if query_points is not None:
                queries = check_query_points(query_points, any_layer.shape[0], image_size)
                tracked = self._tracker()(layers, image_size, special, queries.to(any_layer.device))
                found['tracks'], found['visibility'], found['track_confidence'] = tracked
        return VGGTOutput(image_size=image_size, **found)

    def _tracker(self) -> TrackHead:
        if self.track_head is None:
            raise InputError('query points need the track head, which this model was built without')
        return self.track_head


def pick(layer: Tensor, frames: Sequence[int]) -> Tensor:
    """[B, S, ...] -> [B, len(frames), ...]: a view where they follow each other.

    Indexing by a list would copy it to the device, and wait there for all that is computed.
    """
    first = frames[0] if frames else 0
    if list(frames) == list(range(first, first + len(frames))):
        return layer[:, first : first + len(frames)]
    return torch.stack([layer[:, frame] for frame in frames], dim=1)
