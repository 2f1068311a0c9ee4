"""The frames of a robot and the transforms between them, over the last seconds."""

from __future__ import annotations

import threading
import time as clocks
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from geometry_msgs.msg import TransformStamped
from pytransform3d.rotations import concatenate_quaternions, q_conj, q_prod_vector
from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.task import Future
from rclpy.time import Time
from tf2_msgs.srv import FrameGraph

from tf2_ros.exceptions import (
    ConnectivityException,
    ExtrapolationException,
    InvalidArgumentException,
    LookupException,
    TransformException,
)
from tf2_ros.time_cache import Link, StaticCache, TimeCache

# Source: geometry2, tf2/include/tf2/buffer_core.h.
DEFAULT_CACHE_NS = 10 * 10**9

_ONLY_IN_THE_REAL_BUFFER = (
    'lookup_transform_async',
    'lookup_transform_full_async',
    'registration',
    'transform',
    'transform_full',
    'wait_for_transform_full_async',
)


@dataclass(frozen=True)
class _Rigid:
    """target_from_source: unit quaternion wxyz (the order of pytransform3d) and translation in metres."""

    rotation: np.ndarray
    translation: np.ndarray

    @staticmethod
    def identity() -> _Rigid:
        return _Rigid(np.array([1.0, 0.0, 0.0, 0.0]), np.zeros(3))

    @staticmethod
    def of(link: Link) -> _Rigid:
        return _Rigid(link.pq[3:], link.pq[:3])

    def __matmul__(self, other: _Rigid) -> _Rigid:
        return _Rigid(
            concatenate_quaternions(self.rotation, other.rotation),
            q_prod_vector(self.rotation, other.translation) + self.translation,
        )

    def inverse(self) -> _Rigid:
        back = q_conj(self.rotation)
        return _Rigid(back, -q_prod_vector(back, self.translation))


class Buffer:
    """Stores transforms and answers how one frame is seen from another, at a time.

    Calls from several threads are safe. A time of zero asks for the latest time that both frames share.

    Args:
        cache_time: how long the past is kept; 10 s by default.
        node: gives the clock (the buffer forgets when it jumps back) and offers the service tf2_frames.
    """

    def __init__(self, cache_time: Duration | None = None, node: Node | None = None) -> None:
        self._keep_ns = DEFAULT_CACHE_NS if cache_time is None else _nanoseconds(cache_time)
        self._caches: dict[str, StaticCache | TimeCache] = {}
        self._authorities: dict[str, str] = {}
        self._frames: set[str] = set()
        self._changed = threading.Condition(threading.RLock())
        self._on_change: list[Callable[[], None]] = []
        if node is None:
            self.clock = Clock()
        else:
            self.clock = node.get_clock()
            self.srv = node.create_service(FrameGraph, 'tf2_frames', self._serve_frames)
        # One second: a /clock that is a little out of order has not started again. Source: tf2_ros_py buffer.py.
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-1), on_clock_change=True)
        self.jump_handle = self.clock.create_jump_callback(threshold, post_callback=self.time_jump_callback)

    def __getattr__(self, name: str) -> Any:
        if name in _ONLY_IN_THE_REAL_BUFFER:
            raise NotImplementedError(
                f'Buffer.{name} is not in this stand-in; install the real tf2_ros (apt: ros-<distro>-tf2-ros-py)'
            )
        raise AttributeError(f'neither tf2_ros.Buffer nor its stand-in from pypi_ros has {name!r}')

    def time_jump_callback(self, time_jump: TimeJump) -> None:
        """Forget all transforms but the static ones."""
        get_logger('tf2_buffer').warning('time jumped back: the transforms so far are forgotten')
        self.clear()

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Add a transform of one instant; one that makes no sense is logged and left out."""
        self._insert(transform, authority, is_static=False)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Add a transform that holds at every time."""
        self._insert(transform, authority, is_static=True)

    def clear(self) -> None:
        """Forget the past; the names of frames and the static transforms stay."""
        with self._changed:
            for cache in self._caches.values():
                cache.clear()

    def lookup_transform(
        self, target_frame: str, source_frame: str, time: Time, timeout: Duration | None = None
    ) -> TransformStamped:
        """The transform that takes a point of the source frame into the target frame.

        Args:
            target_frame: becomes header.frame_id.
            source_frame: becomes child_frame_id.
            time: rclpy Time or message; zero for the latest.
            timeout: how long to wait for the transform to become possible; not at all by default.

        Raises:
            LookupException: a frame is unknown.
            ConnectivityException: the frames are not joined.
            ExtrapolationException: the time lies outside of the stored transforms.
            InvalidArgumentException: a frame name is empty or starts with a slash.
        """
        self.can_transform(target_frame, source_frame, time, timeout)
        with self._changed:
            rigid, stamp_ns = self._lookup(target_frame, source_frame, _nanoseconds(time))
        return _message(target_frame, source_frame, rigid, stamp_ns)

    def lookup_transform_full(
        self,
        target_frame: str,
        target_time: Time,
        source_frame: str,
        source_time: Time,
        fixed_frame: str,
        timeout: Duration | None = None,
    ) -> TransformStamped:
        """As lookup_transform, with the source at one time and the target at another, through a fixed frame."""
        self.can_transform_full(target_frame, target_time, source_frame, source_time, fixed_frame, timeout)
        with self._changed:
            rigid, stamp_ns = self._lookup_full(
                target_frame, _nanoseconds(target_time), source_frame, _nanoseconds(source_time), fixed_frame
            )
        return _message(target_frame, source_frame, rigid, stamp_ns)

    def can_transform(
        self,
        target_frame: str,
        source_frame: str,
        time: Time,
        timeout: Duration | None = None,
        return_debug_tuple: bool = False,
    ) -> bool | tuple[bool, str]:
        """Whether lookup_transform would succeed, after waiting up to timeout; on request with the reason why not."""
        time_ns = _nanoseconds(time)
        return self._wait(lambda: self._lookup(target_frame, source_frame, time_ns), timeout, return_debug_tuple)

    def can_transform_full(
        self,
        target_frame: str,
        target_time: Time,
        source_frame: str,
        source_time: Time,
        fixed_frame: str,
        timeout: Duration | None = None,
        return_debug_tuple: bool = False,
    ) -> bool | tuple[bool, str]:
        """Whether lookup_transform_full would succeed."""
        target_ns, source_ns = _nanoseconds(target_time), _nanoseconds(source_time)
        return self._wait(
            lambda: self._lookup_full(target_frame, target_ns, source_frame, source_ns, fixed_frame),
            timeout,
            return_debug_tuple,
        )

    def wait_for_transform_async(self, target_frame: str, source_frame: str, time: Time) -> Future:
        """A future that gets the transform as soon as it is possible."""
        future: Future = Future()

        def fill() -> None:
            if not future.done() and self.can_transform(target_frame, source_frame, time):
                future.set_result(self.lookup_transform(target_frame, source_frame, time))

        with self._changed:
            fill()
            if not future.done():
                self._on_change.append(fill)
                future.add_done_callback(lambda _: self._on_change.remove(fill))
        return future

    def get_latest_common_time(self, target_frame: str, source_frame: str) -> Time:
        """The latest time at which both frames are known; zero where all between them is static.

        Raises:
            LookupException: a frame is unknown.
            TransformException: the frames are not joined.
        """
        with self._changed:
            for frame in (target_frame, source_frame):
                self._validate(frame)
            try:
                return Time(nanoseconds=self._latest_common_ns(target_frame, source_frame))
            except TransformException as error:
                raise TransformException(str(error)) from error  # of no narrower kind, as in tf2_py

    def all_frames_as_string(self) -> str:
        """One line for each frame that has a parent."""
        with self._changed:
            links = [(child, cache.latest()) for child, cache in self._caches.items()]
        return ''.join(f'Frame {child} exists with parent {link.parent}.\n' for child, link in links if link)

    def all_frames_as_yaml(self) -> str:
        """What the service tf2_frames answers: for each child frame its parent, sender, rate (1/s) and times (s)."""
        with self._changed:
            frames = {
                child: self._describe(child, cache)
                for child, cache in self._caches.items()
                if cache.latest() is not None
            }
        return yaml.safe_dump(frames, sort_keys=False) if frames else '[]'

    def _insert(self, transform: TransformStamped, authority: str, *, is_static: bool) -> None:
        parent = transform.header.frame_id.removeprefix('/')
        child = transform.child_frame_id.removeprefix('/')
        position, q = transform.transform.translation, transform.transform.rotation
        pq = np.array([position.x, position.y, position.z, q.w, q.x, q.y, q.z], dtype=np.float64)
        fault = _fault(parent, child, pq)
        if fault:
            get_logger('tf2_buffer').error(f'transform {parent!r} -> {child!r} of {authority!r} is left out: {fault}')
            return
        pq[3:] /= np.linalg.norm(pq[3:])
        link = Link(_nanoseconds(transform.header.stamp), parent, pq)
        with self._changed:
            cache = self._caches.get(child)
            if cache is None or cache.is_static != is_static:
                cache = StaticCache() if is_static else TimeCache(self._keep_ns)
                self._caches[child] = cache
            self._frames.update((parent, child))
            if not cache.insert(link):
                get_logger('tf2_buffer').warning(
                    f'transform {parent!r} -> {child!r} of {authority!r} is left out: it is older than the buffer'
                )
                return
            self._authorities[child] = authority
            self._changed.notify_all()
            waiting = list(self._on_change)
        for fill in waiting:
            fill()

    def _validate(self, frame: str) -> None:
        if not frame:
            raise InvalidArgumentException('a frame name is empty; expected a name such as "base_link"')
        if frame.startswith('/'):
            raise InvalidArgumentException(f'frame {frame!r} starts with a slash, which tf2 does not allow')
        if frame not in self._frames:
            raise LookupException(f'frame {frame!r} does not exist: no transform has named it yet')

    def _lookup(self, target: str, source: str, time_ns: int) -> tuple[_Rigid, int]:
        """target_from_source and its time; the lock is held by the caller."""
        if target == source:
            return _Rigid.identity(), time_ns or self._latest_common_ns(target, source)
        self._validate(target)
        self._validate(source)
        if time_ns == 0:
            time_ns = self._latest_common_ns(target, source)

        # Up from the source as far as the time allows, keeping ancestor_from_source for every ancestor.
        ancestors = {source: _Rigid.identity()}
        frame, broken = source, None
        while frame != target and frame in self._caches:
            try:
                link = self._caches[frame].at(time_ns, frame)
            except ExtrapolationException as error:
                broken = error  # the target may still hang below this frame
                break
            if link.parent in ancestors:
                raise LookupException(f'the frames form a loop: {" -> ".join([*ancestors, link.parent])}')
            ancestors[link.parent] = _Rigid.of(link) @ ancestors[frame]
            frame = link.parent

        # Up from the target until the two chains meet.
        above_target = _Rigid.identity()
        frame, seen = target, {target}
        while frame not in ancestors:
            if frame not in self._caches:
                raise broken or ConnectivityException(
                    f'{target!r} and {source!r} are not joined: their roots are {frame!r} and {list(ancestors)[-1]!r}'
                )
            link = self._caches[frame].at(time_ns, frame)
            if link.parent in seen:
                raise LookupException(f'the frames form a loop at {link.parent!r}')
            seen.add(link.parent)
            above_target = _Rigid.of(link) @ above_target
            frame = link.parent
        return above_target.inverse() @ ancestors[frame], time_ns

    def _lookup_full(self, target: str, target_ns: int, source: str, source_ns: int, fixed: str) -> tuple[_Rigid, int]:
        for frame in (target, source, fixed):
            self._validate(frame)
        fixed_from_source, _ = self._lookup(fixed, source, source_ns)
        target_from_fixed, stamp_ns = self._lookup(target, fixed, target_ns)
        return target_from_fixed @ fixed_from_source, stamp_ns

    def _latest_common_ns(self, target: str, source: str) -> int:
        """The oldest among the newest stamps of the links that join two frames; 0 if all of them are static.

        Of a frame and itself: the stamp of the newest link above it.
        """
        if target == source:
            cache = self._caches.get(target)
            newest = cache.latest() if cache is not None and not cache.is_static else None
            return newest.stamp_ns if newest is not None else 0
        source_chain, target_chain = self._newest_chain(source), self._newest_chain(target)
        meeting = next((frame for frame in target_chain if frame in source_chain), None)
        if meeting is None:
            raise ConnectivityException(f'{target!r} and {source!r} are not joined by any chain of transforms')
        stamps = []
        for chain in (source_chain, target_chain):
            for frame, stamp_ns in chain.items():
                if frame == meeting:
                    break
                if stamp_ns:
                    stamps.append(stamp_ns)
        return min(stamps, default=0)

    def _newest_chain(self, frame: str) -> dict[str, int]:
        """The frame and its ancestors by their newest links, each with the stamp of the link above it (0 if static)."""
        chain: dict[str, int] = {}
        while True:
            cache = self._caches.get(frame)
            link = cache.latest() if cache is not None else None
            if frame in chain:
                raise LookupException(f'the frames form a loop: {" -> ".join([*chain, frame])}')
            if cache is None or link is None:
                chain[frame] = 0
                return chain
            chain[frame] = 0 if cache.is_static else link.stamp_ns
            frame = link.parent

    def _wait(
        self, attempt: Callable[[], object], timeout: Duration | None, with_reason: bool
    ) -> bool | tuple[bool, str]:
        # Steady time, as the real one: with the clock of a bag that has ended the wait would never end.
        deadline = clocks.monotonic() + (0.0 if timeout is None else _nanoseconds(timeout) * 1e-9)
        with self._changed:
            while True:
                try:
                    attempt()
                except TransformException as error:
                    left = deadline - clocks.monotonic()
                    if left > 0:
                        self._changed.wait(left)
                        continue
                    return (False, str(error)) if with_reason else False
                return (True, '') if with_reason else True

    def _describe(self, child: str, cache: StaticCache | TimeCache) -> dict[str, str | float]:
        link = cache.latest()
        assert link is not None
        stamps = cache.stamps_ns()
        newest, oldest = (stamps[-1] * 1e-9, stamps[0] * 1e-9) if stamps else (0.0, 0.0)
        return {
            'parent': link.parent,
            'broadcaster': self._authorities[child],
            # The floor of 0.1 ms, which makes 10000 of a static link, is tf2's. Source: buffer_core.cpp.
            'rate': round(max(len(stamps), 1) / max(newest - oldest, 1e-4), 3),
            'most_recent_transform': round(newest, 6),
            'oldest_transform': round(oldest, 6),
            'buffer_length': round(newest - oldest, 3),
        }

    def _serve_frames(self, request: FrameGraph.Request, response: FrameGraph.Response) -> FrameGraph.Response:
        response.frame_yaml = self.all_frames_as_yaml()
        return response


def _fault(parent: str, child: str, pq: np.ndarray) -> str:
    """Why a transform cannot be stored, or nothing."""
    if not parent or not child:
        return 'a frame name is empty'
    if parent == child:
        return 'a frame cannot be its own parent'
    if np.isnan(pq).any():
        return 'it holds NaN'
    # Any other length is brought to one. So does tf2, before it compares with the tolerance in its buffer_core.cpp,
    # which therefore never acts (measured: a quaternion of length 1.1 is taken).
    if not pq[3:].any():
        return 'all of its quaternion is zero'
    return ''


def _nanoseconds(time: Any) -> int:
    """Time or Duration of rclpy or of a message, in nanoseconds."""
    if hasattr(time, 'nanosec'):
        return int(time.sec) * 10**9 + int(time.nanosec)
    if hasattr(time, 'nanoseconds'):
        return int(time.nanoseconds)
    raise TypeError(f'expected a Time or Duration of rclpy or builtin_interfaces, got {type(time).__name__}')


def _message(target: str, source: str, rigid: _Rigid, stamp_ns: int) -> TransformStamped:
    message = TransformStamped(child_frame_id=source)
    message.header.frame_id = target
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = map(float, rigid.translation)
    rotation.w, rotation.x, rotation.y, rotation.z = map(float, rigid.rotation)
    return message
