"""A parameter that starts at random, such as a learnt token."""

from __future__ import annotations

import torch
from torch import nn


def random_parameter(*shape: int, std: float = 1.0) -> nn.Parameter:
    """A parameter of a normal distribution; on the meta device, where nothing is drawn, of no value.

    There torch would go through its Python kernels, and import torch._dynamo and sympy for them: 4 s of a start.
    """
    values = torch.empty(shape)
    return nn.Parameter(values if values.is_meta else nn.init.normal_(values, std=std))
