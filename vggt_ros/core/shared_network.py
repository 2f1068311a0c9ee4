"""SharedNetwork: one network for several streams, one thread that runs it, windows of one shape together.

Each stream waits for its own answer, so it has one request at a time, and the oldest request is always served next,
with those of its shape that wait beside it: nobody waits for more than one window of each other stream, however many
images another stream has. Nothing is held back to fill a batch.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vggt import StreamingVGGT, VGGTConfig, VGGTOutput
from vggt.errors import InputError

ROUNDS_FIRST = ('pose_encodings', 'tracks')  # of VGGTOutput: B is their second axis


@dataclass(frozen=True, eq=False)
class _Request:
    """Something to compute.

    Args:
        kind: requests of one kind can be computed together.
        run: takes the tensors of such requests, gives the answer for each.
        tensor: of this one.
        answer: for whoever waits.
    """

    kind: Hashable
    run: Callable[[list[Tensor]], list[Any]]
    tensor: Tensor
    answer: Future[Any] = field(default_factory=Future)


class SharedNetwork:
    """Runs a network for several streams, on a thread of its own.

    Args:
        network: the network.
        most: windows computed together; memory grows with them.
    """

    def __init__(self, network: StreamingVGGT, most: int = 8) -> None:
        self.network, self.most = network, most
        self.batches: dict[int, int] = {}  # windows together -> how often
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name='vggt_network', daemon=True)
        self._thread.start()

    def member(self) -> Member:
        """The network as one stream sees it."""
        return Member(self)

    def close(self) -> None:
        """Compute what waits, then nothing more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def ask(self, kind: Hashable, run: Callable[[list[Tensor]], list[Any]], tensor: Tensor) -> Any:
        """Wait for an answer; what went wrong with this request alone is raised."""
        request = _Request(kind, run, tensor)
        with self._changed:
            if self._is_closed:
                raise InputError('the shared network was closed')
            self._waiting.append(request)
            self._changed.notify()
        return request.answer.result()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                oldest = self._waiting[0].kind
                together = [one for one in self._waiting if one.kind == oldest][: self.most]
                for one in together:
                    self._waiting.remove(one)
            self._answer(together)

    def _answer(self, requests: Sequence[_Request]) -> None:
        """Together; where that fails each alone, so that the failure is only that of whom it belongs to."""
        self.batches[len(requests)] = self.batches.get(len(requests), 0) + 1
        try:
            answers = requests[0].run([one.tensor for one in requests])
        except Exception as error:
            if len(requests) == 1:
                requests[0].answer.set_exception(error)
                return
            for one in requests:
                self._answer([one])
            return
        for one, answer in zip(requests, answers, strict=True):
            one.answer.set_result(answer)


class Member:
    """A shared network with the methods of a network of one's own (vggt.StreamingVGGT)."""

    def __init__(self, owner: SharedNetwork) -> None:
        self._owner = owner

    @property
    def shared(self) -> StreamingVGGT:
        """The network itself, for whoever asks what it is; not to be run from here."""
        return self._owner.network

    @property
    def config(self) -> VGGTConfig:
        return self.shared.config

    @property
    def device(self) -> torch.device:
        return self.shared.device

    @property
    def dtype(self) -> torch.dtype:
        return self.shared.dtype

    @property
    def chunk(self) -> int:
        """Frames that the dense heads decode at a time, for all members."""
        return self.shared.chunk

    @chunk.setter
    def chunk(self, frames: int) -> None:
        self.shared.chunk = frames

    def encode(self, images: Tensor) -> Tensor:
        """As StreamingVGGT.encode: images -> [S, P, C]."""

        def run(batch: list[Tensor]) -> list[Any]:
            tokens = self.shared.encode(torch.cat(batch))
            return list(tokens.split([len(one) for one in batch]))

        return self._owner.ask(('encode', tuple(images.shape[1:])), run, images)  # type: ignore[no-any-return]

    def predict(
        self, patch_tokens: Tensor, image_size: tuple[int, int], frames: Sequence[int] | None = None
    ) -> VGGTOutput:
        """As StreamingVGGT.predict: [S, P, C] of one window."""
        chosen = None if frames is None else tuple(frames)

        def run(batch: list[Tensor]) -> list[Any]:
            output = self.shared.predict_windows(torch.stack(batch), image_size, chosen)
            return [_window(output, i) for i in range(len(batch))]

        kind = 'predict', tuple(patch_tokens.shape), tuple(image_size), chosen
        return self._owner.ask(kind, run, patch_tokens)  # type: ignore[no-any-return]


def _window(output: VGGTOutput, index: int) -> VGGTOutput:
    """One window of several, with B = 1."""
    one = slice(index, index + 1)
    taken: dict[str, Any] = {
        name: value[:, one] if name in ROUNDS_FIRST else value[one]
        for name, value in vars(output).items()
        if isinstance(value, Tensor)
    }
    return dataclasses.replace(output, **taken)
