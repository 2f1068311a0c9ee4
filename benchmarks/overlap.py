"""What working aside buys, where the network waits for a device: new frames a second, against one thing at a time.

    python -m benchmarks.overlap [--rounds 3] [--window-ms 20 70 140]

Method: a stand-in for the network that sleeps for the given time a window, as the host does while a GPU computes, then
answers as FakePredictor. Windows of 8 with a stride of 4, depth of 518x388, pictures of 640x480. `run`: a folder of
JPEGs into a folder of results, decoded ahead and written aside. `node`: the real node in another process, which is sent
images faster than it can take them and has all its outputs subscribed to as bytes, for 8 s. `one by one` is the same
code, with what is handed over done at once; `aside` makes and writes or publishes messages beside the next window;
`foreseen` also lets the network begin with that before the last one is in the map, as on a GPU. All forms of both in
turns, medians over the rounds. The bound is the smaller of two rates: 4 frames a sleep, or what the host alone does (a
sleep of 0).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import vggt_ros.core.predictor
import vggt_ros.recorded.images
from benchmarks.machine import commit, cpu_name
from benchmarks.pipeline import IMAGE, ROOT, Listener, image_message, image_publisher, wait_for
from vggt_ros.aside import Aside
from vggt_ros.core.config import Config
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.predictor import FakePredictor, make_predictor
from vggt_ros.core.window import Window
from vggt_ros.dds import free_domain, stay_on_this_machine
from vggt_ros.recorded.source import open_source
from vggt_ros.run import run

WINDOW, STRIDE, WIDTH, SIZE = 8, 4, 518, (480, 640)
FORMS = ('one', 'aside', 'foreseen')
SECONDS, WARM_UP_S, RATE = 8.0, 2.0, 120.0
VALUES: dict[str, str | int] = {
    'backend': 'fake', 'window_size': WINDOW, 'window_stride': STRIDE, 'input_width': WIDTH, 'standalone': True,
}  # fmt: skip


class Waiting(FakePredictor):
    """Answers after a time in which the processor is free."""

    seconds = 0.0
    works_on_device = False  # True has make_predictor begin with windows before they are asked for

    def predict(self, window: Window) -> Prediction:
        time.sleep(self.seconds)
        return super().predict(window)


def make_recording(folder: Path, frames: int) -> None:
    """A folder of JPEGs with the grain of photographs."""
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8) for _ in range(8)]
    pictures = [cv2.resize(one, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for one in coarse]
    for i in range(frames):
        cv2.imwrite(str(folder / f'{i:04d}.jpg'), pictures[i % 8])


def one_by_one() -> None:
    """From now on, whoever hands work over does it itself, and pictures are decoded when they are asked for."""
    Aside.hand_over = lambda self, work: work()  # type: ignore[method-assign]
    vggt_ros.recorded.images.all_ahead = iter  # type: ignore[assignment]


def run_rate(window_s: float) -> float:
    """Frames a second of `run`, in this process."""
    config = Config().with_values(VALUES)
    Waiting.seconds = window_s
    predictor = make_predictor(config)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for recording, frames in (('few', WINDOW), ('many', WINDOW + 20 * STRIDE)):
            (folder / recording).mkdir()
            make_recording(folder / recording, frames)
        run(open_source(folder / 'few'), folder / 'first', config, predictor=predictor)  # imports, tables
        seen: list[float] = []
        run(
            open_source(folder / 'many', rate=30.0), folder / 'out', config, predictor=predictor,
            watch=lambda pipeline, update: seen.append(time.perf_counter()),
        )  # fmt: skip
        return STRIDE * (len(seen) - 1) / (seen[-1] - seen[0])


def serve(window_s: float) -> int:
    """The node, with the stand-in."""
    from vggt_ros.node import main as node_main

    Waiting.seconds = window_s
    words = [word for name, value in VALUES.items() for word in ('-p', f'{name}:={str(value).lower()}')]
    return node_main(['--ros-args', '-r', f'image:={IMAGE}', '-p', 'intrinsics_mode:=locked', *words])


def node_rate(form: str, window_ms: float) -> float:
    """New frames a second that the node publishes, in a process of this one's own domain."""
    environment = {**os.environ, **stay_on_this_machine(free_domain())}
    command = [sys.executable, '-m', 'benchmarks.overlap', '--listen', form, str(window_ms)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


def listen(form: str, window_ms: float) -> None:
    """Start the node, send images, print the rate."""
    import rclpy

    rclpy.init()
    node = rclpy.create_node('benchmark')
    listener, publisher = Listener(node, is_raw=True), image_publisher(node)
    spinning = threading.Thread(target=rclpy.spin, args=(node,))
    spinning.start()
    command = [sys.executable, '-m', 'benchmarks.overlap', '--serve', form, str(window_ms)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(publisher.get_subscription_count, process)
        wait_for(lambda: all(node.count_publishers(one.topic_name) for one in listener.subscriptions), process)
        size = argparse.Namespace(height=SIZE[0], width=SIZE[1])
        messages = [image_message(size, 0, seed) for seed in range(8)]
        begin, i = time.monotonic(), 0
        while time.monotonic() < begin + WARM_UP_S + SECONDS:
            message: Any = messages[i % 8]
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(time.time_ns(), 10**9)
            publisher.publish(message)
            i += 1
            time.sleep(max(0.0, begin + i / RATE - time.monotonic()))
        done = listener.complete(listener.per_image(list(listener.arrivals)))
        print(sum(at >= begin + WARM_UP_S for at in done.values()) / SECONDS)
    finally:
        process.terminate()
        process.wait(30)
        rclpy.shutdown()
        spinning.join()


def measured(rate: Callable[[str, float], float], window_ms: list[float], rounds: int) -> Iterator[tuple[str, ...]]:
    """A row for each time of a window: all forms, the ratio of the last to the first, and the bound."""
    host = statistics.median(rate('foreseen', 0.0) for _ in range(rounds))
    for ms in window_ms:
        rates = [tuple(rate(form, ms) for form in FORMS) for _ in range(rounds)]
        medians = [f'{statistics.median(values):.1f}' for values in zip(*rates, strict=True)]
        ratios = [foreseen / one for one, _, foreseen in rates]
        bound = min(host, STRIDE / ms * 1e3)
        yield (f'{ms:g}', *medians, f'{statistics.median(ratios):.2f}',
               f'{min(ratios):.2f} to {max(ratios):.2f}', f'{bound:.1f}')  # fmt: skip


def main() -> None:
    """Print a table each for `run` and the node."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--window-ms', type=float, nargs='+', default=[20.0, 70.0, 140.0])
    for role in ('--listen', '--serve', '--run'):
        parser.add_argument(role, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    form, ms = arguments.serve or arguments.run or ('aside', 0)
    Waiting.works_on_device = form == 'foreseen'
    vggt_ros.core.predictor.FakePredictor = Waiting  # type: ignore[misc]
    if form == 'one':
        one_by_one()
    if arguments.listen:
        listen(arguments.listen[0], float(arguments.listen[1]))
        return
    if arguments.serve:
        sys.exit(serve(float(ms) / 1e3))
    if arguments.run:
        print(run_rate(float(ms) / 1e3))
        return

    def offline(form: str, ms: float) -> float:
        command = [sys.executable, '-m', 'benchmarks.overlap', '--run', form, str(ms)]
        return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()[-1])

    print(f'{cpu_name()}, {os.cpu_count()} cores, commit {commit()}, {arguments.rounds} rounds')
    for name, rate in (('run', offline), ('node', node_rate)):
        print(f'\n{name}: new frames a second\n')
        print('| window [ms] | one by one | aside | foreseen | ratio | of the rounds | bound |')
        print('|---' * 7 + '|')
        for row in measured(rate, arguments.window_ms, arguments.rounds):
            print(f'| {" | ".join(row)} |', flush=True)


if __name__ == '__main__':
    main()
