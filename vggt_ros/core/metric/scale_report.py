"""ScaleReport: how far the scale of the output is known, as it travels with each update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class ScaleState(Enum):
    """How far the scale is known."""

    NONE = 'none'  # nobody was asked: lengths are in the unit of the first window
    FIXED = 'fixed'  # given
    WAITING = 'waiting'  # too few windows agree as yet
    LOCKED = 'locked'  # lengths are metres
    DOUBTED = 'doubted'  # was locked; what comes now disagrees, so the last good value is held


@dataclass(frozen=True)
class ScaleReport:
    """The scale as it stands, for the diagnostics and the summary.

    Args:
        source, state: of the scale.
        factor: output units per map unit; metres where is_metric.
        spread: relative, of what one window says, one standard deviation; NaN without any.
        error: relative, of the factor, one standard deviation; NaN without any.
        observations, agreeing: windows remembered, and those of them that agree.
        silent: windows that said nothing, in all.
        reason: why the last window said nothing, or why the scale is doubted; empty where all is well.
        is_conflict: whether the reason is that sensors contradict each other.
    """

    source: str = 'none'
    state: ScaleState = ScaleState.NONE
    factor: float = 1.0
    spread: float = math.nan
    error: float = math.nan
    observations: int = 0
    agreeing: int = 0
    silent: int = 0
    reason: str = ''
    is_conflict: bool = False

    @property
    def is_metric(self) -> bool:
        """Whether lengths are metres."""
        return self.state in (ScaleState.FIXED, ScaleState.LOCKED)

    @property
    def is_unknown(self) -> bool:
        """Whether metres were asked for and are not known."""
        return self.state in (ScaleState.WAITING, ScaleState.DOUBTED)

    def describe(self) -> str:
        """One sentence for people."""
        if self.state is ScaleState.NONE:
            return 'unit of the first window, not metres'
        if self.state is ScaleState.FIXED:
            return 'metres, by the factor given'
        if self.state is ScaleState.LOCKED:
            return f'metres, from {self.source}'
        why = self.reason or f'{self.agreeing} of {self.observations} windows agree'
        if self.state is ScaleState.DOUBTED:
            return f'scale from {self.source} held, not believed: {why}'
        return f'not metres yet, waiting for {self.source}: {why}'
