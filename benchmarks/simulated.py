"""A network that knows the depth and poses of a real RGB-D sequence, and errs as a good network does."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from vggt import StreamingVGGT
from vggt.preprocessing import ImageTransform, resize_keeping_aspect
from vggt.weights import load_vggt
from vggt_ros.core.errors import SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import invert_rigid, move_points, unproject_pixels
from vggt_ros.core.loops.retrieval import describe, thin_patches
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.trajectory import Trajectory
from vggt_ros.core.window import Window
from vggt_ros.recorded.source import open_source
from vggt_ros.results.depth_error import DepthFolder
from vggt_ros.results.tum import read_tum

WIDTH, PATCH = 112, 14  # the grid; alignment looks at 8192 points of a seam, and four frames have 37632 of this
LARGEST_SCALE = 3.0  # a window's unit is a third of a metre to three; systems over VGGT report scales of 1.6 to 3.1
SEEN = 0.1  # of its depth: a point nearer than this to what a frame sees there is what it sees
SECOND_LOOKS = 1_000_000  # draws for answers that are no part of the stream are counted from here
GROSS_TURN_DEG, GROSS_DEPTH = 30.0, 0.5  # of an outlier window: rms turn of a camera, and of the log of a frame's depth


@dataclass(frozen=True)
class Errors:
    """How wrong the simulated network is; every error is drawn anew for each window.

    Args:
        depth: standard deviation of a smooth factor on depth, at 3x4 knots over each frame, cubic between them.
        rotation_deg: rms turn of a camera.
        translation: rms shift of a camera, as a share of the window's extent (longest side of the box of its centres).
        focal: standard deviation of the log of the focal length, alike for all frames of a window.
        outliers: share of windows that are grossly wrong: cameras turned by 30 degrees and shifted by the extent,
            depth of each frame off by a factor of its own and at its knots by a half.
    """

    depth: float = 0.03
    rotation_deg: float = 0.3
    translation: float = 0.01
    focal: float = 0.02
    outliers: float = 0.02


class RgbdSequence:
    """Frames of a folder with their true depth on the network's grid and their true poses.

    Args:
        folder: camera.json, frames.txt, images, 16-bit depth images, trajectory_tum.txt.

    Raises:
        SourceError: another layout, or a frame without depth or pose.
    """

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = folder.name, folder
        self.frames: list[Frame] = list(open_source(folder))
        self.reference = read_tum(folder / 'trajectory_tum.txt')
        self._index = {int(stamp): i for i, stamp in enumerate(self.reference.stamps_ns)}
        measured = DepthFolder(folder)
        self._depth, self._image = {}, {}
        for frame in self.frames:
            if frame.K is None or frame.stamp_ns not in self._index:
                raise SourceError(f'{folder} has no pose or no calibration for the frame of stamp {frame.stamp_ns}')
            model = resize_keeping_aspect(frame.image, WIDTH, PATCH)
            self.transform = model.transform
            self.K = model.transform.K_to_model(frame.K)
            depth = measured.sample(frame.stamp_ns, 0, self.K, model.transform.model_size)
            if depth is None:
                raise SourceError(f'{folder} has no depth image for the frame of stamp {frame.stamp_ns}')
            self._depth[frame.stamp_ns] = depth
            self._image[frame.stamp_ns] = (model.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)

    def __len__(self) -> int:
        return len(self.frames)

    def truth(self, stamps_ns: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """world_from_cam [S, 4, 4], depth [S, h, w] in metres and images [S, h, w, 3] of some frames."""
        poses = self.reference.world_from_cam[[self._index[stamp] for stamp in stamps_ns]]
        return poses, np.stack([self._depth[s] for s in stamps_ns]), np.stack([self._image[s] for s in stamps_ns])


class Sequence(Protocol):
    """Frames whose depth and poses are known."""

    name: str
    frames: list[Frame]
    K: np.ndarray
    transform: ImageTransform
    reference: Trajectory

    def truth(self, stamps_ns: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """world_from_cam [S, 4, 4], depth [S, h, w] in metres and images [S, h, w, 3] of some frames."""


class Looks:
    """What the shipped network sees in each frame of a sequence: its patch tokens, and descriptors made of them."""

    def __init__(self, sequence: Sequence) -> None:
        network = StreamingVGGT(load_vggt('nano'))
        patch, width = network.config.patch_size, network.config.image_size
        self._patches, self._descriptors = {}, {}
        for frame in sequence.frames:
            image = resize_keeping_aspect(frame.image, width, patch).image
            grid = image.shape[1] // patch, image.shape[2] // patch
            tokens = network.encode(image[None]).numpy()
            self._patches[frame.stamp_ns] = thin_patches(tokens, grid)[0]
            self._descriptors[frame.stamp_ns] = describe(tokens, grid)[0]

    def patches(self, stamps_ns: tuple[int, ...]) -> np.ndarray:
        """[S, rows, columns, C] int8."""
        return np.stack([self._patches[stamp] for stamp in stamps_ns])

    def descriptors(self, stamps_ns: tuple[int, ...]) -> np.ndarray:
        """[S, D]."""
        return np.stack([self._descriptors[stamp] for stamp in stamps_ns])


@dataclass(eq=False)
class SimulatedPredictor:
    """Answers a window with the truth, spoilt, in a similarity frame of its own.

    A random turn and shift of that frame would leave no trace: a prediction stands at its first camera. The scale, and
    the first camera's own error, do.

    Args:
        sequence: the truth.
        seed: of all errors and scales; the same seed gives the same windows of a sequence.
        errors: how wrong it is.
        looks: of the frames, for loop closure; None leaves places unknown.
        is_fooled: sees the two visits of a window apart from the stream at one place, wherever they were.
        predictions, is_outlier, scales: what was answered so far, one entry a window; units a metre. A second look at a
            window that was refused counts in `again` alone.
    """

    sequence: Sequence
    seed: int
    errors: Errors = Errors()
    looks: Looks | None = None
    is_fooled: bool = False
    predictions: list[Prediction] = field(default_factory=list)
    is_outlier: list[bool] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    again: int = 0

    def reset(self) -> None:
        """Nothing is kept between windows."""

    def predict(self, window: Window) -> Prediction:
        """Depth and cameras of a window."""
        stamps_ns = tuple(frame.stamp_ns for frame in window.frames)
        if self.predictions and _is_second_look(stamps_ns, self.predictions[-1].stamps_ns):
            self.again += 1
            return self._answer(stamps_ns, window, self._rng(SECOND_LOOKS + self.again))[0]
        answer, is_outlier, scale = self._answer(stamps_ns, window, self._rng(len(self.predictions)))
        self.predictions.append(answer)
        self.is_outlier.append(is_outlier)
        self.scales.append(scale)
        return answer

    def predict_apart(self, window: Window) -> Prediction:
        """The same for two visits of a place, which are no part of the stream."""
        self.again += 1
        stamps_ns = tuple(frame.stamp_ns for frame in window.frames)
        return self._answer(stamps_ns, window, self._rng(SECOND_LOOKS + self.again))[0]

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([zlib.crc32(self.sequence.name.encode()), self.seed, number])

    def _answer(
        self, stamps_ns: tuple[int, ...], window: Window, rng: np.random.Generator
    ) -> tuple[Prediction, bool, float]:
        """What the network says, whether that is grossly wrong, and its unit."""
        poses, depth, images = self.sequence.truth(stamps_ns)
        if self.is_fooled:
            poses = _at_one_place(poses, stamps_ns)
        scale = LARGEST_SCALE ** rng.uniform(-1, 1)
        focal = math.exp(rng.normal(0, self.errors.focal))
        is_outlier = bool(rng.random() < self.errors.outliers)
        poses = self._spoil_poses(rng, poses, is_outlier)
        poses[:, :3, 3] *= scale
        cam_from_window = invert_rigid(poses) @ poses[0]
        cam_from_window[0] = np.eye(4)  # exactly, not but for rounding
        depth = depth * scale * self._depth_factors(rng, depth.shape, is_outlier)
        K = np.tile(self.sequence.K, (len(stamps_ns), 1, 1))
        K[:, [0, 1], [0, 1]] *= focal
        prediction = Prediction(
            stamps_ns=stamps_ns,
            frame_ids=tuple(frame.frame_id for frame in window.frames),
            image=images,
            cam_from_window=cam_from_window,
            K=K,
            K_network=K,
            depth=depth.astype(np.float32),
            confidence=np.where(np.isfinite(depth), np.float32(2), np.float32('nan')),
            transform=self.sequence.transform,
            descriptors=self.looks.descriptors(stamps_ns) if self.looks else None,
            patches=self.looks.patches(stamps_ns) if self.looks else None,
        )
        return prediction, is_outlier, scale

    def _spoil_poses(self, rng: np.random.Generator, poses: np.ndarray, is_outlier: bool) -> np.ndarray:
        """[S, 4, 4] true poses -> as the network sees them, metres."""
        poses, count = poses.copy(), len(poses)
        extent = float(np.ptp(poses[:, :3, 3], axis=0).max())
        turn = math.radians(GROSS_TURN_DEG if is_outlier else self.errors.rotation_deg)
        shift = extent if is_outlier else self.errors.translation * extent
        turns = Rotation.from_rotvec(rng.normal(0, turn / math.sqrt(3), (count, 3)))
        poses[:, :3, :3] = poses[:, :3, :3] @ turns.as_matrix()
        poses[:, :3, 3] += rng.normal(0, shift / math.sqrt(3), (count, 3))
        return poses

    def _depth_factors(self, rng: np.random.Generator, shape: tuple[int, ...], is_outlier: bool) -> np.ndarray:
        """[S, h, w] smooth positive factors."""
        count, height, width = shape
        knots = rng.normal(0, GROSS_DEPTH if is_outlier else self.errors.depth, (count, 3, 4))
        if is_outlier:
            knots += rng.normal(0, GROSS_DEPTH, (count, 1, 1))
        return np.exp([cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in knots])


def shared_view(sequence: Sequence, old_stamp_ns: int, new_stamp_ns: int) -> float:
    """Share of the points of one frame that another truly sees: in its picture, and with nothing before them."""
    poses, depth, _ = sequence.truth((old_stamp_ns, new_stamp_ns))
    v, u = np.nonzero(np.isfinite(depth[0]) & (depth[0] > 0))
    points = unproject_pixels(u, v, depth[0, v, u].astype(np.float64), sequence.K)
    x, y, z = move_points(invert_rigid(poses[1]) @ poses[0], points).T
    ahead = z > 1e-3
    column = np.round(sequence.K[0, 0] * x[ahead] / z[ahead] + sequence.K[0, 2]).astype(int)
    row = np.round(sequence.K[1, 1] * y[ahead] / z[ahead] + sequence.K[1, 2]).astype(int)
    inside = (column >= 0) & (column < depth.shape[2]) & (row >= 0) & (row < depth.shape[1])
    seen = depth[1, row[inside], column[inside]]
    with np.errstate(invalid='ignore'):
        return float((np.abs(seen - z[ahead][inside]) < SEEN * seen).sum() / max(len(u), 1))


def _is_second_look(stamps_ns: tuple[int, ...], last: tuple[int, ...]) -> bool:
    """Whether these are the newest frames of the last window once more, beside fewer old ones."""
    return len(stamps_ns) < len(last) and stamps_ns == last[-len(stamps_ns) :]


def _at_one_place(poses: np.ndarray, stamps_ns: tuple[int, ...]) -> np.ndarray:
    """Of two visits, told apart by the longest pause, the second moved to where the first was."""
    start = int(np.argmax(np.diff(stamps_ns))) + 1
    second = poses[0] @ invert_rigid(poses[start]) @ poses[start:]
    return np.concatenate([poses[:start], second])


def trajectory_of(placed: dict[int, np.ndarray]) -> Trajectory:
    """Poses by stamp -> a trajectory."""
    stamps_ns = sorted(placed)
    return Trajectory(np.array(stamps_ns, np.int64), np.stack([placed[stamp] for stamp in stamps_ns]))
