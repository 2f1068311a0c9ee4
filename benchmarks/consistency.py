"""Whether poses err as much as their covariances say, on a real RGB-D sequence under a simulated network.

    python -m benchmarks.consistency SEQUENCE... --seeds 100
    python -m benchmarks.consistency SEQUENCE... --times 2      # a network with twice the errors
    python -m benchmarks.consistency SEQUENCE... --stride 1     # neighbouring windows share more

SEQUENCE is a folder as benchmarks.trajectory takes it.

Method: as benchmarks.trajectory, window 8. The normalised estimation error squared (NEES) of a pose is e' P^-1 e for
its error e (shift and turn, six numbers) and its published covariance P; over many runs its mean is 6 where P is right.
The mean over M runs has 95 % bounds of chi-square(6 M) / M.
    absolute: the pose in the map. The true way is put on the first pose and at the first window's unit, and at nothing
        else: drift of place, heading and scale are all part of the error.
    step: the way from the frame before, seen from there; what the twist of the odometry takes its covariance from.
Poses that are published as lost are left out. `settled` leaves out the first five windows, which seams have not told
about yet.

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

from benchmarks.simulated import Errors, RgbdSequence, SimulatedPredictor
from benchmarks.trajectory import CONFIG, load
from vggt_ros.core.covariance import LOST, nees
from vggt_ros.core.errors import VggtRosError
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.submap import PlacedFrame

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


def measure(sequence: RgbdSequence, seeds: Sequence[int], errors: Errors, stride: int = 4) -> Consistency:
    """Run the pipeline once a seed and weigh every pose against its covariance."""
    rows = [_run(sequence, seed, errors, stride) for seed in seeds]
    absolute, step = (np.array(kind) for kind in zip(*rows, strict=True))
    return Consistency(absolute, step, CONFIG.window.size + (SETTLED_WINDOWS - 1) * stride)


def _run(sequence: RgbdSequence, seed: int, errors: Errors, stride: int) -> tuple[list[float], list[float]]:
    predictor = SimulatedPredictor(sequence, seed, errors)
    pipeline = Pipeline(CONFIG.with_values({'window_stride': stride}), predictor)
    answers = [*map(pipeline.add_frame, sequence.frames), pipeline.flush()]
    frames = [frame for update in answers if update is not None for frame in update.frames]
    truth = sequence.truth(tuple(frame.stamp_ns for frame in frames))[0].copy()
    truth[:, :3, 3] *= predictor.scales[0]
    truth = frames[0].map_from_cam @ invert_rigid(truth[0]) @ truth
    absolute, step = [float('nan')], [float('nan')]
    for i in range(1, len(frames)):
        absolute.append(_nees(_difference(frames[i].map_from_cam, truth[i]), frames[i].covariance))
        step.append(_nees(_step_error(frames[i - 1], frames[i], truth[i - 1], truth[i]), frames[i].step_covariance))
    return absolute, step


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


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; 2 where a folder cannot be used."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('sequences', nargs='+', type=Path, metavar='SEQUENCE')
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


if __name__ == '__main__':
    sys.exit(main())
