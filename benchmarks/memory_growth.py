"""Whether the pipeline's memory grows with the answers of a real network: hours of results in minutes.

    python -m benchmarks.memory_growth                     # 8,000 results of nano
    python -m benchmarks.memory_growth --results 3000

Method: nano computes what it is asked for once; when it is asked again, its answer is read from disk and given the
stamps of now. The shipped clip goes there and back, so after the first laps nearly all is on disk, and places are seen
again, loops closed and refused as in the stream. What is remembered is bounded low (soak_node.BOUNDS and lower). After
the first quarter nano rests: a window that it never saw then gets another one's answer, which does not fit. After each
window is noted what malloc has given out (mallinfo2; Linux with glibc), how many blocks Python has, and what is
resident; of each hundredth of the way the least counts, as what is under way on other threads only adds. Lines are
fitted to the last two thirds; their errors are those of soak_node.slope.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import pickle
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.machine import commit, cpu_name
from benchmarks.soak_node import BOUNDS, CLIP, slope
from vggt_ros.core.config import Config
from vggt_ros.core.frame import Frame
from vggt_ros.core.memory import keep_freed_memory
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.predictor import Predictor, make_predictor
from vggt_ros.core.window import Window
from vggt_ros.results.scene import Scene

START_NS, FRAME_NS = 10**18, 500_000_000
WINDOWS = 40  # of the pose graph: 160 results
LOWER: dict[str, object] = {
    'loop_max_windows': WINDOWS, 'loop_max_places': 6, 'map_max_views': 30, 'path_max_size': 30,
    'trajectory_max_size': 100, 'map_max_points': 20_000,
}  # fmt: skip
PARTS = 100  # of the way
FIGURES = ('given out, bytes', 'Python blocks', 'resident, bytes')


class Replayed:
    """Answers of a network by the frames they are of, on disk, so that new ones do not count as memory.

    Args:
        network: computes what is new, while `may_compute`.
        folder: for the answers.
        lap: frames after which the pictures are the same again.
    """

    def __init__(self, network: Predictor, folder: Path, lap: int) -> None:
        self.network, self.folder, self.lap = network, folder, lap
        self.may_compute = True
        self._last: dict[tuple[str, int], Path] = {}

    def predict(self, window: Window) -> Prediction:
        return self._answer('window', window)

    def predict_apart(self, window: Window) -> Prediction:
        return self._answer('apart', window)

    def reset(self) -> None:
        """Nothing is kept of the stream."""

    def _answer(self, kind: str, window: Window) -> Prediction:
        rows = [(frame.stamp_ns - START_NS) // FRAME_NS % self.lap for frame in window.frames]
        file = self.folder / f'{kind}_{"_".join(map(str, rows))}_{window.shared}_{window.is_bridge}'
        if not file.exists() and self.may_compute:
            compute = self.network.predict if kind == 'window' else self.network.predict_apart
            file.write_bytes(pickle.dumps(compute(window)))
        if not file.exists():
            file = self._last[kind, len(rows)]
        self._last[kind, len(rows)] = file
        answer: Prediction = pickle.loads(file.read_bytes())
        return dataclasses.replace(
            answer,
            stamps_ns=tuple(frame.stamp_ns for frame in window.frames),
            frame_ids=tuple(frame.frame_id for frame in window.frames),
        )


def grow(results: int, folder: Path) -> tuple[np.ndarray, Pipeline]:
    """[PARTS, 4] results so far and FIGURES, at the least of each part of the way; and the pipeline at its end."""
    keep_freed_memory()
    settings = {'model_id': 'nano', 'device': 'cpu', 'window_size': 8, 'window_stride': 4, 'intrinsics_mode': 'locked'}
    config = Config().with_values({**settings, **BOUNDS, **LOWER})
    images = [np.asarray(cv2.imread(str(path)))[..., ::-1].copy() for path in sorted(CLIP.iterdir())]
    images += images[-2:0:-1]
    replayed = Replayed(make_predictor(config), folder, len(images))
    pipeline, scene = Pipeline(config, replayed), Scene(config)
    figures = np.full((PARTS, 1 + len(FIGURES)), np.inf)  # made now, so that it does not count as growth
    came = number = 0
    while came < results:
        image = images[number % len(images)]
        update = pipeline.add_frame(Frame(START_NS + number * FRAME_NS, image, 'camera_optical'))
        number += 1
        if update is None:
            continue
        part = came * PARTS // results
        came += len(update.frames)
        scene.add(update)
        del update
        replayed.may_compute = came < results / 4
        if np.isinf(figures[part, 0]):
            gc.collect()
        figures[part] = np.minimum(figures[part], (came, *_memory()))
    return figures, pipeline


class _Mallinfo(ctypes.Structure):
    """Source: mallinfo(3)."""

    _fields_ = (
        ('arena', ctypes.c_size_t), ('ordblks', ctypes.c_size_t), ('smblks', ctypes.c_size_t),
        ('hblks', ctypes.c_size_t), ('hblkhd', ctypes.c_size_t), ('usmblks', ctypes.c_size_t),
        ('fsmblks', ctypes.c_size_t), ('uordblks', ctypes.c_size_t), ('fordblks', ctypes.c_size_t),
        ('keepcost', ctypes.c_size_t),
    )  # fmt: skip


def _memory() -> tuple[int, int, int]:
    """As FIGURES has them."""
    libc = ctypes.CDLL('libc.so.6')
    libc.mallinfo2.restype = _Mallinfo
    given = libc.mallinfo2()
    resident = int(Path('/proc/self/status').read_text().split('RssAnon:')[1].split()[0]) * 1024
    return given.uordblks + given.hblkhd, sys.getallocatedblocks(), resident


def main() -> None:
    """Replay, and print what grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--results', type=int, default=8000, help='frames whose depth is published (%(default)d)')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures, pipeline = grow(arguments.results, Path(folder))
    counted = figures[PARTS // 3 :]
    did = pipeline.statistics
    print(
        f'{did.frames} frames, {did.loops} loops closed and {did.loops_rejected} not; {cpu_name()}, commit {commit()}'
    )
    print('\n| figure | after a third | at the end | slope a result | twice its error |')
    print('| --- | --- | --- | --- | --- |')
    for name, values in zip(FIGURES, counted.T[1:], strict=True):
        gradient, error = slope(counted[:, 0], values)
        print(f'| {name} | {values[0]:.0f} | {values[-1]:.0f} | {gradient:.2f} | {2 * error:.2f} |')


if __name__ == '__main__':
    main()
