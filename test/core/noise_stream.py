"""A stream of pictures of noise, each another, and what a predictor makes of it: a mix-up of pictures shows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vggt_ros.core.frame import Frame
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.predictor import VggtPredictor
from vggt_ros.core.window import Window

SIZE, STRIDE = 4, 2


def windows_of(count: int, seed: int = 0, height: int = 96) -> list[Window]:
    """Windows of SIZE pictures, 128 wide, that go on by STRIDE."""
    shape = (SIZE + STRIDE * (count - 1), height, 128, 3)
    images = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    frames = [Frame(10**9 + i * 10**8, image, 'camera') for i, image in enumerate(images)]
    starts = range(0, STRIDE * count, STRIDE)
    return [Window(tuple(frames[start : start + SIZE]), SIZE - STRIDE if start else 0) for start in starts]


def predictions_of(predictor: VggtPredictor, windows: Iterable[Window]) -> list[Prediction]:
    """As the pipeline asks: every picture is shown before its window is complete."""
    found = []
    for window in windows:
        for frame in window.frames[:-1]:
            predictor.anticipate(frame)
        found.append(predictor.predict(window))
    return found


def assert_same(ours: list[Prediction], theirs: list[Prediction], rtol: float = 1e-5) -> None:
    """The pictures to the bit. A mix-up of pictures would be far above any rtol here: all are noise."""
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert one.transform == other.transform
        for name in ('depth', 'confidence', 'cam_from_window', 'K'):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=rtol)
