"""Rendered walks that come back: round a room and on over the same floor, or on into a room that looks alike.

Scenes, textures and pictures are those of `training/`, from seeds that were never trained on. The rooms are as wide as
a path with room to walk needs; everything in them comes from the seed.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from training.paths import LEAST_RADIUS_M, walk_round, way_round
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
            rng = np.random.default_rng([seed, r])
            path = walk_round(way_round(scene, rng), count, laps, rng)
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
        if way_round(scene, np.random.default_rng(seed))[1].min() > LEAST_RADIUS_M:
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
