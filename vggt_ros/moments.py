"""Moments: what the cameras of a rig sent, sorted by exposure; looks at stamps only, so messages and frames fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar('T')

MAX_PENDING = 3  # moments kept waiting for a camera; more is latency, less drops what a slow network delivers late
TIME_JUMP_NS = 1_000_000_000  # as in core.pipeline: further back is another run of the clock


@dataclass(frozen=True, eq=False)
class Moment(Generic[T]):
    """What came from one exposure.

    Args:
        items: by camera, rising; the reference, camera 0, is always there.
    """

    items: dict[int, T]


@dataclass
class _Pending(Generic[T]):
    stamps_ns: dict[int, int] = field(default_factory=dict)
    items: dict[int, T] = field(default_factory=dict)

    @property
    def start_ns(self) -> int:
        return min(self.stamps_ns.values())

    def fits(self, camera: int, stamp_ns: int, sync_ns: int) -> bool:
        stamps = [*self.stamps_ns.values(), stamp_ns]
        return camera not in self.stamps_ns and max(stamps) - min(stamps) <= sync_ns


class Moments(Generic[T]):
    """Hands a moment out when all cameras have sent theirs, or when it is clear that they never will.

    Each camera sends in order. So once a moment is complete, those before it will never be; and where a camera is
    silent, moments go out without it as soon as MAX_PENDING others wait. A moment without the reference camera is
    dropped. No clock is asked: a recording gives what it gave live.

    Args:
        cameras: how many there are.
        sync_ns: between the stamps of a moment at most.
        incomplete: moments that went out without some camera.
        without_reference: moments that were dropped.
    """

    def __init__(self, cameras: int, sync_ns: int) -> None:
        self._cameras, self._sync_ns = cameras, sync_ns
        self._pending: list[_Pending[T]] = []  # oldest first
        self._last_ns: dict[int, int] = {}
        self.incomplete = self.without_reference = 0

    def add(self, camera: int, stamp_ns: int, item: T) -> list[Moment[T]]:
        """Take what a camera sent; the moments that are ready now, oldest first."""
        ready: list[Moment[T]] = []
        if stamp_ns < self._last_ns.get(camera, 0) - TIME_JUMP_NS:  # the recording began again
            ready = self.flush()
            self._last_ns.clear()
        self._last_ns[camera] = stamp_ns
        moment = next((one for one in self._pending if one.fits(camera, stamp_ns, self._sync_ns)), None)
        if moment is None:
            moment = _Pending()
            self._pending.append(moment)
        moment.stamps_ns[camera], moment.items[camera] = stamp_ns, item
        self._pending.sort(key=lambda one: one.start_ns)
        if len(moment.items) == self._cameras:
            return ready + self._release(self._pending.index(moment) + 1)
        return ready + self._release(len(self._pending) - MAX_PENDING)

    def flush(self) -> list[Moment[T]]:
        """What still waits, at the end of a recording."""
        return self._release(len(self._pending))

    def clear(self) -> None:
        """Forget what waits."""
        self._pending = []
        self._last_ns.clear()

    def _release(self, count: int) -> list[Moment[T]]:
        going = self._pending[: max(count, 0)]
        self._pending = self._pending[max(count, 0) :]
        self.without_reference += sum(0 not in one.items for one in going)
        whole = [one for one in going if 0 in one.items]
        self.incomplete += sum(len(one.items) < self._cameras for one in whole)
        return [Moment(dict(sorted(one.items.items()))) for one in whole]
