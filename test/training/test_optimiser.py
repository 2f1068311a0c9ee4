"""The optimiser against torch's own, and against what orthogonal means."""

from __future__ import annotations

import copy

import torch
from torch import nn

from training.optimiser import Muon, orthogonal


def test_matrices_move_as_torchs_muon_moves_them_one_by_one() -> None:
    torch.manual_seed(0)
    shapes = [(24, 8), (8, 24), (8, 8), (24, 8), (8, 24), (8, 8)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = copy.deepcopy(ours)
    optimisers = (
        Muon(ours, lr=1e-2, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn='match_rms_adamw'),
    )
    for _ in range(3):
        for one, other in zip(ours[1:], theirs[1:], strict=True):  # the first gets no gradient and stays
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_step_is_orthogonal_whatever_the_gradients_size() -> None:
    torch.manual_seed(1)
    for shape in ((4, 16, 6), (4, 6, 16)):
        values = torch.linalg.svdvals(orthogonal(1e-4 * torch.randn(shape)).float())
        assert values.min() > 0.6
        assert values.max() < 1.3
