"""Who may read which file: a cookie for each browser, and a wall between their folders."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vggt_ros.studio.sessions import TOKEN, Sessions

COOKIE = 'vggt_studio'
LOOPBACK = frozenset({'127.0.0.1', 'localhost', '::1'})
# The page brings all it needs: nothing is fetched from elsewhere, and nobody may frame it. Gradio's own script needs
# inline code and eval; blob: is how its 3D view loads a scene.
POLICY = '; '.join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "media-src 'self' blob:",
        "worker-src 'self' blob:",
        "frame-ancestors 'none'",
        "object-src 'none'",
    ]
)
UNUSED = ('/stream/', '/monitoring', '/proxy=')  # parts of Gradio that the page has no use for
HEADERS = (
    (b'content-security-policy', POLICY.encode()),
    (b'x-content-type-options', b'nosniff'),
    (b'referrer-policy', b'no-referrer'),
)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware in front of Gradio.

    A browser that has no token gets one. `file=` addresses are answered only for files of the asker's own session;
    Gradio alone would give any file of its folders to whoever knows the address.

    Args:
        app: what it guards.
        sessions: whose folders are guarded.
        hosts: names by which the page may be called; None allows any. On loopback only its own are: another site could
            let its name point here, and its scripts would count as the page's.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], sessions: Sessions, hosts: frozenset[str] | None = None
    ) -> None:
        self.app, self.sessions, self.hosts = app, sessions, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode('latin-1') for name, value in scope['headers']}
        if self.hosts is not None and _host_name(headers.get(b'host', '')) not in self.hosts:
            await _refuse(send)
            return
        token = token_of(headers.get(b'cookie', ''))
        new = '' if token else Sessions.new_token()
        path = unquote(scope['path'])
        _, marker, wanted = path.partition('/file=')
        if marker and not self.sessions.owns(token, Path(wanted)):
            await _refuse(send)
            return
        if any(part in path for part in UNUSED):
            await _refuse(send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [*message.get('headers', ()), *HEADERS]
                if new and scope['path'] == '/':
                    message['headers'].append((b'set-cookie', cookie(new, scope['scheme'] == 'https').encode()))
            await send(message)

        await self.app(scope, receive, with_headers)


def _host_name(host: str) -> str | None:
    """Of a Host header, without its port; None where it has none."""
    try:
        return urlsplit(f'//{host}').hostname
    except ValueError:
        return None


def token_of(cookies: str) -> str:
    """The token in a Cookie header; empty where there is none of ours."""
    try:
        morsel = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return ''
    return morsel.value if morsel is not None and TOKEN.fullmatch(morsel.value) else ''


def cookie(token: str, is_secure: bool) -> str:
    """The Set-Cookie header: not for scripts, not for requests that other sites make."""
    return f'{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=604800{"; Secure" if is_secure else ""}'


async def _refuse(send: Send) -> None:
    await send({'type': 'http.response.start', 'status': 403, 'headers': [(b'content-type', b'text/plain')]})
    await send({'type': 'http.response.body', 'body': b'this is not of your session'})
