"""The transformer block of the backbone, the aggregator and the camera head."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vggt.layers.attention import Attention
from vggt.layers.layer_scale import LayerScale
from vggt.layers.mlp import Mlp
from vggt.layers.rope import RotaryTable
from vggt.layers.stochastic_depth import add_on_batch_subset, drop_path

# Up to this rate single samples are masked, above it they are not even computed. Source: docs/network_facts.md sec. 11.
SUBSET_ABOVE_RATE = 0.1


class Block(nn.Module):
    """Pre-norm residual block: attention, then an MLP, each scaled by LayerScale.

    At inference both residuals are plain. While training a branch may be dropped (stochastic depth), and with
    `checkpointing` the activations are computed again in the backward pass instead of being kept.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        init_values: float = 0.01,
        eps: float = 1e-5,
        drop_rate: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.checkpointing = checkpointing
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qk_norm=qk_norm)
        self.ls1 = LayerScale(dim, init_values)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, init_values)

    def forward(self, x: Tensor, rotary: RotaryTable | None = None, keys: Tensor | None = None) -> Tensor:
        """[B, N, C] to [B, N, C]; the N tokens of a sample attend to each other, or to those listed in keys alone."""
        if self.training and self.checkpointing:
            return checkpoint(self._residuals, x, rotary, keys, use_reentrant=False)
        return self._residuals(x, rotary, keys)

    def _residuals(self, x: Tensor, rotary: RotaryTable | None, keys: Tensor | None) -> Tensor:
        def attention(x: Tensor) -> Tensor:
            return self.ls1(self.attn(self.norm1(x), rotary, keys))

        def mlp(x: Tensor) -> Tensor:
            return self.ls2(self.mlp(self.norm2(x)))

        for branch in (attention, mlp):
            if not self.training or self.drop_rate == 0.0:
                x = x + branch(x)
            elif self.drop_rate > SUBSET_ABOVE_RATE:
                x = add_on_batch_subset(x, branch, self.drop_rate)
            else:
                x = x + drop_path(branch(x), self.drop_rate)
        return x
