"""Targets: what reaches Studio from a browser."""

from __future__ import annotations

import asyncio
import atexit
import functools
import io
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from fuzz.contract import Broken
from fuzz.draw import WORDS, Draw
from fuzz.files import _bags, _encode, _json, _videos, scratch
from fuzz.messages import PICTURES, require_frame
from vggt_ros.core.config import Config
from vggt_ros.studio.examples import EXAMPLES
from vggt_ros.studio.guard import Guard, cookie, token_of
from vggt_ros.studio.limits import Limits
from vggt_ros.studio.networks import Networks
from vggt_ros.studio.predictions import read_predictions
from vggt_ros.studio.scene import View
from vggt_ros.studio.sessions import Sessions
from vggt_ros.studio.uploads import open_upload, preview, take_upload
from vggt_ros.studio.workbench import Choice, Workbench

LIMITS = Limits(upload_bytes=200_000, images=20, video_s=60, frames=50)
TOKEN = 'A' * 43


def upload(draw: Draw) -> None:
    """Files and archives of any name and content -> frames; nothing is written elsewhere."""
    with scratch() as folder:
        sent, kept = folder / 'sent', folder / 'kept'
        sent.mkdir(), kept.mkdir()
        files = []
        for i in range(draw.mostly(1, (0, 2, 3))):
            name, data = draw.choice(_files(draw))
            path = sent / (draw.word(f'{i}{name}').replace('/', '_').replace('\0', '_')[:100] or 'x')
            try:
                path.write_bytes(draw.damaged(data))
            except (OSError, ValueError):  # no file can have that name
                continue
            files.append(path)
        try:
            source = open_upload(take_upload(files, kept, LIMITS), draw.number(0.5))
            try:
                for frame in source:
                    require_frame(frame, None)
                preview(source, folder / 'gallery', LIMITS.frames)
            finally:
                source.close()
        finally:
            outside = [one for one in folder.iterdir() if one.name not in ('sent', 'kept', 'gallery')]
            links = [one for one in kept.rglob('*') if one.is_symlink()]
            size = sum(one.stat().st_size for one in kept.rglob('*') if one.is_file())
            if outside or links or size > 4 * LIMITS.upload_bytes:
                raise Broken(f'written: {outside}, {links}, {size} bytes')


def page(draw: Draw) -> None:
    """Values of the page's controls, as a script may send them -> galleries, scenes, pictures."""
    workbench, session = _workbench()
    interval = draw.number(2.0)
    view = View(
        branch=draw.word('depth'),
        confidence=draw.number(50.0),
        frame=draw.mostly(None, (0, -1, 3, 10**9, 2**64)),
        mask_sky=draw.flag(),
        mask_black=draw.flag(),
        voxel_size=draw.mostly(0.1, (0.0, 1e-9, 1e9, float('nan'), float('inf'), -1.0)),
        point_size=draw.mostly(0.0, (5.0, 1e9, float('nan'), -1.0)),
    )
    action = draw.byte() % 4
    if action == 0:
        workbench.thin(session, interval)
    elif action == 1:
        workbench.show(session, view)
    elif action == 2:
        workbench.pictures(session, draw.integer(0))
    else:
        choice = Choice(draw.word('all'), draw.word('nano'), draw.word('cpu'), draw.integer(8), draw.integer(4))
        workbench._configure(choice, draw.integer(4, 1, 1000))


def predictions(draw: Draw) -> None:
    """A predictions.npz -> arrays; nothing is unpickled."""
    with scratch() as folder:
        data = _stored()
        if draw.flag():
            out = io.BytesIO()
            with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w') as new:
                chosen = draw.choice(old.namelist())
                for name in old.namelist():
                    if name != chosen:
                        new.writestr(name, old.read(name))
                    elif draw.flag():
                        renamed = draw.word(name).encode('utf-8', 'replace').decode() or 'x'
                        new.writestr(renamed, draw.damaged(old.read(name)))
            data = out.getvalue()
        (folder / 'predictions.npz').write_bytes(draw.damaged(data))
        read_predictions(folder / 'predictions.npz')


def request(draw: Draw) -> None:
    """Paths, hosts and cookies of requests -> the app, or a refusal; no file of another session, no crash."""
    with scratch() as folder:
        sessions = Sessions(folder / 'sessions', 60.0)
        own = sessions.open(TOKEN)
        state = {'upload': 'upload_' + '0' * 16, 'count': 3}
        (own.folder / 'state.json').write_bytes(_encode(draw, _json(draw, state)))
        own.upload, own.state  # noqa: B018  both read the file
        other = sessions.open('B' * 43).folder / 'result.glb'
        other.write_text('secret')
        around = own.folder / '..' / other.parent.name / other.name
        wanted = draw.choice((str(other), str(around), '/etc/passwd', *WORDS))
        cookies = draw.word(cookie(TOKEN, False))
        scope = {
            'type': 'http',
            'scheme': 'http',
            'path': '/gradio_api/file=' + draw.word(wanted),
            'headers': [
                (b'cookie', cookies.encode('latin-1', 'replace')),
                (b'host', draw.word('localhost').encode('utf-8', 'replace')),
            ],
        }
        served: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            served.append(scope['path'])

        async def send(message: Any) -> None:
            if message['type'] == 'http.response.start' and message['status'] != 403:
                raise Broken(f'answered {message}')

        guard = Guard(app, sessions, frozenset({'localhost'}))
        asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
        token = token_of(cookies)
        if served and not sessions.owns(token, Path(served[0].partition('/file=')[2])):
            raise Broken(f'{served} of another session')


def _files(draw: Draw) -> list[tuple[str, bytes]]:
    return [
        ('.png', PICTURES[1]), ('.jpg', PICTURES[0]), ('.zip', _archive(draw)), ('.mp4', _videos()['v.mp4']),
        ('.mcap', _bags()['plain.mcap']), ('.exe', b'MZ'), ('.zip', _archive(draw)), ('.db3', _bags()['one.db3']),
    ]  # fmt: skip


def _archive(draw: Draw) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        for i in range(1 + draw.below(3)):
            name, data = draw.choice(
                ((f'{i}.png', PICTURES[1]), (f'in/{i}.jpg', PICTURES[0]), ('bag.mcap', _bags()['plain.mcap']),
                 ('camera.json', b'{"fx": 1}'), (f'../../{i}.png', b'x'), (f'/{i}.png', b'x'),
                 ('big.png', bytes(10**6)))
            )  # fmt: skip
            info = zipfile.ZipInfo(draw.word(name).encode('utf-8', 'replace').decode())
            info.external_attr = draw.mostly(0o644 << 16, ((stat.S_IFLNK | 0o777) << 16, 0, 0xFFFFFFFF))
            kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            info.compress_type = draw.choice(kinds)
            archive.writestr(info, data)
    return out.getvalue()


@functools.cache
def _workbench() -> tuple[Workbench, Any]:
    """With the result of an example."""
    folder = Path(tempfile.mkdtemp(prefix='fuzz_'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    workbench = Workbench(Limits(), Networks().get, Config())
    session = Sessions(folder, 60.0).open(TOKEN)
    workbench.open_example(session, 'room')
    return workbench, session


@functools.cache
def _stored() -> bytes:
    return EXAMPLES['room'].stored.read_bytes()
