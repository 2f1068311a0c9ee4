"""Respawn: what the node imports is imported once, and the node is a fork of that; if it fails, the next one follows.

    ros2 run vggt_ros node --respawn --ros-args ...

Most of the seconds that a node takes to start are those of importing torch. A fork has them behind it. Nothing before
it touches the middleware, a GPU or a thread of ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from vggt_ros.topics import NODE_NAME

WELL_S = 10.0  # a node that lived for so long had started well: what ended it need not end the next one
TRIES = 3  # that ended sooner, one after the other; then what keeps the node from starting is told and left to others
PAUSE_S = 1.0  # before the second of them; twice as long before the third
PR_SET_PDEATHSIG = 1  # linux/prctl.h
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(args: list[str] | None = None) -> int:
    """Run the node, and another one wherever it ends with an error; the exit code of the last one."""
    try:
        from vggt_ros.node import main as node_main

        if {'-h', '--help'} & set(sys.argv if args is None else args):
            return node_main(args)
        import_the_rest()
    except KeyboardInterrupt:
        return 0
    supervisor = Supervisor()
    while True:
        if supervisor.fork() == 0:
            _be_the_node(node_main, args)
        code = supervisor.wait()
        if code == 0 or supervisor.is_told_to_end or not supervisor.pause():
            return code


def _be_the_node(node_main: Callable[[list[str] | None], int], args: list[str] | None) -> NoReturn:
    """Ends as the node has ended: what a fork has from before it is not to be taken down a second time."""
    code = 1
    try:
        code = node_main(args)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def import_the_rest() -> None:
    """What the node imports when it is configured."""
    import vggt_ros.core.predictor  # noqa: F401

    gc.collect()
    gc.freeze()  # else collecting would copy every page that the nodes share


class Supervisor:
    """Has one node at a time, hands SIGINT and SIGTERM on to it, and takes it along when it is killed.

    Attributes:
        is_told_to_end: whether one of these signals has come.
    """

    def __init__(self) -> None:
        self.is_told_to_end = False
        self._pid, self._since, self._quick = 0, 0.0, 0
        for number in SIGNALS:
            signal.signal(number, self._hand_on)

    def fork(self) -> int:
        """0 in the node's process."""
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until either side knows what to do with them
        sys.stdout.flush()
        sys.stderr.flush()
        self._since = time.monotonic()  # before it: the node may be well under way when we go on
        self._pid = os.fork()
        if self._pid == 0:
            os.setpgid(0, 0)  # a terminal's Ctrl-C comes by us, once
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            for number in SIGNALS:  # until the node has its own handlers there is nothing to take down
                signal.signal(number, signal.SIG_DFL)
            if os.getppid() != parent:  # killed before that was asked for
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return self._pid

    def wait(self) -> int:
        """Until the node has ended; its exit code, 128 and more where a signal ended it."""
        if self.is_told_to_end:  # between two nodes
            self._hand_on(signal.SIGTERM, None)
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._pid = 0
        if self.is_told_to_end and -code in SIGNALS:
            return 0
        return code if code >= 0 else 128 - code

    def pause(self) -> bool:
        """Say that the node has failed, and wait before the next one; False where there is to be none."""
        self._quick = self._quick + 1 if time.monotonic() - self._since < WELL_S else 0
        if self._quick >= TRIES:
            _say(f'the node has ended within {WELL_S:g} s of its start, {TRIES} times in a row: giving up')
            return False
        _say('the node has ended by an error: starting it again')
        end = time.monotonic() + (PAUSE_S * 2 ** (self._quick - 1) if self._quick > 1 else 0.0)
        while not self.is_told_to_end and time.monotonic() < end:
            time.sleep(0.05)
        return not self.is_told_to_end

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        self.is_told_to_end = True
        if self._pid:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self._pid, number)


def _say(what: str) -> None:
    print(f'{NODE_NAME.lstrip("/")}: {what}', file=sys.stderr, flush=True)
