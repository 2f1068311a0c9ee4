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
        try:
            _, _, dtype, channels = to_cvtype(encoding)
        except ImageError as error:
            raise CvBridgeError(f'image encoding {encoding!r} is not known') from error
        if encoding in _PLANAR:
            raise CvBridgeError(f'image encoding {encoding!r} has planes, which cv_bridge does not read')
        return dtype, channels

    def dtype_with_channels_to_cvtype2(self, dtype: np.dtype, n_channels: int) -> str:
        """Name of the OpenCV type, e.g. 32FC1."""
        try:
            return f'{_OPENCV_DEPTHS[dtype.name]}C{n_channels}'
        except KeyError:
            raise CvBridgeError(f'OpenCV has no images of {dtype}; use one of {sorted(_OPENCV_DEPTHS)}') from None


def _convert(image: np.ndarray, encoding: str, desired: str) -> np.ndarray:
    """Change colour first and then depth, as cv_bridge does."""
    if desired in ('passthrough', encoding):
        return image
    try:
        from_bits, _, from_dtype, _ = to_cvtype(encoding)
        to_bits, _, to_dtype, _ = to_cvtype(desired)
        rescaled = {from_dtype, to_dtype} == {'uint8', 'uint16'}
        # The same colours at the depth we have, such as rgb16 on the way from bayer_rggb16 to rgb8.
        colour = f'{desired.removesuffix(str(to_bits))}{from_bits}' if rescaled else desired
        if (encoding[:3], colour[:4]) in (('rgb', 'rgba'), ('bgr', 'bgra')) and 'a' not in encoding:
            # rosbags-image 0.10 takes the number of this conversion, 0, for none at all.
            converted = cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)
        else:
            converted = np.asarray(convert_color(image, encoding, colour))
    except (ImageError, cv2.error) as error:
        raise CvBridgeError(f'cannot convert {encoding} to {desired}: {error}') from error
    if not rescaled:
        return converted
    # 8 bits span the full range of 16. Source: vision_opencv, cv_bridge/src/cv_bridge.cpp toCvCopyImpl.
    return cv2.convertScaleAbs(converted, alpha=255.0 / 65535.0) if to_bits == 8 else converted.astype(np.uint16) * 257
