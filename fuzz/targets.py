"""All targets by name: a function of a Draw that returns, or refuses in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fuzz import commands, files, messages, networks, visitors
from fuzz.draw import Draw


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Args:
        run: takes what was drawn.
        modules: files whose coverage is told.
        examples: inputs in the test suite; fewer where one takes long.
        runs: inputs of `python -m fuzz all`.
    """

    run: Callable[[Draw], Any]
    modules: tuple[str, ...]
    examples: int = 100
    runs: int = 10_000


TARGETS = {
    'image': Target(messages.image, ('vggt_ros/decode.py', 'vggt_ros/rectify.py'), runs=150_000),
    'compressed_image': Target(messages.compressed_image, ('vggt_ros/decode.py',), runs=150_000),
    'calibration': Target(messages.calibration, ('vggt_ros/decode.py', 'vggt_ros/rectify.py'), runs=60_000),
    'depth_image': Target(messages.depth_image, ('vggt_ros/decode_sensors.py',), runs=100_000),
    'cloud': Target(messages.cloud, ('vggt_ros/decode_sensors.py',), runs=150_000),
    'imu': Target(messages.imu, ('vggt_ros/decode_sensors.py',), runs=100_000),
    'odometry': Target(messages.odometry, ('vggt_ros/decode_sensors.py', 'vggt_ros/core/metric/pose_track.py')),
    'transforms': Target(messages.transforms, ('vggt_ros/recorded/static_tf.py', 'vggt_ros/recorded/tf.py')),
    'mask': Target(messages.mask, ('vggt_ros/masks.py',), runs=60_000),
    'bag': Target(files.bag, ('vggt_ros/recorded/recording.py', 'vggt_ros/recorded/bag.py'), examples=20, runs=3_000),
    'bag_sensors': Target(files.bag_sensors, ('vggt_ros/recorded/sensors.py',), examples=10, runs=2_000),
    'video': Target(files.video, ('vggt_ros/recorded/video.py',), examples=40),
    'image_folder': Target(files.image_folder, ('vggt_ros/recorded/images.py',)),
    'depth_folder': Target(files.depth_folder, ('vggt_ros/results/depth_error.py',)),
    'trajectory': Target(files.trajectory, ('vggt_ros/results/tum.py',), runs=60_000),
    'evaluation': Target(files.evaluation, ('vggt_ros/results/evaluate.py',), examples=30),
    'safetensors': Target(networks.safetensors, ('vggt/checkpoint.py', 'vggt/weights.py'), examples=20),
    'torch_file': Target(networks.torch_file, ('vggt/checkpoint.py',), examples=40),
    'network_config': Target(networks.config, ('vggt/config.py',), examples=30),
    'settings': Target(commands.settings, ('vggt_ros/core/config.py',), runs=60_000),
    'command_line': Target(commands.command_line, ('vggt_ros/flags.py', 'vggt_ros/cli.py'), examples=40),
    'parameter_file': Target(commands.parameter_file, ('vggt_ros/parameters.py',), examples=20, runs=2_000),
    'upload': Target(visitors.upload, ('vggt_ros/studio/uploads.py',), examples=60),
    'page': Target(visitors.page, ('vggt_ros/studio/workbench.py',), examples=10, runs=2_000),
    'predictions': Target(visitors.predictions, ('vggt_ros/studio/predictions.py',), examples=40),
    'request': Target(visitors.request, ('vggt_ros/studio/guard.py', 'vggt_ros/studio/sessions.py'), runs=60_000),
}
