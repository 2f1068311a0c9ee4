"""Which frames see enough new to be kept."""

from __future__ import annotations

import cv2
import numpy as np

from vggt_ros.core.config import KeyframeConfig
from vggt_ros.core.frame import Frame

FLOW_WIDTH = 320  # pixels; flow is measured on an image of this width at most
MAX_CORNERS = 200  # their median is stable to a tenth of a pixel, and they cost a millisecond
MIN_TRACKED = 0.3  # of the keyframe's corners; with fewer in sight the view has changed, whatever the flow says
MAX_RETURN_PX = 1.0  # a corner that does not come back when tracked backwards was not tracked


class KeyframeGate:
    """Accepts a frame when the picture has moved and time has passed since the last one accepted."""

    def __init__(self, config: KeyframeConfig) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        """Forget the last keyframe; the next frame is kept."""
        self._last: Frame | None = None
        self._gray: np.ndarray | None = None
        self._corners: np.ndarray | None = None

    def accept(self, frame: Frame) -> bool:
        """Whether to keep this frame; it is then what the next ones are compared with. A first frame is kept."""
        if self._last is not None and self._last.size == frame.size and not self._is_new(frame, self._last):
            return False
        self._last, self._gray, self._corners = frame, None, None
        return True

    def _is_new(self, frame: Frame, last: Frame) -> bool:
        if frame.stamp_ns - last.stamp_ns < self.config.min_interval_s * 1e9:
            return False
        return self.config.min_translation_px <= 0 or self._flow_px(frame, last) >= self.config.min_translation_px

    def _flow_px(self, frame: Frame, last: Frame) -> float:
        """Median optical flow since the last keyframe, pixels of the source; infinite where it cannot be measured."""
        if self._gray is None:
            self._gray = _small_gray(last)
            self._corners = cv2.goodFeaturesToTrack(self._gray, MAX_CORNERS, qualityLevel=0.01, minDistance=7)
        if self._corners is None:
            return float('inf')  # nothing to hold on to: rather one frame too many than a stream that stops
        gray = _small_gray(frame)
        corners = np.asarray(self._corners)
        moved, found, _ = cv2.calcOpticalFlowPyrLK(self._gray, gray, corners, np.zeros_like(corners))
        returned, found_back, _ = cv2.calcOpticalFlowPyrLK(gray, self._gray, moved, np.zeros_like(corners))
        returns = np.linalg.norm(returned - corners, axis=-1) < MAX_RETURN_PX
        tracked = returns & (found == 1) & (found_back == 1)
        if tracked.mean() < MIN_TRACKED:
            return float('inf')
        flow = np.linalg.norm((moved - corners)[tracked], axis=-1)
        return float(np.median(flow)) * frame.size[1] / gray.shape[1]


def _small_gray(frame: Frame) -> np.ndarray:
    gray = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
    scale = FLOW_WIDTH / frame.size[1]
    return gray if scale >= 1 else cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
