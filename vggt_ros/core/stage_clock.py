"""Where the time of a window goes, stage by stage."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from vggt_ros.core.frame import Frame
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.window import Window


@dataclass(frozen=True)
class StageTimes:
    """Seconds of one window by stage, for the report; not part of any message."""

    prepare_s: float = 0.0  # resize, normalise, copy in
    network_s: float = 0.0
    adjust_s: float = 0.0  # bundle adjustment of what the network says
    align_s: float = 0.0
    map_s: float = 0.0
    loop_s: float = 0.0  # recognise places and look closely at them, wait for the graph


class StageClock:
    """Seconds of one window by stage."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys((stage.name for stage in dataclasses.fields(StageTimes)), 0.0)
        self._since = time.perf_counter()

    @property
    def total_s(self) -> float:
        """Seconds of all stages."""
        return sum(self._spent.values())

    @property
    def times(self) -> StageTimes:
        """What was counted so far."""
        return StageTimes(**self._spent)

    def resume(self) -> None:
        """Begin to count anew; what was counted stays."""
        self._since = time.perf_counter()

    def anticipate(self, anticipate: Callable[[Frame], float], frame: Frame) -> None:
        """Let the network look at a frame; resizing goes to prepare_s, the rest to network_s."""
        self.resume()
        prepare_s = anticipate(frame)
        self._since += prepare_s
        self._add('prepare_s', prepare_s)
        self.stop('network_s')

    def network(self, predict: Callable[[Window], Prediction], window: Window) -> Prediction:
        """The answer of the network; its time, also that before it was asked, is split into the stages before align."""
        self.stop('align_s')
        prediction = predict(window)
        self._since += prediction.prepare_s + prediction.adjust_s
        self._add('prepare_s', prediction.prepare_s)
        self._add('adjust_s', prediction.adjust_s)
        self._add('network_s', prediction.ahead_s)
        self.stop('network_s')
        return prediction

    def stop(self, stage: str) -> None:
        """What passed since the last stop belongs to this stage."""
        now = time.perf_counter()
        self._add(stage, now - self._since)
        self._since = now

    def _add(self, stage: str, seconds: float) -> None:
        self._spent[stage] += seconds
