"""Frames of an upload -> a folder of results and Predictions, through the same run as the command line's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vggt_ros.core.config import Config
from vggt_ros.core.errors import PredictionError, SourceError
from vggt_ros.core.geometry import Sim3, invert_rigid
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


@dataclass
class _Shot:
    """A frame with what the network said of it before any filter; lengths in output units.

    Args:
        frame: as the pipeline gave it.
        depth, confidence: [H, W].
        map_from_cam: [4, 4], as known now.
        points: the point head's [H, W, 3] in the camera's frame with their [H, W] confidence, where there is one.
    """

    frame: PlacedFrame
    depth: np.ndarray
    confidence: np.ndarray
    map_from_cam: np.ndarray
    points: tuple[np.ndarray, np.ndarray] | None


class _Recorder:
    """Keeps each frame, and where the pipeline puts it: a closed loop or a better scale moves those before."""

    def __init__(self, predictor: Predictor) -> None:
        self._network = getattr(predictor, 'network', None)
        self._shots: list[_Shot] = []
        self._pipeline: Pipeline | None = None
        self._output_from_map: Sim3 | None = None

    def watch(self, pipeline: Pipeline, update: Update) -> None:
        """Take a window."""
        self._pipeline, self._output_from_map = pipeline, pipeline.metres.output_from_map
        if update.output_from_before is not None:
            self._rescale(update.output_from_before)
        prediction = pipeline.map.submaps[-1].prediction
        for frame in update.frames:
            i = prediction.stamps_ns.index(frame.stamp_ns)
            scale = _scale(frame.depth, prediction.depth[i], update.map_from_window.scale)
            depth = prediction.depth[i] * np.float32(scale)
            points = self._points_of(i, frame, update)
            self._shots.append(_Shot(frame, depth, prediction.confidence[i], frame.map_from_cam, points))

    def predictions(self, unit: str) -> Predictions:
        """Everything so far as known in the end, in the frame of the first camera."""
        if not self._shots:
            raise SourceError('no frame could be used; see whether the upload opens elsewhere')
        self._take_final_poses()
        shape = self._shots[0].depth.shape
        shots = [shot for shot in self._shots if shot.depth.shape == shape]  # a camera may change its size
        map_from_cams = np.stack([shot.map_from_cam for shot in shots])
        world_from_cams = invert_rigid(map_from_cams[0]) @ map_from_cams
        seen = [(world_from_cam, shot.points) for world_from_cam, shot in zip(world_from_cams, shots, strict=True)]
        has_points = all(points is not None for _, points in seen)
        return Predictions(
            names=tuple(f'frame {i}' for i in range(len(shots))),
            stamps_ns=np.array([shot.frame.stamp_ns for shot in shots], np.int64),
            images=np.stack([shot.frame.image for shot in shots]),
            depth=np.stack([shot.depth for shot in shots]),
            confidence=np.stack([shot.confidence for shot in shots]),
            cam_from_world=invert_rigid(world_from_cams),
            K=np.stack([shot.frame.K for shot in shots]),
            map_from_world=map_from_cams[0],
            world_points=np.stack([_moved(pose, points[0]) for pose, points in seen if points]) if has_points else None,
            world_points_confidence=np.stack([points[1] for _, points in seen if points]) if has_points else None,
            unit=unit,
        )

    def _rescale(self, output_from_before: Sim3) -> None:
        scale = np.float32(output_from_before.scale)
        for shot in self._shots:
            shot.map_from_cam = output_from_before.transform_pose(shot.map_from_cam)
            shot.depth = shot.depth * scale
            if shot.points is not None:
                shot.points = shot.points[0] * scale, shot.points[1]

    def _take_final_poses(self) -> None:
        """Where loops moved them; a map that was begun anew has forgotten those before, and they stay."""
        assert self._pipeline is not None
        assert self._output_from_map is not None
        settled = self._pipeline.metres.output_from_map
        if settled is not self._output_from_map:  # the end of the recording settles the scale
            self._rescale(settled @ self._output_from_map.inverse())
        stamps_ns, poses = self._pipeline.trajectory()
        known = dict(zip(stamps_ns.tolist(), poses, strict=True))
        for shot in self._shots:
            shot.map_from_cam = known.get(shot.frame.stamp_ns, shot.map_from_cam)

    def _points_of(self, i: int, frame: PlacedFrame, update: Update) -> tuple[np.ndarray, np.ndarray] | None:
        """The point head's [H, W, 3] points of the window's frame i, as its camera sees them, and their confidence."""
        points = getattr(self._network, 'points', None)
        if points is None or i not in points[0]:
            return None
        row = points[0].index(i)
        in_map = update.map_from_window.transform_points(points[1][row])
        return _moved(invert_rigid(frame.map_from_cam), in_map), points[2][row]


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
