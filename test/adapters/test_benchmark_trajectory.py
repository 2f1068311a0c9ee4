"""The simulated network errs as much as it says, and the benchmark tells truth from error."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from recordings import SHARED

from benchmarks import trajectory
from benchmarks.simulated import Errors, RgbdSequence, SimulatedPredictor
from vggt_ros.core.geometry import rotation_angle
from vggt_ros.core.window import Window

NONE = Errors(depth=0, rotation_deg=0, translation=0, focal=0, outliers=0)
FOLDER = SHARED / 'data' / 'tum_fr3_cabinet'


@pytest.fixture(scope='module')
def cabinet() -> RgbdSequence:
    if not (FOLDER / 'depth').is_dir():
        pytest.skip(f'no depth in {FOLDER}; set VGGT_ROS_SHARED to the folder that holds data/')
    return RgbdSequence(FOLDER)


def predictions(sequence: RgbdSequence, errors: Errors, count: int = 60) -> SimulatedPredictor:
    """The same first window many times over, its errors drawn anew each time."""
    predictor = SimulatedPredictor(sequence, seed=0, errors=errors)
    for _ in range(count):
        predictor.predict(Window(tuple(sequence.frames[:8]), 0))
    return predictor


def test_errors_are_as_large_as_they_say(cabinet: RgbdSequence):
    errors = dataclasses.replace(Errors(), outliers=0.0)
    drawn = predictions(cabinet, errors).predictions
    stamps_ns = drawn[0].stamps_ns
    poses, depth, _ = cabinet.truth(stamps_ns)
    extent = np.ptp(poses[:, :3, 3], axis=0).max()
    turns, shifts, factors, focals = [], [], [], []
    for one in drawn:
        ratio = one.depth / depth
        scale = np.nanmedian(ratio)
        window_from_cam = one.window_from_cam
        motion = one.cam_from_window[1] @ window_from_cam[2]
        true_motion = np.linalg.inv(poses[1]) @ poses[2]
        turns.append(rotation_angle(true_motion[:3, :3].T @ motion[:3, :3]))
        # A distance errs along itself alone: by the shift along one axis at each of its two ends.
        apart = np.linalg.norm(window_from_cam[7, :3, 3] - window_from_cam[0, :3, 3]) / scale
        shifts.append(apart - np.linalg.norm(poses[7, :3, 3] - poses[0, :3, 3]))
        factors.append(np.nanstd(np.log(ratio / scale)))
        focals.append(math.log(one.K_network[0, 0, 0] / cabinet.K[0, 0]))
    # 60 draws tell a standard deviation to 9 %: three of those
    close = {'rel': 0.27}
    assert np.degrees(np.sqrt(np.mean(np.square(turns)))) == pytest.approx(0.3 * math.sqrt(2), **close)
    assert np.std(shifts) == pytest.approx(0.01 * extent * math.sqrt(2 / 3), **close)
    assert 0.5 * 0.03 < np.mean(factors) < 0.03  # at the knots it is 0.03, between them a mean of several
    assert np.std(focals) == pytest.approx(0.02, **close)


def test_depth_errors_are_smooth(cabinet: RgbdSequence):
    one = predictions(cabinet, Errors(), 1).predictions[0]
    ratio = one.depth / cabinet.truth(one.stamps_ns)[1]
    assert np.nanmax(np.abs(np.diff(np.log(ratio), axis=2))) < 0.02  # from one pixel to the next


def test_a_window_stands_at_its_first_camera_in_a_unit_of_its_own(cabinet: RgbdSequence):
    drawn = predictions(cabinet, NONE, 20).predictions
    _, depth, _ = cabinet.truth(drawn[0].stamps_ns)
    scales = [float(np.nanmedian(one.depth / depth)) for one in drawn]
    assert 1 / 3 < min(scales) < 0.7
    assert 1.4 < max(scales) < 3
    for one, scale in zip(drawn, scales, strict=True):
        np.testing.assert_array_equal(one.cam_from_window[0], np.eye(4))
        np.testing.assert_allclose(one.depth, depth * scale, rtol=1e-6)


def test_outlier_windows_come_as_often_as_they_say(cabinet: RgbdSequence):
    drawn = predictions(cabinet, dataclasses.replace(NONE, outliers=0.3), 100)
    assert 17 <= sum(drawn.is_outlier) <= 43  # three standard deviations of 100 draws
    worst = [one for one, is_outlier in zip(drawn.predictions, drawn.is_outlier, strict=True) if is_outlier]
    poses, _, _ = cabinet.truth(worst[0].stamps_ns)
    true_turn = np.linalg.inv(poses[0])[:3, :3] @ poses[1, :3, :3]
    assert np.median([rotation_angle(true_turn.T @ one.window_from_cam[1, :3, :3]) for one in worst]) > 0.3


def test_without_errors_both_methods_find_the_whole_way(cabinet: RgbdSequence):
    run = trajectory.measure(cabinet, 0, NONE)
    assert run.windows == 14  # of 8, then 12 of 4 new, then a rest of 2
    assert run.ate('chained') < 1e-9  # float64 poses of a way of 8 m
    assert run.ate('ours') < 1e-4  # its scale comes from float32 depth
    assert (run.outliers, run.false_alarms) == (0, 0)


def test_one_json_object_per_run(cabinet: RgbdSequence, capsys: pytest.CaptureFixture[str]):
    assert trajectory.main([str(FOLDER), '--seed', '3', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    for method in ('chained', 'ours', 'ours_loop'):
        assert found[method].keys() == {'ate_sim3', 'ate_se3', 'scale'}
    assert found['ours']['ate_sim3'] < found['chained']['ate_sim3'] / 3
    for method in ('ours_odometry_scale', 'ours_depth_scale', 'ours_height_scale'):
        figures = found[method]
        assert figures['ate_se3'] < 1.2 * figures['ate_sim3']  # what the project aims at
        assert figures['scale'] == pytest.approx(1, abs=0.01)
        assert figures['ate_se3'] < found['ours']['ate_se3'] / 3  # where lengths are in a unit of the network
    assert trajectory.measure(cabinet, 3).to_dict() == found  # the seed decides all


def test_a_sequence_of_one_window_is_refused(capsys: pytest.CaptureFixture[str]):
    folder: Path = SHARED / 'data' / 'redwood_micro'
    if not folder.is_dir():
        pytest.skip(f'no {folder}')
    assert trajectory.main([str(folder)]) == 2
    assert 'too short: 5 frames' in capsys.readouterr().err
