"""Several cameras on one robot: views of one moment in one window, held to where the cameras are mounted.

The network sees the images of all cameras together and guesses every pose anew. Those of one moment are no guess: the
mounts are known. So each moment gets one pose of the rig, the mean of what its cameras say, and every camera stands on
it as it is mounted. The distances between mounts, known in metres, tell the window's unit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import invert_rigid, nearest_rotation, rotation_angle
from vggt_ros.core.prediction import Prediction, View
from vggt_ros.core.window import Window

MAX_TURN = math.radians(15.0)  # a view turned further than this off its mount was not understood
MAX_SPREAD = 0.4  # relative, of the unit over moments and cameras; beyond, the baseline was not seen (benchmarks.rig)
MAX_ASTRAY = math.radians(30.0)  # between a baseline and where the network sees it lead; chance would give 90
MIN_BASELINE = 0.005  # metres; closer cameras tell no unit
ITERATIONS = 10  # of reweighting; the cameras are few, and most agree


@dataclass(frozen=True)
class RigFit:
    """How well a window fits the mounts.

    Args:
        metres_per_unit: of the window's unit; NaN where the baselines were not seen.
        error: relative standard error of it; NaN likewise.
        turn_deg: median angle between a camera's mount and what the network says of it, by camera.
        shift: median distance of the same in metres, by camera; NaN without a unit.
    """

    metres_per_unit: float
    error: float
    turn_deg: Mapping[int, float]
    shift: Mapping[int, float]

    @property
    def misjudged(self) -> tuple[int, ...]:
        """Cameras whose view the network did not understand; their depth is not used."""
        return tuple(camera for camera, turn in self.turn_deg.items() if not turn <= math.degrees(MAX_TURN))


class Rig:
    """Where the cameras of a robot are mounted.

    Args:
        base_from_cams: [4, 4] rigid pose of each camera's optical frame on the robot, metres, by camera; with 0, the
            reference.
    """

    def __init__(self, base_from_cams: Mapping[int, np.ndarray]) -> None:
        self.base_from_cams = dict(base_from_cams)
        ref_from_base = invert_rigid(self.base_from_cams[0])
        self.ref_from_cams = {camera: ref_from_base @ pose for camera, pose in self.base_from_cams.items()}

    def hold(self, prediction: Prediction) -> tuple[Prediction, RigFit]:
        """The same window with all cameras of a moment as they are mounted.

        A view that the network did not understand keeps its place on the rig and loses its depth. Where the network
        did not see the baselines, as with far scenes, a camera stands where it is seen in the median.
        """
        said = {view.camera: _ref_from_cam(prediction, view) for view in prediction.views}
        turns = {c: rotation_angle(_R(self.ref_from_cams[c]).T @ _R(one)) for c, one in said.items()}
        turn_deg = {c: math.degrees(_median(one)) for c, one in turns.items()}
        trusted = [c for c, turn in turn_deg.items() if turn <= math.degrees(MAX_TURN)]
        metres_per_unit, error = self._measure_unit({c: said[c] for c in trusted})
        mounts = {c: self._mount(c, said[c], metres_per_unit) for c in said}
        off = {c: _median(np.linalg.norm(_t(one) - _t(mounts[c]), axis=-1)) for c, one in said.items()}
        shift = {c: distance * metres_per_unit for c, distance in off.items()}
        fit = RigFit(metres_per_unit, error, turn_deg, shift)
        held = _with_rig(prediction, mounts, trusted)
        return dataclasses.replace(held, metres_per_unit=metres_per_unit, metres_error=error), fit

    def _measure_unit(self, said: Mapping[int, np.ndarray]) -> tuple[float, float]:
        """Metres in the window's unit and the relative standard error of that; NaN, NaN where nothing tells it."""
        ratios, weights = [], []
        for camera, poses in said.items():
            baseline = _t(self.ref_from_cams[camera])
            length = float(np.linalg.norm(baseline))
            if length >= MIN_BASELINE:
                if _angle(_median_shift(poses), baseline) > MAX_ASTRAY:
                    return math.nan, math.nan
                along = _t(poses) @ baseline / length**2  # units in a metre, by moment
                ratios.append(along[np.isfinite(along)])
                weights.append(np.full(len(ratios[-1]), length**2))
        if not ratios or not sum(map(len, ratios)):
            return math.nan, math.nan
        values, weight = np.concatenate(ratios), np.concatenate(weights)
        unit = _weighted_median(values, weight)
        if unit <= 0:
            return math.nan, math.nan
        spread = 1.4826 * _weighted_median(np.abs(values / unit - 1), weight)  # of a normal distribution: its deviation
        return (1 / unit, spread / math.sqrt(len(values))) if spread <= MAX_SPREAD else (math.nan, math.nan)

    def _mount(self, camera: int, said: np.ndarray, metres_per_unit: float) -> np.ndarray:
        """[4, 4] ref_from_cam in window units."""
        mount = self.ref_from_cams[camera].copy()
        if math.isfinite(metres_per_unit):
            mount[:3, 3] /= metres_per_unit
            return mount
        mount[:3, 3] = _median_shift(said)
        return mount


def all_views(window: Window) -> tuple[list[Frame], list[int]]:
    """The images of all cameras of a window, moment by moment, and for each the row of its moment."""
    pairs = [(one, row) for row, frame in enumerate(window.frames) for one in (frame, *frame.views)]
    return [frame for frame, _ in pairs], [row for _, row in pairs]


def split_cameras(flat: Prediction, frames: list[Frame], rows: list[int]) -> Prediction:
    """A prediction of the images of all cameras, as all_views gives them -> that of the reference, with its views."""
    cameras = np.array([frame.camera for frame in frames])
    if not cameras.any():
        return flat
    views = tuple(
        View(int(camera), tuple(rows[i] for i in np.flatnonzero(cameras == camera)), _take(flat, cameras == camera))
        for camera in np.unique(cameras[cameras > 0])
    )
    return dataclasses.replace(_take(flat, cameras == 0), views=views)


def _take(flat: Prediction, chosen: np.ndarray) -> Prediction:
    """Some frames of a prediction."""
    indices = np.flatnonzero(chosen)
    return dataclasses.replace(
        flat,
        stamps_ns=tuple(flat.stamps_ns[i] for i in indices),
        frame_ids=tuple(flat.frame_ids[i] for i in indices),
        **{
            name: getattr(flat, name)[indices]
            for name in ('image', 'cam_from_window', 'K', 'K_network', 'depth', 'confidence')
        },
    )


def _ref_from_cam(prediction: Prediction, view: View) -> np.ndarray:
    """[R, 4, 4] as the network says, in window units; NaN where it says nothing."""
    return prediction.cam_from_window[list(view.rows)] @ view.prediction.window_from_cam


def _with_rig(prediction: Prediction, mounts: Mapping[int, np.ndarray], trusted: list[int]) -> Prediction:
    """One pose for each moment, the mean of what the trusted cameras say, and all cameras on it."""
    window_from_ref = prediction.window_from_cam.copy()
    for row in range(len(window_from_ref)):
        if not prediction.is_posed[row]:
            continue  # the reference saw nothing: whether the others did is not to be known
        said = [window_from_ref[row]]
        for view in prediction.views:
            if view.camera in trusted and row in view.rows:
                pose = view.prediction.window_from_cam[view.rows.index(row)]
                said.append(pose @ invert_rigid(mounts[view.camera]))
        window_from_ref[row] = _mean_pose(np.stack(said))
    if prediction.is_posed[0]:  # the window's frame is that of its first camera
        window_from_ref = invert_rigid(window_from_ref[0]) @ window_from_ref
        window_from_ref[0] = np.eye(4)
    ref_from_window = invert_rigid(window_from_ref)
    views = tuple(_hold_view(view, ref_from_window, mounts[view.camera], trusted) for view in prediction.views)
    return dataclasses.replace(prediction, cam_from_window=ref_from_window, views=views)


def _hold_view(view: View, ref_from_window: np.ndarray, mount: np.ndarray, trusted: list[int]) -> View:
    cam_from_window = invert_rigid(mount) @ ref_from_window[list(view.rows)]
    depth = view.prediction.depth if view.camera in trusted else np.full_like(view.prediction.depth, np.nan)
    held = dataclasses.replace(view.prediction, cam_from_window=cam_from_window, depth=depth)
    return dataclasses.replace(view, prediction=held)


def _mean_pose(poses: np.ndarray) -> np.ndarray:
    """[N, 4, 4] rigid poses -> their mean, in which a pose far from the others weighs less; those of NaN are left out.

    Source: chordal mean, Hartley et al., Rotation Averaging, IJCV 2013, sec. 5.3; reweighted by distance.
    """
    poses = poses[np.isfinite(poses).all(axis=(1, 2))]
    weight = np.ones(len(poses))
    mean = np.eye(4)
    for _ in range(ITERATIONS):
        mean[:3, :3] = nearest_rotation(np.tensordot(weight, _R(poses), axes=1))
        mean[:3, 3] = weight @ _t(poses) / weight.sum()
        if len(poses) < 3:
            break  # nobody can be outvoted
        off = rotation_angle(_R(poses).swapaxes(1, 2) @ mean[:3, :3])
        apart = np.linalg.norm(_t(poses) - mean[:3, 3], axis=1)
        weight = 1 / (1 + (off / (1e-6 + np.median(off))) ** 2 + (apart / (1e-9 + np.median(apart))) ** 2)
    return mean


def _R(pose: np.ndarray) -> np.ndarray:  # noqa: N802
    return pose[..., :3, :3]


def _t(pose: np.ndarray) -> np.ndarray:
    return pose[..., :3, 3]


def _median_shift(poses: np.ndarray) -> np.ndarray:
    """[3] of [R, 4, 4] poses, those of NaN left out; 0 without any."""
    known = _t(poses)[np.isfinite(poses).all(axis=(1, 2))]
    return np.median(known, axis=0) if len(known) else np.zeros(3)


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    """Between two vectors, radians."""
    return math.atan2(float(np.linalg.norm(np.cross(a, b))), float(a @ b))


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def _weighted_median(values: np.ndarray, weight: np.ndarray) -> float:
    order = np.argsort(values)
    below = np.cumsum(weight[order])
    return float(values[order[np.searchsorted(below, 0.5 * below[-1])]])
