"""The launch files: what they start exists, and is called as its own package calls it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from robot import IMAGE, ROOT, NodeProcess, Robot

from vggt_ros.core.config import Config, settings
from vggt_ros.node import STOP_S
from vggt_ros.topics import INPUTS, TOPICS, resolve

CONSUMERS = yaml.safe_load((Path(__file__).parent / 'consumers.yaml').read_text())
LAUNCH_FILES = sorted(path.name for path in (ROOT / 'launch').glob('*.launch.py'))
WITH_SETTINGS = [name for name in LAUNCH_FILES if name != 'relay.launch.py']  # that one starts no node with a network
WITH_NODE = [name for name in WITH_SETTINGS if name != 'fleet.launch.py']  # that one starts several
TYPES = {resolve(topic.name): topic.type for topic in TOPICS}


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
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation of every package that our launch files name, with nothing in it."""
    packages = {one['package'] for one in CONSUMERS.values() if 'package' in one} | {'rtabmap_viz'}
    for package in packages:
        index = tmp_path / 'share/ament_index/resource_index/packages' / package
        index.parent.mkdir(parents=True, exist_ok=True)
        index.touch()
        (tmp_path / 'share' / package).mkdir()
    params = tmp_path / 'share/nav2_bringup/params/nav2_params.yaml'
    params.parent.mkdir()
    params.write_text(NAV2_PARAMS)
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    return tmp_path


NAV2_PARAMS = """
controller_server:
  ros__parameters:
    controller_frequency: 20.0  # of this robot
local_costmap:
  local_costmap:
    ros__parameters:
      plugins: ["voxel_layer", "inflation_layer"]
      voxel_layer:
        plugin: "nav2_costmap_2d::VoxelLayer"
        observation_sources: scan
        scan: {topic: /scan, data_type: "LaserScan"}
global_costmap:
  global_costmap:
    ros__parameters:
      obstacle_layer:
        observation_sources: scan
"""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, prefix: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Load a launch file on recorders of the calls it makes: PyPI has no launch."""
    parts = {
        'launch': {'LaunchContext': Context, 'LaunchDescription': recorded('description')},
        'launch.actions': {
            name: recorded(name)
            for name in (
                'DeclareLaunchArgument', 'ExecuteProcess', 'GroupAction', 'IncludeLaunchDescription', 'OpaqueFunction',
                'SetEnvironmentVariable',
            )
        },
        'launch.launch_description_sources': {'PythonLaunchDescriptionSource': lambda path: path},
        'launch.substitutions': {'LaunchConfiguration': Configuration},
        'launch_ros': {},
        'launch_ros.actions': {'Node': recorded('node')},
        'launch_ros.substitutions': {'ExecutableInPackage': recorded('executable')},
    }  # fmt: skip
    for name, members in parts.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, 'vggt_ros.launch_parts', raising=False)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name.replace('.', '_'), ROOT / 'launch' / name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop('vggt_ros.launch_parts', None)  # it holds the recorders


def arguments_of(launch_file: ModuleType) -> dict[str, Any]:
    *arguments, _ = launch_file.generate_launch_description().args[0]
    return {argument.args[0]: argument for argument in arguments}


def start(launch_file: ModuleType, **given: str) -> list[Any]:
    *arguments, opaque = launch_file.generate_launch_description().args[0]
    context = Context({argument.args[0]: argument.default_value for argument in arguments})
    assert set(given) <= set(context), 'an argument that is not declared'
    return opaque.function(context | given)


def node_of(actions: list[Any], package: str = 'vggt_ros') -> Any:
    (node,) = (action for action in actions if getattr(action, 'package', '') == package)
    return node


def included_by(actions: list[Any]) -> tuple[str, dict[str, str]]:
    """The launch file of another package and its arguments; ours must not reach it."""
    (group,) = (action for action in actions if action.kind == 'GroupAction')
    assert (group.scoped, group.forwarding) == (True, False)
    (one,) = group.args[0]
    return one.args[0], dict(one.launch_arguments)


def flat(values: dict[str, Any], before: str = '') -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f'{before}{name}.')
        else:
            yield before + name


def parameters_in(file: str) -> dict[str, Any]:
    return yaml.safe_load(Path(file).read_text())['/**']['ros__parameters']


@pytest.mark.parametrize('name', WITH_SETTINGS)
def test_every_launch_file_takes_every_topic_frame_and_setting(load: Callable[[str], ModuleType], name: str) -> None:
    said = {argument: one.description for argument, one in arguments_of(load(name)).items()}
    assert all(one.help in said[one.name] for one in settings())
    assert {'namespace', 'base_frame', 'depth_image_rect_topic', 'tf_topic'} <= set(said)
    assert all(one.help in said[one.name] for one in INPUTS)
    assert sum(argument.endswith('_topic') for argument in said) >= len(TOPICS)
    assert all(said.values()), 'an argument without a sentence'


@pytest.mark.parametrize('name', WITH_NODE)
def test_every_launch_file_starts_our_node_with_parameters_it_has(load: Callable[[str], ModuleType], name: str) -> None:
    node = node_of(start(load(name)))
    assert (node.executable, node.name) == ('node', 'vggt')
    file, parameters = node.parameters
    assert file == str(ROOT / 'config/vggt.yaml')
    ours = {one: value for one, value in parameters.items() if one not in ('use_sim_time', 'autostart')}
    Config().with_values(ours)


@pytest.mark.parametrize('name', WITH_SETTINGS)
def test_every_file_a_launch_argument_names_is_there(load: Callable[[str], ModuleType], name: str) -> None:
    files = {one: a.default_value for one, a in arguments_of(load(name)).items() if one.endswith(('_file', '_config'))}
    assert files
    missing = [one for one, path in files.items() if path and not Path(path).is_file()]
    assert missing == []


def test_nothing_given_leaves_all_to_the_parameter_file(load: Callable[[str], ModuleType]) -> None:
    (node,) = start(load('vggt.launch.py'))
    assert node.parameters[-1] == {'use_sim_time': False, 'autostart': True}


def test_a_node_can_be_asked_to_come_back(load: Callable[[str], ModuleType]) -> None:
    assert node_of(start(load('vggt.launch.py'), respawn='true')).arguments == ['--respawn']
    assert not node_of(start(load('vggt.launch.py'))).arguments


def test_launch_waits_longer_for_the_end_than_the_node_does_for_its_window(load: Callable[[str], ModuleType]) -> None:
    (node,) = start(load('vggt.launch.py'))
    assert float(node.sigterm_timeout) > STOP_S


def test_arguments_reach_the_node_in_the_type_of_their_setting(load: Callable[[str], ModuleType]) -> None:
    given = {'voxel_size': '1', 'window_size': '6', 'standalone': 'True', 'base_frame': 'trunk'}
    parameters = node_of(start(load('vggt.launch.py'), **given)).parameters[-1]
    assert parameters['voxel_size'] == 1.0
    assert isinstance(parameters['voxel_size'], float)
    assert (parameters['window_size'], parameters['standalone'], parameters['base_frame']) == (6, True, 'trunk')


def test_topics_are_remapped_and_rviz_follows(load: Callable[[str], ModuleType]) -> None:
    given = {'image': '/cam/image_raw', 'camera_info': '/cam/info', 'namespace': 'robot1', 'name': 'eyes'}
    actions = start(load('vggt.launch.py'), rviz='true', odom_topic='vo', tf_topic='tf', **given)
    node, rviz = node_of(actions), node_of(actions, 'rviz2')
    assert node.remappings == [
        ('image', '/cam/image_raw'), ('camera_info', '/cam/info'), ('/tf', 'tf'), ('~/odom', 'vo'),
    ]  # fmt: skip
    shown = dict(rviz.remappings)
    assert shown['/vggt/points'] == '/robot1/eyes/points'
    assert shown['/vggt/odom'] == '/robot1/vo'
    assert shown['/image'] == '/cam/image_raw'
    assert shown['/tf'] == '/robot1/tf'


@pytest.mark.parametrize(
    'given, says',
    [({'standalone': 'maybe'}, 'maybe'), ({'window_size': 'many'}, 'window_size must be int')],
)
def test_an_argument_that_means_nothing_is_refused(
    load: Callable[[str], ModuleType], given: dict[str, str], says: str
) -> None:
    launch_file = load('vggt.launch.py')
    with pytest.raises(Exception, match=says) as refused:
        start(launch_file, **given)
    assert type(refused.value).__name__ == 'LaunchError'


@pytest.mark.parametrize(
    'name, consumer',
    [
        ('rtabmap', 'rtabmap'),
        ('nvblox', 'nvblox'),
        ('octomap', 'octomap'),
        ('nav2', 'depthimage_to_laserscan'),
        ('usb_cam', 'usb_cam'),
    ],
)
def test_other_nodes_are_started_as_their_packages_name_things(
    load: Callable[[str], ModuleType], name: str, consumer: str
) -> None:
    known = CONSUMERS[consumer]
    node = node_of(start(load(f'{name}.launch.py')), known['package'])
    assert node.executable == known['executable']
    file, parameters = node.parameters
    known_parameters = {*known['parameters'], 'use_sim_time'}
    assert set(flat(parameters_in(file))) <= known_parameters
    assert set(parameters) <= known_parameters
    remapped = dict(node.remappings) if 'topics' in known else {}
    for topic, kind in known.get('topics', {}).items():
        assert TYPES[remapped[topic]] == kind, topic


DRIVERS = {'realsense': '/camera/camera/', 'zed': '/zed/zed_node/', 'usb_cam': '/camera/'}


@pytest.mark.parametrize('name', DRIVERS)
def test_the_image_is_one_that_the_driver_publishes(load: Callable[[str], ModuleType], name: str) -> None:
    node = node_of(start(load(f'{name}.launch.py')))
    image = dict(node.remappings)['image'].removeprefix(DRIVERS[name])
    assert CONSUMERS[name]['publishes'][image] == 'sensor_msgs/msg/Image'
    info = image.rpartition('/')[0] + '/camera_info'  # where the node looks for it
    assert CONSUMERS[name]['publishes'][info.lstrip('/')] == 'sensor_msgs/msg/CameraInfo'


@pytest.mark.parametrize('name, given', [('realsense', {'enable_depth': 'true'}), ('zed', {})])
def test_a_camera_that_measures_depth_tells_metres(
    load: Callable[[str], ModuleType], name: str, given: dict[str, str]
) -> None:
    node = node_of(start(load(f'{name}.launch.py'), **given))
    assert node.parameters[-1]['scale_source'] == 'depth'
    anchor = dict(node.remappings)['depth_anchor'].removeprefix(DRIVERS[name])
    assert CONSUMERS[name]['publishes'][anchor] == 'sensor_msgs/msg/Image'
    assert 'scale_source' not in node_of(start(load('realsense.launch.py'))).parameters[-1]


@pytest.mark.parametrize('name', ['realsense', 'zed', 'nav2'])
def test_included_launch_files_take_the_arguments_we_give(load: Callable[[str], ModuleType], name: str) -> None:
    path, arguments = included_by(start(load(f'{name}.launch.py')))
    known = CONSUMERS[name]
    assert path.endswith(f'share/{known["package"]}/launch/{known["launch_file"]}')
    assert set(arguments) <= set(known['arguments'])


def test_a_camera_in_the_hand_has_its_body_as_the_robot(load: Callable[[str], ModuleType]) -> None:
    def base_frame(name: str, **given: str) -> object:
        return node_of(start(load(name), **given)).parameters[-1].get('base_frame')

    assert base_frame('realsense.launch.py', camera_name='front') == 'front_link'
    assert base_frame('realsense.launch.py', base_frame='base_link') == 'base_link'
    assert base_frame('zed.launch.py') == 'zed_camera_link'


def test_one_node_owns_every_transform(load: Callable[[str], ModuleType]) -> None:
    def flags(name: str, **given: str) -> dict[str, Any]:
        return node_of(start(load(name), **given)).parameters[-1]

    assert flags('rtabmap.launch.py')['publish_map_to_odom_tf'] is False
    nav2 = flags('nav2.launch.py')
    assert (nav2['publish_odom_to_base_tf'], nav2['scale_source']) == (False, 'tf')
    _, wrapper = included_by(start(load('zed.launch.py')))
    assert (wrapper['publish_tf'], wrapper['publish_map_tf']) == ('false', 'false')


def test_the_cameras_of_a_rig_get_their_images_and_consumers_the_first(load: Callable[[str], ModuleType]) -> None:
    given = {'camera_names': 'left,right', 'images': '/l/image,/r/image', 'points_filtered_topic': '/cloud'}
    node = node_of(start(load('octomap.launch.py'), **given))
    remapped = dict(node.remappings)
    assert (remapped['left/image'], remapped['right/image']) == ('/l/image', '/r/image')
    assert remapped['~/left/points_filtered'] == '/cloud'
    actions = start(load('nvblox.launch.py'), camera_names='left,right', base_frame='base_link')
    assert dict(node_of(actions, 'nvblox_ros').remappings)['camera_0/depth/image'] == '/vggt/left/depth/image_rect'
    launch_file = load('vggt.launch.py')
    with pytest.raises(Exception, match='expected 2 images'):
        start(launch_file, camera_names='left,right', images='/l/image')


def test_sensors_that_tell_metres_and_up_can_be_remapped(load: Callable[[str], ModuleType]) -> None:
    given = {'odom': '/wheels/odom', 'imu': '/imu/data', 'depth_anchor': '/tof/depth', 'lidar': '/scanner/points'}
    node = node_of(start(load('vggt.launch.py'), **given))
    assert set(given.items()) <= set(node.remappings)


def test_consumers_follow_names_and_frames(load: Callable[[str], ModuleType]) -> None:
    given = {'name': 'eyes', 'namespace': 'robot1', 'base_frame': 'trunk', 'odom_frame': 'start'}
    node = node_of(start(load('nvblox.launch.py'), **given), 'nvblox_ros')
    assert dict(node.remappings)['camera_0/depth/image'] == '/robot1/eyes/depth/image_rect'
    assert node.parameters[-1]['global_frame'] == 'start'
    assert node.parameters[-1]['map_clearing_frame_id'] == 'trunk'
    node = node_of(start(load('rtabmap.launch.py'), odom_topic='/vo', **given), 'rtabmap_slam')
    assert dict(node.remappings)['odom'] == '/vo'


def test_a_consumer_alone_is_started_beside_a_node_that_runs(load: Callable[[str], ModuleType]) -> None:
    actions = start(load('octomap.launch.py'), vggt='false')
    assert [action.package for action in actions] == ['octomap_server']


def test_nav2_keeps_its_parameters_and_gets_our_clouds(load: Callable[[str], ModuleType]) -> None:
    actions = start(load('nav2.launch.py'), name='eyes', scan_topic='/depth_scan')
    _, arguments = included_by(actions)
    text = Path(arguments['params_file']).read_text()
    assert '# of this robot' in text
    merged = yaml.safe_load(text)
    layer = merged['local_costmap']['local_costmap']['ros__parameters']['voxel_layer']
    assert layer['plugin'] == 'nav2_costmap_2d::VoxelLayer'
    assert layer['observation_sources'] == 'vggt'
    assert layer['vggt']['topic'] == '/eyes/points_filtered'
    obstacles = merged['global_costmap']['global_costmap']['ros__parameters']['obstacle_layer']
    assert obstacles['vggt'] == layer['vggt']
    assert merged['slam_toolbox']['ros__parameters']['scan_topic'] == '/depth_scan'
    assert (arguments['slam'], arguments['use_sim_time']) == ('True', 'false')


def test_nav2_without_slam_wants_a_map(load: Callable[[str], ModuleType]) -> None:
    launch_file = load('nav2.launch.py')
    with pytest.raises(Exception, match='map:=FILE'):
        start(launch_file, slam='false')


def test_nvblox_is_not_given_intrinsics_that_change(load: Callable[[str], ModuleType]) -> None:
    launch_file = load('nvblox.launch.py')
    with pytest.raises(Exception, match='per_window'):
        start(launch_file, intrinsics_mode='per_window')


def test_a_package_that_is_missing_is_named_with_the_way_to_it(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path / 'empty'))
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    launch_file = load('octomap.launch.py')
    with pytest.raises(Exception, match='sudo apt install ros-jazzy-octomap-server'):
        start(launch_file)


def test_the_demo_plays_a_clip_that_ships_into_the_topics_of_the_node(load: Callable[[str], ModuleType]) -> None:
    actions = start(load('demo_bag.launch.py'))
    node = node_of(actions)
    assert node.parameters[-1]['use_sim_time'] is True
    assert node.parameters[-1]['standalone'] is True
    (player,) = (action for action in actions if action.kind == 'ExecuteProcess')
    program, *words = player.cmd
    assert (program.package, program.executable) == ('vggt_ros', 'vggt_ros')
    assert (Path(words[1]) / 'camera.json').is_file()
    from vggt_ros.cli import _parser
    from vggt_ros.replay import CAMERA

    assert _parser('replay').parse_args(words).clock > 0
    assert dict(node.remappings)['image'] == f'{CAMERA}/image_raw'


@pytest.mark.parametrize('file', ['nav2.yaml', 'nav2_stvl.yaml'])
def test_costmap_values_are_ones_that_nav2_reads(file: str) -> None:
    values = yaml.safe_load((ROOT / 'config' / file).read_text())
    known = {'stvl': {*CONSUMERS['stvl']['parameters']}, 'obstacle': {*CONSUMERS['nav2']['observation']}}
    layers = [
        layer
        for costmap in ('local_costmap', 'global_costmap') if costmap in values
        for layer in values[costmap][costmap]['ros__parameters'].values() if isinstance(layer, dict)
    ]  # fmt: skip
    assert layers
    for layer in layers:
        names = known['stvl'] if 'plugin' in layer else known['obstacle']
        for source in layer['observation_sources'].split():
            assert TYPES[layer[source]['topic']] == 'sensor_msgs/msg/PointCloud2'
            assert set(layer[source]) <= names
        assert {name for name in layer if not isinstance(layer[name], dict)} <= names
    assert set(values['slam_toolbox']['ros__parameters']) <= {*CONSUMERS['slam_toolbox']['parameters']}


def test_core_parameters_of_rtabmap_are_text() -> None:
    values = parameters_in(str(ROOT / 'config/rtabmap.yaml'))
    assert all(isinstance(value, str) for name, value in values.items() if '/' in name)


def test_parameter_file_holds_settings_that_differ_from_the_defaults() -> None:
    values = parameters_in(str(ROOT / 'config/vggt.yaml'))
    config = Config().with_values(values)
    assert all(config.values()[name] != Config().values()[name] for name in values)


def test_a_topic_that_launch_renames_is_published_under_its_new_name(
    load: Callable[[str], ModuleType], start_node: Callable[..., NodeProcess], robot: Robot
) -> None:
    given = {'image': IMAGE, 'odom_topic': '/vo', 'points_topic': 'clouds/raw', 'tf_topic': '/robot1/tf'}
    remappings = dict(node_of(start(load('vggt.launch.py'), **given)).remappings)
    node = start_node(remappings=remappings)
    node.wait_for_text('waiting for images on')
    expected = {'/vo': 'nav_msgs/msg/Odometry', '/clouds/raw': 'sensor_msgs/msg/PointCloud2'}
    expected['/robot1/tf'] = 'tf2_msgs/msg/TFMessage'

    robot.wait_until(lambda: 'vggt' in robot.get_node_names(), 'node')
    robot.wait_until(lambda: set(expected) <= set(robot.published_by('vggt')), 'renamed topics')
    assert {name: kinds for name, kinds in robot.published_by('vggt').items() if name in expected} == {
        name: [kind] for name, kind in expected.items()
    }
    assert not {'/vggt/odom', '/vggt/points', '/tf'} & set(robot.published_by('vggt'))


def test_the_two_ends_of_a_link_fit_together(load: Callable[[str], ModuleType]) -> None:
    """What the relay publishes is what the node at the other end listens to, over the same Fast DDS profile."""
    environment, relay = start(load('relay.launch.py'), image='/camera/image_raw', width='128', multiple='8')
    assert (relay.executable, relay.name) == ('relay', 'relay')
    assert relay.remappings == [('image', '/camera/image_raw')]
    (parameters,) = relay.parameters
    assert (parameters['width'], parameters['multiple'], parameters['format']) == (128, 8, 'jpeg')
    from vggt_ros import relay as relay_module

    assert set(parameters) - {'use_sim_time'} <= {*relay_module.OWN, *relay_module.SHARED}
    other_environment, node = start(load('offboard.launch.py'))
    assert dict(node.remappings) == {'image': '/relay/image_rect', 'mask': '/relay/mask'}
    assert node.parameters[-1]['image_transport'] == 'compressed'
    assert environment.args == other_environment.args
    assert Path(environment.args[1]).is_file()
    assert len(start(load('offboard.launch.py'), dds_profile='')) == 1


def test_a_fleet_gets_what_all_robots_share(load: Callable[[str], ModuleType]) -> None:
    (fleet,) = start(load('fleet.launch.py'), robots='a,b', image='camera/image_raw', window_size='6', shared_tf='true')
    assert fleet.executable == 'fleet'
    assert fleet.arguments == ['--robots', 'a,b', '--max-batch-size', '0', '--shared-tf']
    assert fleet.remappings == [('image', 'camera/image_raw')]
    assert fleet.parameters[-1]['window_size'] == 6
    assert not hasattr(fleet, 'name')  # else all nodes of the process would have it
