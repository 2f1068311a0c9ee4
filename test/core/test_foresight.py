"""A network that begins with windows before it is asked for them: the same updates, sooner."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import scene
from scene import placed
from test_bridging import grossly

from vggt_ros.core.config import Config
from vggt_ros.core.errors import OutOfMemoryError, PredictionError, VggtRosError
from vggt_ros.core.foresight import Foresight
from vggt_ros.core.frame import Frame
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.planner import Plan
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.predictor import FakePredictor
from vggt_ros.core.submap import Update
from vggt_ros.core.window import Window

DEADLINE_S = 20.0
COUNT = 60


class Answering:
    """A network that says the same of a window whenever it is asked, and of some windows nothing, or nonsense.

    Args:
        seed: of what it gets wrong.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.walk = seed, scene.walk(COUNT)
        self.asked: list[tuple[int, ...]] = []
        self.threads: set[str] = set()
        self.running: set[threading.Thread] = set()
        self.resets = 0

    def predict(self, window: Window) -> Prediction:
        self.threads.add(threading.current_thread().name)
        self.running.add(threading.current_thread())
        stamps = tuple(frame.stamp_ns for frame in window.frames)
        self.asked.append(stamps)
        rng = np.random.default_rng([self.seed, len(stamps), *((one - scene.START_NS) // 10**6 for one in stamps[-2:])])
        fate = rng.uniform()
        if fate < 0.05:
            raise PredictionError('the network failed')
        if fate < 0.1 and len(stamps) > 4:
            raise OutOfMemoryError('the window is too large')
        prediction = scene.SimulatedPredictor(self.walk, int(rng.integers(1000))).predict(window)
        return grossly(prediction, int(rng.integers(1000))) if fate < 0.25 else prediction

    def predict_apart(self, window: Window) -> Prediction:
        return self.predict(window)

    def reset(self) -> None:
        self.resets += 1


def stream(seed: int) -> list[Frame]:
    """Frames as a bad day brings them: pauses, another camera, stamps that come twice, late, or from another run."""
    rng = np.random.default_rng(seed)
    frames: list[Frame] = []
    for frame in scene.frames_of(scene.walk(COUNT)):
        fate = rng.uniform()
        if fate < 0.06:
            continue
        if fate < 0.1 and frames:
            frames.append(frames[-1])
        if fate < 0.14 and len(frames) > 2:
            frames.append(frames[-2])
        frames.append(frame)
    change = len(frames) // 2
    frames[change:] = [dataclasses.replace(frame, frame_id='other_optical') for frame in frames[change:]]
    del frames[10:14], frames[30:50]  # a pause, and one that max_frame_gap_s is too short for
    return [*frames, *frames[5:25]]  # the bag begins anew


def run(frames: Sequence[Frame], config: Config, answering: Answering, *, foreseen: bool):
    """Updates, or errors in their words, of each frame; changed settings and a reset on the way."""
    predictor = Foresight(answering) if foreseen else answering
    pipeline = Pipeline(config, predictor)
    told: list[Update | str | None] = []
    for i, frame in enumerate(frames):
        pipeline.upcoming = lambda i=i: frames[i + 1 : i + 9]
        if i == 20:
            pipeline.reconfigure(config.with_values({'window_stride': 3}))
        if i == 45:
            pipeline.reset()
        try:
            told.append(pipeline.add_frame(frame))
        except VggtRosError as error:
            told.append(str(error))
    try:
        told.append(pipeline.flush())
    except VggtRosError as error:
        told.append(str(error))
    return told, pipeline


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('values', [{}, {'window_stride': 1}, {'keyframe_min_interval_s': 0.15, 'loop_closure': False}])
def test_updates_are_the_same_whatever_was_foreseen(seed: int, values: dict[str, float]) -> None:
    config = Config().with_values({'confidence_percentile': 0.0, 'window_size': 6, 'window_stride': 2, **values})
    plain, foreseeing = Answering(seed), Answering(seed)
    expected, before = run(stream(seed), config, plain, foreseen=False)
    told, after = run(stream(seed), config, foreseeing, foreseen=True)
    assert [one if isinstance(one, str) else one is None for one in told] == [
        one if isinstance(one, str) else one is None for one in expected
    ]
    pairs = [(a, b) for a, b in zip(told, expected, strict=True) if isinstance(a, Update) and isinstance(b, Update)]
    assert len(pairs) > 5
    for a, b in pairs:
        assert repr(a.seam) == repr(b.seam)  # NaN equals itself here
    for one, other in zip(placed(a for a, _ in pairs), placed(b for _, b in pairs), strict=True):
        assert one.stamp_ns == other.stamp_ns
        for name in ('depth', 'map_from_cam', 'covariance', 'K'):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert after.statistics == before.statistics
    np.testing.assert_array_equal(after.points()[0], before.points()[0])
    assert set(plain.asked) <= set(foreseeing.asked)  # and some more, which came otherwise
    assert foreseeing.threads == {'vggt_network'}


class Gated(FakePredictor):
    """Says when it has begun with a window, and is done when it is let."""

    def __init__(self, config: Config, gate_from: int) -> None:
        super().__init__(config)
        self.begun = [threading.Event() for _ in range(9)]
        self.gate, self.gate_from, self.calls = threading.Event(), gate_from, 0

    def predict(self, window: Window) -> Prediction:
        call, self.calls = self.calls, self.calls + 1
        self.begun[call].set()
        if call >= self.gate_from:
            assert self.gate.wait(DEADLINE_S)
        return super().predict(window)


CONFIG = Config().with_values({'backend': 'fake', 'window_size': 4, 'window_stride': 2})


def test_the_network_is_at_the_next_window_before_the_last_one_is_in_the_map() -> None:
    network = Gated(CONFIG, gate_from=1)
    pipeline = Pipeline(CONFIG, Foresight(network))
    frames = scene.frames_of(scene.walk(8))
    pipeline.upcoming = lambda: frames[4:]
    insert, seen = pipeline.map.insert, []

    def watched(submap):
        seen.append(network.begun[1].wait(DEADLINE_S))
        return insert(submap)

    pipeline.map.insert = watched
    updates = [pipeline.add_frame(frame) for frame in frames[:4]]
    assert updates[-1] is not None  # while the network still is at the next
    assert seen == [True]
    assert not network.gate.is_set()
    network.gate.set()
    second = [pipeline.add_frame(frame) for frame in frames[4:6]][-1]
    assert [frame.stamp_ns for frame in second.frames] == [frame.stamp_ns for frame in frames[4:6]]
    assert network.calls == 2


def test_nothing_is_begun_where_the_frames_are_not_there_or_do_not_follow() -> None:
    frames = scene.frames_of(scene.walk(30))
    for coming in ([], frames[4:5], frames[25:], frames[:3], [frames[4], frames[4]]):
        network = Gated(CONFIG, gate_from=9)
        pipeline = Pipeline(CONFIG, Foresight(network))
        pipeline.upcoming = lambda coming=coming: coming
        for frame in frames[:4]:
            pipeline.add_frame(frame)
        pipeline.reset()  # the network has done all that it was given
        assert network.calls == 1


def test_time_before_the_question_counts_as_the_networks() -> None:
    """Or a network too slow for its budget would look fast."""

    class Slow(FakePredictor):
        def predict(self, window: Window) -> Prediction:
            time.sleep(0.1)
            return super().predict(window)

    pipeline = Pipeline(CONFIG, Foresight(Slow(CONFIG)))
    frames = scene.frames_of(scene.walk(6))
    pipeline.upcoming = lambda: frames[4:]
    for frame in frames[:4]:
        pipeline.add_frame(frame)
    time.sleep(0.3)
    update = [pipeline.add_frame(frame) for frame in frames[4:]][-1]
    assert update.times.network_s > 0.09


@pytest.mark.parametrize('asked_s, ahead_s', [(9.0, 0.0), (11.0, 1.0), (15.0, 2.0)])
def test_time_ahead_is_the_networks_before_the_question(
    monkeypatch: pytest.MonkeyPatch, asked_s: float, ahead_s: float
) -> None:
    """The network begins with the window at 10 s and is done with it at 12 s."""
    seconds = {'vggt_network': [12.0, 10.0], threading.current_thread().name: [asked_s]}
    clock = SimpleNamespace(perf_counter=lambda: seconds[threading.current_thread().name].pop())
    monkeypatch.setattr('vggt_ros.core.foresight.time', clock)
    network, window = Foresight(FakePredictor(CONFIG)), Window(tuple(scene.frames_of(scene.walk(4))), 0)
    network.begin(window)
    assert network.predict(window).ahead_s == ahead_s


def test_what_else_a_network_is_asked_its_thread_answers() -> None:
    asked: list[tuple[object, ...]] = []

    class Preparing(FakePredictor):
        def warm_up(self, *sizes: object) -> Plan:
            asked.append((threading.current_thread().name, *sizes))
            return plan

        def predict_apart(self, window: Window) -> Prediction:
            asked.append((threading.current_thread().name, window))
            return super().predict_apart(window)

    plan, window = Plan(CONFIG.window, (42, 56), 1, ''), Window(tuple(scene.frames_of(scene.walk(3))), 0)
    network = Foresight(Preparing(CONFIG))
    assert network.warm_up(CONFIG.window, 0.5) is plan
    assert network.warm_up(CONFIG.window) is plan
    assert network.predict_apart(window).stamps_ns == tuple(frame.stamp_ns for frame in window.frames)
    on = 'vggt_network'
    assert asked == [(on, CONFIG.window, 0.5), (on, CONFIG.window, 0.0), (on, window)]
    assert Foresight(FakePredictor(CONFIG)).warm_up(CONFIG.window) is None  # nothing to prepare


def test_what_fails_ahead_is_told_when_it_is_asked_for_and_only_then() -> None:
    class Failing(FakePredictor):
        def predict(self, window: Window) -> Prediction:
            raise PredictionError(f'{len(window.frames)} frames')

    foresight = Foresight(Failing(CONFIG))
    frames = tuple(scene.frames_of(scene.walk(6)))
    foresight.begin(Window(frames[:4], 0))
    with pytest.raises(PredictionError, match='6 frames'):
        foresight.predict(Window(frames, 0))
    foresight.begin(Window(frames[:4], 0))
    with pytest.raises(PredictionError, match='4 frames'):
        foresight.predict(Window(frames[:4], 0))


def test_a_frame_that_the_network_is_at_need_not_be_looked_at_again() -> None:
    looked = []

    class Looking(Gated):
        def anticipate(self, frame: Frame) -> float:
            looked.append(frame.stamp_ns)
            return 0.5

    network = Looking(CONFIG, gate_from=0)
    foresight = Foresight(network)
    frames = tuple(scene.frames_of(scene.walk(6)))
    foresight.begin(Window(frames[:4], 0))
    assert foresight.anticipate(frames[2]) == 0.0  # does not wait for the window
    network.gate.set()
    assert foresight.anticipate(frames[5]) == 0.5
    assert looked == [frames[5].stamp_ns]


def test_the_thread_ends_with_the_last_user() -> None:
    foresight = Foresight(Answering(0))
    with contextlib.suppress(VggtRosError):
        foresight.predict(Window(tuple(scene.frames_of(scene.walk(2))), 0))
    (thread,) = foresight.running
    assert thread.daemon  # a network that hangs must not keep the process from ending
    del foresight
    thread.join(DEADLINE_S)  # without anything being collected
    assert not thread.is_alive()
