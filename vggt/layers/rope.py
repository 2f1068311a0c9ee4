"""Rotary positions on a two-dimensional grid.

Source: Su et al., RoFormer, 2021, eq. 34, applied to rows with the first half of a head's channels and to columns
with the second; docs/network_facts.md sec. 3 for the base frequency and the positions.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

RotaryTable = tuple[Tensor, Tensor]  # cosine and sine, each [N, 2 axes, head_dim / 4]


@cache  # for good: a CUDA graph reads it where it lies
def grid_rotary_table(
    rows: int, columns: int, num_special: int, head_dim: int, base: float, device: torch.device
) -> RotaryTable:
    """Cosine and sine for the tokens of one frame: special tokens first, then the patches row by row.

    The table depends on nothing but its arguments, so it is computed once for each size.

    Args:
        rows, columns: patch grid.
        num_special: tokens in front of the patches; they stand at (0, 0), which rotates nothing.
        head_dim: channels of one attention head, a multiple of 4.
        base: frequency base, 100 in VGGT.
    """
    # A table first made under inference_mode must still serve a later training step.
    with torch.inference_mode(False):
        # on the device from the start: a graph with a part on the processor would not become a CUDA graph
        row, column = (torch.arange(1, count + 1, device=device) for count in (rows, columns))
        y, x = torch.meshgrid(row, column, indexing='ij')
        patches = torch.stack((y, x), dim=-1).reshape(-1, 2)  # patch positions start at 1
        positions = torch.cat((patches.new_zeros(num_special, 2), patches))
        return rotary_table(positions, head_dim, base)


def rotary_table(positions: Tensor, head_dim: int, base: float) -> RotaryTable:
    """Cosine and sine of every rotation angle.

    Args:
        positions: [..., N, 2] integer (row, column).

    Returns:
        Two float32 tensors [..., N, 2, head_dim / 4].
    """
    exponents = torch.arange(0, head_dim // 2, 2, device=positions.device).float() / (head_dim // 2)
    angles = positions[..., None].float() * base**-exponents
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """Turn queries or keys by their positions.

    Args:
        x: [..., N, head_dim].
        table: from rotary_table; broadcasts against the leading axes of x.

    Returns:
        Same shape as x, in float32 or finer. Channel pairs are (j, j + head_dim / 4) within each half, not neighbours.
    """
    cos, sin = table
    first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)  # each [..., N, 2 axes, head_dim / 4]
    turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-2)
    return turned.flatten(-3)
