"""docs/contract.md: every test it names exists, every row has one or says why not, and every topic has a row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'contract.md').read_text(encoding='utf-8')
ROWS = [line for line in PAGE.splitlines() if line.startswith('| ') and not re.match(r'\| (what|event|who|---)', line)]
EXCUSES = ('none: ', 'not run')


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / 'test' / file).read_text(encoding='utf-8'))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def named_tests(text: str) -> list[tuple[str, str]]:
    """(file, function) of each `file.py::function`; the function is empty where a whole file is named."""
    return re.findall(r'`([\w/]+\.py)(?:::(\w+))?`', text)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.split('|')[1].strip()[:40])
def test_every_row_has_tests_that_exist_or_says_why_not(row: str) -> None:
    cell = re.split(r'(?<!\\)\|', row)[-2]
    tests = [(file, name) for file, name in named_tests(cell) if not file.startswith('benchmarks/')]
    assert tests or any(excuse in cell for excuse in EXCUSES)
    for file, name in tests:
        assert (ROOT / 'test' / file).is_file(), file
        assert not name or name in functions_of(file), f'{file} has no {name}'


def test_every_topic_we_publish_has_a_row() -> None:
    from vggt_ros.topics import TOPICS

    table = PAGE.partition('## Publications')[2].partition('## TF')[0]
    missing = [topic.name for topic in TOPICS if not topic.name.startswith('/tf') and f'`{topic.name}`' not in table]
    assert not missing


def test_every_contract_test_is_in_the_table() -> None:
    """A test of these files that no row names would be one that nobody finds."""
    files = ('node/test_contract.py', 'node/test_robustness.py', 'node/test_consumers.py', 'node/test_rig.py')
    named = set(named_tests(PAGE))
    left_out = {
        (file, name)
        for file in files
        for name in functions_of(file)
        if name.startswith('test_') and (file, name) not in named
    }
    assert left_out <= {
        ('node/test_consumers.py', 'test_the_mount_of_this_test_looks_down'),  # of the test's own making
    }


def test_every_fault_has_a_row_in_the_table_of_reliability() -> None:
    text = (ROOT / 'docs/reliability.md').read_text(encoding='utf-8')
    table = text.partition('<!-- faults -->')[2].partition('\n## ')[0]
    shown = set(re.findall(r'\| `(\w+)` \|$', table, re.MULTILINE))
    tree = ast.parse((ROOT / 'test/node/fault_rows.py').read_text(encoding='utf-8'))
    faults = {one.name for one in tree.body if isinstance(one, ast.FunctionDef) and one.decorator_list}
    assert shown == faults
