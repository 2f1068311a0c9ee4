"""A larger model that begins with the weights of a smaller one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.grow import grow
from training.nano import NANO, make_nano

assert NANO.depth_head is not None
assert NANO.camera_head is not None
SMALLER = replace(NANO, depth=2, depth_head=replace(NANO.depth_head, layers=(0, 0, 1, 1)))
LARGER = replace(SMALLER, depth=4, depth_head=replace(NANO.depth_head, layers=(0, 0, 3, 3)))


def test_a_model_that_has_grown_says_the_same_and_can_learn_more() -> None:
    smaller = make_nano(1, SMALLER).eval()
    larger = grow(smaller, LARGER).eval()
    images = torch.rand(1, 3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    said, says = smaller(images), larger(images)
    torch.testing.assert_close(says.depth, said.depth)
    torch.testing.assert_close(says.pose_encoding, said.pose_encoding)
    says.depth.sum().backward()
    for block in (larger.aggregator.frame_blocks[1], larger.aggregator.global_blocks[2]):
        assert block.attn.proj.weight.grad.abs().max() > 0


def test_units_of_the_camera_head_that_say_nothing_leave_first() -> None:
    smaller = make_nano(1, SMALLER).eval()
    hidden = smaller.camera_head.trunk[0].mlp.fc2.weight
    narrower = replace(SMALLER, camera_head=replace(NANO.camera_head, mlp_ratio=2.75))
    with torch.no_grad():
        hidden[:, ::4] = 0
    images = torch.rand(1, 3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said, says = smaller(images), grow(smaller, narrower).eval()(images)
    torch.testing.assert_close(says.pose_encoding, said.pose_encoding)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match='4 pairs cannot grow into one of 2'):
        grow(make_nano(0, LARGER), SMALLER)
    with pytest.raises(ValueError, match='another shape'):
        grow(make_nano(0, SMALLER), replace(LARGER, embed_dim=96))
