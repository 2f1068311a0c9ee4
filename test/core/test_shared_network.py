"""One network for several streams: the same answers, in turn, and each its own failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vggt.errors import InputError
from vggt.output import VGGTOutput
from vggt_ros.core.config import Config
from vggt_ros.core.frame import Frame
from vggt_ros.core.predictor import load_network, make_predictor
from vggt_ros.core.shared_network import SharedNetwork
from vggt_ros.core.window import Window

DEADLINE_S = 60.0


class Stub:
    """A network that answers with the sum of its tokens, and waits where it is told to."""

    config = SimpleNamespace(patch_size=14)

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.runs: list[list[float]] = []

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, None]

    def predict_windows(self, tokens: torch.Tensor, size: object, frames: object = None) -> VGGTOutput:
        self.go.wait(DEADLINE_S)
        self.runs.append(tokens.flatten(1)[:, 0].tolist())
        if (tokens == 13).any():
            raise RuntimeError('a window of bad luck')
        return VGGTOutput((1, 1), depth=tokens.sum(dim=(1, 2, 3)).reshape(-1, 1, 1, 1))


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def shared(stub: Stub) -> Iterator[SharedNetwork]:
    shared = SharedNetwork(stub)
    yield shared
    stub.go.set()
    shared.close()


def window(value: float, frames: int = 2) -> torch.Tensor:
    return torch.full((frames, 3, 1), float(value))


def wait_for(condition) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def ask_beside_each_other(shared: SharedNetwork, stub: Stub, windows: list[torch.Tensor]) -> list:
    """All ask while a first window, of another stream, is being computed."""
    stub.go.clear()
    with ThreadPoolExecutor(len(windows) + 1) as pool:
        first = pool.submit(shared.member().predict, window(0, frames=5), (1, 1))
        wait_for(lambda: not shared._waiting)
        asked = []
        for one in windows:
            asked.append(pool.submit(shared.member().predict, one, (1, 1)))
            wait_for(lambda: len(shared._waiting) == len(asked))
        stub.go.set()
        first.result(DEADLINE_S)
        return [one.exception(DEADLINE_S) or one.result() for one in asked]


def test_windows_of_one_shape_are_computed_together_and_others_alone(shared: SharedNetwork, stub: Stub):
    answers = ask_beside_each_other(shared, stub, [window(1), window(2, frames=4), window(3)])
    assert [answer.depth.item() for answer in answers] == [6.0, 24.0, 18.0]
    assert stub.runs == [[0.0], [1.0, 3.0], [2.0]]
    assert shared.batches == {1: 2, 2: 1}


def test_a_window_that_fails_is_the_failure_of_its_own_stream(shared: SharedNetwork, stub: Stub):
    good, bad, other = ask_beside_each_other(shared, stub, [window(1), window(13), window(3)])
    assert (good.depth.item(), other.depth.item()) == (6.0, 18.0)
    assert str(bad) == 'a window of bad luck'
    assert shared.member().predict(window(2), (1, 1)).depth.item() == 12.0  # and the network goes on


def test_a_stream_that_floods_does_not_keep_another_waiting(shared: SharedNetwork, stub: Stub):
    """However fast one asks again, another waits for the window at hand and no more than one of his."""
    done = threading.Event()

    def flood() -> None:
        member = shared.member()
        while not done.is_set():
            member.predict(window(1, frames=7), (1, 1))

    with ThreadPoolExecutor(3) as pool:
        floods = [pool.submit(flood) for _ in range(3)]
        try:
            wait_for(lambda: len(stub.runs) > 10)
            member = shared.member()
            waited = []
            for _ in range(20):
                before = len(stub.runs)
                member.predict(window(2), (1, 1))
                waited.append(len(stub.runs) - before)
        finally:
            done.set()
    assert all(one.exception() is None for one in floods)
    # The window at hand, those that waited already (the three flood with one shape: at most two more runs), our own.
    assert max(waited) <= 4


def test_frames_of_several_streams_are_encoded_together(shared: SharedNetwork, stub: Stub):
    stub.encode = lambda images: images.flatten(1)[:, None] * 2
    a, b = torch.ones(2, 3, 4, 4), torch.full((1, 3, 4, 4), 5.0)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(shared.member().encode, a), pool.submit(shared.member().encode, b)
        assert one.result(DEADLINE_S).shape == (2, 1, 48)
        assert (other.result(DEADLINE_S) == 10).all()


def test_a_closed_network_refuses(stub: Stub):
    shared = SharedNetwork(stub)
    shared.close()
    with pytest.raises(InputError, match='closed'):
        shared.member().predict(window(1), (1, 1))


def test_streams_that_share_the_network_that_ships_see_what_they_would_see_alone():
    """Each its own images, encoder cache and intrinsics; windows computed together are those computed alone."""
    config = Config().with_values({'device': 'cpu', 'precision': 'fp32', 'input_width': 56})
    network = load_network(config, quiet=True)
    rng = np.random.default_rng(1)
    streams = [
        tuple(Frame(1 + i, rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), 'camera') for i in range(3))
        for _ in range(3)
    ]
    alone = [make_predictor(config, network).predict(Window(frames, 0)) for frames in streams]
    shared = SharedNetwork(network)
    together = threading.Barrier(3)

    def predict(frames: tuple[Frame, ...]):
        predictor = make_predictor(config, shared.member())
        for frame in frames:
            predictor.anticipate(frame)
        together.wait(DEADLINE_S)
        return predictor.predict(Window(frames, 0))

    with ThreadPoolExecutor(3) as pool:
        beside = list(pool.map(predict, streams))
    shared.close()
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_allclose(other.depth, one.depth, rtol=2e-4)  # rounding: sums of a batch in another order
        np.testing.assert_allclose(other.cam_from_window, one.cam_from_window, atol=2e-5)
        np.testing.assert_allclose(other.K, one.K, rtol=1e-4)
    batch = network.predict_windows(torch.stack([network.encode(torch.rand(2, 3, 40, 56)) for _ in range(2)]), (40, 56))
    assert batch.depth.shape == (2, 2, 40, 56)
