"""Targets: settings, flags and parameter files."""

from __future__ import annotations

import argparse
import functools
import os
from typing import Any

from fuzz.draw import WORDS, Draw
from fuzz.files import scratch
from vggt_ros import cli
from vggt_ros.core.config import Config, Setting
from vggt_ros.core.config import settings as all_settings

STRANGE = (None, True, 0, -1, 10**400, -(10**30), 1.5, float('nan'), float('inf'), '', 'word', [], {}, b'x', 'ä' * 300)


def settings(draw: Draw) -> None:
    """Settings of any type and size -> a configuration."""
    known = _settings()
    values: dict[str, Any] = {}
    for _ in range(1 + draw.below(5)):
        one = draw.choice(known)
        values[draw.word(one.name)] = _value(draw, one)
    config = Config().with_values(values)
    checked = config.values()
    for one in known:
        one.check(checked[one.name])


def command_line(draw: Draw) -> None:
    """Words of a command line -> arguments and a configuration; nothing is run."""
    command = draw.word(draw.choice(('run', 'evaluate', 'replay', 'demo', 'studio', 'view', 'doctor')))
    words = [command, *(draw.word(one) for one in ('somewhere', '-v', 'more')[: 1 + draw.below(3)])]
    for _ in range(draw.below(5)):
        one = draw.choice(_settings())
        words.append('--' + draw.word(one.name.replace('_', '-')))
        words.append(draw.word(str(_value(draw, one))))
    others = ('--rate', '--port', '--host', '--only', '--export', '--json', '--tolerance', '--out')
    for _ in range(draw.below(3)):
        words.append(draw.choice(others))
        words.append(draw.choice(WORDS))
    args = _parser(command).parse_args(words)
    if command == 'run':
        from vggt_ros.flags import config_from_flags

        config_from_flags(args)


def parameter_file(draw: Draw) -> None:
    """A parameter file -> the parameters of a node."""
    import rclpy
    from rclpy.node import Node

    from vggt_ros.parameters import Parameters, initialise

    lines = ['/**:', '  ros__parameters:']
    for _ in range(1 + draw.below(4)):
        one = draw.choice(_settings())
        lines.append(f'    {one.name}: {_value(draw, one)}')
    text = draw.text('\n'.join(lines)).encode('utf-8', 'replace')
    with scratch() as folder:
        (folder / 'p.yaml').write_bytes(draw.damaged(text) if draw.flag() else text)
        os.environ['ROS_DOMAIN_ID'] = str(100 + os.getpid() % 100)
        context = rclpy.Context()
        initialise(['--ros-args', '--params-file', str(folder / 'p.yaml')], context)
        try:
            node = Node('vggt', context=context, enable_rosout=False, start_parameter_services=False)
            try:
                Parameters(node)
            finally:
                node.destroy_node()
        finally:
            rclpy.shutdown(context=context)


def _value(draw: Draw, one: Setting) -> Any:
    how = draw.byte() & 3
    if how == 0:
        return one.default
    if how == 1:
        return draw.choice(STRANGE)
    if one.kind is int:
        return draw.integer(int(one.default))
    if one.kind is float:
        return draw.number(float(one.default))
    return draw.choice(one.one_of or WORDS) if one.kind is str else draw.flag()


@functools.cache
def _settings() -> list[Setting]:
    return list(all_settings())


@functools.cache
def _parser(command: str) -> argparse.ArgumentParser:
    return cli._parser(command)
