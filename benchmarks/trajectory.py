"""Trajectory error of the placement of windows, on a real RGB-D sequence under a simulated network.

    python -m benchmarks.trajectory SEQUENCE --seed 3               # one run
    python -m benchmarks.trajectory SEQUENCE --seed 3 --json        # the same as one JSON object
    python -m benchmarks.trajectory SEQUENCE... --seeds 10          # seeds 0 to 9, their medians, and the ratio
    python -m benchmarks.trajectory SEQUENCE --errors depth focal   # with no others

SEQUENCE is a folder with camera.json, frames.txt, images, 16-bit depth images and trajectory_tum.txt (metres).

Method: the real pipeline (window 8, stride 4, all other settings at their defaults) is fed the images of the sequence;
in the place of the network stands one that knows the true depth and poses and spoils them (benchmarks/simulated.py).
Intrinsics are the network's own, so that its focal error is felt. `chained` takes the very same predictions and puts
each window on the one before by Umeyama's Sim(3) on the camera centres of the shared frames. Errors are rms over all
frames, each as published first; `ours_loop` is the same with loop closure, the way as it is known in the end. Places
look as nano sees them in the real pictures; the pass that looks closely at two visits is the simulated network's.
`ours_*_scale` are without loop closure too, the way in metres as it is known in the end (benchmarks/metric.py): their
SE(3) errors fit no scale to anything.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import commit, cpu_name
from benchmarks.metric import SOURCES, run_metric
from benchmarks.simulated import Errors, Looks, RgbdSequence, SimulatedPredictor, shared_view, trajectory_of
from vggt_ros.core.config import Config
from vggt_ros.core.errors import SourceError, VggtRosError
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.loops.loop_report import LoopReport
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.submap import SeamStatus, Update
from vggt_ros.core.trajectory import Trajectory, umeyama
from vggt_ros.results.evaluate import evaluate

ALL_ERRORS = Errors()
COARSE = {'voxel_size': 0.2, 'cloud_stride': 4}  # the cloud is not judged
CONFIG = Config().with_values(
    {'window_size': 8, 'window_stride': 4, 'intrinsics_mode': 'per_window', 'loop_closure': False, **COARSE}
)
LOOPS = CONFIG.with_values({'loop_closure': True})
TRUE_VIEW = 0.2  # share of the points of one visit that the other truly sees: a loop between them is true


@dataclass(frozen=True)
class Run:
    """One sequence under one seed.

    Args:
        sequence, seed: which.
        figures: ate_sim3, ate_se3 and scale by method; None where the sequence does not show what a method takes.
        windows, outliers, refused: windows in all, of those grossly wrong, of those refused.
        false_alarms: windows refused that were not.
        loops_true, loops_false: loops closed between visits that truly saw the same, and between others.
    """

    sequence: str
    seed: int
    figures: dict[str, dict[str, float] | None]
    windows: int
    outliers: int
    refused: int
    false_alarms: int
    loops_true: int
    loops_false: int

    def ate(self, method: str) -> float:
        """Sim(3) ATE in metres of a method that could be run."""
        figures = self.figures[method]
        assert figures is not None
        return figures['ate_sim3']

    def to_dict(self) -> dict[str, Any]:
        """One JSON object."""
        counts = ('windows', 'outliers', 'refused', 'false_alarms', 'loops_true', 'loops_false')
        return {'sequence': self.sequence, 'seed': self.seed, **self.figures, **{n: getattr(self, n) for n in counts}}


def measure(sequence: RgbdSequence, seed: int, errors: Errors = ALL_ERRORS, looks: Looks | None = None) -> Run:
    """Run the pipeline without and with loop closure, and judge both and the baseline on the same predictions."""
    predictor = SimulatedPredictor(sequence, seed, errors)
    pipeline = Pipeline(CONFIG, predictor)
    answers = [*map(pipeline.add_frame, sequence.frames), pipeline.flush()]
    updates = [update for update in answers if update is not None]
    ours = {frame.stamp_ns: frame.map_from_cam for update in updates for frame in update.frames}
    closed, loops = with_loops(sequence, SimulatedPredictor(sequence, seed, errors, looks or Looks(sequence)))
    true = [is_true_loop(sequence, loop) for loop in loops]
    estimates = {'chained': chain(predictor.predictions), 'ours': trajectory_of(ours), 'ours_loop': closed}
    is_refused = [_is_refused(update) for update in updates]
    pairs = list(zip(is_refused, predictor.is_outlier, strict=True))
    return Run(
        sequence=sequence.name,
        seed=seed,
        figures={
            **{method: _figures(estimate, sequence.reference) for method, estimate in estimates.items()},
            **{method: _metric_figures(sequence, seed, errors, method) for method in SOURCES},
        },
        windows=len(updates),
        outliers=sum(predictor.is_outlier),
        refused=sum(refused and outlier for refused, outlier in pairs),
        false_alarms=sum(refused and not outlier for refused, outlier in pairs),
        loops_true=sum(true),
        loops_false=len(true) - sum(true),
    )


def with_loops(sequence: RgbdSequence, predictor: SimulatedPredictor) -> tuple[Trajectory, list[LoopReport]]:
    """The way as it is known in the end, and the loops that were closed."""
    pipeline = Pipeline(LOOPS, predictor)
    updates = [*map(pipeline.add_frame, sequence.frames), pipeline.flush()]
    pipeline.finish()
    stamps_ns, poses = pipeline.trajectory()
    loops = [update.loop for update in updates if update is not None and update.loop is not None]
    return Trajectory(stamps_ns, poses), [loop for loop in loops if loop.is_closed]


def is_true_loop(sequence: RgbdSequence, loop: LoopReport) -> bool:
    """Whether both visits truly saw the same thing."""
    return shared_view(sequence, loop.old_stamp_ns, loop.stamp_ns) >= TRUE_VIEW


def chain(predictions: Sequence[Prediction]) -> Trajectory:
    """Windows put on the one before by the camera centres of the frames they share, and nothing else."""
    placed: dict[int, np.ndarray] = {}
    map_from_window = Sim3.identity()
    before: Prediction | None = None
    for now in predictions:
        if before is not None:
            shared = [stamp for stamp in now.stamps_ns if stamp in before.stamps_ns]
            in_now = now.window_from_cam[[now.stamps_ns.index(stamp) for stamp in shared], :3, 3]
            in_before = before.window_from_cam[[before.stamps_ns.index(stamp) for stamp in shared], :3, 3]
            map_from_window = map_from_window @ umeyama(in_now, in_before, with_scale=True)
        for stamp, pose in zip(now.stamps_ns, map_from_window.transform_pose(now.window_from_cam), strict=True):
            placed.setdefault(stamp, pose)
        before = now
    return trajectory_of(placed)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print what the arguments ask for; 2 where a folder cannot be used."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('sequences', nargs='+', type=Path, metavar='SEQUENCE')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--seeds', type=int, default=1, metavar='COUNT', help='so many seeds, from --seed on')
    names = [one.name for one in dataclasses.fields(Errors)]
    parser.add_argument('--errors', nargs='+', choices=names, default=names, help='of the simulated network; all')
    parser.add_argument('--json', action='store_true', help='one JSON object per run and line, and nothing else')
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    errors = dataclasses.replace(Errors(), **dict.fromkeys(set(names) - set(arguments.errors), 0.0))
    runs = []
    try:
        for folder in arguments.sequences:
            sequence = load(folder)
            looks = Looks(sequence)
            for seed in range(arguments.seed, arguments.seed + arguments.seeds):
                runs.append(measure(sequence, seed, errors, looks))
                if arguments.json:
                    print(json.dumps(runs[-1].to_dict()), flush=True)
    except VggtRosError as error:
        print(f'benchmarks.trajectory: {error}', file=sys.stderr)
        return 2
    if not arguments.json:
        print(f'{headline(arguments.errors)}\n\n{table(runs)}\n\n{verdict(runs)}')
    return 0


def load(folder: Path) -> RgbdSequence:
    """A sequence with at least two windows; SourceError on a shorter one."""
    sequence, size = RgbdSequence(folder.resolve()), CONFIG.window.size
    if len(sequence) <= size:
        raise SourceError(
            f'{folder} is too short: {len(sequence)} frames are one window of {size}, with nothing to join'
        )
    return sequence


def headline(errors: Sequence[str]) -> str:
    """What a reader needs to repeat the run."""
    return (
        f'{cpu_name()}, commit {commit()}, errors: {", ".join(errors)}; '
        'ATE in metres, rms, Sim(3) unless said otherwise'
    )


def table(runs: Sequence[Run]) -> str:
    """One row a sequence: medians over its seeds."""
    header = (
        'sequence',
        'seeds',
        'chained',
        'ours',
        'ours / chained',
        'ours, range',
        'ours_loop',
        'loops, false',
        'ours SE(3)',
        *SOURCES,
    )
    rows = [f'| {" | ".join(header)} |', '|' + '---|' * len(header)]
    for name in dict.fromkeys(run.sequence for run in runs):
        own = [run for run in runs if run.sequence == name]
        ours = [run.ate('ours') for run in own]
        se3 = statistics.median((run.figures['ours'] or {})['ate_se3'] for run in own)
        cells = (
            name,
            str(len(own)),
            f'{statistics.median(run.ate("chained") for run in own):.4f}',
            f'{statistics.median(ours):.4f}',
            _ratio(own),
            f'{min(ours):.4f} to {max(ours):.4f}',
            f'{statistics.median(run.ate("ours_loop") for run in own):.4f}',
            f'{sum(run.loops_true for run in own)}, {sum(run.loops_false for run in own)}',
            f'{se3:.3f}',
            *[_metric_cell(own, method) for method in SOURCES],
        )
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows)


def verdict(runs: Sequence[Run]) -> str:
    """Over all sequences and seeds."""
    windows, outliers = sum(run.windows for run in runs), sum(run.outliers for run in runs)
    clean = [run for run in runs if not run.outliers]
    lines = [f'ours / chained, median over {len(runs)} runs: {_ratio(runs)}']
    if clean:
        lines.append(f'over the {len(clean)} runs without an outlier window: {_ratio(clean)}')
    lines.append(
        f'outlier windows refused: {sum(run.refused for run in runs)} of {outliers}; '
        f'good ones refused: {sum(run.false_alarms for run in runs)} of {windows - outliers}'
    )
    return '\n'.join(lines)


def _ratio(runs: Sequence[Run]) -> str:
    """Median of ours / chained, run by run; nothing where the baseline has no error to speak of."""
    if min(run.ate('chained') for run in runs) < 1e-6:
        return '-'
    return f'{statistics.median(run.ate("ours") / run.ate("chained") for run in runs):.3f}'


def _figures(estimate: Trajectory, reference: Trajectory) -> dict[str, float]:
    result = evaluate(estimate, reference, tolerance_ns=0)
    return {'ate_sim3': result.ate_sim3, 'ate_se3': result.ate_se3, 'scale': result.scale}


def _metric_figures(sequence: RgbdSequence, seed: int, errors: Errors, method: str) -> dict[str, float] | None:
    found = run_metric(sequence, seed, errors, CONFIG, method)
    return None if found is None else _figures(found[0], sequence.reference)


def _metric_cell(runs: Sequence[Run], method: str) -> str:
    """ATE in SE(3), so in metres as they stand, and over that in Sim(3): medians over seeds."""
    found = [figures for run in runs if (figures := run.figures[method]) is not None]
    if not found:
        return 'no floor seen'
    se3 = statistics.median(figures['ate_se3'] for figures in found)
    ratio = statistics.median(figures['ate_se3'] / figures['ate_sim3'] for figures in found)
    return f'{se3:.4f} ({ratio:.2f})'


def _is_refused(update: Update) -> bool:
    """Whether the pipeline says of a window that it is not to be trusted."""
    return update.seam.refused > 0 or update.seam.status in (SeamStatus.REFUSED, SeamStatus.DEGENERATE, SeamStatus.HELD)


if __name__ == '__main__':
    sys.exit(main())
