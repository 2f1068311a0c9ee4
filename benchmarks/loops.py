"""Rendered walks that come back: round a room and on over the same floor, or on into a room that looks alike.

Scenes, textures and pictures are those of `training/`, from seeds that were never trained on. The rooms are as wide as
a path with room to walk needs; everything in them comes from the seed.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from training.paths import cam_from_world
from training.renderer import render
from training.scenes import Scene, make_scene
from training.windows import HELD_BACK_SEED, IMAGE_SIZE, develop
from vggt.preprocessing import ImageTransform
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.core.trajectory import Trajectory

FRAME_NS = 100_000_000  # ten pictures a second
START_NS = 1_000_000_000_000
FOV = math.radians(70)  # across
CLEARANCE_M = 0.3
TRIES = 200  # rooms looked at until one has a way round
CHUNK = 25  # pictures rendered at a time
APART_M = 30.0  # from one room to the next: nothing of one is seen from the other


class RenderedWalk:
    """Frames of a walk with their true depth and poses; simulated.SimulatedPredictor takes it for a sequence.

    Args:
        seed: of everything.
        frames: pictures.
        laps: times round the room.
        rooms: 1: round one room, again and again; 2: the second half goes round another room with the same textures.
        image_size: (H, W).
    """

    def __init__(
        self, seed: int, frames: int = 300, laps: float = 1.25, rooms: int = 1, image_size: tuple[int, int] = IMAGE_SIZE
    ) -> None:
        self.name = f'walk{seed}x{rooms}'
        H, W = image_size
        focal = W / 2 / math.tan(FOV / 2)
        self.K = np.array([[focal, 0, W / 2], [0, focal, H / 2], [0, 0, 1]])
        self.transform = ImageTransform(image_size, image_size, 1.0, (0.0, 0.0))
        scenes = _rooms(seed, rooms)
        self.scenes = scenes
        share = [frames // rooms + (r < frames % rooms) for r in range(rooms)]
        images, depth, poses = [], [], []
        for r, (scene, count) in enumerate(zip(scenes, share, strict=True)):
            path = walk_round(scene, count, laps, np.random.default_rng([seed, r]))
            colour, z = _render(scene, path, self.K, image_size)
            images.append(develop(colour, np.random.default_rng([seed, 7])))  # the same camera in all rooms
            depth.append(z)
            world_from_cam = invert_rigid(path)
            world_from_cam[:, 0, 3] += APART_M * r
            poses.append(world_from_cam)
        stamps = START_NS + FRAME_NS * np.arange(frames)
        self.reference = Trajectory(stamps.astype(np.int64), np.concatenate(poses))
        self._depth = torch.cat(depth).numpy()
        self._images = torch.cat(images).permute(0, 2, 3, 1).contiguous().numpy()
        self.room = np.repeat(np.arange(rooms), share)
        self.frames = [
            Frame(int(stamp), image, 'camera_optical', self.K)
            for stamp, image in zip(stamps, self._images, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.frames)

    def truth(self, stamps_ns: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """world_from_cam [S, 4, 4], depth [S, H, W] in metres and images [S, H, W, 3] of some frames."""
        rows = [(stamp - START_NS) // FRAME_NS for stamp in stamps_ns]
        return self.reference.world_from_cam[rows], self._depth[rows], self._images[rows]


def walk_round(scene: Scene, frames: int, laps: float, rng: np.random.Generator) -> np.ndarray:
    """[frames, 4, 4] cam_from_world along an ellipse through the room, looking ahead and about; metres.

    The second lap does not step where the first did: it is off by some centimetres and degrees, as a robot is.
    """
    centre, radius = _ellipse(scene, rng)
    angle = rng.uniform(0, 2 * math.pi) + 2 * math.pi * laps * np.arange(frames) / frames
    sway = 0.03 * np.sin(angle[:, None] * np.array([0.37, 0.53, 0.71]) + rng.uniform(0, 6, 3))
    places = np.column_stack([centre[0] + radius[0] * np.cos(angle), centre[1] + radius[1] * np.sin(angle)])
    places = np.column_stack([places, np.full(frames, centre[2])]) + sway
    ahead = np.arctan2(radius[1] * np.cos(angle), -radius[0] * np.sin(angle))
    yaw = np.unwrap(ahead) - math.radians(25)  # a little towards the wall
    yaw += math.radians(4) * np.sin(0.61 * angle + rng.uniform(0, 6))
    pitch = math.radians(8) + math.radians(2) * np.sin(0.83 * angle)
    path = np.tile(np.eye(4), (frames, 1, 1))
    path[:, :3] = [cam_from_world(p, y, q, 0.0) for p, y, q in zip(places, yaw, pitch, strict=True)]
    return path


def _ellipse(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centre [3] and radii [2] of the widest free way round among some drawn; radius 0 where there is none."""
    half = scene.room.half[0].numpy()
    best = np.zeros(3), np.zeros(2)
    turn = np.linspace(0, 2 * math.pi, 120)
    for _ in range(60):
        radius = rng.uniform(0.35, 0.75) * (half[:2] - CLEARANCE_M)
        centre = np.append(rng.uniform(-0.15, 0.15, 2) * half[:2], rng.uniform(1.0, 1.6))
        places = np.column_stack(
            [centre[0] + radius[0] * np.cos(turn), centre[1] + radius[1] * np.sin(turn), np.full(120, centre[2])]
        )
        if scene.clearance(places).min() > CLEARANCE_M and radius.min() > best[1].min():
            best = centre, radius
    return best


def _rooms(seed: int, count: int) -> list[Scene]:
    """Rooms with a way round; all have the textures of the first, on their walls too."""
    found: list[Scene] = []
    for attempt in range(TRIES):
        scene = make_scene(np.random.default_rng([HELD_BACK_SEED + seed, attempt]))
        if found:
            room = dataclasses.replace(
                scene.room, texture=found[0].room.texture, period=found[0].room.period, offset=found[0].room.offset
            )
            scene = dataclasses.replace(scene, atlas=found[0].atlas, room=room)
        if _ellipse(scene, np.random.default_rng(seed))[1].min() > 0.9:
            found.append(scene)
        if len(found) == count:
            return found
    raise ValueError(f'no {count} rooms with a way round among {TRIES} of seed {seed}')


def _render(
    scene: Scene, path: np.ndarray, K: np.ndarray, image_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    colours, depths = [], []
    for start in range(0, len(path), CHUNK):
        part = torch.from_numpy(path[start : start + CHUNK, :3]).float()
        colour, depth = render(scene, part, torch.from_numpy(K).float().expand(len(part), 3, 3), image_size)
        colours.append(colour)
        depths.append(depth)
    return torch.cat(colours), torch.cat(depths)
