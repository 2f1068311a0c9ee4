"""Transformer of the tracker: attention along time for each track, and between tracks through a few virtual ones.

Source: Karaev et al., CoTracker, 2023, sec. 3; docs/network_facts.md sec. 7.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vggt.config import TrackHeadConfig
from vggt.layers.mlp import Mlp
from vggt.layers.random_parameter import random_parameter

MLP_RATIO = 4


class SelfBlock(nn.Module):
    """Attention and MLP. The attention is added to the *normed* input, as the released weights expect."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.mlp = Mlp(dim, MLP_RATIO * dim)

    def forward(self, x: Tensor) -> Tensor:
        """[M, N, C] to [M, N, C]."""
        x = self.norm1(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """The same, reading from other tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.mlp = Mlp(dim, MLP_RATIO * dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[M, N, C] reads from [M, K, C]."""
        x, context = self.norm1(x), self.norm_context(context)
        x = x + self.cross_attn(x, context, context, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class UpdateTransformer(nn.Module):
    """Tokens of all tracks in all frames to an update of each."""

    def __init__(self, config: TrackHeadConfig, in_dim: int, out_dim: int) -> None:
        super().__init__()
        dim, heads, depth = config.hidden_size, config.num_heads, config.depth
        self.virual_tracks = random_parameter(1, config.num_virtual_tracks, 1, dim)  # spelt as released
        self.input_norm = nn.LayerNorm(in_dim)
        self.input_transform = nn.Linear(in_dim, dim)
        self.output_norm = nn.LayerNorm(dim)
        self.flow_head = nn.Linear(dim, out_dim)
        self.time_blocks = nn.ModuleList(SelfBlock(dim, heads) for _ in range(depth))
        self.space_virtual_blocks = nn.ModuleList(SelfBlock(dim, heads) for _ in range(depth))
        self.space_point2virtual_blocks = nn.ModuleList(CrossBlock(dim, heads) for _ in range(depth))
        self.space_virtual2point_blocks = nn.ModuleList(CrossBlock(dim, heads) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, Nq, S, in_dim] to [B, Nq, S, out_dim]."""
        x = self.input_transform(self.input_norm(tokens))
        count = x.shape[1]
        tracks = torch.cat((x, self.virual_tracks.expand(x.shape[0], -1, x.shape[2], -1)), dim=1)
        blocks = zip(
            self.time_blocks,
            self.space_virtual2point_blocks,
            self.space_virtual_blocks,
            self.space_point2virtual_blocks,
            strict=True,
        )
        for along_time, read_points, among_virtual, read_virtual in blocks:
            tracks = along_time(tracks.flatten(0, 1)).view(tracks.shape)  # (B*N, S, C)
            per_frame = tracks.transpose(1, 2).flatten(0, 1)  # (B*S, N, C)
            points, virtual = per_frame[:, :count], per_frame[:, count:]
            virtual = among_virtual(read_points(virtual, points))
            points = read_virtual(points, virtual)
            tracks = torch.cat((points, virtual), dim=1).unflatten(0, (x.shape[0], -1)).transpose(1, 2)
        return self.flow_head(self.output_norm(tracks[:, :count] + x))
