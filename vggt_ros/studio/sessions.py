"""Sessions: a folder for each visitor, found by a secret that only the visitor's browser has."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vggt_ros.core.errors import SourceError
from vggt_ros.results.exports import write_atomically

TOKEN = re.compile(r'[A-Za-z0-9_-]{43}')  # secrets.token_urlsafe(32): 256 bits, not to be guessed
UPLOAD = re.compile(r'upload_[0-9a-f]{16}')


class Sessions:
    """The folders of all visitors under one root, which only this user of the machine may enter.

    Args:
        root: folder to use; made where it is not there.
        keep_s: seconds after the last use when a session is removed.
    """

    def __init__(self, root: Path, keep_s: float) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root, self.keep_s = root.resolve(), keep_s

    @staticmethod
    def new_token() -> str:
        return secrets.token_urlsafe(32)

    def open(self, token: str) -> Session:
        """The session of a token, made at its first use.

        Raises:
            SourceError: no such token can be ours.
        """
        if not TOKEN.fullmatch(token):
            raise SourceError('this browser has no session: allow cookies of this page, and load it again')
        folder = self._folder(token)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.touch()
        return Session(folder)

    def owns(self, token: str, path: Path) -> bool:
        """Whether a file may be given to the visitor with this token: one of its own, and not an original upload."""
        if not TOKEN.fullmatch(token):
            return False
        folder = self._folder(token)
        try:
            inside = path.resolve()
        except (OSError, ValueError):  # no file can have that name
            return False
        return inside.is_relative_to(folder) and 'source' not in inside.relative_to(folder).parts

    def _folder(self, token: str) -> Path:
        """Addresses of files show the folder: it must not give the token away to whom a link is sent."""
        return self.root / hashlib.sha256(token.encode()).hexdigest()

    def sweep(self) -> int:
        """Remove the sessions that were not used for keep_s; returns how many."""
        old = [one for one in self.root.iterdir() if one.is_dir() and time.time() - one.stat().st_mtime > self.keep_s]
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        return len(old)


class Session:
    """One visitor: its uploads, each in a folder of its own, and which of them it looks at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def state(self) -> dict[str, Any]:
        """What the page shows again after it is loaded anew; empty at first."""
        try:
            return dict(json.loads((self.folder / 'state.json').read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def remember(self, **changes: Any) -> None:
        """Change the state."""
        write_atomically(self.folder / 'state.json', json.dumps({**self.state, **changes}).encode())

    @contextmanager
    def new_upload(self) -> Iterator[Path]:
        """An empty folder for an upload; the one before goes when all went well, and else stays as it was."""
        before, state = self.upload, self.state
        folder = self.folder / f'upload_{secrets.token_hex(8)}'
        (folder / 'source').mkdir(parents=True, mode=0o700)
        try:
            yield folder
        except BaseException:
            write_atomically(self.folder / 'state.json', json.dumps(state).encode())
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)

    @property
    def upload(self) -> Path | None:
        """Folder of the upload that the visitor looks at."""
        name = self.state.get('upload', '')
        is_ours = isinstance(name, str) and UPLOAD.fullmatch(name) is not None
        return self.folder / name if is_ours and (self.folder / name).is_dir() else None
