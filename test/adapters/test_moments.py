"""Images of several cameras, late, missing and out of step -> moments."""

from __future__ import annotations

import numpy as np
import pytest

from vggt_ros.moments import MAX_PENDING, Moments

MS = 1_000_000
PERIOD = 33 * MS


def send(moments: Moments[str], images: list[tuple[int, int]]) -> list[dict[int, str]]:
    """Send (camera, stamp) in this order; what came out, each item as 'camera@stamp'."""
    return [moment.items for camera, stamp in images for moment in moments.add(camera, stamp, f'{camera}@{stamp}')]


def test_images_of_one_exposure_come_out_together_in_order_of_cameras():
    got = send(Moments(3, 5 * MS), [(2, 1), (0, 2 * MS), (1, 3 * MS)])
    assert got == [{0: f'0@{2 * MS}', 1: f'1@{3 * MS}', 2: '2@1'}]
    assert list(got[0]) == [0, 1, 2]


def test_images_further_apart_than_the_tolerance_are_not_one_moment():
    moments = Moments(2, 5 * MS)
    assert send(moments, [(0, 0), (1, 5 * MS + 1)]) == []
    assert [list(moment.items) for moment in moments.flush()] == [[0]]
    assert (moments.incomplete, moments.without_reference) == (1, 1)


@pytest.mark.parametrize('seed', range(5))
def test_a_network_that_delays_cameras_against_each_other_loses_nothing(seed: int):
    """Each camera comes in order, up to two periods later than another."""
    rng = np.random.default_rng(seed)
    count = 40
    sent = []
    for camera in range(3):
        stamps = PERIOD * np.arange(1, count + 1) + rng.integers(-MS, MS, count)
        arrivals = np.maximum.accumulate(stamps + rng.integers(0, 2 * PERIOD, count))
        sent += list(zip(arrivals.tolist(), [camera] * count, stamps.tolist(), strict=True))
    moments = Moments(3, 4 * MS)
    got = send(moments, [(camera, stamp) for _, camera, stamp in sorted(sent)])
    assert [list(items) for items in got] == [[0, 1, 2]] * count
    assert (moments.incomplete, moments.without_reference) == (0, 0)


def test_a_silent_camera_delays_a_little_and_stops_nothing():
    moments = Moments(2, 5 * MS)
    got = send(moments, [(0, i * PERIOD) for i in range(10)])
    assert [items[0] for items in got] == [f'0@{i * PERIOD}' for i in range(10 - MAX_PENDING)]
    assert moments.incomplete == len(got)


def test_a_complete_moment_lets_older_ones_go_first():
    moments = Moments(2, 5 * MS)
    got = send(moments, [(0, 0), (0, PERIOD), (1, PERIOD)])  # image 0 of camera 1 was lost
    assert [list(items) for items in got] == [[0], [0, 1]]


def test_without_the_reference_there_is_no_moment():
    moments = Moments(2, 5 * MS)
    assert send(moments, [(1, i * PERIOD) for i in range(10)]) == []
    assert moments.without_reference == 10 - MAX_PENDING
    assert send(moments, [(0, 10 * PERIOD), (1, 10 * PERIOD)]) == [{0: f'0@{10 * PERIOD}', 1: f'1@{10 * PERIOD}'}]


def test_a_camera_at_half_the_rate_is_in_every_second_moment():
    images = [image for i in range(8) for image in ([(0, i * PERIOD)] + [(1, i * PERIOD)] * (i % 2 == 0))]
    moments = Moments(2, 5 * MS)
    got = send(moments, images) + [moment.items for moment in moments.flush()]
    assert [list(items) for items in got] == [[0, 1], [0]] * 4


def test_a_recording_that_begins_again_is_sorted_anew():
    once = [(camera, 10**10 + i * PERIOD) for i in range(4) for camera in (0, 1)]
    moments = Moments(2, 5 * MS)
    later = [(camera, stamp + 2 * 10**9) for camera, stamp in once]
    got = send(moments, [*later, (0, later[-1][1] + PERIOD), *once])
    assert [list(items) for items in got] == [[0, 1]] * 4 + [[0]] + [[0, 1]] * 4
