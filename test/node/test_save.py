"""~/save_map and ~/save_trajectory: files of a running node, and what the caller hears where there are none."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import trimesh
from nav_msgs.msg import Odometry
from pypcd4 import PointCloud
from robot import Clip, Robot
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

from vggt_ros.core.predictor import FakePredictor
from vggt_ros.node import VggtNode

SMALL = {'standalone': True, 'window_size': 4, 'window_stride': 2, 'scale_source': 'fixed', 'map_publish_period': 0.01}
MakeNode = Callable[..., VggtNode]


def run(robot: Robot, make_node: MakeNode, clip: Clip, folder: Path, **parameters: object) -> VggtNode:
    """A node that has placed six frames."""
    robot.start_camera()
    robot.listen(Odometry, '/vggt/odom')
    robot.listen(PointCloud2, '/vggt/map_points', latched=True)
    node = make_node(**{**SMALL, 'save_directory': str(folder), **parameters})
    robot.wait_for_match(node)
    robot.publish_clip(clip, range(6), node)
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 6, 'odometry')
    return node


def test_a_map_is_saved_as_it_is_published(robot: Robot, make_node: MakeNode, clip: Clip, tmp_path: Path) -> None:
    run(robot, make_node, clip, tmp_path / 'maps')
    robot.wait_until(lambda: len(robot.received['/vggt/map_points']) >= 2, 'map')
    answer = robot.call(Trigger, '/vggt/save_map', Trigger.Request())
    assert answer.success, answer.message
    (folder,) = (tmp_path / 'maps').iterdir()
    assert str(folder) in answer.message
    names = {str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()}
    model = {f'colmap/sparse/0/{name}.bin' for name in ('cameras', 'images', 'points3D')}
    assert names == {'trajectory_tum.txt', 'cloud.ply', 'cloud.pcd', 'scene.glb', *model}

    message = robot.received['/vggt/map_points'][-1]
    published = np.frombuffer(message.data, np.float32).reshape(-1, 4)[:, :3]
    np.testing.assert_array_equal(np.asarray(trimesh.load(folder / 'cloud.ply').vertices, np.float32), published)
    np.testing.assert_array_equal(PointCloud.from_path(folder / 'cloud.pcd').numpy(('x', 'y', 'z')), published)
    assert b'frame odom' in (folder / 'cloud.ply').read_bytes()[:200]
    lines = (folder / 'trajectory_tum.txt').read_text().splitlines()
    stamps = [line.split()[0] for line in lines if not line.startswith('#')]
    assert stamps == [f'{stamp // 10**9}.{stamp % 10**9:09d}' for stamp in clip.stamps_ns[:6]]
    points = pycolmap.Reconstruction(folder / 'colmap/sparse/0').points3D.values()
    assert all(abs(point.xyz[0] - FakePredictor.DISTANCE) < 1e-5 for point in points)  # the wall


def test_a_trajectory_is_saved_and_images_go_on(robot: Robot, make_node: MakeNode, clip: Clip, tmp_path: Path) -> None:
    node = run(robot, make_node, clip, tmp_path)
    answer = robot.call(Trigger, '/vggt/save_trajectory', Trigger.Request())
    assert answer.success, answer.message
    (path,) = tmp_path.iterdir()
    assert answer.message == f'saved 6 poses to {path}'
    robot.publish_clip(clip, range(6, 8), node)
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 8, 'odometry after it')


def test_after_a_reset_only_the_new_map_is_saved(robot: Robot, make_node: MakeNode, clip: Clip, tmp_path: Path) -> None:
    node = run(robot, make_node, clip, tmp_path)
    assert robot.call(Trigger, '/vggt/reset', Trigger.Request()).success
    robot.wait_until(lambda: node._pipeline.statistics.resets == 1, 'reset')
    answer = robot.call(Trigger, '/vggt/save_trajectory', Trigger.Request())
    assert not answer.success
    assert 'nothing to save yet' in answer.message
    robot.publish_clip(clip, range(6, 10), node)
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 10, 'odometry of the new map')
    assert robot.call(Trigger, '/vggt/save_trajectory', Trigger.Request()).message.startswith('saved 4 poses to ')


def test_a_map_can_be_saved_after_deactivation(robot: Robot, make_node: MakeNode, clip: Clip, tmp_path: Path) -> None:
    node = run(robot, make_node, clip, tmp_path, save_formats='ply')
    node.trigger_deactivate()
    assert robot.call(Trigger, '/vggt/save_map', Trigger.Request()).success
    ((ply,),) = [list(folder.iterdir()) for folder in tmp_path.iterdir()]
    assert ply.name == 'cloud.ply'


def test_without_a_map_the_caller_hears_why(robot: Robot, make_node: MakeNode, tmp_path: Path) -> None:
    make_node(**SMALL, save_directory=str(tmp_path / 'maps'))
    for service in ('/vggt/save_map', '/vggt/save_trajectory'):
        answer = robot.call(Trigger, service, Trigger.Request())
        assert not answer.success
        assert 'nothing to save yet' in answer.message
    assert not (tmp_path / 'maps').exists()


def test_where_nothing_can_be_written_the_caller_hears_why_and_images_go_on(
    robot: Robot, make_node: MakeNode, clip: Clip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / 'file').write_text('')
    node = run(robot, make_node, clip, tmp_path / 'file' / 'maps')
    answer = robot.call(Trigger, '/vggt/save_map', Trigger.Request())
    assert not answer.success
    assert 'cannot make the folder' in answer.message
    assert 'set save_directory' in answer.message
    assert answer.message in [record.getMessage() for record in caplog.records]
    robot.publish_clip(clip, range(6, 8), node)
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) == 8, 'odometry after it')


def test_a_full_disk_is_said_and_leaves_nothing(robot: Robot, make_node: MakeNode, clip: Clip, tmp_path: Path) -> None:
    run(robot, make_node, clip, tmp_path / 'maps')
    assert robot.call(Trigger, '/vggt/save_trajectory', Trigger.Request()).success  # both ends know each other
    robot.call(Trigger, '/vggt/save_map', Trigger.Request())
    before = sorted((tmp_path / 'maps').iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        answer = robot.call(Trigger, '/vggt/save_map', Trigger.Request())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not answer.success
    assert 'the disk is full' in answer.message
    assert sorted((tmp_path / 'maps').iterdir()) == before
