"""Saved maps are there whole or not at all, where they should be, and say what is wrong where they cannot be."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pycolmap
import pytest
import trimesh
from pypcd4 import PointCloud
from recordings import FRAME_NS, START_NS, placed_frame, read_tum, update_of

from vggt_ros.core.config import SAVE_FORMATS, Config
from vggt_ros.core.errors import ConfigError, OutputError
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.submap import Update
from vggt_ros.results.saving import explain, new_name, save_directory, write_folder
from vggt_ros.results.scene import Scene, scene_files


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond a size: what a full disk looks like to whoever writes (Python ignores SIGXFSZ)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def scene_of(*updates: Update) -> Scene:
    scene = Scene(Config())
    for update in updates:
        scene.add(update)
    return scene


def cloud(count: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, (count, 3)).astype(np.float32), rng.integers(0, 256, (count, 3), dtype=np.uint8)


def moving(count: int) -> Update:
    """Frames a metre apart, so that each is a view of its own."""
    frames = []
    for i in range(count):
        pose = np.eye(4)
        pose[0, 3] = i
        frames.append(placed_frame(i, map_from_cam=pose))
    return update_of(*frames)


def test_every_format_is_read_by_another_reader(tmp_path: Path):
    xyz, rgb = cloud()
    snapshot = scene_of(moving(4)).snapshot((xyz, rgb))
    folder = write_folder(tmp_path, 'map', scene_files(snapshot, SAVE_FORMATS))
    assert folder == tmp_path / 'map'
    np.testing.assert_array_equal(np.asarray(trimesh.load(folder / 'cloud.ply').vertices, np.float32), xyz)
    np.testing.assert_array_equal(PointCloud.from_path(folder / 'cloud.pcd').numpy(('x', 'y', 'z')), xyz)
    assert 'cloud' in trimesh.load(folder / 'scene.glb').geometry
    way = read_tum(folder / 'trajectory_tum.txt')
    assert list(way) == [START_NS + i * FRAME_NS for i in range(4)]
    np.testing.assert_allclose([pose[0, 3] for pose in way.values()], range(4))
    for name in ('colmap', 'colmap_text'):
        assert len(pycolmap.Reconstruction(folder / name / 'sparse/0').images) == 4


def test_only_the_formats_asked_for_are_written(tmp_path: Path):
    snapshot = scene_of(moving(2)).snapshot(cloud())
    folder = write_folder(tmp_path, 'map', scene_files(snapshot, ['ply', 'tum']))
    assert sorted(path.name for path in folder.iterdir()) == ['cloud.ply', 'trajectory_tum.txt']


def test_a_scene_that_was_scaled_is_saved_at_its_last_scale():
    before = moving(2)
    after = update_of(placed_frame(9, map_from_cam=np.diag([1.0, 1, 1, 1])))
    after = type(after)(**{**vars(after), 'output_from_before': Sim3(2.0, np.eye(3), np.array([0, 0, 5.0]))})
    snapshot = scene_of(before, after).snapshot(cloud())
    np.testing.assert_allclose(snapshot.map_from_cams[:, :3, 3], [[0, 0, 5], [2, 0, 5], [0, 0, 0]])
    np.testing.assert_allclose([view.map_from_cam[0, 3] for view in snapshot.views], [0, 2, 0])
    assert snapshot.views[0].median_depth == pytest.approx(2 * snapshot.views[2].median_depth, rel=0.01)


def test_after_a_closed_loop_views_lie_where_their_frames_do():
    update = moving(3)
    stamps = np.array([frame.stamp_ns for frame in update.frames])
    poses = np.stack([frame.map_from_cam for frame in update.frames])
    poses[2, 1, 3] = 7.0
    snapshot = scene_of(update).snapshot(cloud(), (stamps[1:], poses[1:]))  # the first is no longer remembered
    assert snapshot.stamps_ns == tuple(stamps[1:].tolist())
    np.testing.assert_allclose([view.map_from_cam[:3, 3] for view in snapshot.views], [[0, 0, 0], [1, 0, 0], [2, 7, 0]])


def test_after_a_closed_loop_all_cameras_of_a_rig_go_along():
    """The other camera is 0.2 to the side, and exposes 3 ms later."""
    reference = moving(1).frames[0]
    beside = reference.map_from_cam.copy()
    beside[1, 3] += 0.2
    other = dataclasses.replace(
        placed_frame(map_from_cam=beside, frame_id='right'), stamp_ns=reference.stamp_ns + 3_000_000, camera=1
    )
    update = update_of(dataclasses.replace(reference, views=(other,)))
    moved = reference.map_from_cam.copy()
    moved[:3, 3] = [5.0, 0, 1]
    scene = Scene(Config(), is_thinned=False)
    scene.add(update)
    snapshot = scene.snapshot(cloud(), (np.array([reference.stamp_ns]), moved[None]))
    places = {view.frame_id: view.map_from_cam[:3, 3] for view in snapshot.views}
    np.testing.assert_allclose(places['right'], [5, 0.2, 1])


def test_of_a_long_way_the_newest_poses_are_kept():
    scene = Scene(Config().with_values({'trajectory_max_size': 20}))
    update = moving(53)
    for frame in update.frames:
        scene.add(update_of(frame))
    scene.move(Sim3(2.0, np.eye(3), np.zeros(3)))  # a metre turned out to be two
    snapshot = scene.snapshot(cloud())
    assert snapshot.stamps_ns == tuple(START_NS + i * FRAME_NS for i in range(33, 53))
    np.testing.assert_allclose(snapshot.map_from_cams[:, 0, 3], 2.0 * np.arange(33, 53))
    np.testing.assert_allclose(snapshot.map_from_cams[:, 3], np.tile([0, 0, 0, 1], (20, 1)))


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path):
    files = {'a/b.txt': lambda: b'x'}
    names = [write_folder(tmp_path, 'map', files).name for _ in range(3)]
    assert names == ['map', 'map_2', 'map_3']
    assert (tmp_path / 'map_3/a/b.txt').read_bytes() == b'x'


def test_what_a_killed_save_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path):
    name = new_name('map')
    killed, alive, fresh, other = (
        tmp_path / one
        for one in (f'.{name}.abcdefgh', f'.{name}.alive_00', f'.{name}.justmade', '.map_of_mine.abcdefgh')
    )
    for folder in (killed, alive, fresh, other):
        folder.mkdir()
        (folder / 'cloud.ply').write_bytes(b'half')
        if folder is not fresh:
            os.utime(folder, (0, 0))
    writes = ('import fcntl, os, sys\nfcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n'
              'print("locked", flush=True)\nsys.stdin.read()')  # fmt: skip
    with subprocess.Popen([sys.executable, '-c', writes, str(alive)], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b'locked\n'
        write_folder(tmp_path, name, {'1': lambda: b'whole'})
        assert {path.name for path in tmp_path.iterdir()} == {name, alive.name, fresh.name, other.name}
        process.kill()
    write_folder(tmp_path, name, {'1': lambda: b'whole'})
    assert {path.name for path in tmp_path.iterdir()} == {name, f'{name}_2', fresh.name, other.name}


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path):
    snapshot = scene_of(moving(3)).snapshot(cloud(5000))
    with full_disk(20_000), pytest.raises(OutputError, match='the disk is full'):
        write_folder(tmp_path, 'map', scene_files(snapshot, ['tum', 'ply']))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_may_not_be_written_says_so(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match='let this user write there'):
        write_folder(tmp_path, 'map', {'a': lambda: b''})


def test_what_a_disk_says_comes_with_the_way_out():
    assert 'make room' in explain(OSError(errno.ENOSPC, 'x'))
    assert 'let this user write there' in explain(OSError(errno.EROFS, 'x'))
    assert explain(OSError(errno.EIO, 'bad disk')) == 'bad disk'


def test_a_file_in_the_way_is_named(tmp_path: Path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OutputError, match=r'cannot make the folder .*file/maps.*set save_directory'):
        save_directory(str(tmp_path / 'file' / 'maps'))


@pytest.mark.parametrize('path', ['maps', './maps', '../maps'])
def test_a_relative_folder_is_refused(path: str):
    with pytest.raises(OutputError, match='absolute'):
        save_directory(path)


def test_no_folder_is_that_of_ros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.delenv('ROS_HOME', raising=False)
    assert save_directory('') == tmp_path / '.ros' / 'vggt_ros'
    assert save_directory('~/maps') == tmp_path / 'maps'
    monkeypatch.setenv('ROS_HOME', str(tmp_path / 'elsewhere'))
    assert save_directory('').is_dir()
    assert save_directory('') == tmp_path / 'elsewhere' / 'vggt_ros'


def test_unknown_formats_are_refused_at_once():
    with pytest.raises(ConfigError, match=r"some of tum, ply.*'las'"):
        Config().with_values({'save_formats': 'las'})


def test_results_are_as_readable_as_other_files(tmp_path: Path):
    folder = write_folder(tmp_path, 'map', {'a': lambda: b''})
    (tmp_path / 'other').mkdir()
    assert folder.stat().st_mode == (tmp_path / 'other').stat().st_mode


def test_a_scene_of_frames_that_show_nothing_still_has_its_way():
    blind = placed_frame()
    blind = type(blind)(**{**vars(blind), 'depth': np.full_like(blind.depth, np.nan)})
    snapshot = scene_of(update_of(blind)).snapshot((np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)))
    assert not snapshot.is_empty
    files = scene_files(snapshot, SAVE_FORMATS)
    assert trimesh.load(io.BytesIO(files['scene.glb']()), file_type='glb').geometry.keys() == {'cameras'}
    assert Scene(Config()).snapshot((snapshot.xyz, snapshot.rgb)).is_empty
