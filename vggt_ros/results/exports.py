"""Trajectory, cloud and scene in the formats that other tools open: TUM, PLY, PCD, GLB (and colmap.py)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.core.errors import OutputError

# glTF is y up, z forward, x left; a map after REP 103 is x forward, y left, z up.
# Source: Khronos glTF 2.0 specification, sec. 3.4.
GLTF_FROM_MAP = np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
MAX_FRUSTA = 200  # more hide the scene


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        OutputError: it cannot be written; a file that was there is unharmed.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f'.{path.name}.', delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
        temporary.chmod(0o666 & ~_umask())  # temporary files are private, results are not
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(f'cannot write {path}: {error.strerror or error}') from error


def describe_frame(frame_id: str, is_metric: bool) -> str:
    """What a file's head says of its coordinates, one line."""
    unit = 'metres' if is_metric else 'in the unit of the first window, not metres'
    name = ' '.join(frame_id.encode('ascii', 'replace').decode().split())
    return f'frame {name}: x forward, y left, z up at the start (REP 103); lengths {unit}'


def tum_trajectory(stamps_ns: Sequence[int], world_from_cams: np.ndarray, note: str = '') -> str:
    """Poses in the TUM RGB-D format: a line `stamp tx ty tz qx qy qz qw` each, stamps with all nine decimals.

    Args:
        stamps_ns: N stamps.
        world_from_cams: [N, 4, 4] poses of the optical frame in the world.
        note: of frame and unit, for the head.

    Source: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats.
    """
    from scipy.spatial.transform import Rotation  # where it is used: the node's start does not wait for it

    lines = ['# stamp tx ty tz qx qy qz qw: camera optical frame in the world', *([f'# {note}'] if note else [])]
    if len(stamps_ns):
        quaternions = Rotation.from_matrix(world_from_cams[:, :3, :3]).as_quat()
        for stamp, t, q in zip(stamps_ns, world_from_cams[:, :3, 3], quaternions, strict=True):
            seconds, nanoseconds = divmod(stamp, 1_000_000_000)
            lines.append(f'{seconds}.{nanoseconds:09d} ' + ' '.join(f'{value:.9g}' for value in (*t, *q)))
    return '\n'.join(lines) + '\n'


def ply_cloud(xyz: np.ndarray, rgb: np.ndarray, note: str = '') -> bytes:
    """[N, 3] points and [N, 3] uint8 RGB -> a binary PLY file with `note` in its head.

    Source: Greg Turk, The PLY Polygon File Format, 1994.
    """
    fields = [('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('red', 'u1'), ('green', 'u1'), ('blue', 'u1')]
    vertices = np.empty(len(xyz), fields)
    for i, name in enumerate(('x', 'y', 'z')):
        vertices[name] = xyz[:, i]
    for i, name in enumerate(('red', 'green', 'blue')):
        vertices[name] = rgb[:, i]
    properties = [f'property {"float" if kind == "<f4" else "uchar"} {name}' for name, kind in fields]
    comment = [f'comment {note}'] if note else []
    count = f'element vertex {len(xyz)}'
    header = ['ply', 'format binary_little_endian 1.0', *comment, count, *properties, 'end_header']
    return ('\n'.join(header) + '\n').encode('ascii') + vertices.tobytes()


def pcd_cloud(xyz: np.ndarray, rgb: np.ndarray, note: str = '') -> bytes:
    """[N, 3] points and [N, 3] uint8 RGB -> a binary PCD file with `note` in its head; colour packed as PCL has it.

    Source: https://pointclouds.org/documentation/tutorials/pcd_file_format.html; the bits of rgb are 0x00RRGGBB.
    """
    points = np.empty(len(xyz), [('xyz', '<f4', 3), ('rgb', '<u4')])
    red, green, blue = rgb.astype(np.uint32).T
    points['xyz'], points['rgb'] = xyz, red << 16 | green << 8 | blue
    head = [
        '# .PCD v0.7 - Point Cloud Data file format',
        *([f'# {note}'] if note else []),
        'VERSION 0.7',
        'FIELDS x y z rgb',
        'SIZE 4 4 4 4',
        'TYPE F F F F',
        'COUNT 1 1 1 1',
        f'WIDTH {len(xyz)}',
        'HEIGHT 1',
        'VIEWPOINT 0 0 0 1 0 0 0',
        f'POINTS {len(xyz)}',
        'DATA binary',
    ]
    return ('\n'.join(head) + '\n').encode('ascii') + points.tobytes()


def glb_scene(
    xyz: np.ndarray, rgb: np.ndarray, world_from_cams: np.ndarray, aspect: tuple[float, float], note: str = ''
) -> bytes:
    """Cloud, camera frusta and path as one binary glTF file.

    Args:
        xyz, rgb: [N, 3] points in the map and [N, 3] uint8 colours.
        world_from_cams: [M, 4, 4] poses of the optical frames.
        aspect: half width and half height of the image at distance 1: the frustum's shape.
        note: of frame and unit, kept in the scene's extras; glTF itself is y up, z forward, in metres.

    Raises:
        OutputError: there is nothing to show; a glTF file cannot be empty.
    """
    import trimesh

    scene = trimesh.Scene(metadata={'note': note} if note else None)
    if len(xyz):
        scene.add_geometry(trimesh.PointCloud(xyz, colors=rgb), geom_name='cloud', node_name='cloud')
    if len(world_from_cams):
        lines = frusta(world_from_cams, aspect)
        scene.add_geometry(_lines(lines, (255, 140, 0)), geom_name='cameras', node_name='cameras')
    if len(world_from_cams) > 1:
        path = np.stack([world_from_cams[:-1, :3, 3], world_from_cams[1:, :3, 3]], axis=1)
        scene.add_geometry(_lines(path, (30, 110, 255)), geom_name='path', node_name='path')
    if not scene.geometry:
        raise OutputError('a scene needs points or cameras, got neither')
    scene.apply_transform(GLTF_FROM_MAP)
    return scene.export(file_type='glb')


def frusta(world_from_cams: np.ndarray, aspect: tuple[float, float]) -> np.ndarray:
    """Line segments [L, 2, 3] of camera frusta in the world, as deep as 1/30 of the path's extent or a step of it."""
    centres = world_from_cams[:, :3, 3]
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    depth = max(float(np.ptp(centres, axis=0).max()) / 30, float(np.median(steps)) / 2 if len(steps) else 0.0, 1e-3)
    x, y = aspect[0] * depth, aspect[1] * depth
    corners = np.array([[-x, -y, depth], [x, -y, depth], [x, y, depth], [-x, y, depth]])
    segments = [(np.zeros(3), corner) for corner in corners] + [(corners[i], corners[i - 1]) for i in range(4)]
    chosen = world_from_cams[:: -(-len(world_from_cams) // MAX_FRUSTA)]
    local = np.array(segments)  # (8, 2, 3)
    return (np.einsum('nij,skj->nski', chosen[:, :3, :3], local) + chosen[:, None, None, :3, 3]).reshape(-1, 2, 3)


def _lines(segments: np.ndarray, colour: tuple[int, int, int]) -> Any:
    import trimesh

    path = trimesh.load_path(segments)
    path.colors = np.tile([*colour, 255], (len(path.entities), 1)).astype(np.uint8)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
