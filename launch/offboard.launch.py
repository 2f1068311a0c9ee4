"""The node on a machine with a GPU, for a robot that runs the relay: ros2 launch vggt_ros offboard.launch.py

It takes what relay.launch.py sends: rectified JPEG images at the network's size, their CameraInfo and the mask. Images
that were too long on their way are dropped, so after a gap of the link the newest image is the next.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchDescription

from vggt_ros.launch_parts import DDS_PROFILE, Given, description, for_a_lossy_link, vggt

SHARE = Path(__file__).resolve().parent.parent

DEFAULTS = {
    'image': '/relay/image_rect',
    'mask': '/relay/mask',
    'image_transport': 'compressed',
    'input_reliability': 'reliable',  # a part that was lost is sent again; the relay holds no more than four images
    'mask_mode': 'latest',
    'max_image_age_s': '2.0',
    'max_latency_s': '2.0',  # also how long a result may be on its way back
}


def generate_launch_description() -> LaunchDescription:
    return description(start, SHARE, (DDS_PROFILE,), DEFAULTS)


def start(given: Given) -> list[Any]:
    return [*for_a_lossy_link(given), *vggt(given)]
