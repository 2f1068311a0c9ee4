"""Where a figure was measured: processor or GPU, and commit; and what a process has used of it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def cpu_name() -> str:
    """As Linux reports it."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.machine())


def name_of(device: str) -> str:
    """Of the GPU, where the device is one, else of the processor."""
    if not device.startswith('cuda'):
        return cpu_name()
    import torch

    return str(torch.cuda.get_device_name(device))


def commit() -> str:
    """Its short name; 'unknown' in a copy without its history, or on a machine without git."""
    command = ['git', 'rev-parse', '--short', 'HEAD']
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return 'unknown'
    return done.stdout.strip() or 'unknown'


def processor_seconds_of(pid: int) -> float:
    """User and system time of a process. Source: Linux, proc_pid_stat(5), fields 14 and 15."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
