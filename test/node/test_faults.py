"""Every fault of docs/reliability.md, once: nothing crashes, nothing hangs, nothing comes under another's stamp.

One node lives through all of them, one after the other, unless a fault is the end of a process. `python -m
benchmarks.faults` does the same as often as one likes, and prints the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_bench import Bench
from fault_rows import ROWS, NotPermitted, Row


@pytest.fixture(scope='module')
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp('faults'))
    yield bench
    bench.close()
    assert 'Traceback' not in bench.node.text


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.make.__name__)
def test_fault(bench: Bench, row: Row) -> None:
    try:
        outcome = row.run(bench)
    except NotPermitted as reason:
        pytest.skip(str(reason))
    assert outcome.wrong == []
    assert outcome.lost == 0
    assert bench.node.process.poll() is None, bench.node.text


def test_the_table_of_the_documentation_has_every_fault() -> None:
    page = (Path(__file__).parents[2] / 'docs/reliability.md').read_text()
    table = page.split('<!-- faults -->')[1].split('<!-- end -->')[0]
    named = {line.split('|')[-2].strip(' `') for line in table.splitlines() if line.startswith('| ')}
    assert named - {'row', '---'} == {row.make.__name__ for row in ROWS}
