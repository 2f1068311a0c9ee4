"""Poses, quaternions and unprojection: against the reference's numbers, and the conventions that could flip quietly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from golden import load_arrays
from scipy.spatial.transform import Rotation

from vggt.errors import InputError
from vggt.geometry import (
    invert_rigid,
    project_points,
    quaternion_from_rotation,
    rotation_from_quaternion,
    unproject_depth,
    world_points_from_depth,
)
from vggt.output import VGGTOutput
from vggt.pose_encoding import decode_pose_encoding, encode_pose_encoding

GEOMETRY = {key: torch.from_numpy(value) for key, value in load_arrays('geometry.npz').items()}
IMAGE_SIZE = (int(GEOMETRY['image_hw'][0]), int(GEOMETRY['image_hw'][1]))
TURN_LEFT = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # 90 degrees about z


@pytest.mark.parametrize('suffix', ['', '_ok'])
def test_pose_encoding_decodes_as_in_the_reference(suffix: str) -> None:
    cam_from_world, K = decode_pose_encoding(GEOMETRY[f'pose_enc{suffix}'], IMAGE_SIZE)
    torch.testing.assert_close(cam_from_world, GEOMETRY[f'extrinsic{suffix}'], rtol=0, atol=2e-6)
    torch.testing.assert_close(K, GEOMETRY[f'intrinsic{suffix}'], rtol=1e-5, atol=0)


def test_pose_encoding_encodes_as_in_the_reference() -> None:
    ours = encode_pose_encoding(GEOMETRY['extrinsic_ok'], GEOMETRY['intrinsic_ok'], IMAGE_SIZE)
    torch.testing.assert_close(ours, GEOMETRY['pose_enc_roundtrip'], rtol=0, atol=2e-6)


def test_quaternions_of_every_quadrant_and_half_turn() -> None:
    torch.testing.assert_close(rotation_from_quaternion(GEOMETRY['quat']), GEOMETRY['rotmat'], rtol=0, atol=2e-6)
    torch.testing.assert_close(quaternion_from_rotation(GEOMETRY['rotmat']), GEOMETRY['quat_back'], rtol=0, atol=2e-6)


def test_rigid_inverse_as_in_the_reference() -> None:
    inverse = invert_rigid(GEOMETRY['extrinsic_ok'][0])
    torch.testing.assert_close(inverse, GEOMETRY['inv_se3_torch'], rtol=0, atol=1e-6)
    exact = invert_rigid(GEOMETRY['extrinsic_ok'][0].double())
    torch.testing.assert_close(exact, GEOMETRY['inv_se3_numpy'], rtol=0, atol=1e-6)


def test_depth_lifts_to_the_points_of_the_reference() -> None:
    depth, cam_from_world, K = GEOMETRY['depth'][..., 0], GEOMETRY['extrinsic_ok'][0], GEOMETRY['intrinsic_ok'][0]
    torch.testing.assert_close(unproject_depth(depth[0], K[0]), GEOMETRY['cam_points_frame0'], rtol=1e-5, atol=1e-6)
    points = world_points_from_depth(depth, cam_from_world, K)
    assert points.dtype == torch.float64
    torch.testing.assert_close(points, GEOMETRY['world_points'], rtol=1e-5, atol=1e-5)


def test_depth_and_camera_branch_of_the_viewer_golden() -> None:
    glb = {key: torch.from_numpy(value) for key, value in load_arrays('glb.npz').items()}
    points = world_points_from_depth(glb['pred_depth'][..., 0], glb['pred_extrinsic'], glb['pred_intrinsic'])
    torch.testing.assert_close(points, glb['pred_world_points_from_depth'], rtol=1e-5, atol=1e-5)


def test_projection_as_in_the_reference() -> None:
    pixels, in_cam = project_points(GEOMETRY['proj_points'], GEOMETRY['extrinsic_ok'][0], GEOMETRY['intrinsic_ok'][0])
    torch.testing.assert_close(in_cam.transpose(1, 2), GEOMETRY['proj_cam'], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pixels, GEOMETRY['proj_pixels'], rtol=1e-4, atol=1e-3)


def test_quaternion_order_is_xyzw() -> None:
    half = math.sqrt(0.5)
    torch.testing.assert_close(quaternion_from_rotation(TURN_LEFT), torch.tensor([0.0, 0.0, half, half]))
    torch.testing.assert_close(rotation_from_quaternion(torch.tensor([0.0, 0.0, half, half])), TURN_LEFT)


def test_quaternions_agree_with_scipy() -> None:
    rotations = Rotation.random(200, rng=np.random.default_rng(7))
    ours = quaternion_from_rotation(torch.from_numpy(rotations.as_matrix()))
    np.testing.assert_allclose(ours.numpy(), rotations.as_quat(canonical=True), atol=1e-12)


def test_quaternion_length_does_not_matter() -> None:
    quaternion = torch.tensor([0.1, -0.4, 0.3, 0.8])
    torch.testing.assert_close(rotation_from_quaternion(5 * quaternion), rotation_from_quaternion(quaternion))


def test_extrinsics_take_world_points_into_the_camera() -> None:
    """A camera at x = 2 that looks along the world's z sees the world's origin 2 to its left."""
    encoding = torch.tensor([-2.0, 0, 0, 0, 0, 0, 1, 1.0, 1.0])
    cam_from_world, _ = decode_pose_encoding(encoding, (100, 100))
    origin_in_cam = cam_from_world[:, 3]
    torch.testing.assert_close(origin_in_cam, torch.tensor([-2.0, 0.0, 0.0]))
    camera_in_world = invert_rigid(cam_from_world)[:3, 3]
    torch.testing.assert_close(camera_in_world, torch.tensor([2.0, 0.0, 0.0]))


def test_vertical_field_of_view_comes_first() -> None:
    encoding = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 2 * math.atan(0.5), 2 * math.atan(1.0)])
    _, K = decode_pose_encoding(encoding, (100, 300))  # H, W
    torch.testing.assert_close(K, torch.tensor([[150.0, 0, 150], [0, 100, 50], [0, 0, 1]]))


def test_closed_field_of_view_gives_an_infinite_focal_length() -> None:
    _, K = decode_pose_encoding(torch.zeros(9), (100, 100))
    assert torch.isinf(K[0, 0])


def test_pixel_centres_are_at_integers_when_depth_is_lifted() -> None:
    K = torch.tensor([[10.0, 0, 1], [0, 20, 1], [0, 0, 1]])
    points = unproject_depth(torch.full((3, 3), 5.0), K)
    torch.testing.assert_close(points[1, 1], torch.tensor([0.0, 0.0, 5.0]))
    torch.testing.assert_close(points[0, 2], torch.tensor([0.5, -0.25, 5.0]))  # right is x, up is -y


def test_lifted_points_project_back_onto_their_pixels() -> None:
    depth, cam_from_world, K = (
        GEOMETRY['depth'][:1, ..., 0].clamp(min=0.5),  # a depth of 0 has no pixel
        GEOMETRY['extrinsic_ok'][0, :1],
        GEOMETRY['intrinsic_ok'][0, :1],
    )
    points = world_points_from_depth(depth, cam_from_world, K).flatten(1, 2)[0]
    pixels, _ = project_points(points, cam_from_world.double(), K.double())
    v, u = torch.meshgrid(torch.arange(depth.shape[1]), torch.arange(depth.shape[2]), indexing='ij')
    torch.testing.assert_close(pixels[0], torch.stack((u, v), -1).flatten(0, 1).double(), rtol=0, atol=1e-3)


def test_missing_branch_is_named() -> None:
    output = VGGTOutput(image_size=(14, 14), depth=torch.ones(1, 1, 14, 14), depth_confidence=torch.ones(1, 1, 14, 14))
    with pytest.raises(InputError, match='camera'):
        output.points('depth')
    with pytest.raises(InputError, match='point head'):
        output.points('point_map')
    with pytest.raises(InputError, match='9'):
        decode_pose_encoding(torch.zeros(2, 8), (14, 14))
