"""Predictions and what a user chose to see -> the cloud, and one GLB scene. The network does not run again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vggt_ros.clouds import first_in_voxel
from vggt_ros.core.geometry import invert_rigid, move_points
from vggt_ros.core.sky import sky_pixels
from vggt_ros.studio.cones import camera_cone, rainbow
from vggt_ros.studio.predictions import Predictions
from vggt_ros.studio.sky import is_sky

LEAST_CONFIDENCE = 1e-5  # docs/network_facts.md, sec. 10, step 5
BLACK_BELOW, WHITE_ABOVE = 16, 240  # sum of the three, and each of the three; step 6
MAX_SOLID_POINTS = 150_000  # points drawn as solids; a browser on a small machine turns these smoothly
# OpenGL is y up and looks along -z; then half a turn about y, so that a viewer stands behind the camera. Step 9.
OPENGL_FROM_OPTICAL = np.diag([1.0, -1.0, -1.0, 1.0])
HALF_TURN = np.diag([-1.0, 1.0, -1.0, 1.0])
# A tetrahedron with its centre at the origin and its corners at distance 1.
_TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
_FACES = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
_PATH_COLOUR = (30, 110, 255, 255)


@dataclass(frozen=True)
class View:
    """What a user chose to see.

    Args:
        branch: 'depth' lifts depth through the cameras, 'points' takes the point head's own points.
        confidence: this percentile of confidence and above is shown, in 0..100.
        frame: show this frame alone; None shows all.
        show_cameras, show_path: draw them.
        mask_sky, mask_black, mask_white: leave out what looks like sky, and nearly black or white pixels.
        voxel_size: edge of a voxel that keeps one point, world units; 0 keeps all.
        point_size: size of a point in thousandths of the scene; 0 draws points of one pixel, as the original does.
    """

    branch: str = 'depth'
    confidence: float = 50.0
    frame: int | None = None
    show_cameras: bool = True
    show_path: bool = True
    mask_sky: bool = False
    mask_black: bool = False
    mask_white: bool = False
    voxel_size: float = 0.0
    point_size: float = 0.0


@dataclass(frozen=True, eq=False)
class Cloud:
    """What is left after the filters.

    Args:
        xyz: [N, 3] float64 points in the world.
        rgb: [N, 3] uint8 colours.
        scale: size of the scene: the diagonal between the 5th and 95th percentiles; 1 where nothing is left.
    """

    xyz: np.ndarray
    rgb: np.ndarray
    scale: float


def select_cloud(predictions: Predictions, view: View) -> Cloud:
    """Apply the filters in the order of the original demo; the voxels, which it has not, come last.

    Where nothing is left, one white point at (1, 0, 0) stands for it.

    Source: docs/network_facts.md, sec. 10.
    """
    frames = range(len(predictions)) if view.frame is None else [view.frame]
    xyz = np.concatenate([_points(predictions, view, i).reshape(-1, 3) for i in frames])
    rgb = np.concatenate([predictions.images[i].reshape(-1, 3) for i in frames])
    confidence = np.concatenate([_confidence(predictions, view, i).reshape(-1) for i in frames])
    keep = confidence >= _threshold(confidence, view.confidence)
    keep &= (confidence > LEAST_CONFIDENCE) & np.isfinite(xyz).all(axis=1)
    if view.mask_black:
        keep &= rgb.sum(axis=1, dtype=np.int32) >= BLACK_BELOW
    if view.mask_white:
        keep &= ~(rgb > WHITE_ABOVE).all(axis=1)
    xyz, rgb = xyz[keep], rgb[keep]
    if not len(xyz):
        return Cloud(np.array([[1.0, 0.0, 0.0]]), np.full((1, 3), 255, np.uint8), 1.0)
    scale = float(np.linalg.norm(np.percentile(xyz, 95, axis=0) - np.percentile(xyz, 5, axis=0)))
    if view.voxel_size > 0:
        kept = first_in_voxel(np.ascontiguousarray(xyz.T), view.voxel_size)
        xyz, rgb = xyz[kept], rgb[kept]
    return Cloud(xyz, rgb, scale)


def make_scene(predictions: Predictions, view: View, cloud: Cloud | None = None) -> Any:
    """The trimesh.Scene of a view: cloud, cameras as cones, path as a line; y up, as glTF wants it."""
    import trimesh

    cloud = cloud or select_cloud(predictions, view)
    scene = trimesh.Scene()
    scene.add_geometry(_drawn_points(cloud, view.point_size), geom_name='cloud', node_name='cloud')
    frames = list(range(len(predictions))) if view.frame is None else [view.frame]
    world_from_cam = invert_rigid(predictions.cam_from_world)
    if view.show_cameras:
        _add_cones(scene, world_from_cam[frames], cloud.scale)
    if view.show_path and len(predictions) > 1:
        path = trimesh.load_path(np.stack([world_from_cam[:-1, :3, 3], world_from_cam[1:, :3, 3]], axis=1))
        path.colors = np.tile(_PATH_COLOUR, (len(path.entities), 1)).astype(np.uint8)
        scene.add_geometry(path, geom_name='path', node_name='path')
    scene.apply_transform(world_from_cam[frames[0]] @ OPENGL_FROM_OPTICAL @ HALF_TURN)
    return scene


def glb(scene: Any) -> bytes:
    """The scene as one binary glTF file; colours are shown as they are, without lamps."""
    return scene.export(file_type='glb', tree_postprocessor=_without_light)


def _points(predictions: Predictions, view: View, frame: int) -> np.ndarray:
    if view.branch == 'points' and predictions.world_points is not None:
        return predictions.world_points[frame].astype(np.float64)
    return predictions.points_from_depth(frame)


def _confidence(predictions: Predictions, view: View, frame: int) -> np.ndarray:
    """[H, W] confidence of the branch, 0 in the sky where that is masked, and where nothing is known."""
    confidence = predictions.confidence[frame]
    if view.branch == 'points' and predictions.world_points_confidence is not None:
        confidence = predictions.world_points_confidence[frame]
    if view.mask_sky:
        sky = is_sky(predictions.images[frame]) | sky_pixels(predictions.depth[frame], predictions.confidence[frame])
        confidence = np.where(sky, np.float32(0), confidence)
    return np.nan_to_num(confidence, nan=0.0)


def _threshold(confidence: np.ndarray, percentile: float) -> float:
    return float(np.percentile(confidence, percentile)) if percentile > 0 and len(confidence) else 0.0


def _drawn_points(cloud: Cloud, point_size: float) -> Any:
    """Points of one pixel, or each a small tetrahedron: that is the size that every viewer of glTF can draw."""
    import trimesh

    if point_size <= 0:
        return trimesh.PointCloud(vertices=cloud.xyz, colors=cloud.rgb)
    every = -(-len(cloud.xyz) // MAX_SOLID_POINTS)
    xyz, rgb = cloud.xyz[::every], cloud.rgb[::every]
    radius = point_size / 1000 * cloud.scale / 2
    vertices = (xyz[:, None] + radius * _TETRAHEDRON).reshape(-1, 3)
    faces = (np.arange(len(xyz))[:, None, None] * 4 + _FACES).reshape(-1, 3)
    return trimesh.Trimesh(vertices, faces, vertex_colors=np.repeat(rgb, 4, axis=0), process=False)


def _add_cones(scene: Any, world_from_cams: np.ndarray, scale: float) -> None:
    import trimesh

    vertices, faces = camera_cone(scale)
    for i, (pose, colour) in enumerate(zip(world_from_cams, rainbow(len(world_from_cams)), strict=True)):
        colours = np.tile(colour, (len(faces), 1))
        cone = trimesh.Trimesh(move_points(pose, vertices), faces, face_colors=colours, process=False)
        scene.add_geometry(cone, geom_name=f'camera_{i}', node_name=f'camera_{i}')


def _without_light(tree: dict[str, Any]) -> None:
    """Give every mesh a material that needs no lamp: colours come from pictures, which had their light.

    Source: Khronos, glTF extension KHR_materials_unlit.
    """
    materials = tree.setdefault('materials', [])
    materials.append({'doubleSided': True, 'extensions': {'KHR_materials_unlit': {}}})
    for mesh in tree.get('meshes', ()):
        for primitive in mesh['primitives']:
            primitive['material'] = len(materials) - 1
    used = tree.setdefault('extensionsUsed', [])
    if 'KHR_materials_unlit' not in used:
        used.append('KHR_materials_unlit')
