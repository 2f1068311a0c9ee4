"""Whether poses err as much as their covariances say, on a real RGB-D sequence under a simulated network.

    python -m benchmarks.consistency SEQUENCE... --seeds 100
    python -m benchmarks.consistency SEQUENCE... --times 2      # a network with twice the errors
    python -m benchmarks.consistency SEQUENCE... --stride 1     # neighbouring windows share more
    python -m benchmarks.consistency --loop 0 2 --seeds 20      # rendered walks of these seeds, which come back

SEQUENCE is a folder as benchmarks.trajectory takes it.

Method: as benchmarks.trajectory, window 8. The normalised estimation error squared (NEES) of a pose is e' P^-1 e for
its error e (shift and turn, six numbers) and its published covariance P; over many runs its mean is 6 where P is right.
The mean over M runs has 95 % bounds of chi-square(6 M) / M.
    absolute: the pose in the map. The true way is put on the first pose and at the first window's unit, and at nothing
        else: drift of place, heading and scale are all part of the error.
    step: the way from the frame before, seen from there; what the twist of the odometry takes its covariance from.
Poses that are published as lost are left out. `settled` leaves out the first five windows, which seams have not told
about yet.

With --loop the map is closed on the way; the same runs without loop closure stand beside it. Counted are the poses
published after the first loop was taken over, each run with the mean over its poses, and how far they are off: rms over
runs and poses, and what their covariances say of it.

Source: Bar-Shalom, Li and Kirubarajan, Estimation with Applications to Tracking and Navigation, sec. 5.4.2.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from benchmarks.loops import RenderedWalk
from benchmarks.simulated import Errors, Looks, RgbdSequence, SimulatedPredictor
from benchmarks.simulated import Sequence as KnownSequence
from benchmarks.trajectory import CONFIG, load
from vggt_ros.core.config import Config
from vggt_ros.core.covariance import LOST, nees
from vggt_ros.core.errors import VggtRosError
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.submap import PlacedFrame, Update

SETTLED_WINDOWS = 5
DIMENSIONS = 6


@dataclasses.dataclass(frozen=True, eq=False)
class Consistency:
    """NEES of all runs over one sequence.

    Args:
        absolute, step: [M, N] by run and frame; NaN where a pose is lost, or defines the map.
        settled: the first frame that counts as settled.
    """

    absolute: np.ndarray
    step: np.ndarray
    settled: int

    def bounds(self) -> tuple[float, float]:
        """Where the mean over all runs lies in 95 of 100 cases if the covariances are right."""
        runs = len(self.absolute)
        lowest, highest = chi2.ppf([0.025, 0.975], DIMENSIONS * runs) / runs
        return float(lowest), float(highest)


@dataclasses.dataclass(frozen=True)
class AfterLoops:
    """Poses published after the first loop was closed, over all runs.

    Args:
        runs: how many had one.
        loops: closed, mean over runs.
        nees: [runs] mean of each.
        error, said: rms of the shift's error, and of its standard deviation as published, in units of the map.
    """

    runs: int
    loops: float
    nees: list[float]
    error: float
    said: float


def measure_loops(walk: RenderedWalk, seeds: Sequence[int], errors: Errors) -> tuple[AfterLoops, AfterLoops]:
    """The same frames without and with loop closure."""
    looks, rows = Looks(walk), ([], [])
    config = Config().with_values({'voxel_size': 0.2, 'cloud_stride': 4, 'path_max_size': 1})
    for seed in seeds:
        closed = _follow(walk, SimulatedPredictor(walk, seed, errors, looks), config)
        loops = [i for i, update in enumerate(closed[1]) if update.moved_path is not None]
        if not loops:
            continue
        start = sum(len(update.frames) for update in closed[1][: loops[0]])
        without = _follow(walk, SimulatedPredictor(walk, seed, errors), config.with_values({'loop_closure': False}))
        for kind, (truth, updates) in zip(rows, (without, closed), strict=True):
            frames = [frame for update in updates for frame in update.frames]
            differences = [_difference(frame.map_from_cam, pose) for frame, pose in zip(frames, truth, strict=True)]
            of_frame = [_nees(one, frame.covariance) for one, frame in zip(differences, frames, strict=True)]
            squares = np.array([one[:3] @ one[:3] for one in differences])[start:]
            said = np.array([np.trace(frame.covariance[:3, :3]) for frame in frames])[start:]
            kind.append((len(loops), float(np.nanmean(of_frame[start:])), squares.mean(), said.mean()))
    return tuple(_after(kind) for kind in rows)


def _after(rows: list[tuple[int, float, float, float]]) -> AfterLoops:
    loops, of_run, squares, said = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    rms = [float(np.sqrt(np.mean(one))) if rows else float('nan') for one in (squares, said)]
    return AfterLoops(len(rows), float(np.mean(loops)) if rows else 0.0, of_run, *rms)


def measure(sequence: RgbdSequence, seeds: Sequence[int], errors: Errors, stride: int = 4) -> Consistency:
    """Run the pipeline once a seed and weigh every pose against its covariance."""
    rows = [_run(sequence, seed, errors, stride) for seed in seeds]
    absolute, step = (np.array(kind) for kind in zip(*rows, strict=True))
    return Consistency(absolute, step, CONFIG.window.size + (SETTLED_WINDOWS - 1) * stride)


def _run(sequence: RgbdSequence, seed: int, errors: Errors, stride: int) -> tuple[list[float], list[float]]:
    predictor = SimulatedPredictor(sequence, seed, errors)
    truth, updates = _follow(sequence, predictor, CONFIG.with_values({'window_stride': stride}))
    frames = [frame for update in updates for frame in update.frames]
    absolute, step = [float('nan')], [float('nan')]
    for i in range(1, len(frames)):
        absolute.append(_nees(_difference(frames[i].map_from_cam, truth[i]), frames[i].covariance))
        step.append(_nees(_step_error(frames[i - 1], frames[i], truth[i - 1], truth[i]), frames[i].step_covariance))
    return absolute, step


def _follow(sequence: KnownSequence, predictor: SimulatedPredictor, config: Config) -> tuple[np.ndarray, list[Update]]:
    """Run the pipeline; the true poses [N, 4, 4] of its frames in its map, and its updates."""
    pipeline = Pipeline(config, predictor)
    answers = [*map(pipeline.add_frame, sequence.frames), pipeline.flush()]
    updates = [update for update in answers if update is not None]
    frames = [frame for update in updates for frame in update.frames]
    truth = sequence.truth(tuple(frame.stamp_ns for frame in frames))[0].copy()
    truth[:, :3, 3] *= predictor.scales[0]
    return frames[0].map_from_cam @ invert_rigid(truth[0]) @ truth, updates


def _difference(estimate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[6] shift and turn in the axes that both [4, 4] poses are given in."""
    turn = Rotation.from_matrix(estimate[:3, :3] @ truth[:3, :3].T).as_rotvec()
    return np.concatenate([estimate[:3, 3] - truth[:3, 3], turn])


def _step_error(before: PlacedFrame, frame: PlacedFrame, true_before: np.ndarray, true_now: np.ndarray) -> np.ndarray:
    """[6] error of the way between two frames as the first sees it, turned into the axes of the map."""
    step, true_step = invert_rigid(before.map_from_cam) @ frame.map_from_cam, invert_rigid(true_before) @ true_now
    return np.kron(np.eye(2), before.map_from_cam[:3, :3]) @ _difference(step, true_step)


def _nees(error: np.ndarray, covariance: np.ndarray) -> float:
    return float('nan') if covariance[0, 0] >= LOST[0, 0] else nees(error, covariance)


def row(name: str, found: Consistency) -> str:
    """A line of the table."""
    lowest, highest = found.bounds()
    expected = chi2.ppf(0.95, DIMENSIONS)
    cells = [name, str(len(found.absolute)), f'{lowest:.2f} to {highest:.2f}']
    for values in (found.absolute, found.step):
        of_frame = np.nanmean(values[:, found.settled :], axis=0)
        inside = np.mean((of_frame > lowest) & (of_frame < highest))
        known = values[np.isfinite(values)]
        cells += [
            f'{np.nanmean(values[:, 1:]):.2f}',
            f'{of_frame.mean():.2f}',
            f'{100 * inside:.0f} %',
            f'{100 * np.mean(known < expected):.0f} %',
        ]
    return f'| {" | ".join(cells)} |'


def loop_row(name: str, kind: str, found: AfterLoops) -> str:
    """A line of the table of --loop."""
    bounds = chi2.ppf([0.025, 0.975], DIMENSIONS * max(found.runs, 1)) / max(found.runs, 1)
    cells = [
        name,
        kind,
        str(found.runs),
        f'{found.loops:.1f}' if kind == 'closed' else '-',
        f'{bounds[0]:.2f} to {bounds[1]:.2f}',
        f'{np.mean(found.nees):.2f}' if found.nees else '-',
        f'{found.error:.4f}',
        f'{found.said:.4f}',
    ]
    return f'| {" | ".join(cells)} |'


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; 2 where a folder cannot be used."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('sequences', nargs='*', type=Path, metavar='SEQUENCE')
    parser.add_argument('--loop', type=int, nargs='+', default=[], metavar='WALK', help='seeds of rendered walks')
    parser.add_argument('--seeds', type=int, default=100, metavar='COUNT')
    parser.add_argument('--stride', type=int, default=4)
    parser.add_argument('--times', type=float, default=1.0, help='factor on depth, rotation and translation errors')
    parser.add_argument('--outliers', type=float, default=0.0, help='share of windows that are grossly wrong')
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.CRITICAL)
    torch.set_num_threads(1)
    plain, times = Errors(), arguments.times
    errors = dataclasses.replace(
        plain,
        depth=times * plain.depth,
        rotation_deg=times * plain.rotation_deg,
        translation=times * plain.translation,
        outliers=arguments.outliers,
    )
    if not arguments.sequences and not arguments.loop:
        parser.error('name a SEQUENCE, or walks with --loop')
    if arguments.loop:
        _print_loops(arguments.loop, range(arguments.seeds), errors)
    if not arguments.sequences:
        return 0
    kinds = ('mean', 'settled', 'settled frames inside', 'poses below 95 %')
    header = ('sequence', 'runs', 'bounds', *(f'{name}, {kind}' for name in ('absolute', 'step') for kind in kinds))
    print(f'| {" | ".join(header)} |\n{"|---" * len(header)}|')
    try:
        for folder in arguments.sequences:
            sequence = load(folder)
            print(row(sequence.name, measure(sequence, range(arguments.seeds), errors, arguments.stride)), flush=True)
    except VggtRosError as error:
        print(f'benchmarks.consistency: {error}', file=sys.stderr)
        return 2
    return 0


def _print_loops(walks: Sequence[int], seeds: Sequence[int], errors: Errors) -> None:
    header = ('walk', 'way', 'runs', 'loops', 'bounds', 'NEES', 'error', 'said')
    print(f'| {" | ".join(header)} |\n{"|---" * len(header)}|')
    for number in walks:
        walk = RenderedWalk(number)
        for kind, found in zip(('open', 'closed'), measure_loops(walk, seeds, errors), strict=True):
            print(loop_row(walk.name, kind, found), flush=True)


if __name__ == '__main__':
    sys.exit(main())
