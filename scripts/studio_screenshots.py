"""Take the pictures of docs/studio.md anew: python -m scripts.studio_screenshots [step ...]. Needs Chromium."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'test' / 'studio'))  # browser.py drives the page for the tests too

from browser import WITH_3D, Visitor, chromium, free_port  # noqa: E402

from vggt_ros.core.config import Config  # noqa: E402
from vggt_ros.recorded.source import open_source  # noqa: E402
from vggt_ros.run import run  # noqa: E402
from vggt_ros.studio.live import LiveScene  # noqa: E402
from vggt_ros.studio.server import Studio  # noqa: E402
from vggt_ros.studio.view import show_bag  # noqa: E402

OUT = ROOT / 'docs' / 'images'
CLIP = sorted((ROOT / 'vggt_ros/data/cabinet/rgb').glob('*.jpg'))
WIDTHS = {1280: 900, 390: 844}  # a laptop and a telephone: width to height
DRAWN_MS = 12_000.0  # for the 3D view, without a GPU


def start(visitor: Visitor) -> None:
    """The page as it comes up."""


def upload(visitor: Visitor) -> None:
    visitor.send(*CLIP[:12])
    visitor.wait_for_text('#inputs', '12 frames will be used')
    visitor.open_network()
    visitor.page.wait_for_timeout(1500)


def example(visitor: Visitor) -> None:
    visitor.example('room')
    visitor.wait_for_text('#status', 'Stored result')
    visitor.page.wait_for_timeout(DRAWN_MS)


def result(visitor: Visitor) -> None:
    visitor.send(*CLIP[:12])
    visitor.wait_for_text('#inputs', '12 frames will be used')
    visitor.reconstruct()
    visitor.page.wait_for_timeout(DRAWN_MS)


def error(visitor: Visitor) -> None:
    visitor.page.click('#reconstruct')
    visitor.page.wait_for_selector('.toast-body')
    visitor.page.wait_for_timeout(800)


def scroll_through(visitor: Visitor) -> None:
    """Pictures load when they come into sight."""
    height = visitor.page.evaluate('document.documentElement.scrollHeight')
    for y in [*range(0, height, 600), 0]:
        visitor.page.evaluate(f'window.scrollTo(0, {y})')
        visitor.page.wait_for_timeout(250)


STEPS: dict[str, tuple[Callable[[Visitor], None], bool]] = {  # and whether the whole page is taken
    'start': (start, False),
    'upload': (upload, True),
    'example': (example, True),
    'result': (result, True),
    'error': (error, False),
}


def view(browser: Any) -> None:
    """The live view, of a bag of the shipped clip."""
    with tempfile.TemporaryDirectory() as folder:
        run(open_source(ROOT / 'vggt_ros/data/cabinet'), Path(folder), Config())
        for width, height in WIDTHS.items():
            scene = LiveScene(free_port(), 'cabinet')
            show_bag(Path(folder) / 'result.mcap', scene, sleep=lambda seconds: None)
            page = browser.new_page(viewport={'width': width, 'height': height})
            page.goto(scene.url)
            page.wait_for_timeout(2 * DRAWN_MS)
            file = OUT / f'studio_view_{width}.png'
            page.screenshot(path=file, timeout=240_000)  # drawn by the processor, beside whatever else runs
            page.close()
            scene.close()
            print(file, flush=True)


def pages(browser: Any, names: list[str]) -> None:
    """The steps of a visit to Studio."""
    studio = Studio()
    try:
        address = studio.start(port=free_port())
        for name in names:
            step, whole = STEPS[name]
            for width, height in WIDTHS.items():
                visitor = Visitor(browser, address, width, height)
                step(visitor)
                scroll_through(visitor)
                file = OUT / f'studio_{name}_{width}.png'
                visitor.page.screenshot(path=file, full_page=whole)
                visitor.close()
                print(file, flush=True)
    finally:
        studio.close()


def main() -> None:
    from playwright.sync_api import sync_playwright

    asked = sys.argv[1:] or [*STEPS, 'view']
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=WITH_3D)
        if 'view' in asked:
            view(browser)
        if steps := [name for name in asked if name != 'view']:
            pages(browser, steps)
        browser.close()


if __name__ == '__main__':
    main()
