"""The two ways to attend agree, and the one for bfloat16 on a CPU keeps its scores small."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vggt.layers import attention
from vggt.layers.attention import attend


def random_qkv(heads: int, queries: int, keys: int, batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((batch, heads, queries, 8), (batch, heads, keys, 8), (batch, heads, keys, 8))
    return tuple(torch.randn(shape, generator=generator).bfloat16() for shape in shapes)


@pytest.mark.parametrize('scores_bytes', [1, 500, 5_000, 2**20])
@pytest.mark.parametrize('queries, keys', [(1, 1), (7, 7), (33, 33), (20, 5)])
@torch.inference_mode()
def test_products_in_blocks_give_what_the_exact_formula_gives(
    monkeypatch: pytest.MonkeyPatch, scores_bytes: int, queries: int, keys: int
) -> None:
    monkeypatch.setattr(attention, 'SCORES_BYTES', scores_bytes)
    monkeypatch.setattr(attention, 'FEWEST_ROWS', 4)
    q, k, v = random_qkv(3, queries, keys)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    found = attend(q, k, v)
    assert found.dtype is torch.bfloat16
    # bfloat16 keeps 8 bits: scores of up to 3 are off by 2^-8, so weights by 3 / 256, and values are of size 1
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=3 / 256 * 3)


@torch.inference_mode()
def test_scores_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    softmax = torch.softmax

    def watched(scores: torch.Tensor, dim: int) -> torch.Tensor:
        sizes.append(scores.nbytes)
        return softmax(scores, dim=dim)

    monkeypatch.setattr(attention, 'SCORES_BYTES', 4096)
    monkeypatch.setattr(attention, 'FEWEST_ROWS', 8)
    monkeypatch.setattr(torch, 'softmax', watched)
    attend(*random_qkv(4, 100, 100))
    assert max(sizes) <= 4096
    assert sum(sizes) == 2 * 4 * 100 * 100 * 2


def test_training_in_bfloat16_has_gradients() -> None:
    q, k, v = (x.requires_grad_() for x in random_qkv(2, 5, 5))
    attend(q, k, v).sum().backward()
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()
