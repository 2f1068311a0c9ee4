"""How good a result is: its trajectory against a reference, its depth against a depth camera."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.core.errors import SourceError, TrajectoryError
from vggt_ros.core.trajectory import (
    Trajectory,
    associate,
    frame_pairs,
    path_pairs,
    position_errors,
    relative_errors,
    rms,
    umeyama,
)
from vggt_ros.results.depth_error import DepthError, DepthFolder, measure_depth
from vggt_ros.results.exports import write_atomically
from vggt_ros.results.trajectory_plot import plot_trajectory
from vggt_ros.results.tum import read_tum

log = logging.getLogger(__name__)

MIN_POSES = 3  # two centres fit any two others after a similarity
INVERTED = 3.0  # times smaller error with all poses inverted: no accident


@dataclass(frozen=True)
class MotionError:
    """Relative pose error: rms over consecutive motions of one length.

    Args:
        pairs: motions compared; the figures are NaN where there are none.
        translation_se3, translation_sim3: metres, with the estimate in its own unit, and in metres by its scale.
        rotation_deg: degrees; no alignment changes it.
    """

    pairs: int
    translation_se3: float
    translation_sim3: float
    rotation_deg: float


@dataclass(frozen=True)
class SeamError:
    """Does the trajectory jump where one window takes over from another?

    A step goes from one pose to the next, and its error is the shift part of the relative pose error per frame, after
    Sim(3). A step whose two frames were placed by different windows crosses a seam. Without a jump at seams both
    figures are alike.

    Args:
        seams: steps across a seam.
        jitter: rms error of those steps, metres.
        inside: rms error of the other steps, metres.
    """

    seams: int
    jitter: float
    inside: float


@dataclass(frozen=True)
class Evaluation:
    """All figures of a result, metres and degrees.

    Args:
        poses, reference_poses, matched: of the estimate, of the reference, and pairs of the two.
        path_length: of the matched reference.
        ate_se3, ate_sim3: absolute trajectory error, rms, after the best rigid fit and after the best similarity.
        ate_standstill: what a camera that never moves would get, in either.
        scale: metres per unit of the estimate, of that similarity; NaN, as ate_sim3, where the estimate stands still.
        per_frame, per_way: relative pose error from frame to frame, and over `way` metres.
        way: metres.
        seams: None where the windows are not known.
        depth: None where it was not asked for.
        notes: what a reader should know.
    """

    poses: int
    reference_poses: int
    matched: int
    path_length: float
    ate_se3: float
    ate_sim3: float
    ate_standstill: float
    scale: float
    per_frame: MotionError
    per_way: MotionError
    way: float
    seams: SeamError | None = None
    depth: DepthError | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN: null instead."""
        return _without_nan(dataclasses.asdict(self))


@dataclass(frozen=True, eq=False)
class Aligned:
    """Associated poses, and the estimate brought to the reference: by SE(3), and by Sim(3) where it has a scale."""

    estimate: Trajectory
    reference: Trajectory
    se3: Trajectory
    sim3: Trajectory | None
    scale: float


def align(estimate: Trajectory, reference: Trajectory, tolerance_ns: int) -> Aligned:
    """Match two trajectories by stamp and fit the one to the other.

    Raises:
        TrajectoryError: no common time, or too few common poses.
    """
    matched, of_reference = associate(estimate, reference, tolerance_ns)
    if len(matched) < MIN_POSES:
        raise TrajectoryError(
            f'need {MIN_POSES} poses with a reference within {tolerance_ns / 1e9:g} s, got {len(matched)}: '
            f'the result has {_span(estimate)}, the reference {_span(reference)}; is it of the same recording? '
            '--tolerance allows more'
        )
    rigid = umeyama(matched.centres, of_reference.centres, with_scale=False)
    try:
        similarity = umeyama(matched.centres, of_reference.centres, with_scale=True)
    except TrajectoryError:
        return Aligned(matched, of_reference, matched.moved(rigid), None, float('nan'))
    return Aligned(matched, of_reference, matched.moved(rigid), matched.moved(similarity), similarity.scale)


def evaluate(
    estimate: Trajectory,
    reference: Trajectory,
    *,
    tolerance_ns: int = 10_000_000,
    way: float = 1.0,
    starts_ns: np.ndarray | None = None,
) -> Evaluation:
    """Compare a trajectory with a reference.

    Args:
        estimate: in any frame and unit.
        reference: metres.
        tolerance_ns: how far the stamps of a pose and its reference may be apart.
        way: metres of the motions of per_way.
        starts_ns: stamp of the newest frame of each window but the last, sorted; None where it is not known.

    Raises:
        TrajectoryError: no common time, or too few common poses.
    """
    aligned = align(estimate, reference, tolerance_ns)
    notes, centres = _notes(aligned), aligned.reference.centres
    frames = frame_pairs(len(aligned.estimate))
    seams = None
    if starts_ns is not None and aligned.sim3 is not None:
        window = np.searchsorted(starts_ns, aligned.estimate.stamps_ns)
        crosses = window[frames[0]] != window[frames[1]]
        error, _ = relative_errors(aligned.sim3, aligned.reference, frames)
        seams = SeamError(int(crosses.sum()), rms(error[crosses]), rms(error[~crosses]))
    per_way = _motion_error(aligned, path_pairs(aligned.reference, way))
    if per_way.pairs == 0:
        notes.append(f'the way of {aligned.reference.path_length:.2f} m is too short for motions of {way:g} m')
    return Evaluation(
        poses=len(estimate),
        reference_poses=len(reference),
        matched=len(aligned.estimate),
        path_length=aligned.reference.path_length,
        ate_se3=rms(position_errors(aligned.se3, aligned.reference)),
        ate_sim3=float('nan') if aligned.sim3 is None else rms(position_errors(aligned.sim3, aligned.reference)),
        ate_standstill=rms(np.linalg.norm(centres - centres.mean(axis=0), axis=1)),
        scale=aligned.scale,
        per_frame=_motion_error(aligned, frames),
        per_way=per_way,
        way=way,
        seams=seams,
        notes=tuple(notes),
    )


def window_starts(summary: Path) -> np.ndarray | None:
    """Stamps of the newest frame of each window but the last, from summary.json; None where it does not say."""
    try:
        rows = json.loads(summary.read_text())['seams']
        return np.array([row['stamp_ns'] for row in rows[:-1]], np.int64)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def table(result: Evaluation, name: str) -> str:
    """The figures for a terminal."""
    rows = [
        ('ATE, rms', _metres(result.ate_se3), _metres(result.ate_sim3)),
        ('ATE of a camera that never moves', _metres(result.ate_standstill), _metres(result.ate_standstill)),
        *_motion_rows('per frame', result.per_frame),
        *_motion_rows(f'per {result.way:g} m', result.per_way),
        ('scale, metres per unit', '', _plain(result.scale)),
    ]
    if result.seams is not None:
        seams, steps = result.seams, result.per_frame.pairs
        rows.append((f'step error across seams ({seams.seams})', '', _metres(seams.jitter)))
        rows.append((f'step error inside windows ({steps - seams.seams})', '', _metres(seams.inside)))
    lines = [
        f'{name}: {result.matched} of {result.poses} poses have a reference, way of {result.path_length:.2f} m',
        '',
        *_columns(('trajectory', 'SE(3)', 'Sim(3)'), rows),
    ]
    if result.depth is not None:
        lines += ['', *_depth_lines(result.depth)]
    return '\n'.join([*lines, *(f'note: {note}' for note in result.notes)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('result', metavar='RESULT', help='folder of a run, or a trajectory in the TUM format')
    parser.add_argument('--reference', required=True, metavar='FILE', help='true trajectory in the TUM format, metres')
    parser.add_argument(
        '--depth', metavar='FOLDER', help='camera.json, frames.txt and 16-bit depth images of the same camera'
    )
    parser.add_argument('--json', metavar='FILE', help='write the figures there, too')
    parser.add_argument('--plot', metavar='FILE', help='PNG to draw: path from above, error over time')
    parser.add_argument(
        '--tolerance', type=float, default=0.01, metavar='SECONDS', help='between the stamps of a pair (0.01)'
    )
    parser.add_argument('--way', type=float, default=1.0, metavar='METRES', help='of motions compared (1)')


def main(args: argparse.Namespace) -> int:
    if not (0 <= args.tolerance < math.inf and 0 < args.way < math.inf):
        raise SourceError(f'--tolerance must be at least 0 and --way above it, got {args.tolerance:g}, {args.way:g}')
    folder, file = _locate(Path(args.result))
    estimate, reference = read_tum(file), read_tum(_locate(Path(args.reference))[1])
    tolerance_ns = round(args.tolerance * 1e9)
    starts_ns = window_starts(folder / 'summary.json') if folder is not None else None
    result = evaluate(estimate, reference, tolerance_ns=tolerance_ns, way=args.way, starts_ns=starts_ns)
    if args.depth is not None:
        if folder is None:
            raise SourceError(f'--depth needs the folder of a run with its result.mcap, got the file {file}')
        scale = result.scale if math.isfinite(result.scale) else None
        depth = measure_depth(folder / 'result.mcap', DepthFolder(args.depth), tolerance_ns, scale)
        result = dataclasses.replace(result, depth=depth)
    print(table(result, args.result))
    if args.json:
        inputs = {'result': args.result, 'reference': args.reference, 'depth_folder': args.depth}
        write_atomically(Path(args.json), json.dumps({**inputs, **result.to_dict()}, indent=2).encode())
    if args.plot:
        _write_plot(Path(args.plot), align(estimate, reference, tolerance_ns), result, starts_ns, args.result)
    return 0


def _write_plot(path: Path, aligned: Aligned, result: Evaluation, starts_ns: np.ndarray | None, name: str) -> None:
    fits = [(f'SE(3), ATE {_metres(result.ate_se3)}', aligned.se3)]
    if aligned.sim3 is not None:
        fits.append((f'Sim(3), ATE {_metres(result.ate_sim3)}', aligned.sim3))
    seams_ns = np.zeros(0, np.int64) if starts_ns is None else starts_ns
    write_atomically(path, plot_trajectory(fits, aligned.reference, seams_ns, name))
    print(path)


def _locate(path: Path) -> tuple[Path | None, Path]:
    """The folder, where it is one, and the trajectory file."""
    return (path, path / 'trajectory_tum.txt') if path.is_dir() else (None, path)


def _motion_error(aligned: Aligned, pairs: tuple[np.ndarray, np.ndarray]) -> MotionError:
    se3, turn = relative_errors(aligned.se3, aligned.reference, pairs)
    sim3 = np.zeros(0)
    if aligned.sim3 is not None:
        sim3, _ = relative_errors(aligned.sim3, aligned.reference, pairs)
    return MotionError(len(pairs[0]), rms(se3), rms(sim3), math.degrees(rms(turn)))


def _notes(aligned: Aligned) -> list[str]:
    if aligned.sim3 is None:
        return ['the estimated camera stands still: it has no scale']
    inverted = aligned.estimate.inverted()
    try:
        fit = umeyama(inverted.centres, aligned.reference.centres, with_scale=True)
    except TrajectoryError:  # it turns about the origin
        return []
    ate = rms(position_errors(aligned.sim3, aligned.reference))
    flipped = rms(position_errors(inverted.moved(fit), aligned.reference))
    if INVERTED * flipped >= ate:
        return []
    return [
        f'with all poses inverted the Sim(3) ATE would be {_metres(flipped)}: one of the files seems to hold '
        'cam_from_world; the TUM format wants world_from_cam'
    ]


def _span(trajectory: Trajectory) -> str:
    first, last = trajectory.stamps_ns[[0, -1]] / 1e9
    return f'{len(trajectory)} poses from {first:.3f} to {last:.3f} s'


def _motion_rows(name: str, error: MotionError) -> list[tuple[str, str, str]]:
    turn = '-' if math.isnan(error.rotation_deg) else f'{error.rotation_deg:.3f} deg'
    return [
        (f'RPE {name}, shift ({error.pairs})', _metres(error.translation_se3), _metres(error.translation_sim3)),
        (f'RPE {name}, turn', turn, turn),
    ]


def _depth_lines(depth: DepthError) -> list[str]:
    scores = (depth.published, depth.trajectory_scaled, depth.median_scaled, depth.flat)
    rows = [
        ('AbsRel', *('-' if one is None else _plain(one.abs_rel) for one in scores)),
        ('within 1.25', *('-' if one is None else f'{100 * one.within_delta:.1f} %' for one in scores)),
    ]
    header = (f'depth of {depth.frames} frames', 'as published', "trajectory's scale", 'median of frame', 'a flat wall')
    covered = f'{100 * depth.coverage:.0f} % of the measured pixels have a published depth'
    return [*_columns(header, rows), covered]


def _columns(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    ruler = tuple('-' * width for width in widths)
    lines = []
    for row in (header, ruler, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append('  '.join(cells).rstrip())
    return lines


def _metres(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.4f} m'


def _plain(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.4f}'


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
