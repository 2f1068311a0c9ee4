"""Windows are as large as asked for where memory and time allow it, and no larger than they allow."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

import pytest
import scene
import torch

from vggt import VGGTConfig
from vggt.weights import load_vggt
from vggt_ros.core import predictor as predictor_module
from vggt_ros.core.config import Config, ModelConfig, WindowConfig
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.planner import (
    SMALLEST,
    LatencyKeeper,
    Plan,
    free_memory,
    grids,
    plan_for_budget,
    plan_windows,
    rehearse,
    window_bytes,
    window_operations,
    windows_together,
)
from vggt_ros.core.predictor import VggtPredictor, load_network

RELEASED = VGGTConfig()
SIZE = (392, 518)
ASKED = WindowConfig(8, 4)
BFLOAT16 = torch.bfloat16


# Peaks above the weights, docs/benchmarks.md; nano's by `python -m benchmarks.network --model nano`, 96x128, bfloat16.
@pytest.mark.parametrize(
    'name, size, dtype, measured',
    [
        ('1b', (392, 518), BFLOAT16, 1062e6),
        ('1b', (196, 252), BFLOAT16, 359e6),
        ('1b', (196, 252), torch.float32, 470e6),
        ('nano', (96, 128), BFLOAT16, 44e6),
    ],
)
def test_the_estimate_of_memory_is_good_to_a_factor_of_two(name, size, dtype, measured):
    network = RELEASED if name == '1b' else load_vggt(name).config
    assert 0.5 < window_bytes(network, 8, size, dtype, chunk=2) / measured < 2


@pytest.mark.parametrize(
    'frames, dtype, chunk, expected',
    [
        (8, BFLOAT16, 2, 272_891_904 + 623_788_032 + 150_994_944),  # layers kept, maps of two frames, kernels
        (8, BFLOAT16, 1, 272_891_904 + 341_114_880 + 150_994_944),  # the widest block is more than maps of one
        (8, torch.float32, 1, 272_891_904 + 545_783_808 + 150_994_944),
        (1, BFLOAT16, 8, 34_111_488 + 311_894_016 + 150_994_944),  # of one frame there are maps of one
    ],
)
def test_the_estimate_of_memory_is_the_sum_of_what_is_counted(frames, dtype, chunk, expected):
    """By hand: 1041 tokens a frame of 1024 numbers, four layers kept at twice that, maps of 128 at 392x518."""
    assert window_bytes(RELEASED, frames, SIZE, dtype, chunk) == expected


def test_a_network_without_a_depth_head_needs_no_maps():
    assert window_bytes(RELEASED.with_heads(['camera']), 8, SIZE, BFLOAT16, 2) == 68_222_976 + 341_114_880 + 150_994_944


def test_operations_are_the_sum_of_what_is_counted():
    def blocks(tokens):  # 24 of them: 24 d^2 a token for the products with weights, 4 d a pair of tokens
        return 24 * (24 * 1024**2 * tokens + 4 * 1024 * tokens**2)

    all_decoded = blocks(1041) + 8 * blocks(1041) + blocks(8 * 1041) + 8 * 0.22e12
    assert window_operations(RELEASED, ASKED, SIZE, 4) == pytest.approx(all_decoded, rel=1e-12)
    assert window_operations(RELEASED, ASKED, SIZE, 9) == pytest.approx(
        all_decoded, rel=1e-12
    )  # no more than there are
    tokens = 14 * 18 + 5
    bare = dataclasses.replace(RELEASED, backbone=None)
    few = 4 * blocks(tokens) + blocks(4 * tokens) + 3 * 0.22e12 / 4 * (196 * 252) / (196 * 259)
    assert window_operations(bare, WindowConfig(4, 1), (196, 252), 2) == pytest.approx(few, rel=1e-12)
    headless = window_operations(RELEASED.with_heads(['camera']), ASKED, SIZE, 4)
    assert headless == pytest.approx(all_decoded - 8 * 0.22e12, rel=1e-12)


@pytest.mark.parametrize('room, expected', [(None, 1), (1.99, 1), (2.01, 2), (2.99, 2), (9.0, 4)])
def test_as_many_windows_go_together_as_memory_holds(room, expected):
    free = None
    if room is not None:
        whole, more = math.floor(room), room % 1
        need = window_bytes(RELEASED, 8 * whole, SIZE, BFLOAT16, 2)
        beyond = window_bytes(RELEASED, 8 * (whole + 1), SIZE, BFLOAT16, 2)
        free = int((need + more * (beyond - need)) / 0.8)
    assert windows_together(RELEASED, 8, SIZE, BFLOAT16, 2, free, 4) == expected


def test_what_was_asked_for_is_taken_where_it_fits():
    plan = plan_windows(ASKED, RELEASED, [SIZE], BFLOAT16, 8 * 2**30)
    assert plan.window == ASKED
    assert plan_windows(ASKED, RELEASED, [SIZE], BFLOAT16, None).window == ASKED


@pytest.mark.parametrize('free_mb', [300, 500, 700, 900, 1200])
def test_windows_are_the_largest_that_fit(free_mb):
    free = free_mb * 10**6
    plan = plan_windows(ASKED, RELEASED, [SIZE], BFLOAT16, free)
    frames = plan.window.size
    assert frames == 2 or window_bytes(RELEASED, frames, SIZE, BFLOAT16, plan.chunk) <= 0.8 * free
    if frames < ASKED.size:
        assert window_bytes(RELEASED, frames + 1, SIZE, BFLOAT16, plan.chunk) > 0.8 * free
        need = window_bytes(RELEASED, 8, SIZE, BFLOAT16, plan.chunk)
        assert f'would need {need / 2**30:.1f} of {free / 2**30:.1f} GiB free' in plan.reason
        assert 'input_width' in plan.reason
        assert plan.window.stride <= frames // 2 or frames == 1


def test_pictures_give_way_to_memory_only_when_two_frames_do_not_fit():
    sizes = grids(ModelConfig(), RELEASED)
    assert sizes[0] == (378, 518)  # of whole patches, 4:3 but for the rest
    assert [width for _, width in sizes] == list(range(518, 258, -14))
    two = window_bytes(RELEASED, SMALLEST, sizes[0], BFLOAT16, 1)
    roomy = plan_windows(ASKED, RELEASED, sizes, BFLOAT16, int(two * 1.01 / 0.8))
    assert (roomy.window.size, roomy.size) == (SMALLEST, sizes[0])
    tight = plan_windows(ASKED, RELEASED, sizes, BFLOAT16, int(two * 0.8 / 0.8))
    assert (tight.window, tight.chunk) == (WindowConfig(SMALLEST, 1), 1)
    assert tight.size[1] < 518
    wider = sizes[sizes.index(tight.size) - 1]
    assert window_bytes(RELEASED, SMALLEST, tight.size, BFLOAT16, 1) <= two * 0.8
    assert window_bytes(RELEASED, SMALLEST, wider, BFLOAT16, 1) > two * 0.8
    assert '518 pixels across' in tight.reason


def test_depth_is_decoded_in_chunks_as_large_as_memory_allows_without_losing_a_frame():
    needs = {chunk: window_bytes(RELEASED, 8, SIZE, BFLOAT16, chunk) for chunk in (8, 4, 2, 1)}
    assert needs[8] > needs[4]
    for chunk in (8, 4):
        plan = plan_windows(ASKED, RELEASED, [SIZE], BFLOAT16, int(needs[chunk] / 0.8) + 1, (8, 4, 2, 1))
        assert (plan.window, plan.chunk) == (ASKED, chunk)


def test_an_input_width_that_is_set_is_the_only_one():
    assert grids(ModelConfig(input_width=280), RELEASED) == [(210, 280)]


def test_operations_are_those_that_are_counted(monkeypatch):
    """Ratios of windows, against the counter of torch on the real network."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    from benchmarks.meter import make_counter

    network = load_network(Config().with_values({'device': 'cpu', 'precision': 'fp32'}))
    network.model.requires_grad_(False)
    size, other = (48, 64), (96, 128)
    windows = [(WindowConfig(8, 4), size), (WindowConfig(4, 1), size), (WindowConfig(2, 1), size)]
    windows += [(WindowConfig(8, 4), other), (WindowConfig(2, 1), other)]
    counted, estimated = [], []
    for window, grid in windows:
        with make_counter() as counter:
            tokens = network.encode(torch.zeros(1, 3, *grid))
            decoded = range(window.size - min(window.size, window.stride + 4), window.size)
            network.predict(tokens.expand(window.size, -1, -1), grid, frames=decoded)
        counted.append(counter.get_total_flops())
        estimated.append(window_operations(network.config, window, grid, 4))
    ratios = [a / b for a, b in zip(estimated, counted, strict=True)]
    assert max(ratios) / min(ratios) < 1.5


def budget(budget_s: float, gigaflops: float = 150.0, overhead_s: float = 0.0, window: WindowConfig = ASKED):
    """A plan on a simulated device, and what was measured on the way."""
    measured = []

    def measure(window: WindowConfig, size: tuple[int, int]) -> float:
        measured.append((window, size))
        return overhead_s + window_operations(RELEASED, window, size, 4) / (gigaflops * 1e9)

    sizes = grids(ModelConfig(), RELEASED)
    asked = Plan(window, sizes[0], 2, 'asked for')
    return plan_for_budget(asked, RELEASED, sizes, budget_s, 4, measure), measured, measure


@pytest.mark.parametrize('gigaflops, kept', [(1e6, 'all'), (24e2, 'stride'), (10e2, 'window'), (3.2e2, 'size')])
def test_a_budget_takes_the_stride_first_the_window_second_and_pictures_last(gigaflops, kept):
    full = window_operations(RELEASED, ASKED, (378, 518), 4) / (24e2 * 1e9)
    plan, measured, measure = budget(0.97 * full, gigaflops)
    assert measure(plan.window, plan.size) <= 0.97 * full
    assert 1 <= len(measured) - 1 <= 5
    is_full = plan.size == (378, 518)
    expected = {
        'all': plan.window == ASKED and is_full,
        'stride': plan.window.size == 8 and plan.window.stride < 4 and is_full,
        'window': 2 <= plan.window.size < 8 and plan.window.stride == 1 and is_full,
        'size': plan.window == WindowConfig(SMALLEST, 1) and plan.size[1] < 518,
    }
    assert [name for name, is_so in expected.items() if is_so] == [kept]
    assert kept == 'all' or 'latency_budget_s allows' in plan.reason


def test_a_device_that_is_slow_apart_from_operations_still_ends_within_the_budget():
    plan, measured, measure = budget(3.0, gigaflops=1e3, overhead_s=2.0)
    assert measure(plan.window, plan.size) <= 3.0
    assert len(measured) <= 6


def test_a_budget_that_nothing_keeps_ends_with_the_least():
    plan, _, _ = budget(1e-3)
    assert (plan.window, plan.size[1]) == (WindowConfig(SMALLEST, 1), 266)


def test_what_was_planned_for_a_budget_is_what_the_network_sees():
    values = {'device': 'cpu', 'precision': 'fp32', 'latency_budget_s': 1e-5}
    config = Config().with_values(values)
    pipeline = Pipeline(config, VggtPredictor(config, load_network(config)))
    pipeline.warm_up()
    assert pipeline.windows.config == WindowConfig(SMALLEST, 1)
    assert pipeline.latency.asked == config.window
    update = [pipeline.add_frame(frame) for frame in scene.frames_of(scene.walk(2))][-1]
    assert update.frames[0].depth.shape[1] == 64  # half of what nano is made for


def test_a_pipeline_begins_with_what_fits(monkeypatch, caplog):
    config = Config().with_values({'device': 'cpu', 'window_size': 64, 'window_stride': 32})
    network = load_network(config)
    monkeypatch.setattr(predictor_module, 'free_memory', lambda device: 60 * 10**6)
    with caplog.at_level(logging.WARNING):
        pipeline = Pipeline(config, VggtPredictor(config, network))
    assert pipeline.windows.config.size < 64
    assert 'GiB free' in caplog.text


def test_a_rehearsal_computes_what_the_stream_will():
    network = load_network(Config().with_values({'device': 'cpu'}))
    decoded = []
    network.model.depth_head.register_forward_hook(lambda _m, inputs, _o: decoded.append(inputs[0][0].shape[1]))
    encode_s, window_s = rehearse(network, WindowConfig(6, 1), (48, 64), compared=4)
    assert 0 < encode_s < window_s
    assert decoded == [5, 5]


def test_free_memory_of_this_machine_is_told():
    free = free_memory(torch.device('cpu'))
    assert free is None or 2**20 < free < 2**46


def run(keeper: LatencyKeeper, now: WindowConfig, budget_s: float, windows: int, cost=None) -> list[WindowConfig]:
    cost = cost or (lambda window: 0.01 * window.size + 0.01 * window.stride)
    sizes = []
    for _ in range(windows):
        now = keeper.observe(cost(now), now, budget_s)
        sizes.append(now)
    return sizes


def test_without_a_budget_nothing_changes():
    assert set(run(LatencyKeeper(ASKED), ASKED, 0.0, 20)) == {ASKED}


def test_the_stride_gives_way_first_and_the_size_second():
    sizes = list(dict.fromkeys(run(LatencyKeeper(ASKED), ASKED, 0.06, 60)))
    assert sizes[:3] == [WindowConfig(8, 4), WindowConfig(8, 2), WindowConfig(8, 1)]
    assert all(one.stride == 1 and one.size < 8 for one in sizes[3:])
    assert 0.01 * sizes[-1].size + 0.01 <= 0.06


def test_one_slow_window_changes_nothing():
    keeper = LatencyKeeper(ASKED)
    seconds = [0.05, 0.05, 0.9, 0.05, 0.05, 0.05]
    assert all(keeper.observe(one, ASKED, 0.08) == ASKED for one in seconds)


def test_three_slow_windows_after_any_number_of_good_ones_are_enough():
    keeper = LatencyKeeper(ASKED)
    assert all(keeper.observe(0.07, ASKED, 0.08) == ASKED for _ in range(20))
    sizes = [keeper.observe(0.09, ASKED, 0.08) for _ in range(3)]
    assert WindowConfig(8, 2) in sizes


def test_windows_grow_back_to_what_was_asked_for_and_rest_there():
    keeper = LatencyKeeper(ASKED)
    sizes = run(keeper, WindowConfig(4, 1), 1.0, 60)
    steps = [(4, 1), (5, 1), (6, 1), (7, 1), (8, 1), (8, 2), (8, 3), (8, 4)]
    assert list(dict.fromkeys(sizes)) == [WindowConfig(*one) for one in steps]
    assert sizes[-1] == ASKED
    assert all(one.stride <= ASKED.stride and one.size <= ASKED.size for one in sizes)


@pytest.mark.parametrize('budget_s', [0.03, 0.05, 0.07, 0.09, 0.11, 0.2])
def test_sizes_settle_and_do_not_swing(budget_s):
    sizes = run(LatencyKeeper(ASKED), ASKED, budget_s, 120)
    assert len(set(sizes[-30:])) == 1


def test_frames_all_come_out_while_windows_shrink():
    cameras = scene.walk(40)
    values = {'window_size': 8, 'window_stride': 4, 'input_width': scene.WIDTH, 'latency_budget_s': 1e-6}
    config = Config().with_values(values)
    pipeline = Pipeline(config, VggtPredictor(config, scene.SimulatedNetwork(cameras)))
    answers = [*map(pipeline.add_frame, scene.frames_of(cameras)), pipeline.flush()]
    frames = scene.placed(one for one in answers if one is not None)
    assert [frame.stamp_ns for frame in frames] == [scene.START_NS + i * scene.FRAME_NS for i in range(40)]
    assert pipeline.windows.config == WindowConfig(2, 1)
