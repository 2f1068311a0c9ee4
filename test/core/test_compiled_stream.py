"""A stream through a compiled network: the same answers, compiled ahead of the stream, and no stream lost."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import torch

pytest.importorskip('cv2')

from noise_stream import SIZE, STRIDE, assert_same, predictions_of, windows_of

from vggt import StreamingVGGT, VGGTOutput, load_vggt, prepared_windows
from vggt_ros.core.config import Config, WindowConfig
from vggt_ros.core.frame import Frame
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import VggtPredictor
from vggt_ros.core.shared_network import SharedNetwork
from vggt_ros.core.window import Window

KINDS = 3  # of blocks: backbone, frame, global
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU: what triton makes runs there alone')


class Made(list[str]):
    """A backend of torch.compile that remembers what it was asked for; it can be told to fail."""

    error: Exception | None = None

    def __call__(self, graph: torch.fx.GraphModule, _inputs: object) -> Callable[..., object]:
        if self.error is not None:
            raise self.error
        self.append('compiled')
        return graph.forward


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    torch.compiler.reset()
    backend = Made()
    monkeypatch.setattr(StreamingVGGT, 'compile', functools.partialmethod(StreamingVGGT.compile, backend=backend))
    yield backend
    torch.compiler.reset()


def network_on(device: str = 'cpu') -> StreamingVGGT:
    return StreamingVGGT(load_vggt('nano', heads=('camera', 'depth'), device=device), device)


def config_of(**values: object) -> Config:
    sizes = {'window_size': SIZE, 'window_stride': STRIDE, 'input_width': 64, 'compile': True}
    return Config().with_values(
        {
            **sizes,
            'device': 'cpu',
            'precision': 'fp32',
            'confidence_percentile': 0.0,
            'bundle_adjustment': 'off',
            **values,
        }
    )


def test_what_is_compiled_at_the_start_serves_the_stream(made: Made):
    windows = windows_of(4)
    expected = predictions_of(VggtPredictor(config_of(compile=False), network_on()), windows)
    assert not made
    predictor = VggtPredictor(config_of(), network_on())
    predictor.warm_up(WindowConfig(SIZE, STRIDE))
    assert len(made) == KINDS
    assert_same(predictions_of(predictor, windows), expected)
    short = Window(windows[0].frames[:3], 0)  # the end of a recording, or memory was short
    predictor.predict(short)
    K = np.array([[60.0, 0.0, 32.0], [0.0, 60.0, 24.0], [0.0, 0.0, 1.0]])
    images = [np.ascontiguousarray(frame.image[:48, :64]) for frame in windows[0].frames]
    predictor.predict_apart(Window(tuple(Frame(i, image, 'camera', K) for i, image in enumerate(images)), 0))
    assert len(made) == KINDS


def test_pictures_of_another_shape_are_compiled_for_with_their_first_window_alone(made: Made):
    predictor = VggtPredictor(config_of(), network_on())
    predictor.warm_up(WindowConfig(SIZE, STRIDE))
    predictor.predict(Window(windows_of(1, height=72)[0].frames[:2], 0))  # not a whole one
    assert len(made) == KINDS
    predictions_of(predictor, windows_of(2, height=72))
    assert len(made) == 2 * KINDS
    for height in (112, 72):
        predictor.reset()
        predictions_of(predictor, windows_of(2, height=height))  # a pause while the robot drives would be one too many
    assert len(made) == 2 * KINDS


@pytest.mark.parametrize('error', [RuntimeError('Cannot find a working triton'), torch.OutOfMemoryError('CUDA')])
def test_a_compiler_that_fails_is_told_once_and_the_stream_goes_on(made: Made, error: Exception, caplog):
    made.error = error
    windows = windows_of(3)
    config = config_of(latency_budget_s=9.0)
    pipeline = Pipeline(config, VggtPredictor(config, network_on()))
    with caplog.at_level(logging.WARNING):
        pipeline.warm_up()
        found = predictions_of(pipeline.predictor, windows)
    assert_same(found, predictions_of(VggtPredictor(config_of(compile=False), network_on()), windows), rtol=0)
    assert caplog.text.count('could not be compiled') == caplog.text.count(str(error)) == 1
    assert 'runs on as it is' in caplog.text


def test_windows_for_a_budget_are_measured_compiled(made: Made):
    predictor = VggtPredictor(config_of(), network_on())
    plan = predictor.warm_up(WindowConfig(SIZE, STRIDE), 1e-6)
    assert plan is not None
    assert plan.window == WindowConfig(2, 1)
    asked = len(made)
    predictions_of(predictor, [Window(window.frames[:2], 0) for window in windows_of(3)])
    assert len(made) == asked


def test_robots_that_share_a_network_share_what_was_compiled(made: Made):
    windows = windows_of(2)
    expected = predictions_of(VggtPredictor(config_of(compile=False), network_on()), windows)
    shared = SharedNetwork(network_on())
    try:
        robots = [VggtPredictor(config_of(), shared.member()) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            for one in [pool.submit(robot.warm_up, WindowConfig(SIZE, STRIDE)) for robot in robots]:
                one.result(60)
            found = [pool.submit(predictions_of, robot, windows) for robot in robots]
            for one in found:
                assert_same(one.result(60), expected)
    finally:
        shared.close()
    assert len(made) == KINDS
    assert set(shared.batches) == {1}


class Replayed:
    """Stands in for a CUDA graph, which a processor does not have: counts what it is asked for."""

    made: ClassVar[list[Replayed]] = []
    is_full = False

    def __init__(self, call: Callable[[torch.Tensor], VGGTOutput], example: torch.Tensor, other: torch.Tensor) -> None:
        assert example.shape == other.shape
        assert not torch.equal(example, other)
        self.call, self.runs = call, 0
        self.made.append(self)

    def __call__(self, tensor: torch.Tensor) -> VGGTOutput:
        self.runs += 1
        if self.is_full:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return self.call(tensor)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[Replayed]:
    monkeypatch.setattr(prepared_windows, 'CapturedCall', Replayed)
    monkeypatch.setattr(Replayed, 'made', [])
    return Replayed.made


@pytest.mark.parametrize('compared', [1, 4])
def test_windows_of_a_running_stream_are_replayed_and_no_others(replayed: list[Replayed], compared: int):
    windows, values = windows_of(4), {'compile': False, 'alignment_max_frames': compared}
    expected = predictions_of(VggtPredictor(config_of(**values), network_on()), windows)
    predictor = VggtPredictor(config_of(**values, cuda_graph=True), network_on())
    predictor.warm_up(WindowConfig(SIZE, STRIDE))
    (graph,) = replayed
    before = graph.runs
    assert before > 0  # the rehearsal was one
    assert_same(predictions_of(predictor, windows), expected, rtol=0)
    of_first = int(compared >= STRIDE)  # else it decodes more frames than any that follows
    assert graph.runs - before == len(windows) - 1 + of_first
    predictor.predict(Window(windows[0].frames[:3], 0))
    assert graph.runs - before == len(windows) - 1 + of_first
    assert len(replayed) == 1


def test_graphs_are_given_back_where_memory_is_short(replayed: list[Replayed], monkeypatch: pytest.MonkeyPatch):
    config = config_of(compile=False, cuda_graph=True)
    pipeline = Pipeline(config, VggtPredictor(config, network_on()))
    pipeline.warm_up()
    assert pipeline.predictor.network.is_compiled
    monkeypatch.setattr(Replayed, 'is_full', True)
    frames = [frame for window in windows_of(1) for frame in window.frames]
    updates = [pipeline.add_frame(frame) for frame in frames]
    assert [frame.stamp_ns for frame in updates[-1].frames] == [frame.stamp_ns for frame in frames]
    assert not pipeline.predictor.network.is_compiled


def test_without_a_gpu_a_graph_that_is_asked_for_is_told_of_once(caplog):
    config = config_of(compile=False, cuda_graph=True)
    pipeline = Pipeline(config, VggtPredictor(config, network_on()))
    with caplog.at_level(logging.WARNING):
        pipeline.warm_up()
        predictions_of(pipeline.predictor, windows_of(2))
    assert caplog.text.count('no CUDA graph could be made') == caplog.text.count('there are none on a cpu') == 1


@GPU
@pytest.mark.parametrize('is_shared', [False, True])
@pytest.mark.parametrize('graph', [False, True])
def test_on_a_gpu_the_compiled_stream_is_that_of_the_plain_network(is_shared: bool, graph: bool):
    windows, config = windows_of(4), config_of(device='cuda', cuda_graph=graph)
    expected = predictions_of(VggtPredictor(config_of(device='cuda', compile=False), network_on('cuda')), windows)
    network = network_on('cuda')
    shared = SharedNetwork(network)
    try:
        predictor = VggtPredictor(config, shared.member() if is_shared else network)
        predictor.warm_up(WindowConfig(SIZE, STRIDE))
        assert network._prepared.shapes
        assert len(network._prepared.graphs) == graph
        assert_same(predictions_of(predictor, windows), expected, rtol=1e-3)
    finally:
        shared.close()
