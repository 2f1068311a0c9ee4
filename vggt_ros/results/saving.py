"""Where saved maps go: a folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from vggt_ros.core.errors import OutputError

ABANDONED = re.compile(r'\.[a-z]+_\d{8}T\d{6}\.\w{8}')  # new_name, and what mkdtemp adds
JUST_MADE_S = 60.0


def save_directory(setting: str) -> Path:
    """The folder that save_directory names, made if need be.

    Raises:
        OutputError: it is not absolute (a node runs in whatever folder it was started from), or cannot be made.
    """
    if setting:
        path = Path(setting).expanduser()
    else:
        path = Path(os.environ.get('ROS_HOME') or '~/.ros').expanduser() / 'vggt_ros'
    if not path.is_absolute():
        raise OutputError(f'save_directory must be an absolute path, got {setting!r}')
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f'cannot make the folder {path}: {explain(error)}; set save_directory to another') from error
    return path


def new_name(kind: str) -> str:
    """A name for what is saved now, in local time: map_20261122T193000."""
    return f'{kind}_{datetime.now():%Y%m%dT%H%M%S}'


def write_folder(parent: Path, name: str, files: Mapping[str, Callable[[], bytes]]) -> Path:
    """Write files into a new folder that gets its name when all of them are there.

    What a process that was killed has left of such a folder is removed first.

    Args:
        parent: a folder that exists.
        name: of the new one; a number is added where it is taken.
        files: what makes each, by relative path.

    Returns:
        The new folder.

    Raises:
        OutputError: something cannot be written, for want of space for example; nothing is left of it.
    """
    _remove_abandoned(parent)
    temporary = lock = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f'.{name}.', dir=parent))
        lock = _lock(temporary)
        for path, make in files.items():
            target = temporary / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(make())
        temporary.chmod(0o777 & ~_umask())  # temporary folders are private, results are not
        return _rename(temporary, parent / name)
    except OSError as error:
        raise OutputError(f'cannot save to {parent}: {explain(error)}') from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def explain(error: Exception) -> str:
    """What is wrong with a disk, with the way out where there is one."""
    number = getattr(error, 'errno', None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f'the disk is full ({os.strerror(number)}); make room, or set save_directory to another disk'
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f'{os.strerror(number)}; let this user write there, or set save_directory to another folder'
    return getattr(error, 'strerror', None) or str(error)


def _remove_abandoned(parent: Path) -> None:
    """Hidden folders of saves, over a minute old, that no process holds a lock on any more."""
    for folder in parent.glob('.*_*T*.*'):
        if not ABANDONED.fullmatch(folder.name) or folder.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < JUST_MADE_S:
                continue  # not locked yet, perhaps
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Hold a folder as long as this process lives; None where another does, or the disk knows no locks."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(number)
        return None
    return number


def _rename(temporary: Path, target: Path) -> Path:
    for suffix in ('', *(f'_{i}' for i in range(2, 1000))):
        free = target.with_name(target.name + suffix)
        if not os.path.lexists(free):
            temporary.rename(free)
            return free
    raise OSError(errno.EEXIST, f'{target} is taken')


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
