"""Where patches are seen, and the losses that teach it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.batches import draw_batch, mirror, resize, targets_of, vary_lens
from training.correspondence import (
    PatchMatcher,
    attention_loss,
    correspond,
    frame_scale_loss,
    lift,
    pair_loss,
    relative_depth_loss,
    shift_loss,
)
from training.losses import Targets
from training.nano import make_nano
from training.pool import Pool
from training.windows import Window
from vggt.geometry import rotation_from_quaternion
from vggt.pose_encoding import encode_pose_encoding

GRID = (12, 16)


@pytest.fixture(scope='module')
def window(pool_folder: Path) -> Window:
    return Pool(pool_folder).read(np.array([0, 1, 2]), np.array([[0, 3, 7]] * 3))


@pytest.fixture(scope='module')
def targets(window: Window) -> Targets:
    return targets_of(window)


def test_depth_of_a_place_seen_twice_agrees(targets: Targets) -> None:
    """`seen` claims that the point of a patch is the surface that the other frame shows there: colours must agree."""
    found = correspond(targets, patch_size=8)
    own = found.seen.diagonal(dim1=1, dim2=3)
    assert own.all()  # every patch is seen in its own frame
    assert found.distance.diagonal(dim1=1, dim2=3).abs().max() == 0
    assert 0.2 < found.seen.float().mean() < 1


def test_seen_places_show_the_same_colour(window: Window, targets: Targets) -> None:
    found = correspond(targets, patch_size=8)
    images = torch.nn.functional.avg_pool2d(window.images.flatten(0, 1).float(), 3, 1, 1).unflatten(0, (3, 3))
    here, there = [], []
    for batch in range(3):
        pixel = (found.place[batch, 1, :, 0] * 8 + 3.5).round().long()  # of frame 1's patches, in frame 0
        seen = found.seen[batch, 1, :, 0]
        here.append(images[batch, 1, :, 4::8, 4::8].flatten(1)[:, seen])
        there.append(images[batch, 0][:, pixel[seen, 1], pixel[seen, 0]])
    pair = torch.stack((torch.cat(here, 1).flatten(), torch.cat(there, 1).flatten()))
    assert torch.corrcoef(pair)[0, 1] > 0.9  # sensor noise and half a pixel of rounding take the rest


def test_lifted_points_fall_back_on_their_pixels(window: Window) -> None:
    points = lift(window.depth, window.cam_from_world, window.K)
    rotation, translation = window.cam_from_world[..., :3], window.cam_from_world[..., 3]
    in_camera = torch.einsum('bsij,bshwj->bshwi', rotation, points) + translation[:, :, None, None]
    pixels = torch.einsum('bsij,bshwj->bshwi', window.K, in_camera)
    u, v = pixels[..., 0] / pixels[..., 2], pixels[..., 1] / pixels[..., 2]
    assert torch.allclose(u, torch.arange(128.0).expand_as(u), atol=1e-2)  # float32 over metres and 100 px
    assert torch.allclose(v, torch.arange(96.0)[:, None].expand_as(v), atol=1e-2)


@pytest.mark.parametrize('change', ['mirror', 'resize'])
def test_changed_windows_are_still_one_scene(window: Window, change: str) -> None:
    """Depth moved by the poses into another frame agrees with that frame's depth as often as before the change."""

    def agreement(w: Window) -> float:
        found = correspond(targets_of(w), patch_size=8)
        inside = found.in_front & (found.place > -0.4).all(-1)
        inside &= (found.place < found.place.new_tensor([w.depth.shape[-1], w.depth.shape[-2]]) / 8 - 0.6).all(-1)
        return float((found.seen & inside).sum() / inside.sum())

    changed = mirror(window) if change == 'mirror' else resize(window, (72, 96))
    before, after = agreement(window), agreement(changed)
    assert before > 0.8
    assert after == pytest.approx(before, abs=0.03)  # other pixels are the middle of a patch


def test_mirroring_twice_is_the_same_but_for_the_edge(window: Window) -> None:
    twice = mirror(mirror(window))
    assert torch.equal(twice.images[..., 2:], window.images[..., 2:])
    assert torch.allclose(twice.cam_from_world, window.cam_from_world)


def test_matcher_is_content_with_true_matches_and_not_with_wrong_ones(window: Window) -> None:
    """Tokens that carry their place in frame 0, as sharp bumps, are what the contrastive loss asks for."""
    pair = Window(*(getattr(window, field.name)[:, :2] for field in fields(window)))
    found = correspond(targets_of(pair), patch_size=8)
    rows, columns = GRID
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing='ij')
    cells = torch.stack((column, row), -1).reshape(-1, 2)
    gap = found.place[:, :, :, 0, None] - cells  # (B, S, P, P, 2)
    tokens = (1 - gap.abs()).clamp(min=0).prod(-1)  # bilinear share of each cell of frame 0
    matcher = PatchMatcher(rows * columns, rows * columns)
    torch.nn.init.eye_(matcher.project.weight)
    torch.nn.init.zeros_(matcher.project.bias)
    with torch.no_grad():
        right, share = matcher(tokens, found, GRID)
        wrong, other = matcher(tokens[:, :, torch.randperm(rows * columns)], found, GRID)
    assert share > 0.9
    assert other < 0.2
    assert right < 0.6 * wrong


def test_attention_that_goes_to_the_right_place_costs_less(targets: Targets) -> None:
    model = make_nano(0)
    found = correspond(targets, patch_size=8)
    tokens = 3 * (2 + GRID[0] * GRID[1])
    generator = torch.Generator().manual_seed(0)
    random = {name: torch.randn(3, 3, tokens, 64, generator=generator).requires_grad_() for name in 'qk'}
    loss, share = attention_loss(model, random, found, GRID)
    optimiser = torch.optim.Adam(random.values(), lr=0.1)
    before = float(loss.detach())
    for _ in range(40):
        loss, share = attention_loss(model, random, found, GRID)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.5 * before
    assert share > 0.8  # what the loss pulls together is what counts as matched


def test_a_shift_is_judged_by_its_length(targets: Targets) -> None:
    long = replace(targets, cam_from_world=targets.cam_from_world * torch.tensor([1.0, 1.0, 1.0, 10.0]))
    short = replace(targets, cam_from_world=targets.cam_from_world * torch.tensor([1.0, 1.0, 1.0, 5.0]))
    pose = encode_pose_encoding(long.cam_from_world, long.K, long.depth.shape[-2:])[None]
    assert shift_loss(pose, long) == pytest.approx(0, abs=1e-6)
    none, half = pose.clone(), pose.clone()
    none[..., :3] = 0
    half[..., :3] /= 2
    assert 0.4 * shift_loss(none, long) < shift_loss(half, long) < 0.6 * shift_loss(none, long)
    # A shift of half the length that is missed altogether costs nearly as much; only below 0.03 it counts for less.
    assert 0.8 * shift_loss(none, long) < shift_loss(none, short) < shift_loss(none, long)


@pytest.fixture
def apart(targets: Targets) -> Targets:
    """The same turns, and cameras half of the scene's distance from the first one."""
    cam_from_world = targets.cam_from_world.clone()
    cam_from_world[:, 1:, :, 3] = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.5]])
    return replace(targets, cam_from_world=cam_from_world)


def encoding_of(targets: Targets) -> torch.Tensor:
    return encode_pose_encoding(targets.cam_from_world, targets.K, targets.depth.shape[-2:])[None].clone()


def test_true_poses_cost_no_pair_anything(apart: Targets) -> None:
    poses = encoding_of(apart).requires_grad_()
    losses = pair_loss(poses, apart)
    assert all(0 <= loss < 1e-3 for loss in losses.values())
    sum(losses.values()).backward()
    assert torch.isfinite(poses.grad).all()


def test_a_turn_of_all_cameras_but_one_costs_the_pairs_that_it_parts(apart: Targets) -> None:
    turned = encoding_of(apart)
    angle = torch.tensor(0.2)
    half_turn = rotation_from_quaternion(torch.tensor([0.0, (angle / 2).sin(), 0.0, (angle / 2).cos()]))
    moved = replace(apart, cam_from_world=apart.cam_from_world.clone())
    moved.cam_from_world[:, 1] = half_turn @ apart.cam_from_world[:, 1]  # one of three frames: two of three pairs
    turned = encoding_of(moved)
    assert float(pair_loss(turned, apart)['pair_turn']) == pytest.approx(2 / 3 * float((angle / 2).sin()), rel=1e-3)


def test_direction_and_length_of_a_shift_are_judged_apart(apart: Targets) -> None:
    still, short, back = (encoding_of(apart) for _ in range(3))
    still[..., :3] = 0
    short[..., :3] /= 2
    back[..., :3] *= -1
    losses = {name: pair_loss(pose, apart) for name, pose in (('still', still), ('short', short), ('back', back))}
    assert losses['short']['pair_direction'] < 1e-3  # scaled about the first camera: every direction is right
    assert float(losses['short']['pair_length']) == pytest.approx(np.log(2), rel=1e-2)
    assert losses['back']['pair_length'] < 1e-3
    assert float(losses['back']['pair_direction']) == pytest.approx(2, rel=1e-2)
    assert float(losses['still']['pair_direction']) == pytest.approx(
        1, rel=1e-2
    )  # no answer, half as bad as a wrong one


def test_attention_of_all_patches_asked_is_that_of_none_named(targets: Targets) -> None:
    found = correspond(targets, patch_size=8)
    generator = torch.Generator().manual_seed(0)
    random = {name: torch.randn(3, 3, 3 * (2 + GRID[0] * GRID[1]), 64, generator=generator) for name in 'qk'}
    loss, _ = attention_loss(make_nano(0), random, found, GRID)
    shuffled = torch.randperm(GRID[0] * GRID[1], generator=generator)
    again, _ = attention_loss(make_nano(0), random, found, GRID, shuffled)
    third, _ = attention_loss(make_nano(0), random, found, GRID, shuffled[:64])
    assert float(again) == pytest.approx(float(loss), rel=1e-5)
    assert float(third) == pytest.approx(float(loss), rel=0.1)  # a sample of the same


def test_batches_come_in_the_asked_form(pool_folder: Path) -> None:
    pool = Pool(pool_folder)
    batch = draw_batch(pool, np.random.default_rng(0), pool.ready(), 4, 3, (72, 96))
    again = draw_batch(pool, np.random.default_rng(0), pool.ready(), 4, 3, (72, 96))
    assert batch.images.shape == (4, 3, 3, 72, 96)
    assert 0 <= batch.images.min() <= batch.images.max() <= 1
    assert torch.equal(batch.images, again.images)
    assert torch.allclose(batch.targets.cam_from_world[:, 0], torch.eye(3, 4).expand(4, 3, 4), atol=1e-6)
    distance = batch.targets.world_points.norm(dim=-1)[batch.targets.valid]
    assert float(distance.mean()) == pytest.approx(1, abs=0.3)  # 1 for each scene; scenes differ in valid pixels


def test_the_matcher_looks_between_later_frames_too(targets: Targets) -> None:
    """Tokens of the first frame that match nothing leave the other pairs to be found."""
    found = correspond(targets, patch_size=8)
    rows, columns = GRID
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing='ij')
    cells = torch.stack((column, row), -1).reshape(-1, 2)
    tokens = (1 - (found.place[:, :, :, 1, None] - cells).abs()).clamp(min=0).prod(-1)  # bumps in frame 1
    tokens[:, 0] = 0
    matcher = PatchMatcher(rows * columns, rows * columns)
    torch.nn.init.eye_(matcher.project.weight)
    torch.nn.init.zeros_(matcher.project.bias)
    shuffled = tokens.clone()
    shuffled[:, 2] = tokens[:, 2, torch.randperm(rows * columns)]
    with torch.no_grad():
        assert matcher(tokens, found, GRID)[0] < matcher(shuffled, found, GRID)[0]


def test_another_lens_darkens_the_rim_and_blurs_along_a_line() -> None:
    images = torch.full((4, 8, 3, 24, 32), 0.5)
    images[..., 12, 16] = 1.0
    varied = vary_lens(images, np.random.default_rng(0))
    assert varied.shape == images.shape
    assert (varied[..., 0, 0] < varied[..., 6, 16]).all()
    assert (varied <= 1).all()
    sharp = varied[..., 12, 16] > 0.9
    assert 0.5 < sharp.float().mean() < 1  # most frames stay as they are
    assert (varied[..., 11:14, 15:18].sum((-1, -2)) > 4.3).all()  # what the blur takes from a point it gives nearby


def test_frames_at_one_scale_cost_nothing_and_others_their_ratio(targets: Targets) -> None:
    decoded = [0, 2]
    depth = 3 * targets.depth[:, decoded]  # a whole window may have any scale
    assert frame_scale_loss(depth, targets, decoded) == pytest.approx(0, abs=1e-5)
    depth[:, 1] *= 0.9
    assert frame_scale_loss(depth, targets, decoded) == pytest.approx(-np.log(0.9), abs=1e-5)
    assert frame_scale_loss(depth[:, :1], targets, [0]) == 0


def test_relative_depth_is_judged_as_a_share_of_the_truth_whatever_the_scale(targets: Targets) -> None:
    decoded = [0, 2]
    truth = targets.depth[:, decoded]
    assert relative_depth_loss(3 * truth, targets, decoded) == pytest.approx(0, abs=1e-5)
    near = truth < torch.stack([scene.quantile(0.25) for scene in truth.flatten(1)]).view(-1, 1, 1, 1)
    depth = torch.where(near, 1.2 * truth, truth)
    share = torch.stack([scene.float().mean() for scene in near]).mean()
    assert relative_depth_loss(depth, targets, decoded) == pytest.approx(np.log(1.2) * float(share), rel=1e-3)
    nothing = replace(targets, valid=torch.zeros_like(targets.valid))
    assert relative_depth_loss(depth, nothing, decoded) == 0
