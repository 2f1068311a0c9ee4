"""What this machine lacks for vggt_ros, and the command that mends it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from vggt_ros.core.config import ModelConfig
from vggt_ros.distro import this_distro

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
ROS_PACKAGES = ('rclpy', 'sensor_msgs', 'nav_msgs', 'tf2_ros', 'tf2_msgs', 'cv_bridge', 'sensor_msgs_py')
BAG_PACKAGES = {'rosbags': 'rosbags', 'rosbags.image': 'rosbags-image', 'mcap': 'mcap', 'trimesh': 'trimesh'}
NO_ROS = 'source /opt/ros/DISTRO/setup.bash where ROS 2 is installed; elsewhere `make test` sets it up from PyPI'
DISCOVERY_S = 2.0  # DDS finds other processes of this machine within one, of the network within a few


class Level(Enum):
    """How bad a finding is."""

    OK = 'ok'
    WARN = 'warn'  # works, but slower or with less
    FAIL = 'fail'  # something of the package does not work


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        subject: what was looked at.
        level: how it stands.
        text: what was found.
        mend: command or step that mends it; empty where nothing is wrong.
    """

    subject: str
    level: Level
    text: str
    mend: str = ''


def examine(
    model: str = ModelConfig().source, budget_s: float = 0.0, *, compiled: bool = False
) -> Iterator[Finding]:
    """Look at everything, one finding after the other.

    Args:
        model: what load_vggt takes; its weights are looked for, not loaded.
        budget_s: seconds that a window may take (latency_budget_s); 0 is no limit.
        compiled: whether to compile the network (compile), and say what that gains.
    """
    yield _python()
    yield from _torch()
    weights = _weights(model)
    yield weights
    if weights.level is Level.OK:
        yield _plan(model, budget_s, compiled)
    yield from _packages()
    yield from _ros()


def _python() -> Finding:
    return Finding('python', Level.OK, f'{".".join(map(str, sys.version_info[:3]))} at {sys.executable}')


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries is missing
        mend = f'{sys.executable} -m pip install torch --index-url https://download.pytorch.org/whl/cpu'
        yield Finding('torch', Level.FAIL, f'cannot be imported: {error}', mend)
        return
    yield Finding('torch', Level.OK, torch.__version__)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            yield Finding('gpu', Level.OK, f'cuda:{index} {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free')
    elif _has_nvidia_driver():
        built_for = torch.version.cuda or 'the CPU only'
        text = f'there is an NVIDIA driver, but torch {torch.__version__} (built for {built_for}) cannot use the GPU'
        mend = f'{sys.executable} -m pip install --upgrade torch --index-url https://download.pytorch.org/whl/cu126'
        yield Finding('gpu', Level.WARN, text, mend)
    else:
        text = f'none: the network runs on the CPU with {torch.get_num_threads()} threads'
        yield Finding('gpu', Level.WARN, text, 'with an NVIDIA GPU in this machine: install its driver')


def _has_nvidia_driver() -> bool:
    return Path('/proc/driver/nvidia/version').exists() or Path('/etc/nv_tegra_release').exists()


def _weights(model: str) -> Finding:
    """Whether the weights are here; nothing is downloaded and nothing loaded."""
    try:
        from vggt.weights import SHIPPED_DIR, shipped_names
    except (ImportError, OSError) as error:
        return Finding('weights', Level.FAIL, f'vggt cannot be imported: {error}', 'mend torch first')
    shipped = ', '.join(shipped_names()) or 'none'
    if model in shipped_names():
        size = (SHIPPED_DIR / f'{model}.safetensors').stat().st_size
        return Finding('weights', Level.OK, f'{model} ships with the package ({size / 1e6:.1f} MB)')
    if Path(model).suffix:
        if Path(model).is_file():
            return Finding('weights', Level.OK, f'{model} ({Path(model).stat().st_size / 1e6:.1f} MB)')
        return Finding('weights', Level.FAIL, f'there is no file {model}', f'name one of: {shipped}, or a file')
    if '/' not in model:
        text = f'{model!r} does not ship with the package (shipped: {shipped})'
        return Finding('weights', Level.FAIL, text, 'reinstall the package, or name a hub id or a file with --model')
    return _hub_weights(model)


def _hub_weights(model: str) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    for name in ('model.safetensors', 'model.pt'):
        cached = try_to_load_from_cache(model, name)
        if isinstance(cached, str):
            return Finding('weights', Level.OK, f'{model} is in the cache at {cached}')
    return Finding(
        'weights', Level.WARN, f'{model} is not cached: it is downloaded at first use', f'hf download {model}'
    )


def _plan(model: str, budget_s: float = 0.0, compiled: bool = False) -> Finding:
    """What would be computed at a time with the default settings, why, and how long it takes: measured once."""
    from vggt_ros.core.config import Config
    from vggt_ros.core.devices import explain_precision
    from vggt_ros.core.errors import VggtRosError
    from vggt_ros.core.planner import rehearse
    from vggt_ros.core.predictor import VggtPredictor, load_network

    config = Config().with_values({'model_id': model, 'local_files_only': True, 'compile': compiled})
    try:
        network = load_network(config, quiet=True)
        predictor = VggtPredictor(config, network)
        plan = predictor.plan(config.window)
        assert plan is not None
        in_budget = predictor.warm_up(plan.window, budget_s)
        plan = in_budget or plan
        encode_s, window_s = rehearse(network, plan.window, plan.size, config.alignment.max_frames)
        gain = ''
        if network.is_compiled:
            network.uncompile()
            plain_s = rehearse(network, plan.window, plan.size, config.alignment.max_frames)[1]
            gain = f' (compiled; as it is {plain_s * 1e3:.0f} ms)'
    except (VggtRosError, RuntimeError) as error:
        return Finding('plan', Level.FAIL, f'{model} cannot be run: {error}', 'lower window_size or input_width')
    seconds = (plan.window.stride - 1) * encode_s + window_s
    text = (
        f'{network.device}, {explain_precision(network.dtype, network.device)}, {plan.size[1]}x{plan.size[0]}, '
        f'{plan.reason}; depth of {plan.chunk} frames at a time; measured: {encode_s * 1e3:.0f} ms a frame on arrival, '
        f'{window_s * 1e3:.0f} ms from the newest frame of a window to its depth{gain}, '
        f'{plan.window.stride / seconds:.1f} new frames a second'
    )
    return Finding('plan', Level.OK if plan.window == config.window else Level.WARN, text)


def _packages() -> Iterator[Finding]:
    missing = {pip for name, pip in BAG_PACKAGES.items() if not _is_importable(name)}
    if missing:
        mend = f'{sys.executable} -m pip install {" ".join(sorted(missing))}'
        yield Finding('bags', Level.FAIL, f'missing: {", ".join(sorted(missing))}; vggt_ros run needs them', mend)
    else:
        yield Finding('bags', Level.OK, 'all packages for vggt_ros run are here')


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _ros() -> Iterator[Finding]:
    missing = [name for name in ROS_PACKAGES if not _is_importable(name)]
    distro = os.environ.get('ROS_DISTRO', '')
    python = '.'.join(map(str, sys.version_info[:2]))
    if 'rclpy' in missing and distro == this_distro().name and python != this_distro().python:
        text = f'{distro} is made for Python {this_distro().python}, this is {python}: its packages are out of reach'
        yield Finding('ros', Level.FAIL, text, f'python{this_distro().python} -m venv --system-site-packages venv')
        return
    if missing:
        text = f'missing: {", ".join(missing)}; the node, replay and demo need them, vggt_ros run does not'
        debs = ' '.join(f'ros-{distro}-{name}' for name in missing).replace('_', '-')
        mend = f'sudo apt install {debs}' if distro else NO_ROS
        yield Finding('ros', Level.FAIL, text, mend)
        return
    try:
        import cv_bridge  # noqa: F401
    except (ImportError, AttributeError) as error:  # built for NumPy 1: _ARRAY_API not found
        mend = f'{sys.executable} -m pip install "numpy<2"'
        text = f'cv_bridge cannot be imported ({error}): bayer and yuv images cannot be decoded'
        yield Finding('cv_bridge', Level.WARN, text, mend)
    yield Finding('ros', Level.OK, f'{distro or "from PyPI"}, domain {os.environ.get("ROS_DOMAIN_ID", "0")}')
    yield from _topics()


def _topics() -> Iterator[Finding]:
    """The topics with images that this process can see, and whether our subscription fits each."""
    try:
        import rclpy
        from rclpy.context import Context

        context = Context()
        rclpy.init(context=context)
    except Exception as error:  # rclpy raises what its middleware raises
        mend = 'check RMW_IMPLEMENTATION and the network settings'
        yield Finding('topics', Level.FAIL, f'rclpy cannot start: {error}', mend)
        return
    try:
        node = rclpy.create_node('vggt_doctor', context=context)
        time.sleep(DISCOVERY_S)
        yield from _image_topics(node)
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def _image_topics(node: Any) -> Iterator[Finding]:
    topics = dict(node.get_topic_names_and_types())
    images = {name: types[0] for name, types in sorted(topics.items()) if types[0] in IMAGE_TYPES}
    published = {name: node.get_publishers_info_by_topic(name) for name in images}
    if not any(published.values()):
        text = f'nobody publishes images in this domain ({len(topics)} topics are visible)'
        yield Finding('topics', Level.WARN, text, 'start the camera driver, or compare ROS_DOMAIN_ID with its')
    for name, publishers in published.items():
        if not publishers:
            continue
        offers = {one.qos_profile.reliability.name.lower() for one in publishers}
        text = f'{name} {images[name]}, {len(publishers)} publishers, {" and ".join(sorted(offers))}'
        info = name.removesuffix('/compressed').rpartition('/')[0] + '/camera_info'
        if node.count_publishers(info):
            yield Finding('topic', Level.OK, text)
        else:
            mend = f'remap camera_info, or calibrate the camera: nobody publishes {info}'
            yield Finding('topic', Level.WARN, text + ', uncalibrated', mend)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--model', default=ModelConfig().source, help='weights to look for (%(default)s)')
    parser.add_argument(
        '--latency-budget', type=float, default=0.0, metavar='SECONDS', help='also find out what keeps latency_budget_s'
    )
    parser.add_argument('--compile', action='store_true', help='also find out what compile gains')
    parser.add_argument('--json', action='store_true', help='one JSON list instead of lines')


def main(args: argparse.Namespace) -> int:
    findings = []
    for finding in examine(args.model, args.latency_budget, compiled=args.compile):
        findings.append(finding)
        if not args.json:
            print(_line(finding, colour=sys.stdout.isatty()), flush=True)
    if args.json:
        print(json.dumps([{**asdict(one), 'level': one.level.value} for one in findings], indent=2))
    return int(any(one.level is Level.FAIL for one in findings))


def _line(finding: Finding, colour: bool) -> str:
    mark = f'{finding.level.value:4}'
    if colour:
        mark = {Level.OK: '\033[32m', Level.WARN: '\033[33m', Level.FAIL: '\033[31m'}[finding.level] + mark + '\033[0m'
    mend = f'\n     {"":9} -> {finding.mend}' if finding.mend else ''
    return f'{mark} {finding.subject:9} {finding.text}{mend}'
