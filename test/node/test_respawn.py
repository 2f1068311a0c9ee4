"""A node that is started again: after an error at once, told to end never, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from robot import DEADLINE_S, ROOT, NodeProcess, wait_until

from vggt_ros.respawn import TRIES

READY = 'waiting for images'
FAKE = """
import os, signal, time, types
from pathlib import Path
from vggt_ros import respawn

def main(_):
    turn = len(begun.read_text())
    begun.write_text((turn + 1) * '.')
    return ends[turn]()

begun, ends = Path({begun!r}), [{ends}]
respawn.WELL_S, respawn.PAUSE_S, respawn.import_the_rest = {well_s}, {pause_s}, lambda: None
sys.modules['vggt_ros.node'] = types.SimpleNamespace(main=main)
"""
FAILS, ENDS_WELL = 'lambda: 1', 'lambda: 0'
RAISES, IS_KILLED = 'lambda: 1 / 0', 'lambda: os.kill(os.getpid(), signal.SIGKILL)'
WELL_S = 0.1
LIVES = f'lambda: time.sleep({2 * WELL_S}) or 1'


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts nodes that end one after the other as they are told, without what takes long to import."""
    started: list[NodeProcess] = []

    def start(*ends: str, well_s: float = 1e6, pause_s: float = 0.0) -> NodeProcess:
        (begun := tmp_path / 'begun').touch()
        before = FAKE.format(begun=str(begun), ends=', '.join(ends), well_s=well_s, pause_s=pause_s)
        started.append(NodeProcess({}, {}, tmp_path / 'log', before, program='respawn'))
        return started[-1]

    yield start
    for node in started:
        node.process.kill()  # and what it has started with it
        node.process.wait()


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


def test_a_node_that_had_started_well_is_followed_by_another_and_may_fail_as_often_again(
    fake: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    """Until one ends without an error."""
    node = fake(FAILS, RAISES, LIVES, FAILS, IS_KILLED, ENDS_WELL, FAILS, well_s=WELL_S)
    assert node.process.wait(DEADLINE_S) == 0
    assert (tmp_path / 'begun').read_text() == 6 * '.'
    assert 'ZeroDivisionError' in node.text


@pytest.mark.parametrize('end, code', [(FAILS, 1), (IS_KILLED, 128 + signal.SIGKILL)], ids=['fails', 'is killed'])
def test_what_ended_the_last_node_is_the_exit_code(fake: Callable[..., NodeProcess], end: str, code: int) -> None:
    assert fake(*(TRIES + 1) * [end]).process.wait(DEADLINE_S) == code


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_service_that_is_stopped_ends_its_node_first(
    fake: Callable[..., NodeProcess], tmp_path: Path, number: signal.Signals
) -> None:
    """Quietly, also where the node has no handlers of its own yet."""
    node = fake('signal.pause')
    wait_until(lambda: (tmp_path / 'begun').read_text(), lambda: node.text)
    child = child_of(node)
    assert os.getpgid(child) != os.getpgid(node.process.pid)  # Ctrl-C of a terminal comes once
    assert node.stop(number) == 0
    assert not is_alive(child)
    assert not node.text


def test_nobody_waits_for_a_node_that_is_not_to_come(fake: Callable[..., NodeProcess], tmp_path: Path) -> None:
    node = fake(FAILS, FAILS, FAILS, pause_s=1e6)
    wait_until(lambda: node.text.count('starting it again') == 2, lambda: node.text)
    assert node.stop(signal.SIGTERM) == 1
    assert (tmp_path / 'begun').read_text() == 2 * '.'
