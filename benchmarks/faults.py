"""What the node does when things go wrong: the table of docs/reliability.md.

    python -m benchmarks.faults                         # each fault once
    python -m benchmarks.faults --repeats 5 --table     # the rows of the table
    python -m benchmarks.faults --only gap duplicate    # those alone
    python -m benchmarks.faults --keep tries.jsonl --table      # several calls make one table

Method: the rows are those that test/node/test_faults.py runs once each. One real node in its own process lives through
all of them, over DDS, with a stand-in network; the end of a process has a process of its own. Every image has a colour
that tells its number: a result under another's stamp cannot hide. Frames lost are good ones whose results never came,
beyond those that the fault itself took and those that a busy machine passed over for newer ones, which are told apart.
The time to recover runs from the end of the fault to the first result of an image sent after it: at 30 images a second
0.03 s at least, and 0.13 s where a window of four begins anew.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks.machine import commit, cpu_name
from vggt_ros.dds import free_domain, stay_on_this_machine

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Do every fault; 0 where nothing was lost, wrong or hung."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--repeats', type=int, default=1, help='times each fault is tried (%(default)s)')
    parser.add_argument('--only', nargs='+', default=[], metavar='FAULT', help='names of rows, as the tests have them')
    parser.add_argument('--keep', type=Path, metavar='FILE', help='add each try to FILE; the table is of all in there')
    parser.add_argument('--table', action='store_true', help='print the rows of docs/reliability.md')
    arguments = parser.parse_args()
    os.environ.update(stay_on_this_machine(free_domain()))
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    sys.path.insert(0, str(ROOT / 'test/node'))
    from fault_bench import Bench, Outcome
    from fault_rows import ROWS, NotPermitted

    rows = [row for row in ROWS if not arguments.only or row.make.__name__ in arguments.only]
    outcomes: dict[str, list[Outcome]] = {row.name: [] for row in rows}
    if arguments.keep and arguments.keep.exists():
        for kept in map(json.loads, arguments.keep.read_text().splitlines()):
            outcomes.setdefault(kept['row'], []).append(Outcome(**kept['outcome']))
    failed = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Bench(Path(folder))) as bench:
        for repeat in range(arguments.repeats):
            for row in rows:
                start = time.monotonic()
                try:
                    outcome = row.run(bench)
                except NotPermitted as reason:
                    print(f'{row.make.__name__:18} not tried: {reason}', flush=True)
                    continue
                except Exception:
                    failed += 1
                    print(f'{row.make.__name__:18} FAILED\n{traceback.format_exc(limit=-3)}', flush=True)
                    continue
                outcomes[row.name].append(outcome)
                if outcome.lost:
                    print(bench.log, flush=True)
                if arguments.keep:
                    with arguments.keep.open('a') as file:
                        print(json.dumps({'row': row.name, 'outcome': dataclasses.asdict(outcome)}), file=file)
                failed += bool(outcome.wrong) + bool(outcome.lost)
                print(
                    f'{row.make.__name__:18} {repeat + 1}: {outcome.sent} good frames, {outcome.lost} lost, '
                    f'{outcome.skipped} passed over, '
                    f'{len(outcome.wrong)} wrong {outcome.wrong[:3] or ""}, recovered in {outcome.recover_s:.2f} s, '
                    f'{time.monotonic() - start:.1f} s in all; {outcome.sees}',
                    flush=True,
                )
        crashed = 'Traceback' in bench.node.text
    if arguments.table:
        print(
            '\n| fault | tries | what the user sees | frames the fault takes | passed over / lost beyond '
            '| back after, s: median, most | row |'
        )
        print('| --- | --- | --- | --- | --- | --- | --- |')
        for row in ROWS:
            tries = outcomes.get(row.name)
            if tries:
                sees = '; '.join(f'`{text.replace("|", "/")}`' for text in tries[-1].sees) or 'nothing'
                recover = [one.recover_s for one in tries]
                lost = f'{sum(one.skipped for one in tries)} / {sum(one.lost for one in tries)}'
                print(
                    f'| {row.name} | {len(tries)} | {sees} | {row.takes} | {lost} | '
                    f'{statistics.median(recover):.2f}, {max(recover):.2f} | `{row.make.__name__}` |'
                )
    tried = [one for several in outcomes.values() for one in several]
    print(
        f'\n{len(tried)} tries of {len(rows)} faults, {sum(one.sent for one in tried)} good frames, '
        f'{sum(one.skipped for one in tried)} passed over, {sum(one.lost for one in tried)} lost, '
        f'{sum(len(one.wrong) for one in tried)} wrong results, {failed} failed, '
        f'tracebacks in the log: {"yes" if crashed else "none"}; {cpu_name()}, commit {commit()}'
    )
    return int(failed > 0 or crashed)


if __name__ == '__main__':
    sys.exit(main())
