"""CvBridge over rosbags-image, which knows encodings and colours; row padding and the way back are done here."""

from __future__ import annotations

import sys

import cv2
import numpy as np
from rosbags.image import ImageError
from rosbags.image.image import convert_color, to_cvtype
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

_OPENCV_DEPTHS = {
    'uint8': '8U',
    'int8': '8S',
    'uint16': '16U',
    'int16': '16S',
    'int32': '32S',
    'float32': '32F',
    'float64': '64F',
}
# Half-height chroma planes follow the image rows; the real cv_bridge refuses them too (vision_opencv#544).
_PLANAR = ('nv12', 'nv21', 'nv24')
_YUV = ('yuv422', 'yuv422_yuy2', 'uyvy', 'yuyv')
_PLAIN_COLOURS = ('mono', 'rgb', 'bgr', 'rgba', 'bgra')


class CvBridgeError(TypeError):
    """An image that cannot be converted, or not to the encoding asked for."""


class CvBridge:
    """Converts between Image messages and numpy arrays [H, W] or [H, W, C]."""

    def __getattr__(self, name: str) -> object:
        raise AttributeError(
            f'CvBridge.{name} is not in this stand-in; install the real cv_bridge (apt: ros-<distro>-cv-bridge)'
        )

    def imgmsg_to_cv2(self, img_msg: Image, desired_encoding: str = 'passthrough') -> np.ndarray:
        """The pixels of an Image message.

        Args:
            img_msg: any of the standard encodings, and OpenCV type names such as 16UC1; padded rows are cut.
            desired_encoding: convert to this; 'passthrough' leaves the values as they are.

        Raises:
            CvBridgeError: an encoding is unknown or there is no way between the two.
        """
        dtype, channels = self.encoding_to_dtype_with_channels(img_msg.encoding)
        stored = np.dtype(dtype).newbyteorder('>' if img_msg.is_bigendian else '<')
        pixel_bytes = stored.itemsize * channels
        if img_msg.step < img_msg.width * pixel_bytes or len(img_msg.data) < img_msg.step * img_msg.height:
            raise CvBridgeError(
                f'a {img_msg.width} x {img_msg.height} image of {img_msg.encoding} needs rows of at least '
                f'{img_msg.width * pixel_bytes} bytes; got step {img_msg.step} and {len(img_msg.data)} bytes in all'
            )
        rows = np.frombuffer(img_msg.data, np.uint8, img_msg.step * img_msg.height)
        rows = np.ascontiguousarray(rows.reshape(img_msg.height, img_msg.step)[:, : img_msg.width * pixel_bytes])
        shape = (img_msg.height, img_msg.width) if channels == 1 else (img_msg.height, img_msg.width, channels)
        image = rows.view(stored).reshape(shape).astype(dtype, copy=False)
        return _convert(image, img_msg.encoding, desired_encoding)

    def compressed_imgmsg_to_cv2(
        self, cmprs_img_msg: CompressedImage, desired_encoding: str = 'passthrough'
    ) -> np.ndarray:
        """The pixels of a CompressedImage message (jpeg, png and what else OpenCV reads), bgr8 unless converted.

        Raises:
            CvBridgeError: the data is no image, or the conversion is unknown.
        """
        image = cv2.imdecode(np.frombuffer(cmprs_img_msg.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise CvBridgeError(f'the {len(cmprs_img_msg.data)} bytes of format {cmprs_img_msg.format!r} are no image')
        return _convert(image, 'bgr8', desired_encoding)

    def cv2_to_imgmsg(self, cvim: np.ndarray, encoding: str = 'passthrough', header: Header | None = None) -> Image:
        """An Image message of an array [H, W] or [H, W, C].

        Args:
            cvim: the pixels, in the channel order that the encoding says.
            encoding: must fit type and channels; 'passthrough' writes the OpenCV type, e.g. 8UC3.
            header: stamp and frame.

        Raises:
            CvBridgeError: type or channels do not fit the encoding.
        """
        if not isinstance(cvim, np.ndarray):
            raise TypeError(f'expected a numpy array, got {type(cvim).__name__}')
        channels = 1 if cvim.ndim < 3 else cvim.shape[2]
        opencv_type = self.dtype_with_channels_to_cvtype2(cvim.dtype, channels)
        message = Image(height=cvim.shape[0], width=cvim.shape[1])
        if header is not None:
            message.header = header
        if encoding == 'passthrough':
            message.encoding = opencv_type
        else:
            dtype, expected_channels = self.encoding_to_dtype_with_channels(encoding)
            if (dtype, expected_channels) != (cvim.dtype.name, channels):
                raise CvBridgeError(f'{encoding} is {dtype} x {expected_channels}, but the array is {opencv_type}')
            message.encoding = encoding
        little_endian = cvim.dtype.byteorder == '<' or (cvim.dtype.byteorder in '=|' and sys.byteorder == 'little')
        message.is_bigendian = int(not little_endian and cvim.dtype.itemsize > 1)
        message.data.frombytes(np.ascontiguousarray(cvim).data.cast('B'))
        message.step = len(message.data) // message.height
        return message

    def cv2_to_compressed_imgmsg(self, cvim: np.ndarray, dst_format: str = 'jpg') -> CompressedImage:
        """A CompressedImage message of an array in the order of OpenCV (bgr8).

        Raises:
            CvBridgeError: OpenCV cannot write this array in this format.
        """
        if not isinstance(cvim, np.ndarray):
            raise TypeError(f'expected a numpy array, got {type(cvim).__name__}')
        try:
            _, encoded = cv2.imencode(f'.{dst_format}', cvim)
        except cv2.error as error:
            raise CvBridgeError(f'cannot write {cvim.dtype} {cvim.shape} as {dst_format!r}: {error}') from error
        message = CompressedImage(format=dst_format)
        message.data.frombytes(encoded.tobytes())
        return message

    def encoding_to_dtype_with_channels(self, encoding: str) -> tuple[str, int]:
        """Name of the numpy type and number of channels of an encoding."""
        _, _, dtype, channels = _describe(encoding)
        return dtype, channels

    def dtype_with_channels_to_cvtype2(self, dtype: np.dtype, n_channels: int) -> str:
        """Name of the OpenCV type, e.g. 32FC1."""
        try:
            return f'{_OPENCV_DEPTHS[dtype.name]}C{n_channels}'
        except KeyError:
            raise CvBridgeError(f'OpenCV has no images of {dtype}; use one of {sorted(_OPENCV_DEPTHS)}') from None


def _convert(image: np.ndarray, encoding: str, desired: str) -> np.ndarray:
    """Change colour first and then depth, where cv_bridge does; it is stricter than rosbags-image.

    Source: the rules of getConversionCode in vision_opencv, cv_bridge/src/cv_bridge.cpp.
    """
    if desired in ('passthrough', encoding):
        return image
    bits, _, _, channels = _describe(encoding)
    wanted_bits, _, wanted_dtype, wanted_channels = _describe(desired)
    colours, wanted_colours = _colours_of(encoding), _colours_of(desired)
    if wanted_colours is None or colours is None:
        if wanted_colours is not None:
            raise CvBridgeError(f'{encoding} says nothing of colour, so it cannot become {desired}')
        if channels != wanted_channels:
            raise CvBridgeError(f'{encoding} has {channels} channels, {desired} has {wanted_channels}')
    elif colours != wanted_colours:
        is_mosaic = colours.startswith('bayer')
        if wanted_colours not in _PLAIN_COLOURS or (is_mosaic and wanted_colours.endswith('a')):
            raise CvBridgeError(f'cannot convert {encoding} to {desired}')
        image = _change_colours(image, encoding, f'{wanted_colours}{bits}')
    elif colours not in _PLAIN_COLOURS:
        raise CvBridgeError(f'cannot convert {encoding} to {desired}')
    # 8 bits span the full range of 16.
    scale = {(8, 16): 65535.0 / 255.0, (16, 8): 255.0 / 65535.0}.get((bits, wanted_bits), 1.0)
    return _change_depth(image, np.dtype(wanted_dtype), scale)


def _change_colours(image: np.ndarray, encoding: str, desired: str) -> np.ndarray:
    if desired.startswith(f'{_colours_of(encoding)}a'):
        # rgb to rgba: rosbags-image 0.10 takes the number of this conversion, 0, for none at all.
        return cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)
    try:
        return np.asarray(convert_color(image, encoding, desired))
    except (ImageError, cv2.error) as error:
        raise CvBridgeError(f'cannot convert {encoding} to {desired}: {error}') from error


def _change_depth(image: np.ndarray, dtype: np.dtype, scale: float) -> np.ndarray:
    """Scaled, rounded to the nearest number and held within the range of the type, as OpenCV converts."""
    if image.dtype == dtype:
        return image
    scaled = image * np.float64(scale)
    if dtype.kind == 'f':
        return scaled.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(scaled), limits.min, limits.max).astype(dtype)


def _colours_of(encoding: str) -> str | None:
    """'rgb' of rgb8, 'bayer_rggb' of bayer_rggb16, 'yuv422' of itself; None of OpenCV types such as 16UC1."""
    if encoding in _YUV:
        return encoding
    colours = encoding.removesuffix('8').removesuffix('16')
    return colours if colours in _PLAIN_COLOURS or colours.startswith('bayer_') else None


def _describe(encoding: str) -> tuple[int, object, str, int]:
    """Bits, colour format, numpy type and channels of an encoding that we read."""
    if encoding in _PLANAR:
        raise CvBridgeError(f'image encoding {encoding!r} has planes, which cv_bridge does not read')
    try:
        return to_cvtype(encoding)
    except ImageError as error:
        raise CvBridgeError(f'image encoding {encoding!r} is not known') from error
