"""The shipped small model: its configuration, and where its training starts from."""

from __future__ import annotations

import torch
from torch import nn

from training.windows import IMAGE_SIZE
from vggt import VGGT, VGGTConfig
from vggt.backbone import Backbone
from vggt.config import BackboneConfig, CameraHeadConfig, DenseHeadConfig

# Why these numbers: docs/training.md. Patches of 8 px see 4 degrees at a 60 degree field of view; a window of 8 frames
# then has 1544 tokens, which two CPU cores do in well under half a second.
NANO = VGGTConfig(
    image_size=max(IMAGE_SIZE),
    patch_size=8,
    embed_dim=192,
    depth=5,
    num_heads=3,
    num_register_tokens=1,
    init_values=1.0,
    rope_frequency=1000.0,
    activation_checkpointing=False,
    backbone=BackboneConfig(depth=2, num_heads=3, num_register_tokens=0),
    camera_head=CameraHeadConfig(trunk_depth=1, num_heads=6, mlp_ratio=3.625, init_values=1.0),
    depth_head=DenseHeadConfig(features=32, out_channels=(32, 48, 64, 64), layers=(0, 1, 2, 4), hidden_channels=16),
    point_head=None,
    track_head=None,
)
MATCHING_LAYERS = (0, 1)  # pairs of blocks whose global attention is told where to look
PROBED_LAYERS = (0, 1, 2, 3, 4)


def make_nano(seed: int, config: VGGTConfig = NANO) -> VGGT:
    """A model to start training from.

    VGGT's own starting point suits a network that begins with a trained backbone: almost silent special tokens and
    almost no position. From nothing, a small one learns sooner when the first frame and every place in the picture
    can be told apart from the first step. Queries and keys of the global attentions start out equal, so that a patch
    looks for its like before it has learnt anything.
    """
    torch.manual_seed(seed)
    model = VGGT(config)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02 if module.out_features == 9 else module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    aggregator = model.aggregator
    for name, parameter in aggregator.global_blocks.named_parameters():
        if name.endswith('attn.qkv.weight'):
            query, key, _ = parameter.detach().chunk(3)
            key.copy_(query)
    nn.init.normal_(aggregator.camera_token, std=0.5)
    nn.init.normal_(aggregator.register_token, std=0.5)
    if isinstance(aggregator.patch_embed, Backbone):
        grid = _sine_grid(config.image_size // config.patch_size, config.embed_dim)
        aggregator.patch_embed.pos_embed.detach()[:, 1:] = 0.5 * grid
    return model


def _sine_grid(side: int, dim: int) -> torch.Tensor:
    """[side * side, dim] sines and cosines of row and column.

    Source: Vaswani et al., Attention Is All You Need, 2017, sec. 3.5, for each axis with half of the channels.
    """
    frequency = 1.0 / 100 ** (torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(side)[:, None] * frequency
    axis = torch.cat((angle.sin(), angle.cos()), dim=1)
    row, column = axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)
    return torch.cat((row, column), dim=-1).flatten(0, 1)
