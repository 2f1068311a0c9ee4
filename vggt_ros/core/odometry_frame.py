"""OdometryFrame: where odometry lies in the map. A corrected map moves it, so that odometry itself never jumps.

Source: REP 105: the pose in odom is continuous, corrections go into map -> odom.
"""

from __future__ import annotations

import numpy as np

from vggt_ros.core.geometry import invert_rigid


class OdometryFrame:
    """Between corrections our odometry is the pose in the map, seen from a frame that stands still in it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A new map: both frames begin as one."""
        self.map_from_odom = np.eye(4)

    def correct(self, old_map_from_cam: np.ndarray, new_map_from_cam: np.ndarray) -> None:
        """The newest pose [4, 4] lies elsewhere in the map now; in odometry it stays."""
        self.map_from_odom = new_map_from_cam @ invert_rigid(old_map_from_cam) @ self.map_from_odom
