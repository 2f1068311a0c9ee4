"""Pictures to the device of the network, a stream of its own for that, and what it answers to the host in one copy."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

import numpy as np
import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On a device; to a GPU by way of pinned memory, and the call does not wait."""
    if device.type == 'cuda' and tensor.device.type == 'cpu':
        tensor = tensor.pin_memory()  # only from there is a copy beside other work
    return tensor.to(device, non_blocking=True)


def upload(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """A picture on a device, as to_device; the array is read before the call returns, and may be read-only.

    The pinned memory is taken from torch's own store, which takes it back when the copy has ended.
    """
    staged = torch.empty(image.shape, dtype=torch.uint8, pin_memory=device.type == 'cuda')
    np.copyto(staged.numpy(), image)
    return staged.to(device, non_blocking=True)


def download(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the host that is under way: not to be read before an event of this stream behind it has come.

    That of to_host is one, on this stream or one that has waited for it. On a processor the tensor itself.
    """
    if tensor.device.type == 'cpu':
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def to_host(tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Arrays of the same shapes, float32; on a processor the tensors themselves where they are that already.

    A GPU gathers them and copies once, into pinned memory, and the call waits for that, asleep, but not for what others
    give the same stream meanwhile. The memory is taken from torch's own store and goes back to it with the last array.
    """
    if all(one.device.type == 'cpu' for one in tensors):
        return [one.float().numpy() for one in tensors]
    gathered = gather(tensors)
    host = download(gathered)
    arrived = torch.cuda.Event(blocking=True)  # without it the wait keeps a core of the robot busy
    arrived.record(torch.cuda.current_stream(gathered.device))
    arrived.synchronize()
    return spread(host, [one.shape for one in tensors])


def gather(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """[N] float32 all of them, one after the other, on their device."""
    return torch.cat([one.reshape(-1).float() for one in tensors])


def spread(gathered: torch.Tensor, shapes: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """The parts of gathered tensors in their shapes: views of its memory."""
    parts = gathered.split([math.prod(shape) for shape in shapes])
    return [part.view(*shape).numpy() for part, shape in zip(parts, shapes, strict=True)]


@contextlib.contextmanager
def beside(
    device: torch.device,
    *,
    enabled: bool = True,
    stream: torch.cuda.Stream | None = None,
    after: torch.cuda.Event | None = None,
) -> Iterator[Callable[[torch.Tensor], None]]:
    """What a GPU is given inside runs on a second stream, beside what the current one still computes.

    What the current stream is given afterwards waits for it; the host never does. Inside, only what comes from the host
    or was made inside may be read, and what was there already: weights, or what `after` tells of. On a processor, or
    where not enabled, nothing is different.

    Args:
        device: of the network.
        enabled: else the current stream takes it.
        stream: the second one; None: that of pictures.
        after: what it waits for first.

    Yields:
        To be called with every tensor that is used after the block: else its memory could be given away too early.
    """
    if device.type != 'cuda' or not enabled:
        yield _nothing
        return
    main, side = torch.cuda.current_stream(device), stream or picture_stream(device)
    with torch.cuda.stream(side):
        try:
            if after is not None:
                side.wait_event(after)
            yield partial(_hand_over, main)
        finally:
            main.wait_stream(side)


def apart(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """What a GPU is given inside waits for nothing on other streams, such as a window that is computed.

    So it may read only what the host knows to be done, and what comes out is for the host.
    """
    return torch.cuda.stream(_cloud_stream(device)) if device.type == 'cuda' else contextlib.nullcontext()


@lru_cache(maxsize=8)
def _cloud_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1)


@lru_cache(maxsize=8)
def picture_stream(device: torch.device) -> torch.cuda.Stream:
    """Of a GPU, for all threads: a picture's kernels are few and go before those of a window."""
    return torch.cuda.Stream(device, priority=-1)


def _hand_over(stream: torch.cuda.Stream, tensor: torch.Tensor) -> None:
    with torch.inference_mode():  # torch counts this as a change, which it refuses elsewhere for results of inference
        tensor.record_stream(stream)


def _nothing(_: torch.Tensor) -> None:
    pass
