"""Foresight: the network begins with the next window while the host still has the last one in hand."""

from __future__ import annotations

import contextvars
import dataclasses
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from vggt_ros.core.config import WindowConfig
from vggt_ros.core.frame import Frame
from vggt_ros.core.planner import Plan
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.window import Window

if TYPE_CHECKING:
    from vggt_ros.core.predictor import Predictor

T = TypeVar('T')
_Work = queue.SimpleQueue[Callable[[], None] | None]


@dataclass(frozen=True, eq=False)
class _Begun:
    """A window that the network was given before anybody asked for it.

    Args:
        window: the window.
        answer: its prediction, and when the network began and was done.
    """

    window: Window
    answer: Future[tuple[Prediction, float, float]]

    def holds(self, frame: Frame) -> bool:
        """Whether the frame is in it."""
        return any(frame is one for one in self.window.frames)


class Foresight:
    """A predictor whose network runs on a device of its own: it can begin with a window before it is asked for it.

    All that the network does runs on one thread, in the order in which it is asked, so what was begun changes nothing
    but when its answer is there. A window that comes otherwise than it was foreseen is computed then, and what had been
    begun is dropped. On a processor this would only take time from what is done meanwhile.

    Args:
        predictor: of the network; touched by that thread alone.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._begun: _Begun | None = None
        self._work: _Work = queue.SimpleQueue()
        in_context = contextvars.copy_context()  # what it logs is said by the node that made it
        # Daemonic, as a network that hangs must not keep the process; it ends with the last user of this.
        threading.Thread(target=in_context.run, args=(_serve, self._work), name='vggt_network', daemon=True).start()
        weakref.finalize(self, self._work.put, None)

    def begin(self, window: Window) -> None:
        """Begin with the window that will probably be asked for next; never waits."""
        self._drop()
        predict = self._predictor.predict

        def timed() -> tuple[Prediction, float, float]:
            begun = time.perf_counter()
            return predict(window), begun, time.perf_counter()

        self._begun = _Begun(window, self._hand_over(timed))

    def predict(self, window: Window) -> Prediction:
        """Depth and cameras of a window; errors as the predictor's."""
        if self._begun is None or self._begun.window.key != window.key:
            self._drop()
            return self._hand_over(lambda: self._predictor.predict(window)).result()
        answer, self._begun = self._begun.answer, None
        asked = time.perf_counter()
        prediction, begun, done = answer.result()
        return dataclasses.replace(prediction, ahead_s=max(0.0, min(asked, done) - begun))

    def predict_apart(self, window: Window) -> Prediction:
        """The same for frames that are no part of the stream; behind a window that was begun."""
        return self._hand_over(lambda: self._predictor.predict_apart(window)).result()

    def anticipate(self, frame: Frame) -> float:
        """Let the network look at a frame before its window is complete, where it is not at that already."""
        anticipate: Callable[[Frame], float] | None = getattr(self._predictor, 'anticipate', None)
        if anticipate is None or (self._begun is not None and self._begun.holds(frame)):
            return 0.0
        return self._hand_over(lambda: anticipate(frame)).result()

    def warm_up(self, window: WindowConfig, budget_s: float = 0.0) -> Plan | None:
        """Make the network ready, on the thread that runs it."""
        warm_up: Callable[..., Plan | None] | None = getattr(self._predictor, 'warm_up', None)
        return None if warm_up is None else self._hand_over(lambda: warm_up(window, budget_s)).result()

    def reset(self) -> None:
        """Forget what was kept of earlier windows."""
        self._drop()
        self._hand_over(self._predictor.reset).result()

    @property
    def locked(self) -> dict[int, Any]:
        """Intrinsics of cameras that are not calibrated (VggtPredictor)."""
        return self._predictor.locked  # type: ignore[attr-defined, no-any-return]

    @locked.setter
    def locked(self, locked: dict[int, Any]) -> None:
        self._predictor.locked = locked  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)  # its network and device, for whoever reports them

    def _drop(self) -> None:
        if self._begun is not None:
            self._begun.answer.cancel()
            self._begun = None

    def _hand_over(self, work: Callable[[], T]) -> Future[T]:
        answer: Future[T] = Future()
        self._work.put(lambda: _answer(answer, work))
        return answer


def _serve(work: _Work) -> None:
    while (one := work.get()) is not None:
        one()
        del one  # it holds a window's pictures


def _answer(answer: Future[T], work: Callable[[], T]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(work())
    except BaseException as error:
        answer.set_exception(error)
