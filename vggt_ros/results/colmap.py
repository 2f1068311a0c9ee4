"""A map as a COLMAP model: cameras, images with what they see, points with who sees them; binary or text.

The world is the map (REP 103: x forward, y left, z up at the start, see `note`), not turned into COLMAP's own habit of
y down: its tools take any world. Poses are cam_from_world. Pixels count from the corner of the image, so the centre of
the first is at 0.5, 0.5, and c_x, c_y are half a pixel more than in a CameraInfo.

Points are those of the voxel map, and an image sees one where its own depth agrees: the observation is the point's
projection, hence the reprojection error of all is 0, and bundle adjustment on them would change nothing.

Source: https://colmap.github.io/format.html and https://colmap.github.io/cameras.html (models, the pixel convention).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.core.geometry import invert_rigid, move_points
from vggt_ros.core.views import View

PINHOLE = 1  # COLMAP's number of the camera model with fx, fy, cx, cy
MAX_POINTS = 100_000  # as many as larger reconstructions have; a track each makes more slow to open
AGREE = 0.05  # of its depth: a point nearer than this to the surface that an image saw there is what it saw
LEAST_TRACK = 2  # images that see a point; one alone triangulates nothing


@dataclass(frozen=True, eq=False)
class Model:
    """Arrays of a COLMAP model; numbers of cameras, images and points start at 1.

    Args:
        cameras: each (width, height, fx, fy, cx, cy), by number.
        names: of the image files, by number.
        camera_of: [M] number of each image's camera.
        cam_from_world: [M, 4, 4].
        xyz, rgb: [N, 3] points and their uint8 colours.
        image_of, point_of: [T] rows of the image and of the point of each observation, sorted by image.
        uv: [T, 2] where, pixels from the corner.
    """

    cameras: list[tuple[int, int, float, float, float, float]]
    names: list[str]
    camera_of: np.ndarray
    cam_from_world: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    image_of: np.ndarray
    point_of: np.ndarray
    uv: np.ndarray


def image_name(view: View) -> str:
    """Name of a view's image file, `frame_id/seconds.nanoseconds.jpg`; characters that a path may not have become _."""
    seconds, nanoseconds = divmod(view.stamp_ns, 1_000_000_000)
    folder = re.sub(r'[^A-Za-z0-9_-]', '_', view.frame_id) or 'camera'
    return f'{folder}/{seconds}.{nanoseconds:09d}.jpg'


def make_model(views: Iterable[View], xyz: np.ndarray, rgb: np.ndarray, max_points: int = MAX_POINTS) -> Model:
    """Find out which view sees which point.

    Args:
        views: keyframes, in the unit of the map.
        xyz, rgb: [N, 3] points of the map and [N, 3] uint8 colours.
        max_points: an even choice of so many is looked at.
    """
    views = list(views)
    if len(xyz) > max_points:
        chosen = np.linspace(0, len(xyz) - 1, max_points).astype(int)
        xyz, rgb = xyz[chosen], rgb[chosen]
    numbers: dict[tuple[int, int, float, float, float, float], int] = {}
    camera_of = np.array([numbers.setdefault(_camera(view), len(numbers) + 1) for view in views], np.int64)
    seen = [_observe(view, xyz) for view in views]
    image_of = np.repeat(np.arange(len(views)), [len(rows) for rows, _ in seen])
    point_of = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in seen)])
    uv = np.concatenate([np.zeros((0, 2)), *(at for _, at in seen)])
    is_track = np.bincount(point_of, minlength=len(xyz)) >= LEAST_TRACK
    keep = is_track[point_of]
    row_of = np.cumsum(is_track) - 1
    return Model(
        cameras=list(numbers),
        names=[image_name(view) for view in views],
        camera_of=camera_of,
        cam_from_world=invert_rigid(np.array([view.map_from_cam for view in views]).reshape(-1, 4, 4)),
        xyz=xyz[is_track].astype(np.float64),
        rgb=rgb[is_track],
        image_of=image_of[keep],
        point_of=row_of[point_of[keep]],
        uv=uv[keep],
    )


def binary_files(model: Model) -> dict[str, bytes]:
    """cameras.bin, images.bin and points3D.bin."""
    return {
        'cameras.bin': _cameras_binary(model),
        'images.bin': _images_binary(model),
        'points3D.bin': _points_binary(model),
    }


def text_files(model: Model, note: str) -> dict[str, bytes]:
    """cameras.txt, images.txt and points3D.txt; `note` tells frame and unit in their heads."""
    texts = {
        'cameras.txt': ['# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]', *_cameras_text(model)],
        'images.txt': [
            '# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME: cam_from_world',
            '# POINTS2D[] as (X, Y, POINT3D_ID)',
            *_images_text(model),
        ],
        'points3D.txt': [
            '# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)',
            *_points_text(model),
        ],
    }
    return {name: '\n'.join([f'# {note}', *lines, '']).encode() for name, lines in texts.items()}


def _camera(view: View) -> tuple[int, int, float, float, float, float]:
    height, width = view.size
    K = view.K
    return width, height, float(K[0, 0]), float(K[1, 1]), float(K[0, 2]) + 0.5, float(K[1, 2]) + 0.5


def _observe(view: View, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the points that a view sees, and [T, 2] where, pixels from the corner."""
    x, y, z = move_points(invert_rigid(view.map_from_cam), xyz.astype(np.float64)).T
    ahead = np.flatnonzero(z > 0)
    u = view.K[0, 0] * x[ahead] / z[ahead] + view.K[0, 2]
    v = view.K[1, 1] * y[ahead] / z[ahead] + view.K[1, 2]
    height, width = view.size
    inside = (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
    rows, u, v = ahead[inside], u[inside], v[inside]
    h, w = view.depth.shape
    column = np.minimum(np.rint(u / view.stride).astype(int), w - 1)
    row = np.minimum(np.rint(v / view.stride).astype(int), h - 1)
    agrees = np.abs(view.depth[row, column] - z[rows]) < AGREE * z[rows]  # NaN compares false
    return rows[agrees], np.stack([u[agrees], v[agrees]], axis=-1) + 0.5


def _quaternions(model: Model) -> np.ndarray:
    """[M, 4] w, x, y, z."""
    if not len(model.cam_from_world):
        return np.zeros((0, 4))
    from scipy.spatial.transform import Rotation  # where it is used: the start of the node does not wait for it

    return Rotation.from_matrix(model.cam_from_world[:, :3, :3]).as_quat()[:, [3, 0, 1, 2]]


def _cameras_binary(model: Model) -> bytes:
    kind = np.dtype([('id', '<u4'), ('model', '<i4'), ('size', '<u8', 2), ('parameters', '<f8', 4)])
    cameras = np.zeros(len(model.cameras), kind)
    for i, camera in enumerate(model.cameras):
        cameras[i] = (i + 1, PINHOLE, camera[:2], camera[2:])
    return _count(len(cameras)) + cameras.tobytes()


def _images_binary(model: Model) -> bytes:
    head = np.dtype([('id', '<u4'), ('q', '<f8', 4), ('t', '<f8', 3), ('camera', '<u4')])
    seen = np.zeros(len(model.uv), [('uv', '<f8', 2), ('point', '<u8')])
    seen['uv'], seen['point'] = model.uv, model.point_of + 1
    bounds = np.searchsorted(model.image_of, np.arange(len(model.names) + 1))
    parts = [_count(len(model.names))]
    for i, (name, q) in enumerate(zip(model.names, _quaternions(model), strict=True)):
        record = np.array((i + 1, q, model.cam_from_world[i, :3, 3], model.camera_of[i]), head)
        own = seen[bounds[i] : bounds[i + 1]]
        parts += [record.tobytes(), name.encode(), b'\0', _count(len(own)), own.tobytes()]
    return b''.join(parts)


def _points_binary(model: Model) -> bytes:
    head = np.dtype([('id', '<u8'), ('xyz', '<f8', 3), ('rgb', 'u1', 3), ('error', '<f8'), ('length', '<u8')])
    order, bounds, index = _tracks(model)
    points = np.zeros(len(model.xyz), head)
    points['id'], points['xyz'], points['rgb'] = np.arange(1, len(points) + 1), model.xyz, model.rgb
    points['length'] = np.diff(bounds)
    track = np.stack([model.image_of[order] + 1, index[order]], axis=-1).astype('<u4')
    parts = [_count(len(points))]
    for i in range(len(points)):
        parts += [points[i].tobytes(), track[bounds[i] : bounds[i + 1]].tobytes()]
    return b''.join(parts)


def _tracks(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations sorted by point; [N + 1] bounds of each point's; and of each observation its place in its image."""
    order = np.argsort(model.point_of, kind='stable')
    bounds = np.searchsorted(model.point_of[order], np.arange(len(model.xyz) + 1))
    firsts = np.searchsorted(model.image_of, np.arange(len(model.names)))
    return order, bounds, np.arange(len(model.image_of)) - firsts[model.image_of] if len(firsts) else np.zeros(0, int)


def _count(number: int) -> bytes:
    return number.to_bytes(8, 'little')


def _cameras_text(model: Model) -> list[str]:
    return [
        f'{i} PINHOLE {camera[0]} {camera[1]} ' + _numbers(camera[2:])
        for i, camera in enumerate(model.cameras, start=1)
    ]


def _images_text(model: Model) -> list[str]:
    bounds = np.searchsorted(model.image_of, np.arange(len(model.names) + 1))
    lines = []
    for i, (name, q) in enumerate(zip(model.names, _quaternions(model), strict=True)):
        t = model.cam_from_world[i, :3, 3]
        own = slice(bounds[i], bounds[i + 1])
        seen = zip(model.uv[own].tolist(), (model.point_of[own] + 1).tolist(), strict=True)
        lines += [
            f'{i + 1} {_numbers((*q, *t))} {model.camera_of[i]} {name}',
            ' '.join(f'{u:.6g} {v:.6g} {point}' for (u, v), point in seen),
        ]
    return lines


def _points_text(model: Model) -> list[str]:
    order, bounds, index = _tracks(model)
    lines = []
    for i, (xyz, rgb) in enumerate(zip(model.xyz, model.rgb.tolist(), strict=True)):
        own = order[bounds[i] : bounds[i + 1]]
        track = ' '.join(f'{image + 1} {at}' for image, at in zip(model.image_of[own], index[own], strict=True))
        lines.append(f'{i + 1} {_numbers(xyz)} {rgb[0]} {rgb[1]} {rgb[2]} 0 {track}')
    return lines


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return ' '.join(f'{value:.12g}' for value in values)
