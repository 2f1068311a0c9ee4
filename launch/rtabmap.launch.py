"""RTAB-Map on our depth and odometry: ros2 launch vggt_ros rtabmap.launch.py image:=/camera/image_raw

RTAB-Map closes loops, keeps the map in a database and owns map -> odom. Lengths must be metres: give scale_source.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchDescription
from launch_ros.actions import Node

from vggt_ros.launch_parts import NODE_TOO, Argument, Given, description, node_too, share_of

SHARE = Path(__file__).resolve().parent.parent

# Names after rtabmap_ros 0.22.1.
ARGUMENTS = (
    NODE_TOO,
    Argument('rtabmap_params_file', str(SHARE / 'config/rtabmap.yaml'), 'parameter file of rtabmap'),
    Argument('rtabmap_args', '', 'arguments of rtabmap, such as --delete_db_on_start'),
    Argument('database_path', '~/.ros/rtabmap.db', 'where the map is kept'),
    Argument('rtabmap_viz', 'false', 'show the window of rtabmap'),
)


def generate_launch_description() -> LaunchDescription:
    return description(start, SHARE, ARGUMENTS, {'rviz_config': str(SHARE / 'rviz/map.rviz'), 'rviz_frame': 'map'})


def start(given: Given) -> list[Any]:
    given.fill(publish_map_to_odom_tf='false', publish_odom_to_base_tf='true')
    nodes = [rtabmap(given, 'rtabmap_slam', 'rtabmap', given['rtabmap_args'].split())]
    if given.is_true('rtabmap_viz'):
        nodes.append(rtabmap(given, 'rtabmap_viz', 'rtabmap_viz', []))
    return [*node_too(given), *nodes]


def rtabmap(given: Given, package: str, executable: str, arguments: list[str]) -> Node:
    share_of(package)
    return Node(
        package=package,
        executable=executable,
        namespace=f'{given["namespace"].strip("/")}/rtabmap'.lstrip('/'),
        parameters=[
            given['rtabmap_params_file'],
            {
                'frame_id': given.setting('base_frame'),
                'map_frame_id': given.setting('map_frame'),
                'database_path': given['database_path'],
                'use_sim_time': given.is_true('use_sim_time'),
            },
        ],
        remappings=[
            ('rgb/image', given.topic('~/rgb/image_rect_color')),
            ('rgb/camera_info', given.topic('~/rgb/camera_info')),
            ('depth/image', given.topic('~/depth/image_rect')),
            ('odom', given.topic('~/odom')),
        ],
        arguments=arguments,
        output='screen',
    )
