"""The page as a visitor sees it: what to click, what to read, what to download."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trimesh

CHROMIUM = ('/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome')
# Without 3D the page is the same but for the picture of the scene, and a machine without a GPU is spared drawing it.
PLAIN = ['--no-sandbox', '--disable-3d-apis', '--disable-dev-shm-usage']
WITH_3D = ['--no-sandbox', '--disable-dev-shm-usage', '--use-angle=swiftshader', '--enable-unsafe-swiftshader']
PATIENCE_MS = 60_000.0  # a loaded machine of two cores


def chromium() -> str | None:
    """Path of the system's Chromium."""
    return next((path for path in CHROMIUM if Path(path).exists()), None)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return int(one.getsockname()[1])


class Visitor:
    """A browser context of its own on the page: its cookies are its own too."""

    def __init__(self, browser: Any, address: str, width: int = 1280, height: int = 800) -> None:
        self.context = browser.new_context(viewport={'width': width, 'height': height})
        self.context.set_default_timeout(PATIENCE_MS)
        self.page, self.address = self.context.new_page(), address
        self.foreign: list[str] = []
        self.page.on('request', self._note)
        self.open()

    def open(self) -> None:
        self.page.goto(self.address)
        self.page.wait_for_selector('#reconstruct')
        self.wait_for_text('#inputs', '')

    def send(self, *files: Path) -> None:
        self.page.set_input_files('#files input[type=file]', [str(file) for file in files])

    def example(self, name: str) -> None:
        self.page.click(f'#example_{name}')

    def reconstruct(self) -> None:
        before = self.link('scene.glb')
        self.page.click('#reconstruct')
        self.wait_for_new_scene(before)

    def choose(self, group: str, text: str) -> None:
        """Click one of a group of radio buttons."""
        self.page.click(f'#{group} label:has-text("{text}")')

    def open_network(self) -> None:
        if not self.page.is_visible('#mode'):
            self.page.click('#network > button')
        self.page.wait_for_selector('#mode')

    def set_number(self, name: str, value: float) -> None:
        box = self.page.locator(f'#{name} input[type=number]')
        box.fill(str(value))
        box.press('Enter')
        box.blur()

    def tick(self, name: str) -> None:
        self.page.click(f'#{name} input[type=checkbox]')

    def pick(self, name: str, text: str) -> None:
        """Choose from a list."""
        self.page.click(f'#{name} input')
        self.page.click(f'[role=option]:has-text("{text}")')

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def wait_for_text(self, selector: str, text: str) -> str:
        self.page.wait_for_function(
            '([s, t]) => { const e = document.querySelector(s); return e && e.innerText.includes(t) }',
            arg=[selector, text],
        )
        return self.text(selector)

    def error(self) -> str:
        """The words of the error that comes up; it is closed again."""
        body = self.page.wait_for_selector('.toast-body')
        words = str(body.inner_text())
        self.page.click('.toast-close')
        self.page.wait_for_selector('.toast-body', state='detached')
        return words

    def link(self, name: str) -> str:
        """Address of a download; empty where there is none."""
        found = self.page.locator(f'#downloads a[href*="{name}"]')
        return str(found.first.get_attribute('href')) if found.count() else ''

    def wait_for_new_scene(self, before: str) -> str:
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while time.monotonic() < deadline:
            now = self.link('scene.glb')
            if now and now != before:
                return now
            if self.page.locator('.toast-body').count():
                raise AssertionError(self.page.inner_text('.toast-body'))
            self.page.wait_for_timeout(50)
        raise AssertionError(f'no new scene; the page says: {self.text("#status")}')

    def fetch(self, address: str) -> Any:
        return self.context.request.get(address)

    def download(self, name: str) -> bytes:
        response = self.fetch(self.link(name))
        assert response.ok, (name, response.status)
        return bytes(response.body())

    def scene(self) -> trimesh.Scene:
        return trimesh.load(io.BytesIO(self.download('scene.glb')), file_type='glb')

    def names(self, selector: str) -> Sequence[str]:
        return [str(text) for text in self.page.locator(selector).all_inner_texts()]

    def close(self) -> None:
        self.context.close()

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self.address, 'data:', 'blob:')):
            self.foreign.append(request.url)
