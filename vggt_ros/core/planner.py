"""Planner: how large windows may be on this device, and how they shrink where time is short.

What the settings ask for is done wherever it fits. Where it does not, windows get smaller: at the start by an estimate
of the memory they need, while running by the seconds that they take, and at a lack of memory as the pipeline says.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch

from vggt import StreamingVGGT, VGGTConfig
from vggt_ros.core.config import WindowConfig

SMALLEST = 2  # frames of a window; with one there is nothing to compare
USABLE = 0.8  # of the memory that is free: other processes want some, and allocators waste some
PATIENCE = 3  # windows whose median time is held against the budget
GROWS_BELOW = 0.6  # of the budget: windows grow again where even a fifth more time would leave room
MEMORY = Path('/proc/meminfo')


@dataclass(frozen=True)
class Plan:
    """What will be computed at a time, and why.

    Args:
        window: sizes to begin with.
        reason: one sentence.
    """

    window: WindowConfig
    reason: str


def plan_windows(
    window: WindowConfig,
    network: VGGTConfig,
    size: tuple[int, int],
    dtype: torch.dtype,
    free_bytes: int | None,
    chunk: int = 2,
) -> Plan:
    """The windows asked for, or the largest smaller ones that fit into the memory that is free.

    Args:
        window: asked for.
        network: its architecture.
        size: (H, W) of the images on the network's grid.
        dtype: number format of the network.
        free_bytes: memory free on the device beside the weights; None where that is not known.
        chunk: frames that the dense head decodes at a time.
    """

    def need(frames: int) -> int:
        return window_bytes(network, frames, size, dtype, chunk)

    asked = f'window_size {window.size} and window_stride {window.stride}'
    if free_bytes is None:
        return Plan(window, f'{asked} as asked for; how much memory is free is not known')
    if need(window.size) <= USABLE * free_bytes:
        return Plan(window, f'{asked} as asked for')
    fitting = next((n for n in range(window.size - 1, SMALLEST, -1) if need(n) <= USABLE * free_bytes), SMALLEST)
    fitting = min(fitting, window.size)
    smaller = WindowConfig(fitting, max(1, min(window.stride, fitting // 2)))
    reason = (
        f'{asked} would need {need(window.size) / 2**30:.1f} of {free_bytes / 2**30:.1f} GiB free; a lower input_width '
        'allows more'
    )
    return Plan(smaller, reason)


def window_bytes(network: VGGTConfig, frames: int, size: tuple[int, int], dtype: torch.dtype, chunk: int) -> int:
    """Estimate of the memory that a window needs beside the weights.

    Counted: the layers that the heads read (float32), a block at its widest (the residual stream, the norm's result,
    queries and keys in float32; the values, the mix and the hidden layer before and after GELU in dtype), the dense
    head's features at full resolution (three maps), and what kernels take for themselves, about three times a block's
    weights. Good to a factor of two, against the peaks in docs/benchmarks.md.
    """
    patch, dim = network.patch_size, network.embed_dim
    tokens = frames * (size[0] // patch * (size[1] // patch) + network.num_special_tokens)
    head = network.depth_head
    kept = len(head.layers) if head is not None else 1
    features = head.features if head is not None else 0
    element = torch.finfo(dtype).bits // 8
    layers = tokens * 2 * dim * 4 * kept
    block = tokens * dim * (4 * 4 + (4 + 2 * int(network.mlp_ratio)) * element)
    dense = 3 * min(chunk, frames) * size[0] * size[1] * features // 2 * 4
    kernels = 3 * (4 + 2 * int(network.mlp_ratio)) * dim**2 * 4
    return layers + max(block, dense) + kernels


def free_memory(device: torch.device) -> int | None:
    """Bytes free on a GPU, or of the machine where the network runs on the CPU; None where that is not told."""
    if device.type == 'cuda':
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    lines = MEMORY.read_text().splitlines() if MEMORY.is_file() else []  # Linux
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:')), None)


def rehearse(network: StreamingVGGT, window: WindowConfig, size: tuple[int, int], compared: int) -> tuple[float, float]:
    """Seconds to encode one frame, and from the newest frame of a window to its result; each after a warm-up.

    Args:
        network: ready to run.
        window: sizes of the windows.
        size: (H, W) on the network's grid.
        compared: shared frames whose depth is decoded beside that of the new ones.
    """
    image = torch.zeros(1, 3, *size)
    decoded = range(window.size - min(window.size, window.stride + compared), window.size)
    encode_s = window_s = 0.0
    for _ in range(2):
        start = time.perf_counter()
        tokens = network.encode(image)
        _synchronise(network.device)
        encoded = time.perf_counter()
        network.predict(tokens.expand(window.size, -1, -1), size, frames=decoded)
        _synchronise(network.device)
        encode_s, window_s = encoded - start, time.perf_counter() - start  # the newest frame is encoded at the end
    return encode_s, window_s


def _synchronise(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


class LatencyKeeper:
    """Keeps windows within a budget of seconds: the stride gives way first, the size of the window second.

    Fewer new frames a window are fewer to decode; fewer frames in all make attention cheaper. Both grow again, the size
    first, once there is time to spare.

    Args:
        asked: the sizes in the settings, which are never exceeded.
    """

    def __init__(self, asked: WindowConfig) -> None:
        self.asked = asked
        self._seconds: deque[float] = deque(maxlen=PATIENCE)

    def observe(self, seconds: float, now: WindowConfig, budget_s: float) -> WindowConfig:
        """The sizes for the next windows.

        Args:
            seconds: that the last window took.
            now: sizes of the windows now.
            budget_s: seconds that one may take; 0 is no limit.
        """
        self._seconds.append(seconds)
        if budget_s == 0 or len(self._seconds) < PATIENCE:
            return now
        taken = statistics.median(self._seconds)
        if taken > budget_s:
            chosen = _smaller(now)
        elif taken < GROWS_BELOW * budget_s:
            chosen = _larger(now, self.asked)
        else:
            return now
        if chosen != now:
            self._seconds.clear()  # they were of other windows
        return chosen


def _smaller(now: WindowConfig) -> WindowConfig:
    if now.stride > 1:
        return WindowConfig(now.size, now.stride // 2)
    return WindowConfig(max(min(SMALLEST, now.size), now.size - max(1, now.size // 4)), 1)


def _larger(now: WindowConfig, asked: WindowConfig) -> WindowConfig:
    """By a fifth of the size, or a frame of the stride."""
    if now.size < asked.size:
        return WindowConfig(min(asked.size, now.size + max(1, now.size // 10)), now.stride)
    return WindowConfig(now.size, min(asked.stride, now.stride + 1))
