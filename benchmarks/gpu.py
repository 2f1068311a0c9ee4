"""What to measure first when a GPU is at hand, in one command; each part prints its table.

    python -m benchmarks.gpu                       # everything, on cuda
    python -m benchmarks.gpu ceilings parity       # some parts
    python -m benchmarks.gpu --device cpu --model nano --quick streaming      # a rehearsal

ceilings: copy bandwidth and a large matrix product, which every other figure can be held against.
parity: the golden cases on this device, in float32 (without TF32) and under bfloat16 autocast.
latency: the plain and the inference form by part, windows of 1 to 32 frames at 392x518 and 294x518.
streaming: windows of 8 stride 1, 8 stride 4 and 16 stride 4, against the plain form rerun on every window.
clouds: depth, confidence and colours to packed points, on the device with one copy out, against the host.
compile: windows of 8 stride 4 as they are and compiled with CUDA graphs, each number format, and what each errs by.
pipeline: a recorded clip through decoding, network, alignment and messages, with the seconds of each stage.
training: the small model for --minutes, from the shipped weights, and its errors before and after.
batching: windows of 1, 2, 4 and 8 robots one by one and in one pass, then four robots on one process with either.
soak: 10,000 frames through the streaming form, time and memory at both ends.

The order is that of what a minute is worth; training comes last, as it takes all the time that is left.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.streaming import differences, make_network
from vggt import StreamingVGGT, VGGTOutput
from vggt_ros.clouds import lift, pack_planes
from vggt_ros.core.device_frame import Bounds, DeviceFrame

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((392, 518), (294, 518))
REPEATS = 20


def main() -> None:
    """Run the parts asked for, in the order of what they are worth."""
    parts = {
        'ceilings': ceilings,
        'parity': parity,
        'latency': latency,
        'streaming': streaming,
        'clouds': clouds,
        'compile': compiled,
        'pipeline': pipeline,
        'batching': batching,
        'soak': soak,
        'training': training,
    }
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('parts', nargs='*', default=list(parts), help=f'of {", ".join(parts)}')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--model', default='1b')
    parser.add_argument('--minutes', type=float, default=60, help='of training')
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
    """New frames per second and latency of sliding windows."""
    height, width = sizes(arguments)[0]
    run('benchmarks.streaming', model=arguments.model, height=height, width=width, device=arguments.device,
        dtype='bfloat16', repeats=repeats(arguments))  # fmt: skip


def clouds(arguments: argparse.Namespace) -> None:
    """A frame that the device holds as packed points on the host, and the same from its depth on the host."""
    print('| size | on the device [ms] | on the host [ms] | ratio | bytes differ |\n|---|---|---|---|---|')
    for height, width in (*sizes(arguments), (480, 640)):
        frame = random_frame(height, width, torch.device(arguments.device))
        K = np.array([[0.8 * width, 0.0, width / 2], [0.0, 0.8 * width, height / 2], [0.0, 0.0, 1.0]])
        pixels, depth, confidence = (
            one.cpu().numpy() for one in (frame.pixels, frame.depth, frame.confidence)
        )
        data = np.empty((height, width, 4), np.float32)

        def on_host(
            depth: np.ndarray = depth, confidence: np.ndarray = confidence, pixels: np.ndarray = pixels,
            K: np.ndarray = K, data: np.ndarray = data,
        ) -> None:  # fmt: skip
            is_valid = (confidence >= 2.0) & (depth > 0) & (depth >= 0.1) & (depth < 9.0)
            pack_planes(*lift(np.where(is_valid, depth * np.float32(1.7), np.float32('nan')), pixels, K), data)

        def on_device(frame: DeviceFrame = frame, K: np.ndarray = K) -> np.ndarray:
            return frame.packed(K)

        theirs, ours = median_seconds(on_host, arguments) * 1e3, median_seconds(on_device, arguments) * 1e3
        differing = np.count_nonzero(on_device().view(np.uint32) != data.view(np.uint32))
        print(f'| {width}x{height} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} | {differing} |', flush=True)


def random_frame(height: int, width: int, device: torch.device) -> DeviceFrame:
    """Depth from 0 to 10 and confidence from 1 to 5, so that a part of both is out of bounds."""
    random = torch.Generator().manual_seed(0)
    depth, confidence = (torch.rand(height, width, generator=random) for _ in range(2))
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=random)
    tensors = ((10 * depth).to(device), (1 + 4 * confidence).to(device), pixels.to(device))
    return DeviceFrame(*tensors, host=depth.numpy(), bounds=Bounds(2.0, 0.1, 9.0), scales=(1.7,))


@torch.inference_mode()
def compiled(arguments: argparse.Namespace) -> None:
    """What compiling and each number format buy a window of 8 with stride 4, and what they cost in accuracy."""
    shape, size, stride = sizes(arguments)[0], 8, 4
    images = torch.rand(size, 3, *shape, generator=torch.Generator().manual_seed(0))
    new = range(size - stride, size)
    exact: VGGTOutput | None = None
    print('| format | compiled | first call [s] | window [ms] | pose differs | depth differs |\n' + '|---' * 6 + '|')
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        if dtype is torch.float16 and arguments.device == 'cpu':
            continue  # no fast products there
        for is_compiled in (False, True):
            model = make_network(arguments.model, arguments.device)
            stream = StreamingVGGT(model, arguments.device, dtype)
            begin = time.perf_counter()
            if is_compiled:  # inductor takes minutes on a processor: too long for trying the command
                stream.compile('eager' if arguments.quick else 'inductor')
            kept = stream.encode(images[:stride])

            def window(stream: StreamingVGGT = stream, kept: torch.Tensor = kept) -> VGGTOutput:
                tokens = torch.cat((kept, stream.encode(images[stride:])))
                return stream.predict(tokens, shape, frames=new)

            output = window()
            first_s = time.perf_counter() - begin
            exact = exact or output
            seconds = median_seconds(window, arguments)
            pose, depth = differences(exact, output, stride)
            print(
                f'| {str(dtype)[6:]} | {"yes" if is_compiled else "no"} | {first_s:.1f} | {seconds * 1e3:.1f} | '
                f'{pose:.1e} | {depth:.1e} |',
                flush=True,
            )


def pipeline(arguments: argparse.Namespace) -> None:
    """The clip that ships, from image files to messages, and the milliseconds a frame of each stage."""
    clip = ROOT / 'vggt_ros' / 'data' / 'cabinet'
    with tempfile.TemporaryDirectory() as folder:
        run('vggt_ros.cli', 'run', str(clip), out=folder + '/run', device=arguments.device)
        summary = Path(folder, 'run', 'summary.json')
        if summary.is_file():  # else the run said what went wrong
            print(json.dumps(json.loads(summary.read_text())['timings'], indent=1))


def batching(arguments: argparse.Namespace) -> None:
    """What a fleet gains by one pass for several robots: the network alone, then the whole process with nano."""
    height, width = sizes(arguments)[0]
    for frames, stride in ((4, 2),) if arguments.quick else ((4, 2), (8, 4)):
        run('benchmarks.batching', model=arguments.model, device=arguments.device, height=height, width=width,
            frames=frames, stride=stride, dtype='bfloat16', repeats=repeats(arguments))  # fmt: skip
    run('benchmarks.fleet', 'batching', device=arguments.device, seconds=3 if arguments.quick else 20, rate=10)


def soak(arguments: argparse.Namespace) -> None:
    """A long stream of small pictures."""
    frames = 200 if arguments.quick else 10_000
    run('benchmarks.streaming', frames=frames, model='nano', height=48, width=64, device=arguments.device)


def training(arguments: argparse.Namespace) -> None:
    """Errors of the shipped weights, then training from them beside its renderer, then the errors of what came out."""
    scenes = 2 if arguments.quick else 200
    minutes = 0.2 if arguments.quick else arguments.minutes
    folder = ROOT / 'runs' / ('gpu_quick' if arguments.quick else 'gpu')  # git-ignored, and kept: the weights are in it
    run('training.evaluate', seed=1_000_000, scenes=scenes)
    windows = 64 if arguments.quick else 12_000
    command = [sys.executable, '-m', 'training.pool', str(folder / 'pool'), '--windows', str(windows)]
    renderer = subprocess.Popen([*command, '--device', arguments.device], cwd=ROOT)
    try:
        wait_for_windows(folder / 'pool', 8 if arguments.quick else 256, renderer)
        run('training.train', '--resume', pool=folder / 'pool', run=folder / 'nano', minutes=minutes,
            start=ROOT / 'vggt' / 'weights' / 'nano.safetensors', processes=1, device=arguments.device,
            frames_factor=1 if arguments.quick else 32)  # fmt: skip
    finally:
        renderer.terminate()
        renderer.wait()
    run('training.evaluate', seed=1_000_000, scenes=scenes, run=folder / 'nano')


def wait_for_windows(pool: Path, least: int, renderer: subprocess.Popen[bytes]) -> None:
    """Until so many are rendered, the renderer has ended or ten minutes have passed; training tells what is missing."""
    from training.pool import Pool

    deadline = time.monotonic() + 600
    while renderer.poll() is None and time.monotonic() < deadline:
        if (pool / 'ready.npy').exists() and len(Pool(pool).ready()) >= least:
            return
        time.sleep(1)


def sizes(arguments: argparse.Namespace) -> tuple[tuple[int, int], ...]:
    """Image sizes; a multiple of 56 suits patches of 8 and of 14."""
    return ((56, 112),) if arguments.quick else SIZES


def network(arguments: argparse.Namespace, height: int, width: int, frames: int, stride: int) -> None:
    """Both forms by part, at one size."""
    run('benchmarks.network', height=height, width=width, frames=frames, stride=stride, dtype='bfloat16',
        device=arguments.device, model=arguments.model, repeats=repeats(arguments))  # fmt: skip


def repeats(arguments: argparse.Namespace) -> int:
    """Of every timed window."""
    return 2 if arguments.quick else REPEATS


def run(module: str, *words: str, **options: object) -> None:
    """Another command of ours, in a process of its own: one that fails or does not fit must not end the others."""
    flags = [word for name, value in options.items() for word in (f'--{name.replace("_", "-")}', str(value))]
    command = [sys.executable, '-m', module, *words, *flags]
    print(f'$ {shlex.join(command[1:])}\n', flush=True)
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        print(f'\nthis did not run (exit {done.returncode})')
    print(flush=True)


def median_seconds(call: Callable[[], object], arguments: argparse.Namespace) -> float:
    """Of several runs after a warm-up, the device synchronised inside the timed region."""
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
