"""Submap: a Prediction placed in the map; Map: the submaps so far."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from vggt_ros.core.config import CloudConfig, Config
from vggt_ros.core.covariance import LOST, Drift, FrameCovariance, Uncertainty
from vggt_ros.core.device_frame import Bounds, DeviceFrame
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, Sim3, move_points, unproject_pixels
from vggt_ros.core.loops.loop_report import LoopReport
from vggt_ros.core.metric.scale_report import ScaleReport
from vggt_ros.core.motion import moving_pixels
from vggt_ros.core.placement import Placement, Seam, SeamStatus
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.stage_clock import StageTimes
from vggt_ros.core.trail import Trail
from vggt_ros.core.voxels import VoxelMap

__all__ = ['Map', 'PlacedFrame', 'Placement', 'Seam', 'SeamStatus', 'Submap', 'Update', 'trusted', 'validity']

VOXEL_SLACK = 0.1  # of a voxel's edge: how far it may be off while the scale moves, before all are sorted anew
PERCENTILE_STRIDE = 4  # every 4th row and column of the confidences: 1 part in 500 off, a tenth of the time


@dataclass(frozen=True, eq=False)
class Submap:
    """A prediction placed in the map.

    Args:
        prediction: what the network said.
        placement: map_from_window and its seam.
        shared: how many of its frames, from the front, an earlier submap holds too.
        index: number of the window in the map, from 0; -1 before it is inserted.
    """

    prediction: Prediction
    placement: Placement
    shared: int = 0
    index: int = -1


@dataclass(frozen=True, eq=False)
class PlacedFrame:
    """A frame with its depth and its pose in the map, ready to publish.

    Args:
        stamp_ns, frame_id: those of the source image.
        image: [h, w, 3] uint8 RGB on the grid of depth.
        depth: [h, w] float32 along the optical axis, map units (metres once scale is known); NaN where unknown.
        confidence: [h, w] float32, raw.
        K: [3, 3] intrinsics of this grid.
        map_from_cam: [4, 4] rigid pose of the optical frame.
        covariance: [6, 6] of that pose: x, y, z, rotation about x, y, z; map units and radians; fixed axes of the map.
        camera: index in the rig; 0 is the reference.
        views: what the rig's other cameras saw at that moment, by rising camera.
        step_covariance: [6, 6] of the way there from the frame before, likewise; LOST where that is not known.
        odometry_covariance: [6, 6] of the pose as odometry has it, which no loop corrects; None where that is the same.
        on_device: what the network's device still holds of it, for clouds; None on a processor.
    """

    stamp_ns: int
    frame_id: str
    image: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    K: np.ndarray
    map_from_cam: np.ndarray
    covariance: np.ndarray
    camera: int = 0
    views: tuple[PlacedFrame, ...] = ()
    step_covariance: np.ndarray = field(default_factory=LOST.copy)
    odometry_covariance: np.ndarray | None = None
    on_device: DeviceFrame | None = None


@dataclass(frozen=True, eq=False)
class Update:
    """What one window adds to the map.

    Args:
        frames: the new frames, oldest first; each stamp appears in one update only.
        window_stamps_ns, map_from_window_cams: stamps and poses [S, 4, 4] of all S frames of the window,
            shared ones re-estimated.
        map_from_window, seam: the window's place and how well it fits.
        index: number of the window, from 0.
        metric: whether lengths are metres.
        times: seconds by stage.
        scale: how far metres are known.
        map_from_odom: [4, 4] rigid; where our own odometry lies in the map, output units.
        moved_path: where the poses published before lie since a loop was closed, by stamp; None where they stay.
        loop: a pair of places that was looked at closely; None in most windows.
        output_from_before: where everything published before lies now that the scale has changed; None where it stays.
    """

    frames: tuple[PlacedFrame, ...]
    window_stamps_ns: tuple[int, ...]
    map_from_window_cams: np.ndarray
    map_from_window: Sim3
    seam: Seam
    index: int
    metric: bool
    times: StageTimes = field(default_factory=StageTimes)
    scale: ScaleReport = field(default_factory=ScaleReport)
    output_from_before: Sim3 | None = None
    map_from_odom: np.ndarray = field(default_factory=lambda: np.eye(4))
    moved_path: dict[int, np.ndarray] | None = None
    loop: LoopReport | None = None


class Map:
    """The submaps so far, the path through them, and a cloud of their points, all of bounded size."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._map_from_first_camera = BODY_FROM_OPTICAL
        self.metres_per_unit = config.scale.factor
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next window starts a new map at map_from_first_camera."""
        self.submaps: deque[Submap] = deque(maxlen=self.config.map.map_max_submaps)
        self.trail = Trail(self.config.loop.max_windows)
        self.latest: Submap | None = None  # the last with a pose: what the next window is placed on
        self.metres_per_unit = self.config.scale.factor  # settings are in metres, the map is not
        self.levelling = np.eye(4)  # turn of the whole map that brings measured up to its z
        self.voxels = self._new_voxels()
        self._windows = 0
        self._map_from_cam: np.ndarray | None = None  # of the newest frame with a pose
        self._uncertainty = Uncertainty(self.config.alignment.max_frames, self.config.loop.max_windows)

    @property
    def map_from_first_camera(self) -> np.ndarray:
        """[4, 4] rigid pose, in map units, at which a map's first camera stands.

        By default the axes of a robot's body (REP 103: x forward, z up) with the origin in the camera. A node that
        knows where its camera is mounted sets base_from_camera here, so that the map starts at the robot's base.
        """
        return self._map_from_first_camera

    @map_from_first_camera.setter
    def map_from_first_camera(self, map_from_camera: np.ndarray) -> None:
        if self._windows:
            raise RuntimeError('map_from_first_camera must be set before the first window; reset the map to move it')
        self._map_from_first_camera = np.array(map_from_camera, dtype=np.float64)

    @property
    def map_from_first_window(self) -> Sim3:
        """The place of the first window: map_from_first_camera, made level; its unit is that of the map."""
        return Sim3.from_rigid(self.levelling @ self._map_from_first_camera)

    def insert(self, submap: Submap) -> Update:
        """Add a placed window: its new frames to the path, their points to the cloud.

        Where the network gave no pose, a frame stays at the last one known, with the covariance of a lost camera; its
        depth is unknown.
        """
        submap = dataclasses.replace(submap, index=self._windows)
        prediction, seam = submap.prediction, submap.placement.seam
        map_from_cams = self._map_from_cams(submap)
        covariances = self._covariances(submap, map_from_cams)
        metres_per_window_unit = self.metres_per_unit * submap.placement.map_from_window.scale
        bounds = trusted(prediction, metres_per_window_unit, self.config.cloud)
        new = range(submap.shared, len(prediction.stamps_ns))
        is_valid = validity(prediction, bounds, submap.shared)
        frames = tuple(
            self._place(submap, i, map_from_cams[i], covariance, is_known, bounds)
            for i, covariance, is_known in zip(new, covariances, is_valid, strict=True)
        )
        frames = _with_views(frames, submap, self.config.cloud, metres_per_window_unit)
        for frame in self._lasting(frames, submap):
            self.voxels.insert(*self._points(frame), submap.index)
        self._remember_way(submap, map_from_cams)
        update = Update(
            frames=frames,
            window_stamps_ns=prediction.stamps_ns,
            map_from_window_cams=map_from_cams,
            map_from_window=submap.placement.map_from_window,
            seam=seam,
            index=submap.index,
            metric=False,
        )
        self._windows += 1
        if prediction.on_device:  # the map remembers more windows than a device has room for
            submap = dataclasses.replace(submap, prediction=dataclasses.replace(prediction, on_device={}))
        self.submaps.append(submap)
        if prediction.is_posed.any():
            self.latest = submap
        return update

    @property
    def path(self) -> list[tuple[int, np.ndarray]]:
        """Stamps and poses map_from_cam of the last frames, as far as they are known now."""
        stamps, poses = self.trail.poses(self.config.map.path_max_size)
        return list(zip(stamps.tolist(), poses, strict=True))

    @property
    def newest(self) -> tuple[int, np.ndarray]:
        """Stamp and pose map_from_cam of the last frame."""
        stamps, poses = self.trail.poses(1)
        return int(stamps[-1]), poses[-1]

    def joint_deviations(self) -> np.ndarray | None:
        """[7] how far the joint of the window inserted last may be off: see Uncertainty."""
        return self._uncertainty.joint_deviations(self.submaps[-1])

    def move(self, map_from_windows: Mapping[int, Sim3]) -> dict[int, Sim3]:
        """Put windows elsewhere, as a solved graph has them: the way and the next seam with them; not yet the points.

        Returns:
            How each window moved, new_from_old in the map.
        """
        places = self.trail.map_from_windows
        moves = {index: place @ places[index].inverse() for index, place in map_from_windows.items() if index in places}
        self.trail.move(map_from_windows)
        self.submaps = deque((_moved(one, map_from_windows) for one in self.submaps), maxlen=self.submaps.maxlen)
        if self.latest is not None and self.latest.index in moves:
            new_from_old = moves[self.latest.index]
            self.latest = _moved(self.latest, map_from_windows)
            self._uncertainty.move(new_from_old)
            if self._map_from_cam is not None:
                self._map_from_cam = new_from_old.transform_pose(self._map_from_cam)
        return moves

    def learn_loop(self, old: int, new: int, loop: Drift) -> None:
        """A loop that was closed between windows, and what it errs by in the frame of the old one: see Uncertainty."""
        places = self.trail.map_from_windows
        if self.latest is not None and self.latest.index == new and old in places:
            self._uncertainty.close(old, places[old], new, places[new], loop)

    def take_points(self, moved: VoxelMap, since: int) -> None:
        """Go on with a cloud that was moved beside the stream, and the points that came after point number `since`."""
        moved.insert(*self.voxels.points_since(since))
        self.voxels = moved
        self.rescale(self.metres_per_unit)

    def _remember_way(self, submap: Submap, map_from_cams: np.ndarray) -> None:
        is_known = submap.prediction.is_posed
        fixed_to = submap if is_known.any() or self.latest is None else self.latest  # what is held moves with that
        self.trail.add(
            fixed_to.index,
            fixed_to.placement.map_from_window,
            submap.prediction.stamps_ns,
            map_from_cams,
            is_known,
            submap.shared,
        )

    def withdraw_latest(self) -> None:
        """Take back the window that the next was to be placed on: it was outvoted, and its points leave the cloud."""
        if self.latest is not None:
            self.voxels = self.voxels.without(self.latest.index)
            self.trail.doubt(self.latest.index)

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """The cloud so far, one point a voxel, the oldest first: [N, 3] float32 in the map and [N, 3] uint8 RGB."""
        return self.voxels.points()

    def reconfigure(self, config: Config) -> None:
        """Take settings that may change while running; a new voxel size thins what is there."""
        voxel_size, self.config = self.config.cloud.voxel_size, config
        if config.cloud.voxel_size != voxel_size:
            self._sort_anew()

    def rescale(self, metres_per_unit: float) -> None:
        """Take over how long a unit of the map is; where it was another by far, the cloud is thinned to that."""
        self.metres_per_unit = metres_per_unit
        if abs(self.voxels.voxel_size / self._voxel_size - 1) > VOXEL_SLACK:
            self._sort_anew()

    @property
    def _voxel_size(self) -> float:
        """Edge of a voxel in map units."""
        return self.config.cloud.voxel_size / self.metres_per_unit

    def _new_voxels(self) -> VoxelMap:
        return VoxelMap(self._voxel_size, self.config.map.map_max_points)

    def _sort_anew(self) -> None:
        before, self.voxels = self.voxels, self._new_voxels()
        self.voxels.insert(*before.points(), before.owners())

    def _map_from_cams(self, submap: Submap) -> np.ndarray:
        """[S, 4, 4] poses of the window's cameras in the map, always finite."""
        map_from_cams = submap.placement.map_from_window.transform_pose(submap.prediction.window_from_cam)
        known = self._map_from_cam
        if known is None:
            known = self.levelling @ self._map_from_first_camera
        for i, is_posed in enumerate(submap.prediction.is_posed):
            if is_posed:
                known = map_from_cams[i]
            else:
                map_from_cams[i] = known
        return map_from_cams

    def _covariances(self, submap: Submap, map_from_cams: np.ndarray) -> list[FrameCovariance]:
        """Of each new frame, grown from those before."""
        posed = np.flatnonzero(submap.prediction.is_posed)
        if len(posed):
            self._map_from_cam = map_from_cams[posed[-1]]
        return self._uncertainty.place(submap, self.latest, map_from_cams)

    def _place(
        self,
        submap: Submap,
        i: int,
        map_from_cam: np.ndarray,
        covariance: FrameCovariance,
        is_valid: np.ndarray,
        bounds: Bounds,
    ) -> PlacedFrame:
        prediction, scale = submap.prediction, submap.placement.map_from_window.scale
        depth = np.where(is_valid, prediction.depth[i] * np.float32(scale), np.float32('nan'))
        on_device = prediction.device_frame(i) if prediction.is_posed[i] else None
        return PlacedFrame(
            stamp_ns=prediction.stamps_ns[i],
            frame_id=prediction.frame_ids[i],
            image=prediction.image[i],
            depth=depth,
            confidence=prediction.confidence[i],
            K=prediction.K[i],
            map_from_cam=map_from_cam,
            on_device=None if on_device is None else on_device.placed(scale, depth, bounds),
            covariance=covariance.pose,
            step_covariance=covariance.step,
            odometry_covariance=covariance.odometry,
        )

    def _lasting(self, frames: tuple[PlacedFrame, ...], submap: Submap) -> Iterator[PlacedFrame]:
        """Frames as the map keeps them: where mask_moving says so, without what has moved."""
        if not self.config.mask.moving:
            yield from frames
            return
        for frame, moved in zip(frames, moving_pixels(submap.prediction, submap.shared), strict=True):
            yield dataclasses.replace(frame, depth=np.where(moved, np.float32('nan'), frame.depth))

    def _points(self, frame: PlacedFrame) -> tuple[np.ndarray, np.ndarray]:
        """[N, 3] float32 points of all cameras in the map and their [N, 3] colours, as dense as the voxels need."""
        if not frame.views:
            return self._points_of(frame)
        xyz, rgb = zip(*(self._points_of(one) for one in (frame, *frame.views)), strict=True)
        return np.concatenate(xyz), np.concatenate(rgb)

    def _points_of(self, frame: PlacedFrame) -> tuple[np.ndarray, np.ndarray]:
        stride = self.config.cloud.cloud_stride
        depth, image = frame.depth[::stride, ::stride], frame.image[::stride, ::stride]
        v, u = np.nonzero(_needed(depth, self._voxel_size * frame.K[0, 0] / stride))
        points = unproject_pixels(u, v, depth[v, u], frame.K / [[stride], [stride], [1.0]])
        return move_points(frame.map_from_cam, points), image[v, u]


def _moved(submap: Submap, map_from_windows: Mapping[int, Sim3]) -> Submap:
    if submap.index not in map_from_windows:
        return submap
    placement = dataclasses.replace(submap.placement, map_from_window=map_from_windows[submap.index])
    return dataclasses.replace(submap, placement=placement)


def trusted(prediction: Prediction, scale: float, config: CloudConfig) -> Bounds:
    """Which depths of a window are to be trusted, by confidence and range, in its units.

    Args:
        prediction: a window.
        scale: metres per window unit, as far as metres are known.
        config: thresholds; the percentile is over the decoded pixels of this window.
    """
    sampled = prediction.confidence[:, ::PERCENTILE_STRIDE, ::PERCENTILE_STRIDE]
    sampled = sampled[np.isfinite(sampled)]
    least = np.percentile(sampled, config.confidence_percentile) if sampled.size else 0.0
    farthest = config.max_depth if config.max_depth > 0 else np.inf
    return Bounds(float(max(least, config.confidence_threshold)), config.min_depth / scale, farthest / scale)


def validity(prediction: Prediction, bounds: Bounds, start: int = 0) -> np.ndarray:
    """[S - start, h, w] whether a depth is to be trusted, in a frame with a pose; frames before start are not asked."""
    depth = prediction.depth[start:]
    is_valid = prediction.confidence[start:] >= bounds.confidence
    is_valid &= prediction.is_posed[start:, None, None]
    # NaN compares false: unknown stays unknown
    return is_valid & (depth > 0) & (depth >= bounds.nearest) & (depth < bounds.farthest)


def _with_views(
    frames: tuple[PlacedFrame, ...], submap: Submap, config: CloudConfig, metres_per_window_unit: float
) -> tuple[PlacedFrame, ...]:
    """The new frames of a window with what other cameras saw; nothing is known where the frame has no pose."""
    map_from_window, main = submap.placement.map_from_window, submap.prediction
    views: dict[int, list[PlacedFrame]] = {}
    for view in main.views:
        seen = view.prediction
        is_valid = validity(seen, trusted(seen, metres_per_window_unit, config))
        map_from_cams = map_from_window.transform_pose(seen.window_from_cam)
        for i, row in enumerate(view.rows):
            if row < submap.shared:
                continue
            is_known = is_valid[i] & main.is_posed[row]
            placed = PlacedFrame(
                stamp_ns=seen.stamps_ns[i],
                frame_id=seen.frame_ids[i],
                image=seen.image[i],
                depth=np.where(is_known, seen.depth[i] * np.float32(map_from_window.scale), np.float32('nan')),
                confidence=seen.confidence[i],
                K=seen.K[i],
                map_from_cam=map_from_cams[i] if seen.is_posed[i] else frames[row - submap.shared].map_from_cam,
                covariance=frames[row - submap.shared].covariance,
                camera=view.camera,
            )
            views.setdefault(row, []).append(placed)
    if not views:
        return frames
    return tuple(
        dataclasses.replace(frame, views=tuple(views.get(row, ()))) for row, frame in enumerate(frames, submap.shared)
    )


def _needed(depth: np.ndarray, pixels_at_unit_depth: float) -> np.ndarray:
    """[h, w] which pixels to keep so that neighbours are at most half a voxel apart, where the grid is as fine as that.

    A pixel of the grid of every 2nd, 4th ... pixel is needed where the next coarser grid would leave gaps.

    Args:
        depth: [h, w], NaN where unknown.
        pixels_at_unit_depth: pixels along a voxel's edge at depth 1.
    """
    needed = np.zeros(depth.shape, dtype=bool)
    for step in (1, 2, 4, 8):
        coarse = depth[::step, ::step]
        needed[::step, ::step] |= 4 * step * coarse > pixels_at_unit_depth
    needed[::16, ::16] |= np.isfinite(depth[::16, ::16])
    return needed
