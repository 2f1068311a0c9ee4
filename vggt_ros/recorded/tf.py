"""RecordedTransforms: the tree of /tf and /tf_static of a recording, at any stamp, without any ROS."""

from __future__ import annotations

from typing import Any

import numpy as np

from vggt_ros.core.geometry import invert_rigid
from vggt_ros.core.metric.pose_track import PoseTrack
from vggt_ros.recorded.static_tf import StaticTransforms, edges_of


class RecordedTransforms:
    """Fixed and moving edges between frames; the mounts that core.evidence asks for.

    Args:
        fixed: edges that never move.
    """

    def __init__(self, fixed: StaticTransforms | None = None) -> None:
        self.fixed = fixed or StaticTransforms()
        self._moving: dict[str, tuple[str, PoseTrack]] = {}  # child -> parent, parent_from_child over time

    def add_fixed(self, parent: str, child: str, parent_from_child: np.ndarray) -> None:
        """An edge that the recording does not have."""
        self.fixed.edges.setdefault(child, (parent, parent_from_child))

    def add_moving(self, message: Any) -> None:
        """Take the transforms of a tf2_msgs/TFMessage of /tf; EncodingError as StaticTransforms.add."""
        for child, parent, stamp, parent_from_child in edges_of(message):
            if child not in self._moving or self._moving[child][0] != parent:
                self._moving[child] = parent, PoseTrack()
            self._moving[child][1].add(stamp, parent_from_child)

    def find(self, target: str, source: str, stamp_ns: int) -> np.ndarray | None:
        """[4, 4] target_from_source at a stamp; None where the two are not in one tree then."""
        above_source, above_target = self._ancestors(source, stamp_ns), self._ancestors(target, stamp_ns)
        common = next((frame for frame in above_source if frame in above_target), None)
        return None if common is None else invert_rigid(above_target[common]) @ above_source[common]

    def _ancestors(self, frame: str, stamp_ns: int) -> dict[str, np.ndarray]:
        """Each frame from this one up to the root -> ancestor_from_frame."""
        found = {frame: np.eye(4)}
        while True:
            parent, parent_from_child = self._edge(frame, stamp_ns)
            if parent_from_child is None or parent in found:
                return found
            found[parent] = parent_from_child @ found[frame]
            frame = parent

    def _edge(self, child: str, stamp_ns: int) -> tuple[str, np.ndarray | None]:
        if child in self._moving:
            parent, track = self._moving[child]
            return parent, track.at(stamp_ns)
        return self.fixed.edges.get(child, ('', None))
