"""Files that a visitor sent -> frames: checked, named anew, unpacked within bounds."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from vggt_ros.core.errors import SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.recorded.images import IMAGE_SUFFIXES, natural_order
from vggt_ros.recorded.recording import BAG_SUFFIXES
from vggt_ros.recorded.source import Source, is_bag, open_source
from vggt_ros.recorded.static_tf import StaticTransforms
from vggt_ros.recorded.video import VIDEO_SUFFIXES
from vggt_ros.studio.limits import Limits

KINDS = ('images', 'video', 'bag')
PREVIEWS, PREVIEW_WIDTH = 24, 320  # pictures in the gallery
MAX_INTERVAL_S = 3600.0
IMAGE_RATE = 1.0  # images a second of a set of photos: they have no times
WHITE = 255
ACCEPTED = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *BAG_SUFFIXES, '.zip')
# Of an archive nothing else is unpacked: metadata.yaml and frames.txt name further files, which could lie anywhere.
UNPACKED = (*IMAGE_SUFFIXES, *BAG_SUFFIXES)


@dataclass(frozen=True)
class Upload:
    """What a visitor sent.

    Args:
        kind: one of KINDS.
        name: for people; never part of a path.
        path: what open_source takes.
    """

    kind: str
    name: str
    path: Path


def take_upload(files: Sequence[Path], folder: Path, limits: Limits) -> Upload:
    """Move files that were sent into a folder of their own, under names of our own, and see what they are.

    Args:
        files: what was sent, under the names that the visitor gave.
        folder: where to put them, empty.
        limits: bounds.

    Raises:
        SourceError: nothing, too much, or neither images, a video nor a bag.
    """
    if not files:
        raise SourceError('there is no image to work on: upload images, a video or a bag first')
    if sum(file.stat().st_size for file in files) > limits.upload_bytes:
        raise SourceError(f'an upload may have {limits.upload_bytes / 1e6:.0f} MB')
    unknown = [file.name for file in files if file.suffix.lower() not in ACCEPTED]
    if unknown:
        raise SourceError(f'{unknown[0]} is no image, video or bag; these are taken: {" ".join(ACCEPTED)}')
    if len(files) == 1 and files[0].suffix.lower() not in IMAGE_SUFFIXES:
        return _take_one(files[0], folder, limits)
    others = [file.name for file in files if file.suffix.lower() not in IMAGE_SUFFIXES]
    if others:
        raise SourceError(f'{others[0]} came with other files; upload one video, one bag, or several images')
    if len(files) > limits.images:
        raise SourceError(f'{len(files)} images are too many: {limits.images} may be uploaded at once')
    for number, file in enumerate(sorted(files, key=lambda file: natural_order(file.name))):
        shutil.move(file, folder / f'{number:04d}_{_plain_name(file)}')
    return Upload('images', f'{len(files)} images', folder)


def open_upload(upload: Upload, interval_s: float) -> Source:
    """The frames of an upload that will be used.

    Args:
        upload: what take_upload made.
        interval_s: take a frame only when so many seconds have passed since the last; 0 takes all.

    Raises:
        SourceError: it cannot be read, or nothing lies so many seconds apart.
    """
    if not 0 <= interval_s <= MAX_INTERVAL_S:
        raise SourceError(f'seconds between frames must be from 0 to {MAX_INTERVAL_S:g}, got {interval_s:g}')
    source = open_source(upload.path, rate=IMAGE_RATE)
    chosen: Source = _SameSize(source) if upload.kind == 'images' else source
    return _Thinned(chosen, interval_s) if interval_s >= 1e-9 and upload.kind != 'images' else chosen


def preview(source: Source, folder: Path, most: int) -> tuple[int, list[Path]]:
    """Look through a source once: how many frames it has, and small pictures of some, evenly spread.

    Args:
        source: the frames.
        folder: for the pictures; made anew.
        most: frames after which counting stops.

    Raises:
        SourceError: it breaks off, or has no frame.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    count, every, files = 0, 1, list[Path]()
    for frame in source:
        if count % every == 0:
            files.append(_write_preview(frame.image, folder / f'{count:05d}.jpg'))
            if len(files) == 2 * PREVIEWS:
                for unwanted in files[1::2]:
                    unwanted.unlink()
                files, every = files[::2], every * 2
        count += 1
        if count > most:
            raise SourceError(f'there are more than {most} frames: raise the seconds between frames')
    if not count:
        raise SourceError('there is no image to work on in this upload')
    return count, files


def _take_one(file: Path, folder: Path, limits: Limits) -> Upload:
    suffix = file.suffix.lower()
    if suffix == '.zip':
        _unpack(file, folder, limits)
        file.unlink()
        return _look_into(folder, file.name)
    path = Path(shutil.move(file, folder / f'recording{suffix}'))
    if suffix in VIDEO_SUFFIXES:
        _require_short(path, file.name, limits)
        return Upload('video', file.name, path)
    return Upload('bag', file.name, path)


def _require_short(path: Path, name: str, limits: Limits) -> None:
    capture = cv2.VideoCapture(str(path))
    seconds = capture.get(cv2.CAP_PROP_FRAME_COUNT) / (capture.get(cv2.CAP_PROP_FPS) or 30.0)
    capture.release()
    if seconds > limits.video_s:
        raise SourceError(f'{name} lasts {seconds:.0f} s; a video may last {limits.video_s:.0f} s')


def _unpack(archive: Path, folder: Path, limits: Limits) -> None:
    """Unpack the files of an archive, flat within one level, none outside of the folder and no link.

    Raises:
        SourceError: no archive, too much in it, or a name that leads out.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [one for one in file.infolist() if _is_wanted(one.filename)]
            if len(members) > limits.images or sum(one.file_size for one in members) > limits.upload_bytes:
                raise SourceError(
                    f'{archive.name} holds too much: up to {limits.images} files of together '
                    f'{limits.upload_bytes / 1e6:.0f} MB are unpacked'
                )
            left = limits.upload_bytes
            for one in members:
                left -= _extract(file, one, folder, left)
    except SourceError:
        raise
    except Exception as error:  # each compression has its own, and names may be of no encoding
        raise SourceError(f'{archive.name} cannot be unpacked: {error or type(error).__name__}') from error


def _extract(file: zipfile.ZipFile, one: zipfile.ZipInfo, folder: Path, most: int) -> int:
    """Write one member; its size in the archive's index is not believed. Returns the bytes written."""
    parts = Path(one.filename.replace('\\', '/')).parts
    if '..' in parts or Path(one.filename).is_absolute() or stat.S_ISLNK(one.external_attr >> 16):
        raise SourceError(f'the archive holds {one.filename!r}, which leads out of it')
    target = folder / '/'.join(_plain_name(Path(part)) for part in parts[-2:])
    target.parent.mkdir(exist_ok=True)
    written = 0
    with file.open(one) as source, target.open('wb') as out:
        while block := source.read(1 << 20):
            written += len(block)
            if written > most:
                raise SourceError('the archive unpacks to more than it says')
            out.write(block)
    return written


def _is_wanted(name: str) -> bool:
    return name.lower().endswith(UNPACKED) or name.rpartition('/')[2] == 'camera.json'


def _look_into(folder: Path, name: str) -> Upload:
    """A bag or a set of images, in the folder or one below."""
    for candidate in (folder, *sorted(one for one in folder.iterdir() if one.is_dir())):
        if is_bag(candidate):
            return Upload('bag', name, candidate)
        bags = sorted(one for one in candidate.iterdir() if one.suffix.lower() in BAG_SUFFIXES)
        if bags:
            return Upload('bag', name, bags[0])
        if any(one.suffix.lower() in IMAGE_SUFFIXES for one in candidate.iterdir()):
            return Upload('images', name, candidate)
    raise SourceError(f'{name} holds no bag and no images')


def _plain_name(file: Path) -> str:
    """Letters, digits, dots, dashes: nothing that a shell, a path or a page reads as more."""
    plain = re.sub(r'[^\w.-]+', '_', file.name, flags=re.ASCII).lstrip('.')[-80:]
    return plain or 'file'


def _write_preview(image: np.ndarray, file: Path) -> Path:
    height, width = image.shape[:2]
    scale = min(1.0, PREVIEW_WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(file), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    return file


class _Wrapped:
    """A source seen through another."""

    def __init__(self, source: Source) -> None:
        self.source, self.path = source, source.path

    @property
    def skipped(self) -> int:
        return self.source.skipped

    def __len__(self) -> int:
        return len(self.source)

    def static_transforms(self) -> StaticTransforms:
        return self.source.static_transforms()

    def close(self) -> None:
        self.source.close()


class _Thinned(_Wrapped):
    """The frames that come a while after the last one taken."""

    def __init__(self, source: Source, interval_s: float) -> None:
        super().__init__(source)
        self._interval_ns = round(interval_s * 1e9)

    def __len__(self) -> int:
        return 0  # known only when it was read

    def __iter__(self) -> Iterator[Frame]:
        interval, due = self._interval_ns, 0
        for frame in self.source:
            early = due - frame.stamp_ns
            if interval // 100 < early < 2 * interval:  # a hundredth early is on time; far back is another run
                continue
            # Due times stay on the grid that the first frame began: waiting from each one taken would drift.
            due = due + (-early // interval + 1) * interval if due else frame.stamp_ns + interval
            yield frame


class _SameSize(_Wrapped):
    """Photos of different sizes brought to the size of the first, with white beside where their shape differs."""

    def __iter__(self) -> Iterator[Frame]:
        size = None
        for frame in self.source:
            size = size or frame.size
            yield frame if frame.size == size else fitted(frame, size)


def fitted(frame: Frame, size: tuple[int, int]) -> Frame:
    """A frame scaled to fit (height, width), centred on white; depth stays unknown in the white.

    Its K is dropped: the calibration of a folder belongs to images of one shape.
    """
    height, width = frame.size
    scale = min(size[0] / height, size[1] / width)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    image = np.full((*size, 3), WHITE, np.uint8)
    mask = np.zeros(size, bool)
    part = slice(top, top + inner[0]), slice(left, left + inner[1])
    image[part] = cv2.resize(frame.image, inner[::-1], interpolation=cv2.INTER_AREA)
    mask[part] = True
    return replace(frame, image=image, K=None, mask=mask)
