"""Downloads, against a hub of our own on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from safetensors.torch import save
from small import SMALL, small_model

import vggt.weights
from vggt import load_vggt
from vggt.errors import CheckpointError

COMMIT = '0123456789abcdef0123456789abcdef01234567'
TINY = SMALL.with_heads(['camera'])


class FakeHub(BaseHTTPRequestHandler):
    """The few answers of the hub that a download needs: HEAD and GET of /<repo>/resolve/<revision>/<file>."""

    files: ClassVar[dict[str, dict[str, bytes]]] = {}
    gated: ClassVar[set[str]] = set()
    tokens: ClassVar[list[str | None]] = []

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        repository, _, rest = self.path.lstrip('/').partition('/resolve/')
        revision, _, file = rest.partition('/')
        self.tokens.append(self.headers.get('authorization'))
        if repository in self.gated and self.headers.get('authorization') != 'Bearer hf_good':
            return self._fail(403, 'GatedRepo', 'Access to model is restricted')
        if repository not in self.files:
            return self._fail(401, 'RepoNotFound', 'Repository not found')
        if revision not in ('main', COMMIT):
            return self._fail(404, 'RevisionNotFound', 'Invalid rev id')
        if file not in self.files[repository]:
            return self._fail(404, 'EntryNotFound', 'Entry not found')
        body = self.files[repository][file]
        self.send_response(200)
        self.send_header('ETag', f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header('X-Repo-Commit', COMMIT)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)
        return None

    def _fail(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header('X-Error-Code', code)
        self.send_header('X-Error-Message', message)
        self.send_header('X-Repo-Commit', COMMIT)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[FakeHub]]:
    constants = pytest.importorskip('huggingface_hub.constants')
    server = ThreadingHTTPServer(('127.0.0.1', 0), FakeHub)
    Thread(target=server.serve_forever, daemon=True).start()
    point_at(f'http://127.0.0.1:{server.server_port}', monkeypatch)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'no_token'))
    monkeypatch.delenv('HF_TOKEN', raising=False)
    monkeypatch.setattr(vggt.weights, '_told', set())
    weights = save(small_model(TINY).state_dict())
    FakeHub.files = {'someone/vggt-tiny': {'model.safetensors': weights, 'config.json': config_bytes()}}
    FakeHub.gated, FakeHub.tokens = set(), []
    yield FakeHub
    server.shutdown()
    server.server_close()


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'ENDPOINT', endpoint)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', endpoint + '/{repo_id}/resolve/{revision}/{filename}')


def config_bytes() -> bytes:
    return json.dumps(TINY.to_dict()).encode()


def test_repository_is_downloaded_once_and_then_taken_from_the_cache(hub: type[FakeHub], tmp_path: Path) -> None:
    model = load_vggt('someone/vggt-tiny', cache_dir=tmp_path)
    assert model.config == TINY
    asked = len(hub.tokens)
    load_vggt('someone/vggt-tiny', cache_dir=tmp_path, local_files_only=True)
    assert len(hub.tokens) == asked


def test_offline_without_the_file_names_the_command(hub: type[FakeHub], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='local_files_only is set; run "hf download someone/vggt-tiny"'):
        load_vggt('someone/vggt-tiny', cache_dir=tmp_path, local_files_only=True)
    assert not hub.tokens


def test_gated_repository_names_licence_and_login(hub: type[FakeHub], tmp_path: Path) -> None:
    hub.gated = {'someone/vggt-tiny'}
    with pytest.raises(CheckpointError, match=r'accept its licence at https://huggingface\.co/someone/vggt-tiny'):
        load_vggt('someone/vggt-tiny', cache_dir=tmp_path)


def test_token_comes_from_the_environment_or_the_call(
    hub: type[FakeHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated = {'someone/vggt-tiny'}
    load_vggt('someone/vggt-tiny', cache_dir=tmp_path / 'a', token='hf_good')
    monkeypatch.setenv('HF_TOKEN', 'hf_good')
    load_vggt('someone/vggt-tiny', cache_dir=tmp_path / 'b')


def test_unknown_repository_revision_and_content(hub: type[FakeHub], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='not on the hub, or is private: check the spelling'):
        load_vggt('someone/vgt-tiny', cache_dir=tmp_path)
    with pytest.raises(CheckpointError, match="no revision 'v9'"):
        load_vggt('someone/vggt-tiny', revision='v9', cache_dir=tmp_path)
    hub.files['someone/other'] = {'README.md': b'hello'}
    with pytest.raises(CheckpointError, match='not a VGGT repository'):
        load_vggt('someone/other', cache_dir=tmp_path)


def test_revision_is_honoured(hub: type[FakeHub], tmp_path: Path) -> None:
    assert load_vggt('someone/vggt-tiny', revision=COMMIT, cache_dir=tmp_path).config == TINY


def test_unreachable_hub_is_told(hub: type[FakeHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at('http://127.0.0.1:9', monkeypatch)  # the discard port: nobody listens
    monkeypatch.setattr(time, 'sleep', lambda _seconds: None)  # the client waits 23 s between its attempts
    with pytest.raises(CheckpointError, match='check the connection'):
        load_vggt('someone/vggt-tiny', cache_dir=tmp_path)


def test_non_commercial_licence_is_stated_once(
    hub: type[FakeHub], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.files['facebook/VGGT-1B'] = hub.files['someone/vggt-tiny']
    with caplog.at_level(logging.WARNING, logger='vggt'):
        for _ in range(2):
            load_vggt('facebook/VGGT-1B', cache_dir=tmp_path)
        load_vggt('someone/vggt-tiny', cache_dir=tmp_path)
    assert [record.message for record in caplog.records if 'non-commercial' in record.message] == [
        'facebook/VGGT-1B is licensed for non-commercial use only; facebook/VGGT-1B-Commercial may be used '
        'commercially under its own terms'
    ]
