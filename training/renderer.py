"""Ray casting of a scene into pictures and exact depth, vectorised over all pixels of all views.

Rays leave through pixel (u, v) with u = 0..W-1, v = 0..H-1 and direction K^-1 (u, v, 1), the convention in which VGGT
unprojects its depth, so that the ray parameter *is* the depth along the optical axis and no half pixel is lost.
Source: Kay and Kajiya, Ray Tracing Complex Scenes, 1986 (slabs); quadrics by substitution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from training.scenes import Scene, Solids, Sun

_NEAR = 1e-3  # metres; nothing closer to the optical centre is seen
_ROUNDING = 2e-3  # radians that a solid may be farther off than it can be met
_OFF = 2e-3  # metres from which a surface looks for its light, so that it throws no shadow on itself
_CACHED_NUMBERS = 100_000  # of a temporary that stays in a core's cache
_MANY = 24  # solids from which it pays to leave some out
_TILE = 32  # pixels a side; a processor asks for the solids near the cone of a tile's rays alone
_LOT = _TILE**2  # rays that are asked for together: they and what they may meet stay in a core's cache
_BEHIND_THE_PANE = 0.1  # metres from the wall at which the sun's rays start: a window is a solid too


_Hit = Callable[[list[Tensor], list[Tensor], Tensor], Tensor]  # where rays meet solids, inf for a miss


def render(scene: Scene, cam_from_world: Tensor, K: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Look at the scene.

    Args:
        scene: what there is.
        cam_from_world: [S, 3, 4], cameras inside the room, metres.
        K: [S, 3, 3] intrinsics in pixels.
        image_size: (H, W).

    Returns:
        Linear colour [S, 3, H, W] (0 is black, lamps may pass 1), and depth [S, H, W] along the optical axis, metres.
    """
    H, W = image_size
    views = len(K)
    world_from_cam = cam_from_world[:, :, :3].transpose(1, 2)
    centre = -(world_from_cam @ cam_from_world[:, :, 3:])[..., 0]  # (S, 3)
    v, u = torch.meshgrid(torch.arange(H), torch.arange(W), indexing='ij')
    order = _by_tiles(H, W)
    pixels = torch.stack((u, v, torch.ones_like(u)), dim=-1).reshape(-1, 3)[order].to(K)  # (H*W, 3)
    directions = pixels @ (world_from_cam @ torch.linalg.inv(K)).transpose(1, 2)  # (S, H*W, 3)

    groups = (scene.room, scene.boxes, scene.cylinders, scene.ellipsoids)
    intersect = (_enter_room, *_HITS)
    depth = directions.new_full(directions.shape[:2], torch.inf)
    group_of = torch.zeros_like(depth, dtype=torch.long)
    solid_of = torch.zeros_like(group_of)
    for index, (solids, hit) in enumerate(zip(groups, intersect, strict=True)):
        if not len(solids):
            continue
        nearest, solid = _nearest(solids, hit, centre, directions)
        closer = nearest < depth
        depth = torch.where(closer, nearest, depth)
        group_of = torch.where(closer, index, group_of)
        solid_of = torch.where(closer, solid, solid_of)

    points = centre[:, None] + depth[..., None] * directions
    focal = K[:, 0, 0][:, None]
    colour = torch.empty_like(points)
    for index, solids in enumerate(groups):
        seen = group_of == index
        if seen.any():
            pixel_width = (depth / focal)[seen]
            colour[seen] = _shade(scene, index, solids, solid_of[seen], points[seen], directions[seen], pixel_width)
    back = order.argsort().to(colour.device)
    return colour[:, back].reshape(views, H, W, 3).permute(0, 3, 1, 2), depth[:, back].reshape(views, H, W)


def _by_tiles(height: int, width: int) -> Tensor:
    """[H*W] indices of all pixels, tile by tile."""
    row, column = torch.arange(height)[:, None], torch.arange(width)
    tile = (row // _TILE) * (width // _TILE + 1) + column // _TILE
    return tile.flatten().argsort(stable=True)


def _nearest(solids: Solids, hit: _Hit, centre: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """[S, R] where rays from centres [S, 3] along [S, R, 3] first meet solids of one shape, and which one that is.

    A processor goes by lots of rays that follow each other, and leaves out the solids that none of a lot can meet; a
    GPU, which waits for launches, asks for all at once.
    """
    if directions.device.type != 'cpu' or len(solids) < _MANY:
        rays = directions.shape[1]
        if directions.device.type == 'cpu':
            rays = max(1, _CACHED_NUMBERS // (len(centre) * len(solids)))
        lots = [hit(*_in_object_frames(solids, centre, lot), solids.half).min(-1) for lot in directions.split(rays, 1)]
        nearest, solid = (torch.cat(parts, dim=1) for parts in zip(*lots, strict=True))
        return nearest, solid
    nearest = directions.new_full(directions.shape[:2], torch.inf)
    solid = torch.zeros(nearest.shape, dtype=torch.long)
    views, rays = nearest.shape
    if rays == 1:  # each from a place of its own
        tiles = [(slice(i, i + _LOT), slice(None)) for i in range(0, views, _LOT)]
    else:
        tiles = [(slice(view, view + 1), slice(i, i + _LOT)) for view in range(views) for i in range(0, rays, _LOT)]
    for lot in tiles:
        origins = centre[lot[0]]
        near = _near(solids, origins, directions[lot].flatten(0, 1))
        if len(near):
            some = replace(solids, centre=solids.centre[near], object_from_world=solids.object_from_world[near])
            found = hit(*_in_object_frames(some, origins, directions[lot]), solids.half[near]).min(dim=-1)
            nearest[lot], solid[lot] = found.values, near[found.indices]
    return nearest, solid


def _near(solids: Solids, origins: Tensor, directions: Tensor) -> Tensor:
    """[N] solids that rays from places [S, 3] along [R, 3] may meet: whose bounding sphere meets a cone around all.

    The cone begins in the middle of the places; spheres are larger by how far the others are from there.
    """
    unit = normalize(directions, dim=-1)
    axis = normalize(unit.mean(dim=0), dim=0)
    opening = (unit @ axis).min().clamp(-1, 1).acos()
    middle = origins.mean(dim=0)
    to_solid = solids.centre - middle
    distance = to_solid.norm(dim=-1)
    radius = solids.half.norm(dim=-1) + (origins - middle).norm(dim=-1).max()
    angle = ((to_solid @ axis) / distance.clamp(min=1e-9)).clamp(-1, 1).acos()
    reach = (radius / distance.clamp(min=1e-9)).clamp(max=1).asin()
    return ((distance <= radius) | (angle <= opening + reach + _ROUNDING)).nonzero()[:, 0]


def _in_object_frames(solids: Solids, centre: Tensor, directions: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Rays as each solid sees them: origin x, y, z each [S, 1, M]; direction x, y, z each [S, H*W, M]."""
    from_centre = centre[:, None] - solids.centre  # (S, M, 3)
    origin = torch.einsum('mij,smj->ism', solids.object_from_world, from_centre)[:, :, None]
    rows = solids.object_from_world.permute(1, 2, 0)  # (axis, world axis, M)
    return list(origin), [directions @ row for row in rows]


def _slabs(origin: list[Tensor], direction: list[Tensor], half: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the boxes +-half; they miss where the entry lies behind the exit."""
    enter: Tensor | None = None
    leave: Tensor | None = None
    for axis in range(len(origin)):
        inverse = 1.0 / torch.where(direction[axis].abs() < 1e-9, 1e-9, direction[axis])
        middle, reach = -origin[axis] * inverse, half[:, axis] * inverse.abs()
        enter = middle - reach if enter is None else torch.maximum(enter, middle - reach)
        leave = middle + reach if leave is None else torch.minimum(leave, middle + reach)
    assert enter is not None
    assert leave is not None
    return enter, leave


def _enter_room(origin: list[Tensor], direction: list[Tensor], half: Tensor) -> Tensor:
    return _slabs(origin, direction, half)[1]


def _hit_boxes(origin: list[Tensor], direction: list[Tensor], half: Tensor) -> Tensor:
    enter, leave = _slabs(origin, direction, half)
    return torch.where((enter < leave) & (enter > _NEAR), enter, torch.inf)


def _hit_ellipsoids(origin: list[Tensor], direction: list[Tensor], half: Tensor) -> Tensor:
    """An ellipsoid is the unit ball once every axis is divided by its half extent."""
    o = [part / half[:, axis] for axis, part in enumerate(origin)]
    d = [part / half[:, axis] for axis, part in enumerate(direction)]
    a = d[0].square() + d[1].square() + d[2].square()
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0].square() + o[1].square() + o[2].square() - 1
    discriminant = b * b - a * c
    enter = (-b - discriminant.clamp(min=0).sqrt()) / a
    return torch.where((discriminant > 0) & (enter > _NEAR), enter, torch.inf)


def _hit_cylinders(origin: list[Tensor], direction: list[Tensor], half: Tensor) -> Tensor:
    """A solid cylinder is an endless one cut by the slab of its height."""
    radius = half[:, 0]
    a = (direction[0].square() + direction[1].square()).clamp(min=1e-12)
    b = origin[0] * direction[0] + origin[1] * direction[1]
    c = origin[0].square() + origin[1].square() - radius.square()
    discriminant = b * b - a * c
    root = discriminant.clamp(min=0).sqrt()
    low, high = _slabs(origin[2:], direction[2:], half[:, 2:])
    enter, leave = torch.maximum((-b - root) / a, low), torch.minimum((-b + root) / a, high)
    return torch.where((discriminant > 0) & (enter < leave) & (enter > _NEAR), enter, torch.inf)


_HITS = (_hit_boxes, _hit_cylinders, _hit_ellipsoids)


def _shade(
    scene: Scene, group: int, solids: Solids, solid: Tensor, points: Tensor, directions: Tensor, pixel_width: Tensor
) -> Tensor:
    """Colour of surface points [N, 3] that lie on the given solids [N]: texture times lamp light."""
    object_from_world = solids.object_from_world[solid]
    half = solids.half[solid]
    local = torch.einsum('nij,nj->ni', object_from_world, points - solids.centre[solid])
    normal, face, u, v = (_on_box, _on_box, _on_cylinder, _on_ellipsoid)[group](local, half)
    if group == 0:
        normal = -normal  # the room is seen from inside
    normal = torch.einsum('nji,nj->ni', object_from_world, normal)
    texture = solids.texture[solid].gather(1, face[:, None])[:, 0]
    period, offset = solids.period[solid], solids.offset[solid]
    slant = (normal * directions).sum(-1).abs() / directions.norm(dim=-1)
    footprint = pixel_width / slant.clamp(min=0.25).sqrt() / period  # geometric mean of the pixel's two widths
    albedo = scene.atlas.sample(texture, u / period + offset[:, 0], v / period + offset[:, 1], footprint)
    light = scene.ambient.expand_as(points)
    mirrored = torch.zeros_like(points)
    gloss = None if scene.gloss is None else scene.gloss[texture][:, None]
    for position, strength in zip(scene.lamps, scene.lamp_colour, strict=True):
        to_lamp = position - points
        distance = to_lamp.norm(dim=-1, keepdim=True)
        facing = (normal * to_lamp).sum(-1, keepdim=True).clamp(min=0) / distance.clamp(min=1e-3)
        if scene.shadows:
            strength = strength * _lit(scene, position[None], (points + _OFF * normal - position)[None])[0]
        light = light + strength * facing * 4 / (2 + distance)  # falls off slowly: walls throw light back
        if gloss is not None:
            half_way = normalize(to_lamp / distance - normalize(directions, dim=-1), dim=-1)
            mirrored = mirrored + strength * gloss * (normal * half_way).sum(-1, keepdim=True).clamp(min=0) ** 40
    if scene.sun is not None:
        facing = (normal @ scene.sun.towards)[:, None].clamp(min=0)
        light = light + scene.sun.colour * facing * _sunlit(scene, scene.sun, points + _OFF * normal)
    return albedo * light + mirrored


def _lit(scene: Scene, light: Tensor, directions: Tensor) -> Tensor:
    """[S, R, 1] of 1.0 where nothing stands on rays [S, R, 3] from places of light [S, 3] to points, else 0.0."""
    clear = torch.ones(directions.shape[:2], dtype=torch.bool, device=directions.device)
    for solids, hit in zip((scene.boxes, scene.cylinders, scene.ellipsoids), _HITS, strict=True):
        if len(solids):
            clear &= _nearest(solids, hit, light, directions)[0] > 1 - 1e-4  # at 1 of the ray's length is the point
    return clear.to(directions)[..., None]


def _sunlit(scene: Scene, sun: Sun, points: Tensor) -> Tensor:
    """[N, 1] of 1.0 where the sun reaches points [N, 3] through the window, else 0.0."""
    room = scene.room
    way_out = _enter_room(list((points - room.centre[0]).T[..., None]), list(sun.towards[:, None, None]), room.half)
    leaves = points + way_out * sun.towards
    through = ((leaves > sun.window[0]) & (leaves < sun.window[1])).all(dim=-1)
    lit = torch.zeros_like(points[:, :1])
    if through.any():
        start = points[through]
        light = start + (way_out[through] - _BEHIND_THE_PANE).clamp(min=0.01) * sun.towards
        lit[through] = _lit(scene, light, (start - light)[:, None])[:, 0]
    return lit


def _on_box(local: Tensor, half: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outward normal, face number and the two coordinates along the face, metres."""
    axis = (local.abs() / half).argmax(dim=-1)
    positive = local.gather(1, axis[:, None])[:, 0] > 0
    normal = torch.nn.functional.one_hot(axis, 3).to(local) * (positive.to(local) * 2 - 1)[:, None]
    u = torch.where(axis == 0, local[:, 1], local[:, 0])
    v = torch.where(axis == 2, local[:, 1], local[:, 2])
    return normal, 2 * axis + positive.long(), u, v


def _on_cylinder(local: Tensor, half: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y, z = local.unbind(-1)
    cap = (z.abs() / half[:, 2]) > (x * x + y * y).sqrt() / half[:, 0]
    zero = torch.zeros_like(x)
    side_normal = torch.stack((x, y, zero), dim=-1) / half[:, :1]
    cap_normal = torch.stack((zero, zero, z.sign()), dim=-1)
    normal = torch.where(cap[:, None], cap_normal, side_normal)
    u = torch.where(cap, x, torch.atan2(y, x) * half[:, 0])
    v = torch.where(cap, y, z)
    return normal, torch.where(cap, 5, 0), u, v


def _on_ellipsoid(local: Tensor, half: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    normal = normalize(local / half.square(), dim=-1)
    unit = local / half
    u = torch.atan2(unit[:, 1], unit[:, 0]) * half[:, 0]
    v = torch.asin(unit[:, 2].clamp(-1, 1)) * half[:, 2]
    return normal, torch.zeros_like(u, dtype=torch.long), u, v
