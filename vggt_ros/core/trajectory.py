"""Two trajectories of one camera compared: absolute and relative errors after the best SE(3) or Sim(3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vggt_ros.core.errors import ShapeError, TrajectoryError
from vggt_ros.core.geometry import Sim3, invert_rigid, rotation_angle

STANDSTILL = 1e-9  # of the distance from the origin: rounding of float64 positions, not motion


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Poses of a camera over time.

    Args:
        stamps_ns: [N] int64, increasing.
        world_from_cam: [N, 4, 4] rigid poses of the optical frame, any length unit.

    Raises:
        ShapeError: the two have other shapes.
        TrajectoryError: stamps do not increase.
    """

    stamps_ns: np.ndarray
    world_from_cam: np.ndarray

    def __post_init__(self) -> None:
        if self.world_from_cam.shape != (len(self.stamps_ns), 4, 4) or self.stamps_ns.dtype != np.int64:
            raise ShapeError(
                'a trajectory needs [N] int64 stamps and [N, 4, 4] poses, got '
                f'{self.stamps_ns.shape} {self.stamps_ns.dtype} and {self.world_from_cam.shape}'
            )
        if (np.diff(self.stamps_ns) <= 0).any():
            raise TrajectoryError('stamps of a trajectory must increase; sort its poses and drop doubles')

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def centres(self) -> np.ndarray:
        """[N, 3] places of the camera."""
        return self.world_from_cam[:, :3, 3]

    @property
    def path_length(self) -> float:
        return float(np.linalg.norm(np.diff(self.centres, axis=0), axis=1).sum())

    def take(self, indices: np.ndarray) -> Trajectory:
        """Some of its poses."""
        return Trajectory(self.stamps_ns[indices], self.world_from_cam[indices])

    def moved(self, target_from_world: Sim3) -> Trajectory:
        """The same trajectory in another frame and unit."""
        return Trajectory(self.stamps_ns, target_from_world.transform_pose(self.world_from_cam))

    def inverted(self) -> Trajectory:
        """With every pose inverted: what a file that holds cam_from_world should have held."""
        return Trajectory(self.stamps_ns, invert_rigid(self.world_from_cam))


def associate(estimate: Trajectory, reference: Trajectory, tolerance_ns: int) -> tuple[Trajectory, Trajectory]:
    """The poses of both that belong together: nearest in time, one to one, at most tolerance_ns apart."""
    if len(estimate) == 0 or len(reference) == 0:
        return estimate.take(np.zeros(0, int)), reference.take(np.zeros(0, int))
    after = np.searchsorted(reference.stamps_ns, estimate.stamps_ns).clip(max=len(reference) - 1)
    before = (after - 1).clip(min=0)
    gap_after = np.abs(reference.stamps_ns[after] - estimate.stamps_ns)
    gap_before = np.abs(reference.stamps_ns[before] - estimate.stamps_ns)
    nearest, gap = np.where(gap_before <= gap_after, before, after), np.minimum(gap_before, gap_after)
    by_gap = np.argsort(gap, kind='stable')
    by_gap = by_gap[gap[by_gap] <= tolerance_ns]
    _, first = np.unique(nearest[by_gap], return_index=True)  # of several at one reference pose, the nearest
    chosen = by_gap[first]
    return estimate.take(chosen), reference.take(nearest[chosen])


def umeyama(source: np.ndarray, target: np.ndarray, *, with_scale: bool) -> Sim3:
    """The target_from_source that brings points nearest to their partners, in the mean of squares.

    Args:
        source, target: [N, 3] points.
        with_scale: fit a Sim(3); otherwise the scale stays 1.

    Raises:
        TrajectoryError: a scale is asked for and all points of the source are one.

    Source: Umeyama, Least-Squares Estimation of Transformation Parameters Between Two Point Patterns, PAMI 1991, eq.
        34 to 43.
    """
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    x, y = source - mean_source, target - mean_target
    U, D, Vt = np.linalg.svd(y.T @ x / len(x))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])  # a turn, never a mirror image
    R = (U * signs) @ Vt
    scale = 1.0
    if with_scale:
        variance = float((x * x).sum() / len(x))
        if variance <= (STANDSTILL * (1 + np.linalg.norm(mean_source))) ** 2:
            raise TrajectoryError('the points to align do not move: no scale can be fitted to them')
        scale = float(D @ signs) / variance
    return Sim3(scale, R, mean_target - scale * R @ mean_source)


def position_errors(estimate: Trajectory, reference: Trajectory) -> np.ndarray:
    """[N] distances between associated camera centres."""
    return np.linalg.norm(estimate.centres - reference.centres, axis=1)


def relative_errors(
    estimate: Trajectory, reference: Trajectory, pairs: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """How far motions from one pose to another are off: shifts [P] in the unit of both, turns [P] in radians.

    Args:
        estimate, reference: associated poses.
        pairs: [P] indices of the start and [P] of the end of each motion.

    Source: Sturm et al., A Benchmark for the Evaluation of RGB-D SLAM Systems, IROS 2012, eq. 1.
    """
    start, end = pairs
    motion = invert_rigid(estimate.world_from_cam[start]) @ estimate.world_from_cam[end]
    true_motion = invert_rigid(reference.world_from_cam[start]) @ reference.world_from_cam[end]
    error = invert_rigid(true_motion) @ motion
    return np.linalg.norm(error[:, :3, 3], axis=1), rotation_angle(error[:, :3, :3])


def frame_pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Each pose and the next."""
    return np.arange(count - 1), np.arange(1, count)


def path_pairs(reference: Trajectory, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Poses at least `length` of the way apart, one pair after the other without overlap, as evo pairs them."""
    ends, way = [0], 0.0
    for i, step in enumerate(np.linalg.norm(np.diff(reference.centres, axis=0), axis=1), 1):
        way += float(step)
        if way >= length:
            ends.append(i)
            way = 0.0
    return np.array(ends[:-1], int), np.array(ends[1:], int)


def rms(errors: np.ndarray) -> float:
    """Root of the mean of squares; NaN of nothing."""
    return float(np.sqrt(np.mean(np.square(errors)))) if len(errors) else float('nan')
