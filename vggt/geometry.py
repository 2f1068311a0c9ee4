"""Rotations, rigid transforms and pinhole cameras on torch tensors.

Axes are OpenCV's: x right, y down, z forward. Quaternions are xyzw. Pixel centres are at integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_QUATERNION_DIVISOR = 0.1  # docs/network_facts.md sec. 5; the best of four candidates is never below it


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """Rotation matrix of a quaternion of any length but zero.

    Args:
        quaternion: [..., 4] in xyzw order.

    Returns:
        [..., 3, 3].

    Source: Shoemake, Animating Rotation with Quaternion Curves, 1985, with the squared norm divided out.
    """
    x, y, z, w = quaternion.unbind(-1)
    s = 2.0 / quaternion.square().sum(-1)
    rows = (
        (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        (s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
        (s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternion_from_rotation(rotation: Tensor) -> Tensor:
    """Unit quaternion of a rotation matrix, with w not negative.

    Args:
        rotation: [..., 3, 3].

    Returns:
        [..., 4] in xyzw order.

    Source: Shepperd, Quaternion from Rotation Matrix, 1978: four formulas, the one with the largest divisor is used.
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (row.unbind(-1) for row in rotation.unbind(-2))
    # Twice the magnitude of x, y, z, w.
    magnitudes = torch.stack(
        (1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22, 1 + m00 + m11 + m22), dim=-1
    )
    magnitudes = magnitudes.clamp(min=0).sqrt()
    qx, qy, qz, qw = magnitudes.square().unbind(-1)
    # Row i holds 4 * q_i * (x, y, z, w).
    candidates = torch.stack(
        (
            torch.stack((qx, m10 + m01, m20 + m02, m21 - m12), dim=-1),
            torch.stack((m10 + m01, qy, m21 + m12, m02 - m20), dim=-1),
            torch.stack((m20 + m02, m21 + m12, qz, m10 - m01), dim=-1),
            torch.stack((m21 - m12, m02 - m20, m10 - m01, qw), dim=-1),
        ),
        dim=-2,
    )
    best = magnitudes.argmax(dim=-1)[..., None]
    divisor = 2 * magnitudes.gather(-1, best).clamp(min=MIN_QUATERNION_DIVISOR)
    chosen = candidates.gather(-2, best[..., None].expand(*best.shape, 4)).squeeze(-2)
    quaternion = chosen / divisor
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def invert_rigid(target_from_source: Tensor) -> Tensor:
    """Inverse of rigid transforms.

    Args:
        target_from_source: [..., 3, 4] or [..., 4, 4].

    Returns:
        [..., 4, 4] source_from_target, with the bottom row.
    """
    rotation = target_from_source[..., :3, :3].transpose(-1, -2)
    translation = -rotation @ target_from_source[..., :3, 3:]
    bottom = translation.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*translation.shape[:-2], 1, 4)
    return torch.cat((torch.cat((rotation, translation), dim=-1), bottom), dim=-2)


def unproject_depth(depth: Tensor, K: Tensor) -> Tensor:
    """Lift depth images to points in their cameras.

    Args:
        depth: [..., H, W] distance along the optical axis.
        K: [..., 3, 3] intrinsics in pixels of these depth images.

    Returns:
        [..., H, W, 3] in the optical frame, in the unit of depth.

    Source: Hartley and Zisserman, Multiple View Geometry, 2nd ed., sec. 6.1.
    """
    height, width = depth.shape[-2:]
    v = torch.arange(height, dtype=depth.dtype, device=depth.device)[:, None]
    u = torch.arange(width, dtype=depth.dtype, device=depth.device)
    fx, fy, cx, cy = (K[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return torch.stack(((u - cx) * depth / fx, (v - cy) * depth / fy, depth), dim=-1)


def world_points_from_depth(depth: Tensor, cam_from_world: Tensor, K: Tensor) -> Tensor:
    """Lift depth images to points in the world: the depth-and-camera branch.

    Args:
        depth: [..., H, W].
        cam_from_world: [..., 3, 4].
        K: [..., 3, 3] in pixels of the depth images.

    Returns:
        [..., H, W, 3] float64: far points and a rotation lose digits in float32.
    """
    world_from_cam = invert_rigid(cam_from_world.double())
    points = unproject_depth(depth, K).double()
    rotation, translation = world_from_cam[..., :3, :3], world_from_cam[..., :3, 3]
    return torch.einsum('...ij,...hwj->...hwi', rotation, points) + translation[..., None, None, :]


def project_points(points: Tensor, cam_from_world: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Project world points into cameras.

    Args:
        points: [N, 3] in the world.
        cam_from_world: [S, 3, 4].
        K: [S, 3, 3].

    Returns:
        pixels [S, N, 2] as (u, v), and points [S, N, 3] in each optical frame; a pixel means something only where
        the point's z is positive.
    """
    in_cam = points @ cam_from_world[..., :3].transpose(-1, -2) + cam_from_world[..., None, :, 3]
    pixels = in_cam @ K.transpose(-1, -2)
    return pixels[..., :2] / pixels[..., 2:], in_cam
