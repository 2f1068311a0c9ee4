"""Planner: how large windows and pictures may be on this device, and how windows shrink where time is short.

What the settings ask for is done wherever it fits. Where it does not, windows get smaller: at the start by an estimate
of the memory they need and by a short measurement, while running by the seconds that they take, and at a lack of memory
as the pipeline says. The pictures are the last to give way, and only at the start: windows that share frames must see
them alike.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vggt import StreamingVGGT, VGGTConfig
from vggt_ros.core.config import ModelConfig, WindowConfig

SMALLEST = 2  # frames of a window; with one there is nothing to compare
USABLE = 0.8  # of the memory that is free: other processes want some, and allocators waste some
PATIENCE = 3  # windows whose median time is held against the budget
GROWS_BELOW = 0.6  # of the budget: windows grow again where even a fifth more time would leave room
MEASUREMENTS = 4  # windows tried for a budget, each twice
MEMORY = Path('/proc/meminfo')


@dataclass(frozen=True)
class Plan:
    """What will be computed at a time, and why.

    Args:
        window: sizes to begin with.
        size: (H, W) of a 4:3 picture on the network's grid.
        chunk: frames that the dense head decodes at a time.
        reason: one sentence.
    """

    window: WindowConfig
    size: tuple[int, int]
    chunk: int
    reason: str


def grids(config: ModelConfig, network: VGGTConfig) -> list[tuple[int, int]]:
    """(H, W) of a 4:3 picture, as most cameras give, on the grids that may be taken, the largest first.

    A grid that the settings name is the only one; else all multiples of the patch size from the width that the network
    was made for down to half of it.
    """
    patch = network.patch_size
    widest = config.input_width or network.image_size // patch * patch
    widths = [widest] if config.input_width else range(widest, max(patch, widest // 2) - 1, -patch)
    return [(max(patch, width * 3 // 4 // patch * patch), width) for width in widths]


def plan_windows(
    window: WindowConfig,
    network: VGGTConfig,
    sizes: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    free_bytes: int | None,
    chunks: Sequence[int] = (2, 1),
) -> Plan:
    """The windows asked for, or the largest smaller ones that fit into the memory that is free.

    Args:
        window: asked for.
        network: its architecture.
        sizes: (H, W) of pictures on the network's grid, the first wherever windows of two frames fit.
        dtype: number format of the network.
        free_bytes: memory free on the device beside the weights; None where that is not known.
        chunks: frames that the dense head may decode at a time, the first wherever it costs no frame of a window.
    """

    def fits(frames: int, size: tuple[int, int], chunk: int) -> bool:
        return free_bytes is None or window_bytes(network, frames, size, dtype, chunk) <= USABLE * free_bytes

    asked = f'window_size {window.size} and window_stride {window.stride}'
    if free_bytes is None:
        return Plan(window, sizes[0], chunks[0], f'{asked} as asked for; how much memory is free is not known')
    for chunk in chunks:
        if fits(window.size, sizes[0], chunk):
            return Plan(window, sizes[0], chunk, f'{asked} as asked for')
    chunk, smallest = chunks[-1], min(SMALLEST, window.size)
    size = next((one for one in sizes if fits(smallest, one, chunk)), sizes[-1])
    frames = next((n for n in range(window.size, smallest, -1) if fits(n, size, chunk)), smallest)
    need = window_bytes(network, window.size, sizes[0], dtype, chunk)
    reason = f'{asked} would need {need / 2**30:.1f} of {free_bytes / 2**30:.1f} GiB free'
    if size != sizes[0]:
        reason += f', and two frames of {sizes[0][1]} pixels across do not fit either'
    smaller = WindowConfig(frames, max(1, min(window.stride, frames // 2)))
    return Plan(smaller, size, chunk, f'{reason}; a lower input_width allows more')


def plan_for_budget(
    plan: Plan,
    network: VGGTConfig,
    sizes: Sequence[tuple[int, int]],
    budget_s: float,
    compared: int,
    measure: Callable[[WindowConfig, tuple[int, int]], float],
) -> Plan:
    """A plan whose windows take no longer than a budget: the stride gives way first, the window second, pictures last.

    What is not measured is told from what was by the operations of each, so a few measurements are enough.

    Args:
        plan: what memory allows.
        network: its architecture.
        sizes: grids that may be taken, the largest first.
        budget_s: seconds from the newest frame of a window to its result.
        compared: shared frames whose depth is decoded beside that of the new ones.
        measure: seconds that windows of these sizes take.
    """
    window, size = plan.window, plan.size
    waiting = list(_smaller_ones(window, size, sizes))
    measured = [(window_operations(network, window, size, compared), measure(window, size))]
    while measured[-1][1] > budget_s and waiting and len(measured) <= MEASUREMENTS:
        operations = [window_operations(network, *one, compared) for one in waiting]
        told = (i for i, count in enumerate(operations) if _seconds_of(count, measured) <= budget_s)
        chosen = next(told, len(waiting) - 1)
        (window, size), waiting = waiting[chosen], waiting[chosen + 1 :]
        measured.append((operations[chosen], measure(window, size)))
    first_s, taken = measured[0][1], measured[-1][1]
    if (window, size) == (plan.window, plan.size):
        return dataclasses.replace(plan, reason=f'{plan.reason}; {taken:.3f} s a window of {budget_s:g} allowed')
    reason = (
        f'{plan.reason}; that takes {first_s:.3f} s a window where latency_budget_s allows {budget_s:g}, so '
        f'window_size {window.size}, window_stride {window.stride} at {size[1]}x{size[0]}: {taken:.3f} s'
    )
    return dataclasses.replace(plan, window=window, size=size, reason=reason)


def _seconds_of(operations: float, measured: Sequence[tuple[float, float]]) -> float:
    """From the last two measurements (operations, seconds): what is not arithmetic costs the same for all."""
    before, last = ((0.0, 0.0), *measured)[-2:]
    slope = (before[1] - last[1]) / (before[0] - last[0])
    return last[1] + max(0.0, slope) * (operations - last[0])


def _smaller_ones(
    window: WindowConfig, size: tuple[int, int], sizes: Sequence[tuple[int, int]]
) -> Iterator[tuple[WindowConfig, tuple[int, int]]]:
    """What to try for speed, the dearest last."""
    stride = window.stride
    while stride > 1:
        stride //= 2
        yield WindowConfig(window.size, stride), size
    smallest = min(SMALLEST, window.size)
    for frames in range(window.size - 1, smallest - 1, -1):
        yield WindowConfig(frames, 1), size
    for smaller in sizes:
        if smaller[1] < size[1]:
            yield WindowConfig(smallest, 1), smaller


def window_operations(network: VGGTConfig, window: WindowConfig, size: tuple[int, int], compared: int) -> float:
    """2 per multiply-add, roughly, from the newest frame of a window to its result, for ratios between windows.

    Counted: the newest frame's encoding, frame and global blocks, and a dense head whose share is that of the released
    network, 0.22 TFLOP a frame of 392x518 at 128 and 256 features (docs/benchmarks.md).
    """
    patch, dim, pixels = network.patch_size, network.embed_dim, size[0] * size[1]
    tokens = pixels // patch**2 + network.num_special_tokens

    def blocks(count: int, sequence: int) -> float:
        """Of a sequence in so many blocks: products with weights, and attention."""
        return count * (2 * (4 + 2 * network.mlp_ratio) * dim**2 * sequence + 4 * dim * sequence**2)

    encoder = blocks(network.backbone.depth, tokens) if network.backbone is not None else 0.0
    frame, every = blocks(network.depth, tokens), blocks(network.depth, window.size * tokens)
    features = network.depth_head.features if network.depth_head is not None else 0
    decoded = min(window.size, window.stride + compared)
    return encoder + window.size * frame + every + decoded * 0.22e12 * (features / 256) ** 2 * pixels / (392 * 518)


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


def windows_together(
    network: VGGTConfig,
    frames: int,
    size: tuple[int, int],
    dtype: torch.dtype,
    chunk: int,
    free_bytes: int | None,
    most: int,
) -> int:
    """How many windows of different streams fit into one forward pass: 1 where free memory is not known.

    Args:
        network: its architecture.
        frames: of each window.
        size: (H, W) on the network's grid.
        dtype: number format of the network.
        chunk: frames that the dense head decodes at a time.
        free_bytes: memory free on the device beside the weights.
        most: never more.
    """
    if free_bytes is None:
        return 1
    room = USABLE * free_bytes
    return next((n for n in range(most, 1, -1) if window_bytes(network, n * frames, size, dtype, chunk) <= room), 1)


def free_memory(device: torch.device) -> int | None:
    """Bytes free on a GPU, or of the machine where the network runs on the CPU; None where that is not told."""
    if device.type == 'cuda':
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept for the next one
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
    image = torch.zeros(1, *size, 3, dtype=torch.uint8)
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
