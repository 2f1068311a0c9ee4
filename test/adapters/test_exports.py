"""Clouds, scenes and trajectories as independent readers see them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import trimesh
from pypcd4 import PointCloud
from recordings import START_NS, read_tum
from scipy.spatial.transform import Rotation

from vggt_ros.core.errors import OutputError
from vggt_ros.core.geometry import BODY_FROM_OPTICAL
from vggt_ros.results.exports import (
    GLTF_FROM_MAP,
    MAX_FRUSTA,
    describe_frame,
    frusta,
    glb_scene,
    pcd_cloud,
    ply_cloud,
    tum_trajectory,
    write_atomically,
)

RNG = np.random.default_rng(5)
XYZ = RNG.normal(size=(7, 3)).astype(np.float32)
RGB = RNG.integers(0, 256, (7, 3), dtype=np.uint8)


def poses(count: int, step: float = 1.0) -> np.ndarray:
    result = np.tile(np.eye(4), (count, 1, 1))
    result[:, :3, :3] = Rotation.random(count, random_state=1).as_matrix()
    result[:, 0, 3] = step * np.arange(count)
    return result


def test_a_ply_is_read_back_with_its_note():
    data = ply_cloud(XYZ, RGB, 'a note')
    cloud = trimesh.load(io.BytesIO(data), file_type='ply')
    np.testing.assert_array_equal(cloud.vertices, XYZ)
    np.testing.assert_array_equal(cloud.colors[:, :3], RGB)
    head = data[: data.index(b'end_header\n')].decode().splitlines()
    assert head == [
        'ply', 'format binary_little_endian 1.0', 'comment a note', 'element vertex 7', 'property float x',
        'property float y', 'property float z', 'property uchar red', 'property uchar green', 'property uchar blue',
    ]  # fmt: skip
    assert b'comment' not in ply_cloud(XYZ, RGB)


def test_a_pcd_is_read_back_with_its_note():
    data = pcd_cloud(XYZ, RGB, 'a note')
    cloud = PointCloud.from_fileobj(io.BytesIO(data))
    np.testing.assert_array_equal(cloud.numpy(('x', 'y', 'z')), XYZ)
    np.testing.assert_array_equal(PointCloud.decode_rgb(cloud.pc_data['rgb']).reshape(-1, 3), RGB)
    head = data[: data.index(b'DATA')].decode().splitlines()
    assert head == [
        '# .PCD v0.7 - Point Cloud Data file format', '# a note', 'VERSION 0.7', 'FIELDS x y z rgb', 'SIZE 4 4 4 4',
        'TYPE F F F F', 'COUNT 1 1 1 1', 'WIDTH 7', 'HEIGHT 1', 'VIEWPOINT 0 0 0 1 0 0 0', 'POINTS 7',
    ]  # fmt: skip
    assert b'# a' not in pcd_cloud(XYZ, RGB)


def test_a_scene_has_cloud_cameras_and_path_in_the_axes_of_gltf():
    scene = trimesh.load(io.BytesIO(glb_scene(XYZ, RGB, poses(3), (0.5, 0.4), 'a note')), file_type='glb')
    assert set(scene.geometry) == {'cloud', 'cameras', 'path'}
    assert set(scene.graph.nodes_geometry) == {'cloud', 'cameras', 'path'}  # what a viewer lists
    place, name = scene.graph['cloud']
    seen = trimesh.transform_points(scene.geometry[name].vertices, place)
    np.testing.assert_allclose(seen, XYZ @ GLTF_FROM_MAP[:3, :3].T, atol=1e-6)
    np.testing.assert_array_equal(scene.geometry['cloud'].colors[:, :3], RGB)


@pytest.mark.parametrize('count, parts', [(0, {'cloud'}), (1, {'cloud', 'cameras'})])
def test_a_scene_has_only_what_there_is(count: int, parts: set[str]):
    scene = trimesh.load(io.BytesIO(glb_scene(XYZ, RGB, poses(count), (0.5, 0.4))), file_type='glb')
    assert set(scene.geometry) == parts
    with pytest.raises(OutputError, match='points or cameras'):
        glb_scene(XYZ[:0], RGB[:0], poses(0), (0.5, 0.4))


@pytest.mark.parametrize('count, step, depth', [(1, 1.0, 1e-3), (2, 6.0, 3.0), (91, 1.0, 3.0), (31, 1.0, 1.0)])
def test_a_frustum_begins_at_its_camera_and_is_as_deep_as_the_path_tells(count: int, step: float, depth: float):
    where = poses(count, step)
    lines = frusta(where, (0.5, 0.25)).reshape(count, 8, 2, 3)
    for pose, segments in zip(where, lines, strict=True):
        local = (segments - pose[:3, 3]) @ pose[:3, :3]
        np.testing.assert_allclose(local[:4, 0], 0, atol=1e-12)
        corners = local[:4, 1]
        np.testing.assert_allclose(np.abs(corners), np.tile([0.5 * depth, 0.25 * depth, depth], (4, 1)), rtol=1e-9)
        assert len(np.unique(corners.round(9), axis=0)) == 4
        for start, end in local[4:]:  # around the image, one coordinate at a time
            assert np.count_nonzero(np.abs(start - end) > 1e-9) == 1


def test_of_many_cameras_every_third_is_drawn():
    where = poses(2 * MAX_FRUSTA + 1)
    lines = frusta(where, (0.5, 0.4)).reshape(-1, 8, 2, 3)
    np.testing.assert_allclose(lines[:, 0, 0], where[::3, :3, 3], atol=1e-12)


def test_a_trajectory_has_a_line_a_pose_with_all_nine_decimals():
    where = poses(2)
    head, note, *lines = tum_trajectory([1_000_000_001, 2 * 10**18 + 5], where, 'a note').splitlines()
    assert head == '# stamp tx ty tz qx qy qz qw: camera optical frame in the world'
    assert note == '# a note'
    assert [line.split()[0] for line in lines] == ['1.000000001', '2000000000.000000005']
    for line, pose in zip(lines, where, strict=True):
        values = [float(word) for word in line.split()[1:]]
        np.testing.assert_allclose(values[:3], pose[:3, 3], atol=1e-8)
        np.testing.assert_allclose(Rotation.from_quat(values[3:]).as_matrix(), pose[:3, :3], atol=1e-8)
    assert tum_trajectory([], where[:0]) == head + '\n'
    with pytest.raises(ValueError, match='argument'):
        tum_trajectory([1], where)


def test_the_frame_is_described_in_one_line_of_ascii():
    assert describe_frame('mäp\n 1', True) == (
        'frame m?p 1: x forward, y left, z up at the start (REP 103); lengths metres'
    )
    assert describe_frame('map', False).endswith('in the unit of the first window, not metres')


def test_tum_keeps_stamps_to_the_nanosecond_and_quaternions_as_xyzw(tmp_path: Path):
    stamps = [START_NS + i for i in range(5)]
    (tmp_path / 'a.txt').write_text(tum_trajectory(stamps, poses(5)))
    read = read_tum(tmp_path / 'a.txt')
    assert list(read) == stamps
    np.testing.assert_allclose(list(read.values()), poses(5), atol=1e-8)  # nine digits


def test_an_empty_trajectory_is_a_file_with_its_header():
    assert tum_trajectory([], np.empty((0, 4, 4))).startswith('# stamp')


def test_ply_is_read_by_trimesh_point_by_point():
    cloud = trimesh.load(io.BytesIO(ply_cloud(XYZ, RGB)), file_type='ply')
    np.testing.assert_array_equal(np.asarray(cloud.vertices, np.float32), XYZ)
    np.testing.assert_array_equal(cloud.colors[:, :3], RGB)


def test_pcd_is_read_by_pypcd4_point_by_point(tmp_path: Path):
    (tmp_path / 'cloud.pcd').write_bytes(pcd_cloud(XYZ, RGB, 'frame map: metres'))
    cloud = PointCloud.from_path(tmp_path / 'cloud.pcd')
    assert cloud.fields == ('x', 'y', 'z', 'rgb')
    np.testing.assert_array_equal(cloud.numpy(('x', 'y', 'z')), XYZ)
    np.testing.assert_array_equal(PointCloud.decode_rgb(cloud.pc_data['rgb']), RGB)


def test_heads_say_frame_and_unit():
    note = describe_frame('map', is_metric=False)
    assert 'map' in note
    assert 'not metres' in note
    assert describe_frame('ma\np ö', is_metric=True).startswith('frame ma p ?: ')  # heads are lines of ASCII
    assert b'comment frame map' in ply_cloud(XYZ, RGB, note)
    assert b'# frame map' in pcd_cloud(XYZ, RGB, note)
    assert '# frame map' in tum_trajectory([1], poses(1), note)
    cloud = trimesh.load(io.BytesIO(ply_cloud(XYZ, RGB, note)), file_type='ply')
    np.testing.assert_array_equal(np.asarray(cloud.vertices, np.float32), XYZ)
    scene = trimesh.load(io.BytesIO(glb_scene(XYZ, RGB, poses(2), (0.6, 0.4), note)), file_type='glb')
    assert scene.metadata['note'] == note


def test_glb_has_y_up():
    """A point one above the robot and two ahead: y 1, z 2 in glTF."""
    data = glb_scene(np.array([[2.0, 0, 1]] * 2, np.float32), RGB[:2], poses(2), (0.6, 0.4))
    scene = trimesh.load(io.BytesIO(data), file_type='glb')
    node = next(name for name in scene.graph.nodes_geometry if name.startswith('cloud'))
    transform, geometry = scene.graph[node]
    np.testing.assert_allclose(
        trimesh.transform_points(scene.geometry[geometry].vertices, transform)[0], [0, 1, 2], atol=1e-6
    )


def test_a_scene_of_nothing_is_refused():
    with pytest.raises(OutputError, match='neither'):
        glb_scene(XYZ[:0], RGB[:0], poses(0), (0.6, 0.4))


def test_frusta_open_in_the_direction_the_camera_looks():
    segments = frusta(BODY_FROM_OPTICAL[None], (0.6, 0.4))
    assert segments.shape == (8, 2, 3)
    rays = segments[:4]
    np.testing.assert_array_equal(rays[:, 0], 0)
    assert (rays[:, 1, 0] > 0).all()  # ahead
    np.testing.assert_allclose(np.ptp(rays[:, 1, 1]) / np.ptp(rays[:, 1, 2]), 0.6 / 0.4)  # wider than high


def test_many_frusta_are_thinned():
    assert len(frusta(poses(1000), (0.6, 0.4))) <= 8 * 200


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / 'a.txt'
    write_atomically(path, b'first')
    monkeypatch.setattr(Path, 'replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OutputError, match=r'a\.txt: No space left'):
        write_atomically(path, b'second')
    assert path.read_bytes() == b'first'
    assert [one.name for one in tmp_path.iterdir()] == ['a.txt']
