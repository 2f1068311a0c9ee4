"""Views: what shows nothing new is not remembered, what is remembered covers the map, and memory is bounded."""

from __future__ import annotations

import tracemalloc

import numpy as np
import scene
from scipy.spatial.transform import Rotation

from vggt_ros.core.config import Config, MapConfig
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, Sim3, move_points, unproject_pixels
from vggt_ros.core.submap import PlacedFrame
from vggt_ros.core.views import View, Views

CONFIG = MapConfig()


def frame_of(map_from_cam: np.ndarray, index: int = 0, depth: np.ndarray | None = None) -> PlacedFrame:
    """A camera in the room, 100 columns wide."""
    size, K = (75, 100), scene.K * [[100 / 48], [100 / 48], [1]]
    depth = scene.render(map_from_cam, K, size) if depth is None else depth
    return PlacedFrame(
        stamp_ns=scene.START_NS + index * scene.FRAME_NS,
        frame_id='camera',
        image=np.zeros((*depth.shape, 3), np.uint8),
        depth=depth.astype(np.float32),
        confidence=np.ones(depth.shape, np.float32),
        K=K,
        map_from_cam=map_from_cam,
        covariance=np.eye(6),
    )


def test_a_standing_camera_is_remembered_once():
    views, rng = Views(CONFIG), np.random.default_rng(0)
    for i in range(60):
        pose = scene.look(rng.normal(0, 0.01, 3), rng.normal(0, 1))  # a centimetre and a degree of noise
        views.add(frame_of(pose, i))
    assert len(views) == 1


def test_the_very_same_view_is_remembered_once():
    """Whatever it looks at: a product of unit vectors may be more than 1 by rounding."""
    depth = np.full((75, 100), 2.0)
    for yaw in range(0, 360, 5):
        views, pose = Views(CONFIG), scene.look([0.1, 0.2, 0.3], yaw, 17.0)
        assert [views.add(frame_of(pose, i, depth)) for i in range(2)] == [True, False]


def test_a_turn_on_the_spot_is_remembered_all_round():
    views = Views(CONFIG)
    kept = [views.add(frame_of(scene.look([0, 0, 0], yaw), i)) for i, yaw in enumerate(range(0, 720, 5))]
    assert 24 <= sum(kept) == len(views) <= 36  # every 10 to 15 degrees, and nothing on the second round
    yaws = sorted(np.degrees(np.arctan2(view.map_from_cam[0, 2], view.map_from_cam[2, 2])) % 360 for view in views)
    assert np.diff([*yaws, yaws[0] + 360]).max() < 15.1


def test_a_second_lap_adds_nothing_and_a_step_aside_does():
    views = Views(CONFIG)
    for i, pose in enumerate(scene.walk(60)):
        views.add(frame_of(pose, i))
    first = len(views)
    for i, pose in enumerate(scene.walk(60)):
        assert not views.add(frame_of(pose, 60 + i))
    aside = scene.walk(1)[0]
    aside[1, 3] -= 1.2
    assert views.add(frame_of(aside, 120))
    assert len(views) == first + 1


def test_what_is_remembered_covers_what_was_seen():
    """Of the 20 cm voxels that all 240 frames of a walk with glances show, at least 97 % show in the views kept."""
    rng = np.random.default_rng(1)
    walk = scene.walk(240)
    glances = Rotation.from_euler('y', rng.normal(0, 20, (240, 1)), degrees=True)
    walk[:, :3, :3] = walk[:, :3, :3] @ glances.as_matrix()
    views, seen = Views(CONFIG), set()
    for i, pose in enumerate(walk):
        frame = frame_of(pose, i)
        seen |= voxels(View.of(frame))
        views.add(frame)
    assert len(views) < 0.75 * 240
    covered = set().union(*(voxels(view) for view in views))
    assert len(covered & seen) / len(seen) > 0.97


def voxels(view: View) -> set[tuple[int, ...]]:
    v, u = np.nonzero(np.isfinite(view.depth))
    K = view.K / [[view.stride], [view.stride], [1.0]]
    points = move_points(view.map_from_cam, unproject_pixels(u, v, view.depth[v, u].astype(np.float64), K))
    return set(map(tuple, np.floor(points / 0.2).astype(int)))


def test_their_number_is_bounded_and_the_one_most_like_another_goes():
    views = Views(MapConfig(map_max_views=3))
    for i, x in enumerate((0.0, 10.0, 20.0, 19.0)):  # the last two are alike, at a depth of 2
        pose = np.eye(4)
        pose[0, 3] = x
        views.add(frame_of(pose, i, np.full((75, 100), 2.0)))
    places = [view.map_from_cam[0, 3] for view in views]
    assert len(places) == 3
    assert places[:2] == [0.0, 10.0]
    assert places[2] in (19.0, 20.0)


def test_memory_stays_flat_however_long_the_way():
    views = Views(MapConfig(map_max_views=50))
    depth = np.full((75, 100), 2.0)
    tracemalloc.start()
    sizes = []
    for i in range(300):
        pose = np.eye(4)
        pose[0, 3] = i
        views.add(frame_of(pose, i, depth))
        if i in (100, 299):
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert len(views) == 50
    assert sizes[1] < 1.05 * sizes[0]
    assert sum(view.depth.nbytes for view in views) / 50 < 12_300


def test_a_frame_that_shows_nothing_is_not_remembered():
    assert not Views(CONFIG).add(frame_of(np.eye(4), depth=np.full((75, 100), np.nan)))


def test_views_go_along_when_the_map_is_scaled():
    views = Views(CONFIG)
    views.add(frame_of(BODY_FROM_OPTICAL, depth=np.full((75, 100), 2.0)))
    views.move(Sim3(3.0, np.eye(3), np.array([1.0, 0, 0])))
    (view,) = views
    np.testing.assert_allclose(view.map_from_cam[:3, 3], [1, 0, 0])
    assert view.median_depth == 6.0
    pose = BODY_FROM_OPTICAL.copy()
    pose[0, 3] = 1.4  # 0.4 of 6 is near now; of 2 it was far
    assert not views.add(frame_of(pose, 1, np.full((75, 100), 6.0)))


def test_thumbnails_are_pixels_of_the_depth_image():
    frame = frame_of(scene.walk(1)[0])
    view = View.of(frame)
    assert view.stride == 2
    np.testing.assert_array_equal(view.depth, frame.depth[::2, ::2])
    assert (view.size, Config().map.map_max_views) == ((75, 100), 4096)
