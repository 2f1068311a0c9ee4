"""StaticTransforms: the tree of /tf_static, to look up where a camera is mounted without any ROS."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vggt_ros.core.geometry import invert_rigid


class StaticTransforms:
    """Rigid edges between frames, each frame below one parent; the last one said of a frame counts, as in tf2."""

    def __init__(self) -> None:
        self.edges: dict[str, tuple[str, np.ndarray]] = {}  # child -> parent, parent_from_child

    def add(self, message: Any) -> None:
        """Take the transforms of a tf2_msgs/TFMessage."""
        for one in message.transforms:
            p, q = one.transform.translation, one.transform.rotation
            parent_from_child = np.eye(4)
            parent_from_child[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
            parent_from_child[:3, 3] = p.x, p.y, p.z
            self.edges[one.child_frame_id.lstrip('/')] = one.header.frame_id.lstrip('/'), parent_from_child

    def find(self, target: str, source: str) -> np.ndarray | None:
        """[4, 4] target_from_source; None where the two are not in one tree."""
        above_source, above_target = self._ancestors(source), self._ancestors(target)
        common = next((frame for frame in above_source if frame in above_target), None)
        if common is None:
            return None
        return invert_rigid(above_target[common]) @ above_source[common]

    def _ancestors(self, frame: str) -> dict[str, np.ndarray]:
        """Each frame from this one up to the root -> ancestor_from_frame."""
        found = {frame: np.eye(4)}
        while frame in self.edges:
            parent, parent_from_child = self.edges[frame]
            if parent in found:
                break  # a loop: nothing new above
            found[parent] = parent_from_child @ found[frame]
            frame = parent
        return found
