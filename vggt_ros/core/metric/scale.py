"""How long a unit of the map is in metres: a robust estimate over windows that says when it may be believed.

Each window measures the length of its own unit once (odometry_scale, depth_scale, floor_scale, baseline_scale); its
place in the map turns that into metres per map unit, which should be the same for all windows. What agrees is averaged,
what does not is refused and counted, and where too much does not, the scale is not believed: a source that is wrong by
a factor of two for a third of the time or more is told of, not followed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from vggt_ros.core.alignment import weighted_median
from vggt_ros.core.config import ScaleConfig
from vggt_ros.core.metric.scale_report import ScaleReport, ScaleState

MIN_AGREEING = 2 / 3  # of the windows remembered; with fewer, nobody knows which side lies
AGREE_SPREADS = 2.5  # times scale_max_spread: an observation further off than this does not agree
DOUBT_SPREADS = 1.5  # times scale_max_spread: a locked scale is doubted above this, so that it does not flicker
SIGMA_FLOOR = 0.01  # of one observation: windows share frames and the network's bias, so none counts for thousands
SETTLED = 0.5  # of its standard deviation: a factor this near to the mean of all windows is left alone
SLEW = 0.005  # largest change of log scale a window: a hundredth of the speed, below the noise of an odometry
SEAM_SIGMA = 0.01  # of the log scale that one window carries to the next: smooth 3 % in depth make 0.6 % (trajectory)
MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class Measurement:
    """What one window says: the log of the metres in its own unit, and the standard deviation of that."""

    log_metres: float
    sigma: float


@dataclass(frozen=True)
class NoEvidence:
    """Why a window says nothing of metres.

    Args:
        reason: for the user, in words.
        is_conflict: whether sensors contradict each other, instead of there being nothing to see.
    """

    reason: str
    is_conflict: bool = False


@dataclass(frozen=True)
class Estimate:
    """What the windows remembered say together.

    Args:
        log_scale: mean of those that agree.
        spread: one standard deviation of an observation, robust.
        error: one standard deviation of log_scale.
        count, agreeing: windows remembered, and those of them within the tolerance of their median.
    """

    log_scale: float
    spread: float
    error: float
    count: int
    agreeing: int


class ScaleEstimator:
    """Robust mean of the observations of the last windows."""

    def __init__(self, config: ScaleConfig) -> None:
        self._observations: deque[tuple[float, float]] = deque(maxlen=config.scale_horizon)
        self.tolerance = AGREE_SPREADS * config.scale_max_spread

    def __len__(self) -> int:
        return len(self._observations)

    def add(self, log_scale: float, sigma: float) -> None:
        """Remember what a window said: log of metres per map unit, and its standard deviation."""
        self._observations.append((log_scale, math.hypot(sigma, SIGMA_FLOOR)))

    def clear(self) -> None:
        """Forget everything."""
        self._observations.clear()

    def estimate(self, last: int | None = None) -> Estimate | None:
        """What the windows remembered say together, or only the last so many; None without any."""
        seen = np.array(self._observations)[-last if last else 0 :]
        if not len(seen):
            return None
        weight = 1 / seen[:, 1] ** 2
        median = weighted_median(seen[:, 0], weight)
        agrees = np.abs(seen[:, 0] - median) < self.tolerance
        values, weight = seen[agrees, 0], weight[agrees]
        mean = float(weight @ values / weight.sum())
        spread = MAD_TO_SIGMA * float(np.median(np.abs(seen[:, 0] - median)))
        # of equal weights this is spread / sqrt(n)
        error = max(spread, SIGMA_FLOOR) * math.sqrt(float(weight @ weight)) / float(weight.sum())
        return Estimate(mean, spread, error, len(seen), int(agrees.sum()))


class ScaleTracker:
    """Observations in, one factor out: it locks when enough windows agree, then follows them slowly, never in jumps.

    Once locked it stays within what it was locked to: evidence that has moved away by more than the tolerance, or of
    which more than a third disagrees, makes the scale DOUBTED and the factor stands still. A new map starts anew.
    """

    def __init__(self, config: ScaleConfig) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        """A new map has a unit of its own: nothing is known of it."""
        self._estimator = ScaleEstimator(self.config)
        self._log_scale = math.log(self.config.factor)
        self._estimate: Estimate | None = None
        self._variance = 0.0  # of the log scale of the window before, against the mean of all
        self._silent, self._reason, self._is_conflict = 0, '', False
        named = {'none': ScaleState.NONE, 'fixed': ScaleState.FIXED}
        self._state = named.get(self.config.scale_source, ScaleState.WAITING)

    @property
    def factor(self) -> float:
        """Output units per map unit."""
        return math.exp(self._log_scale)

    @property
    def is_measured(self) -> bool:
        """Whether observations are wanted."""
        return self.config.is_measured

    def steer(self, measurement: Measurement | NoEvidence, units_per_window_unit: float) -> float:
        """The scale of a window's place, as its seam and the evidence have it together.

        Seams hand the scale on from window to window, and their small errors add up. What the evidence says of a window
        errs more, but does not add up; a filter of one state weighs the two. Evidence that does not agree is left out,
        and a window is changed by SLEW at most.

        Args:
            measurement: metres in a unit of the window, or why it cannot tell.
            units_per_window_unit: map units in a unit of the window, after its seam.

        Source: Kalman, A New Approach to Linear Filtering and Prediction Problems, 1960, for a random walk.
        """
        self._variance += SEAM_SIGMA**2
        seen = self._estimate
        if isinstance(measurement, NoEvidence) or seen is None or seen.count < 2:
            return units_per_window_unit
        off = measurement.log_metres - math.log(units_per_window_unit) - seen.log_scale
        if abs(off) > self._estimator.tolerance:
            return units_per_window_unit
        noise = max(measurement.sigma, seen.spread) ** 2 + SIGMA_FLOOR**2
        gain = self._variance / (self._variance + noise)
        self._variance *= 1 - gain
        return units_per_window_unit * math.exp(float(np.clip(gain * off, -SLEW, SLEW)))

    def observe(self, measurement: Measurement | NoEvidence, units_per_window_unit: float) -> None:
        """Take what a window says, and move the factor where that is due.

        Args:
            measurement: metres in a unit of the window, or why it cannot tell.
            units_per_window_unit: map units in a unit of the window: the scale of its place in the map.
        """
        if isinstance(measurement, NoEvidence):
            self._silent += 1
            self._reason, self._is_conflict = measurement.reason, measurement.is_conflict
            return
        self._reason, self._is_conflict = '', False
        self._estimator.add(measurement.log_metres - math.log(units_per_window_unit), measurement.sigma)
        self._estimate = self._estimator.estimate()
        assert self._estimate is not None
        if self._state is ScaleState.WAITING:
            self._lock(self._estimate)
        else:
            self._follow(self._estimate)

    def conclude(self) -> None:
        """Nothing more will come: a locked factor takes what all windows remembered say, at once."""
        if self._state is ScaleState.LOCKED and self._estimate is not None:
            self._log_scale = self._estimate.log_scale

    def forget_unit(self) -> None:
        """The map went on at a scale that was guessed: what was said of its unit holds no longer."""
        if not self.is_measured:
            return
        self._estimator.clear()
        self._estimate = None
        self._state = ScaleState.WAITING
        self._reason, self._is_conflict = 'the map broke off, and its unit with it', False

    def report(self) -> ScaleReport:
        """The scale as it stands."""
        seen = self._estimate
        return ScaleReport(
            source=self.config.scale_source,
            state=self._state,
            factor=self.factor,
            spread=seen.spread if seen else math.nan,
            error=seen.error if seen else math.nan,
            observations=seen.count if seen else 0,
            agreeing=seen.agreeing if seen else 0,
            silent=self._silent,
            reason=self._reason,
            is_conflict=self._is_conflict,
        )

    def _lock(self, seen: Estimate) -> None:
        if self._is_sound(seen, 1.0) and seen.agreeing >= self.config.scale_min_observations:
            self._state, self._log_scale = ScaleState.LOCKED, seen.log_scale
        elif seen.count >= self.config.scale_min_observations:
            self._reason = self._describe_disagreement(seen)

    def _follow(self, seen: Estimate) -> None:
        recent = self._estimator.estimate(self.config.scale_min_observations)
        assert recent is not None
        away = [one for one in (seen, recent) if abs(one.log_scale - self._log_scale) > self._estimator.tolerance]
        if away:
            self._state = ScaleState.DOUBTED
            times = math.exp(away[-1].log_scale - self._log_scale)
            self._reason = f'it now says {times:.2f} times as much as before; reset to start anew with that'
        elif not self._is_sound(seen, DOUBT_SPREADS):
            self._state, self._reason = ScaleState.DOUBTED, self._describe_disagreement(seen)
        else:
            self._state = ScaleState.LOCKED
            away_by = seen.log_scale - self._log_scale
            if abs(away_by) > SETTLED * seen.error:  # else the map would creep for noise
                self._log_scale += float(np.clip(away_by, -SLEW, SLEW))
        self._is_conflict = self._state is ScaleState.DOUBTED

    def _is_sound(self, seen: Estimate, spreads: float) -> bool:
        is_narrow = seen.spread <= spreads * self.config.scale_max_spread
        return is_narrow and seen.agreeing >= MIN_AGREEING * seen.count

    def _describe_disagreement(self, seen: Estimate) -> str:
        if seen.agreeing < MIN_AGREEING * seen.count:
            return f'only {seen.agreeing} of {seen.count} windows agree on it'
        return f'windows differ by {100 * seen.spread:.0f} %, scale_max_spread is {self.config.scale_max_spread:g}'
