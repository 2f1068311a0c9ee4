"""Windows of several robots one by one against all in one forward pass: python -m benchmarks.batching

Each robot has a window of its own, of which the newest frame is encoded and the new frames are decoded, as the node
does. Ratios are of medians over alternating repeats; above 1 one pass is faster. Beside them what a robot waits: one by
one it has its answer, in the mean, when half of the others have theirs, in one pass when all have.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.streaming import differences, make_network
from vggt import StreamingVGGT
from vggt_ros.core.planner import free_memory, window_bytes, windows_together
from vggt_ros.core.shared_network import MOST, window_of

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
COLUMNS = (
    'robots',
    'encoding, times as fast',
    'windows, times as fast (10 to 90 %)',
    'wait one by one [ms]',
    'wait in one pass [ms]',
    'pose, depth differ',
    'peak [GiB]',
    'estimated [GiB]',
)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    call()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def compare(one_by_one: Callable[[], object], in_one: Callable[[], object], args: argparse.Namespace) -> np.ndarray:
    """[repeats, 2] seconds, in turns."""
    device = torch.device(args.device)
    for call in (one_by_one, in_one):
        call()
    return np.array([[seconds_of(call, device) for call in (one_by_one, in_one)] for _ in range(args.repeats)])


def measure(network: StreamingVGGT, robots: int, args: argparse.Namespace) -> str:
    """A row of the table."""
    size, generator = (args.height, args.width), torch.Generator().manual_seed(robots)
    images = torch.randint(0, 256, (robots, args.frames, *size, 3), dtype=torch.uint8, generator=generator)
    new = list(range(args.frames - args.stride, args.frames))
    tokens = [network.encode(one) for one in images]
    newest = [one[-1:] for one in images]
    encode = compare(lambda: [network.encode(one) for one in newest], lambda: network.encode(torch.cat(newest)), args)
    predict = compare(
        lambda: [network.predict(one, size, new) for one in tokens],
        lambda: network.predict_windows(torch.stack(tokens), size, new),
        args,
    )
    peak = ''
    if network.device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        network.predict_windows(torch.stack(tokens), size, new)
        peak = f'{(torch.cuda.max_memory_allocated() - before) / 2**30:.2f}'
    told = window_bytes(network.config, robots * args.frames, size, network.dtype, network.chunk) / 2**30
    together = network.predict_windows(torch.stack(tokens), size, new)
    worst = np.max([differences(network.predict(one, size, new), window_of(together, i), args.stride)
                    for i, one in enumerate(tokens)], axis=0)  # fmt: skip
    alone_ms, batch_ms = 1e3 * np.median(predict, axis=0)
    ratios = [np.median(one[:, 0]) / np.median(one[:, 1]) for one in (encode, predict)]
    spread = np.percentile(predict[:, 0] / predict[:, 1], (10, 90))
    return (
        f'| {robots} | {ratios[0]:.2f} | {ratios[1]:.2f} ({spread[0]:.2f} to {spread[1]:.2f}) | '
        f'{alone_ms * (robots + 1) / 2 / robots:.1f} | {batch_ms:.1f} | {worst[0]:.0e}, {worst[1]:.0e} | '
        f'{peak or "-"} | {told:.2f} |'
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--model', default='nano')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', choices=list(DTYPES), default='float32')
    parser.add_argument('--height', type=int, default=96)
    parser.add_argument('--width', type=int, default=128)
    parser.add_argument('--frames', type=int, default=4)
    parser.add_argument('--stride', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=10)
    args = parser.parse_args()
    network = StreamingVGGT(make_network(args.model, args.device), args.device, DTYPES[args.dtype])
    free = free_memory(network.device)
    fits = windows_together(
        network.config, args.frames, (args.height, args.width), network.dtype, network.chunk, free, MOST
    )
    print(
        f'{args.model} on {args.device}, {args.dtype}, {torch.get_num_threads()} threads, windows of {args.frames} '
        f'stride {args.stride} at {args.width}x{args.height}; free memory would allow {fits} together\n'
    )
    print(f'| {" | ".join(COLUMNS)} |\n{"|---" * len(COLUMNS)}|')
    for robots in (1, 2, 4, 8):
        print(measure(network, robots, args), flush=True)


if __name__ == '__main__':
    main()
