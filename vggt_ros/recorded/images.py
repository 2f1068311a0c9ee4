"""A folder of images -> Frames: plain, or with a list of stamps and a calibration beside it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from vggt_ros.core.errors import EncodingError, SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.decode import DEFAULT_FRAME_ID, MAX_PIXELS, decode_picture
from vggt_ros.masks import FindMask
from vggt_ros.recorded.ahead import all_ahead
from vggt_ros.recorded.static_tf import StaticTransforms
from vggt_ros.rectify import Lens, Rectifiers

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
LISTS = ('frames.txt', 'rgb.txt')  # ours, and that of the TUM RGB-D benchmark: stamp in seconds, file
START_NS = 1_000_000_000  # stamp 0 means none in ROS
END_NS = 2**31 * 10**9  # builtin_interfaces/Time has 32 bits of seconds
MAX_DIGITS = 20  # of seconds, or of nanoseconds that are taken for seconds


class _Camera(NamedTuple):
    """What camera.json says; size is (height, width)."""

    K: np.ndarray
    size: tuple[int, int]
    distortion: np.ndarray
    model: str


class ImageFolderSource:
    """The images of a folder as frames.

    Stamps come from `frames.txt` or `rgb.txt` (lines of `stamp file`), else from file names that are times (seconds
    with a decimal point, or nanoseconds), else from `rate`. Calibration comes from `camera.json`: width, height, fx,
    fy, cx, cy in pixels, pixel centres at integers; with distortion_model and distortion of a CameraInfo, where the
    lens has any.

    Args:
        path: the folder.
        rate: images a second where nothing tells their times.
        frame_id: name of the optical frame.
        skip_bad: log and count an image that cannot be read, instead of stopping on it.
        rectify: take lens distortion out.
        find_mask: which pixels of an image count (masks.Masks.find).

    Raises:
        SourceError: no images, or a list or calibration that cannot be read.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        rate: float = 10.0,
        frame_id: str = '',
        skip_bad: bool = False,
        rectify: bool = True,
        find_mask: FindMask | None = None,
    ) -> None:
        self.path, self.skip_bad, self.skipped = Path(path), skip_bad, 0
        self._frame_id = frame_id or DEFAULT_FRAME_ID
        self._files = self._read_list() or self._list_files(rate)
        if not self._files:
            raise SourceError(f'{path} holds no images ({", ".join(IMAGE_SUFFIXES)}) and no bag')
        self._rectifiers, self._find_mask = Rectifiers() if rectify else None, find_mask
        self._camera = self._read_camera()

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Frame]:
        return all_ahead(self._frames())

    def _frames(self) -> Iterator[Frame]:
        for stamp_ns, file in self._files:
            try:
                image = _read_image(file)
            except EncodingError as error:
                if not self.skip_bad:
                    raise EncodingError(f'{error}; --skip-bad goes on without it') from error
                self.skipped += 1
                log.warning('skipped an image: %s', error)
                continue
            yield self._make_frame(stamp_ns, image)

    def static_transforms(self) -> StaticTransforms:
        """None: nobody says where the camera is mounted."""
        return StaticTransforms()

    def close(self) -> None:
        """Files are open only while they are read."""

    def _read_list(self) -> list[tuple[int, Path]]:
        name = next((name for name in LISTS if (self.path / name).is_file()), None)
        if name is None:
            return []
        files = []
        for number, line in enumerate(self._lines(name), 1):
            words = line.split()
            if not words or words[0].startswith('#'):
                continue
            try:
                stamp, file = seconds_to_ns(words[0]), words[1]
                if not 0 <= stamp < END_NS:
                    raise ValueError('a stamp must lie between 1970 and 2038')
            except (ValueError, IndexError) as error:
                raise SourceError(
                    f'{self.path / name} line {number} must be "stamp file", got {line[:80]!r}: {error}'
                ) from error
            files.append((stamp, self.path / file))
        return files

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.path / name).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f'cannot read {self.path / name}: {error}') from error

    def _list_files(self, rate: float) -> list[tuple[int, Path]]:
        folder = self.path / 'rgb' if (self.path / 'rgb').is_dir() else self.path
        files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        files.sort(key=lambda file: natural_order(file.name))
        stamps = [_stamp_of_name(file.stem) for file in files]
        if all(stamp is not None for stamp in stamps):
            return sorted(zip(stamps, files, strict=True))  # type: ignore[type-var, arg-type]
        return [(START_NS + round(i * 1e9 / rate), file) for i, file in enumerate(files)]

    def _make_frame(self, stamp_ns: int, image: np.ndarray) -> Frame:
        K, size = self._K(image.shape[:2]), image.shape[:2]
        seen = self._find_mask(stamp_ns, size) if self._find_mask is not None else None
        if K is None or self._camera is None or self._rectifiers is None or not self._camera.distortion.any():
            return Frame(stamp_ns, image, self._frame_id, K, seen)
        lens = Lens(image.shape[:2], K, self._camera.distortion, self._camera.model, np.eye(3), K)
        rectifier = self._rectifiers.find(lens)
        return Frame(stamp_ns, rectifier.rectify(image), self._frame_id, rectifier.K, rectifier.cover(seen))

    def _read_camera(self) -> _Camera | None:
        file = self.path / 'camera.json'
        if not file.is_file():
            log.warning('no camera.json in %s: the network estimates the intrinsics', self.path)
            return None
        try:
            camera = json.loads(file.read_text())
            K = np.array([[camera['fx'], 0, camera['cx']], [0, camera['fy'], camera['cy']], [0, 0, 1]], np.float64)
            size = int(camera['height']), int(camera['width'])
            distortion = np.array(camera.get('distortion') or (), np.float64)
            if min(size) <= 0 or not np.isfinite(K).all() or min(K[0, 0], K[1, 1]) <= 0 or distortion.ndim != 1:
                raise ValueError('sizes and focal lengths must be above 0, distortion a list')
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise SourceError(f'{file} must hold width, height, fx, fy, cx, cy as numbers: {error!r}') from error
        if distortion.any() and self._rectifiers is None:
            log.warning('%s has lens distortion and rectify is never: shapes bend; take --rectify auto', file)
        return _Camera(K, size, distortion, camera.get('distortion_model') or 'plumb_bob')

    def _K(self, size: tuple[int, int]) -> np.ndarray | None:  # noqa: N802  K is the intrinsics everywhere
        """K of an image; None where its shape is not that of the calibrated one."""
        if self._camera is None:
            return None
        K, (height, width) = self._camera.K, self._camera.size
        scale_v, scale_u = size[0] / height, size[1] / width
        if abs(scale_u / scale_v - 1) > 1.5 / min(size):  # a pixel of rounding
            log.warning('camera.json is for %dx%d, an image has %dx%d: not used', width, height, size[1], size[0])
            return None
        K = np.diag([scale_u, scale_v, 1.0]) @ K
        K[:2, 2] += 0.5 * np.array([scale_u, scale_v]) - 0.5
        return K


def _read_image(file: Path) -> np.ndarray:
    try:
        data = np.frombuffer(file.read_bytes(), np.uint8)
    except (OSError, ValueError) as error:
        said = 'does not exist' if isinstance(error, FileNotFoundError) else f'cannot be read: {error}'
        raise EncodingError(f'image {str(file)[-200:]} {said[:200]}') from error
    image = decode_picture(data, cv2.IMREAD_COLOR_BGR)
    if image is None:
        raise EncodingError(f'image {file} of {data.size} bytes cannot be decoded, or has above {MAX_PIXELS} pixels')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def seconds_to_ns(text: str) -> int:
    """Decimal seconds -> integer nanoseconds, exactly: a float would be 0.2 us coarse.

    Raises:
        ValueError: no number, or one beyond any clock.
    """
    try:
        seconds = Decimal(text)
        if seconds.is_finite() and seconds.adjusted() < MAX_DIGITS:  # 1e999999999 would fill the memory with digits
            return round(seconds * 1_000_000_000)
    except ArithmeticError as error:
        raise ValueError(f'{text[:40]!r} is no number of seconds') from error
    raise ValueError(f'{text[:40]!r} are no seconds of this time')


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Sorts names with numbers in them by those numbers: img2 before img10."""
    parts = re.split(r'([0-9]+)', name)  # other digits, such as a superscript, int() does not take
    return [(i % 2 == 0, int(part) if i % 2 else 0, part) for i, part in enumerate(parts)]


def _stamp_of_name(name: str) -> int | None:
    """'1403636579763555584' (ns, EuRoC) and '1341841278.842700' (s, TUM) are times; '000012' is a number."""
    if re.fullmatch(r'[0-9]{18,19}', name):
        stamp = int(name)
    elif re.fullmatch(r'[0-9]{1,10}\.[0-9]+', name):
        stamp = seconds_to_ns(name)
    else:
        return None
    return stamp if stamp < END_NS else None
