"""A ZED camera and the node: ros2 launch vggt_ros zed.launch.py camera_model:=zed2i

The rectified left image feeds the network, the wrapper's depth tells metres. The wrapper's own tracking publishes odom
-> camera_link too, and a frame has one parent: here the wrapper's is off. To keep it and take our map on top:
zed_tf:=true publish_odom_to_base_tf:=false.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchDescription

from vggt_ros.launch_parts import Argument, Given, description, include, vggt

SHARE = Path(__file__).resolve().parent.parent

# Names after zed_wrapper 5.4.1, launch/zed_camera.launch.py, and its topics since 5.1 (rgb/color/rect/image).
ARGUMENTS = (
    Argument('driver', 'true', 'start the wrapper too; false where it runs already'),
    Argument('camera_model', 'zed2i', 'zed, zedm, zed2, zed2i, zedx, ...: as the wrapper names them'),
    Argument('camera_name', 'zed', 'namespace of the wrapper, and first part of its frames'),
    Argument('node_name', 'zed_node', 'name of the node of the wrapper'),
    Argument('zed_tf', 'false', 'let the wrapper publish map -> odom -> camera_link'),
)


def generate_launch_description() -> LaunchDescription:
    return description(start, SHARE, ARGUMENTS, {'image': ''})


def start(given: Given) -> list[Any]:
    name = given['camera_name']
    camera = f'/{name}/{given["node_name"]}'
    given.fill(image=f'{camera}/rgb/color/rect/image', base_frame=f'{name}_camera_link')
    given.fill(scale_source='depth', depth_anchor=f'{camera}/depth/depth_registered')
    return [*(driver(given) if given.is_true('driver') else []), *vggt(given)]


def driver(given: Given) -> list[Any]:
    arguments = {
        'camera_model': given['camera_model'],
        'camera_name': given['camera_name'],
        'node_name': given['node_name'],
        'publish_tf': str(given.is_true('zed_tf')).lower(),
        'publish_map_tf': str(given.is_true('zed_tf')).lower(),
        'use_sim_time': str(given.is_true('use_sim_time')).lower(),
    }
    return [include('zed_wrapper', 'zed_camera.launch.py', arguments)]
