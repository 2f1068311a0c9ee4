"""Bridge: keeps windows whose points disagree out of the map, and joins what follows to the last that is trusted.

A window that disagrees is looked at again at once: the network sees the same new frames beside fewer old ones, and
answers anew. Where that disagrees too, the frames get no pose, and later windows start with frames of the last trusted
window until one of them fits. Two answers that agree with each other and not with what was there before outvote it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vggt_ros.core.alignment import align
from vggt_ros.core.config import Config
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.placement import Placement, Seam, SeamStatus
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.submap import Map, Submap
from vggt_ros.core.window import Window, WindowBuffer

log = logging.getLogger(__name__)

CONFIRMED = (SeamStatus.ALIGNED, SeamStatus.BRIDGED)


@dataclass(frozen=True, eq=False)
class Placed:
    """A window as it goes into the map.

    Args:
        window, prediction: the frames, and what the network said last about them.
        placement: where they stand.
    """

    window: Window
    prediction: Prediction
    placement: Placement


class Bridge:
    """Places windows on the last one that is trusted.

    Args:
        config: all settings; alignment is read here.
        map: what windows are placed in.
        windows: told which frames to go on with after a window that was refused.
        withdrawn: called with the number of a window that was outvoted.
    """

    def __init__(
        self, config: Config, map: Map, windows: WindowBuffer, withdrawn: Callable[[int], None] = lambda index: None
    ) -> None:
        self.config, self._map, self._windows, self._withdrawn = config, map, windows, withdrawn
        self.reset()

    def reset(self) -> None:
        """A new map: there is nothing to bridge."""
        self._trusted: Window | None = None  # that of map.latest
        self._contender: Submap | None = None  # the last window that was refused

    def place(self, window: Window, predict: Callable[[Window], Prediction]) -> Placed:
        """Predict a window and place it; where it is refused, once more beside fewer old frames.

        Returns:
            What goes into the map: with BRIDGED where a later answer was believed, with REFUSED and without poses where
            none was.
        """
        first = self._try(window, predict)
        if first.placement.seam.status is not SeamStatus.REFUSED:
            return self._trust(first)
        answers = [first]
        narrower = window.narrowed()
        if narrower is not None and self._contender is None:  # a network that fails on and on is asked once a window
            answers.append(self._try(narrower, predict))
            if answers[-1].placement.seam.status in CONFIRMED:
                return self._trust(_with_status(answers[-1], SeamStatus.BRIDGED, refused=1))
        return self._outvote(answers) or self._refuse(answers)

    def _try(self, window: Window, predict: Callable[[Window], Prediction]) -> Placed:
        prediction = predict(window)
        placement = align(prediction, self._map.latest, self.config.alignment, self._map.map_from_first_window)
        return Placed(window, prediction, placement)

    def _trust(self, placed: Placed) -> Placed:
        if placed.prediction.is_posed.any():
            self._trusted, self._contender = placed.window, None
        return placed

    def _outvote(self, answers: list[Placed]) -> Placed | None:
        """Believe two answers that agree against a window that nothing confirmed, or that lies further back."""
        assert self._map.latest is not None
        newest, base = answers[-1], self._map.latest
        other = self._contender
        if other is None and len(answers) > 1 and base.placement.seam.status not in CONFIRMED:
            other = Submap(answers[0].prediction, answers[0].placement)
        if other is None:
            return None
        if base.placement.seam.status not in CONFIRMED:
            other = Submap(other.prediction, self._in_place_of(base, other.placement))
        placement = align(newest.prediction, other, self.config.alignment, self._map.map_from_first_window)
        if placement.seam.status not in CONFIRMED:
            return None
        placed = Placed(newest.window, newest.prediction, placement)
        if base.placement.seam.status in CONFIRMED:
            return self._trust(_with_status(placed, SeamStatus.DEGENERATE, refused=len(answers)))
        log.warning('the window that the map began with was outvoted by the next: it leaves the map')
        self._map.withdraw_latest()
        self._withdrawn(base.index)
        return self._trust(_with_status(placed, SeamStatus.HELD, refused=len(answers)))

    def _in_place_of(self, base: Submap, placement: Placement) -> Placement:
        """A first window that is outvoted takes nothing with it: the map starts anew, level and at its own scale."""
        is_first = base.placement.seam.status is SeamStatus.FIRST
        return Placement(self._map.map_from_first_window, placement.seam) if is_first else placement

    def _refuse(self, answers: list[Placed]) -> Placed:
        """No pose, and the next windows begin with frames of the trusted one."""
        first, newest = answers[0], answers[-1]
        if self._contender is None:  # once, however long it lasts
            share = 100 * first.placement.seam.inlier_ratio
            log.warning('lost: only %.0f %% of the points agree with the map; poses are held until they do', share)
        self._contender = Submap(first.prediction, first.placement)
        if self._trusted is not None:
            self._windows.begin_with(self._trusted)
        held = self._map.latest.placement.map_from_window if self._map.latest else Sim3.identity()
        placed = Placed(newest.window, without_poses(newest.prediction), Placement(held, newest.placement.seam))
        return _with_status(placed, SeamStatus.REFUSED, refused=len(answers) - 1)


def without_poses(prediction: Prediction) -> Prediction:
    """The same frames as if the network had given no camera: held at the last pose, depth unknown."""
    return dataclasses.replace(prediction, cam_from_window=np.full_like(prediction.cam_from_window, np.nan))


def _with_status(placed: Placed, status: SeamStatus, refused: int) -> Placed:
    seam: Seam = dataclasses.replace(placed.placement.seam, status=status, refused=refused)
    return dataclasses.replace(placed, placement=dataclasses.replace(placed.placement, seam=seam))
