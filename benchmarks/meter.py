"""Time, operations and peak memory of the parts of a network, from hooks on its modules."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

MEMORY_STATUS = Path('/proc/self/status')
FORGET_PEAK = Path('/proc/self/clear_refs')  # writing 5 resets VmHWM. Source: Linux, proc_pid_clear_refs(5)


def count_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Operations of the CPU's fused attention, which the counter does not know: 2 per multiply-add."""
    return sdpa_flop_count(query, key, value)


def make_counter() -> FlopCounterMode:
    """A counter of matrix products, convolutions and attention."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={fused: count_attention})


@dataclass
class Part:
    """What one part of the network cost in one run."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of this process, all threads: what is left of a measurement on a busy machine
    flops: int = 0
    peak_bytes: int = 0  # above what was in use before the run: weights are not counted


@dataclass
class Meter:
    """Watches named groups of modules while the network runs."""

    device: torch.device
    parts: dict[str, Part] = field(default_factory=dict)
    counter: FlopCounterMode | None = None
    _base: int = 0
    _peak: int = 0

    def watch(self, groups: Mapping[str, Sequence[nn.Module]]) -> None:
        """Put hooks on every module of every group; groups must not nest."""
        for name, modules in groups.items():
            for module in modules:
                module.register_forward_pre_hook(lambda _module, _inputs, name=name: self._enter(name))
                module.register_forward_hook(lambda _module, _inputs, _output, name=name: self._leave(name))

    def start(self, counter: FlopCounterMode | None = None) -> None:
        """Begin one run; with a counter operations are counted and the times mean nothing."""
        self.parts, self.counter = {}, counter
        self._synchronise()
        return_free_memory()
        self._forget_peak()
        self._base, self._peak = self._in_use(), 0
        self._begin = clocks()

    def stop(self) -> dict[str, Part]:
        """End the run; the whole is under 'total'."""
        self._synchronise()
        wall, cpu = (now - then for now, then in zip(clocks(), self._begin, strict=True))
        self._note_peak()
        flops = self.counter.get_total_flops() if self.counter else 0
        self.parts['total'] = Part(wall, cpu, flops, self._peak)
        return self.parts

    def _enter(self, name: str) -> None:
        self._synchronise()
        self._note_peak()
        self._forget_peak()
        self._flops_before = self.counter.get_total_flops() if self.counter else 0
        self._entered = clocks()

    def _leave(self, name: str) -> None:
        self._synchronise()
        part = self.parts.setdefault(name, Part())
        wall, cpu = (now - then for now, then in zip(clocks(), self._entered, strict=True))
        part.seconds += wall
        part.cpu_seconds += cpu
        if self.counter:
            part.flops += self.counter.get_total_flops() - self._flops_before
        part.peak_bytes = max(part.peak_bytes, self._note_peak())

    def _note_peak(self) -> int:
        if self.device.type == 'cuda':
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _status_bytes('VmHWM')
        self._peak = max(self._peak, peak - self._base)
        return peak - self._base

    def _forget_peak(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with suppress(OSError):  # not Linux, or not allowed: the peak is then that of the whole process
                FORGET_PEAK.write_text('5')

    def _in_use(self) -> int:
        if self.device.type == 'cuda':
            return torch.cuda.memory_allocated(self.device)
        return _status_bytes('VmRSS')

    def _synchronise(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)


def clocks() -> tuple[float, float]:
    """Wall and processor seconds."""
    return time.perf_counter(), time.process_time()


def return_free_memory() -> None:
    """Hand what the allocator keeps for later back to the system, or a peak would hide in it."""
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL('libc.so.6').malloc_trim(0)


def _status_bytes(key: str) -> int:
    lines = MEMORY_STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{key}:'))
