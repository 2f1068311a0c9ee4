"""Views: the keyframes that a map is remembered by, without those that show nothing new, of bounded number.

A camera that stands, or comes by again, sees what is known: a view from the same place with the same heading as one
that is kept adds nothing and is dropped. What is kept of the others is small: pose, intrinsics, a thumbnail of depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from vggt_ros.core.config import MapConfig
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.submap import PlacedFrame

THUMBNAIL = 64  # columns of the depth that is kept: 12 kB a view, a degree a pixel


@dataclass(frozen=True, eq=False)
class View:
    """A keyframe as it is remembered.

    Args:
        stamp_ns, frame_id: those of the source image.
        size: (height, width) of the image that K belongs to.
        K: [3, 3] intrinsics, pixel centres at integers.
        map_from_cam: [4, 4] rigid pose of the optical frame.
        depth: [h, w] float32 every `stride`-th row and column of the depth image; NaN where unknown.
        stride: pixels of the image a pixel of depth.
    """

    stamp_ns: int
    frame_id: str
    size: tuple[int, int]
    K: np.ndarray
    map_from_cam: np.ndarray
    depth: np.ndarray
    stride: int

    @staticmethod
    def of(frame: PlacedFrame) -> View:
        """What is remembered of a frame."""
        height, width = frame.depth.shape
        stride = max(1, math.ceil(width / THUMBNAIL))
        depth = frame.depth[::stride, ::stride].astype(np.float32)
        return View(frame.stamp_ns, frame.frame_id, (height, width), frame.K, frame.map_from_cam, depth, stride)

    @property
    def median_depth(self) -> float:
        """Of the pixels that are known; NaN where none is."""
        known = self.depth[np.isfinite(self.depth)]
        return float(np.median(known)) if known.size else float('nan')

    def moved(self, output_from_before: Sim3) -> View:
        """After the map was turned, shifted and scaled."""
        pose = output_from_before.transform_pose(self.map_from_cam)
        return replace(self, map_from_cam=pose, depth=self.depth * np.float32(output_from_before.scale))


class Views:
    """Keyframes that differ in place or heading; where there are too many, the one most like another goes.

    Args:
        config: how far apart views must be, and how many are kept.
        is_thinned: views that show nothing new are dropped; else only what is too many.
    """

    def __init__(self, config: MapConfig, *, is_thinned: bool = True) -> None:
        self.config, self._is_thinned = config, is_thinned
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self._views: dict[int, View] = {}  # by number, rising
        self._output_from_kept = Sim3.identity()  # all below lies where the map lay when the first view came
        self._next = 0
        self._number = np.zeros(0, np.int64)  # of each row below
        self._place = np.zeros((0, 3))
        self._axis = np.zeros((0, 3))  # of sight, unit length
        self._yard = np.zeros(0)  # how far is far, map units
        self._nearest = np.zeros(0)  # difference from the most similar other view
        self._twin = np.zeros(0, np.int64)  # its number

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[View]:
        """In the order of their stamps, where they lie now."""
        views = sorted(self._views.values(), key=lambda view: view.stamp_ns)
        return (view.moved(self._output_from_kept) for view in views)

    def add(self, frame: PlacedFrame) -> bool:
        """Whether the frame shows something new and is kept."""
        view = View.of(frame).moved(self._output_from_kept.inverse())
        depth = view.median_depth
        if not math.isfinite(depth):
            return False  # it shows nothing
        place, axis, yard = view.map_from_cam[:3, 3], view.map_from_cam[:3, 2], self.config.view_min_shift * depth
        difference = self._difference(place, axis, yard)
        if self._is_thinned and len(self) and difference.min() < 1:
            return False
        self._append(view, place, axis, yard, difference)
        if len(self) > self.config.map_max_views:
            self._drop(int(np.argmin(self._nearest)))
        return self._next - 1 in self._views

    def move(self, output_from_before: Sim3 | None) -> None:
        """The map was turned, shifted or scaled (Update.output_from_before): the views go along."""
        if output_from_before is not None:
            self._output_from_kept = output_from_before @ self._output_from_kept

    def _difference(self, place: np.ndarray, axis: np.ndarray, yard: float) -> np.ndarray:
        """[N] from each view: below 1 it shows the same. Shift over what counts as far, and turn likewise."""
        shift = np.linalg.norm(self._place - place, axis=1) / np.minimum(self._yard, yard)
        turn = np.arccos(np.clip(self._axis @ axis, -1.0, 1.0)) / math.radians(self.config.view_min_angle_deg)
        return np.hypot(shift, turn)

    def _append(self, view: View, place: np.ndarray, axis: np.ndarray, yard: float, difference: np.ndarray) -> None:
        closer = difference < self._nearest
        self._nearest[closer], self._twin[closer] = difference[closer], self._next
        twin = int(np.argmin(difference)) if len(difference) else -1
        self._views[self._next] = view
        self._number = np.append(self._number, self._next)
        self._place = np.vstack([self._place, place])
        self._axis = np.vstack([self._axis, axis])
        self._yard = np.append(self._yard, yard)
        self._nearest = np.append(self._nearest, difference[twin] if twin >= 0 else np.inf)
        self._twin = np.append(self._twin, self._number[twin] if twin >= 0 else -1)
        self._next += 1

    def _drop(self, row: int) -> None:
        gone = int(self._number[row])
        del self._views[gone]
        for name in ('_number', '_place', '_axis', '_yard', '_nearest', '_twin'):
            setattr(self, name, np.delete(getattr(self, name), row, axis=0))
        for other in np.flatnonzero(self._twin == gone):
            difference = self._difference(self._place[other], self._axis[other], self._yard[other])
            difference[other] = np.inf
            twin = int(np.argmin(difference))
            self._nearest[other], self._twin[other] = difference[twin], self._number[twin]
