"""Start the node: ros2 launch vggt_ros vggt.launch.py image:=/camera/image_raw

Every setting is a launch argument; `--show-args` lists them. What is not given comes from params_file, and what is not
there either has the default of vggt_ros/core/config.py. The node configures and activates itself (autostart), because
launch_ros can do that only since Kilted.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from vggt_ros.core.config import Setting, settings
from vggt_ros.topics import NODE_NAME, TOPICS

SHARE = Path(__file__).resolve().parent.parent  # the same layout in the source tree and in share/vggt_ros

ARGUMENTS = (
    ('image', 'image', 'image topic; its /compressed sibling with image_transport:=compressed'),
    ('camera_info', '', 'CameraInfo topic; empty takes camera_info beside the image'),
    ('name', NODE_NAME.lstrip('/'), 'name of the node'),
    ('namespace', '', 'namespace of the node'),
    ('params_file', str(SHARE / 'config' / 'vggt.yaml'), 'parameter file; launch arguments win over it'),
    ('use_sim_time', 'false', 'take the time from /clock, as when a bag is played with --clock'),
    ('autostart', 'true', 'configure and activate at once; false leaves that to a lifecycle manager'),
    ('rviz', 'false', 'show the results in RViz'),
    ('rviz_config', str(SHARE / 'rviz' / 'vggt.rviz'), 'RViz configuration'),
    ('log_level', 'info', 'debug, info, warn or error'),
)


def generate_launch_description() -> LaunchDescription:
    """Arguments first, so that `--show-args` shows them without starting anything."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS
    ]
    arguments += [
        DeclareLaunchArgument(one.name, default_value='', description=f'{one.help} (default: {one.default!r})')
        for one in settings()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Node]:
    """The node and, when asked for, RViz, once the arguments are known."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    parameters = {one.name: parse(one, text) for one in settings() if (text := _text(context, one))}
    parameters['use_sim_time'] = is_true(given['use_sim_time'])
    parameters['autostart'] = is_true(given['autostart'])
    remappings = [('image', given['image'])]
    if given['camera_info']:
        remappings.append(('camera_info', given['camera_info']))
    node = Node(
        package='vggt_ros',
        executable='node',
        name=given['name'],
        namespace=given['namespace'],
        parameters=[given['params_file'], parameters] if given['params_file'] else [parameters],
        remappings=remappings,
        ros_arguments=['--log-level', given['log_level']],
        output='screen',
        emulate_tty=True,
    )
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', given['rviz_config']],
        parameters=[{'use_sim_time': parameters['use_sim_time']}],
        remappings=rviz_remappings(given['namespace'], given['name'], given['image']),
        condition=IfCondition(given['rviz']),
        output='log',
    )
    return [node, rviz]


def parse(one: Setting, text: str) -> bool | int | float | str:
    """A launch argument, always text, as the type of its setting."""
    if one.kind is bool:
        return is_true(text)
    return one.kind(text)


def is_true(text: str) -> bool:
    if text.lower() not in ('true', 'false', '1', '0'):
        raise ValueError(f'expected true or false, got {text!r}')
    return text.lower() in ('true', '1')


def rviz_remappings(namespace: str, name: str, image: str) -> list[tuple[str, str]]:
    """The topics of the RViz configuration -> those of this node."""
    prefix = f'/{namespace.strip("/")}' if namespace.strip('/') else ''
    ours = [(NODE_NAME + one.name[1:], f'{prefix}/{name}{one.name[1:]}') for one in TOPICS if one.name.startswith('~')]
    return [('/image', image if image.startswith('/') else f'{prefix}/{image}'), *ours]


def _text(context: LaunchContext, one: Setting) -> str:
    return LaunchConfiguration(one.name).perform(context)
