"""The executor answers while the network computes: a window of seconds delays no callback."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from robot import Clip, Robot
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from vggt_ros.core.predictor import FakePredictor
from vggt_ros.node import VggtNode

WINDOW_S = 2.0
# A callback waits for the interpreter's lock at most, which a computing thread gives up every 5 ms; the rest is for
# machines that do much else. A blocked executor would answer after the window.
PROMPT_S = 0.5


def test_callbacks_are_served_while_a_window_is_computed(
    robot: Robot, make_node: Callable[..., VggtNode], clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    works, computing = FakePredictor.predict, []

    def predict(self: FakePredictor, window: Any) -> Any:
        computing.append(time.monotonic())
        time.sleep(WINDOW_S)
        return works(self, window)

    monkeypatch.setattr(FakePredictor, 'predict', predict)
    robot.listen(Image, '/vggt/depth/image_rect')
    robot.start_camera()
    node = make_node(standalone=True, window_size=2, window_stride=1)
    robot.wait_for_match(node)
    robot.call(SetBool, '/vggt/enable', SetBool.Request(data=True))  # the service is found before the clock runs
    for i in range(2):
        robot.publish_frame(clip, i)
        robot.wait_until(lambda count=i + 1: node._pipeline.statistics.frames >= count, f'taking of frame {i}')
    robot.wait_until(lambda: computing, 'start of the window')
    received = node._mailbox.received
    start = time.monotonic()
    robot.publish_frame(clip, 2)
    robot.wait_until(lambda: node._mailbox.received > received, 'image in the mailbox')
    image_s = time.monotonic() - start
    answer = robot.call(SetBool, '/vggt/enable', SetBool.Request(data=True))
    service_s = time.monotonic() - start - image_s
    assert answer.success
    assert time.monotonic() - computing[-1] < WINDOW_S, 'the window was over before the callbacks could be judged'
    assert not robot.received['/vggt/depth/image_rect']
    assert image_s < PROMPT_S
    assert service_s < PROMPT_S
