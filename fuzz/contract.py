"""The contract that every target is held to: a result, or one of our errors in words; soon, and within bounds."""

from __future__ import annotations

import resource
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.draw import Draw
from vggt.errors import VGGTError
from vggt_ros.core.errors import VggtRosError

SECONDS = 10  # of processor time, for one input; the slowest valid one takes a twentieth
HANG_SECONDS = 90  # on the wall, whatever else the machine does
MEMORY = 2 * 1024**3  # bytes beyond those of the modules
ROOT = Path(__file__).resolve().parents[1]
HELPED, USAGE = 0, 2  # exit codes of argparse: what was asked for, and a command line that it does not take


class TooSlow(Exception):  # noqa: N818  a finding, told by its name
    """An input took longer than SECONDS, or HANG_SECONDS."""


class TooLarge(Exception):  # noqa: N818  a finding, told by its name
    """An input raised the peak of memory by more than MEMORY."""


class Broken(Exception):  # noqa: N818  a finding, told by its name
    """A result that our functions promise never to give."""


@dataclass
class Findings:
    """Inputs that broke the contract, each kind once.

    Args:
        target: one of targets.TARGETS.
        first: (exception, place in our code) -> (the first such input, its traceback).
    """

    target: Callable[[Draw], Any]
    tried: int = 0
    refused: int = 0
    first: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)

    def try_one(self, data: bytes) -> None:
        """Run one input; what it breaks is remembered."""
        self.tried += 1
        try:
            self.refused += not check(self.target, data)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            key = type(error).__name__, _place(error)
            if key not in self.first:
                self.first[key] = data, ''.join(traceback.format_exception(error))


def check(target: Callable[[Draw], Any], data: bytes) -> bool:
    """Run a target on one input; True where it gave a result, False where it refused in words; else it raises."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    is_armed = signal.getsignal(signal.SIGALRM) is _stop  # in the test suite the timer is that of pytest-timeout
    if is_armed:
        _set_timers(SECONDS, HANG_SECONDS)
    try:
        target(Draw(data))
        return True
    except (VggtRosError, VGGTError) as error:
        if not str(error).strip():
            raise Broken(f'{type(error).__name__} without words') from error
        return False
    except SystemExit as error:
        if error.code not in (HELPED, USAGE):
            raise
        return error.code == HELPED
    finally:
        if is_armed:
            _set_timers(0, 0)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        if grown > MEMORY:
            raise TooLarge(f'{grown / 1e9:.1f} GB more than before')


def arm() -> None:
    """Make a hang an exception, and memory beyond bounds a MemoryError; for the whole process."""
    signal.signal(signal.SIGALRM, _stop)
    signal.signal(signal.SIGPROF, _stop)
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * MEMORY, most))


def _set_timers(processor_s: float, wall_s: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, processor_s)
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def _stop(*_: object) -> None:
    raise TooSlow(f'more than {SECONDS} s of processor time, or {HANG_SECONDS} s')


def _place(error: BaseException) -> str:
    """Last line of our code in a traceback."""
    ours = [
        f'{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}'
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(str(ROOT / 'vggt'))
    ]
    return ours[-1] if ours else 'outside'
