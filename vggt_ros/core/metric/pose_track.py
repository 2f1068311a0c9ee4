"""PoseTrack: stamped rigid poses of the last seconds, asked at stamps between them."""

from __future__ import annotations

from bisect import bisect_left

import cv2
import numpy as np

from vggt_ros.core.errors import ShapeError
from vggt_ros.core.geometry import nearest_rotation

TIME_JUMP_NS = 1_000_000_000  # further back than this is another run of the clock, not a late message


class PoseTrack:
    """Poses by stamp, bounded in time.

    Args:
        keep_s: how long a pose is remembered, seconds of its own stamps.
        max_gap_s: between two poses further apart than this nothing is said: a source that died is not interpolated.
    """

    def __init__(self, keep_s: float = 60.0, max_gap_s: float = 0.5) -> None:
        self._keep_ns, self._max_gap_ns = round(keep_s * 1e9), round(max_gap_s * 1e9)
        self._stamps_ns: list[int] = []
        self._poses: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._stamps_ns)

    def add(self, stamp_ns: int, target_from_body: np.ndarray) -> None:
        """Take a [4, 4] rigid pose; one that is late by a little finds its place, one far back starts anew.

        Raises:
            ShapeError: it is no finite rigid transform.
        """
        if target_from_body.shape != (4, 4) or not _is_rigid(target_from_body):
            raise ShapeError(f'a pose must be a finite rigid [4, 4], got {target_from_body!r}')
        if self._stamps_ns and stamp_ns < self._stamps_ns[-1] - TIME_JUMP_NS:
            self._stamps_ns, self._poses = [], []
        at = bisect_left(self._stamps_ns, stamp_ns)
        if at < len(self._stamps_ns) and self._stamps_ns[at] == stamp_ns:
            self._poses[at] = target_from_body
            return
        self._stamps_ns.insert(at, stamp_ns)
        self._poses.insert(at, target_from_body)
        stale = bisect_left(self._stamps_ns, self._stamps_ns[-1] - self._keep_ns)
        if stale > len(self._stamps_ns) // 2:  # in bulk: a list loses its front in linear time
            del self._stamps_ns[:stale], self._poses[:stale]

    def at(self, stamp_ns: int) -> np.ndarray | None:
        """[4, 4] pose at a stamp, between its neighbours; None before the first, after the last and within a gap."""
        after = bisect_left(self._stamps_ns, stamp_ns)
        if after == len(self._stamps_ns):
            return None
        if self._stamps_ns[after] == stamp_ns:
            return self._poses[after]
        if after == 0:
            return None
        start_ns, end_ns = self._stamps_ns[after - 1], self._stamps_ns[after]
        if end_ns - start_ns > self._max_gap_ns:
            return None
        share = (stamp_ns - start_ns) / (end_ns - start_ns)
        return interpolate_rigid(self._poses[after - 1], self._poses[after], share)


def interpolate_rigid(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    """The [4, 4] rigid pose a share of the way from start to end: a straight shift, and a turn about one axis."""
    rotvec, _ = cv2.Rodrigues(start[:3, :3].T @ end[:3, :3])
    turn, _ = cv2.Rodrigues(share * rotvec)
    between = np.eye(4)
    between[:3, :3] = nearest_rotation(start[:3, :3] @ turn)
    between[:3, 3] = (1 - share) * start[:3, 3] + share * end[:3, 3]
    return between


def _is_rigid(pose: np.ndarray) -> bool:
    R = pose[:3, :3]
    return bool(np.isfinite(pose).all()) and bool(np.abs(R @ R.T - np.eye(3)).max() < 1e-3)
