"""The mailbox: who is slower than the camera gets the newest messages, evenly spaced."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from vggt_ros.live.mailbox import Mailbox


class Clock:
    """A steady clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def put_at(mailbox: Mailbox[float], clock: Clock, times: np.ndarray) -> None:
    for clock.now in times:
        mailbox.put(clock.now)


def test_a_taker_that_keeps_up_gets_every_message_in_order(clock: Clock) -> None:
    mailbox: Mailbox[float] = Mailbox(4, clock)
    taken = []
    for second in range(10):
        put_at(mailbox, clock, np.array([second, second + 0.5]))
        taken += [letter.message for letter in mailbox.take(0.0)]
    assert taken == [0.5 * i for i in range(20)]
    assert (mailbox.received, mailbox.dropped) == (20, 0)


def test_the_newest_message_always_wins(clock: Clock) -> None:
    mailbox: Mailbox[float] = Mailbox(4, clock)
    for count in (5, 7, 16, 17, 300):
        times = clock.now + np.arange(1, count + 1) / 30.0
        put_at(mailbox, clock, times)
        letters = mailbox.take(0.0)
        assert len(letters) == 4
        assert letters[-1].message == times[-1]
        assert [letter.message for letter in letters] == sorted(letter.message for letter in letters)


def test_messages_are_evenly_spaced_since_the_last_one_taken(clock: Clock) -> None:
    mailbox: Mailbox[float] = Mailbox(4, clock)
    put_at(mailbox, clock, np.array([0.0]))
    mailbox.take(0.0)
    put_at(mailbox, clock, np.arange(1, 301) / 30.0)  # ten seconds at 30 Hz, while one window was worked on
    gaps = np.diff([0.0, *(letter.message for letter in mailbox.take(0.0))])
    # Of 16 kept messages the nearest to each quarter is at most half their spacing away; spacing may be 2/16 of 10 s.
    assert gaps == pytest.approx(2.5, abs=2 * 10 / 16)


def test_few_extra_messages_are_thinned_to_distinct_ones(clock: Clock) -> None:
    mailbox: Mailbox[float] = Mailbox(4, clock)
    put_at(mailbox, clock, np.array([1.0, 1.001, 1.002, 1.003, 9.0]))
    assert len({letter.message for letter in mailbox.take(0.0)}) == 4


def test_memory_is_bounded_while_nobody_takes(clock: Clock) -> None:
    mailbox: Mailbox[float] = Mailbox(4, clock)
    put_at(mailbox, clock, np.arange(10_000) / 30.0)
    assert mailbox.received - mailbox.dropped == 4 * Mailbox.SPARE
    assert mailbox.peek_first_arrival() == 0.0
    mailbox.clear()
    assert mailbox.take(0.0) == []
    assert mailbox.cleared == 4 * Mailbox.SPARE


def test_what_is_dropped_and_handed_out_adds_up(clock: Clock) -> None:
    mailbox: Mailbox[float] = Mailbox(3, clock)
    handed_out = 0
    for burst in (1, 2, 40, 3, 4):
        put_at(mailbox, clock, clock.now + np.arange(1, burst + 1) / 10)
        handed_out += len(mailbox.take(0.0))
    assert handed_out + mailbox.dropped == mailbox.received == 50


def test_a_waiting_taker_is_woken() -> None:
    mailbox: Mailbox[int] = Mailbox(4)
    threading.Timer(0.05, mailbox.wake).start()
    start = time.monotonic()
    assert mailbox.take(10.0) == []
    assert time.monotonic() - start < 5.0
    threading.Timer(0.05, mailbox.put, (7,)).start()
    assert [letter.message for letter in mailbox.take(10.0)] == [7]
