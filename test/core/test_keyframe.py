"""The gate on pictures that move by known amounts."""

import cv2
import numpy as np
import pytest

from vggt_ros.core import keyframe
from vggt_ros.core.config import KeyframeConfig
from vggt_ros.core.frame import Frame
from vggt_ros.core.keyframe import KeyframeGate


def texture(height=480, width=900):
    noise = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


TEXTURE = texture()


def frame(shift_px=0, stamp_ms=0, width=640):
    left = 40 + shift_px
    return Frame(stamp_ms * 1_000_000, np.ascontiguousarray(TEXTURE[:, left : left + width]), 'camera')


def accepted(gate, frames):
    return [gate.accept(one) for one in frames]


def test_off_keeps_every_frame_and_looks_at_none(monkeypatch):
    monkeypatch.setattr(keyframe, '_small_gray', lambda _: pytest.fail('the picture was read'))
    gate = KeyframeGate(KeyframeConfig())
    assert all(accepted(gate, [frame(stamp_ms=i) for i in range(5)]))


def test_the_picture_must_move_by_so_many_pixels_since_the_last_keyframe():
    gate = KeyframeGate(KeyframeConfig(min_translation_px=20.0))
    shifts = [0, 5, 12, 18, 23, 30, 40, 44, 60]
    kept = [shift for shift, keep in zip(shifts, accepted(gate, map(frame, shifts)), strict=True) if keep]
    assert kept == [0, 23, 44]


@pytest.mark.parametrize('shift', [3, 8, 14])
@pytest.mark.parametrize('scale', [0.5, 1.0, 2.0])
def test_flow_is_in_pixels_of_the_source_image(shift, scale):
    def scaled(one):
        return Frame(one.stamp_ns, cv2.resize(one.image, None, fx=scale, fy=scale), 'camera')

    # half a pixel of the picture that is looked at, 320 wide: 1 px of 640
    for margin, expected in ((-1.0, True), (1.0, False)):
        gate = KeyframeGate(KeyframeConfig(min_translation_px=scale * (shift + margin)))
        assert accepted(gate, [scaled(frame()), scaled(frame(shift))]) == [True, expected]


def test_another_view_is_kept_though_nothing_can_be_tracked():
    gate = KeyframeGate(KeyframeConfig(min_translation_px=100.0))
    other = Frame(1, np.random.default_rng(9).integers(0, 255, (480, 640, 3), dtype=np.uint8), 'camera')
    assert accepted(gate, [frame(), other]) == [True, True]


def test_a_blank_wall_does_not_stop_the_stream():
    gate = KeyframeGate(KeyframeConfig(min_translation_px=10.0))
    blank = [Frame(i, np.full((480, 640, 3), 128, np.uint8), 'camera') for i in range(3)]
    assert accepted(gate, blank) == [True, True, True]


def test_time_must_pass_between_keyframes():
    gate = KeyframeGate(KeyframeConfig(min_interval_s=0.25))
    stamps = [0, 100, 200, 300, 400, 500, 600, 1000]
    kept = [t for t, keep in zip(stamps, accepted(gate, [frame(stamp_ms=t) for t in stamps]), strict=True) if keep]
    assert kept == [0, 300, 600, 1000]


def test_with_both_set_both_must_hold():
    gate = KeyframeGate(KeyframeConfig(min_translation_px=10.0, min_interval_s=0.25))
    assert accepted(gate, [frame(0, 0), frame(30, 100), frame(5, 400), frame(30, 500)]) == [True, False, False, True]


def test_the_first_frame_after_a_reset_is_kept():
    gate = KeyframeGate(KeyframeConfig(min_translation_px=500.0, min_interval_s=60.0))
    assert accepted(gate, [frame(), frame(1, 1)]) == [True, False]
    gate.reset()
    assert gate.accept(frame(1, 2))


def test_another_size_is_kept():
    gate = KeyframeGate(KeyframeConfig(min_interval_s=60.0))
    assert accepted(gate, [frame(), frame(stamp_ms=1, width=320)]) == [True, True]


def test_an_interval_that_has_just_passed_is_enough():
    gate = KeyframeGate(KeyframeConfig(min_interval_s=0.25))
    assert accepted(gate, [frame(stamp_ms=1000), frame(stamp_ms=1250)]) == [True, True]


def test_less_than_a_pixel_can_be_asked_for():
    gate = KeyframeGate(KeyframeConfig(min_translation_px=0.8))
    assert accepted(gate, [frame(), frame(0, 100), frame(3, 200)]) == [True, False, True]


@pytest.mark.parametrize('width, factor', [(1280, 4), (640, 2), (320, 1), (160, 1)])
def test_flow_is_measured_on_means_of_blocks_of_a_wide_picture(width, factor):
    grey = np.random.default_rng(0).integers(0, 256, (8 * factor, width), dtype=np.uint8)
    small = keyframe._small_gray(Frame(1, np.repeat(grey[..., None], 3, axis=2), 'camera'))
    blocks = grey.reshape(8, factor, width // factor, factor).mean(axis=(1, 3))
    assert small.shape == blocks.shape
    assert np.abs(small - blocks).max() <= 1
