"""The transformer block at inference and in training, and stochastic depth."""

from __future__ import annotations

import pytest
import torch

from vggt.layers.block import Block
from vggt.layers.stochastic_depth import add_on_batch_subset, drop_path


def make_block(drop_rate: float = 0.0, checkpointing: bool = False) -> Block:
    torch.manual_seed(0)
    return Block(16, 4, qk_norm=True, init_values=0.5, drop_rate=drop_rate, checkpointing=checkpointing)


def test_residuals_are_plain_at_inference_whatever_the_rate() -> None:
    x = torch.randn(3, 5, 16)
    exact = make_block().eval()(x)
    block = make_block(drop_rate=0.9).eval()
    assert torch.equal(block(x), exact)
    expected = x + block.ls1(block.attn(block.norm1(x)))
    expected = expected + block.ls2(block.mlp(block.norm2(expected)))
    assert torch.equal(exact, expected)


def test_checkpointing_changes_memory_and_no_value() -> None:
    x = torch.randn(2, 5, 16)
    gradients = []
    for checkpointing in (False, True):
        block = make_block(checkpointing=checkpointing).train()
        y = block(x)
        y.square().sum().backward()
        gradients.append([y, *(parameter.grad for parameter in block.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize('checkpointing', [False, True])
def test_a_high_rate_computes_a_part_of_the_batch_only(checkpointing: bool) -> None:
    block = make_block(drop_rate=0.5, checkpointing=checkpointing).train()
    rows = []
    block.mlp.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0].shape[0]))
    block(torch.randn(8, 5, 16))
    assert rows == [4]


def test_a_low_rate_computes_the_whole_batch() -> None:
    block = make_block(drop_rate=0.1).train()
    rows = []
    block.mlp.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0].shape[0]))
    block(torch.randn(8, 5, 16))
    assert rows == [8]


def test_dropped_samples_keep_their_input_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    dropped = drop_path(torch.ones(20_000, 1, 1), rate=0.1).flatten()
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 1 / 0.9]))
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.01)  # standard error is 0.0024


def test_batch_subset_enlarges_the_chosen_rows_and_leaves_the_others() -> None:
    torch.manual_seed(0)
    y = add_on_batch_subset(torch.zeros(10, 3), lambda x: torch.ones_like(x), rate=0.3)
    assert sorted(y[:, 0].tolist()) == pytest.approx([0.0] * 3 + [10 / 7] * 7)


def test_batch_subset_keeps_at_least_one_row() -> None:
    y = add_on_batch_subset(torch.zeros(2, 3), lambda x: torch.ones_like(x), rate=0.9)
    assert sorted(y[:, 0].tolist()) == pytest.approx([0.0, 2.0])
