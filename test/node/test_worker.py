"""The small clocks of the worker, without ROS around them, and the names that a node resolves."""

from __future__ import annotations

import pytest
import rclpy
from rclpy.node import Node

from vggt_ros.core.errors import PredictionError
from vggt_ros.live.inputs import resolve_topics
from vggt_ros.live.silence import Silence
from vggt_ros.live.worker import explain
from vggt_ros.throttle import Throttle


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_silence_is_told_once_and_begins_anew_with_an_image() -> None:
    clock = Clock()
    silence = Silence(clock, clock)
    clock.now = 10.0
    assert not silence.lasts(2.0)  # no image has come at all
    silence.end()
    clock.now = 11.9
    assert not silence.lasts(2.0)
    clock.now = 12.0
    assert silence.lasts(2.0)
    assert not silence.lasts(2.0)
    silence.end()
    clock.now = 14.5
    assert silence.lasts(2.0)


def test_a_bag_played_slowly_is_not_silent() -> None:
    data, steady = Clock(), Clock()
    silence = Silence(data, steady)
    silence.end()
    for tick in range(1, 100):  # ten seconds on the wall are one second of the recording
        data.now, steady.now = 0.01 * tick, 0.1 * tick
        assert not silence.lasts(2.0)


def test_a_clock_that_stopped_with_its_bag_counts_as_silence() -> None:
    data, steady = Clock(), Clock()
    silence = Silence(data, steady)
    data.now = steady.now = 5.0
    silence.end()
    steady.now = 6.9
    assert not silence.lasts(2.0)
    steady.now = 7.0
    assert silence.lasts(2.0)


def test_the_same_thing_is_said_once_then_at_intervals_with_a_count() -> None:
    clock, said = Clock(), []
    throttle = Throttle(10.0, clock)
    for second in range(25):
        clock.now = second
        throttle(said.append, 'camera', 'no image')
    throttle(said.append, 'tf', 'no TF')
    assert said == [
        'no image',
        'no image (9 more times since it was said last)',
        'no image (9 more times since it was said last)',
        'no TF',
    ]


def test_out_of_memory_is_seen_through_what_wraps_it() -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch.cuda's is called."""

    wrapped = PredictionError('the network failed')
    wrapped.__cause__ = OutOfMemoryError('CUDA out of memory')
    assert 'lower window_size' in explain(wrapped)
    assert explain(PredictionError('the network failed')) == 'the network failed'
    assert explain(KeyError('x')) == "KeyError: 'x'"


@pytest.mark.parametrize(
    'rules, compressed, expected',
    [
        ({'image': '/camera/image_raw'}, False, ('/camera/image_raw', '/camera/camera_info')),
        ({'image': '/camera/image_raw'}, True, ('/camera/image_raw/compressed', '/camera/camera_info')),
        ({'image': '/left/image', 'camera_info': '/rig/left_info'}, False, ('/left/image', '/rig/left_info')),
        ({'image': '/left/image', '/left/camera_info': '/info'}, False, ('/left/image', '/info')),
        ({}, False, ('/robot/image', '/robot/camera_info')),
    ],
)
def test_the_calibration_is_looked_for_beside_the_image(
    rules: dict[str, str], compressed: bool, expected: tuple[str, str]
) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    arguments = ['--ros-args', *(word for rule in rules.items() for word in ('-r', ':='.join(rule)))]
    node = Node('named', namespace='/robot', context=context, cli_args=arguments, start_parameter_services=False)
    assert resolve_topics(node, compressed) == expected
    node.destroy_node()
    rclpy.shutdown(context=context)
