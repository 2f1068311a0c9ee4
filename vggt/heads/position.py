"""Sine position embeddings of feature maps.

Source: docs/network_facts.md sec. 6 for the grid and the frequencies.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

BASE = 100.0
STRENGTH = 0.1  # weight of the embedding beside the features


def add_position(features: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Add the embedding of each cell's place in the picture, in place.

    The first half of the channels depends on the column only and the second half on the row only, so two small
    tables are broadcast instead of one table of the size of the features.

    Args:
        features: [M, C, h, w], C a multiple of 4; changed and returned.
        image_size: (H, W) of the picture, whose aspect sets the extent of both axes.
    """
    channels, rows, columns = features.shape[1:]
    along_x, along_y = sine_tables(rows, columns, image_size[1] / image_size[0], channels, features.device)
    features[:, : channels // 2] += STRENGTH * along_x[:, None, :]
    features[:, channels // 2 :] += STRENGTH * along_y[:, :, None]
    return features


@cache  # for good: a CUDA graph reads it where it lies
def sine_tables(rows: int, columns: int, aspect: float, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Embedding of every column and every row of a grid.

    Args:
        rows, columns: size of the grid.
        aspect: width over height of the picture that the grid covers.
        channels: of both halves together, a multiple of 4.

    Returns:
        float32 [channels / 2, columns] and [channels / 2, rows]: sines of all frequencies, then cosines.
    """
    diagonal = (aspect**2 + 1.0) ** 0.5
    # A table first made under inference_mode must still serve a later training step.
    with torch.inference_mode(False):
        return (
            _sines(grid_line(columns, aspect / diagonal), channels // 2).to(device),
            _sines(grid_line(rows, 1.0 / diagonal), channels // 2).to(device),
        )


def grid_line(cells: int, span: float) -> Tensor:
    """[cells] float64 coordinates of cell centres when the cells share -span .. span evenly."""
    edge = span * (cells - 1) / cells
    return torch.linspace(-edge, edge, cells, dtype=torch.float64)


def _sines(coordinates: Tensor, channels: int) -> Tensor:
    count = channels // 2
    frequencies = BASE ** -(torch.arange(count, dtype=torch.float64) / count)
    angles = frequencies[:, None] * coordinates
    return torch.cat((angles.sin(), angles.cos())).float()
