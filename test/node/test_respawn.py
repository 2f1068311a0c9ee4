"""A node that is started again: after an error at once, told to end never, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from robot import DEADLINE_S, ROOT, NodeProcess, wait_until

from vggt_ros.respawn import TRIES

READY = 'waiting for images'


def child_of(node: NodeProcess) -> int:
    pid = node.process.pid
    return int(Path(f'/proc/{pid}/task/{pid}/children').read_text().split()[0])


def is_alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_a_node_that_crashes_is_followed_by_another(tmp_path: Path, number: signal.Signals) -> None:
    parameters = {'backend': 'fake', 'standalone': True}
    node = NodeProcess(parameters, {}, tmp_path / 'log', program='respawn', arguments=('--respawn',))
    node.wait_for_text(READY)
    first = child_of(node)
    os.kill(first, signal.SIGSEGV)
    wait_until(lambda: node.text.count(READY) == 2, lambda: node.text)
    assert 'vggt: the node has ended by an error: starting it again' in node.text
    second = child_of(node)
    assert second != first
    code = node.stop(number)
    wait_until(lambda: not is_alive(second), lambda: node.text)
    assert code == (-number if number == signal.SIGKILL else 0)
    assert 'Traceback' not in node.text


def test_what_keeps_the_node_from_starting_is_told_and_not_tried_for_ever(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / 'scripts' / 'node', '--respawn', '--ros-args', '-p', 'window_size:=0']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert done.stderr.count('window_size out of range') == TRIES
    assert done.stderr.strip().splitlines()[-1].endswith(f'{TRIES} times in a row: giving up')
