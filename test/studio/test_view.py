"""`vggt_ros view` beside a running node: what it publishes is what a visitor sees."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip('viser', reason='the live view needs the extra: pip install "vggt_ros[studio]"')
rclpy = pytest.importorskip('rclpy', reason='rclpy is not importable: source a ROS 2 installation, or run `make test`')
playwright = pytest.importorskip('playwright.sync_api', reason='playwright drives the browser')

sys.path.insert(0, str(Path(__file__).parents[1] / 'node'))  # robot.py

from browser import PATIENCE_MS, WITH_3D, chromium, free_port  # noqa: E402
from robot import CLIPS, IMAGE, Clip, NodeProcess, Robot, spinning  # noqa: E402

from vggt_ros.dds import free_domain, stay_on_this_machine  # noqa: E402
from vggt_ros.studio.live import LiveScene  # noqa: E402
from vggt_ros.studio.view import show_node  # noqa: E402

FRAMES = 8
NODE = {'backend': 'fake', 'window_size': 4, 'window_stride': 2, 'standalone': True, 'input_reliability': 'reliable',
        'map_publish_period': 0.1}  # fmt: skip


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveScene]:
    """The live view of a node in a process of its own that takes images of now."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in stay_on_this_machine(free_domain()).items():
            patch.setenv(name, value)
        scene = LiveScene(free_port(), 'vggt')
        stack.callback(scene.close)
        ended = threading.Event()
        viewer = threading.Thread(target=show_node, args=(scene,), kwargs={'until': ended.is_set})
        viewer.start()
        stack.callback(viewer.join)
        stack.callback(ended.set)
        node = NodeProcess(NODE, {'image': IMAGE}, tmp_path_factory.mktemp('view') / 'node.log')
        stack.callback(node.stop)
        context = rclpy.Context()
        rclpy.init(context=context)
        stack.callback(rclpy.try_shutdown, context=context)
        robot = Robot(context)
        stack.callback(robot.destroy_node)
        stack.enter_context(spinning(robot, context))
        robot.start_camera()
        node.wait_for_text('waiting for images on')
        robot.wait_for_match()
        robot.wait_until(lambda: robot.count_subscribers('/vggt/map_points') and '/diagnostics' in scene.counts, 'view')
        clip = Clip(next(folder for folder in CLIPS if folder.is_dir()), FRAMES)
        for i in range(FRAMES):
            robot.publish_frame(clip, i, stamp_ns=time.time_ns())
            time.sleep(0.2)
        robot.wait_until(lambda: scene.points > 100 and scene.counts.get('~/path', 0) > 1, 'map in the view')
        robot.wait_until(lambda: 'output: ok' in scene._status.content, 'status in the view')
        yield scene


@pytest.mark.skipif(chromium() is None, reason='no Chromium on this machine')
@pytest.mark.parametrize('width', [1280, 390])
def test_what_the_node_publishes_is_on_the_page(scene: LiveScene, width: int) -> None:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=WITH_3D)
        page = browser.new_page(viewport={'width': width, 'height': 844})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(scene.url)
        page.wait_for_function("document.body.innerText.includes('points in the map')")
        words = page.inner_text('body')
        assert f'{scene.points:,} points in the map' in words
        assert 'latency' in words
        assert 'output: ok' in words
        assert 'scale: ' in words
        pictures = page.evaluate('[...document.images].map(one => one.naturalWidth)')
        assert sum(wide >= 128 for wide in pictures) >= 2  # camera and depth
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        browser.close()
    assert {'/map', '/path', '/camera'} <= set(scene.server.scene._handle_from_node_name)


def test_latency_is_that_of_images_of_now(scene: LiveScene) -> None:
    assert 0 < scene._latency_s < 60
