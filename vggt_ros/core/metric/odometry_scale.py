"""Metres from the way of the robot: how far its odometry says the camera went, against how far the window saw it go."""

from __future__ import annotations

import math

import numpy as np

from vggt_ros.core.geometry import invert_rigid, rotation_angle
from vggt_ros.core.metric.scale import MAD_TO_SIGMA, Measurement, NoEvidence
from vggt_ros.core.prediction import Prediction

LONG = 0.5  # of the longest way: pairs of frames nearer together hold more noise than motion
MIN_PARALLAX = 0.01  # of the depth: below, a camera that moves cannot be told from one that turns
MAX_ANGLE = math.radians(25)  # between the two ways, and between the two turns: more is a wrong mount, not noise


def measure_way(
    prediction: Prediction, odom_from_cams: list[np.ndarray | None], min_motion: float
) -> Measurement | NoEvidence:
    """Metres in a unit of a window, from ways between its cameras.

    Lengths of ways between pairs of cameras are the same in any frame, so nothing needs to be aligned. Their directions
    and turns, each seen from the first camera of the pair, must agree as well: they show a wrong mount, wheels that
    slip and an odometry that jumps.

    Args:
        prediction: the window.
        odom_from_cams: S poses [4, 4] of its cameras after the odometry, metres, lever arm and all; None where unknown.
        min_motion: metres; a window in which no camera moved so far tells nothing (standing, turning on the spot).
    """
    known = [i for i, pose in enumerate(odom_from_cams) if pose is not None and prediction.is_posed[i]]
    if len(known) < 2:
        return NoEvidence('no odometry at the stamps of the images, or no base -> camera in TF')
    odom_from_cam = np.stack([pose for i in known if (pose := odom_from_cams[i]) is not None])
    first, second = np.triu_indices(len(known), 1)
    by_odometry = invert_rigid(odom_from_cam)[first] @ odom_from_cam[second]
    seen = (prediction.cam_from_window[known])[first] @ prediction.window_from_cam[known][second]
    metres, units = (np.linalg.norm(way[:, :3, 3], axis=1) for way in (by_odometry, seen))
    if metres.max() < min_motion:
        return NoEvidence('the camera stands or turns in place: odometry tells no scale until it moves')
    is_long = metres >= LONG * metres.max()
    metres, units, by_odometry, seen = metres[is_long], units[is_long], by_odometry[is_long], seen[is_long]
    depth = _median_depth(prediction)
    if not np.median(units) > MIN_PARALLAX * depth:
        return NoEvidence('the images hardly show the way that the odometry reports: too far from all, or wheels slip')
    cosines = np.einsum('ni,ni->n', by_odometry[:, :3, 3], seen[:, :3, 3]) / np.maximum(metres * units, 1e-12)
    angle = float(np.median(np.arccos(np.clip(cosines, -1, 1))))
    turn = float(np.median(rotation_angle(np.swapaxes(by_odometry, 1, 2)[:, :3, :3] @ seen[:, :3, :3])))
    if max(angle, turn) > MAX_ANGLE:
        return NoEvidence(
            f'odometry and images disagree: ways differ by {math.degrees(angle):.0f} degrees, turns by '
            f'{math.degrees(turn):.0f}; is base -> camera right in TF, and the odometry alive?',
            is_conflict=True,
        )
    log_ratio = np.log(metres / units)
    log_metres = float(np.median(log_ratio))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(log_ratio - log_metres)))
    return Measurement(log_metres, spread / math.sqrt(len(known) - 1))


def _median_depth(prediction: Prediction) -> float:
    sampled = prediction.depth[:, ::4, ::4]
    sampled = sampled[np.isfinite(sampled)]
    return float(np.median(sampled)) if sampled.size else 0.0
