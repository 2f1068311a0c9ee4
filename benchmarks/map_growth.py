"""What a window and a closed loop cost as the map grows to 10,000 keyframes, without a network.

    python -m benchmarks.map_growth                          # 10,000 keyframes, 2,500 windows
    python -m benchmarks.map_growth --keyframes 2000 --json

Method: the real pipeline at its defaults (window 8, stride 4) over a simulated camera that goes round and round a room,
on ways that slowly shift, so that it keeps coming back; pictures are 32x24 with true depth and noise on the cameras.
Each loop is looked at and closed as in the stream; the pass of the network costs nothing here. Processor time of all
threads, so what the solver's thread does is counted, with the window that it falls into; medians over each tenth of the
way. Memory is what the process grew by at most.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vggt_ros.core.config import Config
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.window import Window

HEIGHT, WIDTH = 24, 32
K = np.array([[26.0, 0.0, 15.5], [0.0, 26.0, 11.5], [0.0, 0.0, 1.0]])
HALF = np.array([4.0, 4.0, 1.5])  # of the room, metres; the camera goes round in the middle of it
LAP = 120  # keyframes
STEP_NS = 100_000_000
TURN, SHIFT, DEPTH = math.radians(0.1), 0.003, 0.01  # noise of a camera, metres and radians, and of a frame's depth


@dataclass
class Rounds:
    """A camera that goes round a room, as a network that errs a little sees it."""

    seed: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.projection = self.rng.normal(size=(24, 1200)).astype(np.float32)

    def pose(self, number: int) -> np.ndarray:
        """[4, 4] world_from_cam; x forward of the lap, z up."""
        a = 2 * math.pi * number / LAP
        drift = 0.3 * math.sin(number / 700)  # from lap to lap it walks elsewhere
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler('ZXZ', [a, -math.pi / 2, 0]).as_matrix()
        pose[:3, 3] = (2 + drift) * math.cos(a), (2 + drift) * math.sin(a), 0.1 * math.sin(5 * a)
        return pose

    def see(self, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth [h, w] and picture [h, w, 3] of the room."""
        v, u = np.mgrid[:HEIGHT, :WIDTH]
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(u.shape)], axis=-1)
        direction = rays @ pose[:3, :3].T
        with np.errstate(divide='ignore'):
            depth = np.maximum((HALF - pose[:3, 3]) / direction, (-HALF - pose[:3, 3]) / direction).min(axis=-1)
        points = pose[:3, 3] + depth[..., None] * direction
        waves = np.array([[1.3, 2.1, 0.7], [2.9, -1.1, 1.9], [-0.8, 1.7, 3.1]])
        return depth.astype(np.float32), (127 + 120 * np.sin(points @ waves.T)).astype(np.uint8)

    def predict(self, window: Window) -> Prediction:
        """Depth and cameras with noise, in a unit of its own."""
        return self._answer(window, float(3 ** self.rng.uniform(-1, 1)))

    def predict_apart(self, window: Window) -> Prediction:
        """The same for two visits."""
        return self._answer(window, 1.0)

    def reset(self) -> None:
        """Nothing is kept."""

    def _answer(self, window: Window, scale: float) -> Prediction:
        stamps = tuple(frame.stamp_ns for frame in window.frames)
        poses = np.stack([self.pose(stamp // STEP_NS) for stamp in stamps])
        seen = [self.see(pose) for pose in poses]
        count = len(poses)
        poses[:, :3, :3] = poses[:, :3, :3] @ Rotation.from_rotvec(self.rng.normal(0, TURN, (count, 3))).as_matrix()
        poses[:, :3, 3] += self.rng.normal(0, SHIFT, (count, 3))
        poses[:, :3, 3] *= scale
        depth = np.stack([one for one, _ in seen]) * np.float32(scale)
        depth *= np.exp(self.rng.normal(0, DEPTH, (count, 1, 1))).astype(np.float32)
        images = np.stack([image for _, image in seen])
        looks = np.tanh(images[:, 2::8, 4::8].reshape(count, -1)[:, :24].astype(np.float32) / 127 - 1)
        cam_from_window = invert_rigid(poses) @ poses[0]
        cam_from_window[0] = np.eye(4)
        return Prediction(
            stamps_ns=stamps,
            frame_ids=('camera_optical',) * count,
            image=images,
            cam_from_window=cam_from_window,
            K=np.tile(K, (count, 1, 1)),
            K_network=np.tile(K, (count, 1, 1)),
            depth=depth,
            confidence=np.full(depth.shape, 2.0, np.float32),
            descriptors=looks @ self.projection,
        )


def measure(keyframes: int, seed: int = 0, parts: int = 10) -> list[dict[str, Any]]:
    """One row for each part of the way."""
    network = Rounds(seed)
    pipeline = Pipeline(Config(), network)
    own_ms = _network_ms(network)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rows, plain, loop, start_mb = [], [], [], _memory_mb()
    for number in range(1, keyframes + 1):
        before = time.process_time()
        update = pipeline.add_frame(Frame(number * STEP_NS, image, 'camera_optical', K))
        spent_ms = 1e3 * (time.process_time() - before)
        if update is not None:
            is_loop = update.loop is not None or update.moved_path is not None
            (loop if is_loop else plain).append(spent_ms - own_ms)
        if number % (keyframes // parts) == 0:
            rows.append(
                {
                    'keyframes': number,
                    'window_ms': statistics.median(plain) if plain else None,
                    'loop_ms': statistics.median(loop) if loop else None,
                    'loop_max_ms': max(loop, default=None),
                    'solve_ms': _solve_ms(pipeline),
                    'loops': pipeline.statistics.loops,
                    'rejected': pipeline.statistics.loops_rejected,
                    'places': len(pipeline.back_end.loops.places),
                    'points': len(pipeline.map.voxels),
                    'grown_mb': _memory_mb() - start_mb,
                }
            )
            plain, loop = [], []
    return rows


def _solve_ms(pipeline: Pipeline) -> float:
    before = time.process_time()
    pipeline.back_end.graph.copy().solve()
    return 1e3 * (time.process_time() - before)


def _network_ms(network: Rounds) -> float:
    """Of the simulated network itself, for a window of 8: not ours to count."""
    frames = tuple(Frame(i * STEP_NS, np.zeros((HEIGHT, WIDTH, 3), np.uint8), 'camera_optical', K) for i in range(1, 9))
    before = time.process_time()
    for _ in range(5):
        network.predict(Window(frames, 4))
    return 1e3 * (time.process_time() - before) / 5


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--keyframes', type=int, default=10_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--json', action='store_true')
    arguments = parser.parse_args(argv)
    rows = measure(arguments.keyframes, arguments.seed)
    if arguments.json:
        print(json.dumps(rows))
        return 0
    print(f'| {" | ".join(rows[0])} |\n|{"---|" * len(rows[0])}')
    for row in rows:
        cells = (
            '-' if value is None else f'{value:.1f}' if isinstance(value, float) else str(value)
            for value in row.values()
        )
        print(f'| {" | ".join(cells)} |')
    return 0


if __name__ == '__main__':
    sys.exit(main())
