"""The command `vggt_ros studio`: the page on this machine, or with a login where others may come."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import ipaddress
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vggt_ros.core.config import Config
from vggt_ros.core.errors import ConfigError
from vggt_ros.core.predictor import Predictor
from vggt_ros.studio.limits import Limits

log = logging.getLogger(__name__)

PORT = 7860
PASSWORD = 'VGGT_ROS_STUDIO_PASSWORD'
SWEEP_S = 600.0  # seconds between looks for sessions that are too old


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Limits()
    parser.add_argument('--port', type=int, default=PORT, help=f'port to listen on ({PORT})')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on; others than loopback need a login')
    parser.add_argument('--share', action='store_true', help="a public address through Gradio's tunnel, with a login")
    parser.add_argument('--user', default='vggt', help=f'name of the login; its password is ${PASSWORD}, or made up')
    parser.add_argument('--model', action='append', default=[], metavar='NAME', help='more models to choose from')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:N, for all models')
    parser.add_argument('--folder', metavar='DIR', help='folder for uploads and results; default a temporary one')
    parser.add_argument('--keep-hours', type=float, default=default.keep_s / 3600, help='unused uploads are kept (24)')
    parser.add_argument('--max-mb', type=float, default=default.upload_bytes / 1e6, help='size of an upload (2000)')
    parser.add_argument('--max-minutes', type=float, default=default.video_s / 60, help='length of a video (10)')
    parser.add_argument('--open', action='store_true', help='open a browser')


def main(args: argparse.Namespace) -> int:
    require_extra('gradio')
    limits = replace(
        Limits(), upload_bytes=int(args.max_mb * 1e6), video_s=args.max_minutes * 60, keep_s=args.keep_hours * 3600
    )
    config = Config().with_values({'device': args.device})
    studio = Studio(args.folder, limits, config, models=['nano', *args.model])
    try:
        address = studio.start(args.host, args.port, share=args.share, user=args.user, open_browser=args.open)
        print(address, flush=True)
        while True:
            time.sleep(3600)
    finally:
        studio.close()


class Studio:
    """The page with its folders and its server.

    Args:
        folder: for uploads and results; None takes a temporary one, which is removed at the end.
        limits: bounds for visitors.
        config: settings that visitors do not choose.
        models: names to choose from, the first is taken at first.
        get_predictor: to use instead of loading networks.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        limits: Limits | None = None,
        config: Config | None = None,
        models: Sequence[str] = ('nano',),
        get_predictor: Callable[[Config], Predictor] | None = None,
    ) -> None:
        self.limits, self.models = limits or Limits(), list(models)
        self._temporary = None if folder else tempfile.mkdtemp(prefix='vggt_ros_studio_')
        self.folder = Path(folder or self._temporary or '').expanduser().resolve()
        (self.folder / 'incoming').mkdir(parents=True, exist_ok=True, mode=0o700)
        # Gradio looks at these when it is imported. Nothing is told to anybody; uploads come in beside the sessions.
        os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
        os.environ['GRADIO_TEMP_DIR'] = str(self.folder / 'incoming')
        os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')
        from vggt_ros.studio.networks import Networks
        from vggt_ros.studio.sessions import Sessions
        from vggt_ros.studio.workbench import Workbench

        self.sessions = Sessions(self.folder / 'sessions', self.limits.keep_s)
        self.workbench = Workbench(self.limits, get_predictor or Networks().get, config or Config())
        self._closed = threading.Event()
        self._blocks: Any = None

    def start(
        self, host: str = '127.0.0.1', port: int = PORT, *, share: bool = False, user: str = 'vggt',
        open_browser: bool = False,
    ) -> str:  # fmt: skip
        """Serve, and return the address; on a thread of its own.

        Raises:
            ConfigError: the port is taken, or the host is no address of this machine.
        """
        import gradio as gr
        from starlette.middleware import Middleware

        from vggt_ros.studio.guard import LOOPBACK, Guard
        from vggt_ros.studio.page import CSS, THEME, build_page

        login = self._login(user) if share or not is_loopback(host) else None
        gr.set_static_paths([self.sessions.root])
        self._blocks = build_page(self.workbench, self.sessions, self.models, own_models=login is None)
        self._blocks.queue(default_concurrency_limit=4, max_size=32)
        hosts = LOOPBACK if login is None else None
        guard = Middleware(Guard, sessions=self.sessions, hosts=hosts)  # type: ignore[arg-type]
        try:
            _, local, public = self._blocks.launch(
                server_name=host, server_port=port, share=share, auth=login, inbrowser=open_browser, quiet=True,
                prevent_thread_lock=True, ssr_mode=False, footer_links=[], enable_monitoring=False, theme=THEME,
                css=CSS, max_file_size=self.limits.upload_bytes, app_kwargs={'middleware': [guard]}, show_error=False,
                pwa=False, mcp_server=False,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(f'cannot listen on {host} port {port}: {error}; choose another with --port') from error
        threading.Thread(target=self._sweep, daemon=True).start()
        return public or local

    def close(self) -> None:
        """Stop serving; a temporary folder is removed."""
        self._closed.set()
        if self._blocks is not None:
            self._blocks.close(verbose=False)
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _login(self, user: str) -> tuple[str, str]:
        password = os.environ.get(PASSWORD) or secrets.token_urlsafe(12)
        if PASSWORD not in os.environ:
            print(f'login: {user}  password: {password}', flush=True)
        return user, password

    def _sweep(self) -> None:
        while not self._closed.wait(min(SWEEP_S, self.limits.keep_s)):
            self.sessions.sweep()
            for file in (self.folder / 'incoming').iterdir():  # uploads that no handler took
                if time.time() - file.stat().st_mtime > self.limits.keep_s:
                    shutil.rmtree(file, ignore_errors=True)


@functools.cache
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_extra(package: str) -> None:
    """Say how to get what the web page needs; ConfigError where it is missing."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f'{package} is not installed; get the extra: pip install "vggt_ros[studio]"')
