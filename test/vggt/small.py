"""Small networks and inputs that the tests of the network share."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from golden import fill_by_recipe

from vggt import VGGT, VGGTConfig
from vggt.config import BackboneConfig, CameraHeadConfig, DenseHeadConfig, TrackHeadConfig

PATCH = 14
CHANNELS = (16, 24, 32, 32)
SMALL = VGGTConfig(
    image_size=70,
    embed_dim=64,
    depth=4,
    num_heads=4,
    backbone=BackboneConfig(depth=2, num_heads=4),
    camera_head=CameraHeadConfig(trunk_depth=2, num_heads=4),
    depth_head=DenseHeadConfig(features=32, out_channels=CHANNELS, layers=(0, 1, 2, 3)),
    point_head=DenseHeadConfig('inv_log', features=32, out_channels=CHANNELS, layers=(0, 1, 2, 3)),
    track_head=TrackHeadConfig(
        features=32, out_channels=CHANNELS, layers=(0, 1, 2, 3), corr_levels=3, corr_radius=2, hidden_size=32
    ),
)


def small_model(config: VGGTConfig = SMALL) -> VGGT:
    """A network with the lively weights of the goldens' recipe, in which every part moves the result."""
    return copy.deepcopy(_build(config))


@lru_cache(maxsize=8)
def _build(config: VGGTConfig) -> VGGT:
    model = VGGT(config).eval()
    fill_by_recipe(model, seed=7)
    return model


def random_images(frames: int, height: int = 56, width: int = 70, seed: int = 1) -> torch.Tensor:
    """[S, 3, H, W] of noise in [0, 1]."""
    return torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(seed))
