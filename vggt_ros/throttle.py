"""Say a thing once, then at intervals with how often it happened."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Throttle:
    """Keeps a log readable when the same thing goes wrong at every frame.

    Args:
        period_s: seconds between two lines about the same thing.
        clock: steady seconds.
    """

    def __init__(self, period_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[str, tuple[float, int]] = {}  # what -> when said last, how often it came since

    def __call__(self, say: Callable[[str], object], what: str, text: str, *, once: bool = False) -> None:
        """Pass text to `say` when `what`, the kind of thing, was not said lately, or with once never before."""
        with self._lock:
            now = self._clock()
            last, count = self._said.get(what, (None, 0))
            if last is not None and (once or now - last < self._period_s):
                self._said[what] = (last, count + 1)
                return
            self._said[what] = (now, 0)
        say(f'{text} ({count} more times since it was said last)' if count else text)
