"""A call of fixed shape as one CUDA graph: the host launches all of its kernels at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from vggt.errors import CompileError
from vggt.output import VGGTOutput

WARM_UPS = 3  # before the capture: tables, workspaces and algorithms are there then
TOLERANCE = 1e-2  # of the check: the kernels are the same, so a graph that is right is far closer

T = TypeVar('T')


class CapturedCall:
    """What was captured runs on tensors of its own; what goes in and comes out is copied, so answers are the caller's.

    Calls of several threads and streams follow each other. Memory that the call used is held for it alone.

    Args:
        call: to capture. It must do the same whatever the values are, never wait for the device, and read nothing but
            its argument and what outlives the graph.
        example: a tensor on the GPU to capture it with.
        other: of the same shape with other values, with which the graph is held against the call.

    Raises:
        CompileError: it is not a GPU, or the graph does not give what the call gives.
        RuntimeError: it could not be captured.
    """

    def __init__(self, call: Callable[[Tensor], VGGTOutput], example: Tensor, other: Tensor) -> None:
        self._device = example.device
        if self._device.type != 'cuda':
            raise CompileError(f'there are none on a {self._device.type}')
        self._input = example.clone()
        self._lock = threading.Lock()
        self._done = torch.cuda.Event()
        self._graph, self._output = record(lambda: call(self._input), self._device)
        self._done.record(torch.cuda.current_stream(self._device))
        self._check(call(other), self(other))

    def __call__(self, tensor: Tensor) -> VGGTOutput:
        """What the call gives for a tensor of that shape."""
        current = torch.cuda.current_stream(self._device)
        with self._lock:
            current.wait_event(self._done)  # another stream may still read what is written now
            self._input.copy_(tensor)
            self._graph.replay()
            own = {name: value.clone() for name, value in _tensors(self._output).items()}
            self._done.record(current)
        return replace(self._output, **own)  # type: ignore[arg-type]

    @staticmethod
    def _check(expected: VGGTOutput, found: VGGTOutput) -> None:
        values = _tensors(found)
        for name, value in _tensors(expected).items():
            if not torch.isclose(values[name], value, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True).all():
                raise CompileError(f'the CUDA graph of a window gives another {name} than the window itself')


def record(call: Callable[[], T], device: torch.device) -> tuple[torch.cuda.CUDAGraph, T]:
    """A call as a graph to replay, and what it gives, which every replay writes anew.

    Raises:
        RuntimeError: it could not be captured.
    """
    current = torch.cuda.current_stream(device)
    # cuBLAS keeps a workspace for each stream: on one of its own no kernel outside of the graph shares that
    own = torch.cuda.Stream(device)
    own.wait_stream(current)
    with torch.cuda.stream(own):
        for _ in range(WARM_UPS):
            call()
    current.wait_stream(own)
    graph = torch.cuda.CUDAGraph()
    # of this thread alone: others go on giving the device pictures
    with torch.cuda.graph(graph, stream=own, capture_error_mode='thread_local'):
        output = call()
    return graph, output


def _tensors(output: VGGTOutput) -> dict[str, Tensor]:
    return {name: value for name, value in vars(output).items() if isinstance(value, Tensor)}
