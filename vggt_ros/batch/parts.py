"""A long recording in parts: workers run the network on runs of windows, one pipeline joins what they say.

Windows overlap, so parts do: the first window of a part holds frames of the last of the part before, and the map places
it by them, as any other. What is split is the network alone, which is most of the work; frames are read once, and
keyframes, map, loops and files come from the same pipeline as ever. Hence the result is that of the unsplit recording.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vggt_ros.core.config import Config, WindowConfig
from vggt_ros.core.errors import VggtRosError
from vggt_ros.core.frame import Frame
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.planner import Plan
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.predictor import LockedIntrinsics, Predictor
from vggt_ros.core.window import Window
from vggt_ros.recorded.source import Source
from vggt_ros.recorded.static_tf import StaticTransforms

WAITING = 2  # parts a worker has before it: one that it computes, one that it goes on with


@dataclass(frozen=True, eq=False)
class Part:
    """Windows that follow one another, for one worker.

    Args:
        windows: in order.
        locked: intrinsics of cameras without a calibration, as the recording's first window gave them.
        is_apart: whether the one window is no part of the stream (Predictor.predict_apart).
    """

    windows: tuple[Window, ...]
    locked: LockedIntrinsics = field(default_factory=dict)
    is_apart: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """What a worker says of a part: a prediction for each window, and the intrinsics locked since."""

    predictions: tuple[Prediction, ...]
    locked: LockedIntrinsics


class Workers:
    """Where parts are computed.

    Args:
        submit: hands a part to the worker with the least to do.
        count: of workers.
        plan: as VggtPredictor.plan, on one of them.
        described_device: what they compute on, in words.
    """

    def __init__(
        self,
        submit: Callable[[Part], Future[Answer]],
        count: int,
        plan: Callable[[WindowConfig], Plan | None] = lambda window: None,
        described_device: str = '',
    ) -> None:
        self.submit, self.count, self.plan, self.described_device = submit, count, plan, described_device


def predict_part(predictor: Predictor, part: Part) -> Answer:
    """What a worker does with a part; it may be of another recording than the last."""
    predictor.reset()
    if isinstance(getattr(predictor, 'locked', None), dict):
        predictor.locked = dict(part.locked)  # type: ignore[attr-defined]
    predict = predictor.predict_apart if part.is_apart else predictor.predict
    predictions = tuple(predict(window) for window in part.windows)
    return Answer(predictions, dict(getattr(predictor, 'locked', {})))


class PartsPredictor:
    """The network, computed elsewhere: windows that were foreseen are there already, others are asked for.

    Args:
        workers: where.
        frames_a_part: new frames in a part, at least.
    """

    def __init__(self, workers: Workers, frames_a_part: int) -> None:
        self._workers, self._frames = workers, frames_a_part
        self.described_device = workers.described_device
        self.plan = workers.plan
        self._gathering: list[Window] = []
        self._waiting: deque[tuple[list[Window], Future[Answer]]] = deque()
        self._locked: LockedIntrinsics = {}
        self._anchor: Future[Answer] | None = None  # of the window that locks the intrinsics of those after it

    @property
    def is_full(self) -> bool:
        """Whether there is enough for all workers to do."""
        return len(self._waiting) >= WAITING * self._workers.count

    def foresee(self, window: Window) -> None:
        """A window that the pipeline will ask for, after those foreseen before."""
        if window.shared == 0:
            self.hand_over()
            self._gathering = [window]
            self._anchor = self.hand_over()
            return
        self._gathering.append(window)
        if sum(len(one.new) for one in self._gathering) >= self._frames:
            self.hand_over()

    def begin_anew(self) -> None:
        """The windows to come are of another map: its first one locks other intrinsics."""
        self.hand_over()
        self._anchor, self._locked = None, {}

    def hand_over(self) -> Future[Answer] | None:
        """Give what is gathered to a worker."""
        if not self._gathering:
            return None
        if self._anchor is not None:
            self._locked = self._anchor.result().locked
            self._anchor = None
        future = self._workers.submit(Part(tuple(self._gathering), self._locked))
        self._waiting.append((self._gathering, future))
        self._gathering = []
        return future

    def predict(self, window: Window) -> Prediction:
        """What the workers say of a window; their errors are raised here."""
        asked = window.key
        for number, (windows, future) in enumerate(self._waiting):
            for i, one in enumerate(windows):
                if one.key == asked:
                    self._forget(number)
                    predictions = future.result().predictions
                    if i == len(windows) - 1:
                        self._waiting.popleft()
                    return predictions[i - len(windows)]
        # A bridge, or a window that was narrowed: the pipeline met what could not be foreseen.
        self._pass_over(window)
        return self._workers.submit(Part((window,), self._locked)).result().predictions[0]

    def predict_apart(self, window: Window) -> Prediction:
        """Frames that are no part of the stream: places looked at for a loop."""
        return self._workers.submit(Part((window,), self._locked, is_apart=True)).result().predictions[0]

    def reset(self) -> None:
        """The pipeline starts a new map; the windows that come were foreseen, too."""

    def _pass_over(self, window: Window) -> None:
        """Forget parts before the one that holds the newest frame of a window."""
        newest = window.frames[-1].key
        for number, (windows, _) in enumerate(self._waiting):
            if any(newest == frame.key for one in windows for frame in one.new):
                self._forget(number)
                return

    def _forget(self, count: int) -> None:
        """Parts before the one at hand will not be asked for any more."""
        for _ in range(count):
            self._waiting.popleft()


class AheadSource:
    """A recording that is read ahead, so that workers know their windows before the pipeline asks for them.

    Args:
        source: the recording.
        config: all settings.
        predictor: told which windows come.
    """

    def __init__(self, source: Source, config: Config, predictor: PartsPredictor) -> None:
        self.path: Path = source.path
        self._source, self._predictor = source, predictor
        self._scout = _Scout(config, predictor)

    @property
    def skipped(self) -> int:
        """Images that could not be decoded so far."""
        return self._source.skipped

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Frame]:
        """The frames; where the recording breaks off, all that were read come before the error."""
        frames, ahead = iter(self._source), deque[Frame]()
        failure: Exception | None = None
        is_over = False
        while True:
            while not is_over and not (ahead and self._predictor.is_full):
                try:
                    frame = next(frames)
                except StopIteration:
                    is_over = True
                except VggtRosError as error:
                    is_over, failure = True, error
                else:
                    ahead.append(frame)
                    self._scout.add_frame(frame)
                if is_over:
                    self._scout.flush()
                    self._predictor.hand_over()
            if not ahead:
                break
            yield ahead.popleft()
        if failure is not None:
            raise failure

    def static_transforms(self) -> StaticTransforms:
        """Fixed frames of the robot."""
        return self._source.static_transforms()

    def close(self) -> None:
        """Free the files."""
        self._source.close()


class _Scout(Pipeline):
    """The front of the pipeline, up to whole windows: the very ones that the pipeline behind it will make."""

    def __init__(self, config: Config, predictor: PartsPredictor) -> None:
        super().__init__(config.with_values({'loop_closure': False}), predictor)
        self._predictor = predictor

    def reset(self) -> None:
        """Stamps went back: what is seen from here on has nothing to do with what was."""
        super().reset()
        self._predictor.begin_anew()

    def _process(self, window: Window) -> Any:
        self._predictor.foresee(window)
