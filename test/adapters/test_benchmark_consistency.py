"""The benchmark of covariances: real images, a simulated network, and errors that are as large as they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from recordings import SHARED

from benchmarks import consistency
from benchmarks.simulated import Errors, RgbdSequence

FOLDER = SHARED / 'data' / 'redkitchen_clip'


@pytest.fixture(scope='module')
def kitchen() -> RgbdSequence:
    if not (FOLDER / 'depth').is_dir():
        pytest.skip(f'no depth in {FOLDER}; set VGGT_ROS_SHARED to the folder that holds data/')
    return RgbdSequence(FOLDER)


def test_errors_are_within_their_bounds_once_seams_have_told(kitchen: RgbdSequence):
    found = consistency.measure(kitchen, range(10), dataclasses.replace(Errors(), outliers=0.0))
    lowest, highest = found.bounds()
    assert np.isnan(found.absolute[:, 0]).all()  # it defines the map
    assert lowest < np.nanmean(found.absolute[:, found.settled :]) < highest
    assert lowest < np.nanmean(found.step[:, found.settled :]) < highest


def test_a_network_worse_than_assumed_shows_until_seams_have_told(kitchen: RgbdSequence):
    found = consistency.measure(kitchen, range(3), Errors(depth=0.09, rotation_deg=0.9, translation=0.03, outliers=0))
    first_window = np.nanmean(found.absolute[:, 1:8])
    assert first_window > 2 * np.nanmean(found.absolute[:, found.settled :])
    assert first_window > found.bounds()[1]  # the benchmark can tell
