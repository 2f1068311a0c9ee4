"""Isaac ROS nvblox on our depth and TF: ros2 launch vggt_ros nvblox.launch.py image:=/camera/image_raw

nvblox makes a TSDF, a mesh and a distance field for planners. It counts in metres: give scale_source. It aborts when
the intrinsics of a camera change, so intrinsics_mode must not be per_window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchDescription
from launch_ros.actions import Node

from vggt_ros.launch_parts import NODE_TOO, Argument, Given, LaunchError, description, node_too, share_of

SHARE = Path(__file__).resolve().parent.parent

# Names after isaac_ros_nvblox 4.3.0.
ARGUMENTS = (
    NODE_TOO,
    Argument('nvblox_params_file', str(SHARE / 'config/nvblox.yaml'), 'parameter file of nvblox'),
)


def generate_launch_description() -> LaunchDescription:
    return description(start, SHARE, ARGUMENTS)


def start(given: Given) -> list[Any]:
    if given.setting('intrinsics_mode') == 'per_window':
        raise LaunchError('nvblox aborts when intrinsics change; set intrinsics_mode to camera_info, got per_window')
    return [*node_too(given), nvblox(given)]


def nvblox(given: Given) -> Node:
    share_of('nvblox_ros')
    return Node(
        package='nvblox_ros',
        executable='nvblox_node',
        name='nvblox_node',
        namespace=given['namespace'],
        parameters=[
            given['nvblox_params_file'],
            {
                'global_frame': given.setting('odom_frame'),
                'map_clearing_frame_id': given.setting('base_frame'),
                'use_sim_time': given.is_true('use_sim_time'),
            },
        ],
        remappings=[
            ('camera_0/depth/image', given.topic('~/depth/image_rect')),
            ('camera_0/depth/camera_info', given.topic('~/depth/camera_info')),
            ('camera_0/color/image', given.topic('~/rgb/image_rect_color')),
            ('camera_0/color/camera_info', given.topic('~/rgb/camera_info')),
        ],
        output='screen',
    )
