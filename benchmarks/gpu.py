"""What to measure first when a GPU is at hand, in one command; each part prints its table.

    python -m benchmarks.gpu                       # everything, on cuda
    python -m benchmarks.gpu ceilings parity       # some parts
    python -m benchmarks.gpu --device cpu --model nano --quick streaming      # a rehearsal

ceilings: copy bandwidth and a large matrix product, which every other figure can be held against.
parity: the golden cases on this device, in float32 (without TF32) and under bfloat16 autocast.
latency: the plain and the inference form by part, windows of 1 to 32 frames at 392x518 and 294x518.
streaming: windows of 8 stride 1, 8 stride 4 and 16 stride 4.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((392, 518), (294, 518))
REPEATS = 20


def main() -> None:
    """Run the parts asked for, in the order of what they are worth."""
    parts = {'ceilings': ceilings, 'parity': parity, 'latency': latency, 'streaming': streaming}
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('parts', nargs='*', default=list(parts), help=f'of {", ".join(parts)}')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--model', default='1b')
    parser.add_argument('--quick', action='store_true', help='small sizes and few repeats, to try the command itself')
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(parts)
    if unknown:
        parser.error(f'no part is called {sorted(unknown)}; there are {list(parts)}')
    for name in parts:
        if name in arguments.parts:
            print(f'\n## {name}\n', flush=True)
            parts[name](arguments)


def ceilings(arguments: argparse.Namespace) -> None:
    """What the device can do at best."""
    side = 512 if arguments.quick else 8192
    a, b = (torch.randn(side, side, device=arguments.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = median_seconds(lambda: a @ b, arguments)
    print(f'matrix product {side}^3 in bfloat16: {2 * side**3 / seconds / 1e12:.1f} TFLOP/s')
    source = torch.empty(side * side * 16, dtype=torch.uint8, device=arguments.device)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), arguments)
    print(f'copy of {source.numel() / 1e9:.2f} GB: {2 * source.numel() / seconds / 1e9:.0f} GB/s, read and written')


def parity(arguments: argparse.Namespace) -> None:
    """Largest difference from the goldens, as a share of the largest value of each output."""
    sys.path.insert(0, str(ROOT / 'test' / 'vggt'))
    from golden import load_weights, model_cases, read_config

    from vggt import VGGT

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print('| case | format | pose | depth | world points |\n|---|---|---|---|---|')
    for case in model_cases():
        if not case.outputs.is_file() or (case.is_large and arguments.quick):
            continue
        description = json.loads(case.description.read_text())
        model = VGGT(read_config(description)).eval()
        load_weights(model, description, case.description.parent)
        model.to(arguments.device)
        with np.load(case.outputs) as stored:
            expected = {key: stored[key] for key in ('pose_enc_list', 'depth', 'world_points')}
            images = torch.from_numpy(stored['images_u8'].astype(np.float32) / 255).to(arguments.device)
        for dtype in (torch.float32, torch.bfloat16):
            kind = torch.device(arguments.device).type
            with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=dtype is torch.bfloat16):
                output = model(images)
            found = (output.pose_encodings, output.depth[..., None], output.world_points)
            shares = [
                np.abs(ours.float().cpu().numpy() - theirs).max() / np.abs(theirs).max()
                for ours, theirs in zip(found, expected.values(), strict=True)
            ]
            print(f'| {case} | {str(dtype)[6:]} | {" | ".join(f"{share:.1e}" for share in shares)} |', flush=True)


def latency(arguments: argparse.Namespace) -> None:
    """One table by part for each size and window; the inference form encodes and decodes every frame here."""
    for height, width in sizes(arguments):
        for frames in (1, 2) if arguments.quick else (1, 2, 4, 8, 16, 32):
            network(arguments, height, width, frames, stride=frames)


def streaming(arguments: argparse.Namespace) -> None:
    """New frames per second of sliding windows."""
    height, width = sizes(arguments)[0]
    for frames, stride in ((8, 1), (8, 4), (16, 4)):
        network(arguments, height, width, frames, stride)


def sizes(arguments: argparse.Namespace) -> tuple[tuple[int, int], ...]:
    """Image sizes; a multiple of 56 suits patches of 8 and of 14."""
    return ((56, 112),) if arguments.quick else SIZES


def network(arguments: argparse.Namespace, height: int, width: int, frames: int, stride: int) -> None:
    """Run benchmarks.network; a form that does not fit into memory must not end the others."""
    options = {
        'height': height,
        'width': width,
        'frames': frames,
        'stride': stride,
        'dtype': 'bfloat16',
        'device': arguments.device,
        'model': arguments.model,
        'repeats': 2 if arguments.quick else REPEATS,
    }
    flags = [word for name, value in options.items() for word in (f'--{name}', str(value))]
    done = subprocess.run([sys.executable, '-m', 'benchmarks.network', *flags], cwd=ROOT)
    if done.returncode:
        print(f'\nS={frames} stride {stride} at {height}x{width} did not run (exit {done.returncode})')
    print(flush=True)


def median_seconds(call: object, arguments: argparse.Namespace) -> float:
    """Of several runs after a warm-up, the device synchronised inside the timed region."""
    assert callable(call)
    seconds = []
    for _ in range(3 if arguments.quick else REPEATS):
        begin = time.perf_counter()
        call()
        if arguments.device.startswith('cuda'):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[1:]))


if __name__ == '__main__':
    main()
