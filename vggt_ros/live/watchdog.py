"""Watchdog: is the worker still at the same window, long after it should be done?"""

from __future__ import annotations

from collections.abc import Iterable

LEAST_S = 10.0  # nothing shorter is called stuck: a busy machine, a loop closure, a disk that spins up
SLOWER = 20  # times the slowest window of late
NOTED = 5  # times the slowest window of late, and NOTED_S: told of, not yet acted upon
NOTED_S = 3.0


class Watchdog:
    """Counts for how long one piece of work has been going on.

    It counts its own looks, not the time between them: where the whole process stood still (a debugger, a machine that
    slept), nothing was stuck.

    Args:
        period_s: seconds between two looks.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._since: float | None = None
        self._looks = 0

    @property
    def busy_s(self) -> float:
        """As of the last look."""
        return self._looks * self._period_s

    def look(self, busy_since: float | None) -> float:
        """Seconds that the work has been going on; 0 where none is, or other work than at the last look.

        Args:
            busy_since: when it began, as a key: the same number is the same work. None while there is none.
        """
        self._looks = self._looks + 1 if busy_since is not None and busy_since == self._since else 0
        self._since = busy_since
        return self.busy_s


def limit_s(window_timeout_s: float, recent_s: Iterable[float]) -> float:
    """Seconds after which a window counts as stuck: many times the slowest of late, window_timeout_s at the most."""
    slowest = max(recent_s, default=None)
    if slowest is None:
        return window_timeout_s
    return min(window_timeout_s, max(LEAST_S, SLOWER * slowest))


def is_noted(busy_s: float, recent_s: Iterable[float]) -> bool:
    """Whether a window takes so much longer than those of late that it is worth a word."""
    slowest = max(recent_s, default=None)
    return slowest is not None and busy_s > max(NOTED_S, NOTED * slowest)
