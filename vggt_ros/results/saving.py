"""Where saved maps go: a folder that is there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from vggt_ros.core.errors import OutputError


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

    Args:
        parent: a folder that exists.
        name: of the new one; a number is added where it is taken.
        files: what makes each, by relative path.

    Returns:
        The new folder.

    Raises:
        OutputError: something cannot be written, for want of space for example; nothing is left of it.
    """
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f'.{name}.', dir=parent))
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


def explain(error: Exception) -> str:
    """What is wrong with a disk, with the way out where there is one."""
    number = getattr(error, 'errno', None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f'the disk is full ({os.strerror(number)}); make room, or set save_directory to another disk'
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f'{os.strerror(number)}; let this user write there, or set save_directory to another folder'
    return getattr(error, 'strerror', None) or str(error)


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
