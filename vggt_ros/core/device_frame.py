"""DeviceFrame: what the network said of a frame, where it said it; filtered, lifted and packed there, one copy out.

The map and the alignment need depth on the host, and have it. What only subscribers need stays where it is until one
asks for it: a cloud is 16 bytes a pixel, of which the host then writes none. On a processor clouds.lift is the faster,
so predictors keep frames on a GPU only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from vggt_ros.core.geometry import ray_slopes
from vggt_ros.core.transfer import apart, to_device, to_host


@dataclass(frozen=True)
class Bounds:
    """Which depths are trusted.

    Args:
        confidence: at least this.
        nearest, farthest: at least and below this, in units of the depth.
    """

    confidence: float
    nearest: float
    farthest: float


@dataclass(frozen=True, eq=False)
class DeviceFrame:
    """One frame on the network's grid, on the network's device.

    Args:
        depth, confidence: [h, w] as the network gave them; NaN where unknown.
        pixels: [h, w, 3] uint8 RGB.
        host: [h, w] the depth image on the host that says the same. Whoever puts another in its place, as masks do,
            thereby drops this frame: see `of`.
        bounds: depths outside are unknown, in units of `depth`; None trusts all.
        scales: factors on depth, one after the other, as the host multiplied: so both round alike.
    """

    depth: torch.Tensor
    confidence: torch.Tensor
    pixels: torch.Tensor
    host: np.ndarray
    bounds: Bounds | None = None
    scales: tuple[float, ...] = ()

    def of(self, depth: np.ndarray) -> DeviceFrame | None:
        """This frame where the depth image of the host is still the one it belongs to."""
        return self if depth is self.host else None

    def placed(self, scale: float, host: np.ndarray, bounds: Bounds | None = None) -> DeviceFrame:
        """With depth multiplied by a scale, as the host has it in another array."""
        return replace(self, host=host, bounds=bounds or self.bounds, scales=(*self.scales, scale))

    def packed(self, K: np.ndarray) -> np.ndarray:
        """One coloured point a pixel.

        Args:
            K: [3, 3] intrinsics of this grid, pixel centres at integers.

        Returns:
            [h, w, 4] float32: x, y, z in the optical frame, NaN where unknown, and the bits 0x00RRGGBB.
        """
        with apart(self.depth.device):
            return to_host([self.pack(K)])[0]

    def pack(self, K: np.ndarray) -> torch.Tensor:
        """`packed` on the device."""
        height, width = self.depth.shape
        z = self.depth
        for scale in self.scales:
            z = z * scale
        if self.bounds is not None:
            is_valid = (self.confidence >= self.bounds.confidence) & (self.depth > 0)
            is_valid &= (self.depth >= self.bounds.nearest) & (self.depth < self.bounds.farthest)
            z = torch.where(is_valid, z, torch.nan)
        rays = to_device(torch.from_numpy(np.concatenate(ray_slopes(K, height, width))), z.device)
        red, green, blue = self.pixels.to(torch.int32).unbind(-1)
        packed = torch.empty(height, width, 4, dtype=torch.float32, device=z.device)
        torch.mul(z, rays[:width], out=packed[..., 0])
        torch.mul(z, rays[width:, None], out=packed[..., 1])
        packed[..., 2] = z
        packed.view(torch.int32)[..., 3] = red << 16 | green << 8 | blue  # bits: a float copy may change a NaN's
        return packed
