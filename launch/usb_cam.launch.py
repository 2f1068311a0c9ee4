"""A webcam and the node: ros2 launch vggt_ros usb_cam.launch.py

A webcam has no place on a robot: standalone, the node puts the robot at the camera and publishes that as static TF.
On a robot: standalone:=false optical_frame:=NAME, with base_link -> NAME in the URDF.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchDescription
from launch_ros.actions import Node

from vggt_ros.launch_parts import Argument, Given, description, vggt

SHARE = Path(__file__).resolve().parent.parent

# Names after usb_cam 0.8.1.
ARGUMENTS = (
    Argument('driver', 'true', 'start the driver too; false where it runs already'),
    Argument('camera_name', 'camera', 'namespace of the driver'),
    Argument('optical_frame', 'camera_optical_frame', 'frame_id of the images: x right, y down, z forward'),
    Argument('usb_cam_params_file', str(SHARE / 'config/usb_cam.yaml'), 'parameter file of the driver'),
    Argument('video_device', '/dev/video0', 'device file'),
    Argument('camera_info_url', '', 'calibration, as file:///path/camera.yaml; without, the network guesses it'),
)


def generate_launch_description() -> LaunchDescription:
    return description(start, SHARE, ARGUMENTS, {'image': '', 'standalone': 'true'})


def start(given: Given) -> list[Any]:
    given.fill(image=f'/{given["camera_name"]}/image_raw')
    return [*([driver(given)] if given.is_true('driver') else []), *vggt(given)]


def driver(given: Given) -> Node:
    return Node(
        package='usb_cam',
        executable='usb_cam_node_exe',
        name='usb_cam',
        namespace=given['camera_name'],
        parameters=[
            given['usb_cam_params_file'],
            {
                'video_device': given['video_device'],
                'frame_id': given['optical_frame'],
                'camera_name': given['camera_name'],
                'camera_info_url': given['camera_info_url'],
                'use_sim_time': given.is_true('use_sim_time'),
            },
        ],
        output='screen',
    )
