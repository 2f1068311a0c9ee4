"""A room with exact depth, a camera path through it, and a simulated network that knows both."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from vggt import VGGTConfig, VGGTOutput
from vggt.pose_encoding import encode_pose_encoding
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, Sim3, invert_rigid, rotation_angle
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.submap import PlacedFrame, Update
from vggt_ros.core.window import Window

HEIGHT, WIDTH = 36, 48
K = np.array([[40.0, 0.0, 23.5], [0.0, 40.0, 17.5], [0.0, 0.0, 1.0]])
FRAME_NS = 100_000_000
START_NS = 1_700_000_000_123_456_789  # a stamp that a float second cannot hold

# World axes like those of an optical frame: x right, y down, z forward; metres. The room is seen from inside.
ROOM = np.array([[-3.0, -1.5, -3.0], [3.0, 1.5, 3.0]])
BOXES = np.array([[[-1.0, 0.3, 1.0], [0.0, 1.5, 1.8]], [[1.2, -0.5, -2.0], [2.0, 1.5, -1.0]]])


def render(world_from_cam: np.ndarray, K: np.ndarray = K, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """[h, w] exact depth along the optical axis, float64, by slabs: nearest box entered or wall of the room left."""
    v, u = np.mgrid[: size[0], : size[1]]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(size)], axis=-1)
    direction, origin = rays @ world_from_cam[:3, :3].T, world_from_cam[:3, 3]
    with np.errstate(divide='ignore'):
        depth = np.maximum(*((ROOM - origin)[:, None, None] / direction)).min(axis=-1)
        for box in BOXES:
            slabs = (box - origin)[:, None, None] / direction
            enter, leave = np.minimum(*slabs).max(axis=-1), np.maximum(*slabs).min(axis=-1)
            depth = np.where((enter > 0) & (enter < leave), np.minimum(depth, enter), depth)
    return depth


def distance_to_surface(points: np.ndarray) -> np.ndarray:
    """[N] metres from world points [N, 3] to the nearest wall or box."""
    to_walls = np.abs(points[:, None] - ROOM).min(axis=(1, 2))
    outside = [np.maximum(np.maximum(box[0] - points, points - box[1]), 0) for box in BOXES]
    inside = [np.minimum(points - box[0], box[1] - points).min(axis=1) for box in BOXES]
    to_boxes = [np.where(i > 0, i, np.linalg.norm(o, axis=1)) for i, o in zip(inside, outside, strict=True)]
    return np.minimum(to_walls, np.min(to_boxes, axis=0))


def look(position: Iterable[float], yaw_deg: float, pitch_deg: float = 0.0) -> np.ndarray:
    """[4, 4] world_from_cam: at a place, turned to the right by yaw and up by pitch."""
    world_from_cam = np.eye(4)
    world_from_cam[:3, :3] = Rotation.from_euler('YX', [yaw_deg, pitch_deg], degrees=True).as_matrix()
    world_from_cam[:3, 3] = list(position)
    return world_from_cam


def walk(count: int) -> np.ndarray:
    """[count, 4, 4] world_from_cam: round the room on an ellipse, looking ahead and about, 6 degrees a frame."""
    angles = np.radians(6.0) * np.arange(count)
    return np.stack(
        [
            look([1.2 * np.sin(a), 0.2 * np.sin(3 * a), 0.8 * np.cos(a)], 90 + np.degrees(a), 10 * np.sin(2 * a))
            for a in angles
        ]
    )


def frames_of(world_from_cams: np.ndarray) -> list[Frame]:
    """A frame for each pose, 10 a second; pictures that only tell frames apart."""
    return [
        Frame(START_NS + i * FRAME_NS, np.full((HEIGHT, WIDTH, 3), i % 256, np.uint8), 'camera_optical', K)
        for i in range(len(world_from_cams))
    ]


def random_similarity(rng: np.random.Generator) -> Sim3:
    """A turn of any angle, a shift of metres, a scale from 1/3 to 3."""
    return Sim3(float(3 ** rng.uniform(-1, 1)), Rotation.random(random_state=rng).as_matrix(), rng.normal(0, 2, 3))


def predict_truth(
    world_from_cams: np.ndarray, window_from_world: Sim3, stamps_ns: Iterable[int] | None = None
) -> Prediction:
    """What a perfect network says about these cameras, in any similarity frame."""
    count = len(world_from_cams)
    depth = np.stack([render(pose) for pose in world_from_cams]) * window_from_world.scale
    return Prediction(
        stamps_ns=tuple(START_NS + i * FRAME_NS for i in range(count)) if stamps_ns is None else tuple(stamps_ns),
        frame_ids=('camera_optical',) * count,
        image=np.zeros((count, HEIGHT, WIDTH, 3), np.uint8),
        cam_from_window=invert_rigid(window_from_world.transform_pose(world_from_cams)),
        K=np.tile(K, (count, 1, 1)),
        K_network=np.tile(K, (count, 1, 1)),
        depth=depth.astype(np.float32),
        confidence=np.full(depth.shape, 2.0, np.float32),
    )


class SimulatedPredictor:
    """Knows the truth; answers each window from its first camera, at a random scale, spoilt on request.

    Args:
        world_from_cams: [N, 4, 4] of the frames frames_of makes.
        seed: of the scales.
        spoil: changes the prediction of a window, given its number.
    """

    def __init__(
        self,
        world_from_cams: np.ndarray,
        seed: int = 0,
        spoil: Callable[[Prediction, int], Prediction] = lambda prediction, _: prediction,
    ) -> None:
        self.world_from_cams, self.spoil = world_from_cams, spoil
        self.rng = np.random.default_rng(seed)
        self.scales: list[float] = []

    def predict(self, window: Window) -> Prediction:
        stamps = [frame.stamp_ns for frame in window.frames]
        poses = self.world_from_cams[[(stamp - START_NS) // FRAME_NS for stamp in stamps]]
        scale = random_similarity(self.rng).scale
        R = poses[0, :3, :3].T
        window_from_world = Sim3(scale, R, -scale * R @ poses[0, :3, 3])
        self.scales.append(scale)
        return self.spoil(predict_truth(poses, window_from_world, stamps), len(self.scales) - 1)

    def reset(self) -> None:
        pass


class SimulatedNetwork:
    """Stands where StreamingVGGT stands: knows a frame by its grey, answers in a random similarity frame per call.

    Args:
        world_from_cams: [N, 4, 4] of the frames frames_of makes.
        seed: of the similarity frames.
    """

    config = VGGTConfig(image_size=WIDTH, patch_size=4)

    def __init__(self, world_from_cams: np.ndarray, seed: int = 0) -> None:
        self.world_from_cams = world_from_cams
        self.rng = np.random.default_rng(seed)
        self.scales: list[float] = []
        self.encoded: list[int] = []  # indices of frames, in the order they came
        self.decoded: list[list[int]] = []  # for each window

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        indices = images.float().mean(dim=(1, 2, 3)).round()
        self.encoded += [int(index) for index in indices]
        return indices[:, None, None].expand(-1, HEIGHT * WIDTH // 16, 2)

    def predict(self, patch_tokens: torch.Tensor, image_size: tuple[int, int], frames: list[int]) -> VGGTOutput:
        poses = self.world_from_cams[patch_tokens[:, 0, 0].long().numpy()]
        assert image_size == (HEIGHT, WIDTH)
        network_from_world = random_similarity(self.rng)
        self.scales.append(network_from_world.scale)
        self.decoded.append([int(patch_tokens[i, 0, 0]) for i in frames])
        truth = predict_truth(poses, network_from_world)
        cam_from_world = torch.from_numpy(truth.cam_from_window)
        encoding = encode_pose_encoding(cam_from_world, torch.from_numpy(truth.K), image_size)
        return VGGTOutput(
            image_size=image_size,
            pose_encoding=encoding[None],
            depth=torch.from_numpy(truth.depth[frames])[None],
            depth_confidence=torch.from_numpy(truth.confidence[frames])[None],
        )


def trajectory_error(estimate: np.ndarray, truth: np.ndarray) -> float:
    """ATE in metres: rms distance of [N, 3] camera centres after the best Sim(3).

    Source: Umeyama, Least-Squares Estimation of Transformation Parameters, PAMI 1991, eq. 34 to 43; the smallest mean
        squared distance is eq. 33 over n.
    """
    x, y = estimate - estimate.mean(axis=0), truth - truth.mean(axis=0)
    U, D, Vt = np.linalg.svd(y.T @ x / len(x))
    D[2] *= np.sign(np.linalg.det(U) * np.linalg.det(Vt))
    squared = (y * y).sum() / len(y) - D.sum() ** 2 / ((x * x).sum() / len(x))
    return float(np.sqrt(max(squared, 0.0)))


RELATIVE = 1e-4  # of the way walked: what the project promises; float32 depth alone would allow 1e-6


def placed(updates: Iterable[Update]) -> list[PlacedFrame]:
    """All frames of these updates."""
    return [frame for update in updates for frame in update.frames]


def assert_on_truth(updates: list[Update], pipeline: Pipeline, network: SimulatedPredictor | SimulatedNetwork) -> None:
    """Every frame once and in order, at its true pose; every point of the cloud on a true surface.

    The only freedom is where the first window put the world: its camera at the map's origin, with the axes of a body.
    """
    world_from_cams, scale = network.world_from_cams, network.scales[0]
    rigid = BODY_FROM_OPTICAL @ invert_rigid(world_from_cams[0])
    map_from_world = Sim3(scale, rigid[:3, :3], scale * rigid[:3, 3])
    frames = placed(updates)
    assert [frame.stamp_ns for frame in frames] == [START_NS + i * FRAME_NS for i in range(len(world_from_cams))]
    truth = map_from_world.transform_pose(world_from_cams)
    map_from_cams = np.stack([frame.map_from_cam for frame in frames])
    extent = max(np.ptp(truth[:, :3, 3], axis=0).max(), scale)  # a metre where the camera stands still
    assert np.abs(map_from_cams[:, :3, 3] - truth[:, :3, 3]).max() < RELATIVE * extent
    assert rotation_angle(np.swapaxes(map_from_cams[:, :3, :3], 1, 2) @ truth[:, :3, :3]).max() < RELATIVE
    for frame, world_from_cam in zip(frames, world_from_cams, strict=True):
        np.testing.assert_allclose(frame.depth, render(world_from_cam) * scale, rtol=RELATIVE)
    xyz, _ = pipeline.map.points()
    in_world = map_from_world.inverse().transform_points(xyz.astype(np.float64))
    assert len(xyz) > 1000
    assert distance_to_surface(in_world).max() < RELATIVE * 6.0  # metres of the room
