"""Multi-head self-attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vggt.layers.rope import RotaryTable, rotate


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

    def forward(self, x: Tensor, rotary: RotaryTable | None = None) -> Tensor:
        """Mix the tokens of each sample.

        Args:
            x: [B, N, C].
            rotary: cosine and sine for the N tokens, or None for attention without positions.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, head_dim)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        # In a lower precision the norms or the float32 tables widened q and k; all three must enter the kernel alike.
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(mixed.transpose(1, 2).flatten(-2))
