"""A rendered walk that comes back to where it was, with the shipped network: drift before and after loops are closed.

    python -m benchmarks.rendered_loop --seed 3                # one walk of 300 pictures round a room, 1.25 laps
    python -m benchmarks.rendered_loop --seed 3 --rooms 2      # then on, round another room that looks alike
    python -m benchmarks.rendered_loop --seeds 5 --json        # seeds 0 to 4, one JSON object each
    python -m benchmarks.rendered_loop --seed 3 --network simulated   # a network that errs as a good one does
    python -m benchmarks.rendered_loop --seed 3 --bundle-adjustment off   # the network alone
    python -m benchmarks.rendered_loop --seed 3 --picture map.png     # way and cloud from above, before and after

Method: the real pipeline at its defaults, every picture a keyframe, true K. `before` is the way as published without
loop closure, `after` the way as known in the end with it; the network answers both runs from one memory, so that only
the loops differ. ATE: rms over all frames after Sim(3), metres. End drift: how far the last place lies from where it
should, as seen from the first picture, metres at the scale of the ATE, and as a share of the way. A loop is true where
one visit truly sees a fifth of the other's points, by the true depth and poses; two rooms share no place.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.loops import FRAME_NS, RenderedWalk
from benchmarks.simulated import Errors, Looks, SimulatedPredictor, shared_view
from vggt_ros.core.config import Config
from vggt_ros.core.geometry import Sim3, invert_rigid
from vggt_ros.core.loops.loop_report import LoopReport
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.predictor import Predictor, make_predictor
from vggt_ros.core.trajectory import Trajectory, umeyama
from vggt_ros.core.window import Window
from vggt_ros.results.evaluate import evaluate

TRUE_VIEW = 0.2  # share of the points of one visit that the other truly sees: a loop between them is true
NEAR_M, NEAR_DEG = 0.5, 15.0  # visits so near each other ought to be found
PIXELS = 480  # of one picture from above


class Remembering:
    """A network that is asked for each window of the stream once, however often the stream runs."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self._answers = predictor, dict[tuple[int, ...], Prediction]()

    def predict(self, window: Window) -> Prediction:
        key = tuple(frame.stamp_ns for frame in window.frames)
        if key not in self._answers:
            self._answers[key] = self.predictor.predict(window)
        return self._answers[key]

    def predict_apart(self, window: Window) -> Prediction:
        return self.predictor.predict_apart(window)

    def reset(self) -> None:
        """The memory stays: the same frames come again."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """One run over a walk.

    Args:
        way: as published, or as known in the end.
        points: [N, 3] of the cloud, with [N, 3] colours.
        looked_at: pairs of places that were looked at closely.
    """

    way: Trajectory
    points: tuple[np.ndarray, np.ndarray]
    looked_at: list[LoopReport]


def run(walk: RenderedWalk, predictor: Predictor, *, closes_loops: bool, **values: Any) -> Outcome:
    """The pipeline over all frames."""
    config = Config().with_values({'loop_closure': closes_loops, 'voxel_size': 0.05, 'path_max_size': 1, **values})
    pipeline = Pipeline(config, predictor)
    answers = [*map(pipeline.add_frame, walk.frames), pipeline.flush()]
    pipeline.finish()
    looked_at = [update.loop for update in answers if update is not None and update.loop is not None]
    return Outcome(Trajectory(*pipeline.trajectory()), pipeline.points(), looked_at)


def figures(way: Trajectory, walk: RenderedWalk) -> dict[str, float]:
    """Errors of a way against the truth, metres."""
    result = evaluate(way, walk.reference, tolerance_ns=0)
    true = walk.reference.world_from_cam
    end = invert_rigid(way.world_from_cam[0]) @ way.world_from_cam[-1]
    true_end = invert_rigid(true[0]) @ true[-1]
    drift = float(np.linalg.norm(result.scale * end[:3, 3] - true_end[:3, 3]))
    return {
        'ate_sim3': result.ate_sim3,
        'end_drift': drift,
        'end_drift_share': drift / walk.reference.path_length,
        'scale': result.scale,
    }


def is_true_loop(walk: RenderedWalk, loop: LoopReport) -> bool:
    """Whether some frame of one visit truly sees what one of the other sees."""
    back = FRAME_NS * np.array([0, 3, 6])  # places are windows of 8
    return any(shared_view(walk, loop.old_stamp_ns - i, loop.stamp_ns - j) >= TRUE_VIEW for i in back for j in back)


def comes_back(walk: RenderedWalk, min_gap: int = 24) -> bool:
    """Whether some frame is near one that lies at least min_gap before it."""
    poses = walk.reference.world_from_cam
    apart = np.linalg.norm(poses[:, None, :3, 3] - poses[:, :3, 3], axis=-1)
    turn = np.degrees(np.arccos(np.clip(poses[:, :3, 2] @ poses[:, :3, 2].T, -1, 1)))
    return bool(np.tril((apart < NEAR_M) & (turn < NEAR_DEG), -min_gap).any())


def measure(walk: RenderedWalk, predictor: Predictor, **values: Any) -> tuple[dict[str, Any], Outcome, Outcome]:
    """The figures of one walk, and both runs."""
    remembering = Remembering(predictor)
    before = run(walk, remembering, closes_loops=False, **values)
    after = run(walk, remembering, closes_loops=True, **values)
    closed = [loop for loop in after.looked_at if loop.is_closed]
    true = sum(is_true_loop(walk, loop) for loop in closed)
    row = {
        'walk': walk.name,
        'frames': len(walk),
        'way': walk.reference.path_length,
        'before': figures(before.way, walk),
        'after': figures(after.way, walk),
        'comes_back': comes_back(walk),
        'looked_at': len(after.looked_at),
        'loops_true': true,
        'loops_false': len(closed) - true,
    }
    return row, before, after


def draw(walk: RenderedWalk, outcomes: Sequence[Outcome]) -> np.ndarray:
    """[H, W, 3] uint8 RGB: each cloud and way from above, brought onto the truth by Sim(3); the true way in green."""
    true = walk.reference.centres
    low, high = true[:, :2].min(axis=0) - 2.5, true[:, :2].max(axis=0) + 2.5
    scale = PIXELS / float((high - low).max())
    pictures = []
    for outcome in outcomes:
        world_from_map = umeyama(outcome.way.centres, true, with_scale=True)
        picture = np.full((PIXELS, PIXELS, 3), 255, np.uint8)
        xyz, rgb = outcome.points
        places = world_from_map.transform_points(xyz.astype(np.float64))
        walls = places[:, 2] > np.median(places[:, 2]) - 0.6  # without most of the floor
        _dots(picture, (places[walls, :2] - low) * scale, rgb[walls])
        _line(picture, (true[:, :2] - low) * scale, (60, 160, 60))
        _line(picture, (_moved(world_from_map, outcome.way.centres)[:, :2] - low) * scale, (200, 30, 30))
        pictures.append(picture)
    return np.concatenate(pictures, axis=1)


def _moved(world_from_map: Sim3, points: np.ndarray) -> np.ndarray:
    return world_from_map.transform_points(points)


def _dots(picture: np.ndarray, pixels: np.ndarray, rgb: np.ndarray) -> None:
    column, row = np.round(pixels).astype(int).T
    inside = (column >= 0) & (column < PIXELS) & (row >= 0) & (row < PIXELS)
    picture[PIXELS - 1 - row[inside], column[inside]] = rgb[inside]


def _line(picture: np.ndarray, pixels: np.ndarray, colour: tuple[int, int, int]) -> None:
    points = np.column_stack([pixels[:, 0], PIXELS - 1 - pixels[:, 1]])
    cv2.polylines(picture, [np.round(points).astype(np.int32)], False, colour, 2, cv2.LINE_AA)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--seeds', type=int, default=1, metavar='COUNT', help='so many seeds, from --seed on')
    parser.add_argument('--frames', type=int, default=300)
    parser.add_argument('--laps', type=float, default=1.25, help='times round each room')
    parser.add_argument('--rooms', type=int, choices=(1, 2), default=1)
    parser.add_argument('--network', default='nano', help='simulated, or what model_id takes')
    parser.add_argument('--bundle-adjustment', choices=('auto', 'on', 'off'), default='auto')
    parser.add_argument(
        '--picture', type=Path, help='PNG of way and cloud from above, before and after; of the last seed'
    )
    parser.add_argument('--json', action='store_true', help='one JSON object per walk and line, and nothing else')
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    if not arguments.json:
        print('| walk | way [m] | ATE before | after | end drift before | after | loops true, false | looked at |')
        print('|---|---|---|---|---|---|---|---|')
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        walk = RenderedWalk(seed, arguments.frames, arguments.laps, arguments.rooms)
        predictor = _predictor(arguments.network, walk, seed, arguments.bundle_adjustment)
        row, *outcomes = measure(walk, predictor)
        print(json.dumps(row) if arguments.json else _row(row), flush=True)
        if arguments.picture:
            cv2.imwrite(str(arguments.picture), draw(walk, outcomes)[..., ::-1])
    return 0


def _predictor(network: str, walk: RenderedWalk, seed: int, bundle_adjustment: str) -> Predictor:
    if network == 'simulated':
        return SimulatedPredictor(walk, seed, Errors(), Looks(walk))
    values = {'model_id': network, 'device': 'cpu', 'bundle_adjustment': bundle_adjustment}
    return make_predictor(Config().with_values(values))


def _row(row: dict[str, Any]) -> str:
    before, after = row['before'], row['after']
    cells = (
        row['walk'],
        f'{row["way"]:.1f}',
        f'{before["ate_sim3"]:.3f}',
        f'{after["ate_sim3"]:.3f}',
        f'{before["end_drift"]:.2f} ({100 * before["end_drift_share"]:.0f} %)',
        f'{after["end_drift"]:.2f} ({100 * after["end_drift_share"]:.0f} %)',
        f'{row["loops_true"]}, {row["loops_false"]}',
        str(row['looked_at']),
    )
    return f'| {" | ".join(cells)} |'


if __name__ == '__main__':
    sys.exit(main())
