"""The renderer against geometry that is known without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import training.renderer
from training.homes import make_home
from training.paths import cam_from_world, draw_path, tumble
from training.renderer import render
from training.scenes import Scene, Solids, Sun, make_empty_room, make_scene, scatter
from training.textures import TextureAtlas, draw_textures
from training.windows import HELD_BACK_SEED, make_window
from vggt.geometry import invert_rigid, project_points, world_points_from_depth

LOOK_ALONG_X = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # rows: right, down, forward in a world with z up


def solids(*placed: tuple[tuple[float, ...], tuple[float, ...]]) -> Solids:
    """Upright solids from (centre, half extents) pairs."""
    count = len(placed)
    return Solids(
        centre=torch.tensor([c for c, _ in placed]).reshape(count, 3),
        object_from_world=torch.eye(3).expand(count, 3, 3),
        half=torch.tensor([h for _, h in placed]).reshape(count, 3),
        texture=torch.zeros(count, 6, dtype=torch.long),
        period=torch.ones(count),
        offset=torch.zeros(count, 2),
    )


def scene(**parts: Solids) -> Scene:
    """An 8 x 6 x 4 m room, its centre above the origin, with the given solids."""
    nothing = solids()
    return Scene(
        room=solids(((0.0, 0.0, 2.0), (4.0, 3.0, 2.0))),
        boxes=parts.get('boxes', nothing),
        cylinders=parts.get('cylinders', nothing),
        ellipsoids=parts.get('ellipsoids', nothing),
        atlas=TextureAtlas.build(torch.full((1, 3, 128, 128), 0.5)),
        lamps=torch.tensor([[0.0, 0.0, 3.9]]),
        lamp_colour=torch.ones(1, 3),
        ambient=torch.full((3,), 0.5),
    )


def depth_along_x(world: Scene, eye: tuple[float, float, float] = (0.0, 0.0, 2.0)) -> float:
    """Depth through the principal point of a camera that looks along world x."""
    translation = -LOOK_ALONG_X @ torch.tensor(eye)
    K = torch.tensor([[[50.0, 0, 0], [0, 50.0, 0], [0, 0, 1]]])  # the only pixel is the principal point
    _, depth = render(world, torch.cat((LOOK_ALONG_X, translation[:, None]), 1)[None], K, (1, 1))
    return float(depth)


@pytest.mark.parametrize(
    'parts,expected',
    [
        ({}, 4.0),
        ({'boxes': solids(((2.0, 0.0, 2.0), (0.5, 0.5, 0.5)))}, 1.5),
        ({'cylinders': solids(((2.0, 0.0, 2.0), (0.3, 0.3, 0.5)))}, 1.7),
        ({'ellipsoids': solids(((2.0, 0.0, 2.0), (0.4, 1.0, 1.0)))}, 1.6),
        ({'boxes': solids(((-2.0, 0.0, 2.0), (0.5, 0.5, 0.5)))}, 4.0),  # behind the camera
        ({'boxes': solids(((2.0, 0.0, 2.0), (0.5,) * 3)), 'ellipsoids': solids(((1.0, 0.0, 2.0), (0.1,) * 3))}, 0.9),
        ({'cylinders': solids(((2.0, 0.0, 0.5), (0.3, 0.3, 0.5)))}, 4.0),  # lower than the ray
    ],
)
def test_nearest_surface_is_at_its_true_distance(parts: dict[str, Solids], expected: float) -> None:
    assert depth_along_x(scene(**parts)) == pytest.approx(expected, abs=1e-5)  # a few float32 roundings at metres


def test_depth_is_along_the_axis_and_not_along_the_ray() -> None:
    K = torch.tensor([[[40.0, 0, 32.0], [0, 40.0, 24.0], [0, 0, 1]]])
    camera = torch.cat((LOOK_ALONG_X, -LOOK_ALONG_X @ torch.tensor([[0.0], [0.0], [2.0]])), 1)[None]
    _, depth = render(scene(), camera, K, (48, 64))
    wall = depth[0, 20:28, 20:44]  # rays that end on the wall x = 4
    assert torch.allclose(wall, torch.full_like(wall, 4.0), atol=1e-5)


def test_a_brighter_lamp_gives_a_brighter_picture_and_no_other_depth() -> None:
    K = torch.tensor([[[40.0, 0, 32.0], [0, 40.0, 24.0], [0, 0, 1]]])
    camera = torch.cat((LOOK_ALONG_X, -LOOK_ALONG_X @ torch.tensor([[0.0], [0.0], [2.0]])), 1)[None]
    dim = scene()
    bright = Scene(**{**vars(dim), 'lamp_colour': 2 * dim.lamp_colour})
    (dim_colour, dim_depth), (bright_colour, bright_depth) = (render(s, camera, K, (48, 64)) for s in (dim, bright))
    assert (bright_colour >= dim_colour).all()
    assert bright_colour.mean() > 1.1 * dim_colour.mean()
    assert torch.equal(dim_depth, bright_depth)


def colour_of(world: Scene, point: tuple[float, float, float], eye: tuple[float, float, float]) -> float:
    """What a camera at `eye` sees of a place that nothing hides from it."""
    way = np.subtract(point, eye)
    yaw, pitch = np.arctan2(way[1], way[0]), -np.arctan2(way[2], np.hypot(way[0], way[1]))
    camera = torch.from_numpy(cam_from_world(np.array(eye), yaw, pitch, 0.0)).float()
    K = torch.tensor([[[50.0, 0, 0], [0, 50.0, 0], [0, 0, 1]]])
    colour, depth = render(world, camera[None], K, (1, 1))
    assert float(depth) == pytest.approx(np.linalg.norm(way), abs=1e-4)
    return float(colour[0, 0])


def test_a_box_under_the_lamp_throws_its_shadow_on_the_floor() -> None:
    """Half a metre wide each way, 1.4 m under a lamp at 3.9 m: by the intercept theorem 1.39 m on the floor."""
    lit = scene(boxes=solids(((0.0, 0.0, 2.0), (0.5, 0.5, 0.5))))
    shaded, eye = replace(lit, shadows=True), (3.0, 0.5, 1.0)
    assert colour_of(lit, (1.3, 0.0, 0.0), eye) > 0.3
    assert colour_of(shaded, (1.3, 0.0, 0.0), eye) == pytest.approx(0.25)  # half of the ambient light, 0.5
    assert colour_of(shaded, (1.5, 0.0, 0.0), eye) == colour_of(lit, (1.5, 0.0, 0.0), eye)


def test_the_sun_shines_on_the_floor_where_its_window_lets_it() -> None:
    """At 45 degrees through a window 1 to 2 m above the floor: 1 to 2 m from the wall, unless something is between."""
    towards = torch.tensor([0.0, -1.0, 1.0]) / 2**0.5
    window = torch.tensor([[-0.5, -3.05, 1.0], [0.5, -2.95, 2.0]])
    dark = replace(scene(), sun=None)
    sunny = replace(dark, sun=Sun(towards, torch.ones(3), window))
    hidden = replace(sunny, boxes=solids(((0.0, -2.25, 0.75), (0.2, 0.05, 0.2))))
    eye, facing = (1.5, 1.0, 1.0), 0.5 / 2**0.5  # half of the light, which meets the floor at 45 degrees
    for place, gain in (((0.0, -1.5), facing), ((0.4, -1.9), facing), ((0.0, -0.9), 0.0), ((0.7, -1.5), 0.0)):
        before, after = (colour_of(world, (*place, 0.0), eye) for world in (dark, sunny))
        assert after - before == pytest.approx(gain, abs=1e-5)
    assert colour_of(hidden, (0.0, -1.5, 0.0), eye) == pytest.approx(colour_of(dark, (0.0, -1.5, 0.0), eye))


def test_what_is_glossy_mirrors_the_lamp_to_whoever_stands_right() -> None:
    """The lamp at 3.9 m over the origin, the eye as high: the mirror lies half way."""
    matt = scene()
    glossy, eye = replace(matt, gloss=torch.tensor([0.5])), (2.0, 0.0, 3.9)
    gain = [colour_of(glossy, (x, 0.0, 0.0), eye) - colour_of(matt, (x, 0.0, 0.0), eye) for x in (-2.0, 1.0, 3.9)]
    assert gain[1] == pytest.approx(0.5, rel=1e-3)
    assert max(gain[0], gain[2]) < gain[1] / 2


def test_in_a_home_the_camera_looks_at_a_piece_of_furniture() -> None:
    seen, steps = 0, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        world, sights = make_home(rng)
        path = draw_path(rng, world, 8, 1.1, sights)
        centres = -np.einsum('sji,sj->si', path[:, :, :3], path[:, :, 3])
        assert world.clearance(centres).min() > 0.2
        inside = np.abs(centres - world.room.centre[0].numpy()) < world.room.half[0].numpy()
        assert inside.all()
        rays = sights @ path[0, :, :3].T + path[0, :, 3]
        seen += bool(((rays[:, 2] > 0.3) & (np.abs(rays[:, :2] / rays[:, 2:]) < np.tan(0.55)).all(axis=1)).any())
        steps.append(np.linalg.norm(np.diff(centres, axis=0), axis=1).mean())
    assert seen >= 34
    assert 0.02 < np.median(steps) < 0.5  # metres: someone walks


@pytest.mark.parametrize('is_home', [False, True])
@pytest.mark.parametrize('seed', range(4))
def test_every_visible_point_is_met_again_from_another_camera(seed: int, is_home: bool) -> None:
    """Aim a one-pixel camera of frame 5 at points of frame 0: it sees that very point or something in front of it."""
    rng = np.random.default_rng(seed)
    world, sights = make_home(rng) if is_home else (make_scene(rng), None)
    path = torch.from_numpy(draw_path(rng, world, 8, 1.1, sights)).float()
    K = torch.tensor([[60.0, 0, 32.0], [0, 60.0, 24.0], [0, 0, 1]])
    _, depth = render(world, path[:1], K[None], (48, 64))
    points = world_points_from_depth(depth, path[:1], K[None])[0, ::4, ::4].reshape(-1, 3).float()
    pixels, in_camera = project_points(points, path[5:6], K[None])
    ahead = in_camera[0, :, 2] > 0.1
    aimed = K.repeat(int(ahead.sum()), 1, 1)
    aimed[:, :2, 2] -= pixels[0, ahead]  # the pixel (0, 0) of each is where the point falls
    _, found = render(world, path[5:6].expand(len(aimed), 3, 4), aimed, (1, 1))
    ratio = found[:, 0, 0] / in_camera[0, ahead, 2]
    # float32 at metres, over one unprojection, two rigid transforms and a ray: some 1e-6, more at grazing incidence.
    assert ratio.max() < 1 + 2e-3
    assert ((ratio - 1).abs() < 2e-4).float().mean() > 0.6  # the rest is hidden from there


def test_texture_sticks_to_the_surface() -> None:
    """The same place has the same colour from two distances, up to what the coarser mip level averages."""
    world = scene(boxes=solids(((2.5, 0.0, 2.0), (0.5, 1.5, 1.5))))
    textured = Scene(**{**vars(world), 'atlas': draw_textures(np.random.default_rng(3), 1)})
    K = torch.tensor([[60.0, 0, 32.0], [0, 60.0, 24.0], [0, 0, 1]]).expand(2, 3, 3)
    eyes = torch.tensor([[0.0, 0.0, 2.0], [0.3, 0.25, 2.1]])
    cameras = torch.cat((LOOK_ALONG_X.expand(2, 3, 3), -(LOOK_ALONG_X @ eyes[..., None])), dim=2)
    colour, depth = render(textured, cameras, K, (48, 64))
    points = world_points_from_depth(depth, cameras, K)[0].reshape(-1, 3).float()
    pixels, _ = project_points(points, cameras[1:], K[1:])
    u, v = pixels[0].unbind(-1)
    inside = (u > 1) & (u < 62) & (v > 1) & (v < 46)
    grid = torch.stack((u / 31.5 - 1, v / 23.5 - 1), dim=-1)[None, None]
    there = torch.nn.functional.grid_sample(colour[1:], grid, align_corners=True)[0, :, 0, inside]
    here = colour[0].flatten(1)[:, inside]
    assert torch.corrcoef(torch.stack((here.flatten(), there.flatten())))[0, 1] > 0.9


def test_same_seed_same_window_and_another_seed_another() -> None:
    first, again, other = make_window(7, frames=2), make_window(7, frames=2), make_window(8, frames=2)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.depth, again.depth)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize(
    'seed, scenery',
    [
        (0, 'furnished'),
        (1, 'furnished'),
        (HELD_BACK_SEED, 'furnished'),
        (0, 'scattered'),
        (1, 'scattered'),
        (0, 'bare'),
        (0, 'home'),
        (1, 'home'),
        (0, 'walk'),
    ],
)
def test_window_is_complete_and_its_cameras_are_rigid(seed: int, scenery: str) -> None:
    window = make_window(seed, scenery=scenery)
    rotation = window.cam_from_world[:, :, :3]
    assert torch.isfinite(window.depth).all()
    assert (window.depth > 0).all()
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(8, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(8), atol=1e-5)
    assert torch.equal(window.K[:, :2, 2], torch.tensor([64.0, 48.0]).expand(8, 2))  # VGGT's principal point


def test_camera_angles_mean_what_they_say() -> None:
    eye = np.zeros(3)
    ahead, left, below = np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([1.0, 0, -1.0])
    assert cam_from_world(eye, 0, 0, 0)[:, :3] @ ahead == pytest.approx([0, 0, 1])
    assert cam_from_world(eye, np.pi / 2, 0, 0)[:, :3] @ left == pytest.approx([0, 0, 1])
    assert cam_from_world(eye, 0, np.pi / 4, 0)[:, :3] @ below == pytest.approx([0, 0, np.sqrt(2)])
    assert (cam_from_world(eye, 0, 0, 0)[:, :3] @ left)[0] < 0  # the optical frame's x is right


def test_paths_stay_in_free_space_and_keep_a_shared_view() -> None:
    fov, cleared = 1.0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        world = make_scene(rng)
        path = draw_path(rng, world, 8, fov)
        centres = -np.einsum('sji,sj->si', path[:, :, :3], path[:, :, 3])
        cleared += world.clearance(centres).min() > 0.2
        cosine = (path[:, None, 2, :3] * path[None, :, 2, :3]).sum(-1)
        assert np.arccos(cosine.clip(-1, 1)).max() < fov  # yaw and pitch are each held to 0.65 of it
    assert cleared >= 38  # a crowded room may leave no way out after the last try


def test_on_a_walk_the_camera_goes_ahead_and_nothing_comes_nearer_on_average() -> None:
    ahead, nearer, turns = [], [], []
    for seed in range(40):
        window = make_window(seed, scenery='walk')
        first_from_last = window.cam_from_world[0] @ invert_rigid(window.cam_from_world[-1])
        assert first_from_last[:, 3].norm() > 0.1  # nobody stands still
        ahead.append(float(first_from_last[2, 3]))
        nearer.append(float(window.depth[0].log().mean() - window.depth[-1].log().mean()))
        cosine = window.cam_from_world[0, 2, :3] @ window.cam_from_world[-1, 2, :3]
        turns.append(float(torch.arccos(cosine) / (2 * torch.arctan(64 / window.K[0, 0, 0]))))
    assert np.median(ahead) > 0.4  # metres
    assert abs(np.median(nearer)) < 0.1
    assert max(turns) < 0.95  # of the field of view


def test_among_scattered_solids_neither_up_nor_size_tells_of_depth() -> None:
    """Gravity points anywhere in the picture, and a solid fills as much of it near as far."""
    down, depths, angles = [], [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        empty = make_empty_room(rng)
        path = tumble(rng, empty, draw_path(rng, empty, 8, 1.0))
        world = scatter(rng, empty, path, 1.0)
        centres = -np.einsum('sji,sj->si', path[:, :, :3], path[:, :, 3])
        assert world.clearance(centres).min() > 0.1
        down.append(-path[0, :, 2])
        for solid in (world.boxes, world.cylinders, world.ellipsoids):
            away = np.linalg.norm(solid.centre.numpy()[:, None] - centres, axis=2).min(axis=1)
            depths += away.tolist()
            angles += (solid.half.norm(dim=1).numpy() / away).tolist()
    assert np.linalg.norm(np.mean(down, axis=0)) < 0.5  # 1 where all of them agree
    assert len(depths) > 100
    assert abs(np.corrcoef(np.log(depths), np.log(angles))[0, 1]) < 0.5


def test_a_bare_room_shows_less_and_a_scenery_that_is_none_is_named() -> None:
    """Half of a painted room has no edges that could be followed: the step from pixel to pixel is the noise's."""

    def still(scenery: str) -> float:
        pictures = torch.cat([make_window(seed, frames=1, scenery=scenery).images for seed in range(12)]).float()
        return float((pictures.mean(1).diff(dim=2).abs() < 6).float().mean())

    assert still('bare') > still('furnished') + 0.1
    with pytest.raises(ValueError, match="furnished, bare, scattered, home, walk, got 'none'"):
        make_window(0, scenery='none')


@pytest.mark.parametrize('seed', [0, 4, 5, 8])
def test_solids_that_are_left_out_are_met_by_no_ray(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home with every solid asked about every ray, as on a GPU: the same depth, shadows and daylight."""
    rng = np.random.default_rng(seed)
    home, sights = make_home(rng)
    assert len(home.boxes) >= training.renderer._MANY
    path = torch.from_numpy(draw_path(rng, home, 3, 1.3, sights)).float()
    K = torch.tensor([[50.0, 0, 50.0], [0, 50.0, 35.0], [0, 0, 1]]).expand(3, 3, 3)
    colour, depth = render(home, path, K, (70, 100))  # no multiple of a tile
    monkeypatch.setattr(training.renderer, '_MANY', 10_000)
    expected_colour, expected_depth = render(home, path, K, (70, 100))
    torch.testing.assert_close(depth, expected_depth, rtol=1e-5, atol=1e-5)
    assert ((colour - expected_colour).abs() > 1e-3).float().mean() < 1e-3  # an edge of a shadow may round


def test_the_suns_rays_are_asked_for_in_lots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of one direction but for rounding, and of other lengths: one by one a picture takes a minute."""
    asked: list[int] = []
    near = training.renderer._near

    def counted(solids: Solids, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        asked.append(len(directions))
        return near(solids, origins, directions)

    monkeypatch.setattr(training.renderer, '_near', counted)
    rng = np.random.default_rng(900_300)
    home, sights = make_home(rng)
    assert home.sun is not None
    path = torch.from_numpy(draw_path(rng, home, 8, np.radians(rng.uniform(45, 85)), sights)).float()
    K = torch.tensor([[110.0, 0, 64.0], [0, 110.0, 48.0], [0, 0, 1]]).expand(8, 3, 3)
    colour, _ = render(home, path, K, (96, 128))
    dark, _ = render(replace(home, sun=None), path, K, (96, 128))
    assert (colour > dark + 0.05).float().mean() > 0.01  # it shines into the picture
    assert len(asked) < 1500
