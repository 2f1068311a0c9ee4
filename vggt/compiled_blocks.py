"""The blocks of a network compiled one by one: equal ones share what was compiled, so 72 of them cost three."""

from __future__ import annotations

import threading
import weakref
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
        plain = nn.Module._call_impl
        self._ways = (plain, torch._dynamo.run(plain), torch.compile(plain, backend=backend, dynamic=False))
        for block in blocks:
            block._compiled_call_impl = self._call_of(weakref.ref(block))  # where nn.Module.compile puts its own

    @contextmanager
    def enabled(self, when: bool = True) -> Iterator[None]:
        """Run what is compiled inside; where `when` is false, as around it."""
        with self._set(_RUN if when and self._here.mode == _PLAIN else self._here.mode):
            yield

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Compile inside what is not compiled yet."""
        with self._set(_COMPILE), torch._dynamo.config.patch(cache_size_limit=MOST_VARIANTS):
            yield

    @contextmanager
    def _set(self, mode: int) -> Iterator[None]:
        before, self._here.mode = self._here.mode, mode
        try:
            yield
        finally:
            self._here.mode = before

    def _call_of(self, block: weakref.ref[nn.Module]) -> Callable[..., Tensor]:
        """A block's call; it does not keep the block, whose memory must be free at once when a network goes."""
        here, ways = self._here, self._ways

        def call(*args: Tensor) -> Tensor:
            return ways[here.mode](block(), *args)  # type: ignore[arg-type,no-any-return]

        return call


class _Here(threading.local):
    """Of one thread."""

    mode = _PLAIN
