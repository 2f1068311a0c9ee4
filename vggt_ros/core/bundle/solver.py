"""Solver: the cameras, the focal length and the depth of single points that agree best with matches and network.

Unknown are the pose of each camera, the logarithm of a factor on all focal lengths, that of a factor on the depth of
each frame, and that of the depth of each point. Told are where points are seen in other frames, to a fraction of a
pixel but with gross errors among them (a Cauchy loss takes these out), and what the network said, which binds loosely:
it decides where a camera turns in place or a wall has no texture.

Source: Triggs et al., Bundle Adjustment: A Modern Synthesis, 2000, sec. 6 (points eliminated by the Schur complement);
    depth by its logarithm in the frame that a point belongs to, after Civera et al., Inverse Depth Parametrization for
    Monocular SLAM, 2008.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vggt_ros.core.bundle.matches import Matches
from vggt_ros.core.geometry import invert_rigid, rotation_from_vector, vector_from_rotation

ROUNDS = 8
_POINT_SIGMA = 0.25  # of the logarithm of a point's depth, about that of its frame
_FRAME_SIGMA = 0.05  # of the logarithm of a frame's depth
_FOCAL_SIGMA = 0.01  # of its logarithm; the errors of neighbouring matches are alike: they are fewer than they seem
_TURN_SIGMA = 0.1  # radians
_SHIFT_SIGMA = 0.3  # of the median depth
_GROSS = 1.5  # standard deviations at which the Cauchy loss bends
_NEAREST = 0.05  # of the median depth; what comes nearer to a camera says nothing
_LONGEST_STEP = 0.5  # of a logarithm
_FIXED = 1e12  # weight of what does not move
_SETTLED = 0.05  # a round that moves no camera and no scale by more of its sigma above is the last
_PIECE = 32  # points


@dataclass(frozen=True, eq=False)
class Estimate:
    """Cameras and depth of a window of S frames with P points each.

    Args:
        cam_from_window: [S, 4, 4] rigid.
        focal: logarithm of a factor on both focal lengths of all frames.
        frame: [S] logarithm of a factor on the depth of each frame.
        point: [S, P] that of each point, near that of its frame.
    """

    cam_from_window: np.ndarray
    focal: float
    frame: np.ndarray
    point: np.ndarray


@dataclass(frozen=True, eq=False)
class Solution:
    """What agrees best.

    Args:
        estimate: cameras and depth; the first camera is as it was.
        share_told: [S, P] how much of a point's depth the matches decide, 0 to 1; the rest is the network's.
        cost, cost_before: what was made small, and what it was for the network's own answer.
        residual_px, residual_before_px: median distance of what was matched from where a point is thought to be seen.
    """

    estimate: Estimate
    share_told: np.ndarray
    cost: float
    cost_before: float
    residual_px: float
    residual_before_px: float


@dataclass(frozen=True, eq=False)
class _Look:
    """Where points are thought to be seen; axes are the frame of a point, the frame that sees it, and last the point.

    Args:
        other_from_own: [S, S, 4, 4] rigid.
        focal_px: [S, 2].
        own: [S, 1, 3, P] points in the camera of their frame.
        other: [S, S, 3, P] points in the camera that sees them; 1 ahead of it where they are behind.
        away: [S, S, 2, P] from the principal point to where they are thought to be seen, pixels.
        residual: [S, S, 2, P] from where they are matched to there, standard deviations.
        weight: [S, S, P] of the Cauchy loss; 0 where nothing was matched, or behind the camera.
    """

    other_from_own: np.ndarray
    focal_px: np.ndarray
    own: np.ndarray
    other: np.ndarray
    away: np.ndarray
    residual: np.ndarray
    weight: np.ndarray


class Problem:
    """A window's matches and what the network said of it.

    Args:
        matches: of S frames; at least one point is seen.
        cam_from_window: [S, 4, 4] of the network.
        K: [S, 3, 3] without skew, of the network or of a calibration.
        depth: [S, P] of the network at the points, above 0; any positive number where a point is not seen.
        is_focal_known: the focal lengths are those of a calibration and stay.
    """

    def __init__(
        self,
        matches: Matches,
        cam_from_window: np.ndarray,
        K: np.ndarray,
        depth: np.ndarray,
        *,
        is_focal_known: bool,
    ) -> None:
        self._before = Estimate(cam_from_window, 0.0, np.zeros(len(K)), np.zeros(depth.shape))
        self._depth, self._is_seen, self._sigma_px = depth, matches.is_seen, matches.sigma_px[:, None, None]
        self._focal_px = np.stack([K[:, 0, 0], K[:, 1, 1]], axis=-1)
        centre = K[:, :2, 2, None]
        self._from_centre = matches.pixel.swapaxes(-1, -2) - centre  # [S, 2, P]
        self._seen_from_centre = matches.seen.swapaxes(-1, -2) - centre  # [S, S, 2, P]
        self._median = float(np.median(depth[matches.is_seen.any(axis=1)]))
        frames = len(K)
        self._poses, self._focal = slice(0, 6 * frames), 6 * frames
        self._scales = slice(6 * frames + 1, 7 * frames + 1)
        pose = np.repeat([_TURN_SIGMA, _SHIFT_SIGMA * self._median], 3)
        self._prior = np.concatenate([np.tile(pose, frames), [_FOCAL_SIGMA], np.full(frames, _FRAME_SIGMA)]) ** -2.0
        self._yard = self._prior.copy()
        self._prior[:6] = _FIXED
        if is_focal_known:
            self._prior[self._focal] = _FIXED

    def solve(self, start: Estimate | None = None) -> Solution:
        """Gauss and Newton's method, each round with new weights of the Cauchy loss.

        Args:
            start: where to begin; None: with what the network said.
        """
        now = start or self._before
        look, first = self._look(now), self._look(self._before)
        told = np.zeros(now.point.shape)
        for _ in range(ROUNDS):
            step, point_step, told = self._step(now, look)
            now = self._moved(now, step, point_step)
            look = self._look(now)
            if (np.abs(step) * np.sqrt(self._yard)).max() < _SETTLED:
                break
        return Solution(
            now,
            told,
            self._cost(now, look),
            self._cost(self._before, first),
            self._median_residual_px(look),
            self._median_residual_px(first),
        )

    def _look(self, estimate: Estimate) -> _Look:
        focal_px = self._focal_px * np.exp(estimate.focal)
        depth = (self._depth * np.exp(estimate.point))[:, None]
        own = np.concatenate([self._from_centre / focal_px[..., None] * depth, depth], axis=1)[:, None]
        cameras = estimate.cam_from_window
        other_from_own = cameras[None] @ invert_rigid(cameras)[:, None]
        other = other_from_own[..., :3, :3] @ own + other_from_own[..., :3, 3, None]
        is_ahead = other[..., 2, :] > _NEAREST * self._median
        other[..., 2, :] = np.where(is_ahead, other[..., 2, :], 1.0)
        away = other[..., :2, :] / other[..., 2:, :] * focal_px[..., None]
        residual = (away - self._seen_from_centre) / self._sigma_px
        weight = (self._is_seen & is_ahead) / (1.0 + (residual**2).sum(axis=-2) / _GROSS**2)
        return _Look(other_from_own, focal_px, own, other, away, residual, weight)

    def _step(self, now: Estimate, look: _Look) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One round.

        Returns:
            The change of everything but the points; that of the points [S, P]; the share of each point's depth that
            matches decide [S, P].
        """
        frames, points = now.point.shape
        unknowns, own_prior = len(self._prior), _POINT_SIGMA**-2.0
        slopes, depth_slopes = self._slopes(look)  # [S, S, 13, 2, P] and [S, S, 2, P]
        weighed = slopes * look.weight[..., None, None, :]
        binding = np.einsum('abckp,abkp->abcp', weighed, depth_slopes)
        # What is not a point: the cameras of each pair of frames and the focal lengths.
        wide = (frames, frames, 13, 2 * points)
        blocks = weighed.reshape(wide) @ slopes.reshape(wide).swapaxes(-1, -2)
        pulls = (weighed.reshape(wide) @ look.residual.reshape(frames, frames, 2 * points, 1))[..., 0]
        at = self._places()
        system, pull = np.diag(self._prior), self._prior * self._since_before(now)
        np.add.at(system, (at[..., :, None], at[..., None, :]), blocks)
        np.add.at(pull, at, pulls)
        # Points: bound to the cameras that see them, to their own, to the focal lengths and to their frame's scale.
        bound = np.zeros((frames, unknowns, points))
        bound[:, self._poses] = binding[:, :, :6].reshape(frames, -1, points)
        own = np.arange(frames)
        for one in own:
            bound[one, 6 * one : 6 * one + 6] += binding[one, :, 6:12].sum(axis=0)
        bound[:, self._focal] = binding[:, :, 12].sum(axis=1)
        scales = self._scales.start + own
        bound[own, scales] = -own_prior
        system[scales, scales] += own_prior * points
        apart = now.point - now.frame[:, None]
        pull[self._scales] -= own_prior * apart.sum(axis=1)
        told = (look.weight[..., None, :] * depth_slopes**2).sum(axis=(1, 2))
        point_pull = (look.weight[..., None, :] * depth_slopes * look.residual).sum(axis=(1, 2)) + own_prior * apart
        stiffness = told + own_prior
        softened = bound / stiffness[:, None]
        reduced = system - _product(softened, bound)
        step = -np.linalg.solve(reduced, pull - (softened @ point_pull[..., None]).sum(axis=0)[:, 0])
        point_step = -(point_pull + step @ bound) / stiffness
        return step, point_step, told / stiffness

    def _slopes(self, look: _Look) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of `residual` by unknowns.

        Returns:
            [S, S, 13, 2, P] by turn and shift of the camera that sees, of the point's own camera, and the focal factor;
            [S, S, 2, P] by the logarithm of the point's depth.
        """
        frames, points = self._depth.shape
        slopes = np.zeros((frames, frames, 13, 2, points))
        by_other, by_own = slopes[:, :, 3:6], slopes[:, :, 9:12]
        scale = look.focal_px[..., None] / self._sigma_px / look.other[..., 2:, :]
        by_other[..., 0, 0, :], by_other[..., 1, 1, :] = scale[..., 0, :], scale[..., 1, :]
        by_other[..., 2, :, :] = -look.away / self._sigma_px / look.other[..., 2:, :]
        own_from_other = look.other_from_own[..., :3, :3].swapaxes(-1, -2)
        flat = (frames, frames, 3, 2 * points)
        by_own[...] = -(own_from_other @ by_other.reshape(flat)).reshape(by_own.shape)
        _cross(look.other, by_other, slopes[:, :, 0:3])
        _cross(look.own, by_own, slopes[:, :, 6:9])
        focal = look.away / self._sigma_px
        for axis in range(2):
            focal = focal + by_own[:, :, axis] * look.own[:, :, axis, None]
        slopes[:, :, 12] = focal
        return slopes, -(by_own * look.own[:, :, :, None]).sum(axis=2)

    def _places(self) -> np.ndarray:
        """[S, S, 13] rows of the system that the derivatives of a pair of frames belong to."""
        own, other = np.indices((len(self._depth),) * 2)[..., None]
        six = np.arange(6)
        return np.concatenate([6 * other + six, 6 * own + six, np.full_like(own, self._focal)], axis=-1)

    def _since_before(self, now: Estimate) -> np.ndarray:
        """What was changed of the network's answer, in the order of the system's rows."""
        turn = now.cam_from_window[:, :3, :3] @ self._before.cam_from_window[:, :3, :3].swapaxes(1, 2)
        shift = now.cam_from_window[:, :3, 3] - self._before.cam_from_window[:, :3, 3]
        poses = np.concatenate([vector_from_rotation(turn), shift], axis=1)
        return np.concatenate([poses.reshape(-1), [now.focal], now.frame])

    def _moved(self, now: Estimate, step: np.ndarray, point_step: np.ndarray) -> Estimate:
        moves = step[self._poses].reshape(-1, 6)
        turn = rotation_from_vector(moves[:, :3])
        cameras = now.cam_from_window.copy()
        cameras[:, :3] = turn @ cameras[:, :3]
        cameras[:, :3, 3] += moves[:, 3:]
        longest = _LONGEST_STEP
        return Estimate(
            cameras,
            now.focal + float(step[self._focal]),
            now.frame + step[self._scales],
            now.point + point_step.clip(-longest, longest),
        )

    def _cost(self, estimate: Estimate, look: _Look) -> float:
        """What the rounds make small."""
        square = (look.residual**2).sum(axis=-2)[look.weight > 0]
        priors = (self._prior * self._since_before(estimate) ** 2).sum()
        apart = (estimate.point - estimate.frame[:, None]) / _POINT_SIGMA
        return float(_GROSS**2 * np.log1p(square / _GROSS**2).sum() + priors + (apart**2).sum())

    def _median_residual_px(self, look: _Look) -> float:
        length = (np.linalg.norm(look.residual, axis=-2) * self._sigma_px[:, 0])[look.weight > 0]
        return float(np.median(length)) if length.size else float('nan')


def _product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sum over S of first [S, U, P] @ second [S, U, P]^T, in pieces too small for BLAS to wake threads for.

    On a busy machine a thread that waits for another made this ten times slower.
    """
    total = np.zeros((first.shape[1], second.shape[1]))
    for begin in range(0, first.shape[2], _PIECE):
        piece = slice(begin, begin + _PIECE)
        total += (first[..., piece] @ second[..., piece].swapaxes(-1, -2)).sum(axis=0)
    return total


def _cross(point: np.ndarray, slope: np.ndarray, out: np.ndarray) -> None:
    """point [..., 3, P] x slope [..., 3, 2, P]."""
    x, y, z = (point[..., axis, None, :] for axis in range(3))
    by_x, by_y, by_z = (slope[..., axis, :, :] for axis in range(3))
    out[..., 0, :, :] = y * by_z - z * by_y
    out[..., 1, :, :] = z * by_x - x * by_z
    out[..., 2, :, :] = x * by_y - y * by_x
