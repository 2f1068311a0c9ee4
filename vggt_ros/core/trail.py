"""Trail: the poses of all frames, each fixed to the window that placed it, so that it moves with that window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.core.geometry import Sim3, rotation_from_vector, vector_from_rotation


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Frames of one window: stamps, poses in it and whether they are known, or only held at the last that was."""

    stamps_ns: np.ndarray
    window_from_cam: np.ndarray
    is_known: np.ndarray

    def take(self, kept: np.ndarray) -> _Chunk:
        return _Chunk(self.stamps_ns[kept], self.window_from_cam[kept], self.is_known[kept])


class Trail:
    """The way of the camera, bounded: windows beyond max_windows leave, the oldest first.

    Args:
        max_windows: windows remembered.
    """

    def __init__(self, max_windows: int) -> None:
        self.max_windows = max_windows
        self.map_from_windows: dict[int, Sim3] = {}
        self._chunks: dict[int, list[_Chunk]] = {}
        self._unknown: dict[int, int] = {}  # stamp -> window, of frames without a pose of their own

    def add(
        self,
        index: int,
        map_from_window: Sim3,
        stamps_ns: Sequence[int],
        map_from_cams: np.ndarray,
        is_known: np.ndarray,
        shared: int = 0,
    ) -> None:
        """Frames of a window; those before `shared` count only where no window knew their pose.

        Args:
            index: number of the window to fix them to; it may have frames already.
            map_from_window: its place.
            stamps_ns: S stamps, rising.
            map_from_cams: [S, 4, 4] poses in the map.
            is_known: [S] whether the poses are measured; others are held.
            shared: frames that an earlier window holds too.
        """
        self.map_from_windows[index] = map_from_window
        learnt = [i for i in range(shared) if is_known[i] and stamps_ns[i] in self._unknown]
        for i in learnt:
            self._drop(stamps_ns[i])
        rows = np.array([*learnt, *range(shared, len(stamps_ns))], dtype=int)
        stamps = np.asarray(stamps_ns, dtype=np.int64)[rows]
        in_window = map_from_window.inverse().transform_pose(map_from_cams[rows])
        self._chunks.setdefault(index, []).append(_Chunk(stamps, in_window, np.asarray(is_known)[rows]))
        self._unknown.update({int(stamp): index for stamp in stamps[~np.asarray(is_known)[rows]]})
        while len(self.map_from_windows) > self.max_windows:
            self._forget(next(iter(self.map_from_windows)))

    def doubt(self, index: int) -> None:
        """The poses of a window's frames are not known after all."""
        for i, chunk in enumerate(self._chunks.get(index, [])):
            unknown = np.zeros(len(chunk.stamps_ns), dtype=bool)
            self._chunks[index][i] = _Chunk(chunk.stamps_ns, chunk.window_from_cam, unknown)
            self._unknown.update({int(stamp): index for stamp in chunk.stamps_ns})

    def move(self, map_from_windows: Mapping[int, Sim3]) -> None:
        """Put windows elsewhere, their frames with them."""
        for index in self.map_from_windows.keys() & map_from_windows.keys():
            self.map_from_windows[index] = map_from_windows[index]

    def poses(self, last: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Stamps [N] int64, rising, and poses [N, 4, 4] of all frames, or of about the `last` ones.

        Frames without a pose of their own lie between their neighbours: on the straight way, turning evenly.
        """
        chunks: list[_Chunk] = []
        places: list[Sim3] = []
        count = 0
        for index in reversed(self._chunks):
            for chunk in self._chunks[index]:
                chunks.append(chunk)
                places.append(self.map_from_windows[index])
                count += len(chunk.stamps_ns)
            if last is not None and count >= last:
                break
        if not count:
            return np.zeros(0, np.int64), np.zeros((0, 4, 4))
        stamps = np.concatenate([chunk.stamps_ns for chunk in chunks])
        is_known = np.concatenate([chunk.is_known for chunk in chunks])
        # all at once: window by window the way of an hour takes a tenth of a second
        poses = np.concatenate([chunk.window_from_cam for chunk in chunks])
        row = np.repeat(np.arange(len(places)), [len(chunk.stamps_ns) for chunk in chunks])
        scale = np.array([place.scale for place in places])
        R, t = np.stack([place.R for place in places]), np.stack([place.t for place in places])
        poses[:, :3, 3] = scale[row, None] * (R[row] @ poses[:, :3, 3, None])[..., 0] + t[row]
        poses[:, :3, :3] = R[row] @ poses[:, :3, :3]
        order = np.argsort(stamps, kind='stable')
        stamps, poses = stamps[order], _interpolated(stamps[order], poses[order], is_known[order])
        return (stamps, poses) if last is None else (stamps[-last:], poses[-last:])

    def _drop(self, stamp_ns: int) -> None:
        index = self._unknown.pop(stamp_ns)
        self._chunks[index] = [chunk.take(chunk.stamps_ns != stamp_ns) for chunk in self._chunks[index]]

    def _forget(self, index: int) -> None:
        del self.map_from_windows[index]
        for chunk in self._chunks.pop(index, []):
            for stamp in chunk.stamps_ns[~chunk.is_known]:
                self._unknown.pop(int(stamp), None)


def _interpolated(stamps_ns: np.ndarray, poses: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    if is_known.all() or is_known.sum() < 2:
        return poses
    known, seconds = np.flatnonzero(is_known), (stamps_ns - stamps_ns[0]) * 1e-9
    lost = np.flatnonzero(~is_known & (np.arange(len(poses)) > known[0]) & (np.arange(len(poses)) < known[-1]))
    if len(lost):
        after = known[np.searchsorted(known, lost)]
        before = known[np.searchsorted(known, lost) - 1]
        share = (seconds[lost] - seconds[before]) / (seconds[after] - seconds[before])
        start = poses[before, :3, :3]
        turn = vector_from_rotation(np.swapaxes(start, 1, 2) @ poses[after, :3, :3])
        poses[lost, :3, :3] = start @ rotation_from_vector(share[:, None] * turn)
        for axis in range(3):
            poses[lost, axis, 3] = np.interp(seconds[lost], seconds[known], poses[known, axis, 3])
    # before the first and after the last that are known there is nothing to lie between
    poses[: known[0]] = poses[known[0]]
    return poses
