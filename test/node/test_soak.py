"""The short form of `python -m benchmarks.soak_node`: what grows with every image shows in half a minute already."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.soak_node import Sample, slope, soak, summarise

SECONDS, RATE, EVERY_S = 30.0, 20.0, 1.0
# A kept 320x240 image an image sent would be 4.6 MB/s; a kept message of depth or cloud, or a leaked subscription, more
# than this as well. What the allocator does in half a minute is a few MB.
GROWTH_MB = 30.0


@pytest.fixture(scope='module')
def samples() -> list[Sample]:
    return soak(SECONDS, RATE, every_s=EVERY_S, width=320)


def test_nothing_grows_with_the_images(samples: list[Sample]) -> None:
    counted = samples[len(samples) // 3 :]
    assert sum(one.results for one in counted) > 100, 'too few results to tell anything'
    for figure in ('threads', 'files', 'subscriptions'):
        values = [getattr(one, figure) for one in counted]
        # The watch on /tf comes and goes: one subscription with its files.
        assert min(values[-5:]) <= min(values[:5]), f'{figure}: {values}'
    first, second = np.array_split([one.memory_mb for one in counted], 2)
    assert np.median(second) - np.median(first) < GROWTH_MB


def test_the_slope_of_a_line_is_found_and_noise_has_none() -> None:
    at_s = np.arange(200.0)
    noise = np.random.default_rng(0).normal(size=200)
    gradient, error = slope(at_s, 0.5 * at_s + noise)
    assert abs(gradient - 0.5) < 3 * error < 0.01
    gradient, error = slope(at_s, noise)
    assert abs(gradient) < 3 * error


def test_what_grows_is_told(samples: list[Sample]) -> None:
    growing = [Sample(i, 100.0 + i, 50.0, 3, 4, 5, i, 1, 1, 1.0, 2.0, 0.5) for i in range(60)]
    memory = summarise(growing)['memory_mb']
    assert memory['slope_an_hour'] == pytest.approx(3600)
    assert memory['error_95'] < 1
