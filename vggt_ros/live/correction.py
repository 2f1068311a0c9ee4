"""MapToOdom: map -> odom beside an odometry that is not ours, sent again and again, dated ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class _Correction:
    map_from_odom: np.ndarray
    stamp_ns: int
    arrival: float


class MapToOdom:
    """Holds the last correction, and dates it for whoever asks for the robot's place in the map right now.

    A window takes longer than a control cycle, and TF tells nothing after the last stamp it has. So the correction is
    sent at a steady rate, dated a little ahead of the time the data lives in. It goes on when images stop: the robot's
    own odometry carries it then.
    Source: REP 105; introlab/rtabmap_ros, rtabmap_slam/src/CoreWrapper.cpp, parameters tf_delay and tf_tolerance.

    Args:
        sim_time_ns: ROS time under use_sim_time, else None: time then goes on from the stamps of the images.
        steady: steady seconds.
    """

    def __init__(self, sim_time_ns: Callable[[], int | None], steady: Callable[[], float] = time.monotonic) -> None:
        self._sim_time_ns, self._steady = sim_time_ns, steady
        self._lock = threading.Lock()
        self._last: _Correction | None = None
        self._sent_ns = 0

    def serves(self, stamp_ns: int) -> bool:
        """Whether something was sent by which an image of this stamp has its place in the map."""
        with self._lock:
            return self._last is not None and stamp_ns >= self._last.stamp_ns  # else the recording began again

    def take(self, map_from_odom: np.ndarray, stamp_ns: int, arrival: float) -> None:
        """Hold a new correction.

        Args:
            map_from_odom: [4, 4].
            stamp_ns: of the image it was found from.
            arrival: when that image came, steady seconds.
        """
        with self._lock:
            if self._last is None or stamp_ns < self._last.stamp_ns:
                self._sent_ns = stamp_ns
            self._last = _Correction(map_from_odom, stamp_ns, arrival)

    def reset(self) -> None:
        """A new map, or another run of the clock: nothing is known of it."""
        with self._lock:
            self._last, self._sent_ns = None, 0

    def due(self, ahead_s: float) -> tuple[int, np.ndarray] | None:
        """Stamp, so far ahead, and map_from_odom to send now; None before the first, and while time stands still."""
        with self._lock:
            if self._last is None:
                return None
            now_ns = self._sim_time_ns()
            if now_ns is None:
                now_ns = self._last.stamp_ns + round((self._steady() - self._last.arrival) * 1e9)
            stamp_ns = now_ns + round(ahead_s * 1e9)
            if stamp_ns <= self._sent_ns:
                return None
            self._sent_ns = stamp_ns
            return stamp_ns, self._last.map_from_odom
