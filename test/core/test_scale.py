"""When a scale is believed, followed, and told to be wrong: observations with known truth, noise and lies."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from vggt_ros.core.config import Config, ScaleConfig
from vggt_ros.core.errors import ConfigError
from vggt_ros.core.metric.scale import SLEW, Measurement, NoEvidence, ScaleTracker
from vggt_ros.core.metric.scale_report import ScaleReport, ScaleState

NOISE = 0.04  # of one window's log scale: what wheels and depth cameras give on the benchmark's sequences, rounded up


def tracker(**values) -> ScaleTracker:
    return ScaleTracker(Config().with_values({'scale_source': 'odometry', **values}).scale)


def feed(one: ScaleTracker, factors, seed=0, noise=NOISE, units=1.0) -> list[ScaleState]:
    """Windows that say these factors with noise; the states after each."""
    rng, states = np.random.default_rng(seed), []
    for factor in factors:
        log_metres = math.log(factor * units) + rng.normal(0, noise)
        one.observe(Measurement(log_metres, noise), units)
        states.append(one.report().state)
    return states


@pytest.mark.parametrize('truth', [0.3, 0.9, 3.0])
@pytest.mark.parametrize('seed', range(5))
def test_the_scale_is_found_and_locked_by_the_windows_asked_for(truth, seed):
    one = tracker(scale_min_observations=6)
    states = feed(one, [truth] * 20, seed)
    assert states[:5] == [ScaleState.WAITING] * 5
    assert states[-1] is ScaleState.LOCKED
    report = one.report()
    # 20 windows of 4 % noise leave 0.9 %: four of those
    assert report.factor == pytest.approx(truth, rel=0.036)
    assert abs(math.log(report.factor / truth)) < 5 * report.error
    assert report.is_metric


def test_until_it_is_locked_the_factor_stays_one():
    one = tracker()
    feed(one, [2.5] * 4)
    assert one.factor == 1.0
    assert one.report().is_unknown
    assert 'not metres yet' in one.report().describe()


def test_the_place_of_a_window_in_the_map_is_taken_into_account():
    one = tracker()
    for units in (0.5, 1.0, 2.0, 4.0, 1.0):
        one.observe(Measurement(math.log(3.0 * units), 0.01), units)
    assert one.factor == pytest.approx(3.0)


@pytest.mark.parametrize('lie', [2.0, 0.5])
def test_lies_of_a_factor_of_two_in_a_quarter_of_the_windows_are_refused(lie):
    one = tracker()
    feed(one, [1.5 * (lie if k % 4 == 2 else 1.0) for k in range(40)])
    report = one.report()
    assert report.state is ScaleState.LOCKED
    assert report.factor == pytest.approx(1.5, rel=0.03)  # 4 % over 30 windows, four times
    assert report.agreeing == 30


def test_a_source_that_lies_half_the_time_is_never_believed():
    one = tracker()
    states = feed(one, [1.5 * (2.0 if k % 2 else 1.0) for k in range(60)])
    assert ScaleState.LOCKED not in states
    assert one.factor == 1.0
    assert 'windows agree' in one.report().describe()


def test_a_source_that_starts_to_lie_is_told_of_and_not_followed():
    one = tracker()
    feed(one, [1.5] * 20)
    good = one.factor
    states = feed(one, [3.0] * 100, seed=1)
    assert states.index(ScaleState.DOUBTED) < 5
    assert states[-1] is ScaleState.DOUBTED
    assert one.factor == pytest.approx(good, rel=5 * SLEW)  # at most what it slewed before it was found out
    report = one.report()
    assert report.is_conflict
    assert not report.is_metric
    assert re.search(r'(1\.9|2\.0)\d times', report.reason)
    assert 'reset' in report.reason


def test_after_a_while_of_lies_the_scale_is_believed_again():
    one = tracker(scale_horizon=16)
    feed(one, [1.5] * 16)
    feed(one, [3.0] * 6, seed=1)
    states = feed(one, [1.5] * 16, seed=2)
    assert states[-1] is ScaleState.LOCKED
    assert one.factor == pytest.approx(1.5, rel=0.04)


@pytest.mark.parametrize('growth', [1.001, 0.999])
def test_once_locked_the_factor_never_jumps_and_follows_a_drift(growth):
    one = tracker(scale_horizon=12)
    feed(one, [1.0] * 12)
    factors = [one.factor]
    for k in range(100):  # a map whose unit changes by a tenth of a percent a window
        feed(one, [growth**k], seed=k, noise=0.01)
        factors.append(one.factor)
    steps = np.abs(np.diff(np.log(factors)))
    assert steps.max() <= SLEW * (1 + 1e-9)
    assert factors[-1] == pytest.approx(growth**100, rel=0.015)  # half the horizon behind: 0.6 %, and noise
    assert one.report().state is ScaleState.LOCKED


@pytest.mark.parametrize('away', [1.1, 1 / 1.1])
def test_a_step_within_the_tolerance_is_followed_slowly_either_way(away):
    one = tracker(scale_horizon=12)
    feed(one, [1.0] * 12, noise=0)
    factors = [one.factor]
    for _ in range(40):
        feed(one, [away], noise=0)
        factors.append(one.factor)
    assert np.abs(np.diff(np.log(factors))).max() <= SLEW * (1 + 1e-9)
    assert abs(math.log(factors[-1])) > 10 * SLEW


def test_noise_alone_does_not_move_a_locked_factor_on_and_on():
    one = tracker()
    feed(one, [2.0] * 64)
    factors = []
    for k in range(200):
        feed(one, [2.0], seed=1000 + k)
        factors.append(one.factor)
    assert len(set(factors[100:])) < 20
    assert np.ptp(np.log(factors)) < 0.025  # four times the 0.5 % of a mean of 64


def test_in_the_end_a_locked_factor_is_what_all_windows_say_and_a_doubted_one_stays():
    one = tracker()
    feed(one, [2.0] * 5, noise=0)
    feed(one, [2.06] * 5, noise=0)  # the stream follows, half a percent a window
    assert 2.0 < one.factor < 2.03
    one.conclude()
    assert one.factor == pytest.approx(math.sqrt(2.0 * 2.06), rel=1e-6)
    feed(one, [8.0] * 30)
    assert one.report().state is ScaleState.DOUBTED
    factor = one.factor
    one.conclude()
    assert one.factor == factor


def test_windows_that_differ_too_much_are_not_locked_and_the_spread_is_told():
    one = tracker(scale_max_spread=0.05)
    feed(one, [1.0] * 40, noise=0.15)
    report = one.report()
    assert report.is_unknown
    assert report.spread > 0.05
    assert 'differ by' in report.reason or 'agree' in report.reason


def test_windows_that_say_nothing_are_counted_with_their_reason():
    one = tracker()
    one.observe(NoEvidence('the robot stands'), 1.0)
    feed(one, [1.0] * 8)
    one.observe(NoEvidence('the robot stands'), 1.0)
    report = one.report()
    assert (report.silent, report.reason) == (2, 'the robot stands')
    assert report.state is ScaleState.LOCKED  # standing costs nothing


def test_a_broken_unit_is_waited_for_again():
    one = tracker()
    feed(one, [2.0] * 10)
    one.forget_unit()
    assert one.report().is_unknown
    assert feed(one, [3.0] * 6)[-1] is ScaleState.LOCKED
    assert one.factor == pytest.approx(3.0, rel=0.07)


def test_given_and_absent_scales_need_no_evidence():
    fixed = tracker(scale_source='fixed', scale=2.5)
    assert (fixed.factor, fixed.report().is_metric, fixed.is_measured) == (2.5, True, False)
    none = tracker(scale_source='none')
    assert (none.factor, none.report().is_metric, none.report().is_unknown) == (1.0, False, False)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match='camera_names of two cameras'):
        Config().with_values({'scale_source': 'baseline'})
    with pytest.raises(ConfigError, match='scale_horizon'):
        ScaleConfig(scale_horizon=4)
    with pytest.raises(ConfigError, match='publish_odom_to_base_tf'):
        Config().with_values({'scale_source': 'tf'})  # it would measure itself by itself


@pytest.mark.parametrize(
    'report, sentence',
    [
        (ScaleReport(), 'unit of the first window, not metres'),
        (ScaleReport(state=ScaleState.FIXED), 'metres, by the factor given'),
        (ScaleReport('imu', ScaleState.LOCKED), 'metres, from imu'),
        (
            ScaleReport('imu', ScaleState.WAITING, observations=5, agreeing=3),
            'not metres yet, waiting for imu: 3 of 5 windows agree',
        ),
        (ScaleReport('imu', ScaleState.DOUBTED, reason='it stands'), 'scale from imu held, not believed: it stands'),
    ],
)
def test_the_scale_is_described_in_one_sentence(report, sentence):
    assert report.describe() == sentence
