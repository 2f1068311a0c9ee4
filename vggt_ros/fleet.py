"""Fleet: several robots served by one process and one network; each has the node that it would have alone."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Hashable, Sequence

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from vggt_ros.core.config import Config
from vggt_ros.core.errors import ConfigError, GaveUpError
from vggt_ros.core.memory import keep_freed_memory, leave_loaded_alone
from vggt_ros.core.predictor import Predictor, load_network, make_predictor
from vggt_ros.core.shared_network import SharedNetwork
from vggt_ros.dds import make_room_for_images
from vggt_ros.live.ros_log import SPEAKER
from vggt_ros.node import VggtNode, spin, start
from vggt_ros.parameters import initialise, without_ros_args

log = logging.getLogger('vggt_ros.fleet')

OWN_TF = ('--ros-args', '-r', '/tf:=tf', '-r', '/tf_static:=tf_static')  # as Nav2 has it for several robots
# Settings that another network would be needed for.
OF_THE_NETWORK = (
    'model_id', 'checkpoint_path', 'local_files_only', 'device', 'precision', 'head_precision', 'compile',
    'cuda_graph', 'approximate_key_stride', 'approximate_camera_rounds',
)  # fmt: skip


class Networks:
    """The networks of a process: robots with the same model settings share one.

    Args:
        max_batch_size: windows of several robots in one forward pass; 0 leaves that to the network's device.
    """

    def __init__(self, max_batch_size: int = 0) -> None:
        self._max_batch_size = max_batch_size
        self._shared: dict[Hashable, SharedNetwork] = {}
        self._loading = threading.Lock()

    def make_predictor(self, config: Config) -> Predictor:
        """A robot's predictor, on the network it shares; ConfigError where that cannot be had."""
        if config.model.backend == 'fake':
            return make_predictor(config)
        values = config.values()
        key = tuple(values[name] for name in OF_THE_NETWORK)
        with self._loading:
            if key not in self._shared:
                self._shared[key] = SharedNetwork(load_network(config), self._max_batch_size)
        return make_predictor(config, self._shared[key].member())  # type: ignore[arg-type]

    @property
    def batches(self) -> dict[int, int]:
        """How often so many windows were computed together."""
        return dict(sum((one.batches for one in self._shared.values()), Counter()))


class Robot:
    """One robot: its node in its namespace, with an executor and a thread of its own.

    Args:
        name: the namespace.
        networks: shared with the others.
        own_tf: whether its transforms are on /NAME/tf instead of /tf.
        context: of rclpy; None is that of the process.

    Raises:
        ConfigError: a parameter of this robot is wrong.
    """

    def __init__(self, name: str, networks: Networks, *, own_tf: bool = True, context: Context | None = None) -> None:
        self.name = name
        self.node = VggtNode(
            networks.make_predictor, namespace=name, cli_args=list(OWN_TF) if own_tf else None, context=context
        )
        self.is_stopped = False
        self._executor = SingleThreadedExecutor(context=context)
        self._thread = threading.Thread(target=self._run, name=f'vggt_{name}', daemon=True)

    def begin(self) -> None:
        """Configure and activate where autostart says so, and answer calls from then on."""
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        SPEAKER.set(self.node.get_logger().name)
        try:
            if self.node.autostart:
                start(self.node)  # where that fails it has said why, and a lifecycle call may try again
            while True:
                try:
                    spin(self.node, self._executor)
                except GaveUpError:  # a process of its own would end and be started anew; the others must not
                    continue
                break
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        except Exception as error:
            if self.node.context.ok():  # else the process is told to end
                log.exception('%s: %s', self.name, error)
        finally:
            self.is_stopped = self.node.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--robots', required=True, metavar='A,B,C', help='namespaces, separated by commas; each gets a node'
    )
    parser.add_argument(
        '--shared-tf', action='store_true', help='all transforms on /tf; the frames of the robots must differ then'
    )
    parser.add_argument(
        '--max-batch-size', type=batch_size, default=0, metavar='N',
        help='windows of several robots in one forward pass; 0 takes what the free memory of a GPU allows, up to 8; '
        'on a processor one',
    )  # fmt: skip


def batch_size(text: str) -> int:
    """A number of windows; argparse tells what is none."""
    if int(text) < 0:
        raise ValueError
    return int(text)


def names_of(text: str) -> list[str]:
    """The robots named; ConfigError where a name is no namespace, or comes twice."""
    names = [name.strip() for name in text.split(',') if name.strip()]
    wrong = [name for name in names if not re.fullmatch(r'[A-Za-z]\w*(/[A-Za-z]\w*)*', name)]
    if wrong or not names or len(set(names)) < len(names):
        raise ConfigError(f'--robots must be different names such as robot_1,robot_2, got {text!r}')
    return names


def make_robots(names: Sequence[str], networks: Networks, *, own_tf: bool) -> list[Robot]:
    """The robots that can be; of the others it is said why, and they do not hold up the rest."""
    robots = []
    for name in names:
        try:
            robots.append(Robot(name, networks, own_tf=own_tf))
        except ConfigError as error:
            print(f'fleet: {name} is left out: {error}', file=sys.stderr, flush=True)
    return robots


def main(args: list[str] | None = None) -> int:
    """Serve the robots until told to stop; the exit code is 1 where none could be served."""
    words = list(sys.argv if args is None else args)
    parser = argparse.ArgumentParser(
        prog='fleet', description='Serve several robots with one network.',
        epilog='ROS arguments follow --ros-args, and hold for all robots: -r image:=camera/image_raw, --params-file '
        'FILE with sections /A/vggt, /B/vggt for what differs.',
    )  # fmt: skip
    add_arguments(parser)
    keep_freed_memory()
    make_room_for_images()
    try:
        given = parser.parse_args(without_ros_args(words))
        initialise(words)
        networks = Networks(given.max_batch_size)
        robots = make_robots(names_of(given.robots), networks, own_tf=not given.shared_tf)
    except ConfigError as error:
        print(f'fleet: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    leave_loaded_alone()
    for robot in robots:
        robot.begin()
    try:
        while rclpy.ok() and any(robot.is_alive() for robot in robots):
            for robot in robots:
                robot.join(0.2)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    rclpy.try_shutdown()
    for robot in robots:
        robot.join(10.0)
    if networks.batches:
        passes = ', '.join(f'{size}: {count}' for size, count in sorted(networks.batches.items()))
        print(f'fleet: forward passes by windows in each: {passes}')
    # A thread inside the network cannot be interrupted, and the interpreter crashes when it ends under one.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if robots else 1)


if __name__ == '__main__':
    sys.exit(main())
