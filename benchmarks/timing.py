"""Wall times and memory of calls on a device. Knows no network, as upstream's package has the name of ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

FEWEST = 5  # runs of a row whose time is up


def synchronise(device: torch.device) -> None:
    """Wait for all that a GPU was asked to do."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device, most: int, limit_s: float) -> list[float]:
    """Seconds of each run after two to warm up: `most`, or at least FEWEST when the limit is over."""
    for _ in range(2):
        call()
    synchronise(device)
    taken: list[float] = []
    start = time.perf_counter()
    while len(taken) < most and (len(taken) < FEWEST or time.perf_counter() - start < limit_s):
        begin = time.perf_counter()
        call()
        synchronise(device)
        taken.append(time.perf_counter() - begin)
    return taken


def peak_gb(call: Callable[[], object], device: torch.device) -> float:
    """Device memory in GB that a run needs above what was in use before; nan where torch does not count it."""
    if device.type != 'cuda':
        return float('nan')
    synchronise(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    synchronise(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e9


def weights_gb(model: nn.Module) -> float:
    """Of all parameters."""
    return sum(one.numel() * one.element_size() for one in model.parameters()) / 1e9


@contextmanager
def exact_products() -> Iterator[None]:
    """float32 products in float32, without TF32."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [one.allow_tf32 for one in backends]
    try:
        for one in backends:
            one.allow_tf32 = False
        yield
    finally:
        for one, allowed in zip(backends, before, strict=True):
            one.allow_tf32 = allowed
