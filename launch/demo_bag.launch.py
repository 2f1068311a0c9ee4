"""Play a recording into the node and look at the result: ros2 launch vggt_ros demo_bag.launch.py

Without arguments it plays the real camera frames that ship with the package. With source:=BAG image:=TOPIC it plays a
bag; a bag without a TF tree wants standalone:=true too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchDescription

import vggt_ros
from vggt_ros.launch_parts import Argument, Given, command, description, vggt

SHARE = Path(__file__).resolve().parent.parent
CLIP = Path(vggt_ros.__file__).parent / 'data/cabinet'  # real camera frames, ship with the package

ARGUMENTS = (
    Argument('source', str(CLIP), 'rosbag2 folder, .mcap, .db3, .bag, video, or folder of images'),
    Argument('rate', '1.0', 'seconds of the recording per second'),
    Argument('loop', 'false', 'start again at the end; the node starts a new map then'),
    Argument('wait', '120', 'seconds to wait until the node takes images: loading a large network takes long'),
)


def generate_launch_description() -> LaunchDescription:
    defaults = {'image': '/camera/image_raw', 'use_sim_time': 'true', 'rviz': 'true'}
    return description(start, SHARE, ARGUMENTS, defaults)


def start(given: Given) -> list[Any]:
    if Path(given['source']) == CLIP:
        given.fill(standalone='true')  # a camera without a robot
    given.fill(input_reliability='reliable')  # replay offers that, and no image of a demo should get lost
    flags = ['--rate', given['rate'], '--wait', given['wait'], '--quiet']
    if given.is_true('loop'):
        flags.append('--loop')
    if given.is_true('use_sim_time'):
        flags.append('--clock')
    return [*vggt(given), command('replay', given['source'], *flags)]
