"""Windows of the sizes that a stream was prepared for: blocks compiled for them, or a CUDA graph of the whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from vggt.captured_call import CapturedCall
from vggt.compiled_blocks import CompiledBlocks
from vggt.errors import CompileError
from vggt.output import VGGTOutput

MOST_GRAPHS = 4  # kinds of windows that may each hold the memory of a CUDA graph
Shape = tuple[int, ...]
Kind = tuple[object, ...]


class PreparedWindows:
    """What was made ahead for some sizes. One thread prepares at a time; others may run windows meanwhile."""

    def __init__(self) -> None:
        # Of scaled images and of patch tokens, that blocks are compiled for.
        self.shapes: frozenset[Shape] = frozenset()
        self.graphs: dict[Kind, CapturedCall] = {}
        self._blocks: CompiledBlocks | None = None
        self._preparing = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self.shapes or self.graphs)

    def form(self, tensor: Tensor) -> AbstractContextManager[None]:
        """Inside, blocks run compiled if they are for what has this shape."""
        if self._blocks is None:
            return nullcontext()
        return self._blocks.enabled(when=tuple(tensor.shape) in self.shapes)

    def compile(
        self,
        shapes: Iterable[Shape],
        blocks: Callable[[], list[nn.Module]],
        run: Callable[[], object],
        backend: str | Callable[..., object],
    ) -> None:
        """Compile the blocks by a run of such shapes.

        Raises:
            CompileError: the compiler is missing or failed.
        """
        wanted = frozenset(shapes)
        with self._preparing:
            if wanted <= self.shapes:
                return
            try:
                self._blocks = self._blocks or CompiledBlocks(blocks(), backend)
                with self._blocks.compiling():
                    run()
            except Exception as error:  # torch's own errors, those of a C compiler, and lack of memory
                raise CompileError(f'the network could not be compiled: {_in_short(error)}') from error
            self.shapes |= wanted

    def capture(
        self,
        call: Callable[[Tensor], VGGTOutput],
        kind_of: Callable[[Tensor], Kind],
        examples: Callable[[], tuple[Tensor, Tensor]],
    ) -> None:
        """Make a CUDA graph of a call.

        Args:
            call: from patch tokens to answers.
            kind_of: what tells the windows apart that it holds for.
            examples: two windows' patch tokens.

        Raises:
            CompileError: no GPU, no room, or no graph that gives the same.
        """
        with self._preparing:
            try:
                example, other = examples()
                kind = kind_of(example)
                if kind in self.graphs:
                    return
                if len(self.graphs) == MOST_GRAPHS:
                    raise CompileError(f'there are {MOST_GRAPHS} CUDA graphs of other windows already')
                self.graphs[kind] = CapturedCall(call, example, other)
            except Exception as error:  # torch's own errors, and lack of memory
                raise CompileError(f'no CUDA graph could be made of a window: {_in_short(error)}') from error

    def release(self) -> None:
        """Hand back the memory of all CUDA graphs."""
        self.graphs = {}

    def forget(self) -> None:
        """Run all sizes as they are."""
        self.shapes = frozenset()
        self.release()


def _in_short(error: Exception) -> str:
    """A compiler can fill pages."""
    return ' '.join((f'{type(error).__name__}:', *str(error).split()[:40]))
