"""How well a track's feature matches the neighbourhood of its place, at several scales.

Source: Teed and Deng, RAFT, 2020, sec. 3.2; docs/network_facts.md sec. 7.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_bilinear(maps: Tensor, points: Tensor, padding: str) -> Tensor:
    """Read maps between pixels, whose centres are at integers.

    Args:
        maps: [M, C, h, w].
        points: [M, ..., 2] as (x, y) in pixels of the maps.
        padding: 'border' repeats the edge, 'zeros' reads 0 beyond it.

    Returns:
        [M, C, ...].
    """
    size = points.new_tensor([maps.shape[-1] - 1, maps.shape[-2] - 1]).clamp(min=1)
    grid = (2 * points / size - 1).reshape(points.shape[0], -1, 1, 2)
    sampled = F.grid_sample(maps, grid, padding_mode=padding, align_corners=True)
    return sampled.reshape(*maps.shape[:2], *points.shape[1:-1])


class CorrelationPyramid:
    """Feature maps of all frames at halved and halved again resolution, ready to be compared with track features."""

    def __init__(self, features: Tensor, levels: int, radius: int) -> None:
        """features is [B, S, C, h, w]; h and w must be at least 2 ** (levels - 1)."""
        self.levels = [features]
        for _ in range(levels - 1):
            smaller = F.avg_pool2d(self.levels[-1].flatten(0, 1), 2)
            self.levels.append(smaller.unflatten(0, features.shape[:2]))
        steps = torch.arange(-radius, radius + 1, device=features.device, dtype=features.dtype)
        # x is the slow index of the neighbourhood: the trained weights expect that order.
        self.offsets = torch.stack(torch.meshgrid(steps, steps, indexing='ij'), dim=-1)

    def sample(self, targets: Tensor, points: Tensor) -> Tensor:
        """Correlate each track with the cells around it.

        Args:
            targets: [B, S, Nq, C] track features.
            points: [B, S, Nq, 2] as (x, y) in cells of the finest level.

        Returns:
            [B, S, Nq, levels * (2 radius + 1)^2].
        """
        found = []
        for level, maps in enumerate(self.levels):
            volume = torch.einsum('bsnc,bschw->bsnhw', targets, maps) / maps.shape[2] ** 0.5
            around = points[..., None, None, :] / 2**level + self.offsets  # (B, S, Nq, 2r+1, 2r+1, 2)
            values = sample_bilinear(volume.flatten(0, 2)[:, None], around.flatten(0, 2), padding='zeros')
            found.append(values.reshape(*points.shape[:3], -1))
        return torch.cat(found, dim=-1)
