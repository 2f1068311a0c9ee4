"""Time, operations and peak memory of the network by part: plain form, inference form and, if given, the reference.

    python -m benchmarks.network                                # 1B architecture, random weights, CPU, float32
    python -m benchmarks.network --dtype bfloat16 --stride 1
    python -m benchmarks.network --reference ~/src/vggt         # also an upstream checkout, on the same weights

Method: every form runs in a process of its own. One warm-up run counts the operations (2 per multiply-add; matrix
products, convolutions and attention), then the timed runs follow; the device is synchronised around each part. Peak
memory is above what was in use before the run, so weights are not in it. The plain form and the reference run all
heads on all frames of the window; the inference form encodes the new frames and decodes depth for them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.forms import PARTS, Workload, build, groups
from benchmarks.machine import commit, name_of
from benchmarks.meter import Meter, make_counter

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ('part', 'time [s]', 'spread [s]', 'processor time [s]', 'TFLOP', 'GFLOP/s', 'peak [MB]')


def main() -> None:
    """Measure every form and print one table each, and how they compare."""
    arguments = parse()
    workload = Workload(
        arguments.height,
        arguments.width,
        arguments.frames,
        arguments.stride,
        arguments.dtype,
        arguments.device,
        arguments.model,
    )
    if arguments.form:
        measure(arguments, workload)
        return
    print(headline(workload, arguments.threads, arguments.repeats))
    forms = ['plain', 'streaming'] + (['reference'] if arguments.reference else [])
    results = {form: run_alone(form) for form in forms}
    for form in forms:
        print(f'\n### {form}\n\n{table(results[form])}')
    print(f'\n{comparison(results, workload)}')


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--height', type=int, default=392)
    parser.add_argument('--width', type=int, default=518)
    parser.add_argument('--frames', type=int, default=8, help='frames of a window')
    parser.add_argument('--stride', type=int, default=4, help='new frames per window')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--model', default='1b', help="'1b' with random weights, or what load_vggt takes")
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--reference', type=Path, help='folder of an upstream checkout')
    parser.add_argument('--form', help=argparse.SUPPRESS)
    parser.add_argument('--outputs', type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not 1 <= arguments.stride <= arguments.frames:
        parser.error(f'--stride must be 1..{arguments.frames}, got {arguments.stride}')
    return arguments


def run_alone(form: str) -> dict[str, Any]:
    """Measure one form in a fresh process with this one's arguments."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder) / 'outputs.pt'
        command = [sys.executable, '-m', 'benchmarks.network', *sys.argv[1:], '--form', form, '--outputs', str(outputs)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        result['outputs'] = torch.load(outputs, weights_only=True)
    return result


def measure(arguments: argparse.Namespace, workload: Workload) -> None:
    """In the fresh process: run, and print one line of JSON."""
    torch.set_num_threads(arguments.threads)
    model, step = build(arguments.form, workload, arguments.reference)
    model.requires_grad_(False)  # the counter of operations asks parameters for their gradients otherwise
    meter = Meter(torch.device(workload.device))
    meter.watch(groups(model))
    with torch.inference_mode():
        with make_counter() as counter:
            meter.start(counter)
            outputs = step()
            flops = {name: part.flops for name, part in meter.stop().items()}
        torch.save({name: value.cpu() for name, value in outputs.items()}, arguments.outputs)
        del outputs
        runs = []
        for _ in range(arguments.repeats):
            meter.start()
            step()
            runs.append({name: asdict(part) for name, part in meter.stop().items()})
    print(json.dumps({'flops': flops, 'runs': runs}))


def headline(workload: Workload, threads: int, repeats: int) -> str:
    """What a reader needs to repeat the run."""
    where = name_of(workload.device)
    return (
        f'{workload.model}, S={workload.frames} stride {workload.stride}, H={workload.height} W={workload.width}, '
        f'{workload.dtype}, {where}, {threads} threads, torch {torch.__version__}, commit {commit()}, '
        f'median of {repeats}'
    )


def table(result: dict[str, Any]) -> str:
    """Parts of one form: median and spread of the time, operations, rate, peak memory."""
    rows = [f'| {" | ".join(COLUMNS)} |', '|---' * len(COLUMNS) + '|']
    for name in (*PARTS, 'total'):
        if name not in result['runs'][0]:
            continue
        times = [run[name]['seconds'] for run in result['runs']]
        peak = max(run[name]['peak_bytes'] for run in result['runs']) / 1e6
        flops, middle = result['flops'][name], statistics.median(times)
        cells = (
            name,
            f'{middle:.3f}',
            f'{max(times) - min(times):.3f}',
            f'{statistics.median(run[name]["cpu_seconds"] for run in result["runs"]):.3f}',
            f'{flops / 1e12:.4f}',
            f'{flops / middle / 1e9:.0f}',
            f'{peak:.0f}',
        )
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows)


def comparison(results: dict[str, dict[str, Any]], workload: Workload) -> str:
    """New frames per second of each form, and how that compares with what the operations allow."""
    baseline = 'reference' if 'reference' in results else 'plain'
    header = (
        'form',
        'new frames/s',
        f'speed-up over {baseline}',
        'by processor time',
        'allowed by operations',
        'peak [MB]',
        'pose differs',
        'depth differs',
    )
    rows = [f'| {" | ".join(header)} |', '|---' * len(header) + '|']
    base = results[baseline]
    for form, result in results.items():
        seconds = median(result, 'seconds')
        cells = (
            form,
            f'{workload.stride / seconds:.4f}',
            f'{median(base, "seconds") / seconds:.2f}',
            f'{median(base, "cpu_seconds") / median(result, "cpu_seconds"):.2f}',
            f'{base["flops"]["total"] / result["flops"]["total"]:.2f}',
            f'{max(run["total"]["peak_bytes"] for run in result["runs"]) / 1e6:.0f}',
            *(f'{distance(result["outputs"], base["outputs"], key):.1e}' for key in ('pose_encoding', 'depth')),
        )
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows)


def median(result: dict[str, Any], key: str) -> float:
    """Of the whole step over the timed runs."""
    return statistics.median(run['total'][key] for run in result['runs'])


def distance(ours: dict[str, torch.Tensor], base: dict[str, torch.Tensor], key: str) -> float:
    """Largest difference; of depth, over the frames that both decoded, as a share of the depth."""
    a, b = ours[key].float(), base[key].float()
    if key == 'pose_encoding':
        return (a - b).abs().max().item()
    shared = min(a.shape[1], b.shape[1])
    a, b = a[:, -shared:], b[:, -shared:]
    return ((a - b).abs() / b.abs()).max().item()


if __name__ == '__main__':
    main()
