"""What a supervisor relies on: the watchdog, the error state and the way out of it, status, and exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from robot import ROOT, Clip, NodeProcess, Robot
from sensor_msgs.msg import Image

from vggt_ros.core.predictor import FakePredictor
from vggt_ros.live.watchdog import Watchdog, is_noted, limit_s
from vggt_ros.node import VggtNode

DEPTH = '/vggt/depth/image_rect'
SMALL = {'standalone': True, 'window_size': 4, 'window_stride': 2}


def test_the_watchdog_counts_its_looks_at_one_piece_of_work() -> None:
    watchdog = Watchdog(1.0)
    assert [watchdog.look(at) for at in (None, 5.0, 5.0, 5.0, 9.0, 9.0, None)] == [0, 0, 1, 2, 0, 1, 0]


def test_a_machine_that_stood_still_is_not_stuck() -> None:
    watchdog = Watchdog(1.0)
    watchdog.look(5.0)
    assert watchdog.look(5.0) == 1.0  # whatever the clock says meanwhile


@pytest.mark.parametrize('recent_s, expected', [((), 600.0), ((0.1, 0.2), 10.0), ((0.1, 3.0), 60.0), ((90.0,), 600.0)])
def test_stuck_is_many_times_the_slowest_window_of_late(recent_s: tuple[float, ...], expected: float) -> None:
    assert limit_s(600.0, recent_s) == expected


def test_a_window_that_takes_long_is_noted_before_it_counts_as_stuck() -> None:
    assert is_noted(3.5, (0.1, 0.2))
    assert not is_noted(3.5, (0.1, 1.0))
    assert not is_noted(3.5, ())  # the first may take long


def test_a_stuck_network_leads_by_error_to_unconfigured_from_where_it_can_be_configured_again(
    robot: Robot, make_node: Callable[..., VggtNode], clip: Clip, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    works, release = FakePredictor.predict, threading.Event()

    def predict(self: FakePredictor, window: Any) -> Any:
        release.wait(60)
        return works(self, window)

    monkeypatch.setattr(FakePredictor, 'predict', predict)
    robot.start_camera()
    robot.listen(Image, DEPTH)
    node = make_node(**SMALL, window_timeout_s=1.0, autostart=False)
    robot.wait_for_match(node)
    for i in range(4):
        robot.publish_frame(clip, i)
        time.sleep(0.1)
    robot.wait_until(lambda: node._state_machine.current_state[1] == 'unconfigured', 'way through the error state')
    assert 'the network is stuck: it has been at one window for 2 s; back to unconfigured' in caplog.text
    monkeypatch.setattr(FakePredictor, 'predict', works)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    robot.wait_for_match(node)
    robot.publish_clip(clip, range(4, 8), node)
    robot.wait_until(lambda: len(robot.received[DEPTH]) == 4, 'results of the new configuration')
    release.set()  # the thread that hung wakes up, and what it has is of another life
    robot.wait_until(lambda: not any(worker.is_alive for worker in node._left), 'end of the thread')
    assert len(robot.received[DEPTH]) == 4


def test_what_fails_again_after_a_new_start_ends_the_process_with_its_cause(
    robot: Robot, start_node: Callable[..., NodeProcess], clip: Clip
) -> None:
    """A GPU that is lost is lost for the whole process; whoever supervises it starts a new one."""
    broken = (
        'from vggt_ros.core.predictor import FakePredictor\n'
        'def predict(self, window):\n    raise RuntimeError("CUDA error: unspecified launch failure")\n'
        'FakePredictor.predict = predict'
    )
    robot.start_camera()
    node = start_node(before=broken, **SMALL, input_reliability='reliable')
    deadline = time.monotonic() + 60
    while node.process.poll() is None:
        assert time.monotonic() < deadline, node.text
        for i in range(4):
            robot.publish_frame(clip, i, stamp_ns=time.time_ns())
            time.sleep(0.05)
    assert node.process.returncode == 1
    assert node.text.splitlines()[-1] == (
        'vggt: the device is lost: RuntimeError: CUDA error: unspecified launch failure'
    )
    assert 'Traceback' not in node.text


def test_a_signal_that_rclpy_turns_into_an_error_of_its_own_is_no_crash(
    start_node: Callable[..., NodeProcess],
) -> None:
    """It raises inside a callback from C++, which makes a RuntimeError of that, before the context has ended."""
    inside_a_call = (
        'import rclpy, signal\n'
        'def spin(*_):\n    print("spinning", flush=True)\n    try:\n        signal.pause()\n'
        '    except KeyboardInterrupt:\n        pass\n    rclpy.ok = lambda: True\n'
        '    raise RuntimeError("Unable to convert call argument")\n'
        'rclpy.spin = spin'
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        node = start_node(before=inside_a_call, **SMALL)
        node.wait_for_text('spinning')
        assert node.stop(number) == 0, node.text
        assert 'Traceback' not in node.text


def test_status_tells_how_the_node_is_and_a_supervisor_by_its_exit_code(start_node: Callable[..., NodeProcess]) -> None:
    def status(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, '-m', 'vggt_ros.cli', 'status', *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    node = start_node(**SMALL)
    node.wait_for_text('waiting for images')
    said = status('--json')
    assert said.returncode == 0, said.stderr
    lines = {line['task']: line for line in json.loads(said.stdout)}
    assert (lines['node']['level'], lines['node']['message']) == ('OK', 'active')
    node.stop()
    said = status('--timeout', '1')
    assert said.returncode == 2
    assert said.stderr.startswith('vggt_ros: no diagnostics of /vggt within 1 s')


def test_ros_arguments_that_cannot_be_read_end_in_one_line(start_node: Callable[..., NodeProcess]) -> None:
    node = start_node(remappings={'image': 'not a name'})
    assert node.process.wait(60) == 1
    assert 'ROS does not take the arguments' in node.text
    assert 'Traceback' not in node.text
