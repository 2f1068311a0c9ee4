"""The path from frames to map updates, on one screen."""

from __future__ import annotations

import logging

from vggt_ros.core.alignment import align
from vggt_ros.core.config import Config
from vggt_ros.core.frame import Frame
from vggt_ros.core.keyframe import KeyframeGate
from vggt_ros.core.predictor import Predictor
from vggt_ros.core.submap import Map, Submap, Update
from vggt_ros.core.window import Window, WindowBuffer

log = logging.getLogger(__name__)


class Pipeline:
    """Camera frames in, map updates out. The node and the bag reader both drive this class."""

    def __init__(self, config: Config, predictor: Predictor) -> None:
        self.config = config
        self.keyframes = KeyframeGate(config.keyframe)
        self.windows = WindowBuffer(config.window)
        self.predictor = predictor
        self.map = Map(config)

    def add_frame(self, frame: Frame) -> Update | None:
        """Take the next frame; return an update when it completes a window, or ends one by a break in the stream."""

    def flush(self) -> Update | None:
        """Process the frames still waiting for a full window: the end of a recording, or a pause."""

    def reset(self) -> None:
        """Start anew: nothing before is remembered."""

    def _process(self, window: Window) -> Update:
        prediction = self.predictor.predict(window)
        placement = align(prediction, self.map.latest, self.config.alignment)
        return self.map.insert(Submap(prediction, placement, window.shared))
