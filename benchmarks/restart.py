"""From the start of the node's process until it waits for images, with nano's weights on disk.

    python -m benchmarks.restart --repeats 5

Method: the node starts as `ros2 run` would start it, with autostart and nano; the clock ends with the line that says it
waits for images. Processor time is that of the process until then. Beside it, in processes of their own, what it costs
to import torch, rclpy and the whole node. Wall times mean something on a quiet machine only.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import commit, cpu_name
from vggt_ros.dds import free_domain, stay_on_this_machine

ROOT = Path(__file__).resolve().parents[1]
START = 'import sys\nfrom vggt_ros.node import main\nsys.exit(main())'
IMPORTS = {'import torch': 'import torch', 'import rclpy': 'import rclpy', 'import the node': 'import vggt_ros.node'}
DEADLINE_S = 120.0


def start_node() -> tuple[float, float]:
    """Wall and processor seconds until the node waits for images."""
    arguments = ['--ros-args', '-p', 'standalone:=true', '-p', 'model_id:=nano']
    with tempfile.TemporaryFile('w+') as log:
        start = time.monotonic()
        process = subprocess.Popen([sys.executable, '-c', START, *arguments], cwd=ROOT, stdout=log, stderr=log)
        said = ''
        while 'waiting for images' not in said:
            assert time.monotonic() - start < DEADLINE_S, said
            assert process.poll() is None, said
            time.sleep(0.01)
            said = os.pread(log.fileno(), 1 << 16, 0).decode()
        wall_s = time.monotonic() - start
        fields = Path(f'/proc/{process.pid}/stat').read_text().rpartition(')')[2].split()
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    return wall_s, (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def run(code: str) -> tuple[float, float]:
    """Wall and processor seconds of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
    wall_s = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--repeats', type=int, default=5)
    repeats = parser.parse_args().repeats
    os.environ.update(stay_on_this_machine(free_domain()))
    print('| step | wall, s | processor, s |\n| --- | --- | --- |')
    for name, measure in {**{n: lambda code=c: run(code) for n, c in IMPORTS.items()}, 'to active': start_node}.items():
        measure()  # the disk's cache, and compiled modules
        walls, processors = zip(*(measure() for _ in range(repeats)), strict=True)
        print(
            f'| {name} | {statistics.median(walls):.2f} ({min(walls):.2f} to {max(walls):.2f}) | '
            f'{statistics.median(processors):.2f} ({min(processors):.2f} to {max(processors):.2f}) |', flush=True,
        )  # fmt: skip
    print(f'\nmedian of {repeats}, {cpu_name()}, {os.cpu_count()} cores, commit {commit()}')


if __name__ == '__main__':
    main()
