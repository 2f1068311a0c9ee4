"""Which way is up: the map is turned level by what an IMU measured while the first window was seen."""

from __future__ import annotations

import logging
import math

import cv2
import numpy as np

from vggt_ros.core.config import ScaleConfig
from vggt_ros.core.geometry import rotation_angle
from vggt_ros.core.metric.evidence import Evidence
from vggt_ros.core.prediction import Prediction

log = logging.getLogger(__name__)

BEFORE_NS = 500_000_000  # heard before the first image too: the longer the mean, the less of it is shaking
MIN_READINGS = 5
MAX_SPREAD = math.radians(20)  # of the readings: a robot that shakes more was not asked while it stood
MAX_TILT = {  # how far the map's z may be from true up
    'mount': math.radians(15),  # a robot on a ramp, its suspension, and the drift of the window's turn
    'imu': math.radians(10),
    'none': math.radians(45),
}


def measure_up(prediction: Prediction, evidence: Evidence) -> np.ndarray | None:
    """[3] unit vector against gravity in the frame of the first window, the mean over it; None without enough of it.

    Readings are turned into the first camera by the window's own turns, so a camera that looks about meanwhile does no
    harm, and starts and stops of the robot cancel in the mean.
    """
    stamps_ns = np.array(prediction.stamps_ns)
    heard_ns, ups = evidence.ups_in(prediction.frame_ids[0], int(stamps_ns[0]) - BEFORE_NS, int(stamps_ns[-1]))
    if len(ups) < MIN_READINGS or not prediction.is_posed.all():
        return None
    nearest = np.abs(heard_ns[:, None] - stamps_ns).argmin(axis=1)
    in_window = np.einsum('nij,nj->ni', prediction.window_from_cam[nearest, :3, :3], ups)
    mean = in_window.mean(axis=0)
    up = mean / np.linalg.norm(mean)
    cosine = in_window @ up / np.linalg.norm(in_window, axis=1)
    return up if np.median(cosine) > math.cos(MAX_SPREAD) else None


def level_map(map_from_first_camera: np.ndarray, prediction: Prediction, evidence: Evidence) -> np.ndarray:
    """[4, 4] the turn that levels a map which begins with this window; the identity, and said so, where unknown."""
    up = measure_up(prediction, evidence)
    if up is None:
        log.warning(
            'no IMU readings that agree while the first window was seen: the map is as level as the robot stood; is '
            'the imu topic remapped, and base -> imu in TF?'
        )
        return np.eye(4)
    level = levelling(map_from_first_camera, up)
    log.info('map levelled by the IMU: turned by %.1f degrees', math.degrees(float(rotation_angle(level[:3, :3]))))
    return level


def levelling(map_from_first_camera: np.ndarray, up_in_camera: np.ndarray) -> np.ndarray:
    """[4, 4] the least turn about the map's origin that brings measured up to z; heading stays as good as it can."""
    up = map_from_first_camera[:3, :3] @ up_in_camera
    axis = np.cross(up, [0.0, 0.0, 1.0])
    sine = float(np.linalg.norm(axis))
    angle = math.atan2(sine, float(up[2]))
    if sine < 1e-12:
        axis, sine = np.array([1.0, 0.0, 0.0]), 1.0  # upright already, or upside down
    level = np.eye(4)
    level[:3, :3] = cv2.Rodrigues(angle * axis / sine)[0]
    return level


def max_tilt(config: ScaleConfig) -> float:
    """How far the map's z may be from true up, radians."""
    return MAX_TILT[config.gravity_source]
