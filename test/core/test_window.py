"""Which frames share a window."""

import numpy as np
import pytest

from vggt_ros.core.config import WindowConfig
from vggt_ros.core.frame import Frame
from vggt_ros.core.window import Window, WindowBuffer


def windows_of(count, size, stride):
    buffer = WindowBuffer(WindowConfig(size=size, stride=stride))
    frames = [Frame(i, np.zeros((1, 1, 3), np.uint8), 'camera') for i in range(count)]
    windows = [*map(buffer.add, frames), buffer.flush()]
    return [([frame.stamp_ns for frame in w.frames], w.shared) for w in windows if w is not None]


@pytest.mark.parametrize(
    'count, size, stride, expected',
    [
        (7, 4, 2, [([0, 1, 2, 3], 0), ([2, 3, 4, 5], 2), ([4, 5, 6], 2)]),
        (4, 4, 2, [([0, 1, 2, 3], 0)]),
        (3, 4, 2, [([0, 1, 2], 0)]),
        (3, 1, 1, [([0], 0), ([1], 0), ([2], 0)]),
        (5, 2, 2, [([0, 1], 0), ([2, 3], 0), ([4], 0)]),
        (5, 3, 1, [([0, 1, 2], 0), ([1, 2, 3], 2), ([2, 3, 4], 2)]),
        (0, 3, 1, []),
    ],
)
def test_windows_overlap_by_size_less_stride(count, size, stride, expected):
    assert windows_of(count, size, stride) == expected


@pytest.mark.parametrize('size', [1, 2, 5, 8])
@pytest.mark.parametrize('count', [1, 7, 16, 23])
def test_every_frame_is_new_once(size, count):
    for stride in range(1, size + 1):
        new = [stamp for stamps, shared in windows_of(count, size, stride) for stamp in stamps[shared:]]
        assert new == list(range(count))


def test_frames_of_a_window_that_came_to_nothing_are_new_again():
    buffer = WindowBuffer(WindowConfig(size=3, stride=1))
    frames = [Frame(i, np.zeros((1, 1, 3), np.uint8), 'camera') for i in range(5)]
    first, second = [window for window in map(buffer.add, frames[:4]) if window is not None]
    assert (first.new, second.new) == (tuple(frames[:3]), (frames[3],))
    buffer.retract(second)
    assert buffer.add(frames[4]).new == (frames[3], frames[4])  # frame 2 was new in the first, which went well


def test_after_a_reset_nothing_is_shared():
    buffer = WindowBuffer(WindowConfig(size=2, stride=1))
    frames = [Frame(i, np.zeros((1, 1, 3), np.uint8), 'camera') for i in range(4)]
    assert [buffer.add(frame) is None for frame in frames[:2]] == [True, False]
    assert buffer.reset() == 0  # both were in a window
    assert buffer.flush() is None
    assert buffer.add(frames[2]) is None
    assert buffer.add(frames[3]).shared == 0


def test_frames_that_no_window_held_are_counted_when_they_are_given_up():
    buffer = WindowBuffer(WindowConfig(size=8, stride=2))
    frames = [Frame(i, np.zeros((1, 1, 3), np.uint8), 'camera') for i in range(16)]
    for frame in frames[:7]:
        buffer.add(frame)
    assert buffer.waiting == 7
    assert buffer.resize(WindowConfig(size=6, stride=2)) == 2  # five stay, and the next fills the window
    assert buffer.add(frames[7]) is not None
    assert buffer.resize(WindowConfig(size=2, stride=2)) == 0  # shared ones were in a window
    buffer.add(frames[8])
    assert buffer.waiting == 0  # the one shared frame and the new one filled a window
    buffer.add(frames[9])
    assert (buffer.waiting, buffer.reset(), buffer.waiting) == (1, 1, 0)


def test_other_sizes_hold_from_the_next_window_on():
    buffer = WindowBuffer(WindowConfig(size=8, stride=2))
    frames = [Frame(i, np.zeros((1, 1, 3), np.uint8), 'camera') for i in range(20)]
    (first,) = [window for window in map(buffer.add, frames[:8]) if window is not None]
    buffer.resize(WindowConfig(size=4, stride=2))
    windows = [window for window in map(buffer.add, frames[8:14]) if window is not None]
    stamps = [([frame.stamp_ns for frame in window.frames], window.shared) for window in windows]
    assert len(first.frames) == 8
    # Three of the six shared frames stay: with one new frame they fill a window of four.
    assert stamps == [([5, 6, 7, 8], 3), ([7, 8, 9, 10], 2), ([9, 10, 11, 12], 2)]


def test_larger_windows_keep_what_waits_and_what_is_shared():
    buffer = WindowBuffer(WindowConfig(size=4, stride=2))
    frames = [Frame(i, np.zeros((1, 1, 3), np.uint8), 'camera') for i in range(12)]
    assert [buffer.add(frame) is None for frame in frames[:4]] == [True, True, True, False]
    buffer.resize(WindowConfig(size=6, stride=3))
    (window,) = [window for window in map(buffer.add, frames[4:8]) if window is not None]
    assert (stamps_of(window), window.shared) == ([2, 3, 4, 5, 6, 7], 2)
    (window,) = [window for window in map(buffer.add, frames[8:11]) if window is not None]
    assert (stamps_of(window), window.shared) == ([5, 6, 7, 8, 9, 10], 3)


def test_windows_of_one_frame_share_nothing_with_longer_ones_before():
    buffer = WindowBuffer(WindowConfig(size=4, stride=2))
    frames = [Frame(i, np.zeros((1, 1, 3), np.uint8), 'camera') for i in range(5)]
    assert [buffer.add(frame) is None for frame in frames[:4]] == [True, True, True, False]
    buffer.resize(WindowConfig(size=1, stride=1))
    window = buffer.add(frames[4])
    assert (stamps_of(window), window.shared) == ([4], 0)


def test_of_a_first_window_that_came_to_nothing_all_is_new():
    buffer = WindowBuffer(WindowConfig(size=4, stride=2))
    frames = [Frame(i, np.zeros((1, 1, 3), np.uint8), 'camera') for i in range(6)]
    (first,) = [window for window in map(buffer.add, frames[:4]) if window is not None]
    buffer.retract(first)
    (second,) = [window for window in map(buffer.add, frames[4:]) if window is not None]
    assert (stamps_of(second), second.shared) == ([2, 3, 4, 5], 0)


@pytest.mark.parametrize(
    'size, stride, number, expected, after',
    [
        (8, 4, 0, [([0, 1, 2, 3], 0), ([2, 3, 4, 5], 2), ([4, 5, 6, 7], 2)], ([6, 7, 8, 9], 2)),
        (8, 4, 1, [([6, 7, 8, 9], 2), ([8, 9, 10, 11], 2)], ([10, 11, 12, 13], 2)),
        (5, 5, 0, [([0, 1, 2], 0), ([3, 4], 0)], ([5, 6, 7], 0)),
        (5, 4, 1, [([4, 5, 6], 1), ([6, 7, 8], 1)], ([8, 9, 10], 1)),
        (1, 1, 0, [], ([1], 0)),
    ],
)
def test_a_window_that_is_too_large_falls_into_halves(size, stride, number, expected, after):
    buffer = WindowBuffer(WindowConfig(size=size, stride=stride))
    frames = iter([Frame(i, np.zeros((1, 1, 3), np.uint8), 'camera') for i in range(20)])
    windows = (window for window in map(buffer.add, frames) if window is not None)
    window = [next(windows) for _ in range(number + 1)][-1]
    assert [(stamps_of(part), part.shared) for part in buffer.halve(window)] == expected
    following = next(windows)
    assert (stamps_of(following), following.shared) == after


def test_only_the_first_part_of_a_bridge_is_one():
    buffer = WindowBuffer(WindowConfig(size=4, stride=4))
    frames = tuple(Frame(i, np.zeros((1, 1, 3), np.uint8), 'camera') for i in range(6))
    assert [part.is_bridge for part in buffer.halve(Window(frames, 2, is_bridge=True))] == [True, False]


def test_the_window_that_is_foreseen_is_the_one_that_comes():
    buffer = WindowBuffer(WindowConfig(size=4, stride=2))
    frames = [Frame(i, np.zeros((1, 1, 3), np.uint8), 'camera') for i in range(30)]

    def next_window(missing):
        coming, later = [frames.pop(0) for _ in range(missing)], frames[:5]
        assert buffer.foresee(coming[:-1]) is None
        foreseen = buffer.foresee([*coming, *later])
        *earlier, window = map(buffer.add, coming)
        assert earlier == [None] * (missing - 1)
        assert foreseen.key == window.key
        return window

    first, second = next_window(4), next_window(2)
    assert second.shared == 2
    buffer.begin_with(first)
    bridge = next_window(2)
    assert bridge.is_bridge
    buffer.retract(bridge)
    assert next_window(2).shared == 0
    buffer.resize(WindowConfig(size=6, stride=3))
    assert next_window(4).shared == 2


def stamps_of(window):
    return [frame.stamp_ns for frame in window.frames]
