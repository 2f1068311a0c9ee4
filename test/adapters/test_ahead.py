"""Decoding ahead: frames keep their order, errors their place, files their thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from vggt_ros.recorded.ahead import FRAMES, ahead, all_ahead

PATIENCE_S = 30.0


def test_the_next_are_begun_while_the_first_is_looked_at() -> None:
    begun = [threading.Event() for _ in range(20)]
    taken = ahead(one.set for one in begun)
    assert next(taken) is None
    assert all(one.wait(PATIENCE_S) for one in begun[: FRAMES + 1])
    assert not any(one.is_set() for one in begun[FRAMES + 1 :])
    assert len(list(taken)) == 19
    assert all(one.is_set() for one in begun)


def test_results_come_in_order_and_an_error_behind_what_came_before_it() -> None:
    def task(i: int) -> int:
        if i == 6:
            raise ValueError('the seventh')
        return i

    seen: list[int] = []
    with pytest.raises(ValueError, match='the seventh'):
        seen.extend(ahead((lambda i=i: task(i)) for i in range(9)))
    assert seen == list(range(6))


def test_where_the_file_breaks_off_all_before_it_comes_first() -> None:
    def tasks() -> Iterator[Callable[[], int]]:
        yield from ((lambda i=i: i) for i in range(3))
        raise OSError('breaks off')

    seen: list[int] = []
    with pytest.raises(OSError, match='breaks off'):
        seen.extend(ahead(tasks()))
    assert seen == [0, 1, 2]


def test_tasks_are_taken_on_the_callers_thread_and_run_on_another() -> None:
    taken, ran = set(), set()

    def tasks() -> Iterator[Callable[[], None]]:
        for _ in range(9):
            taken.add(threading.get_ident())
            yield lambda: ran.add(threading.get_ident())

    list(ahead(tasks()))
    assert taken == {threading.get_ident()}
    assert len(ran) == 1
    assert ran != taken


def test_items_that_are_made_ahead_are_the_same_and_none_is_lost() -> None:
    assert list(all_ahead(iter([None, 0, 'x', *range(30)]))) == [None, 0, 'x', *range(30)]
    assert list(all_ahead(iter([]))) == []


def test_who_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    frames = all_ahead(iter(range(100)))
    assert [next(frames) for _ in range(3)] == [0, 1, 2]
    frames.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
