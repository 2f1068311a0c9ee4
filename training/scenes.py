"""Furnished rooms from an integer seed: solids, textures and lamps, in a world with z up and the floor at z = 0."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from training.textures import TextureAtlas, draw_textures

TEXTURES = 14  # drawn for each scene; solids share them, as furniture does
_BARE = 0.6  # share of painted surfaces in a bare room

Placement = tuple[np.ndarray, np.ndarray, np.ndarray]  # centre, object_from_world, half extents; metres


@dataclass(frozen=True)
class Solids:
    """Solids of one shape. The shape is the one that touches the box +-half in its own frame.

    Attributes:
        centre: [M, 3] in the world, metres.
        object_from_world: [M, 3, 3] rotation.
        half: [M, 3] half extents in the object's frame, metres. Cylinders stand along z and use half[:, 0] as radius.
        texture: [M, 6] texture of each face (-x +x -y +y -z +z); curved shapes use the first and the last.
        period: [M] metres that one texture covers.
        offset: [M, 2] shift of the texture, in textures.
    """

    centre: Tensor
    object_from_world: Tensor
    half: Tensor
    texture: Tensor
    period: Tensor
    offset: Tensor

    def __len__(self) -> int:
        return len(self.centre)

    def to(self, device: torch.device | str) -> Solids:
        """Move every tensor."""
        return Solids(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Sun:
    """Light of one direction that comes in through one window.

    Attributes:
        towards: [3] unit vector from the room to the sun.
        colour: [3] strength on a surface that faces it.
        window: [2, 3] lower and upper corner of the opening in the wall, in the world, metres.
    """

    towards: Tensor
    colour: Tensor
    window: Tensor

    def to(self, device: torch.device | str) -> Sun:
        """Move every tensor."""
        return Sun(self.towards.to(device), self.colour.to(device), self.window.to(device))


@dataclass(frozen=True)
class Scene:
    """A room seen from inside, and what stands in it.

    Attributes:
        room: one solid, the room, whose inner faces are seen.
        boxes, cylinders, ellipsoids: solids seen from outside.
        atlas: the textures.
        lamps: [L, 3] positions in the world, metres.
        lamp_colour: [L, 3] strength.
        ambient: [3] light from everywhere.
        gloss: [textures] how much of a lamp each one mirrors, or None where all are matt.
        shadows: whether solids stand in the light of the lamps.
        sun: what comes in through a window.
    """

    room: Solids
    boxes: Solids
    cylinders: Solids
    ellipsoids: Solids
    atlas: TextureAtlas
    lamps: Tensor
    lamp_colour: Tensor
    ambient: Tensor
    gloss: Tensor | None = None
    shadows: bool = False
    sun: Sun | None = None

    def to(self, device: torch.device | str) -> Scene:
        """Move every tensor; clearance needs the scene on the CPU."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Scene(**{name: part.to(device) if hasattr(part, 'to') else part for name, part in parts.items()})

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """Distance from points [N, 3] to the nearest wall or bounding sphere of a solid; negative inside one."""
        half = self.room.half[0].numpy()
        distance = (half - np.abs(points - self.room.centre[0].numpy())).min(axis=1)
        for solids in (self.boxes, self.cylinders, self.ellipsoids):
            if len(solids):
                local = np.einsum(
                    'mij,nmj->nmi', solids.object_from_world.numpy(), points[:, None] - solids.centre.numpy()
                )
                outside = np.abs(local) - solids.half.numpy()
                # Signed distance to the box around the solid: never more than the true one outside of it.
                box = np.linalg.norm(np.maximum(outside, 0), axis=-1) + np.minimum(outside.max(axis=-1), 0)
                distance = np.minimum(distance, box.min(axis=1))
        return distance


def make_scene(rng: np.random.Generator, bare: bool = False) -> Scene:
    """Draw a room with its clutter; the same generator state gives the same scene.

    Args:
        rng: source of chance.
        bare: most surfaces are painted in one colour, as they are in real rooms.
    """
    width, length = rng.uniform(2.5, 9.0, 2)
    height = rng.uniform(2.2, 4.0)
    size = np.array([width, length, height])
    room = solids_of(rng, [(np.array([0, 0, height / 2]), np.eye(3), size / 2)], (1.0, 3.5))
    shapes: tuple[list[Placement], ...] = ([], [], [])
    for _ in range(int(rng.integers(6, 22))):
        kind = rng.choice(3, p=[0.66, 0.2, 0.14])
        shapes[kind].append(_place(rng, kind, width, length, height))
    lamps = int(rng.integers(1, 4))
    position = rng.uniform(-0.9, 0.9, (lamps, 3)) * np.array([width, length, 0]) / 2
    position[:, 2] = height * rng.uniform(0.6, 0.98, lamps)
    colour = rng.uniform(0.3, 1.2, (lamps, 1)) * rng.uniform(0.8, 1.0, (lamps, 3)) / lamps
    return Scene(
        room=room,
        boxes=solids_of(rng, shapes[0], (0.3, 2.0)),
        cylinders=solids_of(rng, shapes[1], (0.3, 1.5)),
        ellipsoids=solids_of(rng, shapes[2], (0.3, 1.5)),
        atlas=draw_textures(rng, TEXTURES, (_BARE,) * TEXTURES if bare else None),
        lamps=torch.from_numpy(position).float(),
        lamp_colour=torch.from_numpy(colour).float(),
        ambient=torch.from_numpy(rng.uniform(0.35, 0.7) * rng.uniform(0.9, 1.0, 3)).float(),
    )


def make_empty_room(rng: np.random.Generator) -> Scene:
    """Draw a large room with nothing in it, for scatter() to fill."""
    size = rng.uniform(5.0, 14.0, 3)
    room = solids_of(rng, [(np.array([0, 0, size[2] / 2]), np.eye(3), size / 2)], (1.0, 4.0))
    nothing = solids_of(rng, [], (1.0, 1.0))
    lamp = torch.tensor([[0.0, 0.0, 0.5 * float(size[2])]])
    colour = torch.from_numpy(rng.uniform(0.1, 0.6, (1, 3))).float()
    light = torch.from_numpy(rng.uniform(0.6, 0.9) * rng.uniform(0.9, 1.0, 3)).float()
    return Scene(room, nothing, nothing, nothing, draw_textures(rng, TEXTURES), lamp, colour, light)


def scatter(rng: np.random.Generator, scene: Scene, path: np.ndarray, horizontal_fov: float) -> Scene:
    """Put solids afloat before the cameras, as large to the eye near as far: one picture tells little of their depth.

    In a furnished room a network gets far by knowing furniture; here what is near shows by how it moves.

    Args:
        rng: source of chance.
        scene: an empty room.
        path: [frames, 3, 4] cam_from_world, metres.
        horizontal_fov: radians; solids lie within it.
    """
    rotation, positions = path[:, :, :3], camera_centres(path)
    reach = np.tan(horizontal_fov / 2)
    shapes: tuple[list[Placement], ...] = ([], [], [])
    for _ in range(int(rng.integers(8, 32))):
        frame, kind = rng.integers(len(path)), rng.choice(3, p=[0.6, 0.2, 0.2])
        depth = np.exp(rng.uniform(np.log(0.6), np.log(6.0)))
        ray = np.array([*rng.uniform(-reach, reach, 2), 1.0])
        half = depth * reach * np.exp(rng.uniform(np.log(0.06), np.log(0.5), 3))
        if kind == 1:
            half[1] = half[0]
        centre = positions[frame] + rotation[frame].T @ (depth * ray)
        if np.linalg.norm(positions - centre, axis=1).min() > np.linalg.norm(half) + 0.2:
            shapes[kind].append((centre, random_rotation(rng), half))
    boxes, cylinders, ellipsoids = (solids_of(rng, shape, (0.2, 2.5)) for shape in shapes)
    return replace(scene, boxes=boxes, cylinders=cylinders, ellipsoids=ellipsoids)


def camera_centres(path: np.ndarray) -> np.ndarray:
    """[frames, 3] world positions of cameras [frames, 3, 4] cam_from_world."""
    return -(path[:, :, :3].transpose(0, 2, 1) @ path[:, :, 3:])[..., 0]


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """[3, 3], all attitudes alike. Source: Mezzadri, Random Matrices from the Classical Compact Groups, 2007."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def _place(rng: np.random.Generator, kind: int, width: float, length: float, height: float) -> Placement:
    """Put one solid on the floor, on a wall, or in the air (hanging, or upon something)."""
    half = np.exp(rng.uniform(np.log(0.06), np.log(0.7), 3))
    where = rng.choice(['floor', 'wall', 'air'], p=[0.55, 0.2, 0.25])
    x, y = rng.uniform(-0.95, 0.95, 2) * np.array([width, length]) / 2
    yaw, tilt = rng.uniform(0, 2 * np.pi), 0.0
    if kind == 1:  # a cylinder's radius is half[0]
        half[1] = half[0]
    if where == 'floor':
        half[2] = min(half[2] * rng.uniform(1.0, 2.5), height / 2)
        centre = np.array([x, y, half[2]])
        if rng.random() < 0.6:  # most furniture stands parallel to the walls
            yaw = np.pi / 2 * int(rng.integers(4))
    elif where == 'wall':
        half[2] = min(half[2], height / 3)
        centre = np.array([x, y, rng.uniform(half[2], height - half[2])])
        axis = int(rng.integers(2))
        centre[axis] = np.sign(centre[axis]) * (width, length)[axis] / 2
        yaw = 0.0
        if kind == 0:  # a picture, a door, a shelf: it reaches a little into the room
            half[axis] = rng.uniform(0.02, 0.25)
    else:
        centre = np.array([x, y, rng.uniform(0.1, height - 0.1)])
        tilt = rng.normal(0, 0.4)
    cy, sy, ct, st = np.cos(yaw), np.sin(yaw), np.cos(tilt), np.sin(tilt)
    turn, lean = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]), np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]])
    return centre, (turn @ lean).T, half


def solids_of(rng: np.random.Generator, placements: list[Placement], period: tuple[float, float]) -> Solids:
    """Gather solids of one shape, with textures by chance that each cover a share of `period` metres."""
    count = len(placements)
    centre, rotation, half = (
        np.array([placement[i] for placement in placements]).reshape(count, *shape)
        for i, shape in enumerate(((3,), (3, 3), (3,)))
    )
    one_for_all = rng.integers(0, TEXTURES, (count, 1)).repeat(6, axis=1)
    each = rng.integers(0, TEXTURES, (count, 6))
    texture = np.where(rng.random((count, 1)) < 0.6, one_for_all, each)
    return Solids(
        centre=torch.from_numpy(centre).float(),
        object_from_world=torch.from_numpy(rotation).float(),
        half=torch.from_numpy(half).float(),
        texture=torch.from_numpy(texture),
        period=torch.from_numpy(rng.uniform(*period, count)).float(),
        offset=torch.from_numpy(rng.random((count, 2))).float(),
    )
