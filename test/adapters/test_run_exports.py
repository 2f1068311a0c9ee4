"""vggt_ros run --export: further formats of the same run, with the images that a COLMAP project needs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
import trimesh
from pypcd4 import PointCloud
from recordings import FRAME_NS, START_NS, camera_bag

from vggt_ros.cli import main
from vggt_ros.core.config import Config
from vggt_ros.core.errors import OutputError
from vggt_ros.core.predictor import FakePredictor
from vggt_ros.recorded.source import open_source
from vggt_ros.run import EXPORTS, run

FAKE = Config().with_values({'backend': 'fake', 'window_size': 4, 'window_stride': 2})


@pytest.fixture(scope='module')
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('exports')
    source = open_source(camera_bag(folder / 'bag', 6))
    report = run(source, folder / 'out', FAKE, export=list(EXPORTS))
    source.close()
    assert {'cloud.pcd', 'colmap', 'colmap_text'} <= set(report.files)
    return folder / 'out'


def test_pcd_and_ply_are_the_same_cloud(out: Path):
    ply = np.asarray(trimesh.load(out / 'cloud.ply').vertices, np.float32)
    np.testing.assert_array_equal(PointCloud.from_path(out / 'cloud.pcd').numpy(('x', 'y', 'z')), ply)
    assert len(ply) > 100


@pytest.mark.parametrize('folder', ['colmap', 'colmap_text'])
def test_the_model_has_every_view_and_sees_the_wall(out: Path, folder: str):
    model = pycolmap.Reconstruction(out / folder / 'sparse/0')
    assert len(model.images) == 6
    centres = np.array([model.images[i].projection_center() for i in range(1, 7)])
    np.testing.assert_allclose(
        np.diff(centres[:, 1]), -FakePredictor.SPEED * FRAME_NS * 1e-9, atol=1e-6
    )  # to the right
    points = np.array([point.xyz for point in model.points3D.values()])
    assert len(points) > 100
    np.testing.assert_allclose(points[:, 0], FakePredictor.DISTANCE, atol=1e-5)
    assert model.compute_mean_track_length() > 3


def test_every_image_is_there_at_the_size_of_its_camera(out: Path):
    model = pycolmap.Reconstruction(out / 'colmap/sparse/0')
    for image in model.images.values():
        pixels = cv2.imread(str(out / 'colmap/images' / image.name))
        camera = model.cameras[image.camera_id]
        assert pixels.shape[:2] == (camera.height, camera.width)
    names = {str(path.relative_to(out / 'colmap/images')) for path in (out / 'colmap/images').rglob('*.jpg')}
    assert names == {image.name for image in model.images.values()}
    assert f'camera/{START_NS // 10**9}.{START_NS % 10**9:09d}.jpg' in names


def test_of_too_many_views_the_images_go_as_well(tmp_path: Path):
    source = open_source(camera_bag(tmp_path / 'bag', 6))
    run(source, tmp_path / 'out', FAKE.with_values({'map_max_views': 4}), export=['colmap'])
    source.close()
    model = pycolmap.Reconstruction(tmp_path / 'out/colmap/sparse/0')
    assert len(model.images) == 4
    assert len(list((tmp_path / 'out/colmap/images').rglob('*.jpg'))) == 4


def test_a_new_run_leaves_nothing_of_the_old(out: Path, tmp_path: Path):
    old = tmp_path / 'out'
    source = open_source(camera_bag(tmp_path / 'bag', 4))
    run(source, old, FAKE, export=['colmap', 'pcd'])
    run(source, old, FAKE, force=True)
    source.close()
    assert not (old / 'colmap').exists()
    assert not (old / 'cloud.pcd').exists()


def test_a_file_in_the_way_of_the_images_is_named(tmp_path: Path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/colmap').write_text('mine')
    source = open_source(camera_bag(tmp_path / 'bag', 4))
    with pytest.raises(OutputError, match=r'cannot make .*colmap'):
        run(source, tmp_path / 'out', FAKE, export=['colmap'])
    source.close()
    assert (tmp_path / 'out/colmap').read_text() == 'mine'
    assert (tmp_path / 'out/report.html').exists()


def test_unknown_formats_are_refused_by_the_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(['run', 'nothing', '--export', 'las'])
    assert "invalid choice: 'las'" in capsys.readouterr().err


def test_the_command_writes_them_at_the_size_of_the_input(tmp_path: Path):
    bag = camera_bag(tmp_path / 'bag', 4)
    command = ['run', str(bag), '--out', str(tmp_path / 'out'), '--quiet', '--backend', 'fake', '--only', '~/odom']
    assert main([*command, '--input-width', '32', '--output-resolution', 'input', '--export', 'colmap']) == 0
    (camera,) = pycolmap.Reconstruction(tmp_path / 'out/colmap/sparse/0').cameras.values()
    assert (camera.width, camera.height) == (64, 48)
    np.testing.assert_allclose(camera.params, [60, 60, 32, 24], atol=1e-6)  # of the CameraInfo, from the corner
