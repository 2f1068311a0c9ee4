"""Alternating attention: within each frame, then over all frames of a scene.

Source: Wang et al., VGGT, CVPR 2025, sec. 3.2; docs/network_facts.md sec. 3.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from vggt.approximation import EXACT
from vggt.backbone import Backbone
from vggt.config import VGGTConfig
from vggt.layers.block import Block
from vggt.layers.patch_embed import PatchEmbed
from vggt.layers.random_parameter import random_parameter
from vggt.layers.rope import RotaryTable, grid_rotary_table

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB
IMAGE_STD = (0.229, 0.224, 0.225)


class Aggregator(nn.Module):
    """Images of a scene to one token list per pair of a frame block and a global block."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        self.approximation = EXACT
        dim, registers = config.embed_dim, config.num_register_tokens
        # Index 0 of axis 1 belongs to the first frame of a scene, index 1 to every other frame.
        self.camera_token = random_parameter(1, 2, 1, dim, std=1e-6)
        self.register_token = random_parameter(1, 2, registers, dim, std=1e-6)
        self.patch_embed: nn.Module
        if config.backbone is None:
            self.patch_embed = PatchEmbed(config.patch_size, dim)
        else:
            self.patch_embed = Backbone(
                config.backbone, dim, config.patch_size, config.image_size, config.activation_checkpointing
            )
        self.frame_blocks = _blocks(config)
        self.global_blocks = _blocks(config)

    def forward(self, images: Tensor, keep: Collection[int] | None = None) -> dict[int, Tensor]:
        """Images to token lists.

        Args:
            images: [B, S, 3, H, W] in [0, 1].
            keep: which layers to return; None returns all.

        Returns:
            Layer index to [B, S, N, 2C], the outputs of the frame block and of the global block side by side.
        """
        patch_tokens = self.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return self.attend(patch_tokens, (images.shape[-2], images.shape[-1]), keep)

    def blocks(self) -> list[nn.Module]:
        """All, those of the backbone first; a convolution in its place has none."""
        return [*getattr(self.patch_embed, 'blocks', ()), *self.frame_blocks, *self.global_blocks]

    def encode(self, images: Tensor) -> Tensor:
        """Patch tokens of single images; the value for one image does not depend on the others.

        Args:
            images: [M, 3, H, W] in [0, 1].

        Returns:
            [M, P, C].
        """
        channels = zip(images.unbind(1), IMAGE_MEAN, IMAGE_STD, strict=True)
        # a tensor of the means would be a copy from the host, for which a GPU's whole queue would be waited for
        return self.patch_embed(torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=1))

    def attend(
        self, patch_tokens: Tensor, image_size: tuple[int, int], keep: Collection[int] | None = None
    ) -> dict[int, Tensor]:
        """Let the frames of each scene see each other.

        Args:
            patch_tokens: [B, S, P, C] from encode.
            image_size: (H, W) of the images in pixels.
            keep: which layers to return; None returns all.

        Returns:
            Layer index to [B, S, N, 2C].
        """
        batch, frames = patch_tokens.shape[:2]
        x = torch.cat((self.special_tokens(batch, frames), patch_tokens), dim=2)
        frame_table = self._rotary_table(image_size, x.device)
        global_table = (frame_table[0].repeat(frames, 1, 1), frame_table[1].repeat(frames, 1, 1))
        keys = self._keys(frames, x.shape[2], x.device)
        layers: dict[int, Tensor] = {}
        for start in range(0, self.config.depth, self.config.attention_block_size):
            indices = range(start, start + self.config.attention_block_size)
            wanted = [i for i in indices if keep is None or i in keep]
            outputs: dict[tuple[str, int], Tensor] = {}
            for kind in self.config.attention_order:
                for i in indices:
                    if kind == 'frame':
                        x = self._frame(self.frame_blocks[i], x, frame_table)
                    elif i < self.approximation.local_blocks:
                        x = self._frame(self.global_blocks[i], x, frame_table)
                    else:
                        x = self._global(self.global_blocks[i], x, global_table, keys)
                    if i in wanted:
                        outputs[kind, i] = x
            layers.update({i: torch.cat((outputs['frame', i], outputs['global', i]), dim=-1) for i in wanted})
        return layers

    def _frame(self, block: nn.Module, x: Tensor, table: RotaryTable) -> Tensor:
        return block(x.flatten(0, 1), table).view(x.shape)  # (B*S, N, C): a frame sees itself

    def _global(self, block: nn.Module, x: Tensor, table: RotaryTable, keys: Tensor | None) -> Tensor:
        return block(x.flatten(1, 2), table, keys).view(x.shape)  # (B, S*N, C): all frames at once

    def _keys(self, frames: int, tokens: int, device: torch.device) -> Tensor | None:
        """[M] which of the tokens of all frames the global blocks attend to; None: all.

        With a stride all of the first frame and every frame's special tokens stay.
        """
        stride = self.approximation.key_stride
        if stride == 1:
            return None
        token = torch.arange(frames * tokens, device=device)
        patch = token % tokens - self.config.num_special_tokens
        return token[(token < tokens) | (patch < 0) | (patch % stride == 0)]

    def special_tokens(self, batch: int, frames: int) -> Tensor:
        """[B, S, 1 + registers, C], with the first-frame variant in frame 0."""
        both = torch.cat((self.camera_token, self.register_token), dim=2)
        first, others = both[:, :1], both[:, 1:].expand(-1, frames - 1, -1, -1)
        return torch.cat((first, others), dim=1).expand(batch, -1, -1, -1)

    def _rotary_table(self, image_size: tuple[int, int], device: torch.device) -> RotaryTable:
        config = self.config
        rows, columns = (side // config.patch_size for side in image_size)
        head_dim = config.embed_dim // config.num_heads
        return grid_rotary_table(rows, columns, config.num_special_tokens, head_dim, config.rope_frequency, device)


def _blocks(config: VGGTConfig) -> nn.ModuleList:
    return nn.ModuleList(
        Block(
            config.embed_dim,
            config.num_heads,
            mlp_ratio=config.mlp_ratio,
            qk_norm=config.qk_norm,
            init_values=config.init_values,
            drop_rate=config.drop_path,
            checkpointing=config.activation_checkpointing,
        )
        for _ in range(config.depth)
    )
