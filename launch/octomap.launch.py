"""An octree of occupied and free space from our clouds: ros2 launch vggt_ros octomap.launch.py image:=/camera/image_raw

octomap_server casts rays from the origin of the cloud's frame, so it must get the clouds in the optical frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchDescription
from launch_ros.actions import Node

from vggt_ros.launch_parts import NODE_TOO, Argument, Given, description, node_too, share_of

SHARE = Path(__file__).resolve().parent.parent

# Names after octomap_server 2.1.0.
ARGUMENTS = (
    NODE_TOO,
    Argument('octomap_params_file', str(SHARE / 'config/octomap.yaml'), 'parameter file of octomap_server'),
    Argument('octomap_frame', '', 'frame of the octree; empty takes odom_frame, which never jumps'),
)


def generate_launch_description() -> LaunchDescription:
    return description(start, SHARE, ARGUMENTS)


def start(given: Given) -> list[Any]:
    return [*node_too(given), octomap(given)]


def octomap(given: Given) -> Node:
    share_of('octomap_server')
    return Node(
        package='octomap_server',
        executable='octomap_server_node',
        name='octomap_server',
        namespace=given['namespace'],
        parameters=[
            given['octomap_params_file'],
            {
                'frame_id': given['octomap_frame'] or given.setting('odom_frame'),
                'base_frame_id': given.setting('base_frame'),
                'use_sim_time': given.is_true('use_sim_time'),
            },
        ],
        remappings=[('cloud_in', given.topic('~/points_filtered'))],
        output='screen',
    )
