"""Dense heads: aggregator tokens to one value (depth) or three (world point) and a confidence for each pixel.

Source: Wang et al., VGGT, CVPR 2025, sec. 3.3; docs/network_facts.md sec. 6.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggt.config import DenseHeadConfig
from vggt.heads.dpt import DPT, resize
from vggt.heads.position import add_position


class DenseHead(DPT):
    """DPT with a small convolutional output at the full resolution of the images."""

    def __init__(self, config: DenseHeadConfig, dim: int, patch_size: int, num_values: int) -> None:
        super().__init__(dim, patch_size, config.features, config.features // 2, config.out_channels)
        self.config = config
        self.scratch.output_conv2 = nn.Sequential(
            nn.Conv2d(config.features // 2, config.hidden_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(config.hidden_channels, num_values + 1, 1),
        )

    def forward(
        self, layers: Mapping[int, Tensor], image_size: tuple[int, int], num_special: int, chunk: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decode every frame, a few at a time.

        Args:
            layers: layer index to [B, S, N, C]; only config.layers are read.
            image_size: (H, W) in pixels.
            num_special: tokens in front of the patches.
            chunk: frames at a time; None takes config.frames_per_chunk.

        Returns:
            values [B, S, H, W, num_values] and confidence [B, S, H, W].
        """
        levels = [layers[i].flatten(0, 1) for i in self.config.layers]
        values, confidences = [], []
        step = chunk or self.config.frames_per_chunk
        for start in range(0, levels[0].shape[0], step):
            part = [level[start : start + step, num_special:] for level in levels]
            value, confidence = self._decode(part, image_size)
            values.append(value)
            confidences.append(confidence)
        batch_frames = layers[self.config.layers[0]].shape[:2]
        return (torch.cat(values).unflatten(0, batch_frames), torch.cat(confidences).unflatten(0, batch_frames))

    def _decode(self, levels: list[Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        x = add_position(resize(self.fuse(levels, image_size), image_size), image_size)
        x = self.scratch.output_conv2(x).permute(0, 2, 3, 1)  # (M, H, W, num_values + 1)
        if x.dtype in (torch.bfloat16, torch.float16):
            x = x.float()  # the activations are exponentials
        return (
            activate(x[..., :-1], self.config.activation),
            activate_confidence(x[..., -1], self.config.confidence_activation),
        )


def activate(x: Tensor, activation: str) -> Tensor:
    """Turn raw values [..., num_values] into depths or points."""
    if activation == 'exp':
        return x.exp()
    if activation == 'inv_log':
        return _inverse_log(x)
    if activation == 'relu':
        return F.relu(x)
    if activation == 'sigmoid':
        return x.sigmoid()
    if activation == 'norm':
        return x / x.norm(dim=-1, keepdim=True)
    if activation == 'norm_exp':
        length = x.norm(dim=-1, keepdim=True).clamp(min=1e-8)  # a zero vector has no direction to keep
        return x / length * length.expm1()
    if activation == 'xy_inv_log':
        z = _inverse_log(x[..., 2:])
        return torch.cat((x[..., :2] * z, z), dim=-1)
    if activation == 'linear':
        return x
    raise ValueError(f'activation {activation!r} is unknown')


def activate_confidence(x: Tensor, activation: str) -> Tensor:
    """Turn raw confidences into positive ones; with expp1, the released form, they are above 1."""
    if activation == 'expp1':
        return 1 + x.exp()
    if activation == 'expp0':
        return x.exp()
    if activation == 'sigmoid':
        return x.sigmoid()
    raise ValueError(f'confidence activation {activation!r} is unknown')


def _inverse_log(x: Tensor) -> Tensor:
    return x.sign() * x.abs().expm1()
