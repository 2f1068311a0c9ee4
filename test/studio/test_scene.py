"""Filters and the GLB: as the reference's, and as a visitor expects of what the reference has not."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
from typing import Any

import numpy as np
import pytest
import trimesh
from golden import load_arrays, load_json
from material import wall

from vggt_ros.studio.cones import camera_cone
from vggt_ros.studio.predictions import Predictions
from vggt_ros.studio.scene import MAX_SOLID_POINTS, View, glb, make_scene, select_cloud
from vggt_ros.studio.sky import is_sky

# Inverses and products are in float64 here and partly float32 there; coordinates reach 6.
NEAR = 1e-6
CASES = load_json('glb.json')


def golden_predictions(arrays: dict[str, np.ndarray]) -> Predictions:
    cam_from_world = np.tile(np.eye(4), (len(arrays['pred_extrinsic']), 1, 1))
    cam_from_world[:, :3] = arrays['pred_extrinsic']
    return Predictions(
        names=('a.png', 'b.png', 'c.png'),
        stamps_ns=np.arange(3),
        images=(np.moveaxis(arrays['pred_images'], 1, -1) * 255).astype(np.uint8),
        depth=arrays['pred_depth'][..., 0],
        confidence=arrays['pred_depth_conf'],
        cam_from_world=cam_from_world,
        K=arrays['pred_intrinsic'].astype(np.float64),
        world_points=arrays['pred_world_points'],
        world_points_confidence=arrays['pred_world_points_conf'],
    )


def golden_view(kwargs: dict[str, Any]) -> View:
    frame = kwargs.get('filter_by_frames')
    return View(
        branch='points' if 'Pointmap' in kwargs['prediction_mode'] else 'depth',
        confidence=kwargs['conf_thres'],
        frame=int(frame.split(':')[0]) if frame else None,
        show_cameras=kwargs.get('show_cam', True),
        show_path=False,
        mask_black=kwargs.get('mask_black_bg', False),
        mask_white=kwargs.get('mask_white_bg', False),
    )


@pytest.mark.parametrize('case', sorted(CASES))
def test_scene_equals_the_reference(case: str) -> None:
    arrays, description = load_arrays('glb.npz'), CASES[case]
    predictions, view = golden_predictions(arrays), golden_view(description['kwargs'])
    cloud = select_cloud(predictions, view)
    scene = make_scene(predictions, view, cloud)
    assert len(cloud.xyz) == description['n_points']
    np.testing.assert_allclose(cloud.xyz, arrays[f'{case}_points'], atol=NEAR)
    np.testing.assert_array_equal(cloud.rgb, arrays[f'{case}_colors'][:, :3])
    np.testing.assert_allclose(scene.graph.get('cloud')[0], arrays[f'{case}_node_transform'], atol=NEAR)
    cones = [scene.geometry[name] for name in sorted(scene.geometry) if name.startswith('camera')]
    assert len(cones) == description['n_cam_meshes']
    for i, cone in enumerate(cones):
        np.testing.assert_allclose(cone.vertices, arrays[f'{case}_cam{i}_vertices'], atol=NEAR)
        assert list(cone.faces.shape) == description['cam_faces'][i]
        np.testing.assert_array_equal(cone.visual.face_colors[0], description['cam_colors'][i])


def test_points_lifted_here_are_those_of_the_reference() -> None:
    arrays = load_arrays('glb.npz')
    predictions = golden_predictions(arrays)
    points = np.stack([predictions.points_from_depth(i) for i in range(3)])
    np.testing.assert_allclose(points, arrays['pred_world_points_from_depth'], atol=NEAR)


def test_every_sliver_of_a_cone_has_an_area() -> None:
    vertices, faces = camera_cone(1.0)
    a, b, c = vertices[faces].swapaxes(0, 1)
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).min() > 1e-6


def test_wall_stands_two_units_ahead() -> None:
    cloud = select_cloud(wall(), View(confidence=0))
    assert len(cloud.xyz) == 3 * 12 * 16
    np.testing.assert_allclose(cloud.xyz[:, 2], 2.0)


def test_confidence_keeps_the_upper_share() -> None:
    cloud = select_cloud(wall(), View(confidence=50))
    assert len(cloud.xyz) == 3 * 12 * 8
    assert cloud.rgb[:, 0].min() > select_cloud(wall(), View(confidence=0)).rgb[:, 0].min()


def test_point_branch_takes_the_point_head_and_without_one_the_depth() -> None:
    behind = select_cloud(wall(points=True), View(branch='points', confidence=0))
    np.testing.assert_allclose(behind.xyz[:, 2], 3.0)
    np.testing.assert_allclose(select_cloud(wall(), View(branch='points', confidence=0)).xyz[:, 2], 2.0)


def test_unknown_depth_never_becomes_a_point() -> None:
    predictions = wall()
    predictions.depth[1], predictions.confidence[1] = np.nan, np.nan
    cloud = select_cloud(predictions, View(confidence=0))
    assert len(cloud.xyz) == 2 * 12 * 16
    assert np.isfinite(cloud.xyz).all()


def test_nothing_left_is_one_white_point() -> None:
    predictions = wall()
    predictions.depth[:] = predictions.confidence[:] = np.nan
    cloud = select_cloud(predictions, View())
    np.testing.assert_array_equal(cloud.xyz, [[1, 0, 0]])
    np.testing.assert_array_equal(cloud.rgb, [[255, 255, 255]])


def test_a_voxel_keeps_one_point() -> None:
    cloud = select_cloud(wall(), View(confidence=0, voxel_size=0.5))
    cells = np.floor(cloud.xyz / 0.5)
    assert len(np.unique(cells, axis=0)) == len(cells) < 3 * 12 * 16


def test_point_size_is_a_share_of_the_scene() -> None:
    view = View(confidence=0, point_size=20, show_cameras=False, show_path=False)
    cloud = select_cloud(wall(), view)
    mesh = make_scene(wall(), view, cloud).geometry['cloud']
    assert len(mesh.faces) == 4 * len(cloud.xyz)
    solids = mesh.vertices.reshape(-1, 4, 3)
    np.testing.assert_allclose(solids.mean(axis=1), cloud.xyz, atol=1e-9)
    radii = np.linalg.norm(solids - solids.mean(axis=1, keepdims=True), axis=-1)
    np.testing.assert_allclose(2 * radii, 0.02 * cloud.scale, rtol=1e-9)


def test_solid_points_are_bounded() -> None:
    large = wall(8, (160, 200))
    view = View(confidence=0, point_size=5, show_cameras=False, show_path=False)
    assert len(make_scene(large, view).geometry['cloud'].faces) <= 4 * MAX_SOLID_POINTS


def test_glb_is_read_back_and_needs_no_lamp() -> None:
    data = glb(make_scene(wall(), View(confidence=0, point_size=10)))
    scene = trimesh.load(io.BytesIO(data), file_type='glb')
    assert {'cloud', 'camera_0', 'camera_1', 'camera_2', 'path'} <= set(scene.geometry)
    length = struct.unpack('<I', data[12:16])[0]
    tree = json.loads(data[20 : 20 + length])
    assert 'KHR_materials_unlit' in tree['extensionsUsed']


def test_scene_is_y_up_with_the_image_upright() -> None:
    view = View(confidence=0, show_cameras=False, show_path=False)
    scene = make_scene(wall(1), view)
    turned = trimesh.transform_points(scene.geometry['cloud'].vertices, scene.graph.get('cloud')[0]).reshape(12, 16, 3)
    assert (np.diff(turned[:, 0, 1]) < 0).all()  # from the upper row down
    assert (np.diff(turned[0, :, 0]) < 0).all()  # +x is left of a viewer that looks along +z, as glTF has it
    np.testing.assert_allclose(turned[..., 2], 2.0, atol=1e-9)


def test_sky_is_the_bright_smooth_part_that_reaches_the_top() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    image[:30] = (120, 170, 230)
    image[30:] = np.random.default_rng(0).integers(20, 120, (30, 80, 3))
    image[40:50, 20:40] = (120, 170, 230)  # a pond is not sky
    sky = is_sky(image)
    assert sky[:29].all()
    assert not sky[34:].any()
    predictions = wall(1, (60, 80))
    predictions = dataclasses.replace(predictions, images=image[None])
    shown = select_cloud(predictions, View(confidence=0, mask_sky=True))
    assert len(shown.xyz) == (~sky).sum()


def test_a_room_has_no_sky() -> None:
    image = np.random.default_rng(1).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    assert not is_sky(image).any()
