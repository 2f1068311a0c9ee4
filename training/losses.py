"""The losses of the paper: cameras, depth and points with confidence and gradients, on a normalised scene.

Source: Wang et al., VGGT, CVPR 2025, sec. 3.4; fact sheet section 11 for what the released training code computes.
The functions here agree with its numbers (test/training/test_losses.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vggt.geometry import invert_rigid
from vggt.pose_encoding import encode_pose_encoding

ALPHA = 0.2  # weight of the log term that keeps confidences from shrinking
STAGE_DECAY = 0.6  # an earlier round of the camera head counts this much less than the next
KEEP = 0.98  # share of the errors that is kept: the largest ones are rendering edges and sensor faults
_MIN_FOR_QUANTILE = 1000
_MAX_ERROR = 100.0
_MIN_POINTS = 100  # a scene whose first frame shows no more valid points teaches no camera


@dataclass(frozen=True)
class Targets:
    """What the network should say about a batch, in the frame of each scene's first camera and at unit scale.

    Attributes:
        cam_from_world: [B, S, 3, 4], first frame the identity.
        K: [B, S, 3, 3] pixels.
        depth: [B, S, H, W].
        world_points: [B, S, H, W, 3].
        valid: [B, S, H, W] bool.
    """

    cam_from_world: Tensor
    K: Tensor
    depth: Tensor
    world_points: Tensor
    valid: Tensor


def normalise(cam_from_world: Tensor, K: Tensor, depth: Tensor, world_points: Tensor, valid: Tensor) -> Targets:
    """Move each scene into its first camera and divide it by the mean distance of its valid points from there.

    Args:
        cam_from_world: [B, S, 3, 4], any common unit of length.
        K: [B, S, 3, 3] pixels.
        depth: [B, S, H, W].
        world_points: [B, S, H, W, 3] in the world of cam_from_world.
        valid: [B, S, H, W] bool, where depth and points are known.
    """
    first = cam_from_world[:, 0]
    rotation, translation = first[:, :, :3], first[:, :, 3]
    from_first = cam_from_world @ invert_rigid(first)[:, None]
    points = torch.einsum('bij,bshwj->bshwi', rotation, world_points) + translation[:, None, None, None]
    count = valid.flatten(1).sum(1)
    distance = (points.norm(dim=-1) * valid).flatten(1).sum(1)
    scale = (distance / (count + 1e-3)).clamp(1e-6, 1e6)
    scaled = torch.cat((from_first[..., :3], from_first[..., 3:] / scale[:, None, None, None]), dim=-1)
    per_pixel = scale[:, None, None, None]
    return Targets(scaled, K, depth / per_pixel, points / per_pixel[..., None], valid)


def camera_loss(pose_encodings: Tensor, targets: Targets) -> dict[str, Tensor]:
    """L1 on translation, quaternion and field of view over the rounds of the camera head.

    Args:
        pose_encodings: [iterations, B, S, 9].
        targets: normalised scene.

    Returns:
        'translation', 'rotation' and 'fov', unweighted; zero if no scene counts.
    """
    H, W = targets.depth.shape[-2:]
    counts = targets.valid[:, 0].flatten(1).sum(1) > _MIN_POINTS
    if not counts.any():
        return dict.fromkeys(('translation', 'rotation', 'fov'), pose_encodings.sum() * 0)
    truth = encode_pose_encoding(targets.cam_from_world, targets.K, (H, W))[counts]
    stages = len(pose_encodings)
    weights = STAGE_DECAY ** torch.arange(stages - 1, -1, -1, device=truth.device, dtype=truth.dtype) / stages
    error = (pose_encodings[:, counts] - truth).abs()
    error = torch.einsum('n,nbsc->bsc', weights, torch.cat((error[..., :3].clamp(max=_MAX_ERROR), error[..., 3:]), -1))
    return {
        'translation': error[..., :3].mean(),
        'rotation': error[..., 3:7].mean(),
        'fov': error[..., 7:].mean(),
    }


def regression_loss(
    predicted: Tensor,
    confidence: Tensor,
    truth: Tensor,
    valid: Tensor,
    gradient: str,
    keep: float = KEEP,
) -> dict[str, Tensor]:
    """Distance to the truth, plain and weighed by the confidence, and its gradient over the picture.

    Args:
        predicted: [B, S, H, W, C] depth (C = 1) or points (C = 3).
        confidence: [B, S, H, W], above 0.
        truth: as predicted.
        valid: [B, S, H, W] bool.
        gradient: 'grad' compares neighbours' errors, 'normal' surface normals; '_conf' appended weighs by confidence.
        keep: share of the errors that counts; 1 keeps all.

    Returns:
        'confidence', 'plain' and 'gradient'; each is zero where nothing is valid.
    """
    if not valid.any():
        nothing = predicted.sum() * 0 + confidence.sum() * 0
        return dict.fromkeys(('confidence', 'plain', 'gradient'), nothing)
    # A gradient of zero, not NaN, where prediction and truth agree exactly.
    error = (predicted[valid] - truth[valid]).square().sum(-1).clamp(min=1e-20).sqrt()
    weighed = error * confidence[valid] - ALPHA * confidence[valid].log()
    images = (predicted.flatten(0, 1), truth.flatten(0, 1), valid.flatten(0, 1))
    over = confidence.flatten(0, 1) if gradient.endswith('_conf') else None
    if gradient.startswith('normal'):
        smoothness = _over_scales(_normal_term, *images, over, scales=3)
    else:
        smoothness = _over_scales(_difference_term, *images, over, scales=4)
    return {'confidence': _trimmed_mean(weighed, keep), 'plain': _trimmed_mean(error, keep), 'gradient': smoothness}


def _trimmed_mean(errors: Tensor, keep: float) -> Tensor:
    """Mean without the largest errors; all of them while there are too few for a quantile to say much."""
    if keep < 1 and errors.numel() > _MIN_FOR_QUANTILE:
        errors = errors.clamp(max=_MAX_ERROR)
        rank = round(keep * (errors.numel() - 1)) + 1
        threshold = errors.detach().kthvalue(min(rank, errors.numel())).values
        kept = errors[errors < threshold]
        if kept.numel() > _MIN_FOR_QUANTILE:
            errors = kept
    return errors.mean()


_Term = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def _over_scales(
    term: _Term, predicted: Tensor, truth: Tensor, valid: Tensor, confidence: Tensor | None, scales: int
) -> Tensor:
    total = predicted.new_zeros(())
    for scale in range(scales):
        every = slice(None, None, 2**scale)
        seen = None if confidence is None else confidence[:, every, every]
        total = total + term(predicted[:, every, every], truth[:, every, every], valid[:, every, every], seen)
    return total / scales


def _difference_term(predicted: Tensor, truth: Tensor, valid: Tensor, confidence: Tensor | None) -> Tensor:
    """Differences of the error between neighbours [M, H, W, C]: edges of the truth must be edges of the prediction."""
    count = valid.sum()
    if count == 0:
        return predicted.sum() * 0
    difference = (predicted - truth) * valid[..., None]
    total = predicted.new_zeros(())
    for axis in (1, 2):
        ahead, behind = _neighbours(difference, axis)
        both = torch.mul(*_neighbours(valid, axis))[..., None]
        step = ((ahead - behind).abs() * both).clamp(max=_MAX_ERROR)
        if confidence is not None:
            sure = _neighbours(confidence, axis)[0][..., None]
            step = step * sure - ALPHA * sure.log()  # of masked-out pixels as well: the released code does so
        total = total + step.sum()
    return total / (count * predicted.shape[-1])


def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Each element's follower along the axis, and the element."""
    return x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, 0, x.shape[axis] - 1)


def _normal_term(predicted: Tensor, truth: Tensor, valid: Tensor, confidence: Tensor | None) -> Tensor:
    """One minus the cosine between the four normals at each point [M, H, W, 3] and the true ones."""
    normals, both = _normals(predicted, valid)
    true_normals, _ = _normals(truth, valid)
    if both.sum() < 10:
        return predicted.sum() * 0
    # Cosines a hair inside of +-1, as the released code clamps them.
    misfit = 1 - (normals[both] * true_normals[both]).sum(-1).clamp(-1 + 1e-8, 1 - 1e-8)
    if confidence is not None:
        sure = confidence[None].expand(4, -1, -1, -1)[both]
        misfit = misfit * sure - ALPHA * sure.log()
    return misfit.mean()


def _normals(points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Normals from the four pairs of neighbours around each point; [4, M, H, W, 3] and where they exist."""
    padded = F.pad(points.movedim(-1, 1), (1, 1, 1, 1)).movedim(1, -1)
    known = F.pad(valid, (1, 1, 1, 1))
    centre = points
    up, left, down, right = padded[:, :-2, 1:-1], padded[:, 1:-1, :-2], padded[:, 2:, 1:-1], padded[:, 1:-1, 2:]
    has = (known[:, :-2, 1:-1], known[:, 1:-1, :-2], known[:, 2:, 1:-1], known[:, 1:-1, 2:])
    arms = [neighbour - centre for neighbour in (up, left, down, right)]
    normals = torch.stack([torch.linalg.cross(arms[i], arms[(i + 1) % 4]) for i in range(4)])
    exist = torch.stack([has[i] & has[(i + 1) % 4] & valid for i in range(4)])
    return F.normalize(normals, dim=-1, eps=1e-8), exist
