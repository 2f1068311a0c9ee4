"""Nav2 that avoids what we see: ros2 launch vggt_ros nav2.launch.py image:=/camera/image_raw

Nav2 steers at 20 Hz and needs odom -> base_link as often: from wheels or visual-inertial odometry, not from us, so
publish_odom_to_base_tf is off here, and that odometry tells metres (scale_source tf). Our clouds mark and clear
obstacles; a row of the depth image stands in for a laser scanner, from which slam_toolbox makes the map (slam:=false
map:=FILE.yaml takes one that exists).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchDescription
from launch_ros.actions import Node

from vggt_ros.launch_parts import (
    NODE_TOO,
    Argument,
    Given,
    LaunchError,
    description,
    include,
    node_too,
    overlay,
    share_of,
)
from vggt_ros.topics import TOPICS, resolve

SHARE = Path(__file__).resolve().parent.parent

# Names after navigation2 1.1 to 1.5 (Humble to Rolling) and depthimage_to_laserscan 2.5.1.
ARGUMENTS = (
    NODE_TOO,
    Argument('nav2_params_file', '', 'parameters of your robot; empty takes nav2_bringup/params/nav2_params.yaml'),
    Argument('nav2_overlay_file', str(SHARE / 'config/nav2.yaml'), 'our values, laid over those; empty leaves them'),
    Argument('slam', 'true', 'make the map with slam_toolbox while driving'),
    Argument('map', '', 'map to drive in, with slam:=false'),
    Argument('scan', 'true', 'make a laser scan from the depth image'),
    Argument('scan_topic', '/scan', 'its topic'),
    Argument('scan_params_file', str(SHARE / 'config/depthimage_to_laserscan.yaml'), 'its parameter file'),
    Argument('scan_frame', 'camera_link', 'its frame, at the camera: x forward, z up'),
    Argument('use_composition', 'False', 'run Nav2 as components of one process'),
)


def generate_launch_description() -> LaunchDescription:
    return description(start, SHARE, ARGUMENTS, {'publish_odom_to_base_tf': 'false'})


def start(given: Given) -> list[Any]:
    if not given.is_true('slam') and not given['map']:
        raise LaunchError('expected a map with slam:=false, got none; give map:=FILE.yaml')
    given.fill(scale_source='tf')
    scan = [scanner(given)] if given.is_true('scan') else []
    return [*node_too(given), *scan, navigation(given)]


def scanner(given: Given) -> Node:
    share_of('depthimage_to_laserscan')
    return Node(
        package='depthimage_to_laserscan',
        executable='depthimage_to_laserscan_node',
        name='depthimage_to_laserscan',
        namespace=given['namespace'],
        parameters=[
            given['scan_params_file'],
            {
                'output_frame': given['scan_frame'],
                'use_sim_time': given.is_true('use_sim_time'),
            },
        ],
        remappings=[
            ('depth', given.topic('~/depth/image_rect')),
            ('depth_camera_info', given.topic('~/depth/camera_info')),
            ('scan', given['scan_topic']),
        ],
        output='screen',
    )


def navigation(given: Given) -> Any:
    base = given['nav2_params_file'] or str(Path(share_of('nav2_bringup')) / 'params/nav2_params.yaml')
    if given['nav2_overlay_file']:
        topics = {resolve(one.name): given.topic(one.name) for one in TOPICS} | {'/scan': given['scan_topic']}
        base = str(overlay(base, given['nav2_overlay_file'], topics))
    arguments = {
        'namespace': given['namespace'],
        'params_file': base,
        'slam': str(given.is_true('slam')),  # True or False with a capital: Nav2 evaluates it as Python
        'map': given['map'],
        'use_sim_time': str(given.is_true('use_sim_time')).lower(),
        'use_composition': given['use_composition'],
        'autostart': 'true',
    }
    return include('nav2_bringup', 'bringup_launch.py', arguments)
