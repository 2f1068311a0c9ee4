"""Job: one recording of a batch, its name and where its results go."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggt_ros.core.config import Config
from vggt_ros.core.errors import OutputError, SourceError
from vggt_ros.recorded.images import IMAGE_SUFFIXES, LISTS
from vggt_ros.recorded.recording import BAG_SUFFIXES
from vggt_ros.recorded.video import VIDEO_SUFFIXES


@dataclass(frozen=True)
class Job:
    """A recording and the folder of its results, which is there whole or not at all.

    Args:
        source: the recording, an absolute path.
        name: of the folder of results.
        folder: of the batch.
    """

    source: Path
    name: str
    folder: Path

    @property
    def out(self) -> Path:
        """The results, once they are whole."""
        return self.folder / self.name

    @property
    def unfinished(self) -> Path:
        """The results while they are being written; what is left there by a batch that was killed is replaced."""
        return self.folder / f'.{self.name}.unfinished'

    @property
    def failed(self) -> Path:
        """The results so far of a recording that broke off, with a report that says why."""
        return self.folder / f'{self.name}.failed'

    def summary(self) -> dict[str, Any] | None:
        """summary.json of whole results; None where there are none."""
        return read_summary(self.out)

    def begin(self) -> Path:
        """The folder to write to, empty."""
        _remove(self.unfinished)
        return self.unfinished

    def finish(self) -> None:
        """The results are whole: give them their name, in one step."""
        _remove(self.out)
        _remove(self.failed)
        _rename(self.unfinished, self.out)

    def fail(self) -> None:
        """Keep what there is beside the whole results of others."""
        _remove(self.failed)
        if self.unfinished.exists():
            _rename(self.unfinished, self.failed)


def find_sources(paths: Sequence[Path]) -> list[Path]:
    """The recordings that are named, and those in a folder that is none itself, by name.

    Raises:
        SourceError: a path does not exist, or a folder holds no recording.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise SourceError(f'{path} does not exist')
        if not path.is_dir() or _is_source(path):
            found.append(path)
            continue
        inside = [one for one in sorted(path.iterdir()) if not one.name.startswith('.') and _is_source(one)]
        if not inside:
            raise SourceError(f'{path} is no recording and holds none: name bags, videos or folders of images')
        found += inside
    return found


def make_jobs(sources: Iterable[Path], folder: Path) -> list[Job]:
    """A job for each recording, named after it; where two have one name, after the folder they lie in, too.

    Raises:
        SourceError: two recordings cannot be told apart by that, or one is named twice.
    """
    paths = [path.resolve() for path in sources]
    count = Counter(map(_stem, paths))
    names = [_stem(path) if count[_stem(path)] == 1 else f'{path.parent.name}-{_stem(path)}' for path in paths]
    twice = [str(path) for path, name in zip(paths, names, strict=True) if names.count(name) > 1]
    if twice:
        raise SourceError(f'recordings need names of their own for their results; rename one of {", ".join(twice)}')
    return [Job(path, name, folder.resolve()) for path, name in zip(paths, names, strict=True)]


def refuse_other_results(jobs: Iterable[Job], config: Config) -> None:
    """OutputError where results of another recording, or of other settings, have a job's name."""
    for job in jobs:
        summary = job.summary()
        if summary is None:
            if job.out.exists():
                raise OutputError(f'{job.out} holds no whole results and is not ours to replace; name another --out')
            continue
        if summary['source'] != str(job.source):
            raise OutputError(
                f'{job.out} holds results of {summary["source"]}, not of {job.source}: name another --out, or --force'
            )
        changed = sorted(name for name, value in config.values().items() if summary['settings'].get(name) != value)
        if changed:
            raise OutputError(
                f'{job.out} was made with another {", ".join(changed)}: name another --out, or --force replaces it'
            )


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a folder of results; None where there is none that can be read."""
    try:
        summary = json.loads((folder / 'summary.json').read_text())
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and {'source', 'settings', 'complete'} <= summary.keys() else None


def _is_source(path: Path) -> bool:
    if not path.is_dir():
        return path.suffix.lower() in (*BAG_SUFFIXES, *VIDEO_SUFFIXES)
    if any((path / name).is_file() for name in ('metadata.yaml', *LISTS)):
        return True
    return any(one.suffix.lower() in IMAGE_SUFFIXES for one in path.iterdir())


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OutputError(f'cannot replace {folder}: {error.strerror or error}') from error


def _rename(folder: Path, to: Path) -> None:
    try:
        folder.rename(to)
    except OSError as error:
        raise OutputError(f'cannot name {folder} {to.name}: {error.strerror or error}') from error
