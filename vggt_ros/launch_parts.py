"""What the launch files are made of: arguments declared once, the node, RViz, and the way to other packages."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.substitutions import ExecutableInPackage

from vggt_ros.core.config import Config, Setting, settings
from vggt_ros.dds import wireless_profile
from vggt_ros.distro import this_distro
from vggt_ros.topics import INPUTS, NODE_NAME, TOPIC, TOPICS, Topic, camera_topic, resolve

# Seconds from Ctrl-C to SIGTERM, as launch wants them: the node waits up to five for the window being computed, and
# takes some to end on a machine that is busy; launch's own patience is five.
STOP_S = '15'
# Where packages come from that no ROS distribution carries as apt packages.
SOURCES = {
    'zed_wrapper': 'see https://github.com/stereolabs/zed-ros2-wrapper',
    'nvblox_ros': 'see https://github.com/NVIDIA-ISAAC-ROS/isaac_ros_nvblox',
}


class LaunchError(Exception):
    """A launch argument that cannot be, or a package that is not installed."""


@dataclass(frozen=True)
class Argument:
    """One launch argument.

    Args:
        name: as on the command line.
        default: its value, as text, when nobody says otherwise.
        help: what it does, in one sentence; `--show-args` shows it.
        choices: the words allowed; empty allows all.
    """

    name: str
    default: str
    help: str
    choices: tuple[str, ...] = ()


DDS_PROFILE = Argument(
    'dds_profile', str(wireless_profile()), 'Fast DDS profile of both ends of a link; empty leaves it as it is'
)
NODE_TOO = Argument('vggt', 'true', 'start our node too; false where it runs already')  # of those that start a consumer


class Given(dict[str, str]):
    """The launch arguments by name, as text, once they are known.

    Settings of the node that were not given are empty; `fill` puts in what a launch file thinks best for them.
    """

    def fill(self, **better: str) -> None:
        """Take these values for settings that nobody gave."""
        for name, text in better.items():
            if name not in self:
                raise LaunchError(f'no launch argument {name!r}')
            self[name] = self[name] or text

    def is_true(self, name: str) -> bool:
        """A boolean argument."""
        return is_true(self[name])

    def setting(self, name: str) -> str:
        """A setting of the node as text; its default where nobody gave it."""
        return self[name] or str(Config().values()[name])

    def topic(self, name: str) -> str:
        """The absolute name of one of our topics, such as '~/odom'; of a rig's, the reference camera's."""
        given = self[topic_argument(TOPIC[name])]
        if given:
            return self._absolute(given)
        name = self._own(TOPIC[name])
        return self._absolute(f'{self["name"]}{name[1:]}') if name.startswith('~') else name

    def image(self) -> str:
        """The absolute name of the image topic."""
        return self._absolute(self['image'])

    def remappings(self) -> list[tuple[str, str]]:
        """The names of our node that were given others."""
        pairs = [(one.name, self[one.name]) for one in INPUTS]
        pairs += [(f'{name}/image', image) for name, image in zip(self._cameras(), self._images(), strict=False)]
        pairs += [(self._own(topic), self[topic_argument(topic)]) for topic in TOPICS]
        return [(name, given) for name, given in pairs if given and given != name]

    def _cameras(self) -> tuple[str, ...]:
        return Config().with_values({'camera_names': self.setting('camera_names')}).rig.cameras

    def _images(self) -> list[str]:
        images = self['images'].split(',') if self['images'] else []
        if images and len(images) != len(self._cameras()):
            expected = f'{len(self._cameras())} images, one for each of camera_names'
            raise LaunchError(f'expected {expected}, got {len(images)}')
        return images

    def _own(self, topic: Topic) -> str:
        """The topic as our node declares it; of a rig's, the reference camera's."""
        cameras = self._cameras()
        return camera_topic(topic.name, cameras[0]) if cameras and topic.per_camera else topic.name

    def _absolute(self, name: str) -> str:
        namespace = self['namespace'].strip('/')
        return name if name.startswith('/') else f'/{namespace}/{name}' if namespace else f'/{name}'


def node_arguments(share: Path) -> list[Argument]:
    """Everything the node takes: its inputs, its name, every topic it publishes, every setting.

    Args:
        share: folder with config/ and rviz/; the source tree and share/vggt_ros are laid out alike.
    """
    return [
        *(Argument(one.name, 'image' if one.name == 'image' else '', f'topic of {one.help}') for one in INPUTS),
        Argument('images', '', 'image topics of a rig, separated by commas, in the order of camera_names'),
        Argument('name', NODE_NAME.lstrip('/'), 'name of the node'),
        Argument('namespace', '', 'namespace of the node'),
        Argument('params_file', str(share / 'config/vggt.yaml'), 'parameter file; launch arguments win over it'),
        Argument('use_sim_time', 'false', 'take the time from /clock, as when a bag is played with --clock'),
        Argument('autostart', 'true', 'configure and activate at once; false leaves that to a lifecycle manager'),
        Argument('respawn', 'false', 'start the node again within a second or two wherever it ends by an error'),
        Argument('rviz', 'false', 'show the results in RViz'),
        Argument('rviz_config', str(share / 'rviz/vggt.rviz'), 'RViz configuration'),
        Argument('rviz_frame', '', 'fixed frame of RViz; empty takes odom_frame'),
        Argument('log_level', 'info', 'debug, info, warn or error'),
        *(Argument(topic_argument(one), '', f'another name for {one.name}: {one.help}') for one in TOPICS),
        *(Argument(one.name, '', f'{one.help} (default: {one.default!r})') for one in settings()),
    ]


def topic_argument(topic: Topic) -> str:
    """The launch argument that renames a topic: '~/depth/image_rect' -> 'depth_image_rect_topic'."""
    return topic.name.lstrip('~/').replace('/', '_') + '_topic'


def description(
    start: Callable[[Given], Sequence[Any]],
    share: Path,
    arguments: Iterable[Argument] = (),
    defaults: Mapping[str, str] | None = None,
    *,
    with_node: bool = True,
) -> LaunchDescription:
    """A launch file: its arguments and those of the node first, so that `--show-args` shows them and starts nothing.

    Args:
        start: makes the actions, once the arguments are known.
        share: folder with config/ and rviz/.
        arguments: of this launch file alone.
        defaults: other values for arguments of the node.
        with_node: false for a launch file that does not start it.
    """
    defaults = dict(defaults or {})
    declared = [*arguments, *(node_arguments(share) if with_node else ())]
    unknown = set(defaults) - {one.name for one in declared}
    if unknown:
        raise LaunchError(f'no launch argument {", ".join(sorted(unknown))}')

    def begin(context: LaunchContext) -> list[Any]:
        texts = {one.name: LaunchConfiguration(one.name).perform(context) for one in declared}
        _check_choices(declared, texts)
        return list(start(Given(texts)))

    return LaunchDescription([
        *(DeclareLaunchArgument(one.name, default_value=defaults.get(one.name, one.default), description=one.help)
          for one in declared),
        OpaqueFunction(function=begin),
    ])  # fmt: skip


def vggt(given: Given) -> list[Any]:
    """The node and, when asked for, RViz."""
    node = program(
        given,
        'node',
        name=given['name'],
        namespace=given['namespace'],
        parameters=parameters_of(given),
        remappings=given.remappings(),
        arguments=['--respawn'] if given.is_true('respawn') else None,
        sigterm_timeout=STOP_S,
    )
    return [node, rviz(given)] if given.is_true('rviz') else [node]


def program(given: Given, executable: str, **options: Any) -> Node:
    """One of our own executables: it says on the screen what `log_level` asks for."""
    return Node(
        package='vggt_ros',
        executable=executable,
        ros_arguments=['--log-level', given['log_level']],
        output='screen',
        emulate_tty=True,
        **options,
    )


def parameters_of(given: Given) -> list[Any]:
    """What a Node action takes: the parameter file, and over it the settings that were given."""
    parameters: dict[str, bool | int | float | str] = {
        one.name: parse(one, given[one.name]) for one in settings() if given[one.name]
    }
    parameters['use_sim_time'] = given.is_true('use_sim_time')
    parameters['autostart'] = given.is_true('autostart')
    return [given['params_file'], parameters] if given['params_file'] else [parameters]


def for_a_lossy_link(given: Given) -> list[Any]:
    """Fast DDS as the argument DDS_PROFILE says, for all that is started after this."""
    path = given[DDS_PROFILE.name]
    return [SetEnvironmentVariable(this_distro().profiles_variable, path)] if path else []


def node_too(given: Given) -> list[Any]:
    """The same for launch files with the argument NODE_TOO: nothing where the node runs already."""
    return vggt(given) if given.is_true(NODE_TOO.name) else []


def rviz(given: Given) -> Node:
    """RViz on the topics of this node: those of the configuration, renamed."""
    ours = [(resolve(one.name), given.topic(one.name)) for one in TOPICS]
    return Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', given['rviz_config'], '-f', given['rviz_frame'] or given.setting('odom_frame')],
        parameters=[{'use_sim_time': given.is_true('use_sim_time')}],
        remappings=[(shown, real) for shown, real in [('/image', given.image()), *ours] if shown != real],
        output='log',
    )


def include(package: str, file: str, arguments: Mapping[str, str]) -> GroupAction:
    """The launch file of another package, which sees these arguments and none of ours.

    Arguments of the same name mean other things there: our params_file would become that of Nav2.
    """
    path = str(Path(share_of(package)) / 'launch' / file)
    included = IncludeLaunchDescription(PythonLaunchDescriptionSource(path), launch_arguments=list(arguments.items()))
    return GroupAction([included], scoped=True, forwarding=False)


def command(name: str, *arguments: str) -> ExecuteProcess:
    """One of our own commands, such as replay; not a Node action, whose --ros-args it would not know."""
    program = ExecutableInPackage(package='vggt_ros', executable='vggt_ros')
    return ExecuteProcess(cmd=[program, name, *arguments], output='screen', emulate_tty=True)


def share_of(package: str) -> str:
    """The share folder of a package, or a sentence that says how to get it."""
    try:
        return get_package_share_directory(package)
    except PackageNotFoundError as error:
        distro = os.environ.get('ROS_DISTRO', 'DISTRO')
        hint = SOURCES.get(package, f'sudo apt install ros-{distro}-{package.replace("_", "-")}')
        raise LaunchError(f'this launch file needs the package {package}, which is not installed: {hint}') from error


def overlay(base: Path | str, ours: Path | str, topics: Mapping[str, str]) -> Path:
    """A parameter file of another package with our values laid over it, as a new file.

    Args:
        base: their file, left as it is.
        ours: what differs; maps are merged, everything else is replaced.
        topics: names of topics in ours -> names to write instead.

    Returns:
        The new file, in the folder for temporary files: it must outlive the launch file.
    """
    from ruamel.yaml import YAML

    yaml = YAML()  # round trip: comments, quotes and order of the base stay
    merged = yaml.load(Path(base).read_text(encoding='utf-8'))
    _merge(merged, _renamed(yaml.load(Path(ours).read_text(encoding='utf-8')), topics))
    with tempfile.NamedTemporaryFile(
        'w', prefix=f'{Path(ours).stem}_', suffix='.yaml', delete=False, encoding='utf-8'
    ) as file:
        yaml.dump(merged, file)
    return Path(file.name)


def parse(one: Setting, text: str) -> bool | int | float | str:
    """A launch argument, always text, as the type of its setting."""
    if one.kind is bool:
        return is_true(text)
    try:
        return one.kind(text)
    except ValueError as error:
        raise LaunchError(f'{one.name} must be {one.kind.__name__}, got {text!r}') from error


def is_true(text: str) -> bool:
    """A boolean as launch files write it."""
    if text.lower() not in ('true', 'false', '1', '0'):
        raise LaunchError(f'expected true or false, got {text!r}')
    return text.lower() in ('true', '1')


def _check_choices(declared: Iterable[Argument], texts: Mapping[str, str]) -> None:
    for one in declared:
        if one.choices and texts[one.name] not in one.choices:
            raise LaunchError(f'{one.name} must be one of {", ".join(one.choices)}, got {texts[one.name]!r}')


def _merge(base: Any, ours: Mapping[str, Any]) -> None:
    for name, value in ours.items():
        if isinstance(value, Mapping) and isinstance(base.get(name), Mapping):
            _merge(base[name], value)
        else:
            base[name] = value


def _renamed(value: Any, topics: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _renamed(one, topics) for name, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, topics) for one in value]
    return topics.get(value, value) if isinstance(value, str) else value
