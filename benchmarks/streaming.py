"""New frames per second and newest-frame latency of sliding windows, against the plain form rerun on every window.

    python -m benchmarks.streaming                                     # 1B architecture, random weights, bfloat16
    python -m benchmarks.streaming --model nano --height 96 --width 128 --dtype float32 --repeats 5
    python -m benchmarks.streaming --frames 10000 --model nano --height 48 --width 64     # soak: time and memory

Method: both forms hold the same weights in one process and take turns, the plain form once for all strides of a window
size. The plain form runs camera and depth heads on all frames of every window, under autocast; the inference
form encodes the new frames, all but the newest before the window is complete, and decodes the new ones. Time is
processor time of this process (on a GPU: wall time, synchronised); what operations allow is the ratio of their counts,
made on shapes
alone. How far the outputs differ is in the last columns.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.forms import fill
from benchmarks.machine import commit, name_of
from benchmarks.meter import Operations
from vggt import VGGT, StreamingVGGT, VGGTConfig, VGGTOutput, load_vggt
from vggt_ros.core.memory import keep_freed_memory

HEADS = ('camera', 'depth')
WINDOWS = ((8, 1), (8, 4), (16, 4))


def main() -> None:
    """Measure sliding windows, or a long run of one."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--model', default='1b', help="'1b' with random weights, or what load_vggt takes")
    parser.add_argument('--height', type=int, default=392)
    parser.add_argument('--width', type=int, default=518)
    parser.add_argument('--dtype', choices=('float32', 'bfloat16', 'float16'), default='bfloat16')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--repeats', type=int, default=1)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--windows', nargs='+', default=[f'{size}/{stride}' for size, stride in WINDOWS])
    parser.add_argument('--blocks', type=int, default=0, help="of '1b': so many of its 24 of each kind")
    parser.add_argument('--frames', type=int, default=0, help='soak: so many frames in windows of 8, stride 4')
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    name = arguments.model + (f' of {arguments.blocks} blocks of each kind' if arguments.blocks else '')
    where = name_of(arguments.device)
    print(
        f'{name}, H={arguments.height} W={arguments.width}, {arguments.dtype}, {where}, {arguments.threads} '
        f'threads, torch {torch.__version__}, commit {commit()}, median of {arguments.repeats}\n'
    )
    if arguments.frames:
        soak(arguments)
        return
    columns = 'window, stride, new frames/s, newest frame [s], plain form [s], ratio, operations allow, of that'
    names = [*columns.split(', '), 'pose differs', 'depth differs']
    print(f'| {" | ".join(names)} |\n{"|---" * len(names)}|')
    windows = [tuple(map(int, window.split('/'))) for window in arguments.windows]
    for size in sorted({size for size, _ in windows}):
        for row in rows(arguments, size, [stride for one, stride in windows if one == size]):
            print(row, flush=True)


def make_network(name: str, device: str, blocks: int = 0, heads: Sequence[str] = HEADS) -> VGGT:
    """A fresh copy of the weights; of the 1B architecture with random ones, or of its first blocks of each kind."""
    if name != '1b':
        return load_vggt(name, heads=heads, device=device)
    config = VGGTConfig().with_heads(heads)
    if blocks:
        assert config.backbone is not None
        cut: dict[str, Any] = {'depth': blocks, 'backbone': replace(config.backbone, depth=blocks)}
        for key in ('depth_head', 'point_head'):
            head = getattr(config, key)
            if head is not None:
                layers = tuple(layer * blocks // config.depth for layer in head.layers)
                cut[key] = replace(head, layers=layers)
        config = replace(config, **cut)
    with torch.device('meta'):
        model = VGGT(config)
    filled: VGGT = fill(model.to_empty(device=device)).eval()
    return filled


@torch.inference_mode()
def rows(arguments: argparse.Namespace, size: int, strides: Sequence[int]) -> list[str]:
    """One window size with every stride, measured."""
    dtype = getattr(torch, arguments.dtype)
    images = torch.rand(size, 3, arguments.height, arguments.width, device=arguments.device)
    shape, kind = (arguments.height, arguments.width), torch.device(arguments.device).type
    plain, other = (make_network(arguments.model, arguments.device, arguments.blocks) for _ in range(2))
    stream = StreamingVGGT(other, arguments.device, dtype)
    kept = torch.cat([stream.encode(images[i : i + 1]) for i in range(size - 1)])

    def rerun() -> VGGTOutput:
        with torch.autocast(kind, dtype=dtype, enabled=dtype is not torch.float32):
            output: VGGTOutput = plain(images)
        return output

    def ahead(stride: int) -> None:
        for i in range(size - stride, size - 1):
            stream.encode(images[i : i + 1])

    def newest(stride: int) -> VGGTOutput:
        return stream.predict(
            torch.cat((kept, stream.encode(images[-1:]))), shape, frames=list(range(size - stride, size))
        )

    def one_round() -> dict[tuple[str, int], float]:
        taken = {('plain', 0): seconds(rerun, kind, expected)}
        for stride in strides:
            taken['ahead', stride] = seconds(partial(ahead, stride), kind)
            taken['newest', stride] = seconds(partial(newest, stride), kind, found[stride])
        return taken

    expected: list[VGGTOutput] = []
    found: dict[int, list[VGGTOutput]] = {stride: [] for stride in strides}
    if arguments.repeats > 1:
        one_round()  # warm-up; not where one round is all there is: of a minute it is no share
    rounds = [one_round() for _ in range(arguments.repeats)]
    middle = {key: statistics.median(taken[key] for taken in rounds) for key in rounds[0]}
    counted = Operations(plain.config, shape)
    counts = {stride: sum(counted.of(size, stride or size).values()) for stride in (0, *strides)}
    made = []
    for stride in strides:
        total = middle['ahead', stride] + middle['newest', stride]
        ratio, allowed = middle['plain', 0] / total, counts[0] / counts[stride]
        pose, depth = differences(expected[-1], found[stride][-1], stride)
        made.append(
            f'| {size} | {stride} | {stride / total:.3f} | {middle["newest", stride]:.3f} | {middle["plain", 0]:.3f} | '
            f'{ratio:.2f} | {allowed:.2f} | {100 * ratio / allowed:.0f} % | {pose:.1e} | {depth:.1e} |'
        )
    return made


def differences(plain: VGGTOutput, stream: VGGTOutput, stride: int) -> tuple[float, float]:
    """Largest difference of the pose encoding, and of the new frames' depth as a share of it."""
    assert plain.pose_encoding is not None
    assert stream.pose_encoding is not None
    assert plain.depth is not None
    assert stream.depth is not None
    last = plain.depth[:, -stride:]
    pose = (plain.pose_encoding - stream.pose_encoding).abs().max().item()
    return pose, ((last - stream.depth) / last).abs().max().item()


def seconds(call: Callable[[], Any], kind: str, results: list[Any] | None = None) -> float:
    """Of processor time; on a GPU of wall time, synchronised. What comes out takes the place of `results`."""
    clock = time.perf_counter if kind == 'cuda' else time.process_time
    begin = clock()
    result = call()
    if kind == 'cuda':
        torch.cuda.synchronize()
    taken = clock() - begin
    if results is not None:
        results[:] = [result]
    return taken


def soak(arguments: argparse.Namespace) -> None:
    """A long stream: time per frame and resident memory, and whether they grow."""
    size, stride = 8, 4
    model, dtype = make_network(arguments.model, arguments.device), getattr(torch, arguments.dtype)
    stream = StreamingVGGT(model, arguments.device, dtype)
    shape, kind = (arguments.height, arguments.width), torch.device(arguments.device).type
    tokens: list[Tensor] = []
    taken, memory = [], []
    for i in range(arguments.frames):
        image = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(i))

        def step(image: Tensor = image) -> None:
            tokens.append(stream.encode(image)[0])
            if len(tokens) == size:
                stream.predict(torch.stack(tokens), shape, frames=range(size - stride, size))
                del tokens[:stride]

        taken.append(seconds(step, kind))
        memory.append(resident_mb() if i % 100 == 99 else np.nan)
    per_thousand = np.array(taken)[: len(taken) // 100 * 100].reshape(-1, 100).mean(axis=1) * 1e3
    resident = np.array(memory)[99::100]
    print('| | first tenth | last tenth | slope per 1000 frames | its error |\n|---|---|---|---|---|')
    for name, values in (('time a frame [ms]', per_thousand), ('resident memory [MB]', resident)):
        tenth = max(1, len(values) // 10)
        slope, error = fit(values)
        print(f'| {name} | {values[:tenth].mean():.2f} | {values[-tenth:].mean():.2f} | {slope:.4f} | {error:.4f} |')
    print(f'\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6:.0f} MB')


def fit(values: np.ndarray) -> tuple[float, float]:
    """Slope per 1000 frames of values taken every 100, the first tenth (warm-up) left out, and its standard error."""
    kept = values[len(values) // 10 :]
    x = np.arange(len(kept)) / 10
    if len(kept) < 3:
        return float('nan'), float('nan')
    (slope, _), covariance = np.polyfit(x, kept, 1, cov='unscaled')
    residual = kept - np.polyval(np.polyfit(x, kept, 1), x)
    return float(slope), float(np.sqrt(covariance[0, 0] * (residual**2).sum() / (len(kept) - 2)))


def resident_mb() -> float:
    """Of this process. Source: Linux, proc_pid_statm(5)."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize() / 1e6


if __name__ == '__main__':
    main()
