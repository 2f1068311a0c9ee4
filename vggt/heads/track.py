"""Track head: where query points of the first frame are in every other frame.

Source: Wang et al., VGGT, CVPR 2025, sec. 3.3; docs/network_facts.md sec. 7.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vggt.config import TrackHeadConfig
from vggt.errors import InputError
from vggt.heads.dpt import DPT, resize
from vggt.heads.tracker import Tracker

STRIDE = 2  # pixels of the image per cell of the feature map


class FeatureExtractor(DPT):
    """DPT that stops at a feature map of half the image's resolution."""

    def __init__(self, config: TrackHeadConfig, dim: int, patch_size: int) -> None:
        super().__init__(dim, patch_size, config.features, config.features, config.out_channels, has_position=False)
        self.config = config

    def forward(self, layers: Mapping[int, Tensor], image_size: tuple[int, int], num_special: int) -> Tensor:
        """[B, S, features, H / 2, W / 2] from the layers that config names."""
        levels = [layers[i].flatten(0, 1) for i in self.config.layers]
        half = (image_size[0] // STRIDE, image_size[1] // STRIDE)
        maps = []
        for start in range(0, levels[0].shape[0], self.config.frames_per_chunk):
            chunk = [level[start : start + self.config.frames_per_chunk, num_special:] for level in levels]
            maps.append(resize(self.fuse(chunk, image_size), half))
        return torch.cat(maps).unflatten(0, layers[self.config.layers[0]].shape[:2])


class TrackHead(nn.Module):
    """Feature maps of all frames, and an iterative tracker on top."""

    def __init__(self, config: TrackHeadConfig, dim: int, patch_size: int) -> None:
        super().__init__()
        self.feature_extractor = FeatureExtractor(config, dim, patch_size)
        self.tracker = Tracker(config)
        self.smallest_side = STRIDE * 2 ** (config.corr_levels - 1)

    def forward(
        self, layers: Mapping[int, Tensor], image_size: tuple[int, int], num_special: int, query_points: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Track points.

        Args:
            layers: layer index to [B, S, N, C].
            image_size: (H, W) in pixels.
            num_special: tokens in front of the patches.
            query_points: [B, Nq, 2] pixels (x, y) in frame 0.

        Returns:
            tracks [iterations, B, S, Nq, 2] in pixels, visibility [B, S, Nq] and confidence [B, S, Nq] in 0..1.

        Raises:
            InputError: the image is too small for the correlation pyramid.
        """
        if min(image_size) < self.smallest_side:
            raise InputError(
                f'tracking needs images of at least {self.smallest_side} px a side for its correlation pyramid, got '
                f'{image_size[0]}x{image_size[1]}; enlarge them or leave query_points out'
            )
        features = self.feature_extractor(layers, image_size, num_special)
        queries = query_points.to(features.dtype) / STRIDE
        tracks, visibility, confidence = self.tracker(features, queries)
        return tracks * STRIDE, visibility, confidence
