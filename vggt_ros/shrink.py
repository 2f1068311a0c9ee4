"""A camera image as small as the network needs it: what a robot without a GPU, and without torch, sends away."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from vggt_ros.core.errors import EncodingError, ShapeError
from vggt_ros.core.frame import Frame

FORMATS = ('jpeg', 'png')


@dataclass(frozen=True)
class Shrink:
    """Scales an image to a width and cuts its height to a multiple, evenly at both ends.

    Source and result have one scale for both axes. The network's own resizing (vggt.preprocessing) does just this, and
    then finds nothing left to do.

    Args:
        width: of the result in pixels; 0 leaves the image as it is, as does an image that is narrower.
        multiple: of which the height is one: the patch size of the network.
    """

    width: int = 518
    multiple: int = 14

    def __call__(self, frame: Frame) -> Frame:
        """The frame with its image, mask and K at the new size; a masked pixel is black.

        Raises:
            ShapeError: the image is too wide to leave a row of patches.
        """
        height, width = frame.size
        if self.width == 0 or width < self.width:
            return Frame(frame.stamp_ns, _blackened(frame.image, frame.mask), frame.frame_id, frame.K, frame.mask)
        scale = self.width / width
        rows = int(height * scale / self.multiple + 1e-6) * self.multiple
        if rows == 0:
            raise ShapeError(f'an image of {width}x{height} has less than {self.multiple} rows at width {self.width}')
        top = (height * scale - rows) / 2
        box = (0.0, max(0.0, top / scale), float(width), min(float(height), (top + rows) / scale))
        size = (self.width, rows)
        image = Image.fromarray(frame.image).resize(size, Image.Resampling.BICUBIC, box=box)
        mask = None
        if frame.mask is not None:  # a pixel that a masked one has any part in does not count
            seen = Image.fromarray(frame.mask.astype(np.uint8) * 255)
            mask = np.asarray(seen.resize(size, Image.Resampling.BOX, box=box)) == 255
        K = None
        if frame.K is not None:
            shift = 0.5 * scale - 0.5
            K = np.array([[scale, 0.0, shift], [0.0, scale, shift - top], [0.0, 0.0, 1.0]]) @ frame.K
        return Frame(frame.stamp_ns, _blackened(np.asarray(image), mask), frame.frame_id, K, mask)


def encode(image: np.ndarray, format: str, quality: int) -> bytes:
    """[H, W, 3] uint8 RGB as JPEG of a quality from 1 to 100, or as PNG, which loses nothing.

    Raises:
        EncodingError: another format, or an image that cannot be encoded.
    """
    if format not in FORMATS:
        raise EncodingError(f'format must be one of {", ".join(FORMATS)}, got {format!r}')
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == 'jpeg' else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    is_good, data = cv2.imencode(f'.{format}', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not is_good:
        raise EncodingError(f'an image of {image.shape[1]}x{image.shape[0]} could not be encoded as {format}')
    return data.tobytes()


def _blackened(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    return image if mask is None else np.where(mask[..., None], image, np.uint8(0))
