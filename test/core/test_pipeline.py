"""The whole path with a simulated network: known rooms and cameras in, the same rooms and cameras out."""

import dataclasses

import numpy as np
import pytest
import scene
from scene import RELATIVE, assert_on_truth, placed

from vggt_ros.core.config import Config
from vggt_ros.core.errors import ConfigError, PredictionError
from vggt_ros.core.frame import Frame
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import FakePredictor
from vggt_ros.core.submap import SeamStatus


def config_of(**values):
    return Config().with_values({'confidence_percentile': 0.0, **values})


def run(frames, predictor, config):
    pipeline = Pipeline(config, predictor)
    updates = [pipeline.add_frame(frame) for frame in frames] + [pipeline.flush()]
    return [update for update in updates if update is not None], pipeline


@pytest.mark.parametrize('size, stride', [(8, 4), (8, 1), (8, 7), (5, 2), (2, 1)])
@pytest.mark.parametrize('seed', [0, 1])
def test_random_similarities_are_undone(size, stride, seed):
    predictor = scene.SimulatedPredictor(scene.walk(30), seed)
    config = config_of(window_size=size, window_stride=stride)
    updates, pipeline = run(scene.frames_of(predictor.world_from_cams), predictor, config)
    assert_on_truth(updates, pipeline, predictor)
    assert [update.seam.status for update in updates[1:]] == [SeamStatus.ALIGNED] * (len(updates) - 1)
    for k, update in enumerate(updates[1:], start=1):
        ratio = predictor.scales[k - 1] / predictor.scales[k]
        np.testing.assert_allclose(update.seam.scale_ratio, ratio, rtol=RELATIVE)


def test_a_third_of_the_depth_corrupted_moves_no_camera():
    rng = np.random.default_rng(5)

    def spoil(prediction, _):
        wrong = rng.uniform(size=prediction.depth.shape) < 0.16  # on either side of a seam: 30 % of the pairs
        factors = np.where(wrong, rng.uniform(0.3, 3.0, wrong.shape), 1.0).astype(np.float32)
        return dataclasses.replace(prediction, depth=prediction.depth * factors)

    spoilt = scene.SimulatedPredictor(scene.walk(40), 3, spoil)
    clean = scene.SimulatedPredictor(scene.walk(40), 3)
    updates, _ = run(scene.frames_of(spoilt.world_from_cams), spoilt, config_of())
    expected, pipeline = run(scene.frames_of(clean.world_from_cams), clean, config_of())
    assert_on_truth(expected, pipeline, clean)
    for frame, truth in zip(placed(updates), placed(expected), strict=True):
        np.testing.assert_allclose(frame.map_from_cam, truth.map_from_cam, atol=RELATIVE * clean.scales[0])
    for update in updates[1:]:
        assert update.seam.status is SeamStatus.ALIGNED
        assert 0.65 < update.seam.inlier_ratio < 0.8  # 0.84**2 of the pairs, and a few that agree by chance


@pytest.mark.parametrize(
    'name, world_from_cams',
    [
        ('turning in place', [scene.look([0.2, 0.1, -0.3], 4.0 * i) for i in range(20)]),
        ('straight line', [scene.look([0.1 * i - 1, 0.0, -1.0], 20.0) for i in range(20)]),
        ('planar wall', [scene.look([0.02 * i, -0.8, 2.0], 0.0, 5.0) for i in range(20)]),
        ('standing still', [scene.look([0.5, 0.0, 0.0], 30.0)] * 20),
    ],
)
def test_motions_that_defeat_camera_centres(name, world_from_cams):
    predictor = scene.SimulatedPredictor(np.stack(world_from_cams), 7)
    updates, pipeline = run(scene.frames_of(predictor.world_from_cams), predictor, config_of())
    assert_on_truth(updates, pipeline, predictor)
    assert {update.seam.status for update in updates[1:]} == {SeamStatus.ALIGNED}


def test_same_frames_give_the_same_updates():
    def once():
        predictor = scene.SimulatedPredictor(scene.walk(22), 2)
        return run(scene.frames_of(predictor.world_from_cams), predictor, config_of())

    (first, one), (second, other) = once(), once()
    for a, b in zip(placed(first), placed(second), strict=True):
        for name in ('depth', 'map_from_cam', 'covariance', 'K', 'image'):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(one.map.points()[0], other.map.points()[0])


@pytest.mark.parametrize(
    'size, stride, windows', [(1, 1, [1] * 7), (3, 3, [3, 3, 1]), (4, 1, [4, 1, 1, 1]), (9, 2, [7])]
)
def test_flush_leaves_no_frame_behind(size, stride, windows):
    predictor = scene.SimulatedPredictor(scene.walk(7))
    config = config_of(window_size=size, window_stride=stride)
    updates, pipeline = run(scene.frames_of(predictor.world_from_cams), predictor, config)
    assert [len(update.frames) for update in updates] == windows
    assert [update.index for update in updates] == list(range(len(windows)))
    assert pipeline.flush() is None


def test_windows_that_share_nothing_are_held_at_the_last_pose_and_scale():
    predictor = scene.SimulatedPredictor(scene.walk(6))
    updates, pipeline = run(
        scene.frames_of(predictor.world_from_cams), predictor, config_of(window_size=3, window_stride=3)
    )
    first, second = updates
    assert second.seam.status is SeamStatus.HELD
    assert second.seam.shared_frames == 0
    assert np.isnan(second.seam.scale_ratio)
    np.testing.assert_allclose(second.frames[0].map_from_cam, first.frames[-1].map_from_cam, atol=1e-12)
    assert second.map_from_window.scale == first.map_from_window.scale
    # its camera can have gone as far as it sees: the covariance must say so
    assert second.frames[0].covariance[0, 0] > 100 * first.frames[-1].covariance[0, 0]
    assert pipeline.statistics.held == 1


def spoil_window(number, **arrays):
    def spoil(prediction, k):
        if k != number:
            return prediction
        spoilt = {name: np.full_like(getattr(prediction, name), value) for name, value in arrays.items()}
        return dataclasses.replace(prediction, **spoilt)

    return spoil


@pytest.mark.parametrize('arrays', [{'depth': np.nan}, {'depth': np.nan, 'cam_from_window': np.nan}])
def test_a_window_of_nan_is_held_and_has_no_depth(arrays):
    predictor = scene.SimulatedPredictor(scene.walk(24), 1, spoil_window(2, **arrays))
    updates, _ = run(scene.frames_of(predictor.world_from_cams), predictor, config_of())
    bad = updates[2]
    assert bad.seam.status is SeamStatus.HELD
    assert all(np.isnan(frame.depth).all() for frame in bad.frames)
    for update in updates:
        assert np.isfinite(update.map_from_window_cams).all()
        assert all(np.linalg.eigvalsh(frame.covariance).min() > 0 for frame in update.frames)
    if 'cam_from_window' in arrays:
        for frame in bad.frames:
            np.testing.assert_array_equal(frame.map_from_cam, updates[1].frames[-1].map_from_cam)
            assert frame.covariance[0, 0] >= 9999
    assert updates[3].seam.status is SeamStatus.HELD  # the bad window had nothing to give on
    assert updates[4].seam.status is SeamStatus.ALIGNED


def test_a_first_window_of_nan_does_not_define_the_map():
    predictor = scene.SimulatedPredictor(scene.walk(16), 1, spoil_window(0, depth=np.nan, cam_from_window=np.nan))
    updates, _ = run(scene.frames_of(predictor.world_from_cams), predictor, config_of(window_size=8, window_stride=8))
    assert [update.seam.status for update in updates] == [SeamStatus.HELD, SeamStatus.FIRST]


def test_duplicates_and_late_frames_are_dropped_and_counted():
    predictor = scene.SimulatedPredictor(scene.walk(20))
    frames = scene.frames_of(predictor.world_from_cams)
    disturbed = []
    for i, frame in enumerate(frames):
        disturbed += [frame] + [frame] * (i % 4 == 0) + ([frames[i - 2]] if i % 5 == 4 else [])
    updates, pipeline = run(disturbed, predictor, config_of())
    assert_on_truth(updates, pipeline, predictor)
    assert (pipeline.statistics.duplicates, pipeline.statistics.out_of_order) == (5, 4)
    assert pipeline.statistics.frames == 29
    assert pipeline.statistics.keyframes == 20


def test_a_jump_back_in_time_starts_a_new_map():
    predictor = scene.SimulatedPredictor(scene.walk(20))
    frames = scene.frames_of(predictor.world_from_cams)
    resets = []
    predictor.reset = lambda: resets.append(True)
    updates, pipeline = run(frames + frames, predictor, config_of())
    assert len(resets) == 1
    again = [update for update in updates if update.index == 0][1]
    assert again.seam.status is SeamStatus.FIRST
    assert again.frames[0].stamp_ns == scene.START_NS
    np.testing.assert_allclose(again.frames[0].map_from_cam, updates[0].frames[0].map_from_cam)
    assert pipeline.statistics.resets == 1


def test_frames_that_wait_when_stamps_jump_back_are_counted_and_told_of(caplog):
    predictor = scene.SimulatedPredictor(scene.walk(20))
    frames = scene.frames_of(predictor.world_from_cams)
    size, stride = config_of().window.size, config_of().window.stride
    whole = size + stride
    updates, pipeline = run(frames[: whole + 1] + frames[:size], predictor, config_of())
    assert pipeline.statistics.given_up == 1
    assert 'starting a new map, without 1 frame(s) that waited for a window' in caplog.text
    assert sum(len(update.frames) for update in updates) == pipeline.statistics.keyframes - 1
    caplog.clear()
    pipeline.reset()  # nothing waits: nothing to tell
    assert pipeline.statistics.given_up == 1


def test_a_jump_back_in_time_can_be_ignored():
    predictor = scene.SimulatedPredictor(scene.walk(20))
    frames = scene.frames_of(predictor.world_from_cams)
    updates, pipeline = run(frames + frames, predictor, config_of(on_time_jump='ignore'))
    assert_on_truth(updates, pipeline, predictor)
    assert pipeline.statistics.resets == 0
    assert pipeline.statistics.out_of_order == 19  # and one duplicate: the last frame's stamp comes again


def changed(frame, **values):
    return dataclasses.replace(frame, **values)


@pytest.mark.parametrize(
    'change',
    [
        lambda f: changed(f, stamp_ns=f.stamp_ns + 3_000_000_000),
        lambda f: changed(f, frame_id='other_optical'),
        lambda f: changed(f, image=np.zeros((60, 80, 3), np.uint8)),
    ],
    ids=['gap', 'frame_id', 'size'],
)
def test_a_break_ends_the_window_and_starts_one_that_shares_nothing(change):
    frames = scene.frames_of(scene.walk(20))
    frames = frames[:10] + [change(frame) for frame in frames[10:]]
    updates, pipeline = run(frames, FakePredictor(Config()), config_of())
    assert [len(update.frames) for update in updates] == [8, 2, 8, 2]
    assert [frame.stamp_ns for frame in placed(updates)] == [frame.stamp_ns for frame in frames]
    assert updates[1].window_stamps_ns[-1] == frames[9].stamp_ns
    assert updates[2].window_stamps_ns == tuple(frame.stamp_ns for frame in frames[10:18])
    assert updates[2].seam.status is SeamStatus.HELD
    assert pipeline.statistics.restarts == 1


def test_the_first_frame_of_another_camera_is_a_keyframe():
    frames = scene.frames_of(scene.walk(1)) * 3
    frames = [changed(f, stamp_ns=f.stamp_ns + i, frame_id=f'camera_{i // 2}') for i, f in enumerate(frames)]
    _, pipeline = run(frames, FakePredictor(Config()), config_of(keyframe_min_interval_s=1.0))
    assert pipeline.statistics.keyframes == 2  # the second shows what the first showed


def test_a_pause_within_the_limit_does_not_end_the_window():
    frames = scene.frames_of(scene.walk(16))
    frames = frames[:10] + [changed(f, stamp_ns=f.stamp_ns + 1_500_000_000) for f in frames[10:]]
    updates, pipeline = run(frames, FakePredictor(Config()), config_of())
    assert pipeline.statistics.restarts == 0
    assert [len(update.frames) for update in updates] == [8, 4, 4]


@pytest.mark.parametrize(
    'stride, lost', [(1, []), (2, []), (4, []), (6, [8, 9, 10, 11]), (8, [8, 9, 10, 11, 12, 13, 14, 15])]
)
def test_frames_of_a_failed_window_get_another_chance_in_the_next(stride, lost):
    class Failing(FakePredictor):
        calls = 0

        def predict(self, window):
            self.calls += 1
            if self.calls == 2:
                raise PredictionError('out of memory')
            return super().predict(window)

    frames = scene.frames_of(scene.walk(32))
    pipeline = Pipeline(config_of(window_stride=stride), Failing(Config()))
    published = []
    for frame in frames:
        try:
            update = pipeline.add_frame(frame)
        except PredictionError:
            continue
        published += [f.stamp_ns for f in update.frames] if update else []
    last = pipeline.flush()
    published += [f.stamp_ns for f in last.frames] if last else []
    assert published == [frame.stamp_ns for i, frame in enumerate(frames) if i not in lost]
    assert pipeline.statistics.failures == 1


def test_a_failure_at_a_break_does_not_stop_the_stream():
    class Failing(FakePredictor):
        def predict(self, window):
            if len(window.frames) < 8:
                raise PredictionError('too few')
            return super().predict(window)

    frames = scene.frames_of(scene.walk(30))
    frames = frames[:10] + [changed(frame, frame_id='other_optical') for frame in frames[10:]]
    pipeline = Pipeline(config_of(), Failing(Config()))
    updates = []
    for i, frame in enumerate(frames):
        if i == 10:
            with pytest.raises(PredictionError):
                pipeline.add_frame(frame)
        else:
            updates.append(pipeline.add_frame(frame))
    published = [frame.stamp_ns for frame in placed(update for update in updates if update)]
    assert published == [frame.stamp_ns for frame in frames[:8] + frames[11:27]]  # 8, 9 failed, 10 told of it
    assert (pipeline.statistics.restarts, pipeline.statistics.failures) == (1, 1)


def test_the_map_starts_where_it_is_told_and_at_a_fixed_scale():
    map_from_first_camera = np.eye(4)
    map_from_first_camera[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    map_from_first_camera[:3, 3] = [0.1, 0.0, 0.5]  # metres: a camera on a robot
    predictor = scene.SimulatedPredictor(scene.walk(12), 4)
    pipeline = Pipeline(config_of(scale_source='fixed', scale=2.5), predictor)
    pipeline.map.map_from_first_camera = map_from_first_camera
    updates = [u for u in map(pipeline.add_frame, scene.frames_of(predictor.world_from_cams)) if u]
    np.testing.assert_allclose(updates[0].frames[0].map_from_cam, map_from_first_camera, atol=1e-12)
    unit = 2.5 * predictor.scales[0]  # map units per metre of the room
    np.testing.assert_allclose(updates[0].frames[0].depth, scene.render(predictor.world_from_cams[0]) * unit, rtol=1e-6)
    step = np.linalg.norm(updates[1].frames[0].map_from_cam[:3, 3] - updates[0].frames[0].map_from_cam[:3, 3])
    truth = np.linalg.norm(predictor.world_from_cams[8, :3, 3] - predictor.world_from_cams[0, :3, 3])
    np.testing.assert_allclose(step, truth * unit, rtol=RELATIVE)
    assert updates[0].metric
    with pytest.raises(RuntimeError, match='before the first window'):
        pipeline.map.map_from_first_camera = np.eye(4)


def test_the_first_camera_looks_along_x_of_the_map():
    # REP 103: the map is x forward, y left, z up; the optical frame z forward, x right, y down
    predictor = scene.SimulatedPredictor(np.stack([scene.look([0.0, -0.1 * i, 0.05 * i], 0.0) for i in range(8)]))
    updates, _ = run(scene.frames_of(predictor.world_from_cams), predictor, config_of())
    last = updates[0].frames[-1].map_from_cam[:3, 3] / predictor.scales[0]
    np.testing.assert_allclose(last, [0.35, 0.0, 0.7], atol=1e-6)  # forward and up


def test_only_dynamic_settings_change_while_running():
    predictor = scene.SimulatedPredictor(scene.walk(16))
    pipeline = Pipeline(config_of(), predictor)
    frames = scene.frames_of(predictor.world_from_cams)
    for frame in frames[:8]:
        pipeline.add_frame(frame)
    coarse = config_of(voxel_size=0.5, max_depth=3.0 * predictor.scales[0])
    fine = len(pipeline.map.points()[0])
    pipeline.reconfigure(coarse)
    assert 0 < len(pipeline.map.points()[0]) < fine
    update = next(u for u in map(pipeline.add_frame, frames[8:12]) if u)
    assert max(np.nanmax(frame.depth) for frame in update.frames) < 3.0 * predictor.scales[0]
    with pytest.raises(ConfigError, match='window_size cannot change'):
        pipeline.reconfigure(config_of(window_size=6))


def test_times_of_every_stage_are_reported():
    updates, _ = run(scene.frames_of(scene.walk(9)), FakePredictor(Config()), config_of())
    for update in updates:
        assert min(update.times.prepare_s, update.times.align_s, update.times.map_s) > 0
        assert update.times.network_s >= 0


def test_frames_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match='uint8 RGB'):
        Frame(1, np.zeros((4, 4), np.uint8), 'camera')


def test_the_stride_may_change_while_running():
    predictor = scene.SimulatedPredictor(scene.walk(20))
    pipeline = Pipeline(config_of(window_size=6, window_stride=3), predictor)
    frames = scene.frames_of(predictor.world_from_cams)
    updates = [pipeline.add_frame(frame) for frame in frames[:9]]
    pipeline.reconfigure(config_of(window_size=6, window_stride=5))
    updates += [pipeline.add_frame(frame) for frame in frames[9:]] + [pipeline.flush()]
    updates = [update for update in updates if update is not None]
    assert [len(update.frames) for update in updates] == [6, 3, 3, 5, 3]
    assert_on_truth(updates, pipeline, predictor)


def test_halved_windows_go_on_with_the_same_map():
    predictor = scene.SimulatedPredictor(scene.walk(20))
    pipeline = Pipeline(config_of(window_size=8, window_stride=4), predictor)
    frames = scene.frames_of(predictor.world_from_cams)
    updates = [pipeline.add_frame(frame) for frame in frames[:12]]
    assert pipeline.halve_windows()
    updates += [pipeline.add_frame(frame) for frame in frames[12:]] + [pipeline.flush()]
    updates = [update for update in updates if update is not None]
    assert [len(update.window_stamps_ns) for update in updates] == [8, 8, 4, 4, 4, 4, 3]
    assert_on_truth(updates, pipeline, predictor)
    assert pipeline.halve_windows() is True
    assert pipeline.halve_windows() is False
