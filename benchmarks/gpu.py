"""What to measure first when a GPU is at hand, in one command; each part prints its table.

    python -m benchmarks.gpu --log gpu.log --json gpu.json      # all but training, on cuda, in five minutes
    python -m benchmarks.gpu ceilings parity                    # some parts
    python -m benchmarks.gpu --device cpu --blocks 2 --quick    # a rehearsal, with two blocks of each kind

ceilings: a large matrix product and copy bandwidth, which every other figure can be held against.
parity: the golden cases on this device, in float32 (without TF32) and in 16 bits, the plain and the inference form.
reference: upstream's own code (--reference, a checkout) on windows of 8 and 16 frames, held against our plain form.
streaming: windows of 8 stride 1, 8 stride 4 and 16 stride 4, against the plain form rerun on every window.
latency: the plain and the inference form by part, windows of 1 to 32 frames at 392x518 and 294x518.
graphs: windows of 8 stride 4 in bfloat16 and float16 as they are, as a CUDA graph, with compiled blocks, and with both;
  the aggregator alone in a graph, and a depth head with channels last.
pipeline: a recorded clip through decoding, network, alignment and messages: milliseconds a frame of each stage.
clouds: depth, confidence and colours to packed points, on the device with one copy out, against the host.
batching: windows of 1, 2, 4 and 8 robots one by one and in one pass.
soak: 10,000 frames through the streaming form, or what its time allows: time and memory at both ends.
path: a picture to the network's input and tokens, and what runs beside what (benchmarks.device_path).
device: the tests of clouds and of pictures on the device.
training: only when named: the small model for --minutes, from the shipped weights.

The order is that of what a minute is worth. All parts share one process and one set of weights; every part has a time
limit, and one that fails or is cut off does not end the others. On an H200 they took 3, 17, 14, 37, 75, 57, 19, 0, 21,
29, 21 and 24 s; --seconds leaves the others theirs. Nothing is downloaded; `pipeline` and `device` need rosbags, mcap
and trimesh, or say that they are missing.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import platform
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

import numpy as np
import torch

from benchmarks.gpu_windows import (
    GRAPH_COLUMNS,
    LATENCY_COLUMNS,
    REFERENCE_COLUMNS,
    STREAMING_COLUMNS,
    Networks,
    graph_rows,
    latency_rows,
    reference_rows,
    streaming_rows,
)
from benchmarks.machine import commit, name_of
from benchmarks.reference import ReferenceRun, read_runs
from benchmarks.streaming import fit, resident_mb
from benchmarks.timing import FEWEST, exact_products, synchronise, timed
from vggt import StreamingVGGT, load_vggt
from vggt_ros.clouds import lift, pack_planes
from vggt_ros.core.device_frame import Bounds, DeviceFrame

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((392, 518), (294, 518))
REPEATS = 20
ROW_S = 1.0  # of a row of `latency`, its warm-up apart
SCENERY_MIX = ('home', 'furnished', 'home', 'walk', 'home', 'furnished', 'walk', 'scattered')  # of training, by lot
SLACK_S = 5.0  # after the time of a part is up, before it is cut off


@dataclass
class Bench:
    """What the parts share.

    Args:
        arguments: the command line.
        figures: of each part, the rows of its tables; written to --json after every row.
        ceiling: operations a second of the matrix product in bfloat16; None while it is not measured.
        upstream: by the frames of a window, what upstream's code took for it; empty while it is not measured.
        deadline: of the part that runs, by time.monotonic().
    """

    arguments: argparse.Namespace
    networks: Networks
    figures: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    ceiling: float | None = None
    upstream: dict[int, ReferenceRun] = field(default_factory=dict)
    deadline: float = float('inf')

    @property
    def device(self) -> torch.device:
        return self.networks.device

    @property
    def quick(self) -> bool:
        return bool(self.arguments.quick)

    @property
    def repeats(self) -> int:
        """Of everything that is timed, if its time allows."""
        return 2 if self.quick else REPEATS

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(H, W); a multiple of 56 suits patches of 8 and of 14."""
        return ((56, 112),) if self.quick else SIZES

    def left_s(self) -> float:
        """What the part has left."""
        return self.deadline - time.monotonic()

    def has_time(self, seconds: float) -> bool:
        """Whether the part has so many left; says so where not."""
        if self.left_s() >= seconds:
            return True
        print('\nthe rest is left out: no time', flush=True)
        return False

    def table(self, part: str, columns: Sequence[str], rows: Iterable[dict[str, object]]) -> None:
        """Print each row as it comes, and keep it."""
        print(f'| {" | ".join(columns)} |\n{"|---" * len(columns)}|', flush=True)
        for row in rows:
            print(f'| {" | ".join(str(row[column]) for column in columns)} |', flush=True)
            self.keep(part, row)

    def keep(self, part: str, row: dict[str, object]) -> None:
        """A row for --json."""
        self.figures.setdefault(part, []).append(row)
        if self.arguments.json:
            self.arguments.json.write_text(json.dumps(self.figures, indent=1, default=float))


Part = tuple[Callable[[Bench], None], float]


def main() -> None:
    """Run the parts asked for, in the order of what they are worth."""
    parts: dict[str, Part] = {  # and the most seconds that each may take
        'ceilings': (ceilings, 10),
        'parity': (parity, 30),
        'reference': (reference, 20),
        'streaming': (streaming, 45),
        'latency': (latency, 75),
        'graphs': (graphs, 75),
        'pipeline': (pipeline, 30),
        'clouds': (clouds, 8),
        'batching': (batching, 20),
        'soak': (soak, 30),
        'path': (device_path, 40),
        'device': (device_tests, 30),
        'training': (training, float('inf')),
    }
    arguments = parse(list(parts))
    torch.set_num_threads(min(arguments.threads, torch.get_num_threads()))
    for path in (arguments.log, arguments.json):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    with logged(arguments.log):
        bench = Bench(arguments, Networks(arguments.model, torch.device(arguments.device), arguments.blocks))
        print(headline(arguments))
        end = time.monotonic() + arguments.seconds
        chosen = [name for name in parts if name in arguments.parts]
        for i, name in enumerate(chosen):
            part, limit_s = parts[name]
            run_part(bench, name, part, arguments.patience * limit_s, end)
            if not answers(bench.device):
                print('\nthe device answers this process no more; another one goes on', flush=True)
                run_rest(bench, chosen[i + 1 :], end)
                break


def parse(parts: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('parts', nargs='*', default=parts[:-1], help=f'of {", ".join(parts)}; training only if named')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--model', default='1b', help="'1b' with random weights, or what load_vggt takes")
    parser.add_argument('--blocks', type=int, default=0, help="of '1b': so many of its 24 of each kind")
    parser.add_argument('--reference', type=Path, help='a checkout of facebookresearch/vggt, for that part')
    parser.add_argument('--seconds', type=float, default=320, help='after which no part is started, training apart')
    parser.add_argument('--patience', type=float, default=1, help='times the time limit of every part')
    parser.add_argument('--threads', type=int, default=4, help='of the processor, at most')
    parser.add_argument('--minutes', type=float, default=60, help='of training')
    parser.add_argument('--log', type=Path, help='file for all that is printed')
    parser.add_argument('--json', type=Path, help='file for the rows of all tables')
    parser.add_argument('--quick', action='store_true', help='small sizes and few repeats, to try the command itself')
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(parts)
    if unknown:
        parser.error(f'no part is called {sorted(unknown)}; there are {parts}')
    return arguments


def headline(arguments: argparse.Namespace) -> str:
    """What runs where."""
    where = name_of(arguments.device)
    name = arguments.model + (f' of {arguments.blocks} blocks of each kind' if arguments.blocks else '')
    return (
        f'{name}, {where}, {torch.get_num_threads()} threads, torch {torch.__version__}, '
        f'Python {platform.python_version()}, commit {commit()}'
    )


def run_part(bench: Bench, name: str, part: Callable[[Bench], None], limit_s: float, end: float) -> None:
    """One part, within its limit and what is left of all; whatever goes wrong is printed, and the next one starts."""
    left = end - time.monotonic() if np.isfinite(limit_s) else limit_s
    print(f'\n## {name}\n', flush=True)
    if left < 3:
        print('left out: no time', flush=True)
        return
    limit = min(limit_s, left)
    start = time.monotonic()
    bench.deadline = start + limit
    try:
        with cut_off(limit + SLACK_S):
            part(bench)
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit of a command as well
        print(f'\nthis did not end well:\n{traceback.format_exc()}', flush=True)
    seconds = time.monotonic() - start
    bench.keep('seconds', {'part': name, 'seconds': round(seconds, 1)})
    print(f'\n({name}: {seconds:.0f} s)', flush=True)
    if bench.device.type == 'cuda':
        with suppress(RuntimeError):  # the device may be lost: see answers
            torch.cuda.empty_cache()


def answers(device: torch.device) -> bool:
    """False after an error that a process does not outlive on a GPU, such as an illegal access."""
    try:
        synchronise(device)
    except RuntimeError as error:
        print(error)
        return False
    return True


def run_rest(bench: Bench, parts: Sequence[str], end: float) -> None:
    """The parts that are left in a process of their own, their rows in a file of their own."""
    given, left = bench.arguments, end - time.monotonic()
    if not parts or (left < 20 and list(parts) != ['training']):
        return
    options = {key: getattr(given, key) for key in ('device', 'model', 'blocks', 'patience', 'threads', 'minutes')}
    if given.reference:
        options['reference'] = given.reference.resolve()
    if given.json:
        options['json'] = given.json.with_name(f'{given.json.stem}_rest.json')
    run(bench, 'benchmarks.gpu', *parts, *(['--quick'] if given.quick else []), seconds=left, **options)


@contextmanager
def cut_off(seconds: float) -> Iterator[None]:
    """TimeoutError in what runs longer."""
    if not np.isfinite(seconds):
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f'cut off after {seconds:.0f} s')

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def logged(path: Path | None) -> Iterator[None]:
    """All that is printed goes to a file as well."""
    if path is None:
        yield
        return
    with path.open('w', buffering=1) as file:
        screen = sys.stdout
        sys.stdout = _Both(screen, file)
        try:
            yield
        finally:
            sys.stdout = screen


class _Both:
    """Writes to two files at once."""

    def __init__(self, *files: IO[str]) -> None:
        self.files = files

    def write(self, text: str) -> int:
        for file in self.files:
            file.write(text)
        return len(text)

    def flush(self) -> None:
        for file in self.files:
            file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files[0], name)


def ceilings(bench: Bench) -> None:
    """What the device can do at best."""
    side, times = (512, 1) if bench.quick else (8192, 10)
    rows = [(torch.bfloat16, 'in bfloat16')]
    if bench.device.type == 'cuda':
        rows += [(torch.float16, 'in float16'), (torch.float32, 'in float32 without TF32')]
    for dtype, name in rows:
        a, b = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))

        def products(a: torch.Tensor = a, b: torch.Tensor = b) -> None:
            for _ in range(times):
                torch.mm(a, b)

        with exact_products():
            taken = timed(products, bench.device, bench.repeats, limit_s=1.0)
        rate = times * 2 * side**3 / statistics.median(taken)
        bench.ceiling = bench.ceiling or rate
        print(f'matrix product {side}^3 {name}: {rate / 1e12:.1f} TFLOP/s', flush=True)
        bench.keep('ceilings', {'what': f'matrix product {name}', 'TFLOP/s': rate / 1e12})
    source = torch.empty(side * side * 16, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds = statistics.median(timed(lambda: target.copy_(source), bench.device, bench.repeats, limit_s=1.0))
    rate = 2 * source.numel() / seconds / 1e9
    print(f'copy of {source.numel() / 1e9:.2f} GB: {rate:.0f} GB/s, read and written')
    bench.keep('ceilings', {'what': 'copy', 'GB/s': rate})


def parity(bench: Bench) -> None:
    """Largest difference from the goldens, as a share of the largest value of each output."""
    sys.path.insert(0, str(ROOT / 'test' / 'vggt'))
    from golden import model_cases

    columns = ('case', 'form', 'format', 'pose', 'depth', 'world points')
    cases = [case for case in model_cases() if case.outputs.is_file() and not (case.is_large and bench.quick)]
    cases.sort(key=lambda case: case.is_large)
    with exact_products():
        bench.table('parity', columns, (row for case in cases for row in parity_rows(case, bench.device)))
    rows = bench.figures['parity']
    kinds = list(dict.fromkeys((row['form'], row['format']) for row in rows))
    print('\nThe largest of all cases:\n')
    worst = []
    for form, name in kinds:
        of_kind = [row for row in rows if (row['form'], row['format']) == (form, name)]
        shares = {key: f'{max(float(str(row[key])) for row in of_kind):.1e}' for key in columns[3:]}
        worst.append({'case': f'{len(of_kind)} cases', 'form': form, 'format': name, **shares})
    bench.table('parity, largest', columns, worst)


def parity_rows(case: Any, device: torch.device) -> Iterator[dict[str, object]]:
    """One golden case in every form and number format."""
    from golden import load_weights, read_config

    from vggt import VGGT

    description = json.loads(case.description.read_text())
    if case.is_large:
        with torch.device('meta'):
            model = VGGT(read_config(description))
        model = model.to_empty(device=device).eval()
        fill_by_recipe(model, description['seed'])
    else:
        model = VGGT(read_config(description)).eval()
        load_weights(model, description, case.description.parent)
        model.to(device)
    with np.load(case.outputs) as stored:
        expected = [stored[key] for key in ('pose_enc_list', 'depth', 'world_points')]
        images = torch.from_numpy(stored['images_u8'].astype(np.float32) / 255).to(device)
    shape = (images.shape[-2], images.shape[-1])
    heads = ('camera', 'depth', 'point')
    for form, dtype in (('plain', torch.float32), ('plain', torch.bfloat16), ('inference', torch.float16),
                        ('inference', torch.bfloat16)):  # fmt: skip
        if dtype is torch.float16 and device.type == 'cpu':
            continue  # no fast products there
        if form == 'plain':
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
                output = model(images)
        else:
            stream = StreamingVGGT(copy.deepcopy(model), device, dtype, heads)
            output = stream.predict_windows(torch.stack([stream.encode(scene) for scene in images]), shape)
        found = (output.pose_encodings, output.depth[..., None], output.world_points)
        shares = [
            float(np.abs(ours.float().cpu().numpy() - theirs).max() / np.abs(theirs).max())
            for ours, theirs in zip(found, expected, strict=True)
        ]
        names = zip(('pose', 'depth', 'world points'), shares, strict=True)
        yield {'case': str(case), 'form': form, 'format': str(dtype)[6:], **{key: f'{one:.1e}' for key, one in names}}


@torch.no_grad()
def fill_by_recipe(model: torch.nn.Module, seed: int) -> None:
    """The numbers of golden.fill_by_recipe, made where the weights are: there 1.2 billion take seconds, not minutes."""
    for name, parameter in model.state_dict().items():
        parameter.copy_(recipe_tensor(seed, name, tuple(parameter.shape), parameter.device))


def recipe_tensor(seed: int, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """golden.recipe_tensor, bit by bit: int64 products wrap as uint64 ones do, shifts lose the sign they fill with."""
    from golden import _recipe_range

    def signed(number: int) -> int:
        return number - 2**64 if number >= 2**63 else number

    def shifted(z: torch.Tensor, shift: int) -> torch.Tensor:
        return (z >> shift) & (2 ** (64 - shift) - 1)

    state = int.from_bytes(hashlib.sha256(f'{seed}:{name}'.encode()).digest()[:8], 'little')
    z = torch.arange(1, int(np.prod(shape)) + 1, dtype=torch.int64, device=device)
    z = z * signed(0x9E3779B97F4A7C15) + signed(state)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ shifted(z, shift)) * signed(factor)
    z = z ^ shifted(z, 31)
    values = shifted(z, 40).float() * 2.0**-23 - 1.0
    base, amplitude = _recipe_range(name, shape)
    values = values.view(-1, base.size) * float(np.float32(amplitude)) + torch.from_numpy(base).to(device)
    return values.view(shape)


def reference(bench: Bench) -> None:
    """Upstream's code on the same weights, in a process of its own; later tables hold our windows against it."""
    given = bench.arguments
    if given.reference is None or given.model != '1b':
        print('this needs --reference, a checkout of facebookresearch/vggt, and the 1b architecture')
        return
    windows, shape = (4, 8) if bench.quick else (8, 16), bench.sizes[0]
    print('float32 weights, no_grad, autocast bfloat16; camera, depth and point heads on every frame\n')
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        try:
            run(bench, 'benchmarks.reference', str(given.reference.resolve()), path, '--frames', *map(str, windows),
                height=shape[0], width=shape[1], device=bench.device, blocks=given.blocks, repeats=bench.repeats,
                seconds=1.5, threads=given.threads)  # fmt: skip
        finally:  # also where time was up before the last
            runs = read_runs(folder)
            bench.upstream = {one.frames: one for one in runs if one.seconds}
            bench.table('reference', REFERENCE_COLUMNS, reference_rows(bench.networks, shape, runs, folder))


def streaming(bench: Bench) -> None:
    """New frames per second and latency of sliding windows."""
    windows = ((4, (1, 2)),) if bench.quick else ((8, (1, 4)), (16, (4,)))

    def rows() -> Iterator[dict[str, object]]:
        for size, strides in windows:
            if bench.has_time(6):
                yield from streaming_rows(
                    bench.networks,
                    bench.sizes[0],
                    size,
                    strides,
                    bench.repeats,
                    2.0,
                    bench.ceiling,
                    bench.upstream.get(size),
                )

    bench.table('streaming', STREAMING_COLUMNS, rows())


def latency(bench: Bench) -> None:
    """Both forms by part for each size and window; the inference form encodes and decodes every frame here."""
    windows = (1, 2) if bench.quick else (1, 2, 4, 8, 16, 32)

    def rows() -> Iterator[dict[str, object]]:
        for shape in bench.sizes:
            for frames in windows:
                if not bench.has_time(8 if frames == 32 else 4):
                    return
                yield from latency_rows(bench.networks, shape, frames, bench.repeats, ROW_S, bench.ceiling)

    bench.table('latency', LATENCY_COLUMNS, rows())
    print(f'\nA row has {REPEATS} runs, or what {ROW_S:g} s allow, but {FEWEST} at least.')


def graphs(bench: Bench) -> None:
    """What CUDA graphs, compiled blocks and each 16-bit format buy, and what they cost."""
    rows = graph_rows(
        bench.networks,
        bench.sizes[0],
        bench.repeats,
        2.0,
        bench.has_time,
        bench.ceiling,
        'eager' if bench.quick else 'inductor',
        bench.upstream.get(8),
    )
    bench.table('graphs', GRAPH_COLUMNS, rows)


CLOUD_COLUMNS = ('size', 'on the device [ms]', 'on the host [ms]', 'ratio', 'numbers that differ')


def clouds(bench: Bench) -> None:
    """A frame that the device holds as packed points on the host, and the same from its depth on the host."""
    bench.table('clouds', CLOUD_COLUMNS, (cloud_row(bench, *size) for size in (*bench.sizes, (480, 640))))


def cloud_row(bench: Bench, height: int, width: int) -> dict[str, object]:
    """Both ways at one size."""
    frame = random_frame(height, width, bench.device)
    K = np.array([[0.8 * width, 0.0, width / 2], [0.0, 0.8 * width, height / 2], [0.0, 0.0, 1.0]])
    pixels, depth, confidence = (one.cpu().numpy() for one in (frame.pixels, frame.depth, frame.confidence))
    data = np.empty((height, width, 4), np.float32)

    def on_host() -> None:
        is_valid = (confidence >= 2.0) & (depth > 0) & (depth >= 0.1) & (depth < 9.0)
        pack_planes(*lift(np.where(is_valid, depth * np.float32(1.7), np.float32('nan')), pixels, K), data)

    theirs, ours = (
        1e3 * statistics.median(timed(call, bench.device, bench.repeats, limit_s=1.0))
        for call in (on_host, lambda: frame.packed(K))
    )
    packed = frame.packed(K)
    differs = packed.view(np.uint32) != data.view(np.uint32)
    differs[..., :3] &= ~(np.isnan(packed[..., :3]) & np.isnan(data[..., :3]))  # each device has a NaN of its own
    differing = np.count_nonzero(differs)
    values = (f'{width}x{height}', f'{ours:.2f}', f'{theirs:.2f}', f'{theirs / ours:.2f}', differing)
    return dict(zip(CLOUD_COLUMNS, values, strict=True))


def random_frame(height: int, width: int, device: torch.device) -> DeviceFrame:
    """Depth from 0 to 10 and confidence from 1 to 5, so that a part of both is out of bounds."""
    random = torch.Generator().manual_seed(0)
    depth, confidence = (torch.rand(height, width, generator=random) for _ in range(2))
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=random)
    tensors = ((10 * depth).to(device), (1 + 4 * confidence).to(device), pixels.to(device))
    return DeviceFrame(*tensors, host=depth.numpy(), bounds=Bounds(2.0, 0.1, 9.0), scales=(1.7,))


def pipeline(bench: Bench) -> None:
    """The clip that ships, from image files to messages, and the milliseconds a frame of each stage.

    Last with a network that begins with a window when it is asked for it, not before.

    The large network has random weights: what it says is no scene. Windows that do not fit each other for that reason
    are asked for again, so its share is that of a hard scene.
    """
    from vggt_ros.core.config import Config
    from vggt_ros.core.predictor import VggtPredictor, make_predictor
    from vggt_ros.recorded.source import open_source
    from vggt_ros.run import run as run_recording

    clip = ROOT / 'vggt_ros' / 'data' / 'cabinet'
    width = bench.sizes[0][1]
    is_cpu = bench.device.type == 'cpu'
    small = StreamingVGGT(load_vggt('nano', device=bench.device), bench.device)
    large = bench.networks.stream(torch.float32 if is_cpu else torch.bfloat16)
    for name, network, input_width in (('nano', small, 0), (bench.arguments.model, large, width)):
        if not bench.has_time(5):
            return
        settings = {'window_size': 8, 'window_stride': 4, 'input_width': input_width}
        config = Config().with_values(settings)
        predictor = make_predictor(config, network)
        turns = {'with warm-up': predictor, 'warm': predictor, 'when asked': VggtPredictor(config, network)}
        passes = {id(one): counted(one) for one in turns.values()}
        for turn, predictor in turns.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                source = open_source(clip)
                report = run_recording(source, Path(folder, 'run'), config, predictor=predictor)
                seconds = time.perf_counter() - start
            predictor.reset()
            windows, count = len(report.windows), len(passes[id(predictor)])
            passes[id(predictor)].clear()
            summary = report.summary()
            stages, frames = summary['timings']['per_frame_ms'], len(report.poses)
            outside = summary['timings']['outside_network']
            if turn == 'warm':
                times = {'ms a frame': stages, 'outside': outside, 'seconds': seconds}
                bench.keep('pipeline', {'network': name, 'windows': windows, 'passes': count, **times})
                print(
                    f'{name}, {turn}: {frames} frames and {windows} windows in {seconds:.1f} s, {count} passes of the '
                    f'network, {100 * outside:.1f} % outside of it\n'
                )
                print('| ' + ' | '.join(stages) + f' |\n{"|---" * len(stages)}|')
                print('| ' + ' | '.join(f'{value:.2f}' for value in stages.values()) + ' |\n', flush=True)
            else:
                bench.keep('pipeline', {'network': name, 'turn': turn, 'seconds': seconds})
                print(f'{name}, {turn}: {seconds:.1f} s', flush=True)


def counted(predictor: Any) -> list[None]:
    """One entry for each window that the predictor is asked for; a refused one is asked for again in another way."""
    passes: list[None] = []
    predict = predictor.predict

    def noted(window: Any) -> Any:
        passes.append(None)
        return predict(window)

    predictor.predict = noted
    return passes


def device_tests(bench: Bench) -> None:
    """Those of clouds and pictures, on a GPU if there is one."""
    files = ('test/core/test_device_frame.py', 'test/core/test_device_path.py')
    run(bench, 'pytest', '-q', '-p', 'no:cacheprovider', *files)


def device_path(bench: Bench) -> None:
    """What the device takes over before the network, and what overlaps."""
    run(bench, 'benchmarks.device_path', *(['--quick'] if bench.quick else []), device=bench.device, frames=32)


def batching(bench: Bench) -> None:
    """What a fleet gains by one pass for several robots."""
    from benchmarks.batching import COLUMNS, measure

    height, width = bench.sizes[0]
    frames, stride = (4, 2) if bench.quick else (8, 4)
    repeats = 2 if bench.quick else 4
    sizes = {'height': height, 'width': width, 'frames': frames, 'stride': stride}
    arguments = argparse.Namespace(**sizes, repeats=repeats, device=str(bench.device))
    network = bench.networks.stream(torch.bfloat16)
    print(f'windows of {frames} stride {stride} at {width}x{height}, bfloat16, median of {repeats}\n')

    def rows() -> Iterator[dict[str, object]]:
        for robots in (1, 2, 4, 8):
            if bench.has_time(1.2 * robots):
                with torch.inference_mode():
                    cells = measure(network, robots, arguments).strip('| ').split(' | ')
                yield dict(zip(COLUMNS, cells, strict=True))

    bench.table('batching', COLUMNS, rows())


@torch.inference_mode()
def soak(bench: Bench) -> None:
    """A long stream of small pictures through nano; it ends where its time is up."""
    frames, size, stride, shape = (200 if bench.quick else 10_000), 8, 4, (48, 64)
    with torch.inference_mode(False):
        stream = StreamingVGGT(load_vggt('nano', device=bench.device), bench.device)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (64, 1, *shape, 3), dtype=torch.uint8, generator=generator)
    tokens: list[torch.Tensor] = []
    series: dict[str, list[float]] = {'time a frame [ms]': [], 'host memory [MB]': [], 'device memory [MB]': []}
    begin, done = time.perf_counter(), 0
    for i in range(frames):
        tokens.append(stream.encode(pictures[i % 64])[0])
        if len(tokens) == size:
            stream.predict(torch.stack(tokens), shape, frames=range(size - stride, size))
            del tokens[:stride]
        if i % 100 == 99:
            synchronise(bench.device)
            now, done = time.perf_counter(), i + 1
            series['time a frame [ms]'].append(10 * (now - begin))
            series['host memory [MB]'].append(resident_mb())
            on_device = torch.cuda.memory_allocated() if bench.device.type == 'cuda' else 0
            series['device memory [MB]'].append(on_device / 1e6)
            begin = now
            if bench.left_s() < 1:
                break
    print(f'nano, {shape[1]}x{shape[0]}, window 8, stride 4, float32: {done} frames\n')
    columns = ('', 'first tenth', 'last tenth', 'slope per 1000 frames', 'its error')

    def rows() -> Iterator[dict[str, object]]:
        for name, taken in series.items():
            values = np.array(taken)
            tenth = max(1, len(values) // 10)
            ends = (values[:tenth].mean(), values[-tenth:].mean())
            cells = (name, *(f'{one:.2f}' for one in ends), *(f'{one:.4f}' for one in fit(values)))
            yield dict(zip(columns, cells, strict=True))

    bench.table('soak', columns, rows())
    print(f'\npeak of the host {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6:.0f} MB, all parts')


def training(bench: Bench) -> None:
    """Train from the shipped weights; renderers have the device for themselves first, and processors meanwhile."""
    minutes = 0.2 if bench.quick else bench.arguments.minutes
    folder = ROOT / 'runs' / ('gpu_quick' if bench.quick else 'gpu')  # git-ignored, and kept: the weights are in it
    pool, begin = folder / 'pool', 190_000  # the windows before were seen in training
    middle, end = begin + 20_000, begin + (20_064 if bench.quick else 100_000)
    command = [sys.executable, '-m', 'training.pool', str(pool), '--scenery', *SCENERY_MIX]
    subprocess.run([*command, '--windows', str(end), '--begin', str(end)], cwd=ROOT, check=True)  # makes the folder
    workers = max(1, (os.cpu_count() or 1) - 4)

    def renderers(first: int, last: int, device: object) -> list[subprocess.Popen[bytes]]:
        one = [*command, '--windows', str(last), '--begin', str(first), '--device', str(device), '--worker']
        return [subprocess.Popen([*one, f'{i}/{workers}'], cwd=ROOT) for i in range(workers)]

    with ended(renderers(begin, middle, bench.device)) as ahead:
        wait_for_windows(pool, 8 if bench.quick else 6000, 60 if bench.quick else 90, ahead[0])
    with ended(renderers(middle, end, 'cpu')):  # a GPU trains twice as fast where it does not render
        run(bench, 'training.train', '--resume', '--compile', pool=pool, run=folder / 'nano', minutes=minutes,
            run_down=0.85 * minutes, rate=1.2e-3, steps=30_000, start=ROOT / 'vggt' / 'weights' / 'nano.safetensors',
            processes=1, device=bench.device, frames_factor=1 if bench.quick else 24)  # fmt: skip
    run(bench, 'training.train', export=folder / 'new', run=folder / 'nano')
    print(f'a processor evaluates it: python -m training.evaluate --weights {folder / "new" / "nano.safetensors"}')


@contextmanager
def ended(processes: list[subprocess.Popen[bytes]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Terminate them at the end."""
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def wait_for_windows(pool: Path, least: int, seconds: float, renderer: subprocess.Popen[bytes]) -> None:
    """Until so many are rendered, the renderer has ended or time is up; training tells what is missing."""
    from training.pool import Pool

    deadline = time.monotonic() + seconds
    while renderer.poll() is None and time.monotonic() < deadline:
        if (pool / 'ready.npy').exists() and len(Pool(pool).ready()) >= least:
            return
        time.sleep(1)


def run(bench: Bench, module: str, *words: str, **options: object) -> None:
    """Another command, in a process of its own, until the time of the part is up; what it prints is printed."""
    flags = [word for name, value in options.items() for word in (f'--{name.replace("_", "-")}', str(value))]
    command = [sys.executable, '-m', module, *words, *flags]
    print(f'$ {shlex.join(command[1:])}\n', flush=True)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line, end='', flush=True)
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    if code:
        print(f'\nthis did not run well (exit {code})')
    print(flush=True)


if __name__ == '__main__':
    main()
