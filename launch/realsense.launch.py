"""A RealSense camera and the node: ros2 launch vggt_ros realsense.launch.py

The colour camera alone feeds the network. The driver publishes the TF of its own frames below camera_link; a camera in
the hand has nothing above, so the robot is camera_link. On a robot whose URDF holds the camera: base_frame:=base_link.
With enable_depth:=true the depth camera tells metres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchDescription

from vggt_ros.launch_parts import Argument, Given, description, include, vggt

SHARE = Path(__file__).resolve().parent.parent

# Names after realsense2_camera 4.55.1, launch/rs_launch.py.
ARGUMENTS = (
    Argument('driver', 'true', 'start the driver too; false where it runs already'),
    Argument('camera_namespace', 'camera', 'namespace of the driver'),
    Argument('camera_name', 'camera', 'name of the driver, and first part of its frames'),
    Argument('serial_no', "''", 'which camera; quotes inside, as the driver wants them'),
    Argument('color_profile', '640,480,15', 'width,height,rate of the colour camera; the network sees fewer pixels'),
    Argument('enable_depth', 'false', 'the depth camera as well, aligned to colour, for metres'),
)


def generate_launch_description() -> LaunchDescription:
    return description(start, SHARE, ARGUMENTS, {'image': ''})


def start(given: Given) -> list[Any]:
    camera = f'/{given["camera_namespace"]}/{given["camera_name"]}'.replace('//', '/')
    given.fill(image=f'{camera}/color/image_raw', base_frame=f'{given["camera_name"]}_link')
    if given.is_true('enable_depth'):
        given.fill(scale_source='depth', depth_anchor=f'{camera}/aligned_depth_to_color/image_raw')
    return [*(driver(given) if given.is_true('driver') else []), *vggt(given)]


def driver(given: Given) -> list[Any]:
    arguments = {
        'camera_namespace': given['camera_namespace'],
        'camera_name': given['camera_name'],
        'serial_no': given['serial_no'],
        'enable_color': 'true',
        'rgb_camera.color_profile': given['color_profile'],
        'enable_depth': given['enable_depth'],
        'align_depth.enable': given['enable_depth'],
    }
    return [include('realsense2_camera', 'rs_launch.py', arguments)]
