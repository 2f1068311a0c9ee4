"""Image, CompressedImage and CameraInfo -> Frame. Reads attributes only, so messages of rclpy and of bags both fit."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from vggt_ros.core.errors import EncodingError, ShapeError
from vggt_ros.core.frame import Frame
from vggt_ros.rectify import Lens, Rectifiers

DEFAULT_FRAME_ID = 'camera_optical_frame'  # where a source names none

# Own decoders: encoding -> (channels, type, OpenCV code to RGB; None is RGB already).
# 8UC3 and 8UC4 say nothing of colour order; they come from OpenCV images sent as they are, and those are BGR.
# Source: sensor_msgs/include/sensor_msgs/image_encodings.hpp.
_PACKED: dict[str, tuple[int, str, int | None]] = {
    'rgb8': (3, 'u1', None),
    'bgr8': (3, 'u1', cv2.COLOR_BGR2RGB),
    'rgba8': (4, 'u1', cv2.COLOR_RGBA2RGB),
    'bgra8': (4, 'u1', cv2.COLOR_BGRA2RGB),
    'mono8': (1, 'u1', cv2.COLOR_GRAY2RGB),
    'mono16': (1, 'u2', cv2.COLOR_GRAY2RGB),
    '8UC1': (1, 'u1', cv2.COLOR_GRAY2RGB),
    '8UC3': (3, 'u1', cv2.COLOR_BGR2RGB),
    '8UC4': (4, 'u1', cv2.COLOR_BGRA2RGB),
}
_TWO_PLANES = {'nv12': cv2.COLOR_YUV2RGB_NV12, 'nv21': cv2.COLOR_YUV2RGB_NV21}

# Left to the converter (cv_bridge or rosbags.image): encoding -> bytes a pixel, to undo row padding before it.
_CONVERTED = {
    **{f'bayer_{order}{bits}': bits // 8 for order in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)},
    **{'yuv422': 2, 'yuv422_yuy2': 2, 'uyvy': 2, 'yuyv': 2},
    **{'rgb16': 6, 'bgr16': 6, 'rgba16': 8, 'bgra16': 8},
}
SUPPORTED = (*_PACKED, *_TWO_PLANES, *_CONVERTED)
_DEPTH = ('16UC1', '32FC1', '64FC1')

MAX_PIXELS = 1 << 27  # of a picture: 134 million, beyond any camera's; a file of 3 MB can unpack to ten times that

Converter = Callable[[Any], np.ndarray]


def stamp_ns(stamp: Any) -> int:
    """builtin_interfaces/Time -> integer nanoseconds; a float second of today is 0.2 us coarse."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def decode_frame(
    message: Any,
    info: Any = None,
    *,
    convert: Converter | None = None,
    frame_id: str = '',
    rectified: bool = False,
    rectifiers: Rectifiers | None = None,
    find_mask: Callable[[int, tuple[int, int]], np.ndarray | None] | None = None,
) -> Frame:
    """An image message and its calibration -> Frame.

    Args:
        message: sensor_msgs Image or CompressedImage.
        info: sensor_msgs CameraInfo, or None where there is none.
        convert: turns an Image of the rarer encodings into [H, W, 3] uint8 RGB, such as
            `lambda message: CvBridge().imgmsg_to_cv2(message, 'rgb8')`.
        frame_id: name of the optical frame; empty takes that of the message.
        rectified: the image is rectified, so P of the CameraInfo holds its intrinsics, not K.
        rectifiers: takes lens distortion out of an image that is not rectified; None leaves it in.
        find_mask: gives for the stamp and the size of the message which of its pixels count (masks.Masks.find).

    Raises:
        EncodingError: the image cannot be decoded, has no stamp, or its lens cannot be rectified.
        ShapeError: the CameraInfo or the mask is for an image of another shape.
    """
    stamp = stamp_ns(message.header.stamp)
    if stamp <= 0:
        raise EncodingError('the image has stamp 0; its publisher must fill header.stamp with the time of exposure')
    image = decode_compressed(message) if hasattr(message, 'format') else decode_image(message, convert)
    seen = find_mask(stamp, image.shape[:2]) if find_mask is not None else None
    name = frame_id or message.header.frame_id.lstrip('/') or DEFAULT_FRAME_ID
    lens = None if info is None or rectified or rectifiers is None else lens_of(info, image.shape[:2])
    if rectifiers is not None and lens is not None:
        rectifier = rectifiers.find(lens)
        return Frame(stamp, rectifier.rectify(image), name, rectifier.K, rectifier.cover(seen))
    return Frame(stamp, image, name, None if info is None else camera_matrix(info, image.shape[:2], rectified), seen)


def decode_image(message: Any, convert: Converter | None = None) -> np.ndarray:
    """sensor_msgs/Image -> [H, W, 3] uint8 RGB; a view of the message's data for rgb8, else new memory.

    mono8 and mono16 are replicated to three channels, mono16 scaled from its full range.

    Raises:
        EncodingError: unknown encoding, zero size, or less data than step and height promise.
    """
    encoding = message.encoding
    if message.height <= 0 or message.width <= 0:
        raise EncodingError(f'image must not be empty, got {message.width}x{message.height} {encoding!r}')
    if encoding in _PACKED:
        channels, kind, code = _PACKED[encoding]
        pixels = _packed_pixels(message, channels, kind)
        return pixels if code is None else cv2.cvtColor(pixels, code)
    if encoding in _TWO_PLANES:
        return _decode_two_planes(message, _TWO_PLANES[encoding])
    return _decode_converted(message, convert)


def decode_compressed(message: Any) -> np.ndarray:
    """sensor_msgs/CompressedImage (JPEG, PNG) -> [H, W, 3] uint8 RGB.

    Raises:
        EncodingError: the data is no whole image, or a compressed depth image.
    """
    if is_depth(message):
        raise EncodingError(f'compressed image of format {message.format!r} holds depth; choose the colour topic')
    data = np.frombuffer(message.data, np.uint8)
    image = decode_picture(data, cv2.IMREAD_COLOR_BGR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise EncodingError(f'compressed image {message.format!r} of {data.size} bytes is no whole JPEG or PNG')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_picture(data: np.ndarray, flags: int) -> np.ndarray | None:
    """The bytes of a picture file -> its pixels as cv2.imdecode gives them.

    Args:
        data: [N] uint8.
        flags: of cv2.imread.

    Returns:
        None where it is no picture, is cut short, or claims more than MAX_PIXELS.
    """
    from PIL import Image  # reads the head alone; OpenCV takes memory for what it claims before it looks further

    try:
        with Image.open(io.BytesIO(data.data)) as head:
            width, height = head.size
            is_sound = 0 < width * height <= MAX_PIXELS and (head.format != 'PNG' or _is_whole_png(data))
        return cv2.imdecode(data, flags) if is_sound else None
    except Exception:  # of many kinds, as many as there are formats
        return None


def _is_whole_png(data: np.ndarray) -> bool:
    """Whether the chunks of a PNG lie within it; OpenCV takes the memory that a chunk claims, up to 2 GB.

    Source: W3C, Portable Network Graphics (Third Edition), sec. 5.3: length, type, data, CRC.
    """
    at = 8
    while at + 12 <= data.size and bytes(data[at + 4 : at + 8]) != b'IEND':
        at += 12 + int.from_bytes(bytes(data[at : at + 4]), 'big')
    return at + 12 <= data.size


def camera_matrix(info: Any, size: tuple[int, int], rectified: bool = False) -> np.ndarray | None:
    """sensor_msgs/CameraInfo -> K of an image of this size.

    The calibration is of the full sensor; the region of interest is cut from it, then binned, then perhaps resized.
    Pixel centres are at integers, so a factor s moves a coordinate to (c + 0.5) * s - 0.5.

    Args:
        info: CameraInfo of ROS 2 (k, p) or ROS 1 (K, P).
        size: (height, width) of the image in pixels.
        rectified: take P, which holds the intrinsics of the rectified image.

    Returns:
        [3, 3] float64, or None where the camera is uncalibrated: K[0] is 0, or K is no pinhole's matrix.

    Raises:
        ShapeError: the size differs from the calibrated one by more than one factor for both axes, or is none.

    Source: sensor_msgs/msg/CameraInfo.msg; REP 104.
    """
    K = _matrix(info, 'k').reshape(3, 3).copy()
    P = _matrix(info, 'p').reshape(3, 4)
    if rectified and P[0, 0] > 0:
        K = P[:, :3].copy()
    if not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0 or K[1, 0] != 0 or (K[2] != (0, 0, 1)).any():
        return None
    width, height = info.roi.width or info.width, info.roi.height or info.height
    K[0, 2] -= info.roi.x_offset
    K[1, 2] -= info.roi.y_offset
    height_now, width_now = size
    if min(size) <= 0:
        raise ShapeError(f'an image must not be empty, got {width_now}x{height_now} pixels')
    scale_u = 1 / max(info.binning_x, 1) if width == 0 else width_now / width  # width 0: the driver fills in K only
    scale_v = 1 / max(info.binning_y, 1) if height == 0 else height_now / height
    # One pixel of slack: integer division by the binning, or a resize, drops the remainder.
    binning_ratio = max(info.binning_x, 1) / max(info.binning_y, 1)
    if width and height and abs(scale_u * binning_ratio / scale_v - 1) > 1.5 / min(width_now, height_now):
        raise ShapeError(
            f'CameraInfo is for {width}x{height} pixels, the image has {width_now}x{height_now}: '
            'another shape, so no scale fits; remap camera_info to the one that belongs to the image'
        )
    K[0] *= scale_u
    K[1] *= scale_v
    K[0, 2] += 0.5 * scale_u - 0.5
    K[1, 2] += 0.5 * scale_v - 0.5
    return K


def lens_of(info: Any, size: tuple[int, int]) -> Lens | None:
    """The lens of a raw image of this size (height, width), with the pinhole that P of its CameraInfo describes.

    Without a P the pinhole has K. R turns the pinhole, as in image_proc, so that depth lies on its image_rect.

    Returns:
        None where the image needs no rectifying: no distortion, or no calibration.

    Raises:
        EncodingError: a lens model that is not known.
        ShapeError: as camera_matrix.

    Source: sensor_msgs/msg/CameraInfo.msg; ros-perception/vision_opencv, image_geometry/src/pinhole_camera_model.cpp.
    """
    K = camera_matrix(info, size)
    if K is None or not is_distorted(info):
        return None
    K_pinhole = camera_matrix(info, size, rectified=True)
    R = _matrix(info, 'r').reshape(3, 3)
    distortion = _matrix(info, 'd')
    model = info.distortion_model or ('plumb_bob' if len(distortion) <= 5 else 'rational_polynomial')
    R = R if abs(np.linalg.det(R) - 1) < 1e-3 else np.eye(3)  # some drivers leave R empty
    return Lens(size, K, distortion, model, R, K if K_pinhole is None else K_pinhole)


def is_depth(message: Any) -> bool:
    """Whether an Image or CompressedImage holds depth, not colour."""
    return 'compressedDepth' in message.format if hasattr(message, 'format') else message.encoding in _DEPTH


def is_distorted(info: Any) -> bool:
    """Whether the raw image of this CameraInfo needs rectifying before it is a pinhole image."""
    return bool(np.any(_matrix(info, 'd')))


class CameraInfoCache:
    """The CameraInfo of an image: that of the same stamp, else the last one known.

    Args:
        size: stamps remembered; a driver sends an image and its info within a few messages of each other.
    """

    def __init__(self, size: int = 32) -> None:
        self._size = size
        self._by_stamp: OrderedDict[int, Any] = OrderedDict()
        self._last: Any = None

    def add(self, info: Any) -> None:
        self._last = info
        self._by_stamp[stamp_ns(info.header.stamp)] = info
        if len(self._by_stamp) > self._size:
            self._by_stamp.popitem(last=False)

    def find(self, stamp: int) -> Any | None:
        """The CameraInfo for an image of this stamp in ns; None while none has come."""
        return self._by_stamp.get(stamp, self._last)

    def clear(self) -> None:
        self._by_stamp.clear()
        self._last = None


def _matrix(info: Any, name: str) -> np.ndarray:
    values = getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())  # ROS 1 has K, D, P
    return np.asarray(values, np.float64)


def _rows(message: Any, rows: int, row_bytes: int) -> np.ndarray:
    """[rows, row_bytes] uint8 view of the data without its row padding."""
    data = np.frombuffer(message.data, np.uint8)
    step = message.step or row_bytes  # some drivers leave it 0: no padding
    if step < row_bytes or data.size < step * (rows - 1) + row_bytes:
        raise EncodingError(
            f'image {message.width}x{message.height} {message.encoding!r} with step {message.step} is truncated: '
            f'it needs {row_bytes} bytes a row and {max(step, row_bytes) * rows} in all, got {data.size}'
        )
    return np.lib.stride_tricks.as_strided(data, (rows, row_bytes), (step, 1), writeable=False)


def _packed_pixels(message: Any, channels: int, kind: str) -> np.ndarray:
    item = np.dtype(kind).itemsize
    rows = _rows(message, message.height, message.width * channels * item)
    if item == 2:
        # Full range to 8 bits as cv_bridge does: 65535 -> 255.
        wide = np.ascontiguousarray(rows).view('>u2' if message.is_bigendian else '<u2')
        rows = ((wide.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return rows.reshape(message.height, message.width, channels) if channels > 1 else np.ascontiguousarray(rows)


def _decode_two_planes(message: Any, code: int) -> np.ndarray:
    """NV12 and NV21: a plane of Y, then one of interleaved chroma at half the height, rows padded alike.

    Source: Linux kernel documentation, userspace-api/media/v4l/pixfmt-yuv-planar.rst.
    """
    if message.height % 2 or message.width % 2:
        raise EncodingError(f'{message.encoding!r} needs even sides, got {message.width}x{message.height}')
    rows = np.ascontiguousarray(_rows(message, message.height * 3 // 2, message.width))
    return cv2.cvtColor(rows, code)


def _decode_converted(message: Any, convert: Converter | None) -> np.ndarray:
    encoding = message.encoding
    if is_depth(message):
        raise EncodingError(f'image encoding {encoding!r} is depth, not colour; choose the colour topic of this camera')
    if encoding not in _CONVERTED or convert is None:
        raise EncodingError(f'image encoding {encoding!r} is not supported; publish one of {", ".join(SUPPORTED)}')
    row_bytes = message.width * _CONVERTED[encoding]
    rows = np.ascontiguousarray(_rows(message, message.height, row_bytes))  # the converters want packed rows
    packed = SimpleNamespace(
        header=message.header, height=message.height, width=message.width, encoding=encoding,
        is_bigendian=message.is_bigendian, step=row_bytes, data=rows.reshape(-1),
    )  # fmt: skip
    try:
        image = np.asarray(convert(packed))
    except Exception as error:  # each converter has its own exceptions, and cv2.error besides
        raise EncodingError(f'image encoding {encoding!r} could not be converted to rgb8: {error}') from error
    if image.dtype != np.uint8 or image.shape != (message.height, message.width, 3):
        raise EncodingError(f'converting {encoding!r} must give uint8 RGB, got {image.shape} {image.dtype}')
    return image
