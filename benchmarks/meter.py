"""Time, operations and peak memory of the parts of a network, from hooks on its modules."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.forms import groups
from vggt import VGGT, VGGTConfig
from vggt.heads.position import sine_tables
from vggt.layers.rope import grid_rotary_table

MEMORY_STATUS = Path('/proc/self/status')
FORGET_PEAK = Path('/proc/self/clear_refs')  # writing 5 resets VmHWM. Source: Linux, proc_pid_clear_refs(5)


def count_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Operations of the CPU's fused attention, which the counter does not know: 2 per multiply-add."""
    return sdpa_flop_count(query, key, value)


def make_counter() -> FlopCounterMode:
    """A counter of matrix products, convolutions and attention."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={fused: count_attention})


class Operations:
    """2 per multiply-add of every part of a network at one image size; counted on shapes, nothing is computed.

    Every part grows as a S + b S^2 with the S frames it sees, so two counts tell all.

    Args:
        config: of the network; its heads are those that run.
        shape: (H, W) of the images in pixels.
    """

    def __init__(self, config: VGGTConfig, shape: tuple[int, int]) -> None:
        one, two = (count_by_part(config, shape, frames) for frames in (1, 2))
        self._square = {part: (two[part] - 2 * one[part]) // 2 for part in one}
        self._linear = {part: one[part] - self._square[part] for part in one}

    def of(self, frames: int, new: int) -> dict[str, int]:
        """Of a window of which the new frames are encoded and decoded, by part."""
        seen = {part: new if part == 'patch tokens' or 'depth' in part or 'point' in part else frames
                for part in self._linear}  # fmt: skip
        return {part: self._linear[part] * count + self._square[part] * count**2 for part, count in seen.items()}


@torch.inference_mode()
def count_by_part(config: VGGTConfig, shape: tuple[int, int], frames: int) -> dict[str, int]:
    """Of one forward pass of all frames through all parts that the configuration has.

    All blocks of a kind need the same: one of each is run.
    """
    times = config.depth // config.attention_block_size
    with torch.device('meta'):
        model = VGGT(_one_of_each(config)).eval()
    counts: dict[str, int] = {}
    tables = (grid_rotary_table, sine_tables)
    for table in tables:
        table.cache_clear()  # what is kept must be neither found by shapes alone nor made of them
    try:
        with FakeTensorMode(), make_counter() as counter:
            for module in model.modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        module._parameters[name] = nn.Parameter(torch.empty(parameter.shape), requires_grad=False)
            parts = groups(model) | {'backbone block': list(getattr(model.aggregator.patch_embed, 'blocks', ()))}
            for part, modules in parts.items():
                _count(part, modules, counter, counts)
            layers = model.aggregator(torch.empty(1, frames, 3, *shape), model.layers_read(config.heads))
            model.read_heads(layers, shape)
    finally:
        for table in tables:
            table.cache_clear()
    if config.backbone is not None:
        counts['patch tokens'] += (config.backbone.depth - 1) * counts.pop('backbone block')
    return counts | {part: times * counts[part] for part in ('frame blocks', 'global blocks')}


def _count(part: str, modules: Sequence[nn.Module], counter: FlopCounterMode, counts: dict[str, int]) -> None:
    """Add what the modules need to the counts, under the name of the part."""
    before = 0

    def enter(*_: Any) -> None:
        nonlocal before
        before = counter.get_total_flops()

    def leave(*_: Any) -> None:
        counts[part] = counts.get(part, 0) + counter.get_total_flops() - before

    for module in modules:
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)


def _one_of_each(config: VGGTConfig) -> VGGTConfig:
    """With as few blocks as there can be, and all heads reading the first pair."""
    changes: dict[str, Any] = {'depth': config.attention_block_size}
    if config.backbone is not None:
        changes['backbone'] = replace(config.backbone, depth=1)
    for name in ('depth_head', 'point_head'):
        head = getattr(config, name)
        if head is not None:
            changes[name] = replace(head, layers=(0,) * len(head.layers))
    return replace(config, **changes)


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
