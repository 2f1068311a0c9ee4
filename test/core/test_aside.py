"""What is done aside: one thing at a time, in order, and nothing that goes wrong there is lost."""

from __future__ import annotations

import logging
import threading

import pytest

from vggt_ros.aside import Aside

PATIENCE_S = 30.0


def test_the_owner_goes_on_at_once_and_one_thing_is_under_way_at_most() -> None:
    aside, gate, done = Aside('aside'), threading.Event(), []

    def slow() -> None:
        assert gate.wait(PATIENCE_S)
        done.append('slow')

    aside.hand_over(slow)
    assert done == []  # the owner is not held up
    second = threading.Thread(target=aside.hand_over, args=(lambda: done.append('next'),))
    second.start()
    second.join(0.05)
    assert second.is_alive()  # but for the next thing it waits
    gate.set()
    second.join(PATIENCE_S)
    aside.wait()
    assert done == ['slow', 'next']
    aside.close()


def test_what_goes_wrong_is_raised_once_where_it_is_waited_for() -> None:
    aside = Aside('aside')
    aside.hand_over(lambda: 1 / 0)  # type: ignore[arg-type, func-returns-value]
    with pytest.raises(ZeroDivisionError):
        aside.wait()
    aside.wait()
    done: list[str] = []
    aside.hand_over(lambda: done.append('after'))
    aside.wait()
    assert done == ['after']
    aside.close()


def test_it_logs_in_the_context_of_who_made_it(caplog: pytest.LogCaptureFixture) -> None:
    from contextvars import ContextVar

    speaker: ContextVar[str] = ContextVar('speaker', default='nobody')
    token = speaker.set('robot_1')
    aside = Aside('aside')
    speaker.reset(token)
    aside.hand_over(lambda: logging.getLogger('vggt_ros').warning('%s speaks', speaker.get()))
    aside.wait()
    assert 'robot_1 speaks' in caplog.text
    aside.close()


def test_a_closed_one_ends_behind_what_is_under_way() -> None:
    aside, done = Aside('closing'), []
    aside.hand_over(lambda: done.append(threading.current_thread()))
    aside.close()
    aside.wait()
    done[0].join(PATIENCE_S)
    assert not done[0].is_alive()
