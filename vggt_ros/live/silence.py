"""Silence: has the stream of images paused?"""

from __future__ import annotations

import time
from collections.abc import Callable


class Silence:
    """How long no image has come, in the time the data lives in.

    Under use_sim_time that is ROS time: a bag played slowly has long pauses on the wall and none in the data. Where
    that clock itself stands still, because the bag is over, the steady one counts.

    Args:
        data_clock: seconds.
        steady: seconds that never stop or jump.
    """

    def __init__(self, data_clock: Callable[[], float], steady: Callable[[], float] = time.monotonic) -> None:
        self._data_clock, self._steady = data_clock, steady
        self._data_now, self._moved = data_clock(), steady()
        self._since: float | None = None  # data time of the last image; None when its silence has been acted on

    def end(self) -> None:
        """An image came."""
        self._since = self._data_now = self._data_clock()
        self._moved = self._steady()

    def lasts(self, seconds: float) -> bool:
        """Whether the last image is that long ago; True once per silence."""
        now = self._data_clock()
        if now != self._data_now:
            self._data_now, self._moved = now, self._steady()
        if self._since is None:
            return False
        is_over = now - self._since >= seconds or self._steady() - self._moved >= seconds
        if is_over:
            self._since = None
        return is_over
