"""How good a window's depth and cameras are, and a trivial answer to compare with.

Source: depth ratios after Eigen et al., 2014; the area under the pose-accuracy curve as in VGGT, sec. 4.1, over the
larger of the rotation and the direction error of every pair of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from vggt.geometry import invert_rigid

MIN_BASELINE = 0.02  # of the scene's mean depth; a shorter one has no direction that could be judged
BASELINE_FOV_DEG = 65.0  # horizontal; the middle of what the scenes have


@dataclass(frozen=True)
class Cameras:
    """Depth and cameras of one window, true or estimated.

    Attributes:
        cam_from_world: [S, 3, 4].
        K: [S, 3, 3] pixels.
        depth: [S, H, W], any unit; 0 or NaN where unknown. None where there is none.
    """

    cam_from_world: Tensor
    K: Tensor
    depth: Tensor | None


@dataclass(frozen=True)
class Score:
    """Mean or median over windows; angles in degrees. NaN where the data cannot tell."""

    abs_rel: float
    delta1: float
    rotation_median_deg: float
    direction_median_deg: float
    auc5: float
    auc30: float
    focal_error: float


@dataclass(frozen=True)
class WindowErrors:
    """Errors of one window before they are summed up.

    Attributes:
        abs_rel, delta1: of the depth after scaling by the ratio of the medians; NaN without true depth.
        rotation_deg: [pairs] angle between the estimated and the true relative rotation.
        direction_deg: [pairs] angle between the estimated and the true direction of relative translation, NaN where
            the true baseline is below MIN_BASELINE of the mean depth.
        focal: [S] relative error of the horizontal focal length.
    """

    abs_rel: float
    delta1: float
    rotation_deg: np.ndarray
    direction_deg: np.ndarray
    focal: np.ndarray


def window_errors(estimate: Cameras, truth: Cameras, mean_depth: float | None = None) -> WindowErrors:
    """Compare an estimate with the truth; scale and world of the two need not agree.

    Args:
        estimate: with a depth if truth has one.
        truth: reference.
        mean_depth: typical distance of the scene in the unit of truth's cameras, where truth has no depth.
    """
    abs_rel = delta1 = float('nan')
    if truth.depth is not None and estimate.depth is not None:
        valid = torch.isfinite(truth.depth) & (truth.depth > 0)
        true, found = truth.depth[valid], estimate.depth[valid]
        found = found * (true.median() / found.median())
        abs_rel = float(((found - true).abs() / true).mean())
        delta1 = float((torch.maximum(found / true, true / found) < 1.25).float().mean())
        mean_depth = float(true.mean())
    first, second = np.triu_indices(len(truth.K), 1)
    true_pair, pair = (_relative(c.cam_from_world.double(), first, second) for c in (truth, estimate))
    turn = pair[:, :3, :3].transpose(1, 2) @ true_pair[:, :3, :3]
    rotation = torch.rad2deg(_angle_of(turn))
    baseline = true_pair[:, :3, 3].norm(dim=-1)
    cosine = torch.cosine_similarity(pair[:, :3, 3], true_pair[:, :3, 3], dim=-1, eps=1e-12)
    direction = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))  # no motion at all counts as 90 degrees
    if mean_depth is not None:
        direction[baseline < MIN_BASELINE * mean_depth] = torch.nan
    focal = (estimate.K[:, 0, 0] / truth.K[:, 0, 0] - 1).abs()
    return WindowErrors(abs_rel, delta1, rotation.numpy(), direction.numpy(), focal.numpy())


def summarise(errors: Sequence[WindowErrors]) -> Score:
    """Depth: mean over windows. Angles and focal length: over all pairs and frames of all windows."""
    rotation = np.concatenate([e.rotation_deg for e in errors])
    direction = np.concatenate([e.direction_deg for e in errors])
    worse = np.fmax(rotation, direction)  # a pair without a baseline is judged by its rotation alone
    return Score(
        abs_rel=_mean([e.abs_rel for e in errors]),
        delta1=_mean([e.delta1 for e in errors]),
        rotation_median_deg=float(np.median(rotation)),
        direction_median_deg=float(np.nanmedian(direction)) if np.isfinite(direction).any() else float('nan'),
        auc5=area_under_curve(worse, 5),
        auc30=area_under_curve(worse, 30),
        focal_error=float(np.median(np.concatenate([e.focal for e in errors]))),
    )


def area_under_curve(errors_deg: np.ndarray, limit_deg: int) -> float:
    """Mean share of errors below 1, 2, ... limit degrees."""
    return float(np.mean([(errors_deg < bound).mean() for bound in range(1, limit_deg + 1)]))


def trivial_estimate(truth: Cameras, image_size: tuple[int, int]) -> Cameras:
    """Constant depth, no motion, a middling lens: what anybody can say without looking."""
    frames = len(truth.K)
    H, W = image_size
    focal = W / 2 / np.tan(np.radians(BASELINE_FOV_DEG) / 2)
    K = torch.tensor([[focal, 0, W / 2], [0, focal, H / 2], [0, 0, 1]], dtype=torch.float32).expand(frames, 3, 3)
    return Cameras(torch.eye(3, 4).expand(frames, 3, 4), K, torch.ones(frames, H, W))


def table(rows: dict[str, Score]) -> str:
    """Markdown table with one row for each name."""
    names = [field.name for field in fields(Score)]
    lines = ['| | ' + ' | '.join(names) + ' |', '|---' * (len(names) + 1) + '|']
    for label, score in rows.items():
        values = [getattr(score, name) for name in names]
        digits = [2 if name.endswith('deg') else 3 for name in names]
        cells = ['-' if np.isnan(v) else f'{v:.{d}f}' for v, d in zip(values, digits, strict=True)]
        lines.append(f'| {label} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _relative(cam_from_world: Tensor, first: np.ndarray, second: np.ndarray) -> Tensor:
    """[pairs, 4, 4] second_from_first."""
    square = torch.eye(4, dtype=cam_from_world.dtype).repeat(len(cam_from_world), 1, 1)
    square[:, :3] = cam_from_world
    return square[second] @ invert_rigid(square[first])


def _angle_of(rotation: Tensor) -> Tensor:
    """Angle of [..., 3, 3] rotations in radians, exact near 0 where the trace alone loses digits."""
    sine = torch.stack(
        (rotation[..., 2, 1] - rotation[..., 1, 2], rotation[..., 0, 2] - rotation[..., 2, 0],
         rotation[..., 1, 0] - rotation[..., 0, 1]), dim=-1,
    ).norm(dim=-1) / 2  # fmt: skip
    return torch.atan2(sine, (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2)


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else float('nan')
