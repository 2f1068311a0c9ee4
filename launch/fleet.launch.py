"""One process and one network for several robots: ros2 launch vggt_ros fleet.launch.py robots:=robot_1,robot_2

Each robot has the node that it would have alone, /robot_1/vggt, with its own map, parameters and lifecycle. Arguments
hold for all of them; what differs stands in params_file, in sections /robot_1/vggt, /robot_2/vggt. A relative image is
looked for in each namespace: image:=camera/image_raw is /robot_1/camera/image_raw.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchDescription

from vggt_ros.launch_parts import STOP_S, Argument, Given, description, parameters_of, program

SHARE = Path(__file__).resolve().parent.parent

ARGUMENTS = (
    Argument('robots', '', 'namespaces of the robots, separated by commas'),
    Argument('max_batch_size', '0', 'windows of several robots in one forward pass; 0 leaves that to the device'),
    Argument('shared_tf', 'false', 'all transforms on /tf, where the frames of the robots differ'),
)


def generate_launch_description() -> LaunchDescription:
    return description(start, SHARE, ARGUMENTS)


def start(given: Given) -> list[Any]:
    shared = ['--shared-tf'] if given.is_true('shared_tf') else []
    node = program(
        given,
        'fleet',
        arguments=['--robots', given['robots'], '--max-batch-size', given['max_batch_size'], *shared],
        parameters=parameters_of(given),
        remappings=given.remappings(),
        sigterm_timeout=STOP_S,
    )
    return [node]
