"""Decoding ahead: the next few frames of a recording are decoded while the pipeline is at the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from typing import TypeVar

T = TypeVar('T')

FRAMES = 4  # of a stride, as a window is computed while the next one's new frames are decoded


def ahead(tasks: Iterable[Callable[[], T]], count: int = FRAMES) -> Iterator[T]:
    """What the tasks return, in their order; `count` of them are begun before they are asked for.

    They run one after the other on a thread of their own. What gives the tasks is iterated on the caller's thread, a
    file of sqlite for one belongs to that.

    Args:
        tasks: where this raises, what was begun before comes first; where a task raises, what came before it.
        count: how many.
    """
    thread = ThreadPoolExecutor(1, 'vggt_reader')
    given, is_open, failure = iter(tasks), True, None
    begun: deque[Future[T]] = deque()
    try:
        while is_open or begun:
            while is_open and len(begun) <= count:
                try:
                    begun.append(thread.submit(next(given)))
                except StopIteration:
                    is_open = False
                except Exception as error:
                    is_open, failure = False, error
            if begun:
                yield begun.popleft().result()
        if failure is not None:
            raise failure
    finally:
        thread.shutdown(cancel_futures=True)


def all_ahead(items: Iterator[T], count: int = FRAMES) -> Iterator[T]:
    """The same items, the next `count` of which are made on another thread: for what nobody else touches meanwhile."""
    end = object()
    for item in ahead(repeat(lambda: next(items, end)), count):
        if item is end:
            return
        yield item  # type: ignore[misc]
