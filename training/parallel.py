"""Several processes on one machine share the parameters and add up their gradients.

On a CPU that is shared with other work a thread waits at every barrier for the one that the scheduler has put aside:
two threads needed 1.45 to 1.8 s for a step that one thread did in 2.1 to 2.3. Two processes meet once a step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from vggt_ros.core.memory import keep_freed_memory

KEPT_BYTES = 2**31 - 1  # of freed memory, what mallopt takes at most: a step's activations; saves 5 to 14 % of a step
GradientFunction = Callable[[Any, int, int], dict[str, float]]


class GradientWorkers:
    """Context in which `gradients` runs one step's share in every process and leaves the mean in the module.

    Args:
        module: its parameters move to shared memory; the caller's optimiser goes on updating them in place.
        function: called as function(module, step, rank); must call backward and return numbers for the log. It is
            pickled to the workers.
        processes: this one included.
        threads: of each worker.
    """

    def __init__(self, module: nn.Module, function: GradientFunction, processes: int, threads: int) -> None:
        self.module = module
        self.function = function
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self._pipes: list[Any] = []
        self._workers: list[Any] = []
        self._gradients: list[Tensor] = []
        if processes > 1:
            module.share_memory()
            context = multiprocessing.get_context('spawn')
            total = sum(p.numel() for p in self.trained)
            for rank in range(1, processes):
                gradient = torch.zeros(total).share_memory_()
                here, there = context.Pipe()
                worker = context.Process(
                    target=_work, args=(module, function, rank, gradient, there, threads, os.getpid()), daemon=True
                )
                worker.start()
                self._pipes.append(here)
                self._workers.append(worker)
                self._gradients.append(gradient)

    def __enter__(self) -> GradientWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, worker in zip(self._pipes, self._workers, strict=True):
            with suppress(OSError):  # a worker that died has closed its end
                pipe.send(None)
            worker.join(timeout=60)

    def gradients(self, step: int) -> dict[str, float]:
        """Mean gradient of all processes in module's .grad, and the mean of the returned numbers.

        Raises:
            RuntimeError: a worker died; its own traceback stands above.
        """
        try:
            for pipe in self._pipes:
                pipe.send(step)
            results = [self.function(self.module, step, 0)]
            results += [pipe.recv() for pipe in self._pipes]
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise RuntimeError('a training process died; its own traceback stands above') from error
        for gradient in self._gradients:
            parts = gradient.split([p.numel() for p in self.trained])
            for parameter, part in zip(self.trained, parts, strict=True):
                if parameter.grad is not None:  # what this process did not reach, no process did
                    parameter.grad += part.view_as(parameter)
        if len(results) > 1:
            for parameter in self.trained:
                if parameter.grad is not None:
                    parameter.grad /= len(results)
        return {name: sum(r[name] for r in results) / len(results) for name in results[0]}


def _work(
    module: nn.Module, function: GradientFunction, rank: int, gradient: Tensor, pipe: Any, threads: int, parent: int
) -> None:
    if hasattr(os, 'setsid'):
        os.setsid()  # Ctrl-C is for the loop alone: it ends after a step, and its workers then
    keep_freed_memory(KEPT_BYTES, KEPT_BYTES)
    torch.set_num_threads(threads)
    trained = [p for p in module.parameters() if p.requires_grad]
    while True:
        while not pipe.poll(5):
            if os.getppid() != parent:  # the parent was killed without a word
                return
        step = pipe.recv()
        if step is None:
            return
        for parameter in trained:
            parameter.grad = None
        numbers = function(module, step, rank)
        offset = 0
        for parameter in trained:
            span = gradient[offset : offset + parameter.numel()]
            offset += parameter.numel()
            if parameter.grad is None:
                span.zero_()
            else:
                span.copy_(parameter.grad.flatten())
        pipe.send(numbers)
