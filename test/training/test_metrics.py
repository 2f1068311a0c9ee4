"""What the evaluation says about answers whose error is known."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from training.evaluate import evaluate_sequence
from training.metrics import Cameras, area_under_curve, summarise, trivial_estimate, window_errors
from training.nano import make_nano
from training.windows import make_window

REAL = Path(__file__).parents[2] / '../shared/data'


@pytest.fixture(scope='module')
def truth() -> Cameras:
    window = make_window(3)
    return Cameras(window.cam_from_world, window.K, window.depth)


def in_another_world(cameras: Cameras, scale: float) -> Cameras:
    """The same cameras and depth in another unit and another world frame."""
    assert cameras.depth is not None
    turn = torch.from_numpy(Rotation.from_euler('xyz', [20, 30, 40], degrees=True).as_matrix()).float()
    rotation = cameras.cam_from_world[:, :, :3] @ turn
    return Cameras(torch.cat((rotation, cameras.cam_from_world[:, :, 3:] * scale), 2), cameras.K, cameras.depth * scale)


def test_truth_in_another_world_and_unit_has_no_error(truth: Cameras) -> None:
    errors = window_errors(in_another_world(truth, 0.2), truth)
    assert errors.abs_rel < 1e-6
    assert errors.delta1 == 1
    assert errors.rotation_deg.max() < 1e-3
    assert np.nanmax(errors.direction_deg) < 0.1  # the arc cosine loses half of float32's digits near zero
    assert errors.focal.max() == 0


def test_one_camera_turned_by_ten_degrees_shows_in_its_pairs_only(truth: Cameras) -> None:
    turned = truth.cam_from_world.clone()
    turn = torch.from_numpy(Rotation.from_euler('y', 10, degrees=True).as_matrix()).float()
    turned[2] = turn @ turned[2]
    errors = window_errors(Cameras(turned, truth.K, truth.depth), truth)
    first, second = np.triu_indices(8, 1)
    touched = (first == 2) | (second == 2)
    assert errors.rotation_deg[touched] == pytest.approx(10, abs=1e-3)
    assert errors.rotation_deg[~touched] == pytest.approx(0, abs=1e-3)


def test_opposite_motion_is_a_hundred_and_eighty_degrees_off(truth: Cameras) -> None:
    eye = torch.eye(3).expand(3, 3, 3)
    steps = torch.tensor([[[0.0], [0], [0]], [[0.5], [0], [0]], [[1.0], [0], [0]]])
    K = truth.K[:3]
    there, back = (Cameras(torch.cat((eye, sign * steps), 2), K, None) for sign in (1, -1))
    assert window_errors(back, there, mean_depth=2.0).direction_deg == pytest.approx(180, abs=0.1)
    # A motion that is too short to have a direction is not judged.
    assert np.isnan(window_errors(back, there, mean_depth=1000.0).direction_deg).all()


def test_trivial_answer_scores_as_one_who_does_not_look(truth: Cameras) -> None:
    score = summarise([window_errors(trivial_estimate(truth, (96, 128)), truth)])
    true_turns = window_errors(Cameras(torch.eye(3, 4).expand(8, 3, 4), truth.K, truth.depth), truth).rotation_deg
    assert score.rotation_median_deg == pytest.approx(np.median(true_turns))
    assert score.direction_median_deg == pytest.approx(90)
    assert score.abs_rel > 0.1


def test_area_under_the_curve_by_hand() -> None:
    assert area_under_curve(np.zeros(4), 5) == 1
    assert area_under_curve(np.full(4, 99.0), 30) == 0
    assert area_under_curve(np.array([0.5, 2.5]), 5) == pytest.approx((0.5 + 0.5 + 1 + 1 + 1) / 5)


def test_real_sequences_are_read_upright() -> None:
    """Depth moved by the poses into the next frame agrees with it, which inverted poses would not give."""
    folder = REAL / 'redwood_micro'
    if not folder.exists():
        pytest.skip(f'{folder} is not there')
    from training.batches import targets_of
    from training.correspondence import correspond
    from training.sequences import load_windows
    from training.windows import Window

    (window,) = load_windows(folder, width=128, patch_size=8)
    assert window.images.shape == (5, 3, 96, 128)
    assert window.truth.depth is not None

    def agreement(cam_from_world: torch.Tensor) -> float:
        depth = window.truth.depth
        assert depth is not None
        batch = Window((window.images * 255).byte()[None], depth[None], cam_from_world[None], window.truth.K[None])
        found = correspond(targets_of(batch), patch_size=8)
        return float(found.seen.float().mean())

    square = torch.eye(4).repeat(5, 1, 1)
    square[:, :3] = window.truth.cam_from_world
    inverted = torch.linalg.inv(square)[:, :3]
    assert agreement(window.truth.cam_from_world) > agreement(inverted) + 0.05
    score = evaluate_sequence(make_nano(0).eval(), folder)
    assert set(asdict(score['nano'])) == set(asdict(score['baseline']))
