"""The shipped weights see: scenes that were never trained on, against the answer of one who does not look.

Thresholds are 1.3 times what `python -m training.evaluate` measured on 200 scenes (docs/training.md); these are the
first 24 of them.
"""

from __future__ import annotations

import pytest

from training.evaluate import evaluate_scenes
from training.metrics import Score
from training.windows import HELD_BACK_SEED
from vggt.weights import load_vggt


@pytest.fixture(scope='module')
def scores() -> dict[str, Score]:
    return evaluate_scenes(load_vggt('nano'), range(HELD_BACK_SEED, HELD_BACK_SEED + 24))


def test_depth_is_far_better_than_a_constant(scores: dict[str, Score]) -> None:
    assert scores['nano'].abs_rel < 0.164
    assert scores['nano'].abs_rel < 0.385 * scores['baseline'].abs_rel
    assert scores['nano'].delta1 > 0.83


def test_rotation_between_frames_is_seen(scores: dict[str, Score]) -> None:
    assert scores['nano'].rotation_median_deg < 1.90
    assert scores['nano'].rotation_median_deg < 0.247 * scores['baseline'].rotation_median_deg
    assert scores['nano'].auc30 > 0.50


def test_direction_of_motion_is_seen(scores: dict[str, Score]) -> None:
    assert scores['nano'].direction_median_deg < 11.3  # chance is 90


def test_focal_length_is_guessed(scores: dict[str, Score]) -> None:
    assert scores['nano'].focal_error < 0.105
    assert scores['nano'].focal_error < 0.56 * scores['baseline'].focal_error


def test_bundle_adjustment_makes_cameras_many_times_better(scores: dict[str, Score]) -> None:
    nano, adjusted = scores['nano'], scores['adjusted']
    assert adjusted.rotation_median_deg < 0.3 * nano.rotation_median_deg
    assert adjusted.direction_median_deg < 0.3 * nano.direction_median_deg
    assert adjusted.auc30 > 0.9
    assert adjusted.abs_rel < 0.85 * nano.abs_rel
    assert adjusted.focal_error < 0.6 * nano.focal_error
