"""Mailbox: the newest messages win when the worker falls behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

T = TypeVar('T')


@dataclass(frozen=True, eq=False)
class Letter(Generic[T]):
    """A message and when it came.

    Args:
        message: whatever was put in.
        arrival: seconds of the steady clock. Stamps are the sender's, may belong to an old recording and may go back.
    """

    message: T
    arrival: float


class Mailbox(Generic[T]):
    """Hands all waiting messages to one taker, thinned to the number it can use at once.

    A window needs `stride` new frames. Whoever is slower than the camera therefore gets `stride` messages each time,
    evenly spaced between the last one it took and the newest: the next window overlaps the one before as it should,
    ends at the newest image, and nothing old is worked off. Memory is bounded by `stride * SPARE` messages.

    Args:
        stride: how many messages one take returns at most.
        clock: steady seconds.
    """

    # Waiting messages per one taken: enough that the choice among them is even to an eighth of a step.
    SPARE = 4

    def __init__(self, stride: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.stride = stride
        self._clock = clock
        self._letters: list[Letter[T]] = []
        self._changed = threading.Condition()
        self._woken = False
        self._last_taken: float | None = None
        self._received = self._dropped = self._cleared = 0

    @property
    def received(self) -> int:
        """Messages put in so far."""
        return self._received

    @property
    def dropped(self) -> int:
        """Messages that were never handed out because newer ones won."""
        return self._dropped

    @property
    def cleared(self) -> int:
        """Messages that were never handed out because they were forgotten."""
        return self._cleared

    @property
    def has_all(self) -> bool:
        """Whether as many messages wait as one take returns."""
        with self._changed:
            return len(self._letters) >= self.stride

    def put(self, message: T) -> None:
        """Add a message; never waits for the taker."""
        with self._changed:
            self._letters.append(Letter(message, self._clock()))
            self._received += 1
            if len(self._letters) > self.stride * self.SPARE:
                self._drop_most_crowded()
            self._changed.notify()

    def take(self, timeout: float) -> list[Letter[T]]:
        """All waiting messages, oldest first and at most `stride`; none when `timeout` seconds passed or on `wake`."""
        with self._changed:
            self._changed.wait_for(lambda: self._letters or self._woken, timeout)
            self._woken = False
            letters, self._letters = self._letters, []
            chosen = self._thin(letters)
            self._dropped += len(letters) - len(chosen)
            if chosen:
                self._last_taken = chosen[-1].arrival
            return chosen

    def peek_first_arrival(self) -> float | None:
        """When the oldest waiting message came, steady seconds; None while none waits."""
        with self._changed:
            return self._letters[0].arrival if self._letters else None

    def wake(self) -> None:
        """Let a waiting `take` return at once."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def clear(self) -> None:
        """Forget what waits."""
        with self._changed:
            self._cleared += len(self._letters)
            self._letters, self._last_taken = [], None

    def _drop_most_crowded(self) -> None:
        """Drop the letter whose neighbours are nearest to each other; the oldest and the newest stay."""
        arrivals = np.array([letter.arrival for letter in self._letters])
        del self._letters[1 + int(np.argmin(arrivals[2:] - arrivals[:-2]))]
        self._dropped += 1

    def _thin(self, letters: list[Letter[T]]) -> list[Letter[T]]:
        if len(letters) <= self.stride:
            return letters
        arrivals = np.array([letter.arrival for letter in letters])
        start = arrivals[0] if self._last_taken is None else self._last_taken
        chosen: list[int] = []
        # From the newest back; each target takes the nearest letter that leaves enough before it for those to come.
        for left in range(self.stride, 0, -1):
            target = start + (arrivals[-1] - start) * left / self.stride
            last = (chosen[-1] if chosen else len(letters)) - 1
            chosen.append(left - 1 + int(np.argmin(np.abs(arrivals[left - 1 : last + 1] - target))))
        return [letters[i] for i in reversed(chosen)]
