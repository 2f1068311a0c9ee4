"""The blocks of a network compiled one by one: equal ones share what was compiled, so 72 of them cost three."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

MOST_VARIANTS = 64  # of a block: one for each kind and size; torch gives up at 8, which two windows of two sizes reach


class CompiledBlocks:
    """Blocks that run compiled inside `enabled` and as they are elsewhere, each thread for itself.

    What is compiled is made when a size first comes inside `enabled`; elsewhere nothing is ever compiled.

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
        """Run compiled inside; where `when` is false, as around it."""
        before = self._here.is_enabled
        self._here.is_enabled = before or when
        try:
            yield
        finally:
            self._here.is_enabled = before

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Run compiled inside, with room for sizes that were not there before."""
        from torch._dynamo import config  # with it come torch's compiler and sympy: seconds that others need not wait

        with self.enabled(), config.patch(recompile_limit=MOST_VARIANTS):
            yield

    def _wire(self, block: nn.Module, backend: str | Callable[..., object]) -> None:
        here, plain = self._here, block._call_impl
        compiled = torch.compile(plain, backend=backend, dynamic=False)

        def call(*args: Tensor) -> Tensor:
            run = compiled if here.is_enabled else plain
            return run(*args)  # type: ignore[no-any-return]

        block._compiled_call_impl = call  # where nn.Module.compile puts its own


class _Here(threading.local):
    """Of one thread."""

    is_enabled = False
