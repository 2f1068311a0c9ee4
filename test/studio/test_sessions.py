"""Who may read what, without a browser: sessions, the guard before every request, and addresses."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from material import wall

from vggt_ros.core.config import Config
from vggt_ros.core.errors import ConfigError, SourceError
from vggt_ros.results.exports import write_atomically
from vggt_ros.studio.guard import COOKIE, LOOPBACK, Guard, token_of
from vggt_ros.studio.limits import Limits, frames_at_once
from vggt_ros.studio.networks import Networks
from vggt_ros.studio.scene import View
from vggt_ros.studio.server import Studio, is_loopback
from vggt_ros.studio.sessions import Sessions
from vggt_ros.studio.workbench import Workbench


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path / 'sessions', keep_s=60)


def ask(sessions: Sessions, path: str, token: str = '', host: str = '127.0.0.1:7860') -> tuple[int, dict[str, str]]:
    """Status and headers of a request through the guard; behind it, everything is answered with 200."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b''})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {'type': 'http.request'}

    headers = [(b'host', host.encode()), *([(b'cookie', f'{COOKIE}={token}'.encode())] if token else [])]
    scope = {'type': 'http', 'path': path, 'headers': headers, 'scheme': 'http'}
    asyncio.run(Guard(app, sessions, LOOPBACK)(scope, receive, send))
    return sent[0]['status'], {name.decode(): value.decode() for name, value in sent[0]['headers']}


def test_a_new_browser_gets_a_cookie_that_scripts_cannot_read(sessions: Sessions) -> None:
    status, headers = ask(sessions, '/')
    assert status == 200
    assert 'HttpOnly' in headers['set-cookie']
    assert 'SameSite=Strict' in headers['set-cookie']
    token = token_of(headers['set-cookie'].split(';')[0])
    assert token
    assert 'set-cookie' not in ask(sessions, '/', token)[1]
    assert "default-src 'self'" in headers['content-security-policy']


@pytest.mark.parametrize('prefix', ['/gradio_api/file=', '/file=', '/gradio_api/file%3D'])
def test_files_are_given_to_their_session_alone(sessions: Sessions, prefix: str) -> None:
    mine, other = Sessions.new_token(), Sessions.new_token()
    folder = sessions.open(mine).folder
    sessions.open(other)
    (folder / 'upload_1' / 'source').mkdir(parents=True)
    files = [folder / 'upload_1' / 'scene.glb', folder / 'upload_1' / 'source' / 'secret.jpg']
    for file in files:
        file.write_bytes(b'x')
    assert ask(sessions, f'{prefix}{files[0]}', mine)[0] == 200
    assert ask(sessions, f'{prefix}{files[1]}', mine)[0] == 403  # originals go to nobody
    for token in (other, '', 'x' * 43, '../' * 14 + 'a'):
        assert ask(sessions, f'{prefix}{files[0]}', token)[0] == 403
    assert ask(sessions, f'{prefix}{folder}/../{sessions.open(other).folder.name}/x', mine)[0] == 403
    assert ask(sessions, f'{prefix}/etc/passwd', mine)[0] == 403
    assert ask(sessions, f'{prefix}https://example.org/x', mine)[0] == 403


@pytest.mark.parametrize('host', ['127.0.0.1:7860', 'localhost:7860', '[::1]:7860'])
def test_a_foreign_name_for_this_machine_is_refused(sessions: Sessions, host: str) -> None:
    """Another site may let its name point to 127.0.0.1, and its scripts would then be of the page's origin."""
    assert ask(sessions, '/', host=host)[0] == 200
    assert ask(sessions, '/', host='evil.example:7860')[0] == 403


def test_the_address_of_a_file_does_not_tell_the_token(sessions: Sessions) -> None:
    token = Sessions.new_token()
    assert token not in str(sessions.open(token).folder)


def test_a_foreign_token_opens_nothing(sessions: Sessions) -> None:
    for token in ('', '..', '/etc', 'a' * 42, 'a' * 42 + '/'):
        with pytest.raises(SourceError, match='cookies'):
            sessions.open(token)


def test_old_sessions_are_swept_with_their_files(sessions: Sessions) -> None:
    old, new = sessions.open(Sessions.new_token()), sessions.open(Sessions.new_token())
    (old.folder / 'a.jpg').write_bytes(b'x')
    os.utime(old.folder, (time.time() - 61,) * 2)
    assert sessions.sweep() == 1
    assert not old.folder.exists()
    assert new.folder.exists()


def test_a_failed_upload_leaves_the_one_before(sessions: Sessions) -> None:
    session = sessions.open(Sessions.new_token())
    with session.new_upload() as first:
        session.remember(upload=first.name, name='first')

    def fail() -> None:
        with session.new_upload() as second:
            session.remember(upload=second.name, name='second')
            raise ValueError('bad')

    with pytest.raises(ValueError, match='bad'):
        fail()
    assert session.upload == first
    assert session.state['name'] == 'first'
    with session.new_upload() as third:
        session.remember(upload=third.name)
    assert [one.name for one in session.folder.glob('upload_*')] == [third.name]


def test_state_cannot_lead_outside(sessions: Sessions) -> None:
    session = sessions.open(Sessions.new_token())
    write_atomically(session.folder / 'state.json', b'{"upload": "../../etc"}')
    assert session.upload is None


@pytest.mark.parametrize('host', ['0.0.0.0', '192.168.1.2', 'robot.local', '::'])
def test_other_hosts_are_no_loopback(host: str) -> None:
    assert not is_loopback(host)
    assert is_loopback('127.0.0.1')
    assert is_loopback('localhost')
    assert is_loopback('::1')


def test_a_login_is_made_up_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv('VGGT_ROS_STUDIO_PASSWORD', raising=False)
    user, password = Studio(tmp_path)._login('vggt')
    assert len(password) >= 16
    assert password in capsys.readouterr().out
    monkeypatch.setenv('VGGT_ROS_STUDIO_PASSWORD', 'given')
    assert Studio(tmp_path)._login('vggt') == (user, 'given')
    assert 'given' not in capsys.readouterr().out


def test_a_taken_port_is_said_in_words(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf'port {port}.*--port'):
            Studio(tmp_path).start(port=port)


def test_frames_that_fit_grow_with_memory_and_stop_at_the_window() -> None:
    """8 frames of 196x252 through the 1B architecture took 470 MB: that and the reserve fits exactly 8."""
    from vggt import VGGTConfig

    network = VGGTConfig()
    assert frames_at_once(network, (196, 252), 470e6 / 0.7) == 8
    assert frames_at_once(network, (196, 252), 1e6) == 1
    assert frames_at_once(network, (196, 252), 1e12) == 64


def test_an_unknown_model_is_said_in_words() -> None:
    from vggt_ros.core.config import Config

    with pytest.raises(ConfigError, match='no weights are called'):
        Networks().get(Config().with_values({'model_id': 'nothing-of-the-kind'}))


def test_wall_has_no_point_head() -> None:
    assert not wall().has_points
    assert wall(points=True).has_points


@pytest.mark.parametrize('text', ['[' * 100_000, '[1]', '3', '{"upload": 5}', '{"upload": ["a"]}', '\xff'])
def test_a_state_that_is_none_counts_as_empty(sessions: Sessions, text: str) -> None:
    session = sessions.open('A' * 43)
    (session.folder / 'state.json').write_bytes(text.encode('latin-1'))
    assert session.upload is None


@pytest.mark.parametrize('path', ['\0', 'a' * 5000, '\ud800', ''])
def test_a_path_that_no_file_has_belongs_to_nobody(sessions: Sessions, path: str) -> None:
    assert not sessions.owns('A' * 43, Path(path))


@pytest.mark.parametrize('host', ['[', 'localhost]', '[::1', '[v1.x]'])
def test_a_host_that_is_none_is_refused(sessions: Sessions, host: str) -> None:
    assert ask(sessions, '/', host=host)[0] == 403


@pytest.mark.parametrize('view', [View(confidence=float('nan')), View(confidence=101), View(voxel_size=-1.0),
                                  View(voxel_size=float('inf')), View(point_size=float('nan'))])  # fmt: skip
def test_a_view_of_numbers_that_no_slider_has_is_refused(sessions: Sessions, view: View) -> None:
    session = sessions.open('A' * 43)
    workbench = Workbench(Limits(), Networks().get, Config())
    with pytest.raises(SourceError, match='a view has'):
        workbench.show(session, view)
