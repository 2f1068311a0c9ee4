"""On an address that others reach, nothing is given to who has not logged in: real requests over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import free_port

from vggt_ros.studio import server
from vggt_ros.studio.server import PASSWORD, Studio

UPLOAD = {'files': ('image.png', b'not yet looked at', 'image/png')}
GUARDED = ('/config', '/gradio_api/info')


@pytest.fixture(scope='module')
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page as it is served to other hosts; the test itself stays on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PASSWORD, 'open sesame')
        patch.setattr(server, 'is_loopback', lambda host: False)
        studio = Studio(tmp_path_factory.mktemp('studio'))
        yield studio.start('127.0.0.1', free_port(), user='robot').rstrip('/')
        studio.close()


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60.0) as client:
        yield client


def log_in(client: httpx.Client, password: str) -> httpx.Response:
    return client.post('/login', data={'username': 'robot', 'password': password})


@pytest.mark.parametrize('path', GUARDED)
def test_without_a_login_nothing_is_told(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 401
    assert 'Reconstruct' not in client.get('/').text  # the form to log in, and no more


def test_without_a_login_nothing_is_taken(client: httpx.Client) -> None:
    assert client.post('/gradio_api/upload', files=UPLOAD).status_code == 401
    asked = client.post('/gradio_api/queue/join', json={'fn_index': 0, 'data': [], 'session_hash': 'x'})
    assert asked.status_code == 401


def test_a_wrong_password_opens_nothing(client: httpx.Client) -> None:
    assert log_in(client, 'open barley').status_code == 400
    assert client.get('/config').status_code == 401


@pytest.mark.parametrize('path', GUARDED)
def test_with_the_login_the_page_is_there(client: httpx.Client, path: str) -> None:
    assert log_in(client, 'open sesame').status_code == 200
    assert client.get(path).status_code == 200
    assert 'Reconstruct' in client.get('/').text


def test_the_login_is_no_key_to_the_files_of_others(client: httpx.Client, address: str, tmp_path: Path) -> None:
    log_in(client, 'open sesame')
    assert client.get('/').status_code == 200  # brings the cookie of a session
    uploaded = client.post('/gradio_api/upload', files=UPLOAD)
    assert uploaded.status_code == 200
    (file,) = uploaded.json()
    with httpx.Client(base_url=address, timeout=60.0) as other:
        log_in(other, 'open sesame')
        assert other.get(f'/gradio_api/file={file}').status_code == 403
    assert client.get('/gradio_api/file=/etc/passwd').status_code == 403
