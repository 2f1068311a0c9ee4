"""What a run shows of itself: collected message by message, written as summary.json and as one HTML page."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vggt_ros import __version__
from vggt_ros.core.config import Config
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.loops.loop_report import LoopReport
from vggt_ros.core.metric.scale_report import ScaleReport
from vggt_ros.core.placement import SeamStatus
from vggt_ros.core.submap import Update
from vggt_ros.decode import decode_image

PICTURES = 8  # pairs of input and depth in the page
# In the order an image passes them.
STAGES = ('read', 'prepare', 'network', 'adjust', 'align', 'map', 'loop', 'encode', 'write')


class Timings:
    """Seconds by stage, one entry a window and stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def add(self, stage: str, seconds: float) -> None:
        self.seconds.setdefault(stage, []).append(seconds)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def total(self, stage: str) -> float:
        return math.fsum(self.seconds.get(stage, ()))

    @property
    def sum(self) -> float:
        """All stages."""
        return math.fsum(self.total(stage) for stage in self.seconds)

    @property
    def outside_network(self) -> float | None:
        """Share of the time not spent in the network; None where nothing was measured."""
        return 1 - self.total('network') / self.sum if self.sum > 0 else None


@dataclass(frozen=True)
class WindowRow:
    """One window, for the seam plot."""

    index: int
    stamp_ns: int
    frames: int
    status: SeamStatus
    shared_frames: int
    inlier_ratio: float
    residual: float
    scale_ratio: float
    refused: int = 0


@dataclass(frozen=True)
class Check:
    """Something that was verified of the result."""

    name: str
    is_good: bool
    detail: str = ''


@dataclass(frozen=True, eq=False)
class Picture:
    """An input image [H, W, 3] uint8 RGB and its depth [H, W] float32."""

    stamp_ns: int
    image: np.ndarray
    depth: np.ndarray


@dataclass
class Report:
    """Everything the page and the summary show. An offline run and a live recording fill it alike.

    Args:
        source: what went in, as the user named it.
        config: the settings of the run.
        model, device: names, as far as they are known.
        metric: whether lengths are metres; else they are in units of the network.
        scale: how far metres are known.
    """

    source: str
    config: Config
    model: str = ''
    device: str = ''
    metric: bool = False
    scale: ScaleReport = field(default_factory=ScaleReport)
    timings: Timings = field(default_factory=Timings)
    windows: list[WindowRow] = field(default_factory=list)
    loops: list[LoopReport] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    poses: list[np.ndarray] = field(default_factory=list)
    cloud: tuple[np.ndarray, np.ndarray] = field(
        default_factory=lambda: (np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8))
    )
    aspect: tuple[float, float] = (0.6, 0.45)
    counts: dict[str, int] = field(default_factory=dict)
    messages: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failure: str = ''
    wall_s: float = 0.0
    _pictures: list[Picture] = field(default_factory=list)
    _image: tuple[int, np.ndarray] | None = None
    _depth: tuple[int, np.ndarray] | None = None
    _seen: int = 0
    _every: int = 1

    def add_message(self, topic: str, stamp_ns: int, message: Any) -> None:
        """Take what is shown from a message as published; topic as in topics.TOPICS."""
        self.messages[topic] = self.messages.get(topic, 0) + 1
        if topic == '~/camera_pose':
            self.stamps_ns.append(stamp_ns)
            self.poses.append(_matrix(message.pose))
        elif topic == '~/depth/image_rect':
            self._depth = stamp_ns, np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
            self._pair()
        elif topic == '~/rgb/image_rect_color':
            self._image = stamp_ns, decode_image(message)
            self._pair()
        elif topic == '~/depth/camera_info':
            self.aspect = message.width / 2 / float(message.k[0]), message.height / 2 / float(message.k[4])
        elif topic == '~/map_points':
            points = np.frombuffer(message.data, np.uint8).reshape(-1, 16)
            self.cloud = points[:, :12].copy().view(np.float32), points[:, 14:11:-1].copy()

    def move(self, output_from_before: Sim3) -> None:
        """The scale of the map has changed, and with it the way so far."""
        self.poses = [output_from_before.transform_pose(pose) for pose in self.poses]

    def add_update(self, update: Update) -> None:
        """Take seam and times of a window."""
        seam, times = update.seam, update.times
        if update.loop is not None:
            self.loops.append(update.loop)
        self.metric, self.scale = update.metric, update.scale
        if update.output_from_before is not None:
            self.move(update.output_from_before)
        self.windows.append(
            WindowRow(
                update.index,
                update.window_stamps_ns[-1],
                len(update.frames),
                seam.status,
                seam.shared_frames,
                seam.inlier_ratio,
                seam.residual,
                seam.scale_ratio,
                seam.refused,
            )
        )
        for stage in ('prepare', 'network', 'adjust', 'align', 'map', 'loop'):
            self.timings.add(stage, getattr(times, f'{stage}_s'))

    @property
    def pictures(self) -> list[Picture]:
        """At most PICTURES of the frames seen, evenly spread."""
        if len(self._pictures) <= PICTURES:
            return self._pictures
        return [self._pictures[i] for i in np.linspace(0, len(self._pictures) - 1, PICTURES).round().astype(int)]

    @property
    def unit(self) -> str:
        return 'm' if self.metric else 'units'

    @property
    def path_length(self) -> float:
        """Way of the camera, in `unit`."""
        if len(self.poses) < 2:
            return 0.0
        return float(np.linalg.norm(np.diff([pose[:3, 3] for pose in self.poses], axis=0), axis=1).sum())

    @property
    def is_good(self) -> bool:
        """Nothing failed and every check passed."""
        return not self.failure and all(check.is_good for check in self.checks)

    def summary(self) -> dict[str, Any]:
        """What summary.json holds: numbers to compare runs by; a length is in `unit`."""
        frames = len(self.stamps_ns)
        recorded_s = (self.stamps_ns[-1] - self.stamps_ns[0]) / 1e9 if frames > 1 else 0.0
        return {
            'vggt_ros': __version__,
            'source': self.source,
            'model': self.model,
            'device': self.device,
            'complete': not self.failure,
            'failure': self.failure,
            'notes': self.notes,
            'unit': self.unit,
            'scale': {
                'source': self.scale.source,
                'state': self.scale.state.value,
                'factor': self.scale.factor,
                'spread': _number(self.scale.spread),
                'error': _number(self.scale.error),
                'windows': self.scale.observations,
                'agreeing': self.scale.agreeing,
                'silent': self.scale.silent,
                'says': self.scale.describe(),
            },
            'frames': frames,
            'windows': len(self.windows),
            'points': len(self.cloud[0]),
            'recorded_s': recorded_s,
            'path_length': self.path_length,
            'wall_s': self.wall_s,
            'counts': self.counts,
            'messages': self.messages,
            'timings': {
                'total_s': {stage: self.timings.total(stage) for stage in self.timings.seconds},
                'per_frame_ms': {
                    stage: 1e3 * self.timings.total(stage) / frames if frames else None
                    for stage in self.timings.seconds
                },
                'outside_network': self.timings.outside_network,
            },
            'seams': [
                {
                    'window': row.index,
                    'stamp_ns': row.stamp_ns,
                    'new_frames': row.frames,
                    'status': row.status.value,
                    'shared_frames': row.shared_frames,
                    'inlier_ratio': _number(row.inlier_ratio),
                    'residual': _number(row.residual),
                    'scale_ratio': _number(row.scale_ratio),
                    'refused': row.refused,
                }
                for row in self.windows
            ],
            'loops': [_loop_row(loop) for loop in self.loops],
            'checks': [{'name': one.name, 'good': one.is_good, 'detail': one.detail} for one in self.checks],
            'settings': self.config.values(),
        }

    def _pair(self) -> None:
        """Keep every n-th pair of image and depth; n doubles when too many are kept."""
        if self._image is None or self._depth is None or self._image[0] != self._depth[0]:
            return
        if self._seen % self._every == 0:
            self._pictures.append(Picture(self._image[0], self._image[1], self._depth[1]))
            if len(self._pictures) > 2 * PICTURES:
                self._pictures, self._every = self._pictures[::2], self._every * 2
        self._seen += 1


def _matrix(pose: Any) -> np.ndarray:
    p, q = pose.position, pose.orientation
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    matrix[:3, 3] = p.x, p.y, p.z
    return matrix


def _loop_row(loop: LoopReport) -> dict[str, Any]:
    """A pair of places that was looked at, closed or not, and what that rests on."""
    evidence = {name: _number(value) for name, value in asdict(loop.evidence).items()}
    return {**asdict(loop), 'drift': _number(loop.drift), 'evidence': evidence}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN
