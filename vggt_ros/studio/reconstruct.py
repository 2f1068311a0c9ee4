"""Frames of an upload -> a folder of results and Predictions, through the same run as the command line's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vggt_ros.core.config import Config
from vggt_ros.core.errors import PredictionError, SourceError
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import Predictor
from vggt_ros.core.submap import PlacedFrame, Update
from vggt_ros.recorded.source import Source
from vggt_ros.results.report import Report
from vggt_ros.run import run
from vggt_ros.studio.networks import WatchedNetwork
from vggt_ros.studio.predictions import Predictions

MODES = {'all': 'all frames at once', 'window': 'sliding window, as on a robot'}
Progress = Callable[[float, str], None]


def settings_for(mode: str, frames: int, config: Config) -> Config:
    """The configuration of a reconstruction.

    Args:
        mode: 'all' gives the network every frame in one window, as the original demo does; 'window' is the node's way.
        frames: how many there are.
        config: everything else.
    """
    if mode == 'window':
        return config.with_values({'path_max_size': max(config.map.path_max_size, frames)})
    # One window, and no pause or step back in time splits it: photos have made-up times.
    values = {'window_size': frames, 'window_stride': frames, 'max_frame_gap_s': 0.0, 'on_time_jump': 'ignore'}
    return config.with_values(values)


def reconstruct(
    source: Source, count: int, out: Path, config: Config, predictor: Predictor, progress: Progress
) -> tuple[Predictions, Report]:
    """Run the pipeline over an upload.

    Args:
        source: its frames.
        count: how many there are.
        out: folder for the files of `vggt_ros run`; files of an earlier run are replaced.
        config: as settings_for gives it.
        predictor: the network.
        progress: called with the share that is done, 0..1, and a sentence with the time left.

    Raises:
        SourceError, PredictionError, ConfigError, OutputError: in words for the visitor.
    """
    recorder = _Recorder(predictor)
    clock = _Clock(count, config.window.size, progress)
    network = getattr(predictor, 'network', None)
    if isinstance(network, WatchedNetwork):
        network.on_step = clock.in_window
    try:
        report = run(
            source, out, config, predictor=predictor, force=True, progress=clock.frame_read, watch=recorder.watch
        )
    except PredictionError as error:
        raise _in_words(error, config) from error
    finally:
        if isinstance(network, WatchedNetwork):
            network.on_step = lambda share: None
    return recorder.predictions(report.unit), report


class _Recorder:
    """Keeps of each frame what the network said before any filter, and where the pipeline put it."""

    def __init__(self, predictor: Predictor) -> None:
        self._network = getattr(predictor, 'network', None)
        self._rows: list[tuple[PlacedFrame, np.ndarray, np.ndarray]] = []  # placed, depth unfiltered, confidence
        self._points: list[tuple[np.ndarray, np.ndarray] | None] = []

    def watch(self, pipeline: Pipeline, update: Update) -> None:
        """Take a window."""
        prediction = pipeline.map.submaps[-1].prediction
        for frame in update.frames:
            i = prediction.stamps_ns.index(frame.stamp_ns)
            scale = _scale(frame.depth, prediction.depth[i], update.map_from_window.scale)
            self._rows.append((frame, prediction.depth[i] * np.float32(scale), prediction.confidence[i]))
            self._points.append(self._points_of(i, update))

    def predictions(self, unit: str) -> Predictions:
        """Everything so far, in the frame of the first camera."""
        if not self._rows:
            raise SourceError('no frame could be used; see whether the upload opens elsewhere')
        shape = self._rows[0][1].shape
        kept = [i for i, row in enumerate(self._rows) if row[1].shape == shape]  # a camera may change its size
        placed = [self._rows[i][0] for i in kept]
        map_from_cams = np.stack([frame.map_from_cam for frame in placed])
        first_from_map = invert_rigid(map_from_cams[0])
        points = [self._points[i] for i in kept]
        has_points = all(one is not None for one in points)
        return Predictions(
            names=tuple(f'frame {i}' for i in range(len(kept))),
            stamps_ns=np.array([frame.stamp_ns for frame in placed], np.int64),
            images=np.stack([frame.image for frame in placed]),
            depth=np.stack([self._rows[i][1] for i in kept]),
            confidence=np.stack([self._rows[i][2] for i in kept]),
            cam_from_world=invert_rigid(first_from_map @ map_from_cams),
            K=np.stack([frame.K for frame in placed]),
            map_from_world=map_from_cams[0],
            world_points=np.stack([_moved(first_from_map, one[0]) for one in points if one]) if has_points else None,
            world_points_confidence=np.stack([one[1] for one in points if one]) if has_points else None,
            unit=unit,
        )

    def _points_of(self, i: int, update: Update) -> tuple[np.ndarray, np.ndarray] | None:
        """The point head's [H, W, 3] points of the window's frame i, in the map, and their confidence."""
        points = getattr(self._network, 'points', None)
        if points is None or i not in points[0]:
            return None
        row = points[0].index(i)
        return update.map_from_window.transform_points(points[1][row]), points[2][row]


class _Clock:
    """Turns frames read and blocks computed into a share and the time left."""

    def __init__(self, frames: int, window_size: int, progress: Progress) -> None:
        self._frames, self._at_once = frames, frames <= window_size
        self._progress, self._start, self._base = progress, time.perf_counter(), 0.0
        self._seen, self._shown = 0, -1.0

    def frame_read(self, report: Report) -> None:
        self._seen += 1
        if not self._at_once:
            self._base = self._seen / max(self._frames, self._seen)
            self._show(self._base)

    def in_window(self, share: float) -> None:
        if self._at_once:
            self._show(share)

    def _show(self, share: float) -> None:
        now = time.perf_counter()
        if share < 1 and now - self._shown < 0.2:
            return
        self._shown = now
        left_s = (now - self._start) * (1 - share) / max(share, 1e-3)
        self._progress(min(share, 1.0), f'{_seconds(left_s)} left' if share < 1 else 'writing the results')


def _seconds(seconds: float) -> str:
    return f'about {seconds:.0f} s' if seconds < 90 else f'about {seconds / 60:.0f} min'


def _scale(placed: np.ndarray, predicted: np.ndarray, otherwise: float) -> float:
    """Output units per window unit, as the pipeline applied them to a frame's depth."""
    both = np.isfinite(placed) & (predicted > 0) if placed.shape == predicted.shape else np.zeros(1, bool)
    return float(np.median(placed[both] / predicted[both])) if both.any() else otherwise


def _moved(target_from_source: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ target_from_source[:3, :3].T + target_from_source[:3, 3]


def _in_words(error: PredictionError, config: Config) -> PredictionError:
    """Lack of memory, with what fits; anything else as it is."""
    text = str(error).lower()
    if 'out of memory' not in text and "can't allocate" not in text and 'not enough memory' not in text:
        return error
    size = config.window.size
    return PredictionError(
        f'out of memory with {size} frames at once: about {max(1, size // 2)} fit; take fewer frames, choose the '
        'sliding window, or a smaller model'
    )
