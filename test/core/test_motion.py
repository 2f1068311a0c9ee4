"""What moves is left out of the map, what stands is not; the sky is no lid."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scene
from scene import predict_truth

from vggt_ros.core.config import Config
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.motion import moving_pixels
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.sky import sky_pixels, without_sky

COUNT, K, SIZE = 8, scene.K * [[2.0], [2.0], [1.0]], (72, 96)
PERSON = np.array([0.4, 1.6, 0.3])  # of a box that walks past 2 m ahead


def window_of(step: float, walk: float = 0.0) -> tuple[Prediction, np.ndarray]:
    """Eight frames of a camera that glides right past a person who walks `step` a frame; which pixels show it."""
    poses = np.stack([scene.look([walk * i - 0.51, 0.29, -2.01], 0) for i in range(COUNT)])
    depth, is_person = [], []
    for i, pose in enumerate(poses):
        room = scene.render(pose, K, SIZE)
        person = box_depth(pose, np.array([-1.0 + step * i, 0.7, 0.0]))
        is_person.append(person < room)
        depth.append(np.minimum(room, person))
    truth = predict_truth(poses, Sim3.identity())
    one = np.array(depth, np.float32)
    grids = {
        'K': np.tile(K, (COUNT, 1, 1)),
        'confidence': np.full_like(one, 2),
        'image': np.zeros((*one.shape, 3), np.uint8),
    }
    return dataclasses.replace(truth, depth=one, **grids), np.array(is_person)


def box_depth(pose: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """[h, w] depth of the person, infinite beside it, by slabs."""
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(SIZE)], axis=-1) @ pose[:3, :3].T
    with np.errstate(divide='ignore'):
        slabs = (np.stack([centre - PERSON / 2, centre + PERSON / 2])[:, None, None] - pose[:3, 3]) / rays
    enter, leave = np.minimum(*slabs).max(axis=-1), np.maximum(*slabs).min(axis=-1)
    return np.where((enter > 0) & (enter < leave), enter, np.inf)


def errors(prediction: Prediction, seed: int) -> Prediction:
    """Depth of each frame off by a smooth few per cent, as of a good network."""
    rng = np.random.default_rng(seed)
    tilt = np.linspace(-1, 1, SIZE[1]) * rng.normal(0, 0.02, (COUNT, 1, 1)) + rng.normal(0, 0.02, (COUNT, 1, 1))
    return dataclasses.replace(prediction, depth=(prediction.depth * np.exp(tilt)).astype(np.float32))


@pytest.mark.parametrize('walk', [0.0, 0.05])
def test_a_person_who_walks_past_is_found_and_the_room_is_not(walk: float):
    prediction, is_person = window_of(step=0.25, walk=walk)
    found = moving_pixels(errors(prediction, 0))
    assert found[is_person].mean() > 0.85
    around = found & ~is_person
    assert around.sum() < 0.25 * is_person.sum()  # a pixel of the grid all round
    assert found[~is_person].mean() < 0.03


def test_who_stands_stays():
    prediction, is_person = window_of(step=0.0, walk=0.05)
    found = moving_pixels(errors(prediction, 1))
    assert is_person.any()
    assert found.mean() < 0.002


def test_only_new_frames_are_told_of():
    prediction, _ = window_of(step=0.25)
    np.testing.assert_array_equal(moving_pixels(prediction, 4), moving_pixels(prediction)[4:])


def test_what_moves_is_found_in_any_unit_and_by_the_frames_that_know():
    prediction, _ = window_of(step=0.25, walk=0.05)
    expected = moving_pixels(prediction)
    assert expected.any()
    poses = prediction.cam_from_window.copy()
    poses[:, :3, 3] *= 0.25  # all of it nearer than one unit
    small = dataclasses.replace(prediction, depth=prediction.depth * np.float32(0.25), cam_from_window=poses)
    assert (moving_pixels(small) != expected).mean() < 0.001  # rounding at edges
    lost, blind = prediction.cam_from_window.copy(), prediction.depth.copy()
    lost[2], blind[5] = np.nan, np.nan
    found = moving_pixels(dataclasses.replace(prediction, cam_from_window=lost, depth=blind))
    assert not found[[2, 5]].any()
    others = [0, 1, 3, 4, 6, 7]
    assert (found[others] & expected[others]).sum() > 0.7 * expected[others].sum()


def test_frames_without_pose_or_depth_say_nothing():
    prediction, _ = window_of(step=0.25)
    lost = prediction.cam_from_window.copy()
    lost[1:] = np.nan
    assert not moving_pixels(dataclasses.replace(prediction, cam_from_window=lost)).any()
    blind = prediction.depth.copy()
    blind[1:] = np.nan
    assert not moving_pixels(dataclasses.replace(prediction, depth=blind)).any()


class Replay:
    """Gives one window, whatever is asked."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction

    def predict(self, _: object) -> Prediction:
        return self.prediction

    predict_apart = predict

    def reset(self) -> None:
        """Nothing is kept."""


def test_the_map_leaves_out_who_walked_and_the_depth_image_does_not():
    prediction, _ = window_of(step=0.25)
    counts = []
    for moving in (False, True):
        config = Config().with_values({'mask_moving': moving, 'confidence_percentile': 0.0, 'window_size': COUNT})
        pipeline = Pipeline(config, Replay(prediction))
        frames = scene.frames_of(scene.walk(COUNT))
        (update,) = [answer for frame in frames if (answer := pipeline.add_frame(frame)) is not None]
        assert all(np.isfinite(frame.depth).all() for frame in update.frames)  # an obstacle is an obstacle
        xyz, _ = pipeline.map.points()  # x ahead, y left, z up
        counts.append([(np.abs(xyz[:, 0] + 0.15) < 0.02).sum(), len(xyz)])  # the front of the person
    (with_person, whole), (without, rest) = counts
    assert with_person > 500
    assert without < 0.15 * with_person
    assert rest > whole - 1.4 * with_person  # its sides, and little of the room


def sky_scene() -> tuple[np.ndarray, np.ndarray]:
    """A street: ground and houses up to 20 m, sky at 200 m above them, and a doubted, far gap between two houses."""
    depth = np.tile(np.linspace(20, 2, 40)[:, None], (1, 60))
    depth[:12] = 200.0
    depth[12:20, 30:34] = 90.0  # joined to the sky
    depth[25:30, 50:55] = 90.0  # a window that mirrors it, on its own
    confidence = np.where(depth > 50, 1.0, 5.0)
    return depth.astype(np.float32), confidence.astype(np.float32)


def test_sky_is_far_doubted_and_reaches_the_top():
    depth, confidence = sky_scene()
    found = sky_pixels(depth, confidence)
    assert found[:12].all()
    assert found[12:20, 30:34].all()
    assert not found[25:30, 50:55].any()
    assert found.sum() == 12 * 60 + 8 * 4
    assert not sky_pixels(depth, np.full_like(confidence, 5.0)).any()  # a far wall that the network is sure of
    assert not sky_pixels(np.full((4, 4), np.nan, np.float32), np.ones((4, 4), np.float32)).any()


def test_an_indoor_picture_has_no_sky():
    prediction, _ = window_of(step=0.1)
    rng = np.random.default_rng(0)
    doubted = rng.uniform(1, 5, prediction.depth.shape).astype(np.float32)
    clear = without_sky(dataclasses.replace(prediction, confidence=doubted))
    np.testing.assert_array_equal(clear.depth, prediction.depth)


def test_depth_of_the_sky_is_unknown_to_everyone():
    depth, confidence = sky_scene()
    truth = predict_truth(scene.walk(2), Sim3.identity())
    grids = {'depth': np.stack([depth] * 2), 'confidence': np.stack([confidence] * 2)}
    clear = without_sky(dataclasses.replace(truth, **grids))
    assert np.isnan(clear.depth[:, :12]).all()
    assert np.isfinite(clear.depth[:, 20:]).all()


def test_a_map_has_no_sky_where_that_is_asked_for():
    prediction, _ = window_of(step=0.25)
    depth, confidence = prediction.depth.copy(), np.full_like(prediction.depth, 5.0)
    depth[:, :12], confidence[:, :12] = 50.0, 1.0
    prediction = dataclasses.replace(prediction, depth=depth, confidence=confidence)
    for sky in (False, True):
        config = Config().with_values({'mask_sky': sky, 'confidence_percentile': 0.0, 'window_size': COUNT})
        pipeline = Pipeline(config, Replay(prediction))
        frames = scene.frames_of(scene.walk(COUNT))
        (update,) = [answer for frame in frames if (answer := pipeline.add_frame(frame)) is not None]
        for frame in update.frames:
            assert np.isnan(frame.depth[:12]).all() == sky
            assert np.isfinite(frame.depth[12:]).all()
        assert (pipeline.map.points()[0][:, 0].max() < 20.0) == sky  # x ahead
