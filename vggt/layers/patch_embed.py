"""Images to patch tokens by one strided convolution."""

from __future__ import annotations

from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """One token for each patch_size x patch_size square of the image."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, H / patch_size * W / patch_size, C], row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)
