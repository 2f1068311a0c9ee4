"""The page in a real, headless Chromium: what a visitor does, from the upload to the downloads."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from browser import PLAIN, WITH_3D, Visitor, chromium, free_port
from evo.tools import file_interface
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from PIL import Image

from vggt_ros.core.config import Config
from vggt_ros.core.errors import PredictionError
from vggt_ros.core.predictor import Predictor
from vggt_ros.studio.networks import Networks
from vggt_ros.studio.server import Studio

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install playwright')
pytestmark = [
    pytest.mark.skipif(chromium() is None, reason='no Chromium on this machine: apt install chromium'),
    pytest.mark.timeout(240),
]


class Switch:
    """The network of the page, which a test may break."""

    def __init__(self) -> None:
        self.networks, self.failure = Networks(), ''

    def get(self, config: Config) -> Predictor:
        predictor = self.networks.get(config)
        if self.failure:
            failure = self.failure

            def fail(*_: object) -> Any:
                raise PredictionError(failure)

            predictor.predict = fail  # type: ignore[method-assign]
        return predictor


@pytest.fixture(scope='module')
def switch() -> Switch:
    return Switch()


@pytest.fixture(scope='module')
def address(switch: Switch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    studio = Studio(tmp_path_factory.mktemp('studio'), get_predictor=switch.get)
    yield studio.start(port=free_port())
    studio.close()


@pytest.fixture(scope='module')
def driver() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        yield driver


@pytest.fixture(scope='module')
def browser(driver: Any) -> Iterator[Any]:
    browser = driver.chromium.launch(executable_path=chromium(), args=PLAIN)
    yield browser
    browser.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Visitor]]:
    visitors: list[Visitor] = []

    def visit(**options: int) -> Visitor:
        visitors.append(Visitor(browser, address, **options))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.close()
        assert visitor.foreign == [], 'the page fetched something from elsewhere'


@pytest.fixture(scope='module')
def done(browser: Any, address: str, material: Path) -> Iterator[Visitor]:
    """A visitor who has uploaded five images and reconstructed them."""
    visitor = Visitor(browser, address)
    visitor.send(*sorted((material / 'images').iterdir()))
    visitor.wait_for_text('#inputs', '5 frames will be used')
    visitor.reconstruct()
    yield visitor
    visitor.close()


def points_in(scene: trimesh.Scene) -> int:
    return len(scene.geometry['cloud'].vertices)


def test_images_become_a_scene(done: Visitor) -> None:
    assert done.page.locator('#gallery img').count() == 5
    assert 'points' in done.text('#status')
    assert '5 frames' in done.text('#status')
    scene = done.scene()
    assert points_in(scene) > 1000
    assert sum(name.startswith('camera_') for name in scene.geometry) == 5


CONTROLS: dict[str, tuple[Callable[[Visitor], None], Callable[[Visitor], None]]] = {
    'confidence': (lambda v: v.set_number('confidence', 80), lambda v: v.set_number('confidence', 50)),
    'point_size': (lambda v: v.set_number('point_size', 0), lambda v: v.set_number('point_size', 10)),
    'voxel_size': (lambda v: v.set_number('voxel_size', 0.1), lambda v: v.set_number('voxel_size', 0)),
    'frame_filter': (lambda v: v.pick('frame_filter', '1: '), lambda v: v.pick('frame_filter', 'all frames')),
    'show_cameras': (lambda v: v.tick('show_cameras'), lambda v: v.tick('show_cameras')),
    'show_path': (lambda v: v.tick('show_path'), lambda v: v.tick('show_path')),
    'mask_white': (lambda v: v.tick('mask_white'), lambda v: v.tick('mask_white')),
    'mask_black': (lambda v: v.tick('mask_black'), lambda v: v.tick('mask_black')),
    'mask_sky': (lambda v: v.tick('mask_sky'), lambda v: v.tick('mask_sky')),
}
EXPECTED: dict[str, Callable[[trimesh.Scene, trimesh.Scene], bool]] = {
    'confidence': lambda before, after: points_in(after) < 0.5 * points_in(before),
    'point_size': lambda before, after: points_in(after) * 4 == points_in(before),  # four corners each, then none
    'voxel_size': lambda before, after: points_in(after) < points_in(before),
    'frame_filter': lambda before, after: points_in(after) < points_in(before) and 'camera_1' not in after.geometry,
    'show_cameras': lambda before, after: 'camera_0' not in after.geometry and points_in(after) == points_in(before),
    'show_path': lambda before, after: 'path' in before.geometry and 'path' not in after.geometry,
    # Office walls and a dark cabinet: there may be no pixel over 240 or below 16, and no sky. What each of these masks
    # does is tested on known pictures in test_scene.py; here, that the box reaches the scene. Sky counts as least
    # confident, and of that a share is hidden: as many points stay, and some more where several are just as confident.
    'mask_white': lambda before, after: points_in(after) <= points_in(before),
    'mask_black': lambda before, after: points_in(after) <= points_in(before),
    'mask_sky': lambda before, after: points_in(after) <= 1.001 * points_in(before),
}


@pytest.mark.parametrize('control', list(CONTROLS))
def test_control_changes_the_scene_without_the_network(done: Visitor, switch: Switch, control: str) -> None:
    change, undo = CONTROLS[control]
    before, link = done.scene(), done.link('scene.glb')
    switch.failure = 'the network ran'
    try:
        change(done)
        changed = done.wait_for_new_scene(link)
        after = done.scene()
        undo(done)
        done.wait_for_new_scene(changed)
    finally:
        switch.failure = ''
    assert EXPECTED[control](before, after), (points_in(before), points_in(after))
    assert points_in(done.scene()) == points_in(before)


def test_point_map_is_said_to_be_missing_where_the_model_has_none(done: Visitor) -> None:
    link = done.link('scene.glb')
    done.choose('branch', 'Point map')
    link = done.wait_for_new_scene(link)
    assert 'no point head' in done.wait_for_text('#status', 'point head')
    done.choose('branch', 'Depth and camera')
    done.wait_for_new_scene(link)


def test_depth_and_confidence_of_a_frame_are_shown(done: Visitor) -> None:
    pictures = ('#picture_image img', '#picture_depth img', '#picture_confidence img')
    first = [done.page.get_attribute(one, 'src') for one in pictures]
    done.set_number('frame', 3)
    done.page.wait_for_function("before => document.querySelector('#picture_depth img')?.src != before", arg=first[1])
    for one in pictures:
        response = done.fetch(done.page.get_attribute(one, 'src'))
        assert response.ok
        assert np.asarray(Image.open(io.BytesIO(response.body()))).std() > 5


def test_every_download_opens_elsewhere(done: Visitor, tmp_path: Path) -> None:
    assert points_in(done.scene()) > 1000
    cloud = trimesh.load(io.BytesIO(done.download('cloud.ply')), file_type='ply')
    assert len(cloud.vertices) > 1000
    with np.load(io.BytesIO(done.download('predictions.npz')), allow_pickle=False) as file:
        assert file['depth'].shape[0] == file['extrinsic'].shape[0] == 5
    (tmp_path / 'tum.txt').write_bytes(done.download('trajectory_tum.txt'))
    way = file_interface.read_tum_trajectory_file(str(tmp_path / 'tum.txt'))
    assert way.num_poses == 5
    assert way.check()[0]
    with zipfile.ZipFile(io.BytesIO(done.download('colmap.zip'))) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        count = int.from_bytes(archive.read('sparse/0/images.bin')[:8], 'little')  # COLMAP's own layout: a count first
        assert count == sum(name.endswith('.jpg') for name in names) == 5
    reader = make_reader(io.BytesIO(done.download('result.mcap')), decoder_factories=[DecoderFactory()])
    topics = [channel.topic for _, channel, _, _ in reader.iter_decoded_messages()]
    assert topics.count('/vggt/depth/image_rect') == 5


def test_what_is_downloaded_agrees(done: Visitor, tmp_path: Path) -> None:
    """PLY, TUM and MCAP stand in the same frame: the first camera at the origin of the map, the cloud ahead of it."""
    cloud = trimesh.load(io.BytesIO(done.download('cloud.ply')), file_type='ply')
    assert np.median(cloud.vertices[:, 0]) > 0
    (tmp_path / 'tum.txt').write_bytes(done.download('trajectory_tum.txt'))
    way = file_interface.read_tum_trajectory_file(str(tmp_path / 'tum.txt'))
    reader = make_reader(io.BytesIO(done.download('result.mcap')), decoder_factories=[DecoderFactory()])
    poses = [message.pose.position for *_, message in reader.iter_decoded_messages(topics=['/vggt/camera_pose'])]
    np.testing.assert_allclose(way.positions_xyz, [[p.x, p.y, p.z] for p in poses], atol=1e-6)


def test_reload_keeps_the_result(done: Visitor) -> None:
    before = points_in(done.scene())
    done.open()
    done.wait_for_text('#status', 'points')
    assert '5 frames' in done.text('#inputs')
    assert done.page.locator('#gallery img').count() == 5
    assert points_in(done.scene()) == before


def test_users_do_not_see_each_other(done: Visitor, visit: Callable[..., Visitor]) -> None:
    other = visit()
    assert 'Nothing uploaded' in other.text('#inputs')
    assert other.link('scene.glb') == ''
    own = [done.link(name) for name in ('scene.glb', 'predictions.npz')]
    own.append(str(done.page.get_attribute('#gallery img', 'src')))
    for link in own:
        assert done.fetch(link).ok
        assert other.fetch(link).status == 403, link
    upload = done.link('predictions.npz').replace('result/predictions.npz', 'source/0000_IMG_0.jpg')
    assert done.fetch(upload).status == 403  # originals are given to nobody
    assert other.fetch(f'{other.address}gradio_api/file=/etc/passwd').status == 403


def test_video_is_thinned_and_taken_by_windows(visit: Callable[..., Visitor], material: Path) -> None:
    visitor = visit()
    visitor.send(material / 'video.mp4')
    visitor.wait_for_text('#inputs', '4 frames will be used')
    visitor.set_number('interval', 0.4)
    visitor.wait_for_text('#inputs', '10 frames will be used')
    visitor.open_network()
    visitor.choose('mode', 'sliding window')
    visitor.reconstruct()
    assert '10 frames' in visitor.wait_for_text('#status', 'sliding window')


def test_bag_is_reconstructed(visit: Callable[..., Visitor], material: Path) -> None:
    visitor = visit()
    visitor.send(next((material / 'bag').glob('*.mcap')))
    visitor.wait_for_text('#inputs', '3 frames will be used')
    visitor.reconstruct()
    assert '3 frames' in visitor.wait_for_text('#status', '3 frames')


def test_example_is_stored_until_it_is_reconstructed(visit: Callable[..., Visitor], switch: Switch) -> None:
    visitor = visit()
    switch.failure = 'the network ran'
    try:
        visitor.example('room')
        visitor.wait_for_text('#status', 'Stored result')
        assert visitor.link('result.mcap') == ''
    finally:
        switch.failure = ''
    assert points_in(visitor.scene()) > 1000
    visitor.reconstruct()
    visitor.wait_for_text('#status', 'nano on')
    assert 'Stored result' not in visitor.text('#status')
    assert visitor.link('result.mcap')


def test_errors_are_shown_in_words(
    visit: Callable[..., Visitor], material: Path, switch: Switch, tmp_path: Path
) -> None:
    visitor = visit()
    visitor.page.click('#reconstruct')
    assert 'upload images, a video or a bag first' in visitor.error()
    (tmp_path / 'corrupt.mp4').write_bytes(b'this is no video' * 100)
    visitor.send(tmp_path / 'corrupt.mp4')
    words = visitor.error()
    assert 'corrupt.mp4 cannot be opened as a video' in words
    assert str(tmp_path) not in words
    assert '/session' not in words  # nor where it lies on the server
    visitor.send(*sorted((material / 'images').iterdir()))
    visitor.wait_for_text('#inputs', '5 frames will be used')
    switch.failure = 'the GPU is out of memory: tried to allocate 5 GiB'
    try:
        visitor.page.click('#reconstruct')
        assert 'out of memory with 5 frames at once: about 2 fit' in visitor.error()
    finally:
        switch.failure = ''


def test_too_many_frames_are_refused_with_the_number_that_fits(
    visit: Callable[..., Visitor], material: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = visit()
    visitor.send(*sorted((material / 'images').iterdir()))
    visitor.wait_for_text('#inputs', '5 frames will be used')
    # 30 MB: nano needs 43 kB for each of the 194 tokens of a frame.
    monkeypatch.setattr('vggt_ros.studio.limits.free_bytes', lambda device: 30e6)
    visitor.page.click('#reconstruct')
    words = visitor.error()
    assert '5 frames are too many at once: 2 fit here' in words


@pytest.mark.parametrize('width', [1280, 390])
def test_page_fits_its_width(visit: Callable[..., Visitor], width: int) -> None:
    visitor = visit(width=width)
    visitor.example('room')
    visitor.wait_for_text('#status', 'Stored result')
    assert visitor.page.evaluate('document.documentElement.scrollWidth') <= width
    outside = visitor.page.evaluate(
        """width => [...document.querySelectorAll('button, input, label, h2, p, img')].filter(e => {
            const b = e.getBoundingClientRect(); const g = e.closest('#gallery, .visually-hidden, .sr-only');
            return b.width && !g && (b.left < -1 || b.right > width + 1) }).map(e => e.outerHTML.slice(0, 80))""",
        width,
    )
    assert outside == []


def test_scene_is_drawn(driver: Any, address: str) -> None:
    browser = driver.chromium.launch(executable_path=chromium(), args=WITH_3D)
    visitor = Visitor(browser, address, width=640, height=600)
    visitor.example('room')
    visitor.wait_for_text('#status', 'Stored result')
    canvas = visitor.page.locator('#scene canvas')
    canvas.scroll_into_view_if_needed()
    for _ in range(60):
        picture = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert('RGB')).astype(int)
        drawn = (np.abs(picture - 247).max(axis=-1) > 30).mean()  # away from the grey behind it
        if drawn > 0.03:
            break
        visitor.page.wait_for_timeout(500)
    browser.close()
    assert drawn > 0.03
