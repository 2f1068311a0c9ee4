"""From the start of the node's process until it waits for images, with nano's weights on disk.

    python -m benchmarks.restart --repeats 5

Method: the node starts as `ros2 run` would start it, with autostart and nano; the clock ends with the line that says it
waits for images. Processor time is that of the process until then. `again` is from a SIGKILL of a node under --respawn
to that line of the next one. Beside it, in processes of their own, what it costs to import torch, rclpy and the whole
node. Wall times mean something on a quiet machine only.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.machine import commit, cpu_name, processor_seconds_of
from vggt_ros.dds import free_domain, stay_on_this_machine

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {'import torch': 'import torch', 'import rclpy': 'import rclpy', 'import the node': 'import vggt_ros.node'}
DEADLINE_S = 120.0


def start_node() -> tuple[float, float]:
    """Wall and processor seconds until the node waits for images."""
    with _started('node') as (process, wait_until_ready):
        seconds = wait_until_ready(1)
        return seconds, processor_seconds_of(process.pid)


def start_again() -> tuple[float, float]:
    """The same from the end of a node to the next one."""
    with _started('respawn') as (process, wait_until_ready):
        wait_until_ready(1)
        os.kill(_child_of(process.pid), signal.SIGKILL)
        seconds = wait_until_ready(2)
        return seconds, processor_seconds_of(_child_of(process.pid))


@contextmanager
def _started(module: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[int], float]]]:
    """A process, and what waits until its log has said so many times that a node is ready: seconds."""
    code = f'import sys\nfrom vggt_ros.{module} import main\nsys.exit(main())'
    arguments = ['--ros-args', '-p', 'standalone:=true', '-p', 'model_id:=nano']
    with tempfile.TemporaryFile('w+') as log:
        begin = time.monotonic()
        process = subprocess.Popen([sys.executable, '-c', code, *arguments], cwd=ROOT, stdout=log, stderr=log)

        def wait_until_ready(times: int) -> float:
            start, said = begin if times == 1 else time.monotonic(), ''
            while said.count('waiting for images') < times:
                assert time.monotonic() - start < DEADLINE_S, said
                assert process.poll() is None, said
                time.sleep(0.01)
                said = os.pread(log.fileno(), 1 << 16, 0).decode()
            return time.monotonic() - start

        yield process, wait_until_ready
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0


def _child_of(pid: int) -> int:
    return int(Path(f'/proc/{pid}/task/{pid}/children').read_text().split()[0])


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
    imports = {name: partial(run, code) for name, code in IMPORTS.items()}
    for name, measure in {**imports, 'to active': start_node, 'again': start_again}.items():
        measure()  # the disk's cache, and compiled modules
        walls, processors = zip(*(measure() for _ in range(repeats)), strict=True)
        print(
            f'| {name} | {statistics.median(walls):.2f} ({min(walls):.2f} to {max(walls):.2f}) | '
            f'{statistics.median(processors):.2f} ({min(processors):.2f} to {max(processors):.2f}) |', flush=True,
        )  # fmt: skip
    print(f'\nmedian of {repeats}, {cpu_name()}, {os.cpu_count()} cores, commit {commit()}')


if __name__ == '__main__':
    main()
