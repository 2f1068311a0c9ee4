"""Launch file, parameter file, QoS overrides and RViz view: what they name exists, and means what they say."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from robot import ROOT

from vggt_ros.core.config import Config, settings
from vggt_ros.topics import TOPICS, resolve


class Context(dict):
    """What launch hands to an OpaqueFunction: the arguments by name."""


class Configuration:
    def __init__(self, name: str) -> None:
        self.name = name

    def perform(self, context: Context) -> str:
        return context[self.name]


def recorded(kind: str) -> Any:
    """A class that keeps what it was made of."""
    return lambda *args, **kwargs: SimpleNamespace(kind=kind, args=args, **kwargs)


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The launch file, run against the real launch where it is installed, else against recorders of its calls."""
    parts = {
        'launch': {'LaunchContext': Context, 'LaunchDescription': recorded('description')},
        'launch.actions': {name: recorded(name) for name in ('DeclareLaunchArgument', 'OpaqueFunction')},
        'launch.conditions': {'IfCondition': recorded('if')},
        'launch.substitutions': {'LaunchConfiguration': Configuration},
        'launch_ros': {},
        'launch_ros.actions': {'Node': recorded('node')},
    }
    for name, members in parts.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location('vggt_launch', ROOT / 'launch/vggt.launch.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(launch_file: ModuleType, **given: str) -> list[Any]:
    *arguments, opaque = launch_file.generate_launch_description().args[0]
    context = Context({argument.args[0]: argument.default_value for argument in arguments})
    assert set(given) <= set(context), 'an argument that is not declared'
    return opaque.function(context | given)


def test_every_setting_is_a_launch_argument_with_its_sentence(launch_file: ModuleType) -> None:
    *arguments, _ = launch_file.generate_launch_description().args[0]
    said = {argument.args[0]: argument.description for argument in arguments}
    for one in settings():
        assert one.help in said[one.name]


def test_nothing_given_leaves_all_to_the_parameter_file(launch_file: ModuleType) -> None:
    node, _ = start(launch_file)
    file, parameters = node.parameters
    assert file == str(ROOT / 'config/vggt.yaml')
    assert parameters == {'use_sim_time': False, 'autostart': True}
    assert (node.package, node.executable, node.name) == ('vggt_ros', 'node', 'vggt')


def test_arguments_reach_the_node_in_the_type_of_their_setting(launch_file: ModuleType) -> None:
    node, _ = start(launch_file, voxel_size='1', window_size='6', standalone='True', base_frame='trunk')
    parameters = node.parameters[-1]
    assert parameters['voxel_size'] == 1.0
    assert isinstance(parameters['voxel_size'], float)
    assert (parameters['window_size'], parameters['standalone'], parameters['base_frame']) == (6, True, 'trunk')
    Config().with_values({name: value for name, value in parameters.items() if name in Config().values()})


def test_topics_are_remapped_and_rviz_follows_the_namespace(launch_file: ModuleType) -> None:
    node, rviz = start(launch_file, image='/cam/image_raw', camera_info='/cam/info', namespace='robot1', name='eyes')
    assert node.remappings == [('image', '/cam/image_raw'), ('camera_info', '/cam/info')]
    assert ('/vggt/points', '/robot1/eyes/points') in rviz.remappings
    assert ('/image', '/cam/image_raw') in rviz.remappings


def test_a_boolean_that_is_none_is_refused(launch_file: ModuleType) -> None:
    with pytest.raises(ValueError, match='maybe'):
        start(launch_file, standalone='maybe')


def test_parameter_file_holds_settings_that_differ_from_the_defaults() -> None:
    (section,) = yaml.safe_load((ROOT / 'config/vggt.yaml').read_text()).values()
    values = section['ros__parameters']
    config = Config().with_values(values)
    assert all(config.values()[name] != Config().values()[name] for name in values)


def test_rviz_shows_topics_that_exist_with_their_types_and_durability() -> None:
    kinds = {
        'PointCloud2': 'sensor_msgs/msg/PointCloud2',
        'Path': 'nav_msgs/msg/Path',
        'PoseArray': 'geometry_msgs/msg/PoseArray',
        'Odometry': 'nav_msgs/msg/Odometry',
        'Image': 'sensor_msgs/msg/Image',
    }
    ours = {resolve(topic.name): topic for topic in TOPICS}
    view = yaml.safe_load((ROOT / 'rviz/vggt.rviz').read_text())['Visualization Manager']
    shown = {display['Topic']['Value']: display for display in view['Displays'] if 'Topic' in display}
    assert {'/image', '/vggt/points', '/vggt/map_points', '/vggt/path', '/vggt/depth/image_color'} <= set(shown)
    for name, display in shown.items():
        if name == '/image':
            continue
        assert kinds[display['Class'].split('/')[1]] == ours[name].type
        latched = display['Topic']['Durability Policy'] == 'Transient Local'
        assert latched == ours[name].latched, name
    assert view['Global Options']['Fixed Frame'] == Config().frames.odom_frame


def test_qos_overrides_are_written_as_rosbag2_reads_them() -> None:
    policies = {
        'history': ('keep_last', 'keep_all'),
        'reliability': ('reliable', 'best_effort'),
        'durability': ('volatile', 'transient_local'),
    }
    topics = yaml.safe_load((ROOT / 'config/qos_overrides.yaml').read_text())
    assert topics['/tf_static']['durability'] == 'transient_local'
    for profile in topics.values():
        assert isinstance(profile['depth'], int)
        assert all(profile[name] in words for name, words in policies.items())
