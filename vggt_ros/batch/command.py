"""`vggt_ros batch`: many recordings in, a folder of results for each, one table of all."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from vggt_ros.batch import summary
from vggt_ros.batch.jobs import Job, find_sources, make_jobs, refuse_other_results
from vggt_ros.batch.work import FAILED, KEPT, Outcome, one_after_the_other
from vggt_ros.core.errors import ConfigError, VggtRosError
from vggt_ros.run import Recipe, add_recipe_arguments, make_folder

log = logging.getLogger(__name__)

INSTALL_RAY = 'pip install ray'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'sources', nargs='+', metavar='SOURCE', help='bags, videos, image folders, or folders that hold some'
    )
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the results, one folder a recording')
    parser.add_argument(
        '--workers', type=int, default=0, metavar='N', help='processes on Ray; default one a GPU, or else one a core'
    )
    parser.add_argument('--address', default='', help='of a Ray cluster (auto, HOST:PORT); default this machine alone')
    parser.add_argument(
        '--split', type=int, default=0, metavar='FRAMES',
        help='recordings with more frames are computed by all workers, in parts of so many; default never',
    )  # fmt: skip
    add_recipe_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """0 where every recording has its results, 1 where some failed."""
    recipe = Recipe.from_flags(args)
    if min(args.workers, args.split) < 0:
        raise ConfigError(f'--workers and --split must be at least 0, got {args.workers} and {args.split}')
    folder = Path(args.out)
    jobs = make_jobs(find_sources([Path(path) for path in args.sources]), folder)
    if not args.force:
        refuse_other_results(jobs, recipe.config)
    make_folder(folder)
    outcomes = _Outcomes(folder, jobs, args.quiet)
    try:
        for job in jobs:
            if not args.force and job.summary() is not None:
                outcomes.add(Outcome(job, KEPT, summary=job.summary()))
        for outcome in _process(outcomes.waiting(), recipe, args, outcomes):
            outcomes.add(outcome)
    finally:
        outcomes.close()
    print(summary.table(outcomes.in_order()), end='')
    print(folder / 'index.html')
    return 1 if any(one.state == FAILED for one in outcomes.in_order()) else 0


def _process(jobs: Sequence[Job], recipe: Recipe, args: argparse.Namespace, outcomes: _Outcomes) -> Iterator[Outcome]:
    if not jobs:
        return
    if not _takes_ray(args):
        if args.split:
            log.warning('--split needs several workers: each recording is computed whole')
        yield from one_after_the_other(jobs, recipe, outcomes.count_frame)
        return
    if not args.address:
        # Read when Ray is imported: without clusters it takes the loopback address, and listens on that alone.
        # Source: ray-project/ray, python/ray/_private/services.py, get_node_ip_address.
        os.environ.setdefault('RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER', '0')
        # Our workers load a network anyway: processes kept ready for other work cost 1.8 of 6.5 s of starting.
        os.environ.setdefault('RAY_enable_worker_prestart', '0')
    from vggt_ros.batch.on_ray import RayWorkers

    with RayWorkers(recipe, args.workers, args.address) as workers:
        is_long = [len(workers.workers) > 1 and _is_long(job, recipe, args.split) for job in jobs]
        long = [job for job, yes in zip(jobs, is_long, strict=True) if yes]
        whole = [job for job, yes in zip(jobs, is_long, strict=True) if not yes]
        log.info('%d workers on %s', len(workers.workers), workers.device)
        yield from workers.process(whole, long, args.split, outcomes.set_frames)


def _takes_ray(args: argparse.Namespace) -> bool:
    """Whether recordings are spread; ConfigError where that was asked for and cannot be."""
    if args.workers == 1 and not args.address:
        return False
    if importlib.util.find_spec('ray') is not None:
        return True
    if args.workers or args.address:
        raise ConfigError(f'several workers need Ray, which is not installed: {INSTALL_RAY}')
    log.info('one after the other: Ray, which spreads recordings over processes, is not installed (%s)', INSTALL_RAY)
    return False


def _is_long(job: Job, recipe: Recipe, split: int) -> bool:
    """Whether a recording is worth splitting; what cannot be opened fails in its worker, with words."""
    if not split:
        return False
    try:
        source = recipe.open(job.source)
    except VggtRosError:
        return False
    try:
        return len(source) > split
    finally:
        source.close()


class _Outcomes:
    """The outcomes so far: kept on disk, and shown on a bar."""

    def __init__(self, folder: Path, jobs: Sequence[Job], is_quiet: bool) -> None:
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        self._folder, self._jobs = folder, jobs
        self._by_name: dict[str, Outcome] = {}
        self._start, self._frames = time.monotonic(), 0
        self._logs = logging_redirect_tqdm()
        self._logs.__enter__()
        self._bar = tqdm(total=len(jobs), unit='recording', disable=is_quiet or None, mininterval=0.3)

    def waiting(self) -> list[Job]:
        """Recordings without an outcome."""
        return [job for job in self._jobs if job.name not in self._by_name]

    def in_order(self) -> list[Outcome]:
        """Outcomes in the order in which the recordings were named."""
        return [self._by_name[job.name] for job in self._jobs if job.name in self._by_name]

    def add(self, outcome: Outcome) -> None:
        """Take an outcome, and write the table anew."""
        if outcome.state == FAILED:
            log.error('%s: %s', outcome.job.source, outcome.words)
        self._by_name[outcome.job.name] = outcome
        self._bar.update()
        self._write()

    def count_frame(self) -> None:
        self.set_frames(self._frames + 1)

    def set_frames(self, frames: int) -> None:
        self._frames = frames
        failed = sum(one.state == FAILED for one in self._by_name.values())
        self._bar.set_postfix(frames=frames, failed=failed, refresh=False)
        self._bar.update(0)

    def close(self) -> None:
        self._bar.close()
        self._logs.__exit__(None, None, None)

    def _write(self) -> None:
        summary.write(self._folder, self.in_order(), len(self.waiting()), time.monotonic() - self._start)
