"""Start the node: ros2 launch vggt_ros vggt.launch.py image:=/camera/image_raw

Every setting and every topic is a launch argument; `--show-args` lists them. What is not given comes from params_file,
and what is not there either has the default of vggt_ros/core/config.py. The node configures and activates itself
(autostart), because launch_ros can do that only since Kilted.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchDescription

from vggt_ros.launch_parts import description, vggt

SHARE = Path(__file__).resolve().parent.parent  # the same layout in the source tree and in share/vggt_ros


def generate_launch_description() -> LaunchDescription:
    return description(vggt, SHARE)
