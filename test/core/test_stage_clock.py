"""The seconds of a window: each belongs to one stage, and none is counted twice."""

from types import SimpleNamespace

import pytest

from vggt_ros.core.stage_clock import StageClock, StageTimes


@pytest.fixture
def passes(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr('vggt_ros.core.stage_clock.time', SimpleNamespace(perf_counter=lambda: now[0]))

    def passes(seconds):
        now[0] += seconds

    return passes


def test_each_second_belongs_to_one_stage(passes):
    clock = StageClock()
    passes(1.0)

    def predict(window):
        assert window == 'window'
        passes(8.0)
        return SimpleNamespace(prepare_s=2.0, adjust_s=1.5, ahead_s=0.0)

    assert clock.network(predict, 'window').prepare_s == 2.0  # what came before it was aligning
    assert clock.times == StageTimes(prepare_s=2.0, network_s=4.5, adjust_s=1.5, align_s=1.0)
    passes(16.0)
    clock.stop('map_s')
    passes(32.0)
    clock.resume()  # a pause that counts for nothing
    passes(64.0)
    clock.stop('loop_s')
    assert clock.times == StageTimes(2.0, 4.5, 1.5, 1.0, 16.0, 64.0)
    assert clock.total_s == 89.0


def test_what_is_done_ahead_is_prepared_and_computed(passes):
    clock = StageClock()
    passes(5.0)  # waiting for the frame is nobody's

    def anticipate(frame):
        assert frame == 'frame'
        passes(4.0)
        return 1.0

    clock.anticipate(anticipate, 'frame')
    passes(3.0)
    clock.anticipate(anticipate, 'frame')
    assert clock.times == StageTimes(prepare_s=2.0, network_s=6.0)


def test_what_the_network_did_before_it_was_asked_is_computed(passes):
    clock = StageClock()

    def predict(_):
        passes(1.0)
        return SimpleNamespace(prepare_s=2.0, adjust_s=1.0, ahead_s=5.0)

    clock.network(predict, 'window')
    assert clock.times == StageTimes(prepare_s=2.0, network_s=3.0, adjust_s=1.0)
