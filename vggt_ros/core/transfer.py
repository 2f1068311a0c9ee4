"""Pictures to the device of the network, and what it answers to the host in one copy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On a device; to a GPU by way of pinned memory, and the call does not wait."""
    if device.type == 'cuda' and tensor.device.type == 'cpu':
        tensor = tensor.pin_memory()  # only from there is a copy beside other work
    return tensor.to(device, non_blocking=True)


def to_host(tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Arrays of the same shapes, float32; on a processor the tensors themselves where they are that already.

    A GPU gathers them and copies once, into pinned memory, and the call waits for that. The memory is taken from
    torch's own store and goes back to it with the last of the arrays.
    """
    if all(one.device.type == 'cpu' for one in tensors):
        return [one.float().numpy() for one in tensors]
    gathered = gather(tensors)
    host = torch.empty(gathered.shape, dtype=gathered.dtype, pin_memory=True)
    host.copy_(gathered, non_blocking=True)
    torch.cuda.current_stream(gathered.device).synchronize()
    return spread(host, [one.shape for one in tensors])


def gather(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """[N] float32 all of them, one after the other, on their device."""
    return torch.cat([one.reshape(-1).float() for one in tensors])


def spread(gathered: torch.Tensor, shapes: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """The parts of gathered tensors in their shapes: views of its memory."""
    parts = gathered.split([math.prod(shape) for shape in shapes])
    return [part.view(*shape).numpy() for part, shape in zip(parts, shapes, strict=True)]
