"""Keep the tables of README.md and docs/, and the SROS 2 policy, equal to the code: python -m scripts.readme_tables.

Between <!-- table NAME --> and <!-- end --> stands what the declarations in vggt_ros say; nothing is typed twice.
With --check nothing is written, and the exit code says whether all is up to date.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from scripts import sros_policy
from vggt_ros.core.config import Config, Setting, settings
from vggt_ros.distro import DISTROS
from vggt_ros.topics import INPUTS, SERVICES, TOPICS, resolve

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


def topic_table() -> str:
    """Every topic with its type and what it holds."""
    rows = [(f'`{resolve(one.name)}`', _short(one.type), one.help) for one in TOPICS]
    return _table(('topic', 'type', 'what it holds'), rows)


def offer_table() -> str:
    """Every topic as subscribers need to know it."""
    rows = [
        (
            f'`{resolve(one.name)}`',
            'transient local' if one.latched else 'volatile',
            str(one.depth),
            'on demand' if one.lazy else 'always',
            'for each camera' if one.per_camera else 'once',
        )
        for one in TOPICS
    ]
    return _table(('topic', 'durability', 'depth', 'made', 'with a rig'), rows)


def input_table() -> str:
    """Every topic that the node may subscribe to."""
    rows = [(f'`{one.name}`', _short(one.type), one.help) for one in INPUTS]
    return _table(('name to remap', 'type', 'what it is for'), rows)


def service_table() -> str:
    """Every service with its type and what it does."""
    rows = [(f'`{resolve(one.name)}`', _short(one.type), one.help) for one in SERVICES]
    return _table(('service', 'type', 'what it does'), rows)


def setting_table() -> str:
    """Every setting with its default, its bounds and its sentence."""
    return _settings(settings())


def parameter_sections() -> str:
    """The settings by section, each under its heading; a mark for those that a running node takes."""
    parts = []
    for section in dataclasses.fields(Config):
        sentence = (type(section.default).__doc__ or '').strip()
        rows = _settings((one for one in settings() if one.section == section.name), with_dynamic=True)
        parts.append(f'## {section.name.capitalize()}\n\n{sentence}\n\n{rows}')
    return '\n\n'.join(parts)


def launch_table() -> str:
    """Every launch file with its first sentence."""
    rows = []
    for path in sorted((ROOT / 'launch').glob('*.launch.py')):
        sentence, _, call = (ast.get_docstring(ast.parse(path.read_text())) or '').split('\n')[0].rpartition(': ')
        _, _, words = call.partition(f'{path.name} ')
        rows.append((f'`{path.name}`', sentence, f'`{words}`' if words else ''))
    return _table(('launch file', 'what it does', 'with'), rows)


def distro_table() -> str:
    """The distributions with what differs between them."""
    rows = [
        (
            one.name.capitalize(), one.ubuntu, one.python, f'{one.numpy}', f'{one.rclpy}',
            f'{one.fast_dds}: `{one.profiles_variable}`', one.until,
        )
        for one in DISTROS
    ]  # fmt: skip
    return _table(('distribution', 'Ubuntu', 'Python', 'NumPy', 'rclpy', 'Fast DDS and its variable', 'until'), rows)


TABLES = {
    'topics': topic_table,
    'offers': offer_table,
    'inputs': input_table,
    'services': service_table,
    'settings': setting_table,
    'parameters': parameter_sections,
    'launch': launch_table,
    'distros': distro_table,
}


def with_tables(text: str) -> str:
    """A page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        return f'<!-- table {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->'

    return re.sub(r'<!-- table (\w+) -->\n.*?<!-- end -->', table, text, flags=re.DOTALL)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple('---' for _ in head), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _settings(some: Iterable[Setting], *, with_dynamic: bool = False) -> str:
    head: tuple[str, ...] = ('parameter', 'default', 'allowed', 'meaning')
    rows: list[tuple[str, ...]] = []
    for one in some:
        row = (f'`{one.name}`', f'`{_default(one)}`', _bounds(one), one.help)
        rows.append((*row, 'yes' if one.dynamic else '') if with_dynamic else row)
    return _table((*head, 'while running') if with_dynamic else head, rows)


def _short(kind: str) -> str:
    return kind.split('/')[-1]


def _default(one: Setting) -> str:
    return str(one.default).lower() if one.kind is bool else f'{one.default}' or '""'


def _bounds(one: Setting) -> str:
    if one.one_of is not None:
        return ', '.join(one.one_of)
    low = f'> {one.above:g}' if one.above is not None else f'≥ {one.at_least:g}' if one.at_least is not None else ''
    high = f'≤ {one.at_most:g}' if one.at_most is not None else ''
    return ', '.join(part for part in (low, high) if part)


def main(arguments: list[str]) -> int:
    """Write the tables, or with --check only say which page is behind."""
    behind = []
    for page in PAGES:
        text = page.read_text(encoding='utf-8')
        new = with_tables(text)
        if new != text:
            behind.append(page)
            if '--check' not in arguments:
                page.write_text(new, encoding='utf-8')
    is_policy_behind = sros_policy.main(arguments)
    if '--check' in arguments:
        print('\n'.join(f'{page.relative_to(ROOT)} is behind the code' for page in behind))
        return int(bool(behind) or is_policy_behind)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
