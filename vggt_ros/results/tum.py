"""Trajectories in the TUM format -> arrays; exports.py writes them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from vggt_ros.core.errors import SourceError, TrajectoryError
from vggt_ros.core.trajectory import Trajectory
from vggt_ros.recorded.images import seconds_to_ns

LAYOUT = 'a line of a TUM trajectory is "stamp tx ty tz qx qy qz qw"'
TOO_LATE_S = 9_000_000_000  # int64 nanoseconds end soon after, in 2262; such "seconds" were a smaller unit


def read_tum(path: Path) -> Trajectory:
    """Read lines `stamp tx ty tz qx qy qz qw`, seconds and metres; comments begin with #.

    Raises:
        SourceError: another layout, stamps that do not increase, or no poses.

    Source: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f'cannot read the trajectory {path}: {error}') from error
    stamps, values = [], []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith('#'):
            continue
        stamp, pose = _tum_pose(f'{path} line {number}', words)
        stamps.append(stamp)
        values.append(pose)
    if not stamps:
        raise SourceError(f'{path} holds no poses')
    table = np.array(values)
    world_from_cam = np.tile(np.eye(4), (len(table), 1, 1))
    world_from_cam[:, :3, :3] = Rotation.from_quat(table[:, 3:]).as_matrix()
    world_from_cam[:, :3, 3] = table[:, :3]
    try:
        return Trajectory(np.array(stamps, np.int64), world_from_cam)
    except TrajectoryError as error:
        raise SourceError(f'{path}: {error}') from error


def _tum_pose(where: str, words: list[str]) -> tuple[int, list[float]]:
    if len(words) != 8:
        hint = {12: '; 12 numbers are KITTI poses, which have no stamps', 1: '; is it CSV?'}.get(len(words), '')
        raise SourceError(f'{where}: {LAYOUT}, 8 numbers, got {len(words)}{hint}')
    try:
        stamp, values = seconds_to_ns(words[0]), [float(word) for word in words[1:]]
    except ValueError as error:
        raise SourceError(f'{where}: {LAYOUT}, got {" ".join(words)!r}') from error
    if not 0 <= stamp < TOO_LATE_S * 10**9:
        raise SourceError(f'{where}: {LAYOUT} with seconds, got the stamp {words[0]}; are those nanoseconds?')
    if not np.isfinite(values).all() or abs(math.hypot(*values[3:]) - 1) > 0.01:  # files round, at worst to 3 digits
        raise SourceError(f'{where}: {LAYOUT} with a quaternion of length 1, got {" ".join(words)!r}')
    return stamp, values
