"""StaticTransforms: the tree of /tf_static, to look up where a camera is mounted without any ROS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vggt_ros.core.errors import EncodingError
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.decode import stamp_ns
from vggt_ros.decode_sensors import pose_matrix


def edges_of(message: Any) -> Iterator[tuple[str, str, int, np.ndarray]]:
    """Child, parent, stamp in ns and [4, 4] parent_from_child of each transform of a tf2_msgs/TFMessage.

    Raises:
        EncodingError: a transform is not finite, or its quaternion not of length 1; after all the others.
    """
    wrong = []
    for one in message.transforms:
        child, parent = one.child_frame_id.lstrip('/'), one.header.frame_id.lstrip('/')
        try:
            parent_from_child = pose_matrix(one.transform)
        except EncodingError as error:
            wrong.append(f'{parent!r} -> {child!r}: {error}')
            continue
        yield child, parent, stamp_ns(one.header.stamp), parent_from_child
    if wrong:
        raise EncodingError('; '.join(wrong))


class StaticTransforms:
    """Rigid edges between frames, each frame below one parent; the last one said of a frame counts, as in tf2."""

    def __init__(self) -> None:
        self.edges: dict[str, tuple[str, np.ndarray]] = {}  # child -> parent, parent_from_child

    def add(self, message: Any) -> None:
        """Take the transforms of a tf2_msgs/TFMessage; EncodingError tells of those that are none, after the others."""
        for child, parent, _, parent_from_child in edges_of(message):
            self.edges[child] = parent, parent_from_child

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
