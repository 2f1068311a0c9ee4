"""Up, down and out: transitions, Ctrl-C in the midst of work, and starts that cannot succeed."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.lifecycle import TransitionCallbackReturn
from robot import DEADLINE_S, IMAGE, Clip, NodeProcess, Robot
from sensor_msgs.msg import Image

from vggt_ros.node import VggtNode

DEPTH = '/vggt/depth/image_rect'
SMALL = {'standalone': True, 'window_size': 4, 'window_stride': 2}
SLOW = """
import time
from vggt_ros.core.predictor import FakePredictor
def predict(self, window):
    print('working', flush=True)
    time.sleep({seconds})
    raise RuntimeError('nothing found')
FakePredictor.predict = predict
"""


def test_up_and_down_again_and_again_leaves_nothing_behind(
    robot: Robot, make_node: Callable[..., VggtNode], clip: Clip
) -> None:
    robot.start_camera()
    robot.listen(Image, DEPTH)
    node = make_node(**SMALL, start=False)
    before: tuple[Any, ...] = ()
    for round_number in range(5):
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        for _ in range(2):
            assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            assert sum(thread.name == 'vggt_worker' for thread in threading.enumerate()) == 1
            assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        kinds = (node.publishers, node.subscriptions, node.services, node.timers, node.clients)
        after = (*(len(list(kind)) for kind in kinds), threading.active_count())
        assert round_number < 1 or after == before
        before = after
    # ... and it still works.
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    robot.wait_for_match(node)
    robot.publish_clip(clip, range(4), node)
    robot.wait_until(lambda: len(robot.received[DEPTH]) == 4, 'results after all that')


def test_a_lifecycle_manager_can_drive_it(robot: Robot, start_node: Callable[..., NodeProcess], clip: Clip) -> None:
    # A name of its own: rclpy keeps the lifecycle services of a destroyed node until its memory is collected.
    node = start_node(**SMALL, autostart=False, remappings={'__node': 'managed'})
    for transition, expected in (
        (Transition.TRANSITION_CONFIGURE, 'inactive'),
        (Transition.TRANSITION_ACTIVATE, 'active'),
        (Transition.TRANSITION_DEACTIVATE, 'inactive'),
        (Transition.TRANSITION_CLEANUP, 'unconfigured'),
        (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, 'finalized'),
    ):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert robot.call(ChangeState, '/managed/change_state', request).success, node.text
        assert robot.call(GetState, '/managed/get_state', GetState.Request()).current_state.label == expected
    assert node.stop() == 0


def test_deactivate_publishes_the_window_being_computed(
    robot: Robot, make_node: Callable[..., VggtNode], clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vggt_ros.core.predictor import FakePredictor

    works, working = FakePredictor.predict, threading.Event()

    def predict(self: FakePredictor, window: Any) -> Any:
        working.set()
        time.sleep(0.7)
        return works(self, window)

    monkeypatch.setattr(FakePredictor, 'predict', predict)
    robot.start_camera()
    robot.listen(Image, DEPTH)
    node = make_node(**SMALL)
    robot.wait_for_match(node)
    robot.publish_clip(clip, range(4), node)
    robot.wait_until(working.is_set, 'work')
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    robot.wait_until(lambda: len(robot.received[DEPTH]) == 4, 'results of the window that was under way')


def test_a_model_that_is_not_there_fails_configure_in_one_line(
    make_node: Callable[..., VggtNode], caplog: pytest.LogCaptureFixture
) -> None:
    node = make_node(start=False, backend='vggt', checkpoint_path='/nowhere/weights.safetensors')
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert '/nowhere/weights.safetensors' in errors[0]
    assert node._state_machine.current_state[1] == 'unconfigured'


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_told_to(start_node: Callable[..., NodeProcess], number: signal.Signals) -> None:
    node = start_node(**SMALL)
    node.wait_for_text('waiting for images')
    assert node.stop(number) == 0
    assert 'Traceback' not in node.text
    assert 'ERROR' not in node.text


@pytest.mark.parametrize('seconds', [1.5, 60])
def test_it_ends_in_the_midst_of_work(
    robot: Robot, start_node: Callable[..., NodeProcess], clip: Clip, seconds: float
) -> None:
    robot.start_camera()
    node = start_node(before=SLOW.format(seconds=seconds), **SMALL, input_reliability='reliable')
    robot.wait_for_match()
    robot.publish_clip(clip, range(4), period_s=0.3)
    node.wait_for_text('working')
    start = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - start < 12.0  # the network is given five seconds to finish
    assert 'Traceback' not in node.text


@pytest.mark.parametrize(
    'parameters, said',
    [
        ({'window_size': 4, 'window_stride': 5}, 'window_stride must be at most window_size'),
        ({'backend': 'vggt', 'model_id': 'nono', 'local_files_only': True}, 'nono'),
    ],
)
def test_a_start_that_cannot_succeed_says_why_in_one_line(
    start_node: Callable[..., NodeProcess], parameters: dict[str, object], said: str
) -> None:
    node = start_node(**parameters)
    assert node.process.wait(DEADLINE_S) == 1
    assert said in node.text
    assert 'Traceback' not in node.text


def test_a_silent_camera_and_a_qos_that_does_not_fit_are_explained(
    robot: Robot, start_node: Callable[..., NodeProcess]
) -> None:
    robot.start_camera(reliable=False)
    node = start_node(**SMALL, input_reliability='reliable')
    node.wait_for_text(f'a publisher on {IMAGE} offers a QoS we cannot take')
    node.wait_for_text(f'no image on {IMAGE}: 1 publisher(s) there, 1 best effort, we ask for reliable')
    assert 'set input_reliability:=best_effort' in node.text
