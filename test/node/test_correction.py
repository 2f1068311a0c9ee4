"""map -> odom between windows: what is sent, under which stamp, and when not."""

from __future__ import annotations

import numpy as np

from vggt_ros.live.correction import MapToOdom

STAMP = 1_700_000_000_123_456_789
AHEAD_S = 0.1


class Clocks:
    steady, sim_ns = 50.0, None

    def made(self) -> MapToOdom:
        return MapToOdom(lambda: self.sim_ns, lambda: self.steady)


def test_time_goes_on_from_the_image_it_was_found_from() -> None:
    clocks = Clocks()
    one = clocks.made()
    assert one.due(AHEAD_S) is None
    assert not one.serves(STAMP)
    one.take(np.eye(4), STAMP, arrival=49.0)
    assert one.serves(STAMP)
    stamp_ns, sent = one.due(AHEAD_S)
    assert stamp_ns == STAMP + 1_100_000_000  # a second since the image came, and a tenth ahead
    np.testing.assert_array_equal(sent, np.eye(4))
    clocks.steady += 0.05
    assert one.due(AHEAD_S)[0] == stamp_ns + 50_000_000


def test_a_late_window_does_not_set_the_stamps_back() -> None:
    clocks = Clocks()
    one = clocks.made()
    one.take(np.eye(4), STAMP, arrival=49.0)
    first, _ = one.due(AHEAD_S)
    one.take(2 * np.eye(4), STAMP + 100_000_000, arrival=49.3)  # came later than its stamp says
    assert one.due(AHEAD_S) is None
    clocks.steady += 0.3
    second, sent = one.due(AHEAD_S)
    assert second > first
    assert sent[0, 0] == 2


def test_sim_time_is_used_and_stands_still_with_it() -> None:
    clocks = Clocks()
    one = clocks.made()
    clocks.sim_ns = STAMP + 5_000_000_000
    one.take(np.eye(4), STAMP, arrival=10.0)
    assert one.due(AHEAD_S)[0] == STAMP + 5_100_000_000
    clocks.steady += 1
    assert one.due(AHEAD_S) is None  # paused: the same stamp twice is what tf2 complains of
    clocks.sim_ns += 1
    assert one.due(AHEAD_S)[0] == STAMP + 5_100_000_001


def test_a_recording_that_begins_again_begins_anew() -> None:
    clocks = Clocks()
    one = clocks.made()
    one.take(np.eye(4), STAMP, arrival=40.0)
    one.due(AHEAD_S)
    back = STAMP - 60_000_000_000
    assert not one.serves(back)
    one.take(np.eye(4), back, arrival=50.0)
    assert one.due(AHEAD_S)[0] == back + 100_000_000
    one.reset()
    assert one.due(AHEAD_S) is None
