"""How many keyframes a map remembers, and what of the room they show, on laps of a real RGB-D sequence.

    python -m benchmarks.culling SEQUENCE... --laps 10

SEQUENCE is a folder as benchmarks.trajectory takes it.

Method: every frame of the sequence is a keyframe at its true pose with its true depth; the sequence is run forth and
back, lap after lap, each frame's pose off by 1 cm and 0.5 degrees (rms) as after drift. `covered` is the share of the
10 cm voxels that the frames of the first lap show which the views kept in the end show too, or a neighbour of them:
depth cameras and poses are not exact to a voxel. `standing` holds the first frame for as many frames as all laps have.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.simulated import RgbdSequence
from benchmarks.trajectory import load
from vggt_ros.core.config import MapConfig
from vggt_ros.core.errors import VggtRosError
from vggt_ros.core.geometry import move_points, unproject_pixels
from vggt_ros.core.submap import PlacedFrame
from vggt_ros.core.views import View, Views

VOXEL = 0.1
SHIFT, TURN = 0.01, np.radians(0.5)


def measure(sequence: RgbdSequence, laps: int) -> str:
    """A line of the table."""
    rng = np.random.default_rng(0)
    poses, depth, images = sequence.truth(tuple(frame.stamp_ns for frame in sequence.frames))
    seen: set[tuple[int, ...]] = set()
    views, standing, counts, stamp = Views(MapConfig()), Views(MapConfig()), [], 0
    for lap in range(laps):
        order = range(len(poses)) if lap % 2 == 0 else reversed(range(len(poses)))
        for i in order:
            stamp += 1
            frame = _frame(stamp, poses[i], depth[i], images[i], sequence.K, rng)
            views.add(frame)
            standing.add(_frame(stamp, poses[0], depth[0], images[0], sequence.K, rng))
            if lap == 0:
                seen |= voxels(View.of(frame))
        counts.append(len(views))
    covered = with_neighbours(set().union(*map(voxels, views)))
    size = sum(view.depth.nbytes for view in views)
    cells = [
        sequence.name,
        str(laps * len(poses)),
        str(counts[0]),
        str(counts[-1]),
        f'{100 * len(covered & seen) / len(seen):.1f} %',
        f'{size / 1e6:.2f}',
        str(len(standing)),
    ]
    return f'| {" | ".join(cells)} |'


def voxels(view: View) -> set[tuple[int, ...]]:
    """The voxels that a view's depth lies in."""
    v, u = np.nonzero(np.isfinite(view.depth))
    K = view.K / [[view.stride], [view.stride], [1.0]]
    points = move_points(view.map_from_cam, unproject_pixels(u, v, view.depth[v, u].astype(np.float64), K))
    return set(map(tuple, np.floor(points / VOXEL).astype(int)))


def with_neighbours(cells: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """These voxels and the 26 about each."""
    steps = [np.array(step) for step in np.ndindex(3, 3, 3)]
    each = np.array(sorted(cells))
    return set(map(tuple, np.concatenate([each + step - 1 for step in steps])))


def _frame(
    stamp: int, pose: np.ndarray, depth: np.ndarray, image: np.ndarray, K: np.ndarray, rng: np.random.Generator
) -> PlacedFrame:
    map_from_cam = pose.copy()
    map_from_cam[:3, :3] = Rotation.from_rotvec(rng.normal(0, TURN / np.sqrt(3), 3)).as_matrix() @ pose[:3, :3]
    map_from_cam[:3, 3] += rng.normal(0, SHIFT / np.sqrt(3), 3)
    confidence = np.ones(depth.shape, np.float32)
    return PlacedFrame(stamp, 'camera', image, depth.astype(np.float32), confidence, K, map_from_cam, np.eye(6))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; 2 where a folder cannot be used."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('sequences', nargs='+', type=Path, metavar='SEQUENCE')
    parser.add_argument('--laps', type=int, default=10)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.CRITICAL)
    header = ('sequence', 'keyframes', 'kept after one lap', 'after all', 'covered', 'MB of depth', 'kept standing')
    print(f'| {" | ".join(header)} |\n{"|---" * len(header)}|')
    try:
        for folder in arguments.sequences:
            print(measure(load(folder), arguments.laps), flush=True)
    except VggtRosError as error:
        print(f'benchmarks.culling: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
