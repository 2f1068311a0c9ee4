"""Dense prediction transformer: four token lists, shallow to deep, fused into one feature map.

Source: Ranftl et al., Vision Transformers for Dense Prediction, 2021; docs/network_facts.md sec. 6 for what differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggt.heads.position import add_position

RESIZE_LIMIT = 1_610_612_736  # output elements; 32-bit indexing of resize kernels breaks beyond 2^31


class ResidualConvUnit(nn.Module):
    """Two convolutions beside a skip. The skip carries the rectified input: the released weights expect that."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.conv2(F.relu(self.conv1(x))) + x


class FusionBlock(nn.Module):
    """Join the map from the deeper level with this level's, refine, and enlarge for the next."""

    def __init__(self, channels: int, has_skip: bool = True) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        self.resConfUnit1 = ResidualConvUnit(channels) if has_skip else None
        self.resConfUnit2 = ResidualConvUnit(channels)

    def forward(self, deeper: Tensor, level: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Fuse and enlarge to size.

        Args:
            deeper: [M, C, h, w] from the level below.
            level: same shape, this level's features; None at the deepest level.
            size: (rows, columns) of the result.
        """
        x = deeper
        if self.resConfUnit1 is not None and level is not None:
            x = x + self.resConfUnit1(level)
        # A 1x1 convolution and a bilinear resize commute, as the four weights add up to one. The convolution comes
        # second in the reference; first, it has a quarter of the pixels.
        return resize(self.out_conv(self.resConfUnit2(x)), size)


class Scratch(nn.Module):
    """Container that gives the fusion layers the names of the checkpoint."""

    output_conv2: nn.Sequential  # added by the heads that decode pixels

    def __init__(self, out_channels: Sequence[int], features: int, output_channels: int) -> None:
        super().__init__()
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            nn.Conv2d(channels, features, 3, padding=1, bias=False) for channels in out_channels
        )
        self.refinenet1 = FusionBlock(features)
        self.refinenet2 = FusionBlock(features)
        self.refinenet3 = FusionBlock(features)
        self.refinenet4 = FusionBlock(features, has_skip=False)
        self.output_conv1 = nn.Conv2d(features, output_channels, 3, padding=1)


class DPT(nn.Module):
    """Tokens of four layers to a feature map of eight cells per patch side."""

    def __init__(
        self,
        dim: int,
        patch_size: int,
        features: int,
        output_channels: int,
        out_channels: Sequence[int],
        has_position: bool = True,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.has_position = has_position
        self.norm = nn.LayerNorm(dim)  # one for all four levels
        self.projects = nn.ModuleList(nn.Conv2d(dim, channels, 1) for channels in out_channels)
        c1, c2, _, c4 = out_channels
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(c1, c1, 4, stride=4),
                nn.ConvTranspose2d(c2, c2, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(c4, c4, 3, stride=2, padding=1),
            )
        )
        self.scratch = Scratch(out_channels, features, output_channels)

    def fuse(self, levels: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Fuse four levels.

        Args:
            levels: four [M, P, C] patch tokens, shallow to deep.
            image_size: (H, W) in pixels.

        Returns:
            [M, output_channels, 8 H / patch_size, 8 W / patch_size].
        """
        level1, level2, level3, level4 = (self._pyramid_level(i, tokens, image_size) for i, tokens in enumerate(levels))
        scratch = self.scratch
        x = scratch.refinenet4(scratch.layer4_rn(level4), None, _size(level3))
        x = scratch.refinenet3(x, scratch.layer3_rn(level3), _size(level2))
        x = scratch.refinenet2(x, scratch.layer2_rn(level2), _size(level1))
        x = scratch.refinenet1(x, scratch.layer1_rn(level1), (2 * level1.shape[-2], 2 * level1.shape[-1]))
        return scratch.output_conv1(x)

    def _pyramid_level(self, index: int, tokens: Tensor, image_size: tuple[int, int]) -> Tensor:
        rows = image_size[0] // self.patch_size
        x = self.norm(tokens.to(self.norm.weight.dtype))
        x = x.transpose(1, 2).unflatten(-1, (rows, -1))  # (M, C, rows, columns)
        x = self.projects[index](x)
        if self.has_position:
            x = add_position(x, image_size)
        return self.resize_layers[index](x)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with aligned corners, as everywhere in this head; [M, C, h, w] to [M, C, *size]."""
    elements = x.shape[0] * x.shape[1] * size[0] * size[1]
    if elements <= RESIZE_LIMIT or x.shape[0] == 1:
        return F.interpolate(x, size=size, mode='bilinear', align_corners=True)
    parts = -(-elements // RESIZE_LIMIT)
    return torch.cat([resize(part, size) for part in x.chunk(parts)])


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
