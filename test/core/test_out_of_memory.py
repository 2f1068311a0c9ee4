"""Too little memory makes windows smaller; the stream goes on, and no frame is lost."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import scene
import torch

from vggt_ros.core.config import Config, WindowConfig
from vggt_ros.core.errors import OutOfMemoryError, PredictionError
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import VggtPredictor
from vggt_ros.core.submap import Update
from vggt_ros.core.window import Window, WindowBuffer


class SmallDevice(scene.SimulatedNetwork):
    """A true network on a device that holds so many frames at a time."""

    chunk = 2

    def __init__(self, world_from_cams: np.ndarray, room_for: int, error: Exception) -> None:
        super().__init__(world_from_cams)
        self.room_for, self.error = room_for, error
        self.sizes: list[int] = []

    def predict(self, patch_tokens, image_size, frames):
        if len(patch_tokens) > self.room_for:
            raise self.error
        self.sizes.append(len(patch_tokens))
        return super().predict(patch_tokens, image_size, frames)


CUDA = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB')
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried")


def config_of(size: int, stride: int) -> Config:
    values = {'window_size': size, 'window_stride': stride, 'input_width': scene.WIDTH, 'confidence_percentile': 0.0}
    return Config().with_values(values)


def run(pipeline: Pipeline, cameras: np.ndarray) -> list[Update]:
    answers = [*map(pipeline.add_frame, scene.frames_of(cameras)), pipeline.flush()]
    return [one for one in answers if one is not None]


@pytest.mark.parametrize('error', [CUDA, CPU], ids=['cuda', 'cpu'])
@pytest.mark.parametrize('size, stride, room_for', [(8, 4, 7), (8, 4, 3), (8, 1, 4), (6, 6, 3), (7, 3, 2)])
def test_every_frame_still_comes_out_in_order_and_at_its_place(size, stride, room_for, error, caplog):
    cameras = scene.walk(25)
    network = SmallDevice(cameras, room_for, error)
    config = config_of(size, stride)
    pipeline = Pipeline(config, VggtPredictor(config, network))
    with caplog.at_level(logging.WARNING):
        updates = run(pipeline, cameras)
    frames = scene.placed(updates)
    assert [frame.stamp_ns for frame in frames] == [scene.START_NS + i * scene.FRAME_NS for i in range(25)]
    assert 'going on with window_size' in caplog.text
    assert pipeline.statistics.failures == 0
    assert max(network.sizes) <= room_for
    assert network.chunk == 1
    if stride < size:  # windows that share nothing cannot be joined, large or small
        scene.assert_on_truth(updates, pipeline, network)


def test_windows_stay_small_and_memory_is_not_run_out_of_again(caplog):
    cameras = scene.walk(40)
    network = SmallDevice(cameras, 5, CUDA)
    config = config_of(8, 4)
    pipeline = Pipeline(config, VggtPredictor(config, network))
    run(pipeline, cameras)
    assert caplog.text.count('going on with') == 1
    assert pipeline.windows.config == WindowConfig(4, 2)


def test_a_frame_that_does_not_fit_alone_is_told():
    cameras = scene.walk(4)
    config = config_of(4, 4)
    pipeline = Pipeline(config, VggtPredictor(config, SmallDevice(cameras, 0, CUDA)))
    with pytest.raises(OutOfMemoryError, match='lower window_size or input_width'):
        run(pipeline, cameras)
    assert pipeline.statistics.failures == 1


def test_another_failure_does_not_make_windows_smaller():
    cameras = scene.walk(8)
    config = config_of(8, 4)
    pipeline = Pipeline(config, VggtPredictor(config, SmallDevice(cameras, 0, RuntimeError('a kernel broke'))))
    with pytest.raises(PredictionError, match='a kernel broke'):
        run(pipeline, cameras)
    assert pipeline.windows.config.size == 8


@pytest.mark.parametrize('size, stride', [(8, 4), (8, 8), (7, 2), (3, 1), (2, 1), (16, 1)])
@pytest.mark.parametrize('shared', [0, 1, 5])
def test_parts_of_a_window_hold_each_new_frame_once(size, stride, shared):
    buffer = WindowBuffer(WindowConfig(size, stride))
    frames = tuple(scene.frames_of(scene.walk(size)))
    shared = min(shared, size - 1)
    parts = buffer.halve(Window(frames, shared))
    new = [frame for part in parts for frame in part.new]
    assert new == list(frames[shared:])
    assert all(len(part.frames) <= (size + 1) // 2 for part in parts)
    for before, after in itertools.pairwise(parts):
        assert after.frames[: after.shared] == before.frames[len(before.frames) - after.shared :]
