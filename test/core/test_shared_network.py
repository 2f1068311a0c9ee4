"""One network for several streams: the same answers, in turn, and each its own failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vggt import VGGTConfig
from vggt.errors import InputError
from vggt.output import VGGTOutput
from vggt_ros.core import shared_network
from vggt_ros.core.config import Config
from vggt_ros.core.frame import Frame
from vggt_ros.core.predictor import load_network, make_predictor
from vggt_ros.core.shared_network import Member, SharedNetwork
from vggt_ros.core.window import Window

DEADLINE_S = 60.0


class Stub:
    """A network that answers with the sum of its tokens, and waits where it is told to."""

    config = SimpleNamespace(patch_size=14)
    device = torch.device('cpu')
    is_compiled = False
    fits = 9  # windows at once

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.runs: list[list[float]] = []

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, None]

    def predict_windows(self, tokens: torch.Tensor, size: object, frames: object = None) -> VGGTOutput:
        self.go.wait(DEADLINE_S)
        self.runs.append(tokens.flatten(1)[:, 0].tolist())
        if len(tokens) > self.fits:
            raise RuntimeError('CUDA out of memory. Tried to allocate 20 MiB')
        if (tokens == 13).any():
            raise RuntimeError('a window of bad luck')
        return VGGTOutput((1, 1), depth=tokens.sum(dim=(1, 2, 3)).reshape(-1, 1, 1, 1))


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def share() -> Iterator[Callable[..., SharedNetwork]]:
    made: list[SharedNetwork] = []

    def share(network: Any, max_batch_size: int = 8, threads: int = 1) -> SharedNetwork:
        made.append(SharedNetwork(network, max_batch_size, threads))
        return made[-1]

    yield share
    for shared in made:
        shared.close()


@pytest.fixture
def shared(stub: Stub, share: Callable[..., SharedNetwork]) -> Iterator[SharedNetwork]:
    yield share(stub)
    stub.go.set()


def window(value: float, frames: int = 2) -> torch.Tensor:
    return torch.full((frames, 3, 1), float(value))


def wait_for(condition) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def beside_each_other(shared: SharedNetwork, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What they give or raise: all wait in this order while another request is being computed."""
    began, go = threading.Event(), threading.Event()

    def first(batch: list[torch.Tensor]) -> list[bool]:
        began.set()
        return [go.wait(DEADLINE_S)]

    with ThreadPoolExecutor(len(calls) + 1) as pool:
        pool.submit(shared.ask, 'first', first, torch.zeros(1), lambda: 1)
        try:
            assert began.wait(DEADLINE_S)
            asked = []
            for call in calls:
                asked.append(pool.submit(call))
                wait_for(lambda: len(shared._waiting) == len(asked))
        finally:
            go.set()
        return [one.exception(DEADLINE_S) or one.result() for one in asked]


def ask_beside_each_other(shared: SharedNetwork, windows: Sequence[torch.Tensor]) -> list[Any]:
    """Each a window of another stream."""
    return beside_each_other(shared, [partial(shared.member().predict, one, (1, 1)) for one in windows])


def test_windows_of_one_shape_are_computed_together_and_others_alone(shared: SharedNetwork, stub: Stub):
    answers = ask_beside_each_other(shared, [window(1), window(2, frames=4), window(3)])
    assert [answer.depth.item() for answer in answers] == [6.0, 24.0, 18.0]
    assert stub.runs == [[1.0, 3.0], [2.0]]
    assert shared.batches == {1: 1, 2: 1}


def test_a_window_that_fails_is_the_failure_of_its_own_stream(shared: SharedNetwork, stub: Stub):
    good, bad, other = ask_beside_each_other(shared, [window(1), window(13), window(3)])
    assert (good.depth.item(), other.depth.item()) == (6.0, 18.0)
    assert str(bad) == 'a window of bad luck'
    assert shared.member().predict(window(2), (1, 1)).depth.item() == 12.0  # and the network goes on


def test_a_stream_that_failed_is_computed_apart_until_it_succeeds(shared: SharedNetwork, stub: Stub):
    """Who fails every time would else cost the others every time a second pass."""
    broken = shared.member()

    def ask(value: float) -> list[Any]:
        others = [partial(shared.member().predict, window(one), (1, 1)) for one in (1, 2)]
        stub.runs.clear()
        return beside_each_other(shared, [partial(broken.predict, window(value), (1, 1)), *others])

    ask(13)
    assert stub.runs == [[13, 1, 2], [13], [1], [2]]
    assert isinstance(ask(13)[0], RuntimeError)
    assert stub.runs == [[13], [1, 2]]
    assert [one.depth.item() for one in ask(4)] == [24, 6, 12]
    assert stub.runs == [[4], [1, 2]]
    ask(4)
    assert stub.runs == [[4, 1, 2]]


def test_windows_that_do_not_fit_together_are_halved_and_stay_so(shared: SharedNetwork, stub: Stub):
    stub.fits = 2
    for runs in ([[1, 2, 3, 4, 5], [1, 2], [3, 4], [5]], [[1, 2], [3, 4], [5]]):
        answers = ask_beside_each_other(shared, [window(i) for i in (1, 2, 3, 4, 5)])
        assert [one.depth.item() for one in answers] == [6, 12, 18, 24, 30]
        assert stub.runs == runs
        stub.runs.clear()
    stub.fits = 0
    answers = ask_beside_each_other(shared, [window(1), window(2)])
    assert ['out of memory' in str(one) for one in answers] == [True, True]


@pytest.mark.parametrize('asked, runs', [(2, [[1, 2], [3]]), (0, [[1], [2], [3]])])
def test_no_more_than_asked_and_by_default_one_on_a_processor(
    stub: Stub, share: Callable[..., SharedNetwork], asked: int, runs: list[list[int]]
):
    ask_beside_each_other(share(stub, asked), [window(i) for i in (1, 2, 3)])
    assert stub.runs == runs


def test_a_gpu_takes_what_its_free_memory_allows_and_a_compiled_network_one(
    stub: Stub, share: Callable[..., SharedNetwork], monkeypatch: pytest.MonkeyPatch
):
    shared = share(stub, 0)
    stub.device, stub.config, stub.dtype, stub.chunk = torch.device('cuda'), VGGTConfig(), torch.bfloat16, 8
    counts = []
    for gib in (0.1, 2, 4, 60):
        monkeypatch.setattr(shared_network, 'free_memory', lambda device, gib=gib: int(gib * 2**30))
        counts.append(shared.windows_together(8, (392, 518)))
    assert counts[0] == 1
    assert 1 < counts[2] < counts[3] == shared_network.MOST
    assert counts == sorted(counts)
    stub.is_compiled = True
    assert shared.windows_together(8, (392, 518)) == shared.images_together() == 1
    stub.device = torch.device('cpu')


def test_cores_that_torch_leaves_idle_run_the_network_too(stub: Stub, share: Callable[..., SharedNetwork]):
    meeting = threading.Barrier(2)  # passed by two that run at the same time
    stub.predict_windows = lambda *_: (meeting.wait(DEADLINE_S), VGGTOutput((1, 1)))[1]
    shared = share(stub, 1, threads=2)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(shared.member().predict, window(i), (1, 1)) for i in range(2)]
        assert all(one.exception(DEADLINE_S) is None for one in asked)


def test_streams_that_flood_do_not_keep_another_waiting(shared: SharedNetwork, stub: Stub):
    """However fast they ask again, another waits for no more than one window of each."""

    def flood(member: Member) -> None:
        for _ in range(20):
            member.predict(window(1, frames=7), (1, 1))

    floods = [partial(flood, shared.member()) for _ in range(3)]
    beside_each_other(shared, [*floods, partial(shared.member().predict, window(2), (1, 1))])
    assert stub.runs[:2] == [[1, 1, 1], [2]]
    assert sum(map(len, stub.runs)) == 61


def test_frames_of_several_streams_are_encoded_together(shared: SharedNetwork, stub: Stub):
    stub.encode = lambda images: images.flatten(1)[:, None] * 2
    a, b = torch.ones(2, 3, 4, 4), torch.full((1, 3, 4, 4), 5.0)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(shared.member().encode, a), pool.submit(shared.member().encode, b)
        assert one.result(DEADLINE_S).shape == (2, 1, 48)
        assert (other.result(DEADLINE_S) == 10).all()


def test_a_member_makes_the_network_itself_ready(shared: SharedNetwork, stub: Stub):
    asked: list[tuple[Any, ...]] = []
    stub.compile = lambda *how: asked.append(how)
    stub.capture = lambda *how: asked.append(how)
    member = shared.member()
    member.compile(8, (42, 56), images=2)
    member.compile(4, (42, 56))
    member.capture(8, (42, 56), range(3, 8))
    assert asked == [(8, (42, 56), 2), (4, (42, 56), 1), (8, (42, 56), range(3, 8))]


def test_a_closed_network_refuses(stub: Stub, share: Callable[..., SharedNetwork]):
    shared = share(stub)
    shared.close()
    with pytest.raises(InputError, match='closed'):
        shared.member().predict(window(1), (1, 1))


def test_streams_that_share_the_network_that_ships_see_what_they_would_see_alone(share: Callable[..., SharedNetwork]):
    """Each its own images, encoder cache and intrinsics; windows computed together are those computed alone."""
    # Noise has no flow: bundle adjustment would make much of the rounding.
    values = {'device': 'cpu', 'precision': 'fp32', 'input_width': 56, 'bundle_adjustment': 'off'}
    config = Config().with_values(values)
    network = load_network(config, quiet=True)
    rng = np.random.default_rng(1)
    streams = [
        tuple(Frame(1 + i, rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), 'camera') for i in range(3))
        for _ in range(3)
    ]
    alone = [make_predictor(config, network).predict(Window(frames, 0)) for frames in streams]
    shared = share(network)
    predictors = [make_predictor(config, shared.member()) for _ in streams]
    for rows in zip(*streams, strict=True):
        beside_each_other(shared, [partial(one.anticipate, f) for one, f in zip(predictors, rows, strict=True)])
    windows = [Window(frames, 0) for frames in streams]
    beside = beside_each_other(shared, [partial(one.predict, w) for one, w in zip(predictors, windows, strict=True)])
    assert shared.batches == {3: 1}
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_allclose(other.depth, one.depth, rtol=2e-4)  # rounding: sums of a batch in another order
        np.testing.assert_allclose(other.cam_from_window, one.cam_from_window, atol=2e-5)
        np.testing.assert_allclose(other.K, one.K, rtol=1e-4)
