"""The losses against numbers of the released training code, and against cases that can be told by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from training.losses import Targets, camera_loss, normalise, regression_loss

Golden = dict[str, torch.Tensor]
# The stored numbers are float32 sums over 14,000 pixels in another order: 1e-6 relative, four times that allowed.
RELATIVE = 4e-6


@pytest.fixture(scope='module')
def golden(goldens: Path) -> Golden:
    return {name: torch.from_numpy(value) for name, value in np.load(goldens / 'losses.npz').items()}


@pytest.fixture(scope='module')
def numbers(goldens: Path) -> dict[str, float]:
    return json.loads((goldens / 'losses.json').read_text())


@pytest.fixture(scope='module')
def targets(golden: Golden) -> Targets:
    return Targets(
        golden['norm_extrinsics'],
        golden['intrinsics'],
        golden['norm_depths'],
        golden['norm_world_points'],
        golden['point_masks'],
    )


def test_normalised_scene_is_the_reference_one(golden: Golden) -> None:
    found = normalise(
        golden['extrinsics'], golden['intrinsics'], golden['depths'], golden['world_points'], golden['point_masks']
    )
    assert torch.allclose(found.cam_from_world, golden['norm_extrinsics'], atol=2e-6)
    assert torch.allclose(found.depth, golden['norm_depths'], atol=2e-6)
    assert torch.allclose(found.world_points, golden['norm_world_points'], atol=5e-6)


def test_camera_loss_is_the_reference_one(golden: Golden, targets: Targets, numbers: dict[str, float]) -> None:
    found = camera_loss(golden['pred_pose_enc_list'], targets)
    assert float(found['translation']) == pytest.approx(numbers['camera/loss_T'], rel=RELATIVE)
    assert float(found['rotation']) == pytest.approx(numbers['camera/loss_R'], rel=RELATIVE)
    assert float(found['fov']) == pytest.approx(numbers['camera/loss_FL'], rel=RELATIVE)


@pytest.mark.parametrize(
    'case,gradient,keep',
    [
        ('depth_grad_q98', 'grad', 0.98),
        ('depth_gradconf', 'grad_conf', 1.0),
        ('point_normal_q98', 'normal', 0.98),
        ('point_normalconf', 'normal_conf', 1.0),
    ],
)
def test_regression_losses_are_the_reference_ones(
    golden: Golden, targets: Targets, numbers: dict[str, float], case: str, gradient: str, keep: float
) -> None:
    kind = case.split('_')[0]
    predicted, confidence, truth = (
        (golden['pred_depth'], golden['pred_depth_conf'], targets.depth[..., None])
        if kind == 'depth'
        else (golden['pred_world_points'], golden['pred_world_points_conf'], targets.world_points)
    )
    found = regression_loss(predicted, confidence, truth, targets.valid, gradient, keep)
    assert float(found['confidence']) == pytest.approx(numbers[f'{case}/loss_conf_{kind}'], rel=RELATIVE)
    assert float(found['plain']) == pytest.approx(numbers[f'{case}/loss_reg_{kind}'], rel=RELATIVE)
    assert float(found['gradient']) == pytest.approx(numbers[f'{case}/loss_grad_{kind}'], rel=RELATIVE)


def test_objective_of_all_tasks_is_the_reference_one(
    golden: Golden, targets: Targets, numbers: dict[str, float]
) -> None:
    camera = camera_loss(golden['pred_pose_enc_list'], targets)
    valid = targets.valid
    depth = regression_loss(golden['pred_depth'], golden['pred_depth_conf'], targets.depth[..., None], valid, 'grad')
    points = regression_loss(
        golden['pred_world_points'], golden['pred_world_points_conf'], targets.world_points, valid, 'normal'
    )
    total = 5 * (camera['translation'] + camera['rotation'] + 0.5 * camera['fov'])
    total = total + sum(depth.values()) + sum(points.values())
    assert float(total) == pytest.approx(numbers['multitask/objective'], rel=RELATIVE)


def test_scale_and_place_of_a_scene_do_not_matter(golden: Golden) -> None:
    given = [golden[name].double() for name in ('extrinsics', 'intrinsics', 'depths', 'world_points')]
    valid = golden['point_masks']
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    turn = turn * torch.linalg.det(turn)
    shift = torch.tensor([1.0, -2.0, 3.0]).double()
    extrinsics, K, depth, points = given
    # The same scene three times as large, in a world that is turned and shifted.
    rotation = extrinsics[..., :3] @ turn.T
    translation = 3 * extrinsics[..., 3] - torch.einsum('bsij,j->bsi', rotation, shift)
    moved = normalise(
        torch.cat((rotation, translation[..., None]), -1), K, 3 * depth, 3 * points @ turn.T + shift, valid
    )
    still = normalise(extrinsics, K, depth, points, valid)
    # The stored rotations are orthonormal to 1e-7 only, and lever arms here are up to 10 long.
    assert torch.allclose(moved.cam_from_world, still.cam_from_world, atol=2e-6)
    assert torch.allclose(moved.world_points, still.world_points, atol=2e-6)
    assert torch.allclose(moved.depth, still.depth, atol=2e-6)


def test_a_perfect_answer_costs_nothing_and_has_a_finite_gradient(targets: Targets) -> None:
    depth = targets.depth[..., None].clone().requires_grad_()
    confidence = torch.ones_like(targets.depth)
    found = regression_loss(depth, confidence, targets.depth[..., None], targets.valid, 'grad')
    assert float(found['plain'].detach()) < 1e-9
    assert float(found['gradient'].detach()) == 0
    sum(found.values()).backward()
    assert torch.isfinite(depth.grad).all()


def test_nothing_valid_costs_nothing(targets: Targets) -> None:
    nothing = torch.zeros_like(targets.valid)
    depth = torch.rand_like(targets.depth)[..., None].requires_grad_()
    found = regression_loss(depth, torch.ones_like(targets.depth), targets.depth[..., None], nothing, 'grad')
    assert all(float(value.detach()) == 0 for value in found.values())
