"""Windows that disagree: refused, looked at again, bridged or outvoted, and never a part of the map."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
import scene
from scene import RELATIVE, assert_on_truth, placed
from scipy.spatial.transform import Rotation

from vggt_ros.core.config import Config
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, Sim3, invert_rigid, rotation_angle
from vggt_ros.core.loops.back_end import BackEnd
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.submap import SeamStatus, Update
from vggt_ros.core.window import Window, WindowBuffer

FIRST, ALIGNED, BRIDGED, REFUSED, HELD, DEGENERATE = (
    SeamStatus.FIRST, SeamStatus.ALIGNED, SeamStatus.BRIDGED, SeamStatus.REFUSED, SeamStatus.HELD,
    SeamStatus.DEGENERATE,
)  # fmt: skip


def grossly(prediction: Prediction, seed: int) -> Prediction:
    """As a network that has lost its way: cameras turned by 30 degrees and shifted, depth off in large blotches."""
    rng = np.random.default_rng(seed)
    poses, count = prediction.window_from_cam, len(prediction.stamps_ns)
    extent = np.ptp(poses[:, :3, 3], axis=0).max()
    turns = Rotation.from_rotvec(rng.normal(0, math.radians(30) / math.sqrt(3), (count, 3))).as_matrix()
    poses[:, :3, :3] = poses[:, :3, :3] @ turns
    poses[:, :3, 3] += rng.normal(0, extent, (count, 3))
    knots = rng.normal(0, 0.5, (count, 3, 4)) + rng.normal(0, 0.5, (count, 1, 1))
    size = (scene.WIDTH, scene.HEIGHT)
    factors = np.exp([cv2.resize(one, size, interpolation=cv2.INTER_CUBIC) for one in knots])
    return dataclasses.replace(
        prediction,
        cam_from_window=invert_rigid(poses) @ poses[0],
        depth=(prediction.depth * factors).astype(np.float32),
    )


def run(bad_calls: set[int], count: int = 36, seed: int = 0, **values: float):
    """A walk on which some answers of the network are grossly wrong, counted from 0."""
    predictor = scene.SimulatedPredictor(
        scene.walk(count), seed, lambda p, call: grossly(p, call + 7 * seed) if call in bad_calls else p
    )
    pipeline = Pipeline(Config().with_values({'confidence_percentile': 0.0, **values}), predictor)
    answers = [*map(pipeline.add_frame, scene.frames_of(predictor.world_from_cams)), pipeline.flush()]
    return [update for update in answers if update is not None], pipeline, predictor


def statuses(updates: list[Update]) -> list[SeamStatus]:
    return [update.seam.status for update in updates]


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('stride', [1, 4, 6])
def test_a_bad_answer_is_refused_and_the_next_one_bridges_it(seed: int, stride: int):
    updates, pipeline, predictor = run({2}, seed=seed, window_stride=stride)
    assert_on_truth(updates, pipeline, predictor)  # every frame, and every point of the cloud
    expected = [ALIGNED] * len(updates)
    expected[0], expected[2] = FIRST, BRIDGED
    assert statuses(updates) == expected
    assert updates[2].seam.refused == 1
    assert (pipeline.statistics.refused, pipeline.statistics.bridged) == (1, 1)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('stride', [1, 4])
def test_frames_that_no_answer_fits_are_lost_and_what_follows_is_not(seed: int, stride: int):
    updates, pipeline, predictor = run({2, 3}, seed=seed, window_stride=stride)
    bad = updates[2]
    assert statuses(updates)[:5] == [FIRST, ALIGNED, REFUSED, ALIGNED, ALIGNED]
    for frame in bad.frames:
        assert np.isnan(frame.depth).all()
        assert frame.covariance[0, 0] >= 9999
        np.testing.assert_array_equal(frame.map_from_cam, updates[1].frames[-1].map_from_cam)
    assert (pipeline.statistics.refused, pipeline.statistics.bridged) == (2, 0)
    lost = {frame.stamp_ns for frame in bad.frames}
    assert_frames_on_truth([frame for frame in placed(updates) if frame.stamp_ns not in lost], predictor)
    assert_cloud_on_surfaces(pipeline, predictor)


def assert_frames_on_truth(frames, predictor):
    rigid = BODY_FROM_OPTICAL @ invert_rigid(predictor.world_from_cams[0])
    map_from_world = Sim3(predictor.scales[0], rigid[:3, :3], predictor.scales[0] * rigid[:3, 3])
    for frame in frames:
        i = (frame.stamp_ns - scene.START_NS) // scene.FRAME_NS
        truth = map_from_world.transform_pose(predictor.world_from_cams[i])
        assert np.linalg.norm(frame.map_from_cam[:3, 3] - truth[:3, 3]) < RELATIVE * 3 * predictor.scales[0]
        assert rotation_angle(frame.map_from_cam[:3, :3].T @ truth[:3, :3]) < RELATIVE


def assert_cloud_on_surfaces(pipeline, predictor):
    rigid = BODY_FROM_OPTICAL @ invert_rigid(predictor.world_from_cams[0])
    map_from_world = Sim3(predictor.scales[0], rigid[:3, :3], predictor.scales[0] * rigid[:3, 3])
    xyz, _ = pipeline.map.points()
    in_world = map_from_world.inverse().transform_points(xyz.astype(np.float64))
    assert len(xyz) > 1000
    assert scene.distance_to_surface(in_world).max() < RELATIVE * 6.0  # metres of the room


def test_a_bad_first_window_is_outvoted_and_the_map_starts_anew(monkeypatch: pytest.MonkeyPatch):
    withdrawn: list[int] = []
    monkeypatch.setattr(BackEnd, 'withdraw', lambda self, index: withdrawn.append(index))
    updates, pipeline, predictor = run({0})
    assert withdrawn == [0]  # no loop is closed to a place of it any more
    # two answers to the second window agree with each other, and not with the first
    assert statuses(updates) == [FIRST, HELD] + [ALIGNED] * (len(updates) - 2)
    assert updates[1].seam.refused == 2
    # its first frame is the fourth of the walk: there the map begins, level and in the unit of that answer
    rigid, scale = BODY_FROM_OPTICAL @ invert_rigid(predictor.world_from_cams[4]), predictor.scales[1]
    truth = Sim3(scale, rigid[:3, :3], scale * rigid[:3, 3])
    poses = np.stack([frame.map_from_cam for frame in placed(updates[1:])])
    expected = truth.transform_pose(predictor.world_from_cams[8:])
    assert np.abs(poses - expected).max() < 1e-3 * scale
    xyz, _ = pipeline.map.points()
    assert scene.distance_to_surface(truth.inverse().transform_points(xyz.astype(float))).max() < RELATIVE * 6.0


def test_two_answers_that_agree_go_on_without_the_trusted_window():
    """The scene changes behind the camera's back: nothing after fits what was before, all after fits together."""

    def elsewhere(prediction: Prediction, call: int) -> Prediction:
        if call < 2:
            return prediction
        poses = prediction.window_from_cam
        poses[:, :3, 3] *= -3  # another way through
        rows = np.linspace(0.3, 3.0, scene.HEIGHT, dtype=np.float32)[:, None]
        return dataclasses.replace(prediction, cam_from_window=invert_rigid(poses), depth=prediction.depth * rows)

    predictor = scene.SimulatedPredictor(scene.walk(36), 0, elsewhere)
    pipeline = Pipeline(Config(), predictor)
    updates = [u for u in map(pipeline.add_frame, scene.frames_of(predictor.world_from_cams)) if u]
    assert statuses(updates)[:6] == [FIRST, ALIGNED, REFUSED, DEGENERATE, ALIGNED, ALIGNED]
    known = updates[3].frames[0].covariance[0, 0] / updates[1].frames[-1].covariance[0, 0]
    assert known > 100  # the join is not believed, and says so


def test_a_network_that_fails_on_and_on_is_asked_once_a_window():
    updates, pipeline, predictor = run(set(range(2, 100)), count=60)
    assert statuses(updates)[2:] == [REFUSED] * (len(updates) - 2)
    assert len(predictor.scales) == len(updates) + 1  # one second look, at the first of them
    assert pipeline.statistics.refused == len(predictor.scales) - 2
    assert all(np.isfinite(update.map_from_window_cams).all() for update in updates)
    assert_cloud_on_surfaces(pipeline, predictor)


def test_refusing_can_be_turned_off():
    updates, pipeline, _ = run({2}, alignment_min_inlier_ratio=0.0)
    assert statuses(updates)[1:] == [ALIGNED] * (len(updates) - 1)
    assert pipeline.statistics.refused == 0


def test_the_next_window_begins_with_frames_of_the_trusted_one():
    frames = scene.frames_of(scene.walk(16))
    config = Config().with_values({'window_size': 8, 'window_stride': 4}).window
    buffer = WindowBuffer(config)
    windows = [window for window in map(buffer.add, frames[:12]) if window]
    buffer.begin_with(windows[0])
    after = next(window for window in map(buffer.add, frames[12:]) if window)
    assert [frames.index(frame) for frame in after.frames] == [6, 7, 10, 11, 12, 13, 14, 15]
    assert (after.shared, after.is_bridge) == (4, True)
    assert not windows[1].is_bridge


def test_a_window_narrows_to_the_newer_half_of_what_it_shares():
    frames = tuple(scene.frames_of(scene.walk(8)))
    narrower = Window(frames, 4).narrowed()
    assert narrower is not None
    assert (narrower.frames, narrower.shared) == (frames[2:], 2)
    assert narrower.new == frames[4:]
    assert Window(frames, 1).narrowed() is None


def noisy(seed: int):
    rng = np.random.default_rng(seed)

    def spoil(prediction: Prediction, _: int) -> Prediction:
        """0.3 degrees in the turns, 1 % of the depth in the places, a smooth 3 % in depth: parallax drowns in it."""
        poses, count = prediction.window_from_cam, len(prediction.stamps_ns)
        turns = Rotation.from_rotvec(rng.normal(0, math.radians(0.3) / math.sqrt(3), (count, 3))).as_matrix()
        poses[:, :3, :3] = poses[:, :3, :3] @ turns
        poses[:, :3, 3] += rng.normal(0, 0.01 / math.sqrt(3), (count, 3)) * np.nanmedian(prediction.depth)
        size = (scene.WIDTH, scene.HEIGHT)
        smooth = [cv2.resize(rng.normal(0, 0.03, (3, 4)), size, interpolation=cv2.INTER_CUBIC) for _ in range(count)]
        depth = prediction.depth * np.exp(np.stack(smooth)).astype(np.float32)
        return dataclasses.replace(prediction, cam_from_window=invert_rigid(poses) @ poses[0], depth=depth)

    return spoil


@pytest.mark.parametrize(
    'name, world_from_cams',
    [
        ('turning in place', [scene.look([0.2, 0.1, -0.3], 4.0 * i) for i in range(60)]),
        ('straight line', [scene.look([0.05 * i - 1.5, 0.0, -1.0], 20.0) for i in range(60)]),
        ('planar wall', [scene.look([0.01 * i, -0.8, 2.0], 0.0, 5.0) for i in range(60)]),
        ('standing still', [scene.look([0.5, 0.0, 0.0], 30.0)] * 60),
    ],
)
def test_scale_lasts_where_the_cameras_cannot_tell_it(name: str, world_from_cams: list[np.ndarray]):
    """Without parallax the shared cameras say nothing of the scale; the depth ratio carries it."""
    predictor = scene.SimulatedPredictor(np.stack(world_from_cams), 7, noisy(3))
    pipeline = Pipeline(Config(), predictor)
    updates = [u for u in map(pipeline.add_frame, scene.frames_of(predictor.world_from_cams)) if u]
    assert set(statuses(updates)[1:]) == {ALIGNED}
    scales = [
        update.map_from_window.scale * scale / predictor.scales[0]
        for update, scale in zip(updates, predictor.scales, strict=True)
    ]
    # a frame's median depth errs by some 1.5 %, a seam of four frames by 1 %, fourteen of them by 4 %; three times that
    assert np.abs(np.log(scales)).max() < 0.12
