"""Clouds made on the network's device are those made on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vggt_ros.clouds import lift, pack_planes, unpack_planes
from vggt_ros.core.config import Config
from vggt_ros.core.device_frame import Bounds, DeviceFrame
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import BODY_FROM_OPTICAL
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import VggtPredictor
from vggt_ros.encode import Encoder
from vggt_ros.messages import bag_messages

K = np.array([[50.0, 0.0, 31.7], [0.0, 52.0, 23.1], [0.0, 0.0, 1.0]])
CLOUDS = ('~/points', '~/points_filtered', '~/world_points')
SETTINGS = {
    'window_size': 4,
    'window_stride': 2,
    'input_width': 64,
    'precision': 'fp32',
    'standalone': True,
    'confidence_percentile': 30.0,
    'bundle_adjustment': 'off',
}


def random_frame(device: str = 'cpu') -> DeviceFrame:
    random = torch.Generator().manual_seed(0)
    depth, confidence = 10 * torch.rand(48, 64, generator=random), 1 + torch.rand(48, 64, generator=random)
    depth[3, 5] = torch.nan
    pixels = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8, generator=random)
    return DeviceFrame(depth.to(device), confidence.to(device), pixels.to(device), depth.numpy())


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason='no GPU'))])  # fmt: skip
def test_packed_points_are_those_of_the_host(device: str) -> None:
    frame = random_frame(device)
    depth, confidence, pixels = (one.cpu().numpy() for one in (frame.depth, frame.confidence, frame.pixels))
    is_valid = (confidence >= 1.3) & (depth >= 0.5) & (depth < 9)
    expected = np.where(is_valid, depth * np.float32(1.7) * np.float32(0.3), np.float32('nan'))
    placed = frame.placed(1.7, depth, Bounds(1.3, 0.5, 9.0)).placed(0.3, expected)
    packed = np.empty((48, 64, 4), np.float32)
    pack_planes(*lift(expected, pixels, K), packed)
    found = placed.packed(K)
    np.testing.assert_array_equal(found[..., :3], packed[..., :3])
    np.testing.assert_array_equal(found.view(np.uint32)[..., 3], packed.view(np.uint32)[..., 3])
    for ours, theirs in zip(unpack_planes(found), lift(expected, pixels, K), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_frame_whose_depth_was_replaced_is_not_lifted_from_the_old() -> None:
    frame = random_frame()
    assert frame.of(frame.host) is frame
    assert frame.of(frame.host.copy()) is None


def clouds_of(works_on_device: bool, **changes: object) -> tuple[list[np.ndarray], int]:
    """All clouds of a short stream through the real network, and how many frames a device held."""
    pytest.importorskip('rosbags', reason='the messages are those of rosbags')
    config = Config().with_values({**SETTINGS, **changes})
    predictor = VggtPredictor(config)
    predictor.works_on_device = works_on_device
    pipeline = Pipeline(config, predictor)
    encoder = Encoder(config, bag_messages())
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
    clouds, kept = [], 0
    for i, image in enumerate(images):
        update = pipeline.add_frame(Frame(10**9 + i * 10**8, image, 'camera'))
        if update is None:
            continue
        kept += sum(frame.on_device is not None for frame in update.frames)
        clouds += [np.asarray(one.message.data) for one in encoder.encode(update, BODY_FROM_OPTICAL, CLOUDS)
                   if one.topic in CLOUDS]  # fmt: skip
    assert not any(submap.prediction.on_device for submap in pipeline.map.submaps)
    return clouds, kept


@pytest.mark.parametrize('changes', [{}, {'scale_source': 'fixed', 'scale': 2.5}, {'output_resolution': 'input'}])
def test_a_stream_gives_the_same_clouds_either_way(changes: dict[str, object]) -> None:
    on_host, none = clouds_of(False, **changes)
    on_device, kept = clouds_of(True, **changes)
    assert none == 0
    assert kept >= 4
    assert len(on_host) == len(on_device) > 0
    for ours, theirs in zip(on_device, on_host, strict=True):
        # x and y of an unknown point are NaN with either sign
        points, expected = (one.view(np.float32).reshape(-1, 4)[:, :3] for one in (ours, theirs))
        np.testing.assert_array_equal(points, expected)
        np.testing.assert_array_equal(ours.view(np.uint32)[3::4], theirs.view(np.uint32)[3::4])


def test_what_a_mask_hides_stays_hidden() -> None:
    config = Config().with_values(SETTINGS)
    predictor = VggtPredictor(config)
    predictor.works_on_device = True
    pipeline = Pipeline(config, predictor)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    mask = np.ones((48, 64), bool)
    mask[:, :20] = False
    frames = [Frame(10**9 + i * 10**8, image, 'camera', mask=mask) for i in range(4)]
    update = next(update for frame in frames if (update := pipeline.add_frame(frame)))
    for frame in update.frames:
        assert np.isnan(frame.depth[:, :19]).all()
        assert frame.on_device is None or frame.on_device.of(frame.depth) is None
