"""Metres: the border between the map, in a unit of its own, and everything published.

Placement, seams and the map know one unit, that of the first window. What leaves the pipeline goes through one
similarity, output_from_map: a factor, and a shift that keeps the camera where it was published last. So when the scale
is found, and whenever it is corrected after that, poses go on without a step, and the whole map and path change size
about the camera, alike and at once; Update.output_from_before says by how much.
"""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np

from vggt_ros.core.config import ScaleConfig
from vggt_ros.core.covariance import LOST
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.metric.baseline_scale import measure_rig
from vggt_ros.core.metric.depth_scale import measure_depth
from vggt_ros.core.metric.evidence import Evidence
from vggt_ros.core.metric.floor_scale import measure_floor
from vggt_ros.core.metric.gravity import max_tilt
from vggt_ros.core.metric.odometry_scale import measure_way
from vggt_ros.core.metric.scale import Measurement, NoEvidence, ScaleTracker
from vggt_ros.core.metric.scale_report import ScaleReport, ScaleState
from vggt_ros.core.placement import Placement, SeamStatus
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.submap import PlacedFrame, Update

log = logging.getLogger(__name__)


class Metres:
    """Finds the scale window by window, and gives updates in metres.

    Args:
        config: where metres come from.
        evidence: what other sensors say.
    """

    def __init__(self, config: ScaleConfig, evidence: Evidence) -> None:
        self.config, self.evidence = config, evidence
        self.tracker = ScaleTracker(config)
        self.reset()

    def reset(self) -> None:
        """A new map has a unit of its own."""
        self.tracker.reset()
        self.output_from_map = Sim3.identity()
        self._start: np.ndarray | None = None  # of the first camera, in the map
        self._pivot = np.zeros(3)  # the camera published last, in the map
        self._before: Sim3 | None = None  # output_from_map of the update before

    @property
    def factor(self) -> float:
        """Output units per map unit; metres once they are known."""
        return self.tracker.factor

    def report(self) -> ScaleReport:
        """How far the scale is known."""
        return self.tracker.report()

    def observe(self, prediction: Prediction, placement: Placement, shared: int) -> Placement:
        """Compare a placed window with the evidence.

        Args:
            prediction, placement: the window.
            shared: how many of its frames, from the front, were published before.

        Returns:
            The placement with its scale steered to what the evidence says, so that the unit of the map does not drift
            away along the path. A window that could not be joined to the one before takes its scale from the evidence
            alone, where there is some: a gap in the images then does not cost the scale.
        """
        if not self.tracker.is_measured or not prediction.is_posed.any():
            return placement
        before, scale = self.report(), placement.map_from_window.scale
        measurement = self._measure(prediction, placement)
        if placement.seam.status is SeamStatus.HELD:
            if before.state is ScaleState.LOCKED and isinstance(measurement, Measurement):
                scale = math.exp(measurement.log_metres) / self.factor
                return _with_scale(placement, prediction, scale, shared)
            self.tracker.forget_unit()
        elif placement.seam.status is not SeamStatus.FIRST:
            scale = self.tracker.steer(measurement, scale)
        self.tracker.observe(measurement, scale)
        _announce(before, self.report())
        return _with_scale(placement, prediction, scale, shared)

    def convert(self, update: Update) -> Update:
        """An update in map units -> in output units, with the scale as it stands."""
        if self._start is None:
            self._start = self._pivot = update.map_from_window_cams[0, :3, 3]
        self._move_output()
        report, output_from_map = self.report(), self.output_from_map
        if update.frames:
            self._pivot = update.frames[-1].map_from_cam[:3, 3]
        residual = update.seam.residual * output_from_map.scale
        before, self._before = self._before, output_from_map
        return dataclasses.replace(
            update,
            frames=tuple(self._convert_frame(frame, report) for frame in update.frames),
            map_from_window_cams=output_from_map.transform_pose(update.map_from_window_cams),
            map_from_window=output_from_map @ update.map_from_window,
            seam=dataclasses.replace(update.seam, residual=residual),
            metric=report.is_metric,
            scale=report,
            output_from_before=None if before in (None, output_from_map) else output_from_map @ before.inverse(),
        )

    def correct(self, old_map_from_cam: np.ndarray, new_map_from_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The map was corrected: both poses of the camera published last, in output units."""
        self._pivot = new_map_from_cam[:3, 3]
        place = self.output_from_map.transform_pose
        return place(old_map_from_cam), place(new_map_from_cam)

    def conclude(self) -> Sim3 | None:
        """The recording ends: way and map take the scale that all of it says at once.

        Returns:
            output_from_before, as of an update; None where nothing moves.
        """
        before = self.output_from_map
        self.tracker.conclude()
        self._move_output()
        return None if self.output_from_map is before else self.output_from_map @ before.inverse()

    def points(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] points of the map in output units, in their own type."""
        scale, shift = self.output_from_map.scale, self.output_from_map.t
        return points if scale == 1 and not shift.any() else (points * scale + shift).astype(points.dtype)

    def _move_output(self) -> None:
        """Take over the factor as it stands, the camera published last staying where it is."""
        if self.factor != self.output_from_map.scale:
            shown = self.output_from_map.transform_points(self._pivot)
            self.output_from_map = Sim3(self.factor, np.eye(3), shown - self.factor * self._pivot)

    def _convert_frame(self, frame: PlacedFrame, report: ScaleReport) -> PlacedFrame:
        scale = self.output_from_map.scale
        map_from_cam = self.output_from_map.transform_pose(frame.map_from_cam)
        depth, on_device = frame.depth, frame.on_device
        if scale != 1:
            depth = depth * np.float32(scale)
            on_device = on_device and on_device.of(frame.depth)
            on_device = on_device and on_device.placed(scale, depth)
        way, odometry = scale * (frame.map_from_cam[:3, 3] - self._start), frame.odometry_covariance
        return dataclasses.replace(
            frame,
            depth=depth,
            on_device=on_device,
            map_from_cam=map_from_cam,
            views=tuple(self._convert_frame(view, report) for view in frame.views),
            covariance=_convert_covariance(frame.covariance, scale, way, report),
            step_covariance=_convert_covariance(frame.step_covariance, scale, np.zeros(3), report),
            odometry_covariance=None if odometry is None else _convert_covariance(odometry, scale, way, report),
        )

    def _measure(self, prediction: Prediction, placement: Placement) -> Measurement | NoEvidence:
        source, evidence = self.config.scale_source, self.evidence
        frames = list(zip(prediction.frame_ids, prediction.stamps_ns, strict=True))
        if source in ('odometry', 'tf'):
            odom_from_cams = [evidence.odom_from_cam(*frame) for frame in frames]
            return measure_way(prediction, odom_from_cams, self.config.scale_min_motion)
        if source in ('depth', 'lidar'):
            is_decoded = np.isfinite(prediction.depth).any(axis=(1, 2))
            return measure_depth(
                prediction,
                [evidence.points_in(*frame) if use else None for frame, use in zip(frames, is_decoded, strict=True)],
            )
        if source == 'baseline':
            return measure_rig(prediction)
        heights = np.array([self.config.camera_height or self._mounted_height(*frame) for frame in frames])
        if not heights.min() > 0:
            return NoEvidence('camera_height is not set, and base -> camera in TF does not tell it', True)
        return measure_floor(prediction, placement.map_from_window.R[2], heights, max_tilt(self.config))

    def _mounted_height(self, optical_frame: str, stamp_ns: int) -> float:
        base_from_cam = self.evidence.base_from_cam(optical_frame, stamp_ns)
        return 0.0 if base_from_cam is None else float(base_from_cam[2, 3])


def _with_scale(placement: Placement, prediction: Prediction, scale: float, shared: int) -> Placement:
    """The same place with another scale; the camera published last stays where it is."""
    posed = np.flatnonzero(prediction.is_posed)
    still = max((i for i in posed if i < shared), default=posed[0])
    before, centre = placement.map_from_window, prediction.window_from_cam[still, :3, 3]
    moved = Sim3(scale, before.R, before.t + (before.scale - scale) * before.R @ centre)
    return Placement(moved, placement.seam)


def _convert_covariance(covariance: np.ndarray, scale: float, way: np.ndarray, report: ScaleReport) -> np.ndarray:
    """[6, 6] map units -> output units, with what the scale may be off by over the way [3] from the start.

    While metres are asked for and not known, nothing is known of places: LOST, as of a camera that sees nothing.
    """
    if report.is_unknown or covariance[0, 0] >= LOST[0, 0]:
        return LOST
    units = np.diag([scale] * 3 + [1.0] * 3)
    converted = units @ covariance @ units
    if math.isfinite(report.error):
        converted[:3, :3] += report.error**2 * np.outer(way, way)
    return converted


def _announce(before: ScaleReport, now: ScaleReport) -> None:
    """Say once what changed for whoever reads the map."""
    if before.state is now.state:
        if now.is_conflict and not before.is_conflict:
            log.warning('%s', now.describe() if now.is_unknown else now.reason)
        return
    if now.state is ScaleState.LOCKED:
        log.info(
            'scale locked: 1 unit of the map is %.4g m, from %s, within %.1f %% (%d windows); map and path change size '
            'once, about the camera',
            now.factor, now.source, 100 * now.error, now.agreeing,
        )  # fmt: skip
    else:
        log.warning('%s', now.describe())
