"""The blocks of a network compiled one by one: equal ones share what was compiled, so 72 of them cost three."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_PLAIN, _RUN, _COMPILE = range(3)
MOST_VARIANTS = 64  # of a block: one for each kind and size; torch gives up at 8, which two windows of two sizes reach


class CompiledBlocks:
    """Blocks that run compiled inside `enabled` and as they are elsewhere, each thread for itself.

    Only inside `compiling` anything is compiled: what torch then finds wanting elsewhere, it runs as it is.

    Args:
        blocks: changed in place.
        backend: of torch.compile.
    """

    def __init__(self, blocks: Iterable[nn.Module], backend: str | Callable[..., object] = 'inductor') -> None:
        self._here = _Here()
        for block in blocks:
            self._wire(block, backend)

    @contextmanager
    def enabled(self, when: bool = True) -> Iterator[None]:
        """Run what is compiled inside; where `when` is false, as around it."""
        with self._set(_RUN if when and self._here.mode == _PLAIN else self._here.mode):
            yield

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Compile inside what is not compiled yet."""
        from torch._dynamo import config  # with it come torch's compiler and sympy: seconds that others need not wait

        with self._set(_COMPILE), config.patch(recompile_limit=MOST_VARIANTS):
            yield

    @contextmanager
    def _set(self, mode: int) -> Iterator[None]:
        before, self._here.mode = self._here.mode, mode
        try:
            yield
        finally:
            self._here.mode = before

    def _wire(self, block: nn.Module, backend: str | Callable[..., object]) -> None:
        here, plain = self._here, block._call_impl
        ways = (plain, torch._dynamo.run(plain), torch.compile(plain, backend=backend, dynamic=False))

        def call(*args: Tensor) -> Tensor:
            return ways[here.mode](*args)  # type: ignore[no-any-return]

        block._compiled_call_impl = call  # where nn.Module.compile puts its own


class _Here(threading.local):
    """Of one thread."""

    mode = _PLAIN
