"""The robot's end of a link to a GPU elsewhere: ros2 launch vggt_ros relay.launch.py image:=/camera/image_raw

Needs neither torch nor a GPU. Give width and multiple of the network at the other end: 518 and 14 for VGGT-1B, 128 and
8 for nano.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchDescription

from vggt_ros.launch_parts import DDS_PROFILE, Argument, Given, description, for_a_lossy_link, program

SHARE = Path(__file__).resolve().parent.parent

NUMBERS: dict[str, Any] = {'width': int, 'multiple': int, 'quality': int, 'max_age_s': float}
NUMBERS |= {'keyframe_min_interval_s': float, 'keyframe_min_translation_px': float}
TEXTS = ('format', 'image_transport', 'input_reliability', 'rectify', 'mask_path', 'camera_optical_frame')
ARGUMENTS = (
    Argument('image', 'image', 'topic of images'),
    Argument('camera_info', '', 'topic of their calibration; empty takes camera_info beside the image'),
    Argument('name', 'relay', 'name of the relay: its topics are below'),
    Argument('namespace', '', 'namespace of the relay'),
    Argument('width', '518', 'width sent in pixels, that of the network; 0 leaves the size'),
    Argument('multiple', '14', 'the height sent is a multiple of it: the patch size of the network'),
    Argument('format', 'jpeg', 'jpeg, or png, which loses nothing', ('jpeg', 'png')),
    Argument('quality', '80', 'of the JPEG, 1 to 100'),
    Argument('max_age_s', '1.0', 'seconds after which an image is not sent any more'),
    Argument('keyframe_min_interval_s', '0.1', 'seconds between images sent'),
    Argument('keyframe_min_translation_px', '0.0', 'optical flow since the last image sent, pixels of the camera'),
    Argument('image_transport', 'raw', 'what the camera sends', ('raw', 'compressed')),
    Argument('input_reliability', 'best_effort', 'of the subscription to the camera', ('best_effort', 'reliable')),
    Argument('rectify', 'auto', 'auto takes lens distortion out, never leaves it in', ('auto', 'never')),
    Argument('mask_path', '', 'picture of the size of the image, black where the camera sees the robot'),
    Argument('camera_optical_frame', '', 'name of the optical frame; empty takes that of the images'),
    Argument('use_sim_time', 'false', 'take the time from /clock'),
    Argument('log_level', 'info', 'debug, info, warn or error'),
    DDS_PROFILE,
)


def generate_launch_description() -> LaunchDescription:
    return description(start, SHARE, ARGUMENTS, with_node=False)


def start(given: Given) -> list[Any]:
    parameters: dict[str, Any] = {name: given[name] for name in TEXTS}
    parameters |= {name: kind(given[name]) for name, kind in NUMBERS.items()}
    parameters['use_sim_time'] = given.is_true('use_sim_time')
    pairs = [(name, given[name]) for name in ('image', 'camera_info') if given[name] not in ('', name)]
    node = program(
        given, 'relay', name=given['name'], namespace=given['namespace'], parameters=[parameters], remappings=pairs
    )
    return [*for_a_lossy_link(given), node]
