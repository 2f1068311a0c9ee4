"""Other sensors of a real RGB-D sequence, simulated or its own, for the benchmark of metric scale.

* odometry: the true way from frame to frame, each step's length off by 1 % and its turn by 1 % of itself (one standard
  deviation, independent, no bias in scale); the errors add up, so it drifts away as wheels do.
* depth: the sequence's own depth camera, each pixel off by another 1 %.
* height: a camera on a mast whose base -> camera is known, standing on the floor; only where the sequence shows one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.loops import RenderedWalk
from benchmarks.simulated import Errors, RgbdSequence, SimulatedPredictor
from vggt_ros.core.config import Config
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import invert_rigid, move_points, unproject_depth
from vggt_ros.core.metric.evidence import Evidence
from vggt_ros.core.metric.scale_report import ScaleReport
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import Predictor
from vggt_ros.core.trajectory import Trajectory
from vggt_ros.decode_sensors import sample_points
from vggt_ros.results.depth_error import DepthFolder

STEP_NOISE = 0.01  # of a step's length and turn
PIXEL_NOISE = 0.01  # of a pixel's depth
BASE = 'base_link'
FLOOR_BAND, FLOOR_SHARE = 0.03, 0.2  # metres about z = 0; of all measured points, to call that a floor
SOURCES = {'ours_odometry_scale': 'odometry', 'ours_depth_scale': 'depth', 'ours_height_scale': 'camera_height'}


class Mast:
    """base_from_cam of a camera whose place on the robot is known at every moment."""

    def __init__(self, optical_frame: str, base_from_cam: Callable[[int], np.ndarray]) -> None:
        self._optical_frame, self._base_from_cam = optical_frame, base_from_cam

    def find(self, target: str, source: str, stamp_ns: int) -> np.ndarray | None:
        """[4, 4] target_from_source."""
        if target == source:
            return np.eye(4)
        return self._base_from_cam(stamp_ns) if (target, source) == (BASE, self._optical_frame) else None


def run_metric(
    sequence: RgbdSequence, seed: int, errors: Errors, config: Config, method: str
) -> tuple[Trajectory, ScaleReport] | None:
    """The whole way in metres, as the map has it at the end; None where the sequence does not show what it takes.

    The predictions are those that the other methods get of this seed. No scale is fitted to anything.
    """
    return run_with(sequence, SimulatedPredictor(sequence, seed, errors), seed, config, method)


def run_with(
    sequence: RgbdSequence | RenderedWalk, predictor: Predictor, seed: int, config: Config, method: str
) -> tuple[Trajectory, ScaleReport] | None:
    """The same with any network; the seed is that of the other sensors."""
    source = SOURCES[method]
    config = config.with_values({'scale_source': source, 'base_frame': BASE})
    if source == 'camera_height' and floor_height(sequence) is None:
        return None
    evidence, speak = make_evidence(sequence, seed, config)
    pipeline = Pipeline(config, predictor, evidence)
    first = sequence.frames[0]
    base_from_cam = evidence.base_from_cam(first.frame_id, first.stamp_ns)
    assert base_from_cam is not None
    pipeline.map.map_from_first_camera = base_from_cam
    for frame in sequence.frames:
        speak(frame)
        pipeline.add_frame(frame)
    pipeline.flush()
    pipeline.finish()
    return Trajectory(*pipeline.trajectory()), pipeline.metres.report()


def make_evidence(
    sequence: RgbdSequence | RenderedWalk, seed: int, config: Config
) -> tuple[Evidence, Callable[[Frame], None]]:
    """Evidence of the sensor of config.scale.scale_source, and what makes it speak about each next frame."""
    source, frames, reference = config.scale.scale_source, sequence.frames, sequence.reference
    rng = np.random.default_rng([zlib.crc32(f'{sequence.name} {source}'.encode()), seed])
    pose_at = dict(zip(reference.stamps_ns.tolist(), reference.world_from_cam, strict=True))
    if source == 'camera_height':
        floor = floor_height(sequence) or 0.0
        mast = Mast(frames[0].frame_id, lambda stamp_ns: standing_on_floor(pose_at[stamp_ns], floor))
        return Evidence.of(config, mast), lambda frame: None
    evidence = Evidence.of(config, Mast(frames[0].frame_id, lambda stamp_ns: np.eye(4)))
    if source == 'odometry':
        wheels = iter(_drift(reference.world_from_cam, rng))

        def roll(frame: Frame) -> None:
            evidence.add_odometry(frame.stamp_ns, next(wheels))

        return evidence, roll
    depth_images = iter(_true_depth(sequence) if isinstance(sequence, RenderedWalk) else DepthFolder(sequence.folder))

    def look(frame: Frame) -> None:
        stamp, depth, K = next(depth_images)
        noisy = depth * rng.normal(1, PIXEL_NOISE, depth.shape).astype(np.float32)
        evidence.add_points(stamp, frame.frame_id, sample_points(noisy, K))

    return evidence, look


def _drift(world_from_cam: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """[4, 4] poses of an odometry whose steps err."""
    odom_from_cam = np.eye(4)
    for i, pose in enumerate(world_from_cam):
        if i:
            step = invert_rigid(world_from_cam[i - 1]) @ pose
            turn = Rotation.from_matrix(step[:3, :3]).as_rotvec() * rng.normal(1, STEP_NOISE)
            step[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
            step[:3, 3] *= rng.normal(1, STEP_NOISE)
            odom_from_cam = odom_from_cam @ step
        yield odom_from_cam


def _true_depth(walk: RenderedWalk) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for frame in walk.frames:
        yield frame.stamp_ns, walk.truth((frame.stamp_ns,))[1][0].astype(np.float32), walk.K


def floor_height(sequence: RgbdSequence | RenderedWalk) -> float | None:
    """Height of the floor in a world whose z is up; None where too little lies at one level below the cameras."""
    if isinstance(sequence, RenderedWalk):
        return 0.0  # its rooms stand on it
    poses, depth, _ = sequence.truth(tuple(frame.stamp_ns for frame in sequence.frames[::4]))
    clouds = [unproject_depth(one.astype(np.float64), sequence.K).reshape(-1, 3) for one in depth]
    z = np.concatenate([move_points(pose, cloud)[:, 2] for pose, cloud in zip(poses, clouds, strict=True)])
    z = z[np.isfinite(z)]
    near = z[np.abs(z) < FLOOR_BAND]
    return float(np.median(near)) if len(near) > FLOOR_SHARE * len(z) else None


def standing_on_floor(world_from_cam: np.ndarray, floor: float) -> np.ndarray:
    """[4, 4] pose of the camera in a level frame on the floor below it that faces where the camera does."""
    heading = np.arctan2(world_from_cam[1, 2], world_from_cam[0, 2])
    world_from_base = np.eye(4)
    world_from_base[:3, :3] = Rotation.from_euler('z', heading).as_matrix()
    world_from_base[:3, 3] = [*world_from_cam[:2, 3], floor]
    return invert_rigid(world_from_base) @ world_from_cam
