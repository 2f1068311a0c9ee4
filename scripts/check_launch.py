"""Evaluate launch files with the real launch and launch_ros: python -m scripts.check_launch [FILE ...] [NAME:=TEXT ...]

Nothing is started. Prints the command line of each process, and fails where an included launch file does not declare
an argument that it is given. Needs a sourced ROS installation, or `launch` and `launch_ros` from their public sources
on the PYTHONPATH and the packages named on the AMENT_PREFIX_PATH.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / 'launch'


class UndeclaredArgumentError(Exception):
    """An included launch file is given what it does not know."""


def commands_of(entity: Any, context: Any) -> Iterator[str]:
    """Command lines of the processes that a launch entity would start."""
    from launch.actions import ExecuteLocal, IncludeLaunchDescription
    from launch.utilities import perform_substitutions
    from launch_ros.actions import LoadComposableNodes, Node

    if isinstance(entity, IncludeLaunchDescription):
        _check_arguments(entity, context)
    if isinstance(entity, LoadComposableNodes):  # asks a running container
        yield '(components into a container)'
        return
    if isinstance(entity, ExecuteLocal):
        if entity.condition is not None and not entity.condition.evaluate(context):
            return
        if isinstance(entity, Node):
            # What execute() does before it starts the process.
            entity._perform_substitutions(context)
            name = entity.node_name.rpartition('/')[2]
            names = {'name': f'__node:={name}', 'ns': f'__ns:={entity.expanded_node_namespace}'}
            context.extend_locals({'ros_specific_arguments': names})
        yield shlex.join(perform_substitutions(context, words) for words in entity.cmd)
        return
    for inner in entity.visit(context) or []:
        yield from commands_of(inner, context)


def _check_arguments(include: Any, context: Any) -> None:
    from launch.utilities import normalize_to_list_of_substitutions, perform_substitutions

    def text(value: Any) -> str:
        return perform_substitutions(context, normalize_to_list_of_substitutions(value))

    source = include.launch_description_source
    declared = {one.name for one in source.get_launch_description(context).get_launch_arguments()}
    unknown = {text(name) for name, _ in include.launch_arguments} - declared
    if unknown:
        raise UndeclaredArgumentError(f'{source.location} declares no {", ".join(sorted(unknown))}')


def evaluate(file: Path, arguments: dict[str, str]) -> list[str]:
    """The command lines of one launch file."""
    import launch
    from launch import LaunchContext

    spec = importlib.util.spec_from_file_location(file.stem.replace('.', '_'), file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = LaunchContext()
    context._set_asyncio_loop(asyncio.new_event_loop())  # some actions of other packages ask for one
    context.launch_configurations.update(arguments)
    print(f'== {file.name} ({Path(launch.__file__).parent})')
    return list(commands_of(module.generate_launch_description(), context))


def main(words: list[str]) -> int:
    arguments = dict(word.split(':=', 1) for word in words if ':=' in word)
    files = [FOLDER / word for word in words if ':=' not in word] or sorted(FOLDER.glob('*.launch.py'))
    for file in files:
        print('\n'.join(evaluate(file, arguments)))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
