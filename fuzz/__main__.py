"""Fuzz a target by hand: python -m fuzz TARGET --runs N.

atheris, where it is installed, chooses the inputs by the code that they reach; without it, or with --random, they are
drawn at random. What breaks the contract (contract.py) is told once for each place, and its input kept in
runs/fuzz/TARGET; --input FILE runs that one again and shows where it breaks.

    python -m fuzz image --runs 100000
    python -m fuzz all --random                     every target, as often as targets.py says
    python -m fuzz bag --runs 1000 --coverage       also which share of its modules is reached
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import random
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

FOLDER = Path('runs/fuzz')
LONGEST = 400  # bytes of an input


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m fuzz', description=__doc__.split('\n', 1)[0])
    parser.add_argument('target', help='name, several with commas, or all')
    parser.add_argument('--runs', type=int, default=0, help='inputs; default as targets.py says')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--random', action='store_true', help='draw inputs at random, without atheris')
    parser.add_argument('--coverage', action='store_true', help='with coverage.py; much slower')
    parser.add_argument('--input', metavar='FILE', help='run one input, and let it break')
    args = parser.parse_args()
    if args.input:
        return _run_one(args.target, Path(args.input))
    is_random = args.random or args.coverage or importlib.util.find_spec('atheris') is None
    if os.environ.get('FUZZ_CHILD'):
        return _fuzz(args.target, args.runs, args.seed, is_random, args.coverage)
    from fuzz.targets import TARGETS

    names = list(TARGETS) if args.target == 'all' else args.target.split(',')
    print('| target | by | inputs | refused in words | findings | seconds | coverage |\n|---|---|---|---|---|---|---|')
    found = 0
    for name in names:
        found += _in_a_process(name, args.runs or TARGETS[name].runs, args.seed, is_random, args.coverage)
    return 1 if found else 0


def _in_a_process(name: str, runs: int, seed: int, is_random: bool, coverage: bool) -> int:
    """A crash of the process is a finding like others; what it was given then lies in last.bin."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / 'result.json'
    result.unlink(missing_ok=True)
    flags = [*(['--random'] if is_random else []), *(['--coverage'] if coverage else [])]
    command = [sys.executable, '-X', 'faulthandler', '-m', 'fuzz', name, '--runs', str(runs), '--seed', str(seed)]
    environment = {**os.environ, 'FUZZ_CHILD': '1', 'OMP_NUM_THREADS': '1', 'ROS_LOG_DIR': str(folder / 'log')}
    with (folder / 'log.txt').open('w') as log:
        done = subprocess.run([*command, *flags], env=environment, stdout=log, stderr=subprocess.STDOUT)
    if not result.exists():
        print(f'| {name} | | | | crashed with {done.returncode}: {folder}/last.bin, log.txt | | |', flush=True)
        return 1
    said = json.loads(result.read_text())
    edges = re.findall(r'cov: (\d+) ft', (folder / 'log.txt').read_text(errors='replace'))
    if edges:
        said['coverage'] = f'{edges[-1]} edges'
    print(
        f'| {name} | {said["by"]} | {said["tried"]:,} | {said["refused"]:,} | {len(said["findings"])} | '
        f'{said["seconds"]:.0f} | {said["coverage"]} |',
        flush=True,
    )
    for kind, file in said['findings']:
        print(f'    {kind}  {file}')
    return len(said['findings'])


def _fuzz(name: str, runs: int, seed: int, is_random: bool, with_coverage: bool) -> int:
    """In a process of its own: try inputs, and write result.json."""
    warnings.simplefilter('ignore')
    measured: Any = None
    if with_coverage:
        import coverage

        measured = coverage.Coverage(branch=True, data_file=None, include=['vggt/*', 'vggt_ros/*'])
        measured.start()
    if is_random:
        from fuzz.targets import TARGETS
    else:
        import atheris

        with atheris.instrument_imports(include=['vggt', 'vggt_ros'], enable_loader_override=False):
            from fuzz.targets import TARGETS
    from fuzz.contract import Findings, arm

    logging.disable(logging.CRITICAL)
    findings = Findings(TARGETS[name].run)
    last = (FOLDER / name / 'last.bin').open('wb', buffering=0)
    start = time.monotonic()

    def try_one(data: bytes) -> None:
        os.pwrite(last.fileno(), len(data).to_bytes(4, 'little') + data, 0)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            findings.try_one(data)

    def finish() -> None:
        covered = _share(measured, TARGETS[name].modules) if measured is not None else ''
        said = {
            'by': 'random' if is_random else 'atheris',
            'tried': findings.tried,
            'refused': findings.refused,
            'seconds': time.monotonic() - start,
            'coverage': covered,
            'findings': [_keep(name, kind, found) for kind, found in findings.first.items()],
        }
        (FOLDER / name / 'result.json').write_text(json.dumps(said))

    arm()
    if is_random:
        chooser = random.Random(seed)
        for _ in range(runs):
            size = int(LONGEST * chooser.random() ** 3)
            try_one(chooser.randbytes(size))
        finish()
        return 0

    def guided(data: bytes) -> None:
        try_one(data)
        if findings.tried >= runs:
            finish()
            os._exit(0)

    flags = [sys.argv[0], f'-max_len={LONGEST}', f'-seed={seed + 1}', '-print_final_stats=1', '-rss_limit_mb=0']
    atheris.Setup([*flags, '-len_control=10', '-handle_alrm=0', '-timeout=0'], guided)
    atheris.Fuzz()
    return 0


def _keep(name: str, kind: tuple[str, str], found: tuple[bytes, str]) -> tuple[str, str]:
    data, text = found
    file = FOLDER / name / f'{hashlib.sha256(data).hexdigest()[:12]}.bin'
    file.write_bytes(data)
    file.with_suffix('.txt').write_text(text)
    return ' at '.join(kind), str(file)


def _share(measured: Any, modules: tuple[str, ...]) -> str:
    """Lines and branches of each module that were reached."""
    measured.stop()
    shares = []
    for module in modules:
        share = measured.report(include=[module], file=io.StringIO())
        shares.append(f'{module} {share:.0f} %')
    return ', '.join(shares)


def _run_one(name: str, file: Path) -> int:
    from fuzz.contract import arm, check
    from fuzz.targets import TARGETS

    data = file.read_bytes()
    if file.name == 'last.bin':
        data = data[4 : 4 + int.from_bytes(data[:4], 'little')]
    arm()
    print('a result' if check(TARGETS[name].run, data) else 'refused in words')
    return 0


if __name__ == '__main__':
    sys.exit(main())
