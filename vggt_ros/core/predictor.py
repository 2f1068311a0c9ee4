"""Window -> Prediction: resize (K with it), run vggt, back to numpy."""

from __future__ import annotations

import time
from typing import Protocol

import cv2
import numpy as np

from vggt_ros.core.config import Config
from vggt_ros.core.errors import ConfigError
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.window import Window


class Predictor(Protocol):
    """What the pipeline needs of a network."""

    def predict(self, window: Window) -> Prediction:
        """Depth and cameras of a window; PredictionError where that fails."""

    def reset(self) -> None:
        """Forget what was kept of earlier windows."""


def make_predictor(config: Config) -> Predictor:
    """The predictor that config.model asks for, loaded and ready; ConfigError where it cannot be had."""
    if config.model.backend == 'fake':
        return FakePredictor(config)
    raise ConfigError(f'backend {config.model.backend} is not built yet; use backend fake')


class FakePredictor:
    """No network: a camera that glides to the right along a flat wall, whatever the images show.

    For tests of the plumbing. The wall is DISTANCE ahead, the camera moves SPEED each second of the stamps.
    """

    DISTANCE = 2.0
    SPEED = 0.1
    WIDTH = 112  # pixels of the grid, unless input_width says otherwise; enough for plumbing

    def __init__(self, config: Config) -> None:
        self.config = config

    def reset(self) -> None:
        """Nothing is kept."""

    def predict(self, window: Window) -> Prediction:
        """The wall as seen from each frame of the window."""
        start = time.perf_counter()
        height, width = window.frames[0].size
        w = min(width, self.config.model.input_width or self.WIDTH)
        h = max(1, round(w * height / width))
        # pixel centres are at integers: u' = (u + 0.5) * s - 0.5
        grid_from_source = np.diag([w / width, h / height, 1.0])
        grid_from_source[:2, 2] = (grid_from_source[[0, 1], [0, 1]] - 1.0) / 2.0
        frames = window.frames
        K_network = np.array([[w, 0.0, (w - 1) / 2], [0.0, w, (h - 1) / 2], [0.0, 0.0, 1.0]])
        use_calibration = self.config.camera.intrinsics_mode == 'camera_info'
        K = [grid_from_source @ f.K if f.K is not None and use_calibration else K_network for f in frames]
        cam_from_window = np.tile(np.eye(4), (len(frames), 1, 1))
        cam_from_window[:, 0, 3] = [-self.SPEED * (f.stamp_ns - frames[0].stamp_ns) / 1e9 for f in frames]
        return Prediction(
            stamps_ns=tuple(f.stamp_ns for f in frames),
            frame_ids=tuple(f.frame_id for f in frames),
            image=np.stack([cv2.resize(f.image, (w, h), interpolation=cv2.INTER_AREA) for f in frames]),
            cam_from_window=cam_from_window,
            K=np.stack(K),
            K_network=np.tile(K_network, (len(frames), 1, 1)),
            depth=np.full((len(frames), h, w), self.DISTANCE, dtype=np.float32),
            confidence=np.ones((len(frames), h, w), dtype=np.float32),
            grid_from_source=grid_from_source,
            prepare_s=time.perf_counter() - start,
        )
