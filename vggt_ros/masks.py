"""Masks: which pixels of an image count. Where a mask is 0 the image shows the robot itself, or something that moves.

A mask is a picture of the size of the camera's image, before any rectifying: 0 where it does not count, anything else
where it does, as COLMAP and ROS 2 segmentation nodes that mark free pixels have it. One may lie in a file, for what
never changes, and others may come on a topic; a pixel counts where both let it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vggt_ros.core.config import MaskConfig
from vggt_ros.core.errors import ConfigError, EncodingError, ShapeError
from vggt_ros.decode import decode_image, decode_picture, stamp_ns

ENCODINGS = ('mono8', '8UC1')
REMEMBERED = 64  # masks of a topic, a bit a pixel: those of a few seconds
CAMERA = '{camera}'  # in mask_path, stands for the name of a rig's camera

FindMask = Callable[[int, tuple[int, int]], 'np.ndarray | None']  # stamp in ns, (height, width) -> [H, W] bool


class Masks:
    """The masks of one camera; `find` may be called beside `add`, from another thread.

    Args:
        config: where masks come from.
        camera: name of the camera in a rig.
        is_live: a mask may still come; else all were added before the first image.

    Raises:
        ConfigError: the file of mask_path is no mask.
    """

    def __init__(self, config: MaskConfig, camera: str = '', *, is_live: bool = True) -> None:
        self._mode, self._timeout_s, self._is_live = config.mode, config.timeout_s, is_live
        self._file = read_mask(Path(config.path.replace(CAMERA, camera)).expanduser()) if config.path else None
        self._packed: OrderedDict[int, tuple[tuple[int, ...], np.ndarray]] = OrderedDict()  # by stamp
        self._changed = threading.Condition()

    def add(self, message: Any) -> None:
        """Take a mask of the topic; EncodingError or ShapeError where it is none."""
        seen = decode_mask(message)
        if self._mode == 'stamped' and stamp_ns(message.header.stamp) <= 0:
            raise EncodingError('the mask has stamp 0; give it that of the image it was made from')
        with self._changed:
            self._packed.pop(stamp := stamp_ns(message.header.stamp), None)  # the newest comes last
            self._packed[stamp] = seen.shape, np.packbits(seen)
            if self._is_live and len(self._packed) > REMEMBERED:
                self._packed.popitem(last=False)
            self._changed.notify_all()

    def find(self, stamp: int, size: tuple[int, int]) -> np.ndarray | None:
        """[H, W] bool, True where an image of this stamp and (height, width) counts; None: everywhere.

        Raises:
            ShapeError: a mask has another size.
            EncodingError: the mask of this stamp has not come within mask_timeout_s, or a later one has.
        """
        found = [mask for mask in (self._file, self._of_topic(stamp)) if mask is not None]
        for mask in found:
            if mask.shape != size:
                raise ShapeError(
                    f'the mask is {mask.shape[1]}x{mask.shape[0]}, the image {size[1]}x{size[0]} pixels; '
                    'a mask must have the size of the camera image'
                )
        return np.logical_and.reduce(found) if found else None

    def _of_topic(self, stamp: int) -> np.ndarray | None:
        if self._mode == 'none':
            return None
        with self._changed:
            if self._mode == 'latest':
                known = list(self._packed)[-1:] if self._is_live else [one for one in self._packed if one <= stamp]
                return _unpack(*self._packed[max(known)]) if known else None
            if self._is_live:
                self._changed.wait_for(lambda: any(one >= stamp for one in self._packed), self._timeout_s)
            if stamp not in self._packed:
                raise EncodingError(
                    'no mask has the stamp of the image; mask_mode latest takes the last one whatever its stamp'
                )
            return _unpack(*self._packed[stamp])


def read_mask(path: Path) -> np.ndarray:
    """[H, W] bool of a picture file, True where it is not 0.

    Raises:
        ConfigError: there is no such picture, or nothing in it counts.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise ConfigError(f'cannot read mask_path {path}: {error.strerror or error}') from error
    pixels = decode_picture(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ConfigError(f'mask_path {path} is no picture; give a PNG, black where the camera sees the robot')
    seen: np.ndarray = (np.atleast_3d(pixels)[..., :3] != 0).any(axis=-1)  # an alpha channel does not count
    if not seen.any():
        raise ConfigError(f'mask_path {path} is black all over: nothing of the image would count')
    return seen


def decode_mask(message: Any) -> np.ndarray:
    """sensor_msgs/Image of mono8 or 8UC1 -> [H, W] bool; EncodingError on another encoding, or less data than said."""
    if message.encoding not in ENCODINGS:
        raise EncodingError(f'a mask must be {" or ".join(ENCODINGS)}, got {message.encoding!r}')
    return np.asarray(decode_image(message)[..., 0] != 0)


def _unpack(size: tuple[int, ...], packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed, count=size[0] * size[1]).reshape(size).astype(bool)
