"""Keyframes -> overlapping windows, the model's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vggt_ros.core.config import WindowConfig
from vggt_ros.core.frame import Frame


@dataclass(frozen=True, eq=False)
class Window:
    """Frames that one model call sees, oldest first.

    Args:
        frames: S frames of one size.
        shared: how many of them, from the front, were in the window before.
        is_bridge: whether the first of them come from further back; their depth is wanted as well.
    """

    frames: tuple[Frame, ...]
    shared: int
    is_bridge: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Windows of one stream that have the same are the same: frames, and which of them are new."""
        return self.shared, self.is_bridge, *(frame.key for frame in self.frames)

    @property
    def new(self) -> tuple[Frame, ...]:
        """The frames that no window held before."""
        return self.frames[self.shared :]

    def narrowed(self) -> Window | None:
        """The same new frames beside the newer half of the shared ones; None where that would leave none."""
        kept = self.shared // 2
        return Window(self.frames[self.shared - kept :], kept) if kept else None


class WindowBuffer:
    """Sliding window over keyframes: the first is emitted when full, later ones every `stride` keyframes."""

    def __init__(self, config: WindowConfig) -> None:
        self.config = config
        self._frames: list[Frame] = []
        self._shared = 0
        self._is_bridge = False

    @property
    def waiting(self) -> int:
        """Frames that no window held so far."""
        return len(self._frames) - self._shared

    def add(self, frame: Frame) -> Window | None:
        """Take the next keyframe; return a window when it completes one."""
        self._frames.append(frame)
        return self._emit() if len(self._frames) >= self.config.size else None

    def foresee(self, keyframes: Sequence[Frame]) -> Window | None:
        """The next window, if these keyframes come next and are enough for one; nothing is changed."""
        frames = (*self._frames, *keyframes)[: self.config.size]
        return Window(frames, self._shared, self._is_bridge) if len(frames) == self.config.size else None

    def flush(self) -> Window | None:
        """The frames still waiting, as a last and shorter window; None where none wait."""
        return self._emit() if self.waiting else None

    def retract(self, window: Window) -> None:
        """The window just emitted came to nothing: its new frames that are still here count as new again."""
        gone = len(window.frames) - len(self._frames)
        self._shared = max(0, window.shared - gone)

    def begin_with(self, trusted: Window) -> None:
        """The window just emitted is not believed: half of what the next one shares comes from an earlier one."""
        count = (len(self._frames) + 1) // 2
        if count:
            self._frames[:count] = trusted.frames[-count:]
            self._is_bridge = True

    def reset(self) -> int:
        """Forget everything; the next window shares nothing.

        Returns:
            How many frames that no window held are lost by that.
        """
        waiting = self.waiting
        self._frames, self._shared, self._is_bridge = [], 0, False
        return waiting

    def resize(self, config: WindowConfig) -> int:
        """Take other sizes from the next window on; of the frames waiting the newest stay, where there are too many.

        Returns:
            How many frames that no window held are lost by that.
        """
        self.config = config
        waiting, surplus = self.waiting, max(0, len(self._frames) - (config.size - 1))
        self._frames = self._frames[surplus:]
        self._shared = max(0, self._shared - surplus)
        return waiting - self.waiting

    def halve(self, window: Window) -> list[Window]:
        """The window just emitted is too large: it falls into smaller ones, and later ones are as small.

        Args:
            window: of any number of new frames.

        Returns:
            Windows of half the frames, rounded up, that together have all its new ones, each sharing frames with the
            one before; empty where the window is a single frame.
        """
        size = (len(window.frames) + 1) // 2
        if size == len(window.frames):
            return []
        shared = min(self.config.size - self.config.stride, size // 2)
        self.config = WindowConfig(size, size - shared)
        self._frames = self._frames[-shared:] if shared else []
        self._shared = min(self._shared, len(self._frames))
        parts: list[Window] = []
        begin = max(0, window.shared - shared)
        known = window.shared
        while known < len(window.frames):
            end = min(begin + size, len(window.frames))
            parts.append(Window(window.frames[begin:end], known - begin, window.is_bridge and not parts))
            begin, known = end - shared, end
        return parts

    def _emit(self) -> Window:
        window = Window(tuple(self._frames), self._shared, self._is_bridge)
        keep = self.config.size - self.config.stride
        self._frames = self._frames[-keep:] if keep else []
        self._shared, self._is_bridge = len(self._frames), False
        return window
