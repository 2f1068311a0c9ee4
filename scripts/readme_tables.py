"""Keep the tables of README.md equal to the code: python -m scripts.readme_tables [--check].

Between <!-- table NAME --> and <!-- end --> stands what the declarations in vggt_ros say; nothing is typed twice.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from vggt_ros.core.config import Setting, settings
from vggt_ros.topics import TOPICS, resolve

README = Path(__file__).resolve().parent.parent / 'README.md'


def topic_table() -> str:
    """Every topic with its type and what it holds."""
    rows = [f'| `{resolve(one.name)}` | {one.type.split("/")[-1]} | {one.help} |' for one in TOPICS]
    return '\n'.join(['| topic | type | what it holds |', '| --- | --- | --- |', *rows])


def setting_table() -> str:
    """Every setting with its default, its bounds and its sentence."""
    rows = [f'| `{one.name}` | `{_default(one)}` | {_bounds(one)} | {one.help} |' for one in settings()]
    return '\n'.join(['| parameter | default | allowed | meaning |', '| --- | --- | --- | --- |', *rows])


TABLES = {'topics': topic_table, 'settings': setting_table}


def with_tables(text: str) -> str:
    """The README with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        return f'<!-- table {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->'

    return re.sub(r'<!-- table (\w+) -->\n.*?<!-- end -->', table, text, flags=re.DOTALL)


def _default(one: Setting) -> str:
    return str(one.default).lower() if one.kind is bool else f'{one.default}' or '""'


def _bounds(one: Setting) -> str:
    if one.one_of is not None:
        return ', '.join(one.one_of)
    low = f'> {one.above:g}' if one.above is not None else f'≥ {one.at_least:g}' if one.at_least is not None else ''
    high = f'≤ {one.at_most:g}' if one.at_most is not None else ''
    return ', '.join(part for part in (low, high) if part)


def main(arguments: list[str]) -> int:
    """Write the tables, or with --check only say whether they are up to date."""
    text = README.read_text(encoding='utf-8')
    new = with_tables(text)
    if '--check' in arguments:
        return int(new != text)
    README.write_text(new, encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
