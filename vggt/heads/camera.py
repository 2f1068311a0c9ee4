"""Camera head: the camera token of each frame to a pose encoding, refined in a few rounds.

Source: Wang et al., VGGT, CVPR 2025, sec. 3.3; adaptive LayerNorm after Peebles and Xie, DiT, 2023;
docs/network_facts.md sec. 4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggt.config import CameraHeadConfig
from vggt.layers.block import Block
from vggt.layers.mlp import Mlp

ENCODING_SIZE = 9  # translation 3, quaternion xyzw 4, vertical and horizontal field of view


class CameraHead(nn.Module):
    """Iterative refinement; every round adds a correction to the raw encoding of the round before."""

    def __init__(self, config: CameraHeadConfig, dim: int) -> None:
        super().__init__()
        self.iterations = config.iterations
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, ENCODING_SIZE))
        self.trunk = nn.Sequential(
            *(
                Block(dim, config.num_heads, mlp_ratio=config.mlp_ratio, init_values=config.init_values)
                for _ in range(config.trunk_depth)
            )
        )
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.embed_pose = nn.Linear(ENCODING_SIZE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.pose_branch = Mlp(dim, dim // 2, ENCODING_SIZE)

    def forward(self, camera_tokens: Tensor) -> Tensor:
        """Estimate the cameras of a scene.

        Args:
            camera_tokens: [B, S, C] token 0 of each frame in the last layer.

        Returns:
            [iterations, B, S, 9] pose encodings, fields of view in radians; the last round is the estimate.
        """
        tokens = self.token_norm(camera_tokens.to(self.token_norm.weight.dtype))
        raw: Tensor | None = None
        encodings = []
        for _ in range(self.iterations):
            if raw is None:
                previous = self.empty_pose_tokens.expand(*tokens.shape[:2], -1)
            else:
                previous = raw.detach()  # each round learns its own correction
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(previous)).chunk(3, dim=-1)
            x = gate * (self.adaln_norm(tokens) * (1 + scale) + shift) + tokens
            delta = self.pose_branch(self.trunk_norm(self.trunk(x)))
            raw = delta if raw is None else previous + delta
            encodings.append(activate_fields_of_view(raw))
        return torch.stack(encodings)


def activate_fields_of_view(raw: Tensor) -> Tensor:
    """A field of view is never negative; this is reported but not fed back."""
    return torch.cat((raw[..., :7], F.relu(raw[..., 7:])), dim=-1)
