"""The command `vggt_ros view`: a running node, or a bag of its messages, in the browser."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggt_ros.core.errors import SourceError
from vggt_ros.studio.server import require_extra
from vggt_ros.topics import NODE_NAME, TOPIC, resolve

if TYPE_CHECKING:
    from vggt_ros.studio.live import LiveScene

log = logging.getLogger(__name__)

PORT = 7870
LONGEST_WAIT_S = 2.0  # between two messages of a bag: nobody watches a pause


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('bag', metavar='BAG', nargs='?', help='bag with the messages of the node; default: live topics')
    parser.add_argument('--port', type=int, default=PORT, help=f'port of the page, on this machine only ({PORT})')
    parser.add_argument('--node', default=NODE_NAME, help=f'name of the node ({NODE_NAME})')
    parser.add_argument('--rate', type=float, default=1.0, help='of a bag: seconds of it per second (1)')
    parser.add_argument('--loop', action='store_true', help='play the bag again and again')


def main(args: argparse.Namespace) -> int:
    require_extra('viser')
    if args.rate <= 0:
        raise SourceError(f'--rate must be above 0, got {args.rate:g}')
    from vggt_ros.studio.live import LiveScene

    scene = LiveScene(args.port, Path(args.bag).name if args.bag else args.node)
    try:
        print(scene.url, flush=True)
        if args.bag:
            show_bag(Path(args.bag), scene, node=args.node, rate=args.rate, loop=args.loop)
            while True:  # the scene stays to be looked at
                time.sleep(3600)
        show_node(scene, node=args.node)
    finally:
        scene.close()
    return 0


def show_bag(
    path: Path,
    scene: LiveScene,
    *,
    node: str = NODE_NAME,
    rate: float = 1.0,
    loop: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Play the messages of a bag into a scene; returns how many were shown.

    Args:
        path: bag with the messages of the node, as `vggt_ros run` and `ros2 bag record` write it.
        scene: where to show them.
        node: name under which they were published.
        rate: seconds of the bag per second.
        loop: never end.
        sleep: how to wait.

    Raises:
        SourceError: no bag, or none of the messages in it.
    """
    from vggt_ros.recorded.recording import open_recording

    names = _names(node)
    recording = open_recording(path)
    try:
        known = [name for name in names if name in recording.topics]
        if not known:
            raise SourceError(f'{path} has none of the topics of {node}; name the node that made it with --node')
        while True:
            shown, last_ns = 0, 0
            for message in recording.messages(known):
                if last_ns:
                    sleep(min(max(message.log_time_ns - last_ns, 0) / 1e9 / rate, LONGEST_WAIT_S))
                last_ns = message.log_time_ns
                scene.add(names[message.topic], recording.deserialize(message))
                shown += 1
            scene.show_status()
            if not loop:
                return shown
    finally:
        recording.close()


def show_node(scene: LiveScene, *, node: str = NODE_NAME, until: Callable[[], bool] = lambda: False) -> None:
    """Show the topics of a running node until interrupted.

    Args:
        scene: where to show them.
        node: its name.
        until: asked between messages; True ends it.
    """
    from vggt_ros.dds import make_room_for_images

    make_room_for_images()
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    context = rclpy.Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    viewer = rclpy.create_node(f'vggt_view_{os.getpid()}', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(viewer)
    try:
        for name, topic in _names(node).items():
            _subscribe(viewer, name, topic, scene)
        while context.ok() and not until():
            executor.spin_once(timeout_sec=0.1)
    finally:
        executor.shutdown()
        viewer.destroy_node()
        rclpy.try_shutdown(context=context)


def _subscribe(viewer: Any, name: str, topic: str, scene: LiveScene) -> None:
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    from vggt_ros.messages import ros_messages

    one = TOPIC.get(topic)
    latched = one is not None and one.latched
    qos = QoSProfile(
        depth=1 if latched else 10,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
    kind = DiagnosticArray if one is None else ros_messages()[one.type]
    show = functools.partial(_show, viewer, topic, scene)
    viewer.create_subscription(kind, name, show, qos)


def _show(viewer: Any, topic: str, scene: LiveScene, message: Any) -> None:
    scene.add(topic, message, viewer.get_clock().now().nanoseconds)


def _names(node: str) -> dict[str, str]:
    """Full name of each topic that is shown -> its name in topics.TOPICS."""
    from vggt_ros.studio.live import TOPICS

    return {resolve(topic, node): topic for topic in TOPICS}
