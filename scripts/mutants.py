"""Change the code a little, many times, and see whether a test notices: python scripts/mutants.py (make mutants).

mutmut makes the changes, of the files and with the tests that [tool.mutmut] of pyproject.toml names; a mutant is run
by the tests that reach its function, fastest first, each in a fork of one warm process. Of each file, or of all files
together, a sample is drawn, with a fixed seed, as all mutants would take a day. A mutant that no test can tell from the
code stands in mutants.toml with its reason, and is left out. What is decorated (properties) and what is no function
(dataclass fields, constants) is not changed by mutmut.

    python scripts/mutants.py                       50 of each file
    python scripts/mutants.py --sample 0            all of them
    python scripts/mutants.py --total 200           200 of all files together, any mutant as likely as any other
    python scripts/mutants.py vggt_ros/decode.py    one file; its survivors as diffs

Most of the time goes into survivors, which all tests that reach the function have to run. --seconds 20 keeps 20 s of
tests for each function, those in the file named after its module first, then the fastest: tests left out can only make
survivors of what would be noticed, so the share is then a lower bound.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
KILLED = {1, 3, -24, 24, 36, 152, 255}  # a test failed, or ran far longer than before. Source: mutmut/stats.py
REACHING = 'tests_by_mangled_function_name'  # of mutmut-stats.json
Z = 1.96  # of a normal distribution, 95 % within


@dataclass(frozen=True)
class Sample:
    """Mutants of one file that were run.

    Args:
        total: mutants of the file, without the equivalent ones that were drawn.
        killed, survivors: of the sample.
        equivalent: drawn, and left out.
    """

    file: str
    total: int
    killed: int
    survivors: list[str]
    equivalent: int

    @property
    def size(self) -> int:
        return self.killed + len(self.survivors)

    @property
    def share(self) -> float:
        return self.killed / self.size if self.size else 1.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('files', nargs='*', metavar='FILE', help='default: all that pyproject.toml names')
    parser.add_argument('--sample', type=int, default=50, metavar='N', help='mutants of each file; 0 is all (50)')
    parser.add_argument('--total', type=int, default=0, metavar='N', help='mutants of all files together, not of each')
    parser.add_argument('--seconds', type=float, default=math.inf, help='of tests for each function (all)')
    parser.add_argument('--seed', type=int, default=9, help='of the sample (9)')
    parser.add_argument('--children', type=int, default=2, help='mutants run at once (2)')
    parser.add_argument('--again', action='store_true', help='run what an earlier call has run already, too')
    args = parser.parse_args(argv)
    os.chdir(ROOT)
    wanted = tomllib.loads(Path('pyproject.toml').read_text())['tool']['mutmut']['only_mutate']
    files = [str(Path(one)) for one in args.files] or wanted
    unknown = [one for one in files if one not in wanted]
    if unknown:
        parser.error(f'{", ".join(unknown)} is not among only_mutate of pyproject.toml')
    equivalent = {(one['file'], one['before'], one['after']) for one in _equivalents()}
    _mutmut(['vggt_ros.topics.x_topics_of__mutmut_1'], args.children)  # writes all mutants, runs one
    if args.total:
        drawn = _draw_of_all(files, args.total, args.seed)
    else:
        drawn = {file: _draw(file, args.sample, args.seed) for file in files}
    same = {name for file in files for name in drawn[file] if (file, *_change(name, file)) in equivalent}
    todo = [
        name
        for file in files
        for name in drawn[file]
        if name not in same and (args.again or _results(file)[name] is None)
    ]
    if todo:
        _leave_out_slow_tests(args.seconds)
        _mutmut(todo, args.children)
    samples = [_sum_up(file, drawn[file], same) for file in files]
    for one in samples:
        for name in one.survivors:
            print(f'{one.file}  {name}', *_diff(name, one.file), '', sep='\n')
    print('\n'.join(_table(samples, _of_all(samples) if args.total else _weighed(samples))))
    return 0


def _equivalents() -> list[dict[str, str]]:
    file = Path(__file__).with_suffix('.toml')
    return list(tomllib.loads(file.read_text()).get('equivalent', ()))


def _mutmut(names: Iterable[str], children: int) -> None:
    environment = {**os.environ, 'PYTHONPATH': '', 'OMP_NUM_THREADS': '1'}  # else the code itself would be tested
    command = [sys.executable, '-m', 'mutmut', 'run', '--max-children', str(children), *names]
    with Path('mutants.log').open('w') as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f'mutmut failed, see mutants.log: {Path("mutants.log").read_text()[-1000:]}')


def _leave_out_slow_tests(seconds: float) -> None:
    """Of the tests that mutmut found to reach a function, keep the first that take this long together.

    Those in the file named after the module come first, and of each kind the fastest.
    """
    found = Path('mutants/mutmut-stats.json')
    every = Path('mutants/every-test.json')  # what an earlier call has left out
    stats = json.loads(found.read_text())
    reaching: dict[str, set[str]] = {name: set(tests) for name, tests in stats[REACHING].items()}
    took = stats['duration_by_test']
    for name, tests in (json.loads(every.read_text()) if every.exists() else {}).items():
        reaching.setdefault(name, set()).update(one for one in tests if one in took)
    every.write_text(json.dumps({name: sorted(tests) for name, tests in reaching.items()}))
    for name, tests in reaching.items():
        own = f'/test_{_module(name)}.py::'
        order = sorted(tests, key=lambda test: (own not in test, took[test], test))
        ends = accumulate(took[test] for test in order)
        stats[REACHING][name] = [
            test for test, end in zip(order, ends, strict=True) if end <= seconds or test == order[0]
        ]
    found.write_text(json.dumps(stats))


def _module(function: str) -> str:
    """'geometry' of 'vggt_ros.core.geometry.x_invert_rigid'."""
    return function.split('.')[-2]


def _results(file: str) -> dict[str, int | None]:
    """Exit code of the tests by mutant; None where it was not run."""
    meta = Path('mutants', file + '.meta')
    return dict(json.loads(meta.read_text())['exit_code_by_key']) if meta.exists() else {}


def _draw(file: str, size: int, seed: int) -> list[str]:
    names = sorted(_results(file))
    if not size or len(names) <= size:
        return names
    return random.Random(f'{seed} {file}').sample(names, size)


def _draw_of_all(files: list[str], size: int, seed: int) -> dict[str, list[str]]:
    names = [(file, name) for file in files for name in sorted(_results(file))]
    sample = random.Random(seed).sample(names, min(size, len(names)))
    return {file: sorted(name for of, name in sample if of == file) for file in files}


def _diff(name: str, file: str) -> list[str]:
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    return [line for line in get_diff_for_mutant(name, path=file).splitlines() if line[:1] in '+-'][2:]


def _change(name: str, file: str) -> tuple[str, str]:
    lines = _diff(name, file)
    return tuple(' '.join(line[1:].strip() for line in lines if line[0] == sign) for sign in '-+')  # type: ignore


def _sum_up(file: str, drawn: list[str], same: set[str]) -> Sample:
    results: dict[str, Any] = _results(file)
    run = [name for name in drawn if name not in same]
    survivors = [name for name in run if results[name] not in KILLED]
    equivalent = len(drawn) - len(run)
    return Sample(file, len(results) - equivalent, len(run) - len(survivors), survivors, equivalent)


def _table(samples: list[Sample], last: str) -> list[str]:
    """Rows for docs/reliability.md."""
    rows = ['| file | mutants | run | killed | share | 95 % | equivalent |', '|---|---|---|---|---|---|---|']
    for one in samples:
        low, high = _interval(one)
        share = f'{one.share:.0%} | {low:.0%} to {high:.0%}' if one.size else '| '
        rows.append(f'| `{one.file}` | {one.total} | {one.size} | {one.killed} | {share} | {one.equivalent} |')
    return [*rows, last]


def _weighed(samples: list[Sample]) -> str:
    """Row of all files, each weighed by its mutants."""
    total = sum(one.total for one in samples)
    share = sum(one.total * one.share for one in samples) / total
    variance = sum((one.total / total) ** 2 * _variance(one) for one in samples)
    error = Z * math.sqrt(variance)
    return (
        f'| all | {total} | {sum(one.size for one in samples)} | {sum(one.killed for one in samples)} | {share:.1%} '
        f'| {share - error:.1%} to {min(share + error, 1):.1%} | {sum(one.equivalent for one in samples)} |'
    )


def _of_all(samples: list[Sample]) -> str:
    """Row of all files, where any mutant was as likely to be drawn as any other."""
    survivors = [name for one in samples for name in one.survivors]
    counts = (sum(getattr(one, what) for one in samples) for what in ('total', 'killed', 'equivalent'))
    total, killed, equivalent = counts
    whole = Sample('all', total, killed, survivors, equivalent)
    low, high = _interval(whole)
    return f'| all | {total} | {whole.size} | {killed} | {whole.share:.1%} | {low:.1%} to {high:.1%} | {equivalent} |'


def _variance(sample: Sample) -> float:
    """Of the share; 0 where all were run. Source: Cochran, Sampling Techniques, 3rd ed., eq. 3.8 and sec. 5.10."""
    if sample.size < 2:
        return 0.0
    return (1 - sample.size / max(sample.total, 1)) * sample.share * (1 - sample.share) / (sample.size - 1)


def _interval(sample: Sample) -> tuple[float, float]:
    """Source: Wilson, Probable Inference, JASA 1927; with the finite population's n."""
    if not sample.size or sample.size >= sample.total:
        return sample.share, sample.share
    n = sample.size / (1 - sample.size / sample.total)
    centre = (sample.share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(sample.share * (1 - sample.share) / n + Z**2 / (4 * n**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


if __name__ == '__main__':
    sys.exit(main())
