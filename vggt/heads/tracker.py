"""Iterative point tracker: correlate, update, repeat.

Source: Karaev et al., CoTracker, 2023; Wang et al., VGGSfM, 2024;
docs/network_facts.md sec. 7 for what VGGT's weights expect.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vggt.config import TrackHeadConfig
from vggt.heads.correlation import CorrelationPyramid, sample_bilinear
from vggt.heads.update_transformer import UpdateTransformer
from vggt.layers.mlp import Mlp
from vggt.layers.random_parameter import random_parameter

FLOW_SCALE = 518.0  # cells; the flow is also given as a share of this
POSITION_BASE = 10000.0


class Tracker(nn.Module):
    """Feature maps and query points to tracks, visibility and confidence."""

    def __init__(self, config: TrackHeadConfig) -> None:
        super().__init__()
        self.config = config
        latent = config.features
        token_dim = 3 * latent + 4  # flow embedding and twice the flow, correlation, track feature
        correlations = config.corr_levels * (2 * config.corr_radius + 1) ** 2
        self.query_ref_token = random_parameter(1, 2, token_dim)  # for frame 0, for the others
        self.corr_mlp = Mlp(correlations, config.hidden_size, latent)
        self.updateformer = UpdateTransformer(config, token_dim, latent + 2)
        self.fmap_norm = nn.LayerNorm(latent)
        self.ffeat_norm = nn.GroupNorm(1, latent)
        self.ffeat_updater = nn.Sequential(nn.Linear(latent, latent), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(latent, 1))
        self.conf_predictor = nn.Sequential(nn.Linear(latent, 1))

    def forward(self, features: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Track the queries.

        Args:
            features: [B, S, C, h, w].
            queries: [B, Nq, 2] as (x, y) in cells of frame 0's map.

        Returns:
            tracks [iterations, B, S, Nq, 2] in cells, visibility and confidence [B, S, Nq] in 0..1.
        """
        frames = features.shape[1]
        maps = self.fmap_norm(features.movedim(2, -1)).movedim(-1, 2)
        pyramid = CorrelationPyramid(maps, self.config.corr_levels, self.config.corr_radius)
        start = queries[:, None]  # (B, 1, Nq, 2)
        points = start.expand(-1, frames, -1, -1)
        query_features = sample_bilinear(maps[:, 0], queries, padding='border').transpose(1, 2)
        track_features = query_features[:, None].expand(-1, frames, -1, -1)  # (B, S, Nq, C)
        place = self._place_embedding(queries, (maps.shape[-2], maps.shape[-1]), frames)
        tracks = []
        for _ in range(self.config.iterations):
            points = points.detach()  # each round learns its own correction
            tokens = self._tokens(pyramid, points, track_features) + place
            delta = self.updateformer(tokens.transpose(1, 2)).transpose(1, 2)  # (B, S, Nq, 2 + C)
            # One normalisation group over the channels of each token, not over tokens.
            normed = self.ffeat_norm(delta[..., 2:].flatten(0, 2)).view(track_features.shape)
            track_features = self.ffeat_updater(normed) + track_features
            points = torch.cat((start, (points + delta[..., :2])[:, 1:]), dim=1)  # frame 0 is given
            tracks.append(points)
        visibility = self.vis_predictor(track_features).squeeze(-1).sigmoid()
        confidence = self.conf_predictor(track_features).squeeze(-1).sigmoid()
        return torch.stack(tracks), visibility, confidence

    def _tokens(self, pyramid: CorrelationPyramid, points: Tensor, track_features: Tensor) -> Tensor:
        """[B, S, Nq, token_dim]: motion since frame 0, match of the neighbourhood, and the track's own feature."""
        correlation = self.corr_mlp(pyramid.sample(track_features, points))
        flow = points - points[:, :1]
        share = flow / FLOW_SCALE
        motion = embed_flow(flow, self.config.features // 2)
        return torch.cat((motion, share, share, correlation, track_features), dim=-1)

    def _place_embedding(self, queries: Tensor, size: tuple[int, int], frames: int) -> Tensor:
        """[B, S, Nq, token_dim]: where a query is in frame 0, and whether a token belongs to frame 0."""
        channels = self.query_ref_token.shape[-1]
        table = sine_position_map(size, channels).to(queries)
        place = sample_bilinear(table.expand(queries.shape[0], -1, -1, -1), queries, padding='border')
        first, others = self.query_ref_token[:, :1], self.query_ref_token[:, 1:].expand(-1, frames - 1, -1)
        return place.transpose(1, 2)[:, None] + torch.cat((first, others), dim=1)[:, :, None]


def embed_flow(flow: Tensor, channels: int) -> Tensor:
    """Sines and cosines of a displacement, interleaved, x before y.

    Args:
        flow: [..., 2].
        channels: for each axis, even.

    Returns:
        [..., 2 * channels]. Frequencies rise linearly up to nearly 1000, so small displacements turn many times.
    """
    frequencies = torch.arange(0, channels, 2, device=flow.device, dtype=flow.dtype) * (1000.0 / channels)
    angles = flow[..., None] * frequencies  # (..., 2, channels / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-3)


def sine_position_map(size: tuple[int, int], channels: int) -> Tensor:
    """Embedding of each cell of a map: first half x, second half y, each sines then cosines.

    Args:
        size: (rows, columns).
        channels: a multiple of 4.

    Returns:
        float32 [1, channels, rows, columns].

    Source: Vaswani et al., Attention Is All You Need, 2017, sec. 3.5, on two axes.
    """
    rows, columns = size
    count = channels // 4
    frequencies = POSITION_BASE ** -(torch.arange(count, dtype=torch.float64) / count)

    def embed(length: int) -> Tensor:
        angles = frequencies[:, None] * torch.arange(length, dtype=torch.float64)
        return torch.cat((angles.sin(), angles.cos())).float()

    x = embed(columns)[:, None, :].expand(-1, rows, -1)
    y = embed(rows)[:, :, None].expand(-1, -1, columns)
    return torch.cat((x, y))[None]
