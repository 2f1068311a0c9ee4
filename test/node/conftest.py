"""Tests with the real rclpy, on this machine only, each file in a domain of its own. robot.py is the other side."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from vggt_ros.dds import free_domain, participants, stay_on_this_machine

# Set before rclpy is imported anywhere; child processes inherit it.
os.environ.update(stay_on_this_machine(free_domain()))
os.environ.setdefault('OMP_NUM_THREADS', '1')
sys.path.insert(0, str(Path(__file__).parent))

rclpy = pytest.importorskip('rclpy', reason='rclpy is not importable: source a ROS 2 installation, or run `make test`')

from rclpy.parameter import Parameter  # noqa: E402
from robot import CLIPS, IMAGE, Clip, NodeProcess, Robot, spinning  # noqa: E402

from vggt_ros.node import STOP_S, VggtNode  # noqa: E402
from vggt_ros.node import start as start_node_now  # noqa: E402


@pytest.fixture(scope='session')
def clip() -> Clip:
    folder = next((folder for folder in CLIPS if folder.is_dir()), None)
    if folder is None:
        pytest.skip(f'no clip of real frames; expected one of {", ".join(map(str, CLIPS))}')
    return Clip(folder, 16)


@pytest.fixture(scope='module', autouse=True)
def domain() -> int:
    """A domain for this file alone."""
    domain_id = free_domain()
    os.environ['ROS_DOMAIN_ID'] = str(domain_id)
    return domain_id


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Nobody may be left in the domain when its file ends.

    What a test leaves behind would answer in the name of another node; and of more than 32 participants in one domain
    the newest are told of no process that starts after them (dds.py), so a leak shows late and elsewhere. In a hook, as
    until then pytest holds what fixtures gave and what was logged, with exceptions, their frames and nodes.
    """
    result = yield
    if nextitem is None or nextitem.path != item.path:
        getattr(item, 'funcargs', {}).clear()
        gc.collect()
        left = participants(int(os.environ['ROS_DOMAIN_ID']))
        assert not left, f'a node, context or process of {item.path.name} is still there'
    return result


@pytest.fixture
def robot() -> Iterator[Robot]:
    yield from run_robot()


@pytest.fixture(scope='module')
def module_robot() -> Iterator[Robot]:
    yield from run_robot()


def run_robot() -> Iterator[Robot]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Robot(context)
    with spinning(node, context):
        yield node
    node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    yield from run_nodes(tmp_path)


@pytest.fixture(scope='module')
def start_module_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., NodeProcess]]:
    yield from run_nodes(tmp_path_factory.mktemp('node'))


def run_nodes(folder: Path) -> Iterator[Callable[..., NodeProcess]]:
    processes: list[NodeProcess] = []

    def start(
        *,
        before: str = '',
        remappings: dict[str, str] | None = None,
        program: str = 'node',
        arguments: tuple[str, ...] = (),
        **parameters: object,
    ) -> NodeProcess:
        if program == 'node':
            parameters.setdefault('backend', 'fake')
        log = folder / f'node{len(processes)}.log'
        given = {'image': IMAGE, **(remappings or {})}
        processes.append(NodeProcess(parameters, given, log, before, program, arguments))
        return processes[-1]

    yield start
    # Asked first: who is killed leaves 32 MiB of shared memory, and others believe for 20 s that it lives.
    for started in processes:
        started.process.send_signal(signal.SIGINT)
    for started in processes:
        try:
            started.process.wait(STOP_S + 5.0)
        except subprocess.TimeoutExpired:
            started.process.kill()
            started.process.wait()


@pytest.fixture
def make_node() -> Iterator[Callable[..., VggtNode]]:
    """The real node within this process, spun by a thread; not configured unless start is left True."""
    with contextlib.ExitStack() as stack:
        # Last: a lifecycle node refers to itself, and is seen by others, under the name of the next, until collected.
        stack.callback(gc.collect)

        def make(*, start: bool = True, **parameters: object) -> VggtNode:
            context = rclpy.Context()
            rclpy.init(context=context)
            stack.callback(rclpy.try_shutdown, context=context)
            parameters = {'backend': 'fake', 'input_reliability': 'reliable', **parameters}
            node = VggtNode(
                context=context,
                parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()],
                cli_args=['--ros-args', '-r', f'image:={IMAGE}'],
            )
            stack.callback(node.destroy_node)  # else its services outlive it, and take calls meant for the next
            stack.enter_context(spinning(node, context))
            stack.callback(node.close)
            if start:
                assert start_node_now(node)
            return node

        yield make
