"""Four robots in one process against four processes: python -m benchmarks.fleet

Each robot films the demo clip. Throughput, processor time, latency of each robot and memory.

processes: one process against four; once with all robots alike, once with one that floods with ten times the rate.
batching: one process, windows one by one against up to four in a forward pass, in turns.

On a GPU, with the released network: python -m benchmarks.fleet --device cuda --model facebook/VGGT-1B
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ROBOTS = ('r1', 'r2', 'r3', 'r4')
PARAMETERS = {
    'standalone': 'true', 'window_size': 4, 'window_stride': 2, 'input_reliability': 'reliable',
    'camera_info_timeout_s': 0.0, 'max_latency_s': 9.0,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is compared: how many windows one process takes together (0: its own choice; None: four processes)."""

    batch: int | None = 0
    flooding: str = ''


PARTS = {
    'processes': [Case(0), Case(None), Case(0, ROBOTS[0]), Case(None, ROBOTS[0])],
    'batching': [Case(1), Case(4), Case(1), Case(4)],
}


def start(folder: Path, names: tuple[str, ...], case: Case, args: argparse.Namespace) -> list[subprocess.Popen[bytes]]:
    parameters = {**PARAMETERS, 'device': args.device, **({'model_id': args.model} if args.model else {})}
    settings = [word for key, value in parameters.items() for word in ('-p', f'{key}:={value}')]
    settings += ['-r', 'image:=camera/image']
    if case.batch is not None:
        words = ('--robots', ','.join(names), '--max-batch-size', str(case.batch))
        commands = [('-m', 'vggt_ros.fleet', *words, '--ros-args', *settings)]
    else:
        own_tf = ['-r', '/tf:=tf', '-r', '/tf_static:=tf_static']
        commands = [
            ('-m', 'vggt_ros.node', '--ros-args', '-r', f'__ns:=/{name}', *own_tf, *settings) for name in names
        ]
    processes = []
    for i, command in enumerate(commands):
        with (folder / f'log{i}').open('w') as log:
            processes.append(subprocess.Popen([sys.executable, *command], stdout=log, stderr=log))
    return processes


def memory_mb(pid: int) -> float:
    """Memory of a process that it shares with no other, and its part of what it shares."""
    for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
        if line.startswith('Pss:'):
            return int(line.split()[1]) / 1024
    return float('nan')


def cpu_seconds(pid: int) -> float:
    fields = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def film(seconds: float, rate: float, flooding: str, processes: list[subprocess.Popen[bytes]]) -> dict[str, object]:
    """Images to all robots, odometry back; figures of the time after all have answered."""
    import rclpy
    from nav_msgs.msg import Odometry
    from sensor_msgs.msg import Image

    from vggt_ros.recorded.source import open_source

    frames = [frame for _, frame in zip(range(20), open_source(ROOT / 'vggt_ros/data/cabinet'), strict=False)]
    rclpy.init()
    node = rclpy.create_node('robots')
    cameras = {name: node.create_publisher(Image, f'/{name}/camera/image', 2) for name in ROBOTS}
    came: dict[str, list[tuple[int, int]]] = defaultdict(list)
    sent = 0

    def send(name: str) -> None:
        nonlocal sent
        frame = frames[sent % len(frames)]
        sent += 1
        height, width = frame.size
        image = Image(height=height, width=width, step=3 * width, encoding='rgb8')
        image.header.frame_id = 'camera'
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(time.time_ns(), 10**9)
        image.data.frombytes(frame.image.tobytes())
        cameras[name].publish(image)

    def keep(name: str, message: Odometry) -> None:
        stamp = message.header.stamp
        came[name].append((stamp.sec * 10**9 + stamp.nanosec, time.time_ns()))

    for name in ROBOTS:
        node.create_subscription(Odometry, f'/{name}/vggt/odom', lambda one, name=name: keep(name, one), 20)
        node.create_timer((0.1 if name == flooding else 1.0) / rate, lambda name=name: send(name))
    deadline = time.monotonic() + 150
    while len(came) < len(ROBOTS) and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.1)
    began, cpu = time.time_ns(), [cpu_seconds(one.pid) for one in processes]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.05)
    used = sum(cpu_seconds(one.pid) for one in processes) - sum(cpu)
    node.destroy_node()
    rclpy.shutdown()
    counted = {name: [(s, w) for s, w in came[name] if s >= began] for name in ROBOTS}
    total = sum(map(len, counted.values()))
    return {
        'frames_a_second': total / seconds,
        'processor_ms_a_frame': 1000 * used / max(1, total),
        'frames_a_second_of_each': {name: len(counted[name]) / seconds for name in ROBOTS},
        'median_latency_ms_of_each': {
            name: float(np.median([(w - s) / 1e6 for s, w in counted[name]])) if counted[name] else None
            for name in ROBOTS
        },
    }


def measure(case: Case, args: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        processes = start(Path(folder), ROBOTS, case, args)
        try:
            figures = film(args.seconds, args.rate, case.flooding, processes)
            figures['memory_mb'] = sum(memory_mb(one.pid) for one in processes)
        finally:
            for one in processes:
                one.send_signal(signal.SIGINT)
            for one in processes:
                try:
                    one.wait(20)
                except subprocess.TimeoutExpired:
                    one.kill()
        said = Path(folder, 'log0').read_text()
    passes = said.partition('forward passes by windows in each: ')[2].strip()
    return {'processes': len(processes), **asdict(case), **figures, 'windows_in_a_pass': passes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('parts', nargs='*', default=list(PARTS), help=f'of {", ".join(PARTS)}')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--model', default='', help='model_id; default nano')
    parser.add_argument('--seconds', type=float, default=20.0)
    parser.add_argument('--rate', type=float, default=5.0, help='images a second of each robot')
    args = parser.parse_args()
    from vggt_ros.dds import free_domain, stay_on_this_machine

    os.environ.update(stay_on_this_machine(free_domain()))
    print(f'load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores, {args.rate:g} images a second each')
    for part in args.parts:
        for case in PARTS[part]:
            print(json.dumps(measure(case, args)), flush=True)


if __name__ == '__main__':
    main()
