"""The nine numbers of the camera head, and the camera they mean.

[0:3] translation of cam_from_world, [3:7] quaternion xyzw of its rotation, [7] vertical and [8] horizontal field of
view in radians. Source: docs/network_facts.md sec. 4 and 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vggt.errors import InputError
from vggt.geometry import quaternion_from_rotation, rotation_from_quaternion


def decode_pose_encoding(pose_encoding: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pose encoding to extrinsics and intrinsics.

    Args:
        pose_encoding: [..., 9]; the quaternion may have any length but zero.
        image_size: (H, W) in pixels of the image that K shall hold for.

    Returns:
        cam_from_world [..., 3, 4] and K [..., 3, 3] in float32 or finer. The principal point is the middle of the
        image, (W / 2, H / 2). A field of view of exactly 0 gives an infinite focal length.

    Raises:
        InputError: the last axis is not 9.
    """
    if pose_encoding.shape[-1] != 9:
        raise InputError(f'pose_encoding must be [..., 9], got {list(pose_encoding.shape)}')
    encoding = pose_encoding if pose_encoding.dtype == torch.float64 else pose_encoding.float()
    height, width = image_size
    rotation = rotation_from_quaternion(encoding[..., 3:7])
    cam_from_world = torch.cat((rotation, encoding[..., :3, None]), dim=-1)
    fy = height / 2.0 / torch.tan(encoding[..., 7] / 2.0)
    fx = width / 2.0 / torch.tan(encoding[..., 8] / 2.0)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    K = torch.stack((fx, zero, one * width / 2, zero, fy, one * height / 2, zero, zero, one), dim=-1)
    return cam_from_world, K.unflatten(-1, (3, 3))


def encode_pose_encoding(cam_from_world: Tensor, K: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Extrinsics and intrinsics to a pose encoding; the principal point is not kept.

    Args:
        cam_from_world: [..., 3, 4] or [..., 4, 4].
        K: [..., 3, 3] in pixels of an image of image_size.
        image_size: (H, W) in pixels.

    Returns:
        [..., 9] with a unit quaternion, w not negative.
    """
    height, width = image_size
    quaternion = quaternion_from_rotation(cam_from_world[..., :3, :3])
    fov_vertical = 2.0 * torch.atan(height / 2.0 / K[..., 1, 1])
    fov_horizontal = 2.0 * torch.atan(width / 2.0 / K[..., 0, 0])
    fovs = torch.stack((fov_vertical, fov_horizontal), dim=-1)
    return torch.cat((cam_from_world[..., :3, 3], quaternion, fovs), dim=-1)
