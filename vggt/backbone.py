"""DINOv2 vision transformer with registers: images to patch tokens, each frame for itself.

Source: Oquab et al., DINOv2, 2023; Darcet et al., Vision Transformers Need Registers, 2023;
docs/network_facts.md sec. 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggt.config import BackboneConfig
from vggt.layers.block import Block
from vggt.layers.patch_embed import PatchEmbed
from vggt.layers.random_parameter import random_parameter

EPS = 1e-6  # DINOv2 uses this in every LayerNorm, where the rest of VGGT uses 1e-5


class Backbone(nn.Module):
    """Vision transformer whose final patch tokens are what VGGT reads; class and register tokens are dropped."""

    def __init__(
        self, config: BackboneConfig, dim: int, patch_size: int, image_size: int, checkpointing: bool = True
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.native_side = image_size // patch_size  # the position embedding is learnt on this square grid
        self.cls_token = random_parameter(1, 1, dim, std=1e-6)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.native_side**2, dim))
        self.register_tokens = random_parameter(1, config.num_register_tokens, dim, std=1e-6)
        # DINOv2 masks patches in its own training only; the checkpoint holds the token, frozen.
        self.mask_token = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                init_values=config.init_values,
                eps=EPS,
                drop_rate=config.drop_path,
                checkpointing=checkpointing,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=EPS)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images that were normalised with the ImageNet mean and deviation.

        Args:
            images: [B, 3, H, W], H and W multiples of patch_size.

        Returns:
            [B, P, C] normed patch tokens, row by row.
        """
        batch, _, height, width = images.shape
        patches = self.patch_embed(images)
        position = self.position_embedding(height // self.patch_size, width // self.patch_size)
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        registers = self.register_tokens.expand(batch, -1, -1)  # registers have no position
        x = torch.cat((cls_token, registers, patches + position.to(self.pos_embed.dtype)), dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1 + self.register_tokens.shape[1] :]

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """[1, rows * columns, C]; another grid than the learnt one is resampled."""
        learnt = self.pos_embed[:, 1:]
        if rows == columns == self.native_side:
            return learnt
        grid = learnt.float().unflatten(1, (self.native_side, self.native_side)).permute(0, 3, 1, 2)
        # With antialias PyTorch's cubic coefficient is -0.5, without it -0.75: the flag matters when enlarging too.
        grid = F.interpolate(grid, size=(rows, columns), mode='bicubic', antialias=True)
        return grid.flatten(2).transpose(1, 2)
