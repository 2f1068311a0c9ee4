"""The live view takes messages of a bag, and shows what is in them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('viser', reason='the live view needs the extra: pip install "vggt_ros[studio]"')

from vggt_ros.core.config import Config
from vggt_ros.core.errors import SourceError
from vggt_ros.recorded.source import open_source
from vggt_ros.run import run
from vggt_ros.studio.live import LiveScene, points_of
from vggt_ros.studio.view import show_bag


@pytest.fixture
def scene() -> Iterator[LiveScene]:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    scene = LiveScene(port, 'test')
    yield scene
    scene.close()


@pytest.fixture(scope='module')
def result(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag of what the node publishes, of a network that is a wall."""
    out = tmp_path_factory.mktemp('result')
    config = Config().with_values({'backend': 'fake', 'window_size': 3, 'window_stride': 2})
    run(open_source(material / 'images', rate=2.0), out, config)
    return out / 'result.mcap'


def test_bag_of_results_is_shown(scene: LiveScene, result: Path) -> None:
    waited: list[float] = []
    shown = show_bag(result, scene, rate=2.0, sleep=waited.append)
    assert shown == sum(scene.counts.values())
    assert scene.counts['~/camera_pose'] == scene.counts['~/depth/image_color'] == 5
    assert scene.points > 100
    assert sum(waited) == pytest.approx(2.0 / 2, abs=0.01)  # two seconds between the first image and the last
    handles = scene.server.scene._handle_from_node_name
    assert {'/map', '/path', '/camera'} <= set(handles)
    assert f'5 frames, {scene.points:,} points in the map' in scene._status.content


def test_camera_picture_is_that_of_the_message(scene: LiveScene) -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    message = SimpleNamespace(
        encoding='rgb8', height=4, width=6, step=18, is_bigendian=0, data=pixels.reshape(-1),
        header=SimpleNamespace(frame_id='camera'),
    )  # fmt: skip
    scene.add('~/rgb/image_rect_color', message)
    shown = scene._pictures['~/rgb/image_rect_color'].image
    times = shown.shape[1] // 6
    np.testing.assert_array_equal(shown[::times, ::times], pixels)


def test_points_have_their_colours_in_order() -> None:
    packed = np.zeros((2, 4), np.float32)
    packed[0, :3], packed[1, :3] = (1, 2, 3), np.nan
    packed.view(np.uint32)[:, 3] = 0x00102030
    xyz, rgb = points_of(SimpleNamespace(data=packed.view(np.uint8).reshape(-1), point_step=16))
    np.testing.assert_array_equal(xyz, [[1, 2, 3]])
    np.testing.assert_array_equal(rgb, [[0x10, 0x20, 0x30]])


def test_diagnostics_are_told_in_words(scene: LiveScene) -> None:
    latency = SimpleNamespace(key='latency s', value='0.41')
    statuses = [
        SimpleNamespace(name='vggt: output', level=b'\x00', message='results go out', values=[latency]),
        SimpleNamespace(name='vggt: scale', level=b'\x01', message='metres are not known', values=[]),
    ]
    scene.add('/diagnostics', SimpleNamespace(status=statuses))
    assert 'output: ok, results go out, latency 0.41 s' in scene._status.content
    assert 'scale: warning, metres are not known' in scene._status.content


def test_it_listens_on_loopback_only(scene: LiveScene) -> None:
    assert scene.server.get_host() == '127.0.0.1'


def test_a_bag_without_the_node_is_refused_in_words(scene: LiveScene, material: Path) -> None:
    with pytest.raises(SourceError, match='--node'):
        show_bag(next((material / 'bag').glob('*.mcap')), scene)
