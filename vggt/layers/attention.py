"""Multi-head self-attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggt.layers.rope import RotaryTable, rotate

# Scores held at a time while attention is done by plain products. They are written, normalised and read again, so they
# should stay in a core's cache: of 1 to 16 MB this was the fastest (nano, torch 2.13, an EPYC; docs/benchmarks.md).
SCORES_BYTES = 2 * 2**20
FEWEST_ROWS = 512  # queries at a time; each product packs its keys anew, which fewer rows do not repay


class Attention(nn.Module):
    """Self-attention with optional LayerNorm on queries and keys, and optional rotary positions."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(head_dim, eps=eps) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim, eps=eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotary: RotaryTable | None = None, keys: Tensor | None = None) -> Tensor:
        """Mix the tokens of each sample.

        Args:
            x: [B, N, C].
            rotary: cosine and sine for the N tokens, or None for attention without positions.
            keys: [M] indices of the tokens that are attended to; None: all.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, head_dim)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        # In a lower precision the norms or the float32 tables widened q and k; all three must enter the kernel alike.
        if keys is not None:
            k, v = k[:, :, keys], v[:, :, keys]
        mixed = attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(mixed.transpose(1, 2).flatten(-2))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, in the way that is fastest where it runs.

    PyTorch's fused kernel, but for bfloat16 on a CPU: there it has no bfloat16 products, and plain ones take 0.4 of its
    time (docs/benchmarks.md). Same values but for rounding.

    Args:
        q: [B, heads, N, D].
        k, v: [B, heads, M, D], of the type of q.

    Returns:
        [B, heads, N, D].
    """
    if q.device.type != 'cpu' or q.dtype is not torch.bfloat16 or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    return _attend_by_products(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).view(q.shape)


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As attend, on [M, N, D]: a few heads and queries at a time, so that their scores stay in the cache."""
    row_bytes = k.shape[1] * k.element_size()
    rows = min(q.shape[1], max(FEWEST_ROWS, SCORES_BYTES // row_bytes))
    heads = max(1, SCORES_BYTES // (row_bytes * rows))
    mixed = torch.empty_like(q, memory_format=torch.contiguous_format)
    q = q * q.shape[-1] ** -0.5
    for i in range(0, len(q), heads):
        keys, values = k[i : i + heads].transpose(1, 2), v[i : i + heads]
        for j in range(0, q.shape[1], rows):
            scores = torch.bmm(q[i : i + heads, j : j + rows], keys)
            mixed[i : i + heads, j : j + rows] = torch.softmax(scores, dim=-1) @ values
    return mixed
