"""The real node for as long as one likes: memory, threads, files, subscriptions and latency from start to end.

    python -m benchmarks.soak_node --seconds 3600                             # a stand-in network, 30 images a second
    python -m benchmarks.soak_node --seconds 3600 --model nano --rate 7.5     # nano, at a rate it keeps up with

Method: this process publishes the frames of the shipped clip, there and back, with stamps of now; the node runs in a
second one. Every few seconds its memory, threads, open files and processor time are read from /proc, and the
latency, from the publication of an image to its depth image here, is summed up for the images since. What the node
remembers is bounded; the bounds are set low, so that they are reached in the first third, which counts as warming up.
Slopes are fitted to the rest; their error takes into account that one sample resembles the next (the residuals are an
AR(1) process). A slope within twice its error of zero is no growth that this run can tell.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.machine import commit, cpu_name
from vggt_ros.dds import free_domain, stay_on_this_machine

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / 'vggt_ros/data/cabinet/rgb'
IMAGE, DEPTH, OPTICAL = '/soak/image', '/vggt/depth/image_rect', 'soak_optical_frame'
DEADLINE_S = 120.0
BOUNDS: dict[str, object] = {
    'map_max_points': 50_000,
    'map_max_submaps': 4,
    'map_max_views': 100,
    'path_max_size': 100,
    'trajectory_max_size': 500,
    'loop_max_places': 20,
    'loop_max_windows': 100,
}
FIGURES = ('memory_mb', 'private_mb', 'threads', 'files', 'subscriptions', 'p50_ms', 'p95_ms')


@dataclass(frozen=True)
class Sample:
    """The node at one moment, and its latencies since the one before.

    Args:
        at_s: since the first image.
        memory_mb: resident.
        private_mb: of that what the process allocated; files that are mapped come and go with the memory of others.
        threads, files: of the process.
        subscriptions: that others see of it.
        processor_s: it has taken so far.
        images, results: sent, and come back, since the sample before.
        p50_ms, p95_ms: latency; NaN where nothing came back.
        load: of the machine, over the last minute: processes that run or would like to.
    """

    at_s: float
    memory_mb: float
    private_mb: float
    threads: int
    files: int
    subscriptions: int
    processor_s: float
    images: int
    results: int
    p50_ms: float
    p95_ms: float
    load: float


def soak(
    seconds: float,
    rate: float = 30.0,
    model: str = 'fake',
    every_s: float = 5.0,
    width: int = 640,
    tell: Callable[[Sample], object] = lambda sample: None,
) -> list[Sample]:
    """Run the node that long, and look at it every so often; `tell` hears of each sample at once."""
    os.environ.update(stay_on_this_machine(free_domain()))
    import rclpy
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import Image, PointCloud2

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('soak', context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    threading.Thread(target=executor.spin, daemon=True).start()
    sent: dict[int, float] = {}
    latencies: list[float] = []

    def note(message: Any) -> None:
        at = sent.pop(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec, None)
        if at is not None:
            latencies.append(time.monotonic() - at)

    node.create_subscription(Image, DEPTH, note, QoSProfile(depth=50))
    node.create_subscription(PointCloud2, '/vggt/points', lambda message: None, QoSProfile(depth=50))
    publisher = node.create_publisher(Image, IMAGE, QoSProfile(depth=50))
    images = [cv2.imread(str(path)) for path in sorted(CLIP.iterdir())]
    images = [cv2.resize(image, (width, width * image.shape[0] // image.shape[1])) for image in images]
    images += images[-2:0:-1]
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / 'log').open('w+') as log:
        process = subprocess.Popen(_command(model), cwd=ROOT, stdout=log, stderr=log)
        try:
            _wait(lambda: publisher.get_subscription_count() and node.count_publishers(DEPTH), process)
            start = due = last = time.monotonic()
            count = number = 0
            while time.monotonic() - start < seconds:
                stamp_ns = time.time_ns()
                message = _message(images[number % len(images)], stamp_ns)
                sent[stamp_ns] = time.monotonic()
                publisher.publish(message)
                number, count, due = number + 1, count + 1, due + 1 / rate
                time.sleep(max(0.0, due - time.monotonic()))
                if time.monotonic() - last >= every_s:
                    assert process.poll() is None, f'the node ended:\n{(Path(folder) / "log").read_text()}'
                    taken, last = list(latencies), time.monotonic()
                    latencies.clear()
                    subscriptions = len(dict(node.get_subscriber_names_and_types_by_node('vggt', '/')))
                    samples.append(_sample(process.pid, last - start, subscriptions, count, taken))
                    tell(samples[-1])
                    count = 0
                    for old in [stamp for stamp, at in sent.items() if last - at > 60]:
                        del sent[old]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(DEADLINE_S)
            executor.shutdown()
            node.destroy_node()
            rclpy.shutdown(context=context)
    assert process.returncode == 0, f'exit code {process.returncode}'
    return samples


def slope(at_s: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Least-squares slope a second and its standard error, for residuals that resemble the one before (AR(1)).

    Source: for N residuals of lag-1 correlation r there are N (1 - r) / (1 + r) independent ones; Wilks, Statistical
    Methods in the Atmospheric Sciences, 3rd ed., sec. 5.2.4.
    """
    known = np.isfinite(values)
    at_s, values = at_s[known], values[known]
    if len(values) < 4:
        return math.nan, math.nan
    offset = at_s - at_s.mean()
    gradient = float(offset @ values / (offset @ offset))
    residual = values - values.mean() - gradient * offset
    spread = float(residual @ residual)
    alike = max(0.0, float(residual[1:] @ residual[:-1] / spread)) if spread > 0 else 0.0
    independent = max(3.0, len(values) * (1 - alike) / (1 + alike))
    return gradient, math.sqrt(spread / (independent - 2) / (offset @ offset)) if spread > 0 else 0.0


def summarise(samples: list[Sample], warm_up: float = 1 / 3) -> dict[str, dict[str, float]]:
    """For each figure: first, last and largest value after warming up, and its slope an hour with twice its error."""
    counted = samples[int(len(samples) * warm_up) :]
    at_s = np.array([one.at_s for one in counted])
    result = {}
    for name in FIGURES:
        values = np.array([float(getattr(one, name)) for one in counted])
        gradient, error = slope(at_s, values)
        result[name] = {
            'first': values[0], 'last': values[-1], 'largest': float(np.nanmax(values)),
            'slope_an_hour': gradient * 3600, 'error_95': 2 * error * 3600,
        }  # fmt: skip
    return result


def _command(model: str) -> list[str]:
    backend: dict[str, object] = {'backend': 'fake'} if model == 'fake' else {'model_id': model}
    window = {'window_size': 8, 'window_stride': 1 if model == 'fake' else 4}
    parameters = {'standalone': 'true', 'input_reliability': 'reliable', 'intrinsics_mode': 'locked', **window}
    code = 'import sys\nfrom vggt_ros.node import main\nsys.exit(main())'
    command = [sys.executable, '-c', code, '--ros-args', '-r', f'image:={IMAGE}']
    for name, value in {**parameters, **backend, **BOUNDS}.items():
        command += ['-p', f'{name}:={value}']
    return command


def _message(image: np.ndarray, stamp_ns: int) -> Any:
    from builtin_interfaces.msg import Time
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    header = Header(stamp=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id=OPTICAL)
    height, width = image.shape[:2]
    message = Image(header=header, height=height, width=width, step=3 * width, encoding='bgr8')
    message.data.frombytes(image.tobytes())
    return message


def _sample(pid: int, at_s: float, subscriptions: int, images: int, latencies: list[float]) -> Sample:
    status = Path(f'/proc/{pid}/status').read_text()
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    p50, p95 = np.percentile(latencies, [50, 95]) * 1e3 if latencies else (math.nan, math.nan)
    return Sample(
        at_s=at_s,
        memory_mb=int(status.split('VmRSS:')[1].split()[0]) / 1024,
        private_mb=int(status.split('RssAnon:')[1].split()[0]) / 1024,
        threads=int(status.split('Threads:')[1].split()[0]),
        files=len(os.listdir(f'/proc/{pid}/fd')),
        subscriptions=subscriptions,
        processor_s=(int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK'),
        images=images,
        results=len(latencies),
        p50_ms=float(p50),
        p95_ms=float(p95),
        load=os.getloadavg()[0],
    )


def _wait(is_true: Any, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_true():
        assert process.poll() is None, f'the node ended with {process.returncode}'
        assert time.monotonic() < deadline, f'the node is not there within {DEADLINE_S:g} s'
        time.sleep(0.05)
    time.sleep(1.0)  # matched at the far end too


def main() -> None:
    """Soak, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--seconds', type=float, default=3600, help='how long (%(default)g)')
    parser.add_argument('--rate', type=float, default=30.0, help='images a second (%(default)g)')
    parser.add_argument('--model', default='fake', help="'fake' answers at once; or a model: nano (%(default)s)")
    parser.add_argument('--every', type=float, default=5.0, help='seconds between samples (%(default)g)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='each sample as one line of JSON, as it comes')
    arguments = parser.parse_args()
    with arguments.json.open('w') if arguments.json else contextlib.nullcontext() as file:

        def tell(sample: Sample) -> None:
            if file is not None:
                print(json.dumps(asdict(sample)), file=file, flush=True)

        samples = soak(arguments.seconds, arguments.rate, arguments.model, arguments.every, tell=tell)
    summary = summarise(samples)
    sent, came = sum(one.images for one in samples), sum(one.results for one in samples)
    share = (samples[-1].processor_s - samples[0].processor_s) / (samples[-1].at_s - samples[0].at_s)
    print(
        f'{arguments.model}, {arguments.rate:g} images a second for {samples[-1].at_s:.0f} s: {sent} sent, {came} came '
        f'back; {share:.2f} of a core; {cpu_name()}, commit {commit()}\n'
    )
    print('| figure | first third over | end | largest | slope an hour | twice its error |')
    print('| --- | --- | --- | --- | --- | --- |')
    for name, one in summary.items():
        print(f'| {name} | ' + ' | '.join(f'{value:.3g}' for value in one.values()) + ' |')


if __name__ == '__main__':
    main()
