"""How well the poses of a map are known: measured where windows meet, carried from window to window.

A window errs against the map by a small shift, turn and growth (of the log of its scale), alike for all its cameras,
and each camera by a shift and a turn of its own. Where two windows share frames, both have placed the same cameras:
how far those lie apart after the windows are joined tells the error of a single camera, and the error of the mean over
n of them is what the joint adds. The pooled figures of the seams so far are used, because one seam of four cameras
knows its own spread to a third only.

An error at one place is another one elsewhere: a turn swings what is far away, a growth drives it outwards. So drift
of the scale shows in a pose as a shift along the way from where it was picked up.

A closed loop places the newest window a second time: as well as the old place is known, plus what the loop errs by. The
better of the two holds from then on. That is the covariance along the best way through the graph; edges left out can
only make it smaller, so it never says too little. It was chosen over the inverse of the whole graph, which costs more
the longer the map is and takes all loops for independent.

Left out: errors that neighbouring windows share, such as a network that always bends the way to one side. No seam
shows them, and the true error is then larger than said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from vggt_ros.core.geometry import Sim3, cross_matrix, rotation_angle
from vggt_ros.core.placement import SeamStatus
from vggt_ros.core.prediction import Prediction

if TYPE_CHECKING:
    from vggt_ros.core.submap import Submap

# The first camera defines the map; consumers ask for a positive covariance, here of a tenth of a millimetre.
START = np.diag([1e-8] * 6 + [0.0])
LOST = np.eye(6) * 9999.0  # what rtabmap reads as lost: CoreWrapper.cpp, covariance of 9999 and more
HELD_ROTATION = math.radians(30.0)  # of a camera that was not seen to move
HELD_GROWTH = math.log(2.0)  # of a window whose scale nothing tells
DOUBTED_SHIFT = 0.1  # of the depth: where points do not agree they lie further apart than this (alignment.AGREE)
DOUBTED_ROTATION = math.radians(10.0)
DOUBTED_GROWTH = 0.1
STANDING_EXTENT = 0.03  # of the depth, added to the extent: cameras that stand still are not placed exactly either
# What a camera is taken to err by until seams have shown it: rms of its turn, of its shift as a share of the window's
# extent, and of the log of a frame's median depth.
PRIOR_TURN, PRIOR_SHIFT, PRIOR_DEPTH = math.radians(0.3), 0.01, 0.015
PRIOR_COUNT = 4.0  # degrees of freedom for which this counts: half a seam of four cameras
MEMORY = 0.97  # of a seam's weight at the next one: 33 seams, 300 degrees of freedom, 6 % on a deviation
SETTLED = 12  # seams after which what was said of earlier windows is no longer revised by what is learnt
MEDIAN_EXCESS = 1.2  # variance of the median of three or four over that of their mean; Source: normal order statistics
ROBUST_EXCESS = 1.1  # likewise of the means of alignment.fit_cameras: 1.04 at the errors they expect, 1.4 at 3 times
DEPTH_STRIDE = 4  # every 4th row and column tells a frame's median depth ratio


@dataclass(frozen=True)
class Pool:
    """A variance pooled over seams.

    Args:
        squares: sum of squared residuals.
        count: their degrees of freedom.
    """

    squares: float
    count: float

    @staticmethod
    def of_prior(variance: float) -> Pool:
        """As sure of a variance as PRIOR_COUNT residuals are."""
        return Pool((PRIOR_COUNT - 2) * variance, PRIOR_COUNT)

    @property
    def variance(self) -> float:
        """Of the next error: with few residuals it is larger than that of those.

        Source: Gelman et al., Bayesian Data Analysis, 3rd ed., sec. 3.2: mean of a scaled inverse chi-square.
        """
        return self.squares / (self.count - 2)

    def add(self, squares: float, count: float) -> Pool:
        """With the residuals of one more seam, those before fading."""
        keep = max(MEMORY, PRIOR_COUNT / self.count)  # never below the prior's count
        return Pool(keep * self.squares + squares, keep * self.count + count)


@dataclass(frozen=True)
class CameraNoise:
    """How far a single camera errs within its window, per axis.

    Args:
        turn: radians.
        shift: as a share of the window's extent.
        depth: log of a frame's median depth.
    """

    turn: Pool = field(default_factory=lambda: Pool.of_prior(PRIOR_TURN**2 / 3))
    shift: Pool = field(default_factory=lambda: Pool.of_prior(PRIOR_SHIFT**2 / 3))
    depth: Pool = field(default_factory=lambda: Pool.of_prior(PRIOR_DEPTH**2))

    @property
    def variances(self) -> np.ndarray:
        """[3] of turn, shift and depth."""
        return np.array([self.turn.variance, self.shift.variance, self.depth.variance])

    def covariance(self, of_noise: np.ndarray) -> np.ndarray:
        """[3, 7, 7] for each unit of noise -> [7, 7]."""
        return (self.variances @ of_noise.reshape(3, 49)).reshape(7, 7)

    def learn(self, joint: Joint) -> CameraNoise:
        """From the cameras of a seam that was trusted; one camera alone has nothing to lie apart from."""
        free = joint.count - 1
        if free < 1:
            return self
        extents = joint.extent**2 + joint.extent_before**2
        learnt = replace(
            self,
            turn=self.turn.add(joint.turn_squares / 2, 3 * free),
            shift=self.shift.add(joint.shift_squares / extents, 3 * free),
        )
        free = joint.depth_count - 1
        return replace(learnt, depth=self.depth.add(joint.depth_squares / 2, free)) if free >= 1 else learnt


@dataclass(frozen=True, eq=False)
class Joint:
    """What two windows say of the frames that both hold, in the map.

    Args:
        stamps_ns: of those frames, oldest first.
        centre: [3] mean place of their cameras.
        turn_squares, shift_squares: summed squared angles and distances between the two.
        depth_stamps_ns: of those whose depth both know, oldest first.
        depth_squares: summed squared deviations of the log of their median depth ratios from the mean.
        extent, extent_before: how far the cameras of either window reach, map units.
    """

    stamps_ns: tuple[int, ...]
    centre: np.ndarray
    turn_squares: float
    shift_squares: float
    depth_stamps_ns: tuple[int, ...]
    depth_squares: float
    extent: float
    extent_before: float

    @property
    def count(self) -> int:
        return len(self.stamps_ns)

    @property
    def depth_count(self) -> int:
        return len(self.depth_stamps_ns)

    def of_noise(self) -> np.ndarray:
        """[3, 7, 7] error of the means over the shared cameras, each placed by two windows, for each unit of noise."""
        shift = (self.extent**2 + self.extent_before**2) / self.count
        excess = ROBUST_EXCESS if self.count > 2 else 1.0
        turn, depth = 2 / self.count, 2 * MEDIAN_EXCESS / max(self.depth_count, 1)
        return _of_noise(excess * turn, excess * shift, depth)

    def echo(self, last: Joint) -> np.ndarray:
        """[3, 7, 7] likewise of what this and the last joint err by together, with opposite signs.

        The cameras of the window between them that are in both.
        """
        both = len(set(self.stamps_ns) & set(last.stamps_ns)) / (self.count * last.count)
        depths = len(set(self.depth_stamps_ns) & set(last.depth_stamps_ns))
        depths_share = depths / max(self.depth_count * last.depth_count, 1)
        return 2 * _of_noise(both, both * self.extent_before**2, depths_share)


@dataclass(frozen=True, eq=False)
class Drift:
    """The error of a window against the map: its shift at a place, its turn and its growth; axes and unit of the map.

    Args:
        place: [3] where the shift is meant.
        fixed: [7, 7] covariance that is settled.
        of_noise: [3, 7, 7] covariance for each unit of CameraNoise.variances: it is revised as they are learnt.
        joint: how it was joined to the window before; None where it was not.
    """

    place: np.ndarray
    fixed: np.ndarray
    of_noise: np.ndarray
    joint: Joint | None = None

    def covariance(self, noise: CameraNoise) -> np.ndarray:
        """[7, 7] as far as is known now."""
        return self.fixed + noise.covariance(self.of_noise)

    def at(self, place: np.ndarray) -> Drift:
        """With the shift meant at another place."""
        step = place - self.place
        return replace(
            self, place=place, fixed=move_covariance(self.fixed, step), of_noise=move_covariance(self.of_noise, step)
        )

    def settled(self, noise: CameraNoise) -> Drift:
        """Of what is known now nothing is revised any more."""
        return replace(self, fixed=self.covariance(noise), of_noise=np.zeros((3, 7, 7)))

    def grown(self, before: Drift | None, after: Drift) -> Drift:
        """With what was added on the way from one drift to another."""
        if before is None:
            return self
        before, here = before.at(after.place), self.at(after.place)
        fixed, of_noise = after.fixed - before.fixed, after.of_noise - before.of_noise
        return replace(here, fixed=here.fixed + fixed, of_noise=here.of_noise + of_noise)

    def seen_from(self, target_from_source: Sim3) -> Drift:
        """In the axes and unit of another frame; lengths of the joint were those of the frame before."""
        turn = np.eye(7)
        turn[:3, :3], turn[3:6, 3:6] = target_from_source.scale * target_from_source.R, target_from_source.R
        return Drift(
            target_from_source.transform_points(self.place), turn @ self.fixed @ turn.T, turn @ self.of_noise @ turn.T
        )


@dataclass(frozen=True, eq=False)
class FrameCovariance:
    """What is said of one frame.

    Args:
        pose: [6, 6] of its pose: shift and turn in the fixed axes of the map.
        step: [6, 6] of the way there from the frame before, likewise; LOST where there is none.
        odometry: [6, 6] of its pose as odometry has it, which no loop corrects; None where that is `pose`.
    """

    pose: np.ndarray
    step: np.ndarray
    odometry: np.ndarray | None = None


class Uncertainty:
    """Covariances for the frames of a map, window by window.

    Args:
        depth_frames: shared frames, the newest first, whose depth tells the scale of a window (alignment_max_frames).
        max_windows: windows that a loop may lead back to (loop_max_windows).
    """

    def __init__(self, depth_frames: int, max_windows: int) -> None:
        self.noise = CameraNoise()
        self._depth_frames, self._max_windows = depth_frames, max_windows
        # by window, in its own frame, so that it stays when the map moves: place [3] and covariance [7, 7]
        self._drift_of: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._seams = 0  # learnt from
        self._drift: Drift | None = None  # of the last window that others are placed on
        self._uncorrected: Drift | None = None  # what that were without loops; None where there were none
        self._last: np.ndarray | None = None  # [3] place of the newest frame with a pose

    def place(self, submap: Submap, before: Submap | None, map_from_cams: np.ndarray) -> list[FrameCovariance]:
        """Covariances of the new frames of a window.

        Args:
            submap: the window, placed.
            before: what it was placed on; None at the start of a map.
            map_from_cams: [S, 4, 4] its poses in the map.

        Returns:
            One entry a new frame; LOST where there is no pose.
        """
        is_posed = submap.prediction.is_posed
        if not is_posed.any():
            return [FrameCovariance(LOST, LOST)] * (len(map_from_cams) - submap.shared)
        extent = _extent(map_from_cams[is_posed], submap)
        drift, seam = self._join(submap, before, map_from_cams, extent)
        if self._uncorrected is not None:
            self._uncorrected = self._uncorrected.grown(self._drift, drift)
        own = self.noise.covariance(_own(extent))
        answers = []
        for i in range(submap.shared, len(map_from_cams)):
            if not is_posed[i]:
                answers.append(FrameCovariance(LOST, LOST))
                continue
            here = map_from_cams[i, :3, 3]
            defines_map = before is None and i == 0
            pose = START if defines_map else drift.at(here).covariance(self.noise) + own + START
            step, odometry = self._step(here, drift, seam, own), None
            if self._uncorrected is not None:
                odometry = (self._uncorrected.at(here).covariance(self.noise) + own + START)[:6, :6]
            answers.append(FrameCovariance(pose[:6, :6], step[:6, :6], odometry))
            self._last, seam = here, np.zeros((7, 7))
        self._drift = drift if self._seams < SETTLED else drift.settled(self.noise)
        self._remember(submap.index, submap.placement.map_from_window)
        return answers

    def joint_deviations(self, submap: Submap) -> np.ndarray | None:
        """[7] of the joint of a window just placed: shift (map units), turn, log of the scale; None of a first one."""
        status = submap.placement.seam.status
        depth = submap.prediction.median_depth * submap.placement.map_from_window.scale
        if self._drift is None or status is SeamStatus.FIRST:
            return None
        if self._drift.joint is None or status is SeamStatus.HELD:
            covariance = held(depth)
        elif status is SeamStatus.DEGENERATE:
            covariance = doubted(depth)
        else:
            covariance = self.noise.covariance(self._drift.joint.of_noise())
        return np.sqrt(np.diag(covariance))

    def move(self, new_from_old: Sim3) -> None:
        """The map has been corrected, and the last window has moved in it; what is known of its errors goes with it."""
        if self._last is not None:
            self._last = new_from_old.transform_points(self._last)
        if self._drift is not None:
            self._drift = self._drift.seen_from(new_from_old)
        if self._uncorrected is not None:
            self._uncorrected = self._uncorrected.seen_from(new_from_old)

    def close(self, old: int, map_from_old: Sim3, new: int, map_from_new: Sim3, loop: Drift) -> None:
        """A loop was closed between an old window and the last one: it is now known at least as well as that says.

        Args:
            old, new: numbers of the windows.
            map_from_old, map_from_new: their places, the loop closed.
            loop: what the loop errs by, in the frame of the old window.
        """
        before = self._drift_of.get(old)
        if before is None or self._drift is None:
            return
        way = loop.seen_from(map_from_old)
        start = Drift(*before, np.zeros((3, 7, 7))).seen_from(map_from_old).at(way.place)
        through = replace(way, fixed=start.covariance(self.noise) + way.fixed)
        now = self._drift.at(way.place)
        if np.linalg.slogdet(through.covariance(self.noise))[1] < np.linalg.slogdet(now.covariance(self.noise))[1]:
            self._uncorrected, self._drift = self._uncorrected or self._drift, through
            self._remember(new, map_from_new)

    def _remember(self, index: int, map_from_window: Sim3) -> None:
        assert self._drift is not None
        drift = self._drift.settled(self.noise).seen_from(map_from_window.inverse())
        self._drift_of[index] = drift.place, drift.fixed
        if len(self._drift_of) > self._max_windows:
            del self._drift_of[next(iter(self._drift_of))]

    def _join(
        self, submap: Submap, before: Submap | None, map_from_cams: np.ndarray, extent: float
    ) -> tuple[Drift, np.ndarray]:
        """The window's drift, and the [7, 7] that the joint alone adds."""
        if before is None or self._drift is None:  # it stands where its first camera is said to, which errs too
            return Drift(map_from_cams[0, :3, 3], np.zeros((7, 7)), _own(extent)), np.zeros((7, 7))
        joint = measure_joint(submap, before, extent, self._depth_frames)
        status = submap.placement.seam.status
        depth = submap.prediction.median_depth * submap.placement.map_from_window.scale
        if joint is None or status is SeamStatus.HELD:
            drift, seam = self._drift.at(map_from_cams[submap.prediction.is_posed][0, :3, 3]), held(depth)
            return replace(drift, fixed=drift.fixed + seam, joint=None), seam
        drift = self._drift.at(joint.centre)
        if status is SeamStatus.DEGENERATE:
            return replace(drift, fixed=drift.fixed + doubted(depth), joint=joint), doubted(depth)
        self.noise, self._seams = self.noise.learn(joint), self._seams + 1
        of_noise = joint.of_noise()
        seam = self.noise.covariance(of_noise)
        if drift.joint is not None:
            of_noise -= joint.echo(drift.joint)
        return replace(drift, of_noise=drift.of_noise + of_noise, joint=joint), seam

    def _step(self, here: np.ndarray, drift: Drift, seam: np.ndarray, own: np.ndarray) -> np.ndarray:
        """[7, 7] of the way from the last frame: both cameras' own errors, the seam between them, and the scale."""
        if self._last is None:
            return LOST
        step = here - self._last
        # seen from the last camera, whose own turn swings what is ahead
        covariance = move_covariance(own, step) + own + move_covariance(seam, here - drift.place)
        growth = drift.covariance(self.noise)[6, 6] - seam[6, 6]
        covariance[:3, :3] += max(growth, 0.0) * np.outer(step, step)
        return covariance


def measure_joint(submap: Submap, before: Submap, extent: float, depth_frames: int) -> Joint | None:
    """How two placed windows agree on the frames that both hold with a pose; None where they hold none."""
    now, then = submap.prediction, before.prediction
    index = {stamp: i for i, stamp in enumerate(then.stamps_ns) if then.is_posed[i]}
    pairs = [(index[stamp], j) for j, stamp in enumerate(now.stamps_ns) if stamp in index and now.is_posed[j]]
    if not pairs:
        return None
    rows_then, rows_now = (list(rows) for rows in zip(*pairs, strict=True))
    map_from_then, map_from_now = before.placement.map_from_window, submap.placement.map_from_window
    cams_then = map_from_then.transform_pose(then.window_from_cam[rows_then])
    cams_now = map_from_now.transform_pose(now.window_from_cam[rows_now])
    turns = rotation_angle(np.swapaxes(cams_then[:, :3, :3], 1, 2) @ cams_now[:, :3, :3])
    shifts = cams_then[:, :3, 3] - cams_now[:, :3, 3]
    ratios = {
        now.stamps_ns[j]: math.log(map_from_then.scale / map_from_now.scale) + ratio
        for i, j in pairs[-depth_frames:]
        if (ratio := _log_depth_ratio(then, i, now, j)) is not None
    }
    return Joint(
        stamps_ns=tuple(now.stamps_ns[j] for j in rows_now),
        centre=cams_then[:, :3, 3].mean(axis=0),
        turn_squares=float(np.sum(turns**2)),
        shift_squares=float(np.sum(shifts**2)),
        depth_stamps_ns=tuple(ratios),
        depth_squares=float(np.var(list(ratios.values())) * len(ratios)) if ratios else 0.0,
        extent=extent,
        extent_before=_extent(map_from_then.transform_pose(then.window_from_cam[then.is_posed]), before),
    )


def loop_drift(old: Submap, together: Submap, new: Submap, depth_frames: int) -> Drift | None:
    """What a loop errs by: two joints, of either visit with a window that holds frames of both.

    Args:
        old, together, new: placed in one frame.
        depth_frames: as Uncertainty has it.

    Returns:
        At the cameras of the new visit; None where a joint cannot be measured.
    """
    joints = []
    for before, after in ((old, together), (together, new)):
        placed = after.placement.map_from_window.transform_pose(after.prediction.window_from_cam)
        joint = measure_joint(after, before, _extent(placed[after.prediction.is_posed], after), depth_frames)
        if joint is None:
            return None
        joints.append(joint)
    first, second = joints
    of_noise = move_covariance(first.of_noise(), second.centre - first.centre) + second.of_noise()
    return Drift(second.centre, np.zeros((7, 7)), of_noise)


def move_covariance(covariance: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Carry a covariance along a rigid arm: a turn error at its start swings its end, a growth drives it outwards.

    Args:
        covariance: [..., 6, 6] or [..., 7, 7] at the start; shift and turn in the axes of the map, and growth.
        step: [3] from start to end, in the map.

    Source: first order of (1 + growth) exp(turn) @ step: turn x step = -[step]x turn, and growth * step; Barfoot, State
        Estimation for Robotics, 8.3.
    """
    J = np.eye(covariance.shape[-1])
    J[:3, 3:6] = -cross_matrix(step)
    J[:3, 6:] = step[:, None]  # where there is a growth
    return J @ covariance @ J.T


def nees(error: np.ndarray, covariance: np.ndarray) -> float:
    """Normalised estimation error squared: chi-square with as many degrees of freedom as error has entries.

    Args:
        error: [6] shift and turn (rotation vector) of the estimate against the truth, axes of the map.
        covariance: [6, 6] as published.

    Source: Bar-Shalom, Li and Kirubarajan, Estimation with Applications to Tracking and Navigation, sec. 5.4.2.
    """
    return float(error @ np.linalg.solve(covariance, error))


def held(depth: float) -> np.ndarray:
    """[7, 7] of a window that nothing joins: its camera may be as far off as it sees."""
    return _diagonal(depth**2, HELD_ROTATION**2, HELD_GROWTH**2)


def doubted(depth: float) -> np.ndarray:
    """[7, 7] of a joint that the dense points do not confirm."""
    return _diagonal((DOUBTED_SHIFT * depth) ** 2, DOUBTED_ROTATION**2, DOUBTED_GROWTH**2)


def _log_depth_ratio(then: Prediction, i: int, now: Prediction, j: int) -> float | None:
    """Median log of the depth of a frame in one window over that in another; None where no pixel is known in both."""
    with np.errstate(divide='ignore', invalid='ignore'):
        ratio = then.depth[i, ::DEPTH_STRIDE, ::DEPTH_STRIDE] / now.depth[j, ::DEPTH_STRIDE, ::DEPTH_STRIDE]
    ratio = ratio[(ratio > 0) & (ratio < np.inf)]
    return math.log(float(np.median(ratio))) if ratio.size else None


def _extent(map_from_cams: np.ndarray, submap: Submap) -> float:
    """How far apart the cameras of a window stand, map units, with something for those that stand still."""
    centres = map_from_cams[:, :3, 3]
    apart = float(np.linalg.norm(centres[:, None] - centres, axis=-1).max())
    depth = submap.prediction.median_depth * submap.placement.map_from_window.scale
    return math.hypot(apart, STANDING_EXTENT * depth)


def _own(extent: float) -> np.ndarray:
    """[3, 7, 7] error of a camera within its window, for each unit of noise."""
    return _of_noise(1.0, extent**2, 0.0)


def _of_noise(turn: float, shift: float, depth: float) -> np.ndarray:
    of_noise = np.zeros((3, 7, 7))
    for noise, (axes, share) in enumerate(((range(3, 6), turn), (range(3), shift), (range(6, 7), depth))):
        of_noise[noise, axes, axes] = share
    return of_noise


def _diagonal(shift: float, turn: float, growth: float) -> np.ndarray:
    return np.diag([shift] * 3 + [turn] * 3 + [growth])
