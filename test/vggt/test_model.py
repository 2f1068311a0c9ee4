"""What the network promises beyond its numbers: conventions, clear refusals, training."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from small import PATCH, SMALL, random_images, small_model

from vggt import VGGT, VGGTConfig, VGGTOutput
from vggt.config import BackboneConfig
from vggt.errors import ConfigError, InputError

# Another batch size may take another kernel: rounding of values below 10 through some twenty layers.
ROUNDING = 2e-5


@pytest.fixture(scope='module')
def model() -> VGGT:
    return small_model()


@torch.inference_mode()
def estimate(model: VGGT, images: torch.Tensor, queries: torch.Tensor | None = None) -> VGGTOutput:
    return model(images, queries)


def assert_close(a: torch.Tensor | None, b: torch.Tensor | None, tolerance: float = ROUNDING) -> None:
    assert a is not None
    assert b is not None
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_outputs_have_the_documented_shapes(model: VGGT) -> None:
    output = estimate(model, random_images(3), torch.tensor([[10.0, 20.0], [30.0, 5.0]]))
    tensors = set(VGGTOutput.__annotations__) - {'image_size', 'ready'}
    shapes = {name: list(getattr(output, name).shape) for name in tensors}
    assert shapes == {
        'pose_encoding': [1, 3, 9],
        'pose_encodings': [4, 1, 3, 9],
        'depth': [1, 3, 56, 70],
        'depth_confidence': [1, 3, 56, 70],
        'world_points': [1, 3, 56, 70, 3],
        'world_points_confidence': [1, 3, 56, 70],
        'tracks': [4, 1, 3, 2, 2],
        'visibility': [1, 3, 2],
        'track_confidence': [1, 3, 2],
    }


def test_a_batch_gives_what_each_scene_gives_alone(model: VGGT) -> None:
    first, second = random_images(3, seed=1), random_images(3, seed=2)
    both = estimate(model, torch.stack((first, second)))
    for i, scene in enumerate((first, second)):
        alone = estimate(model, scene)
        assert_close(both.depth[i : i + 1], alone.depth)
        assert_close(both.pose_encoding[i : i + 1], alone.pose_encoding)
        assert_close(both.world_points[i : i + 1], alone.world_points)


def test_the_first_frame_is_special_and_the_others_may_change_places(model: VGGT) -> None:
    images = random_images(4)
    output = estimate(model, images)
    swapped = estimate(model, images[[0, 2, 1, 3]])
    assert_close(swapped.pose_encoding[:, [0, 2, 1, 3]], output.pose_encoding)
    assert_close(swapped.depth[:, [0, 2, 1, 3]], output.depth)
    rotated = estimate(model, images[[1, 0, 2, 3]])
    assert (rotated.pose_encoding[:, [1, 0, 2, 3]] - output.pose_encoding).abs().max() > 1e-2


def test_a_frame_sees_the_other_frames(model: VGGT) -> None:
    images = random_images(3)
    other = images.clone()
    other[2] = 1 - other[2]
    assert (estimate(model, images).depth[:, 0] - estimate(model, other).depth[:, 0]).abs().max() > 1e-3


def test_more_frames_per_chunk_change_nothing(model: VGGT) -> None:
    images = random_images(5)
    layers = model.aggregator(images[None])
    by_two = model.read_heads(layers, (56, 70), heads=('depth',), chunk=2)
    at_once = model.read_heads(layers, (56, 70), heads=('depth',), chunk=5)
    assert_close(by_two.depth, at_once.depth)


def test_both_point_branches_can_be_selected(model: VGGT) -> None:
    output = estimate(model, random_images(2))
    lifted, lifted_confidence = output.points('depth')
    mapped, mapped_confidence = output.points('point_map')
    assert lifted.shape == mapped.shape == (1, 2, 56, 70, 3)
    assert lifted_confidence is output.depth_confidence
    assert mapped_confidence is output.world_points_confidence
    assert mapped is output.world_points
    in_cam = torch.einsum('bsij,bshwj->bshwi', output.cameras()[0][..., :3].double(), lifted)
    in_cam = in_cam + output.cameras()[0][:, :, None, None, :, 3]
    assert_close(in_cam[..., 2].float(), output.depth)  # z in the camera is the depth


def test_heads_that_are_not_built_leave_no_output() -> None:
    output = estimate(VGGT(SMALL.with_heads(['camera'])), random_images(2))
    assert output.pose_encoding is not None
    assert output.depth is None
    assert output.world_points is None
    with pytest.raises(InputError, match='depth and camera heads'):
        output.points('depth')


@pytest.mark.parametrize('size', [(14, 14), (42, 98), (70, 70)])
def test_any_multiple_of_the_patch_size_is_taken(model: VGGT, size: tuple[int, int]) -> None:
    output = estimate(model, random_images(2, *size))
    assert output.depth.shape[-2:] == size
    assert torch.isfinite(output.depth).all()


BAD_IMAGES = {
    'list': ([torch.rand(3, 56, 56), torch.rand(3, 56, 70)], 'one size'),
    'numpy': (torch.rand(2, 3, 56, 56).numpy(), 'torch.from_numpy'),
    'one image without a frame axis': (torch.rand(3, 56, 56), r'\[S, 3, H, W\]'),
    'channels last': (torch.rand(2, 56, 56, 3), '3 channels'),
    'four channels': (torch.rand(2, 4, 56, 56), '3 channels'),
    'bytes': (torch.zeros(2, 3, 56, 56, dtype=torch.uint8), 'divide 8-bit values by 255'),
    'no frame': (torch.rand(0, 3, 56, 56), 'at least one frame'),
    'height': (torch.rand(2, 3, 57, 56), 'multiples of 14, got 57x56'),
    '0..255': (torch.rand(2, 3, 56, 56) * 255, r'in \[0, 1\]'),
    'negative': (torch.rand(2, 3, 56, 56) - 0.5, r'in \[0, 1\]'),
    'nan': (torch.full((2, 3, 56, 56), torch.nan), 'finite'),
    'inf': (torch.full((2, 3, 56, 56), torch.inf), 'finite'),
}


@pytest.mark.parametrize('case', BAD_IMAGES, ids=str)
def test_bad_images_are_refused_in_words(model: VGGT, case: str) -> None:
    images, message = BAD_IMAGES[case]
    with pytest.raises(InputError, match=message):
        model(images)


BAD_QUERIES = {
    'three coordinates': (torch.zeros(2, 3), r'\(x, y\)'),
    'outside': (torch.tensor([[70.0, 10.0]]), r'0\.\.69'),
    'nan': (torch.tensor([[torch.nan, 10.0]]), r'0\.\.69'),
    'none': (torch.zeros(0, 2), '1 scenes'),
    'two scenes': (torch.zeros(2, 4, 2), '1 scenes'),
    'list': ([[1.0, 2.0]], 'tensor'),
}


@pytest.mark.parametrize('case', BAD_QUERIES, ids=str)
def test_bad_query_points_are_refused_in_words(model: VGGT, case: str) -> None:
    queries, message = BAD_QUERIES[case]
    with pytest.raises(InputError, match=message):
        model(random_images(2), queries)


def test_tracking_without_its_head_and_on_small_images_is_refused() -> None:
    with pytest.raises(InputError, match='track head'):
        VGGT(SMALL.with_heads(['camera']))(random_images(1), torch.zeros(1, 2))
    assert SMALL.track_head is not None
    deep = replace(SMALL, track_head=replace(SMALL.track_head, corr_levels=7))
    with pytest.raises(InputError, match='at least 128 px'):
        VGGT(deep)(random_images(1, 112, 126), torch.zeros(1, 2))


def test_one_frame_is_a_window(model: VGGT) -> None:
    assert estimate(model, random_images(1)).depth.shape == (1, 1, 56, 70)


def test_tracks_start_at_their_queries(model: VGGT) -> None:
    queries = torch.tensor([[10.0, 20.0], [30.0, 5.0]])
    tracks = estimate(model, random_images(3), queries).tracks
    for tracks_of_round in tracks:
        torch.testing.assert_close(tracks_of_round[0, 0], queries)


def test_configuration_survives_json() -> None:
    for config in (SMALL, VGGTConfig(), SMALL.with_heads(['depth']), replace(SMALL, backbone=None)):
        assert VGGTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    'change, message',
    [
        ({'num_heads': 5}, 'multiple of num_heads'),
        ({'num_heads': 32}, 'multiple of 4'),
        ({'depth': 3}, r'lie in 0\.\.2'),
        ({'attention_block_size': 3}, 'attention_block_size'),
        ({'attention_order': ('frame', 'frame')}, 'once each'),
        ({'image_size': 71}, 'multiple of patch_size'),
        ({'backbone': BackboneConfig(num_heads=5)}, 'backbone.num_heads'),
        ({'camera_head': None, 'depth_head': None, 'point_head': None, 'track_head': None}, 'at least one head'),
    ],
)
def test_nonsense_configurations_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)
    with pytest.raises(ConfigError, match='pose_head'):
        VGGTConfig.from_dict({'pose_head': 1})


def test_training_reaches_every_parameter_with_and_without_checkpointing() -> None:
    images, gradients = random_images(2), []
    for checkpointing in (True, False):
        model = small_model(replace(SMALL, activation_checkpointing=checkpointing)).train()
        output = model(images, torch.tensor([[10.0, 20.0]]))
        loss = output.pose_encodings.square().mean() + output.depth.square().mean() + output.tracks.square().mean()
        loss = loss + output.world_points.square().mean() + output.visibility.sum() + output.track_confidence.sum()
        (loss + output.depth_confidence.mean() + output.world_points_confidence.mean()).backward()
        without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
        assert not without
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_tables_made_at_inference_serve_training() -> None:
    model = small_model().eval()
    images = random_images(2, 84, 98)  # a size that no other test has put into the caches
    estimate(model, images)
    model.train()(images).depth.mean().backward()


def test_heads_keep_float32_under_autocast(model: VGGT) -> None:
    images = random_images(2)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        low = estimate(model, images)
    exact = estimate(model, images)
    assert low.depth.dtype == low.pose_encoding.dtype == torch.float32
    difference = (low.pose_encoding - exact.pose_encoding).abs().max()
    assert 0 < difference < 0.05  # bfloat16 has 8 bits; the aggregator did run in it


def test_whole_model_in_low_precision_runs() -> None:
    model = small_model().bfloat16()
    output = estimate(model, random_images(2).bfloat16())
    assert output.depth.dtype == torch.float32  # the last activation is an exponential, and done in full
    assert torch.isfinite(output.depth).all()


def test_patch_size_is_free_of_fourteen() -> None:
    config = replace(SMALL, patch_size=8, image_size=64, backbone=None)
    assert config.patch_size != PATCH
    assert estimate(small_model(config), random_images(2, 40, 56)).depth.shape == (1, 2, 40, 56)
