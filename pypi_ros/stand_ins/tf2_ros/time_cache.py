"""The transforms of one child frame over time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import numpy as np
from pytransform3d.transformations import pq_slerp

from tf2_ros.exceptions import ExtrapolationException


@dataclass(frozen=True)
class Link:
    """parent_from_child at one instant.

    pq: [7] position in metres and quaternion: x, y, z, qw, qx, qy, qz (the order of pytransform3d, not of ROS).
    """

    stamp_ns: int
    parent: str
    pq: np.ndarray

    def equals(self, other: Link) -> bool:
        return self.stamp_ns == other.stamp_ns and self.parent == other.parent and np.array_equal(self.pq, other.pq)


class StaticCache:
    """A link that holds at every time; a new one replaces it."""

    is_static = True

    def __init__(self) -> None:
        self._link: Link | None = None

    def insert(self, link: Link) -> bool:
        self._link = link
        return True

    def clear(self) -> None:
        """Keep the link: a jump in time does not move what is bolted on."""

    def at(self, stamp_ns: int, child: str) -> Link:
        assert self._link is not None, f'static cache of {child!r} is made together with its link'
        return self._link

    def latest(self) -> Link | None:
        return self._link

    def stamps_ns(self) -> list[int]:
        return []


@dataclass
class TimeCache:
    """Links of one child in order of time, no older than keep_ns before the newest.

    Rules that are easy to miss (Source: tf2/src/cache.cpp): old links go when the next one comes, a link older than
    the whole cache is refused, two different links of one stamp are both kept, and a reparented child is not
    interpolated across the change.
    """

    keep_ns: int
    is_static = False
    _links: list[Link] = field(default_factory=list)
    _stamps: list[int] = field(default_factory=list)

    def insert(self, link: Link) -> bool:
        """Store the link; False where it is older than what the cache may hold."""
        if self._stamps:
            oldest_allowed = self._stamps[-1] - self.keep_ns
            expired = bisect_left(self._stamps, oldest_allowed)
            del self._links[:expired], self._stamps[:expired]
            if link.stamp_ns < oldest_allowed:
                return False
        first = bisect_left(self._stamps, link.stamp_ns)
        after = bisect_right(self._stamps, link.stamp_ns)
        if not any(link.equals(other) for other in self._links[first:after]):
            self._links.insert(after, link)
            self._stamps.insert(after, link.stamp_ns)
        return True

    def clear(self) -> None:
        self._links.clear()
        self._stamps.clear()

    def latest(self) -> Link | None:
        return self._links[-1] if self._links else None

    def stamps_ns(self) -> list[int]:
        return list(self._stamps)

    def at(self, stamp_ns: int, child: str) -> Link:
        """The link at a time: stored, or between two stored ones (position linear, rotation slerp).

        Args:
            stamp_ns: time; 0 means the newest.
            child: frame name for the error text.

        Raises:
            ExtrapolationException: the time is outside of what is stored.
        """
        if not self._links:
            raise ExtrapolationException(f'no transform of {child!r} is stored, so none for {_seconds(stamp_ns)}')
        if stamp_ns in (0, self._stamps[-1]):
            return self._links[-1]
        if stamp_ns == self._stamps[0]:
            return self._links[0]
        if len(self._links) == 1:
            raise ExtrapolationException(
                f'extrapolation at {_seconds(stamp_ns)}: '
                f'the only transform of {child!r} is at {_seconds(self._stamps[0])}'
            )
        if stamp_ns > self._stamps[-1]:
            raise ExtrapolationException(
                f'extrapolation into the future: asked for {_seconds(stamp_ns)}, '
                f'the newest transform of {child!r} is at {_seconds(self._stamps[-1])}'
            )
        if stamp_ns < self._stamps[0]:
            raise ExtrapolationException(
                f'extrapolation into the past: asked for {_seconds(stamp_ns)}, '
                f'the oldest transform of {child!r} is at {_seconds(self._stamps[0])}'
            )
        newer_index = bisect_right(self._stamps, stamp_ns)
        older, newer = self._links[newer_index - 1], self._links[newer_index]
        if older.parent != newer.parent:
            return older
        fraction = (stamp_ns - older.stamp_ns) / (newer.stamp_ns - older.stamp_ns)
        return Link(stamp_ns, older.parent, pq_slerp(older.pq, newer.pq, fraction))


def _seconds(stamp_ns: int) -> str:
    return f'{stamp_ns // 10**9}.{stamp_ns % 10**9:09d} s'
