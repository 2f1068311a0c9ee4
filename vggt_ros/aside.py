"""Aside: one thing at a time on a second thread, beside whoever handed it over."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable


class Aside:
    """Results go out here while the next window is computed: the one waits for a device, the other for nobody.

    One thing is under way at most: who hands over the next waits for the last. So what is touched by nothing but what
    is handed over, and by its owner after `wait`, needs no lock. The thread ends with the process if nobody closes it.

    Args:
        name: of the thread; it logs as whoever made this does.
    """

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._error: BaseException | None = None
        in_context = contextvars.copy_context()
        self._thread = threading.Thread(target=in_context.run, args=(self._run,), name=name, daemon=True)

    def hand_over(self, work: Callable[[], None]) -> None:
        """Have it done; `wait` tells how it went.

        Raises:
            Exception: what the last thing raised, if nobody waited for it; the new one is not begun then.
        """
        self.wait()
        if self._thread.ident is None:
            self._thread.start()
        self._is_idle.clear()
        self._work.put(work)

    def wait(self) -> None:
        """Until nothing is under way.

        Raises:
            Exception: what the last thing raised; once.
        """
        self._is_idle.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Let the thread end behind what is under way."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except BaseException as error:
                self._error = error
            finally:
                del work  # it holds a window's pictures
                self._is_idle.set()
