"""From a camera's picture to the network's input and tokens on a GPU: what the device takes over, and what overlaps.

    python -m benchmarks.device_path                                  # 1B architecture, random weights, on cuda
    python -m benchmarks.device_path --device cpu --quick             # a rehearsal with nano

input: one picture by either way: resized by Pillow on the host and copied, or copied whole and resized on the device,
where its pixels also come back, as the map wants them. Time until the input is there, and until the call returns.
streams: windows of 8 with stride 4 over pictures that are all different. 'in turn' waits for a window's answers before
the next pictures are encoded, 'one stream' gives them to the device while the window is computed, 'beside' does so on a
second stream. A picture's latency is from the call to its tokens. Answers of all ways are compared with those of 'in
turn' run first, bit by bit; 'beside' runs three times: a race would show as a difference that moves.
robots: two that share the network, each asking for its next window as soon as it has the answers of the last; the copy
of the answers behind what the computing stream has been given meanwhile, and on a stream of its own behind the event.
waits: whether anything between the picture and the copy of the answers makes the host wait for the device.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import commit, name_of
from benchmarks.streaming import make_network
from benchmarks.timing import synchronise
from vggt import StreamingVGGT, VGGTOutput
from vggt.preprocessing import resize_keeping_aspect, scale_pixels
from vggt_ros.core.shared_network import Member, SharedNetwork
from vggt_ros.core.transfer import beside, download, to_device, to_host, upload

PICTURES = ((480, 640), (1080, 1920))
SIZE, STRIDE = 8, 4


def main() -> None:
    """Measure and print one table each."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--frames', type=int, default=64, help='of the stream')
    parser.add_argument('--quick', action='store_true', help='nano, a small grid and few frames: to try the command')
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    is_gpu = device.type == 'cuda'
    where = name_of(arguments.device)
    print(f'{where}, torch {torch.__version__}, commit {commit()}, {torch.get_num_threads()} threads')
    inputs(device, 5 if arguments.quick else 30)
    begin = time.perf_counter()
    name, dtype = ('nano', torch.float32) if arguments.quick else ('1b', torch.bfloat16)
    network = StreamingVGGT(make_network(name, arguments.device), device, dtype)
    print(f'\nnetwork ready after {time.perf_counter() - begin:.1f} s')
    frames = 16 if arguments.quick else arguments.frames
    streams(network, device, frames, width=128 if arguments.quick else 518)
    robots(network, device, windows=3 if arguments.quick else 5, width=128 if arguments.quick else 518)
    if is_gpu:
        waits(network, device, width=128 if arguments.quick else 518)
        print(f'peak memory of the device: {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB')


@torch.inference_mode()
def inputs(device: torch.device, repeats: int) -> None:
    """Either way for pictures of two sizes."""
    print(f'\n## input, medians of {repeats}\n')
    print('| picture | way | there after [ms] | call returns [ms] | bytes in | bytes back | largest difference |')
    print('|---' * 7 + '|')
    for height, width in PICTURES:
        image = picture(0, height, width)

        def on_host(image: np.ndarray = image) -> tuple[Tensor, Tensor]:
            pixels = resize_keeping_aspect(image).pixels
            return scale_pixels(to_device(pixels[None], device)), pixels

        def on_device(image: np.ndarray = image) -> tuple[Tensor, Tensor]:
            pixels = resize_keeping_aspect(upload(image, device)).pixels
            return scale_pixels(pixels[None]), download(pixels)

        (expected, pixels), (found, own) = on_host(), on_device()
        synchronise(device)
        difference = max((expected - found).abs().max().item(), (pixels.int() - own.int()).abs().max().item() / 255)
        small, whole = f'{pixels.numel():,}', f'{image.size:,}'
        for name, way, sent, back in (('host', on_host, small, '0'), ('device', on_device, whole, small)):
            there, called = timed(way, device, repeats)
            print(f'| {width}x{height} | {name} | {there:.2f} | {called:.2f} | {sent} | {back} | {difference:g} |')


def timed(call: Callable[[], object], device: torch.device, repeats: int) -> tuple[float, float]:
    """Milliseconds until the device has done it, and until the call returns; medians after a warm-up."""
    call()
    synchronise(device)
    there, called = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        called.append(time.perf_counter() - begin)
        synchronise(device)
        there.append(time.perf_counter() - begin)
    return statistics.median(there) * 1e3, statistics.median(called) * 1e3


@torch.inference_mode()
def streams(network: StreamingVGGT, device: torch.device, frames: int, width: int) -> None:
    """The same stream in every way, one after the other."""
    images = [picture(i, *PICTURES[0]) for i in range(frames)]
    ways = ['in turn', 'in turn', 'one stream', 'beside', 'beside', 'beside']
    run_stream(network, device, images[: SIZE + 2 * STRIDE], width, 'beside')  # warm-up
    expected: list[list[np.ndarray]] = []
    print(f'\n## streams, {frames} frames, windows of {SIZE} with stride {STRIDE}\n')
    print('| way | frames/s | window [ms] | picture to tokens [ms] | answers that differ | largest difference |')
    print('|---' * 6 + '|')
    for way in ways:
        begin = time.perf_counter()
        answers, windows_ms, pictures_ms = run_stream(network, device, images, width, way)
        seconds = time.perf_counter() - begin
        expected = expected or answers
        pairs = [pair for one in zip(expected, answers, strict=True) for pair in zip(*one, strict=True)]
        differing = sum(not np.array_equal(a, b, equal_nan=True) for a, b in pairs)
        largest = max(float(np.nanmax(np.abs(a - b))) for a, b in pairs)
        print(
            f'| {way} | {frames / seconds:.2f} | {statistics.median(windows_ms):.1f} | '
            f'{statistics.median(pictures_ms):.2f} | {differing} of {len(pairs)} | {largest:g} |',
            flush=True,
        )


def run_stream(
    network: StreamingVGGT, device: torch.device, images: list[np.ndarray], width: int, way: str
) -> tuple[list[list[np.ndarray]], list[float], list[float]]:
    """Answers of every window, its milliseconds from call to answer, and those of every picture to its tokens."""
    tokens: list[Tensor] = []
    answers, windows_ms, clocks = [], [], []
    size = (0, 0)

    def look_at(image: np.ndarray) -> None:
        nonlocal size
        clock = Clock(device)
        with beside(device, enabled=way == 'beside') as hand_over:
            pixels = resize_keeping_aspect(upload(image, device), width, network.config.patch_size).pixels
            row = network.encode(pixels[None])
            hand_over(row)
            clock.stop()
        clocks.append(clock)
        size = (pixels.shape[0], pixels.shape[1])
        tokens.append(row[0])

    for image in images[:SIZE]:
        look_at(image)
    for start in range(0, len(images) - SIZE + 1, STRIDE):
        coming = images[start + SIZE : start + SIZE + STRIDE]
        begin = time.perf_counter()
        output = network.predict(torch.stack(tokens), size, frames=range(SIZE - STRIDE, SIZE))
        del tokens[:STRIDE]
        if way == 'in turn':
            answers.append([one.copy() for one in to_host(gathered(output))])
            windows_ms.append((time.perf_counter() - begin) * 1e3)
        else:
            ready = gathered(output)
            if device.type == 'cuda':  # the copy back is queued behind the window, before the pictures
                copies, arrived = [download(one) for one in ready], torch.cuda.Event(blocking=True)
                arrived.record()
        for one in coming:
            look_at(one)
        if way != 'in turn':
            if device.type == 'cuda':
                arrived.synchronize()
                ready = copies
            answers.append([one.numpy().copy() for one in ready])  # a copy: pinning more memory waits for the device
            windows_ms.append((time.perf_counter() - begin) * 1e3)
    synchronise(device)
    return answers, windows_ms, [clock.milliseconds for clock in clocks]


def gathered(output: VGGTOutput) -> list[Tensor]:
    """Pose encoding, depth and confidence."""
    found = [output.pose_encoding, output.depth, output.depth_confidence]
    return [one.float() for one in found if one is not None]


class Clock:
    """Milliseconds from here to when the device has done what the current stream was given before `stop`."""

    def __init__(self, device: torch.device) -> None:
        self._begin, self._end = time.perf_counter(), 0.0
        self._events: list[torch.cuda.Event] = []
        if device.type == 'cuda':
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._events[0].record(torch.cuda.Stream(device))  # an idle stream: the event comes at once

    def stop(self) -> None:
        self._end = time.perf_counter()
        if self._events:
            self._events[1].record()

    @property
    def milliseconds(self) -> float:
        if self._events:
            return self._events[0].elapsed_time(self._events[1])
        return (self._end - self._begin) * 1e3


@torch.inference_mode()
def robots(network: StreamingVGGT, device: torch.device, windows: int, width: int) -> None:
    """Windows a second of both together, and milliseconds from a request to its answers."""
    size = (width * 3 // 4 // network.config.patch_size * network.config.patch_size, width)
    pixels = torch.zeros(1, *size, 3, dtype=torch.uint8)
    tokens = network.encode(pixels).expand(SIZE, -1, -1).contiguous()
    print(f'\n## robots, two of {windows} windows\n')
    print('| copy of the answers | windows/s | median [ms] | most [ms] |\n|---|---|---|---|')
    for name in ('behind the stream', 'behind its event', 'behind the stream', 'behind its event'):
        owner, taken = SharedNetwork(network, max_batch_size=1), list[float]()

        def robot(member: Member, name: str = name, taken: list[float] = taken) -> None:
            own = torch.cuda.Stream(device, priority=-1) if device.type == 'cuda' else None
            for _ in range(windows):
                begin = time.perf_counter()
                output = member.predict(tokens, size, frames=range(SIZE - STRIDE, SIZE))
                with beside(device, enabled=name == 'behind its event', stream=own, after=output.ready):
                    to_host(gathered(output))
                taken.append((time.perf_counter() - begin) * 1e3)

        threads = [threading.Thread(target=robot, args=(owner.member(),)) for _ in range(2)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begin
        owner.close()
        print(
            f'| {name} | {len(taken) / seconds:.2f} | {statistics.median(taken):.1f} | {max(taken):.1f} |', flush=True
        )


@torch.inference_mode()
def waits(network: StreamingVGGT, device: torch.device, width: int) -> None:
    """Torch raises where one of its calls makes the host wait."""
    print('\n## waits\n')
    torch.cuda.set_sync_debug_mode('error')
    try:
        rows = []
        for i in range(SIZE):
            with beside(device) as hand_over:
                pixels = resize_keeping_aspect(
                    upload(picture(i, *PICTURES[0]), device), width, network.config.patch_size
                ).pixels
                rows.append(network.encode(pixels[None])[0])
                hand_over(rows[-1])
        output = network.predict(torch.stack(rows), tuple(pixels.shape[:2]), frames=range(SIZE - STRIDE, SIZE))
        for one in gathered(output):
            download(one)
        print('none from the picture to the copy of the answers')
    except RuntimeError as error:
        print(f'found one: {error}')
    finally:
        torch.cuda.set_sync_debug_mode('default')
        synchronise(device)


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """[H, W, 3] uint8: blocks of random colours under noise, another one for every seed."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 224, (height // 40, width // 40, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((40, 40, 1), np.uint8)) + random.integers(0, 32, (height, width, 3), dtype=np.uint8)


if __name__ == '__main__':
    main()
