"""Settings as ROS parameters: values in, Config out; nonsense is refused and changes nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from vggt_ros.core.config import Config, settings
from vggt_ros.core.errors import ConfigError
from vggt_ros.parameters import Parameters, initialise


@pytest.fixture
def context() -> Iterator[rclpy.Context]:
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


def make_node(context: rclpy.Context, **overrides: object) -> Node:
    given = [Parameter(name, value=value) for name, value in overrides.items()]
    return Node('settings', context=context, parameter_overrides=given, start_parameter_services=False)


def test_nothing_given_means_the_defaults_of_the_core(context: rclpy.Context) -> None:
    assert Parameters(make_node(context)).config == Config()


def test_given_values_reach_the_config(context: rclpy.Context) -> None:
    parameters = Parameters(make_node(context, window_size=6, window_stride=3, voxel_size=0.05, standalone=True))
    config = parameters.config
    assert (config.window.size, config.window.stride) == (6, 3)
    assert config.cloud.voxel_size == 0.05
    assert config.frames.standalone is True


def test_every_parameter_says_what_it_does_and_what_is_allowed(context: rclpy.Context) -> None:
    node = make_node(context)
    Parameters(node)
    for one in settings():
        descriptor = node.describe_parameter(one.name)
        assert descriptor.description == one.help
        assert descriptor.read_only is not one.dynamic
    assert node.describe_parameter('window_size').integer_range[0].to_value == 64
    assert node.describe_parameter('max_latency_s').floating_point_range[0].from_value == 0.1
    assert 'bf16' in node.describe_parameter('precision').additional_constraints


@pytest.mark.parametrize(
    'name, value, said',
    [
        ('window_size', 65, '64'),
        ('window_stride', 9, 'window_stride must be at most window_size'),  # of 8: two settings contradict each other
        ('scale', 1, 'float'),
        ('scale', 0.0, 'above 0'),
        ('precision', 'int8', 'bf16'),
        ('device', 3, 'str'),
    ],
)
def test_a_bad_value_at_the_start_names_the_parameter_and_the_bound(
    context: rclpy.Context, name: str, value: object, said: str
) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        Parameters(make_node(context, **{name: value}))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    'name, value, said',
    [
        ('max_latency_s', 20.0, '9.0'),
        ('cloud_stride', 0, '1'),
        ('voxel_size', 0.0, 'above 0'),
        ('publish_frames', 'all', 'latest'),
        ('voxel_size', 'small', 'type'),
        ('window_size', 4, 'read-only'),
    ],
)
def test_a_bad_change_is_refused_with_a_reason_and_changes_nothing(
    context: rclpy.Context, name: str, value: object, said: str
) -> None:
    node = make_node(context)
    parameters = Parameters(node)
    before = parameters.config
    (result,) = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful
    assert said in result.reason
    assert parameters.config == before


def test_a_good_change_of_a_dynamic_setting_is_seen(context: rclpy.Context) -> None:
    node = make_node(context)
    parameters = Parameters(node)
    results = node.set_parameters([Parameter('voxel_size', value=0.1), Parameter('cloud_stride', value=3)])
    assert all(result.successful for result in results)
    assert (parameters.config.cloud.voxel_size, parameters.config.cloud.cloud_stride) == (0.1, 3)


@pytest.mark.parametrize('text', ['[', 'vggt: 3', '/**:\n  ros__parameters:\n    x: {', '\xff'])
def test_a_broken_parameter_file_is_said_in_words(tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'p.yaml').write_bytes(text.encode('latin-1'))
    with pytest.raises(ConfigError, match='parameter file'):
        initialise(['--ros-args', '--params-file', str(tmp_path / 'p.yaml')], rclpy.Context())
    capfd.readouterr()  # rcl prints what it thinks, too


@pytest.mark.parametrize('words', [['vggt_ros.relay'], ['vggt_ros.fleet', '--robots', 'r1']], ids=['relay', 'fleet'])
def test_the_other_programs_end_on_a_broken_parameter_file_too(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / 'p.yaml').write_text('[')
    command = [sys.executable, '-m', *words, '--ros-args', '--params-file', str(tmp_path / 'p.yaml')]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert 'parameter file' in done.stderr.splitlines()[-1]


def test_a_parameter_without_a_value_is_named(tmp_path: Path) -> None:
    (tmp_path / 'p.yaml').write_text('/**:\n  ros__parameters:\n    scale_min_observations: []\n')
    context = rclpy.Context()
    initialise(['--ros-args', '--params-file', str(tmp_path / 'p.yaml')], context)
    node = Node('settings', context=context, start_parameter_services=False)
    try:
        with pytest.raises(ConfigError, match='scale_min_observations'):
            Parameters(node)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
