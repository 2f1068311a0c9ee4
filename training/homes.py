"""Rooms as people furnish them: tables, chairs, worktops, shelves, sofas, daylight; seen by who looks at a piece.

Depth learnt in rooms of loose solids did not carry over to real pictures: there a table's top is level and stands on
legs, what lies on it is small, walls are one colour, a lamp throws shadows, and a person looks down at things.
"""

from __future__ import annotations

import numpy as np
import torch

from training.scenes import Placement, Scene, Sun, solids_of
from training.textures import TextureAtlas, draw_textures

_WALL, _FLOOR, _CEILING, _PANE = 0, 1, 2, 3
_MATERIALS, _CLUTTER = (4, 5, 6, 7), tuple(range(8, 16))
# How likely each texture is one coat of paint: walls mostly, what lies about less.
_PAINT = (0.8, 0.3, 0.9, 1.0, 0.5, 0.5, 0.6, 0.6, *(0.4 for _ in _CLUTTER))


class _Room:
    """What has been put into a room so far: boxes and cylinders with their textures."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.size = np.array([*rng.uniform(2.8, 7.5, 2), rng.uniform(2.3, 3.2)])  # metres
        self.boxes: list[Placement] = []
        self.cylinders: list[Placement] = []
        self.textures: dict[int, list[int]] = {0: [], 1: []}
        self.seen: list[np.ndarray] = []  # where a camera may look, [3] each

    def put(self, frame: _Frame, centre: tuple[float, float, float], size: tuple[float, ...], texture: int) -> None:
        """Add a box of [x, y, z] size, or a cylinder of (diameter, height), at a place in the frame of a piece."""
        yaw = frame.object_from_world
        at = np.array([*frame.origin, 0.0]) + np.array(centre) @ yaw
        if len(size) == 2:
            self.cylinders.append((at, yaw, np.array([size[0], size[0], size[1]]) / 2))
        else:
            self.boxes.append((at, yaw, np.array(size) / 2))
        self.textures[int(len(size) == 2)].append(texture)

    def wall(self, side: int) -> tuple[_Frame, float]:
        """The middle of a wall, x along it and y into the room, and its length."""
        along, across = self.size[:2] if side % 2 == 0 else self.size[1::-1]
        return _Frame(0, 0, np.pi / 2 * side).at(0, -across / 2), along

    def material(self) -> int:
        return int(self.rng.choice(_MATERIALS))


class _Frame:
    """Where a piece stands: its origin on the floor and its yaw; its front looks along its own +y."""

    def __init__(self, x: float, y: float, yaw: float) -> None:
        self.origin, self.c, self.s = (x, y), float(np.cos(yaw)), float(np.sin(yaw))

    @property
    def object_from_world(self) -> np.ndarray:
        return np.array([[self.c, self.s, 0], [-self.s, self.c, 0], [0, 0, 1]])

    def at(self, x: float, y: float, yaw: float = 0.0) -> _Frame:
        """Return a frame within this one."""
        return _Frame(
            self.origin[0] + x * self.c - y * self.s,
            self.origin[1] + x * self.s + y * self.c,
            float(np.arctan2(self.s, self.c)) + yaw,
        )


def make_home(rng: np.random.Generator) -> tuple[Scene, np.ndarray]:
    """Draw a furnished room; the same generator state gives the same room.

    Returns:
        The scene and [P, 3] places in it, metres, that a camera may look at.
    """
    room = _Room(rng)
    _line_walls(room)
    for _ in range(int(rng.integers(1, 5))):
        piece = (_table, _table, _chair, _cabinet, _sofa)[rng.integers(5)]
        x, y = rng.uniform(-0.75, 0.75, 2) * room.size[:2] / 2
        yaw = np.pi / 2 * rng.integers(4) if rng.random() < 0.6 else rng.uniform(0, 2 * np.pi)
        piece(room, _Frame(x, y, yaw))
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(-0.8, 0.8, 2) * room.size[:2] / 2
        _clutter(room, _Frame(x, y, rng.uniform(0, 2 * np.pi)), 0.0, 1.5)
    sun = _pane(room) if rng.random() < 0.5 else None
    half = room.size / 2
    shell = solids_of(rng, [(np.array([0, 0, half[2]]), np.eye(3), half)], (0.8, 3.0))
    shell.texture[0] = torch.tensor([_WALL] * 4 + [_FLOOR, _CEILING])
    boxes, cylinders = (solids_of(rng, placed, (0.2, 1.2)) for placed in (room.boxes, room.cylinders))
    for index, solids in enumerate((boxes, cylinders)):
        solids.texture[:] = torch.tensor(room.textures[index], dtype=torch.long)[:, None]
    atlas = draw_textures(rng, len(_PAINT), _PAINT)
    lamps = int(rng.integers(1, 3))
    place = rng.uniform(-0.8, 0.8, (lamps, 3)) * half
    place[:, 2] = room.size[2] * rng.uniform(0.75, 0.97, lamps)
    strength = rng.uniform(0.3, 1.2, (lamps, 1)) * rng.uniform(0.8, 1.0, (lamps, 3)) / lamps
    scene = Scene(
        room=shell,
        boxes=boxes,
        cylinders=cylinders,
        ellipsoids=solids_of(rng, [], (1.0, 1.0)),
        atlas=_with_daylight(rng, atlas),
        lamps=torch.from_numpy(place).float(),
        lamp_colour=torch.from_numpy(strength).float(),
        ambient=torch.from_numpy(rng.uniform(0.25, 0.6) * rng.uniform(0.9, 1.0, 3)).float(),
        gloss=torch.from_numpy(np.where(rng.random(len(_PAINT)) < 0.4, rng.uniform(0.05, 0.5, len(_PAINT)), 0)).float(),
        shadows=True,
        sun=sun,
    )
    return scene, np.array(room.seen)


def _with_daylight(rng: np.random.Generator, atlas: TextureAtlas) -> TextureAtlas:
    """A window is lighter than anything it lights: its texels lie beyond 1, and a picture of it is white."""
    texels = atlas.texels.clone().reshape(atlas.count, -1, 3)
    texels[_PANE] = torch.from_numpy(rng.uniform(1.5, 4.0) * rng.uniform(0.85, 1.0, 3)).float()
    return TextureAtlas(texels.reshape(-1, 3), atlas.count)


def _line_walls(room: _Room) -> None:
    """Stand worktops, shelves and cabinets along some walls, and hang pictures and a door on others."""
    rng = room.rng
    for side in range(4):
        wall, along = room.wall(side)
        kind = rng.choice(['worktop', 'pieces', 'nothing'], p=[0.3, 0.4, 0.3])
        if kind == 'worktop':
            _worktop(room, wall, rng.uniform(0.4, 1.0) * along)
        elif kind == 'pieces':
            for x in np.arange(-along / 2 + 0.6, along / 2 - 0.5, rng.uniform(1.3, 2.5)):
                (_shelf, _cabinet, _sofa)[rng.choice(3, p=[0.4, 0.35, 0.25])](room, wall.at(x, 0.35))
        for _ in range(int(rng.integers(0, 3))):  # pictures, boards, a switch
            size = np.exp(rng.uniform(np.log(0.15), np.log(1.2), 2))
            x, z = rng.uniform(-0.45, 0.45) * along, rng.uniform(1.2, 1.9)
            room.put(wall, (x, 0.01, z), (size[0], 0.04, size[1]), int(rng.choice(_CLUTTER)))
        if rng.random() < 0.3:
            x, texture = rng.uniform(-0.4, 0.4) * along, room.material()
            room.put(wall, (x, 0.01, 1.0), (rng.uniform(0.7, 1.0), 0.06, 2.05), texture)
        if rng.random() < 0.5:
            room.put(wall, (0, 0.01, 0.05), (along, 0.03, 0.1), room.material())  # skirting board


def _worktop(room: _Room, wall: _Frame, length: float) -> None:
    """A kitchen: cupboards under one slab, things upon it, at times cupboards above."""
    rng = room.rng
    height, depth = rng.uniform(0.7, 1.0), rng.uniform(0.5, 0.7)
    front, slab, handle = room.material(), room.material(), room.material()
    room.put(wall, (0, depth / 2 - 0.03, height / 2 + 0.05), (length, depth - 0.06, height - 0.1), front)
    room.put(wall, (0, depth / 2 - 0.06, 0.05), (length, depth - 0.15, 0.1), handle)
    room.put(wall, (0, depth / 2, height), (length, depth, 0.04), slab)
    doors = max(1, int(length / rng.uniform(0.4, 0.8)))
    for i in range(doors):
        x = (i + 0.5) * length / doors - length / 2
        room.put(wall, (x, depth - 0.05, height / 2 + 0.02), (length / doors - 0.03, 0.04, height - 0.16), front)
        room.put(wall, (x, depth - 0.02, height - 0.15), (0.12, 0.03, 0.02), handle)
    if rng.random() < 0.5:
        z = rng.uniform(1.35, 1.6)
        room.put(wall, (0, 0.17, z + 0.3), (length, 0.35, 0.6), room.material())
    for _ in range(int(rng.integers(1, 5))):
        _clutter(room, wall.at(rng.uniform(-0.45, 0.45) * length, depth / 2), height + 0.02, 0.5)
    _may_look(room, wall.at(rng.uniform(-0.4, 0.4) * length, depth), rng.uniform(0.3, 1.1))


def _shelf(room: _Room, frame: _Frame) -> None:
    rng = room.rng
    width, height, depth = rng.uniform(0.5, 1.1), rng.uniform(0.8, 2.1), rng.uniform(0.25, 0.4)
    boards, wood = int(rng.integers(3, 6)), room.material()
    y = depth / 2 - 0.35
    room.put(frame, (0, y - depth / 2 + 0.01, height / 2), (width, 0.02, height), wood)
    for side in (-1, 1):
        room.put(frame, (side * width / 2, y, height / 2), (0.03, depth, height), wood)
    for i in range(boards):
        z = 0.05 + i * (height - 0.07) / (boards - 1)
        room.put(frame, (0, y, z), (width, depth, 0.025), wood)
        if i < boards - 1 and rng.random() < 0.7:  # books, in blocks
            x, tall = -width / 2 + 0.03, 0.7 * (height - 0.1) / (boards - 1)
            for _ in range(int(rng.integers(1, 4))):
                thick = rng.uniform(0.05, 0.3)
                if x + thick < width / 2:
                    z_size = tall * rng.uniform(0.6, 1.0)
                    centre = (x + thick / 2, y, z + 0.0125 + z_size / 2)
                    room.put(frame, centre, (thick, depth * rng.uniform(0.5, 0.9), z_size), int(rng.choice(_CLUTTER)))
                x += thick + rng.uniform(0.0, 0.1)
    _may_look(room, frame, rng.uniform(0.3, height))


def _cabinet(room: _Room, frame: _Frame) -> None:
    """A chest with drawers in its front and a lid; from some distance, a plain box."""
    rng = room.rng
    width, depth, height = rng.uniform(0.35, 1.0), rng.uniform(0.35, 0.7), rng.uniform(0.45, 1.1)
    body, front = room.material(), room.material() if rng.random() < 0.4 else None
    room.put(frame, (0, 0, height / 2), (width, depth, height), body)
    room.put(frame, (0, 0, height), (width + 0.02, depth + 0.02, 0.03), body if rng.random() < 0.6 else room.material())
    drawers, handle = int(rng.integers(1, 5)), room.material()
    if rng.random() < 0.7:
        for i in range(drawers):
            z = 0.05 + (i + 0.5) * (height - 0.08) / drawers
            panel = (width - 0.03, 0.03, (height - 0.08) / drawers - 0.015)
            room.put(frame, (0, depth / 2, z), panel, body if front is None else front)
            room.put(frame, (0, depth / 2 + 0.025, z + 0.05), (rng.uniform(0.08, 0.25), 0.025, 0.02), handle)
    if rng.random() < 0.5:
        _clutter(room, frame, height + 0.015, 0.3)
    _may_look(room, frame, height / 2)


def _table(room: _Room, frame: _Frame) -> None:
    rng = room.rng
    width, depth, height = rng.uniform(0.6, 1.9), rng.uniform(0.5, 1.0), rng.choice([0.45, 0.73]) + rng.normal(0, 0.03)
    top, leg = room.material(), room.material()
    thick = rng.uniform(0.03, 0.1)
    room.put(frame, (0, 0, height), (width, depth, rng.uniform(0.02, 0.06)), top)
    round_leg = rng.random() < 0.3
    for sx in (-1, 1):
        for sy in (-1, 1):
            at = (sx * (width / 2 - thick), sy * (depth / 2 - thick), height / 2 - 0.015)
            room.put(frame, at, (thick, height - 0.03) if round_leg else (thick, thick, height - 0.03), leg)
    for _ in range(int(rng.integers(0, 5))):
        x, y = rng.uniform(-0.4, 0.4, 2) * (width, depth)
        _clutter(room, frame.at(x, y, rng.uniform(0, 2 * np.pi)), height + 0.02, 0.25)
    if height > 0.6:
        for _ in range(int(rng.integers(0, 4))):
            side = rng.choice([-1, 1])
            x, y = rng.uniform(-0.4, 0.4) * width, side * (depth / 2 + rng.uniform(0.0, 0.35))
            _chair(room, frame.at(x, y, (np.pi if side < 0 else 0) + np.pi + rng.normal(0, 0.4)))
    _may_look(room, frame, height)


def _chair(room: _Room, frame: _Frame) -> None:
    rng = room.rng
    wide, seat, back, wood = rng.uniform(0.38, 0.5), rng.uniform(0.4, 0.5), rng.uniform(0.35, 0.55), room.material()
    thick = rng.uniform(0.02, 0.05)
    room.put(frame, (0, 0, seat), (wide, wide, rng.uniform(0.03, 0.08)), room.material())
    for sx in (-1, 1):
        for sy in (-1, 1):
            high = seat if sy > 0 else seat + back
            room.put(frame, (sx * wide / 2.2, sy * wide / 2.2, high / 2), (thick, thick, high), wood)
    slats = int(rng.integers(1, 5))
    for i in range(slats):
        tall = 0.7 * back / slats
        z = seat + back * (0.25 + 0.75 * (i + 0.5) / slats)
        room.put(frame, (0, -wide / 2.2, z), (wide, 0.02, tall if slats > 1 else 0.7 * back), wood)
    _may_look(room, frame, seat)


def _sofa(room: _Room, frame: _Frame) -> None:
    rng = room.rng
    width, depth, seat, cloth = rng.uniform(0.7, 2.0), rng.uniform(0.7, 0.9), rng.uniform(0.35, 0.5), room.material()
    room.put(frame, (0, 0, seat / 2), (width, depth, seat), cloth)
    if rng.random() < 0.8:
        room.put(frame, (0, -depth / 2 + 0.1, seat), (width, 0.2, 2 * rng.uniform(0.25, 0.45)), cloth)
        for side in (-1, 1):
            room.put(frame, (side * (width / 2 - 0.08), 0, seat), (0.16, depth, 0.3), cloth)
    for _ in range(int(rng.integers(0, 3))):
        x = rng.uniform(-0.35, 0.35) * width
        room.put(frame, (x, -depth / 4, seat + 0.15), (0.4, 0.15, 0.35), int(rng.choice(_CLUTTER)))
    _may_look(room, frame, seat)


def _clutter(room: _Room, frame: _Frame, floor: float, largest: float) -> None:
    """A mug, a book, a sheet of paper, a box upon a surface `floor` metres high."""
    rng, texture = room.rng, int(room.rng.choice(_CLUTTER))
    size = np.exp(rng.uniform(np.log(0.06), np.log(0.4), 3)) * min(1.0, 2 * largest)
    if rng.random() < 0.25:
        size[2] = 0.01  # paper
    if rng.random() < 0.25:
        room.put(frame, (0, 0, floor + size[2] / 2), (min(size[0], 0.3), size[2]), texture)
    else:
        room.put(frame, (0, 0, floor + size[2] / 2), tuple(size), texture)


def _pane(room: _Room) -> Sun:
    """Put a window into a wall, and the sun behind it."""
    rng = room.rng
    wall, along = room.wall(int(rng.integers(4)))
    width, tall = rng.uniform(0.6, 2.5), rng.uniform(0.8, 2.0)
    z = min(rng.uniform(1.0, 1.6), room.size[2] - tall / 2 - 0.1)
    z = max(z, tall / 2 + 0.02)
    x = rng.uniform(-0.5, 0.5) * max(0.0, along - width)
    room.put(wall, (x, 0.0, z), (width, 0.02, tall), _PANE)
    centre, turn, half = room.boxes[-1]
    frame = room.material()
    for edge in np.linspace(-0.5, 0.5, int(rng.integers(2, 5))):
        room.put(wall, (x + edge * width, 0.02, z), (0.07, 0.06, tall), frame)
    for edge in (-0.5, 0.5):
        room.put(wall, (x, 0.02, z + edge * tall), (width, 0.06, 0.07), frame)
    heading, climb = rng.normal(0, 0.5), rng.uniform(0.3, 0.9)
    towards = np.array([np.sin(heading) * np.cos(climb), -np.cos(heading) * np.cos(climb), np.sin(climb)])
    reach = np.abs(half @ turn) + 0.02
    return Sun(
        towards=torch.from_numpy(towards @ turn).float(),
        colour=torch.from_numpy(rng.uniform(0.5, 2.5) * np.array([1.0, 0.97, 0.9])).float(),
        window=torch.from_numpy(np.stack([centre - reach, centre + reach])).float(),
    )


def _may_look(room: _Room, frame: _Frame, height: float) -> None:
    room.seen.append(np.array([*frame.origin, height]))
