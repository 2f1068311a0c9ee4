"""SharedNetwork: one network for several streams; windows of one shape that wait beside each other take one pass.

Each stream waits for its own answer, so it has one request at a time, and the oldest request is always served next,
with those of its shape that wait beside it: nobody waits for more than one window of each other stream, however many
images another stream has. Nothing is held back to fill a batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vggt import StreamingVGGT, VGGTConfig, VGGTOutput
from vggt.errors import InputError
from vggt_ros.core.devices import available_cores, is_lack_of_memory
from vggt_ros.core.planner import free_memory, windows_together

ROUNDS_FIRST = ('pose_encodings', 'tracks')  # of VGGTOutput: B is their second axis
MOST = 8  # requests in one pass: a GPU is busy with fewer windows of the released network, and all wait for all


@dataclass(frozen=True, eq=False)
class _Request:
    """Something to compute.

    Args:
        kind: requests of one kind can be computed together.
        run: takes the tensors of such requests, gives the answer for each.
        tensor: of this one.
        fits: how many of this kind the device takes at once.
        stream: of the GPU, that of whoever asks, so that its order holds across threads; None on a processor.
        answer: for whoever waits.
    """

    kind: Hashable
    run: Callable[[list[Tensor]], list[Any]]
    tensor: Tensor
    fits: Callable[[], int]
    stream: torch.cuda.Stream | None
    answer: Future[Any] = field(default_factory=Future)


class SharedNetwork:
    """Runs a network for several streams, on threads of its own.

    Args:
        network: the network.
        max_batch_size: windows in one forward pass; 0 takes on a GPU what its free memory allows, up to 8, and one on a
            processor, as a pass of several is no faster there (docs/benchmarks.md).
        threads: that run the network; 0 takes one on a GPU, on a processor one for each core that torch leaves idle.

    Attributes:
        batches: how often so many windows were computed together.
    """

    def __init__(self, network: StreamingVGGT, max_batch_size: int = 0, threads: int = 0) -> None:
        self.network, self._most = network, max_batch_size
        self.batches: Counter[int] = Counter()
        self._limits: dict[Hashable, int] = {}  # by kind, of those that memory set
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f'vggt_network_{i}', daemon=True)
            for i in range(threads or _threads_for(network))
        ]
        for thread in self._threads:
            thread.start()

    def member(self) -> Member:
        """The network as one stream sees it."""
        return Member(self)

    def close(self) -> None:
        """Compute what waits, then nothing more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def ask(
        self, kind: Hashable, run: Callable[[list[Tensor]], list[Any]], tensor: Tensor, fits: Callable[[], int]
    ) -> Any:
        """Wait for an answer; what went wrong with this request alone is raised."""
        device = self.network.device
        stream = torch.cuda.current_stream(device) if device.type == 'cuda' else None
        request = _Request((kind, stream), run, tensor, fits, stream)
        with self._changed:
            if self._is_closed:
                raise InputError('the shared network was closed')
            self._waiting.append(request)
            self._changed.notify()
        return request.answer.result()

    def count(self, windows: int) -> None:
        """So many windows take one pass."""
        with self._changed:
            self.batches[windows] += 1

    def images_together(self) -> int:
        """Requests whose images are encoded in one pass; where it is compiled, those of one stream."""
        return 1 if self.network.is_compiled else self._most or MOST

    def windows_together(self, frames: int, image_size: tuple[int, int]) -> int:
        """Windows that are predicted in one pass."""
        network = self.network
        if self._most or network.is_compiled or network.device.type == 'cpu':
            return self._most or 1
        free = free_memory(network.device)
        return windows_together(network.config, frames, image_size, network.dtype, network.chunk, free, MOST)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                together = self._take()
            self._answer(together)

    def _take(self) -> list[_Request]:
        """The oldest request, and those that wait beside it and can share its pass."""
        oldest = self._waiting[0]
        alike = [one for one in self._waiting if one.kind == oldest.kind]
        if len(alike) > 1:
            if oldest.kind not in self._limits:
                self._limits[oldest.kind] = max(1, oldest.fits())
            alike = alike[: self._limits[oldest.kind]]
        for one in alike:
            self._waiting.remove(one)
        return alike

    def _answer(self, requests: Sequence[_Request]) -> None:
        """Together; where memory is short in halves, and after another error each alone: a failure is only its own."""
        try:
            stream = requests[0].stream  # of all: it is part of their kind
            with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
                answers = requests[0].run([one.tensor for one in requests])
        except Exception as error:
            self._answer_in_parts(requests, error)
            return
        for one, answer in zip(requests, answers, strict=True):
            one.answer.set_result(answer)

    def _answer_in_parts(self, requests: Sequence[_Request], error: Exception) -> None:
        count = len(requests)
        if count == 1:
            requests[0].answer.set_exception(error)
            return
        size = 1
        if is_lack_of_memory(error):
            size = count // 2
            with self._changed:
                self._limits[requests[0].kind] = size  # from now on
            if self.network.device.type == 'cuda':
                torch.cuda.empty_cache()
        for start in range(0, count, size):
            self._answer(requests[start : start + size])


class Member:
    """A shared network with the methods of a network of one's own (vggt.StreamingVGGT).

    After a failure its requests are computed apart from those of others until one succeeds: who fails every time would
    else cost the others every time a second pass.
    """

    def __init__(self, owner: SharedNetwork) -> None:
        self._owner = owner
        self._failed = False

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

    def compile(self, frames: int, image_size: tuple[int, int], images: int = 1) -> None:
        """As StreamingVGGT.compile, on the thread that asks: the others go on meanwhile."""
        self.shared.compile(frames, image_size, images)

    def capture(self, frames: int, image_size: tuple[int, int], decoded: Sequence[int]) -> None:
        """As StreamingVGGT.capture, on the thread that asks."""
        self.shared.capture(frames, image_size, decoded)

    def encode(self, images: Tensor) -> Tensor:
        """As StreamingVGGT.encode: images -> [S, P, C]."""

        def run(batch: list[Tensor]) -> list[Any]:
            tokens = self.shared.encode(torch.cat(batch))
            return list(tokens.split([len(one) for one in batch]))

        kind = 'encode', tuple(images.shape[1:]), images.dtype
        return self._ask(kind, run, images, self._owner.images_together)  # type: ignore[no-any-return]

    def predict(
        self, patch_tokens: Tensor, image_size: tuple[int, int], frames: Sequence[int] | None = None
    ) -> VGGTOutput:
        """As StreamingVGGT.predict: [S, P, C] of one window."""
        chosen = None if frames is None else tuple(frames)

        def run(batch: list[Tensor]) -> list[Any]:
            self._owner.count(len(batch))
            output = self.shared.predict_windows(torch.stack(batch), image_size, chosen)
            return [window_of(output, i) for i in range(len(batch))]

        kind = 'predict', tuple(patch_tokens.shape), patch_tokens.dtype, tuple(image_size), chosen
        fits = partial(self._owner.windows_together, len(patch_tokens), image_size)
        return self._ask(kind, run, patch_tokens, fits)  # type: ignore[no-any-return]

    def _ask(
        self, kind: Hashable, run: Callable[[list[Tensor]], list[Any]], tensor: Tensor, fits: Callable[[], int]
    ) -> Any:
        try:
            answer = self._owner.ask((kind, self if self._failed else None), run, tensor, fits)
        except Exception:
            self._failed = True
            raise
        self._failed = False
        return answer


def _threads_for(network: StreamingVGGT) -> int:
    """As many as keep the device busy."""
    if network.device.type != 'cpu':
        return 1
    return max(1, available_cores() // torch.get_num_threads())


def window_of(output: VGGTOutput, index: int) -> VGGTOutput:
    """One window of several, with B = 1."""
    one = slice(index, index + 1)
    taken: dict[str, Any] = {
        name: value[:, one] if name in ROUNDS_FIRST else value[one]
        for name, value in vars(output).items()
        if isinstance(value, Tensor)
    }
    return dataclasses.replace(output, **taken)
