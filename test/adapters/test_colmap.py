"""COLMAP models, read back by COLMAP's own reader: cameras, poses, pixels and tracks."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from vggt_ros.core.geometry import BODY_FROM_OPTICAL, move_points
from vggt_ros.core.views import View
from vggt_ros.results.colmap import Model, binary_files, image_name, make_model, text_files

SIZE = (30, 40)
K = np.array([[40.0, 0.0, 19.5], [0.0, 42.0, 14.0], [0.0, 0.0, 1.0]])


def view_of(index: int, y: float, frame_id: str = 'camera/optical') -> View:
    """A camera at x 0 that looks along x at a wall 4 m ahead, moved sideways by y."""
    pose = BODY_FROM_OPTICAL.copy()
    pose[1, 3] = y
    depth = np.full((15, 20), 4.0, np.float32)
    depth[:, 0] = np.nan
    return View(1_700_000_000_000_000_007 + index, frame_id, SIZE, K, pose, depth, 2)


def wall(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Points on the wall, and a tenth as many 1 m behind it, which nobody sees."""
    rng = np.random.default_rng(0)
    xyz = np.stack([np.full(count, 4.0), rng.uniform(-2, 2, count), rng.uniform(-1.2, 1.2, count)], axis=-1)
    xyz[::10, 0] = 5.0
    return xyz.astype(np.float32), rng.integers(0, 256, (count, 3), dtype=np.uint8)


def model_of(*ys: float) -> Model:
    return make_model([view_of(i, y) for i, y in enumerate(ys)], *wall())


@pytest.fixture(params=['binary', 'text'])
def read(request: pytest.FixtureRequest, tmp_path: Path):
    """Writes a model and gives what COLMAP reads."""

    def write_and_read(model: Model) -> pycolmap.Reconstruction:
        files = binary_files(model) if request.param == 'binary' else text_files(model, 'frame map')
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        return pycolmap.Reconstruction(tmp_path)

    return write_and_read


def test_a_camera_has_its_intrinsics_with_pixels_from_the_corner(read):
    reconstruction = read(model_of(0.0, 0.3))
    (camera,) = reconstruction.cameras.values()
    assert camera.model == pycolmap.CameraModelId.PINHOLE
    assert (camera.width, camera.height) == (40, 30)
    np.testing.assert_allclose(camera.params, [40, 42, 20.0, 14.5])


def test_each_image_has_its_name_and_its_pose_in_the_map(read):
    reconstruction = read(model_of(0.0, 0.3))
    images = [reconstruction.images[number] for number in (1, 2)]
    assert [image.name for image in images] == [
        'camera_optical/1700000000.000000007.jpg',
        'camera_optical/1700000000.000000008.jpg',
    ]
    for image, y in zip(images, (0.0, 0.3), strict=True):
        np.testing.assert_allclose(image.projection_center(), [0, y, 0], atol=1e-9)
        np.testing.assert_allclose(image.cam_from_world().rotation.matrix(), BODY_FROM_OPTICAL[:3, :3].T, atol=1e-9)


def test_observations_are_where_colmap_projects_the_points(read):
    reconstruction = read(model_of(0.0, 0.3, -0.4))
    count = 0
    for image in reconstruction.images.values():
        for observation in image.points2D:
            point = reconstruction.points3D[observation.point3D_id]
            np.testing.assert_allclose(image.project_point(point.xyz), observation.xy, atol=1e-3)  # text: six digits
            count += 1
    assert count > 600
    assert reconstruction.compute_num_observations() == count
    assert reconstruction.compute_mean_reprojection_error() < 1e-3


def test_tracks_and_images_name_each_other(read):
    reconstruction = read(model_of(0.0, 0.3, -0.4))
    for number, point in reconstruction.points3D.items():
        assert len(point.track.elements) >= 2
        for element in point.track.elements:
            assert reconstruction.images[element.image_id].points2D[element.point2D_idx].point3D_id == number


def test_points_keep_place_and_colour_and_what_lies_behind_is_left_out(read):
    xyz, rgb = wall()
    reconstruction = read(model_of(0.0, 0.3, -0.4))
    found = {tuple(np.round(point.xyz, 4)): tuple(point.color) for point in reconstruction.points3D.values()}
    colour_of = {tuple(np.round(p.astype(float), 4)): tuple(c) for p, c in zip(xyz, rgb, strict=True)}
    assert 150 < len(found) < 360
    assert all(colour_of[place] == colour for place, colour in found.items())
    assert {place[0] for place in found} == {4.0}


def test_an_image_sees_only_what_its_depth_confirms():
    model = model_of(0.0, 0.3)
    for i in range(2):
        uv = model.uv[model.image_of == i]
        assert (uv[:, 0] >= 1.5).all()  # depth of the first column, two pixels wide about 0.5, is not known
        assert ((uv > 0) & (uv < [40, 30])).all()


def test_two_frame_ids_are_two_folders_and_two_sizes_two_cameras(read):
    left, right = view_of(0, 0.0, 'left'), view_of(0, 0.2, '../right')
    small = View(right.stamp_ns, right.frame_id, (15, 20), K / [[2], [2], [1]], right.map_from_cam, right.depth, 1)
    reconstruction = read(make_model([left, small], *wall()))
    assert {image.name.split('/')[0] for image in reconstruction.images.values()} == {'left', '___right'}
    assert sorted(camera.width for camera in reconstruction.cameras.values()) == [20, 40]


def test_an_empty_map_is_an_empty_model(read):
    reconstruction = read(make_model([], *wall(0)))
    assert (len(reconstruction.images), len(reconstruction.points3D)) == (0, 0)
    assert len(read(make_model([view_of(0, 0.0)], *wall(0))).images) == 1


def test_a_large_map_is_thinned():
    xyz, rgb = wall(5000)
    assert 200 < len(make_model([view_of(i, 0.1 * i) for i in range(3)], xyz, rgb, max_points=500).xyz) < 500


def test_text_says_frame_and_unit_and_binary_is_little_endian():
    model = model_of(0.0, 0.3)
    assert text_files(model, 'frame map: metres')['images.txt'].startswith(b'# frame map: metres\n')
    assert struct.unpack('<Q', binary_files(model)['images.bin'][:8]) == (2,)
    np.testing.assert_allclose(move_points(model.cam_from_world[0], np.array([[4.0, 0, 0]])), [[0, 0, 4.0]], atol=1e-12)


def test_names_cannot_leave_their_folder():
    assert image_name(view_of(0, 0.0, '../../etc/passwd')).startswith('______etc_passwd/')
    assert image_name(view_of(0, 0.0, '')).startswith('camera/')
