"""How a running node is, in a few lines and an exit code for a supervisor."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vggt_ros.core.errors import SourceError
from vggt_ros.topics import NODE_NAME

LEVELS = ('OK', 'WARN', 'ERROR', 'STALE')  # of diagnostic_msgs/DiagnosticStatus
PATIENCE_S = 10.0  # diagnostics come once a second; discovery takes a few, on a machine that does much else
FIGURES = {  # task -> figures that say how things are
    'input': ('rate hz',),
    'inference': ('p95 window ms', 'windows lost'),
    'output': ('latency s', 'frames published'),
}


@dataclass(frozen=True)
class Line:
    """What a node says of one of its tasks."""

    task: str
    level: str
    message: str
    figures: dict[str, str]


def summarise(statuses: Sequence[Any], node: str) -> list[Line]:
    """Lines of a node from the statuses of a DiagnosticArray; none where they are another's."""
    lines = []
    for status in statuses:
        name, _, task = status.name.rpartition(': ')
        if name == node.lstrip('/'):
            values = {one.key: one.value for one in status.values if one.key in FIGURES.get(task, ())}
            lines.append(Line(task, LEVELS[min(ord(status.level), 3)], status.message, values))
    return lines


def exit_code(lines: Sequence[Line], *, strict: bool) -> int:
    """0 where the node works, 1 where a task is in error, or with `strict` warns."""
    bad = LEVELS[1:] if strict else LEVELS[2:]
    return int(any(line.level in bad for line in lines))


def listen(node: str, patience_s: float) -> list[Line]:
    """The next diagnostics of a node.

    Raises:
        SourceError: none came in time.
    """
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor

    found: list[Line] = []
    came = threading.Event()

    def take(array: DiagnosticArray) -> None:
        lines = summarise(array.status, node)
        if lines and not came.is_set():
            found.extend(lines)
            came.set()

    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        listener = rclpy.create_node('vggt_status', context=context)
        listener.create_subscription(DiagnosticArray, '/diagnostics', take, 10)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(listener)
        deadline = time.monotonic() + patience_s
        while not came.is_set() and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()
        listener.destroy_node()
    finally:
        rclpy.shutdown(context=context)
    if not found:
        raise SourceError(
            f'no diagnostics of {node} within {patience_s:g} s: it does not run, has another name (--node), or another '
            'ROS_DOMAIN_ID'
        )
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--node', default=NODE_NAME, help='full name of the node (%(default)s)')
    parser.add_argument('--timeout', type=float, default=PATIENCE_S, help='seconds to wait for it (%(default)g)')
    parser.add_argument('--strict', action='store_true', help='a warning counts as an error')
    parser.add_argument('--json', action='store_true', help='one JSON list instead of lines')


def main(args: argparse.Namespace) -> int:
    """Print the summary; 0 where it works, 1 where something is in error, 2 where nothing is heard of it."""
    lines = listen(args.node, args.timeout)
    if args.json:
        print(json.dumps([asdict(line) for line in lines], indent=2))
    else:
        for line in lines:
            figures = ', '.join(f'{key} {value}' for key, value in line.figures.items())
            print(f'{line.level:5} {line.task:9} {line.message}{f" ({figures})" if figures else ""}')
    return exit_code(lines, strict=args.strict)
