"""core.config <-> command-line flags: every setting as --its-name, with its sentence and its bounds."""

from __future__ import annotations

import argparse
from typing import Any

from vggt_ros.core.config import Config, Setting, settings

_LEFT_OUT = {'input'}  # how the node subscribes says nothing offline


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting, by section; one that is not given keeps the default of core.config."""
    groups: dict[str, Any] = {}
    for one in settings():
        if one.section in _LEFT_OUT:
            continue
        if one.section not in groups:
            groups[one.section] = parser.add_argument_group(f'{one.section} settings')
        _add_flag(groups[one.section], one)


def config_from_flags(args: argparse.Namespace) -> Config:
    """All settings, with those that were given; ConfigError names one that is out of range."""
    names = {one.name for one in settings()}
    return Config().with_values({name: value for name, value in vars(args).items() if name in names})


def _add_flag(group: Any, one: Setting) -> None:
    names = [f'--{one.name.replace("_", "-")}']
    if one.name == 'model_id':
        names.insert(0, '--model')
    text = one.help.replace('%', '%%') + f' ({one.default})'
    common: dict[str, Any] = {'dest': one.name, 'default': argparse.SUPPRESS, 'help': text}
    if one.kind is bool:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, **common)
    elif one.one_of is not None:
        group.add_argument(*names, choices=one.one_of, **common)
    else:
        group.add_argument(*names, type=one.kind, metavar=one.kind.__name__.upper(), **common)
