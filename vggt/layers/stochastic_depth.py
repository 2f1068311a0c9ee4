"""Residual branches that are skipped at random while training.

Source: Huang et al., Deep Networks with Stochastic Depth, 2016; Oquab et al., DINOv2, 2023, sec. 5 (batch subset).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def drop_path(branch: Tensor, rate: float) -> Tensor:
    """Zero the branch of some samples and enlarge the others, so that the mean stays.

    Args:
        branch: [B, ...] output of a residual branch.
        rate: chance in [0, 1) that a sample loses its branch.
    """
    keep = 1.0 - rate
    mask = branch.new_empty((branch.shape[0],) + (1,) * (branch.ndim - 1)).bernoulli_(keep)
    return branch * (mask / keep)


def add_on_batch_subset(x: Tensor, branch: Callable[[Tensor], Tensor], rate: float) -> Tensor:
    """Run the branch on a random part of the batch only, which saves the time of the dropped samples.

    Args:
        x: [B, ...] input of the residual branch.
        branch: maps [b, ...] to [b, ...].
        rate: share of the batch that is left out; at least one sample is always computed.

    Returns:
        [B, ...] x plus the enlarged branch for the chosen samples, x alone for the others.
    """
    batch = x.shape[0]
    subset = max(int(batch * (1.0 - rate)), 1)
    chosen = torch.randperm(batch, device=x.device)[:subset]
    residual = branch(x[chosen])
    return torch.index_add(x, 0, chosen, residual.to(x.dtype), alpha=batch / subset)
