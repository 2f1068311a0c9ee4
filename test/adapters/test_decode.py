"""Image, CompressedImage, CameraInfo -> Frame: every encoding against rosbags-image, an independent reader."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from recordings import START_NS, coloured_image, compressed_message, image_message, info_message
from rosbags.image import message_to_cvimage

from vggt_ros.core.errors import EncodingError, ShapeError
from vggt_ros.decode import (
    SUPPORTED,
    CameraInfoCache,
    camera_matrix,
    decode_compressed,
    decode_frame,
    decode_image,
    is_depth,
    is_distorted,
    lens_of,
)
from vggt_ros.messages import MessageTypes, bag_messages
from vggt_ros.recorded.bag import convert_image
from vggt_ros.rectify import Rectifiers

BAYER = {'rggb': ((0, 1), (1, 2)), 'bggr': ((2, 1), (1, 0)), 'gbrg': ((1, 2), (0, 1)), 'grbg': ((1, 0), (2, 1))}
K = np.array([[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])
TYPES = bag_messages()


def encode(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """RGB -> the bytes a driver would send, written from the definition of the encoding."""
    grey = (rgb @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
    opaque = np.full((*rgb.shape[:2], 1), 255, np.uint8)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    if encoding.startswith('bayer_'):
        mosaic = np.empty(rgb.shape[:2], np.uint8)
        for row in range(2):
            for column in range(2):
                mosaic[row::2, column::2] = rgb[row::2, column::2, BAYER[encoding[6:10]][row][column]]
        return mosaic if encoding.endswith('8') else mosaic.astype(np.uint16) * 257
    if encoding in ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'):
        luma, cb, cr = studio_yuv(rgb)
        chroma = np.where(np.arange(rgb.shape[1]) % 2 == 0, cb, cr)
        return np.stack((chroma, luma) if encoding in ('yuv422', 'uyvy') else (luma, chroma), axis=-1)
    if encoding in ('nv12', 'nv21'):
        luma, cb, cr = studio_yuv(rgb)
        planes = (cb, cr) if encoding == 'nv12' else (cr, cb)
        chroma = np.stack([plane[::2, ::2] for plane in planes], axis=-1).reshape(rgb.shape[0] // 2, rgb.shape[1])
        return np.concatenate([luma, chroma])
    return {
        'rgb8': rgb,
        'bgr8': bgr,
        '8UC3': bgr,
        'rgba8': np.concatenate([rgb, opaque], axis=-1),
        'bgra8': np.concatenate([bgr, opaque], axis=-1),
        '8UC4': np.concatenate([bgr, opaque], axis=-1),
        'mono8': grey,
        '8UC1': grey,
        'mono16': grey.astype(np.uint16) * 257,
        'rgb16': rgb.astype(np.uint16) * 257,
        'bgr16': bgr.astype(np.uint16) * 257,
        'rgba16': np.concatenate([rgb, opaque], axis=-1).astype(np.uint16) * 257,
        'bgra16': np.concatenate([bgr, opaque], axis=-1).astype(np.uint16) * 257,
    }[encoding]


def studio_yuv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y, Cb, Cr with 16..235 for black to white. Source: ITU-R BT.601-7, sec. 2.5."""
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    luma = 16 + 65.481 * r + 128.553 * g + 24.966 * b
    cb = 128 - 37.797 * r - 74.203 * g + 112.0 * b
    cr = 128 + 112.0 * r - 93.786 * g - 18.214 * b
    return tuple(plane.round().astype(np.uint8) for plane in (luma, cb, cr))


def expected(rgb: np.ndarray, encoding: str) -> tuple[np.ndarray, int]:
    """What must come back, and how far off a lossy encoding may be (of 255, on this smooth image)."""
    if 'mono' in encoding or encoding == '8UC1':
        grey = (rgb @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1), 0
    if encoding.startswith('bayer'):
        return rgb, 6  # interpolated over 2 pixels of gradients up to 2.5 a pixel
    if 'yuv' in encoding or encoding in ('uyvy', 'yuyv', 'nv12', 'nv21'):
        return rgb, 7  # chroma of a pixel or two beside, on gradients up to 2.5 a pixel; rounding of Y, Cb, Cr
    return rgb, 1 if encoding.endswith('16') else 0  # rosbags truncates where 16 bits become 8


@pytest.mark.parametrize('encoding', SUPPORTED)
def test_each_encoding_comes_back_as_the_same_rgb(encoding, messages: MessageTypes):
    rgb = coloured_image()
    message = image_message(messages, encode(rgb, encoding), encoding, size=rgb.shape[:2], step=None)
    if encoding in ('nv12', 'nv21'):
        message.step = rgb.shape[1]
    image = decode_image(message, convert_image)
    truth, tolerance = expected(rgb, encoding)
    inner = (slice(2, -2), slice(2, -2))  # demosaicing has no neighbours at the border
    assert image.dtype == np.uint8
    assert image.shape == rgb.shape
    difference = np.abs(image[inner].astype(int) - truth[inner])
    assert difference.max() <= tolerance, f'{encoding}: {difference.max()} of 255 off'


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'mono16', '8UC1'])
def test_our_own_decoders_agree_with_rosbags_image(encoding):
    message = image_message(TYPES, encode(coloured_image(), encoding), encoding)
    theirs = message_to_cvimage(message, 'rgb8' if encoding != '8UC1' else None)
    theirs = theirs if theirs.ndim == 3 else np.repeat(theirs[..., None], 3, axis=-1)
    # rosbags truncates where it makes 8 bits of 16, we round: one level.
    assert np.abs(decode_image(message).astype(int) - theirs).max() <= (encoding == 'mono16')


@pytest.mark.parametrize('encoding', [one for one in SUPPORTED if one not in ('nv12', 'nv21')])
def test_row_padding_is_honoured(encoding):
    pixels = encode(coloured_image(), encoding)
    height = pixels.shape[0]
    rows = pixels.reshape(height, -1).view(np.uint8)
    padded = np.concatenate([rows, np.full((height, 7), 255, np.uint8)], axis=1)
    plain = image_message(TYPES, pixels, encoding, size=(height, pixels.shape[1]))
    message = image_message(TYPES, padded, encoding, size=(height, pixels.shape[1]), step=padded.shape[1])
    np.testing.assert_array_equal(decode_image(message, convert_image), decode_image(plain, convert_image))


@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
def test_row_padding_of_two_planes_is_honoured(encoding):
    pixels = encode(coloured_image(), encoding)
    padded = np.concatenate([pixels, np.full((len(pixels), 5), 99, np.uint8)], axis=1)
    plain = image_message(TYPES, pixels, encoding, size=(48, 64), step=64)
    message = image_message(TYPES, padded, encoding, size=(48, 64), step=69)
    np.testing.assert_array_equal(decode_image(message), decode_image(plain))


@pytest.mark.parametrize('encoding', ['mono16', 'rgb16', 'bayer_rggb16'])
def test_big_endian_is_honoured(encoding):
    pixels = encode(coloured_image(), encoding)
    pixels[0, 0] = 0x1234
    little = image_message(TYPES, pixels, encoding)
    big = image_message(TYPES, pixels.byteswap(), encoding, is_bigendian=1)
    np.testing.assert_array_equal(decode_image(big, convert_image), decode_image(little, convert_image))


def test_rgb8_is_a_view_that_copies_nothing():
    message = image_message(TYPES, coloured_image(), 'rgb8')
    assert np.shares_memory(decode_image(message), message.data)


def test_a_step_of_zero_means_no_padding():
    message = image_message(TYPES, coloured_image(), 'rgb8', step=0)
    np.testing.assert_array_equal(decode_image(message), coloured_image())


@pytest.mark.parametrize('encoding', SUPPORTED)
def test_truncated_data_is_refused_and_says_how_much_is_missing(encoding):
    pixels = encode(coloured_image(), encoding)
    message = image_message(TYPES, pixels, encoding, size=(48, 64), step=pixels.nbytes // pixels.shape[0])
    message.data = message.data[:-100]
    with pytest.raises(EncodingError, match='truncated'):
        decode_image(message, convert_image)


def test_an_unknown_encoding_is_named_with_the_ones_we_take():
    message = image_message(TYPES, coloured_image(), 'rgb8')
    message.encoding = 'jpeg2000'
    with pytest.raises(EncodingError, match=r"'jpeg2000'.*rgb8.*bayer_rggb8"):
        decode_image(message, convert_image)


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1'])
def test_a_depth_image_is_refused_as_colour(encoding):
    message = image_message(TYPES, np.ones((4, 4), np.float32), encoding)
    assert is_depth(message)
    with pytest.raises(EncodingError, match='depth, not colour'):
        decode_image(message, convert_image)


@pytest.mark.parametrize('size', [(0, 64), (48, 0)])
def test_an_empty_image_is_refused(size):
    message = image_message(TYPES, coloured_image(), 'rgb8')
    message.height, message.width = size
    with pytest.raises(EncodingError, match='empty'):
        decode_image(message)


def test_a_failing_converter_becomes_our_error():
    def fail(message):
        raise RuntimeError('no such colour')

    message = image_message(TYPES, encode(coloured_image(), 'bayer_rggb8'), 'bayer_rggb8')
    with pytest.raises(EncodingError, match='no such colour'):
        decode_image(message, fail)


@pytest.mark.parametrize('form', ['.jpg', '.png'])
def test_compressed_images_come_back_as_rgb(form, messages: MessageTypes):
    rgb = coloured_image()
    data = cv2.imencode(form, rgb[..., ::-1])[1].tobytes()
    message = compressed_message(messages, data, form[1:])
    image = decode_compressed(message)
    assert np.abs(image.astype(int) - rgb).max() <= (0 if form == '.png' else 12)  # JPEG at OpenCV's quality 95
    theirs = message_to_cvimage(message, 'rgb8')
    assert np.abs(image.astype(int) - theirs).max() <= 0


def test_grey_jpeg_is_replicated_to_three_channels():
    data = cv2.imencode('.png', coloured_image()[..., 0])[1].tobytes()
    np.testing.assert_array_equal(
        decode_compressed(compressed_message(TYPES, data)), np.repeat(coloured_image()[..., :1], 3, axis=-1)
    )


@pytest.mark.parametrize('data', [b'', b'no image at all'])
def test_broken_compressed_data_is_refused(data):
    with pytest.raises(EncodingError, match='JPEG or PNG'):
        decode_compressed(compressed_message(TYPES, data))


def test_compressed_depth_is_refused_as_colour():
    with pytest.raises(EncodingError, match='depth'):
        decode_compressed(compressed_message(TYPES, b'....', '16UC1; compressedDepth png'))


def test_frame_carries_stamp_frame_id_and_calibration(messages: MessageTypes):
    message = image_message(messages, coloured_image(), 'rgb8', frame_id='front_optical')
    info = info_message(messages, K, (480, 640))
    frame = decode_frame(message, info)
    assert frame.stamp_ns == START_NS  # to the nanosecond: a float64 of seconds would be 150 ns off here
    assert frame.frame_id == 'front_optical'
    # 640 -> 64: pixel centres at integers, so c' = (c + 0.5) / 10 - 0.5
    np.testing.assert_allclose(frame.K, [[50, 0, 31.5], [0, 51, 23.5], [0, 0, 1]])


def test_names_of_the_optical_frame():
    message = image_message(TYPES, coloured_image(), 'rgb8', frame_id='/camera')
    assert decode_frame(message).frame_id == 'camera'  # ROS 1 wrote a slash
    assert decode_frame(message, frame_id='mine').frame_id == 'mine'
    message.header.frame_id = ''
    assert decode_frame(message).frame_id == 'camera_optical_frame'


def test_an_image_without_stamp_is_refused():
    with pytest.raises(EncodingError, match='stamp 0'):
        decode_frame(image_message(TYPES, coloured_image(), 'rgb8', stamp_ns=0))


def test_uncalibrated_camera_info_is_none(messages: MessageTypes):
    assert camera_matrix(info_message(messages, np.zeros((3, 3)), (480, 640)), (480, 640)) is None


def test_region_of_interest_and_binning_move_the_calibration():
    """A point of the full sensor must project where the smaller image shows it."""
    binned = info_message(TYPES, K, (480, 640), binning=(2, 2))
    cropped = info_message(TYPES, K, (480, 640), roi=(100, 60, 240, 320))
    both = info_message(TYPES, K, (480, 640), binning=(4, 2), roi=(100, 60, 240, 320))
    point = np.array([0.2, -0.1, 1.0])
    u, v, _ = K @ point
    for info, size, truth in (
        (binned, (240, 320), ((u + 0.5) / 2 - 0.5, (v + 0.5) / 2 - 0.5)),
        (cropped, (240, 320), (u - 100, v - 60)),
        (both, (120, 80), ((u - 100 + 0.5) / 4 - 0.5, (v - 60 + 0.5) / 2 - 0.5)),
    ):
        np.testing.assert_allclose((camera_matrix(info, size) @ point)[:2], truth, atol=1e-9)


def test_rectified_images_take_the_projection_matrix():
    P = K * 0.9
    P[2, 2] = 1
    info = info_message(TYPES, K, (480, 640), P=P, d=(0.1, 0, 0, 0, 0))
    np.testing.assert_allclose(camera_matrix(info, (480, 640), rectified=True), P)
    np.testing.assert_allclose(camera_matrix(info, (480, 640)), K)
    assert is_distorted(info)
    assert not is_distorted(info_message(TYPES, K, (480, 640)))


def test_calibration_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match='640x480 pixels, the image has 640x360'):
        camera_matrix(info_message(TYPES, K, (480, 640)), (360, 640))


def test_calibration_of_ros1_is_read():
    info = info_message(TYPES, K, (480, 640))
    old = SimpleNamespace(
        **{name: getattr(info, name) for name in ('height', 'width', 'roi', 'binning_x', 'binning_y')},
        K=info.k, P=info.p, D=info.d,
    )  # fmt: skip
    np.testing.assert_allclose(camera_matrix(old, (480, 640)), K)
    assert not is_distorted(old)


def test_the_info_of_the_same_stamp_wins_over_the_last_one():
    cache = CameraInfoCache(size=4)
    assert cache.find(START_NS) is None
    infos = [info_message(TYPES, K * (i + 1), (480, 640), stamp_ns=START_NS + i) for i in range(8)]
    for info in infos:
        cache.add(info)
    assert cache.find(START_NS + 5) is infos[5]
    assert cache.find(START_NS + 99) is infos[7]
    assert cache.find(START_NS) is infos[7]  # forgotten: memory is bounded
    cache.clear()
    assert cache.find(START_NS) is None


@pytest.mark.parametrize('suffix', ['.png', '.bmp', '.ppm'])
def test_a_picture_that_claims_more_pixels_than_any_camera_has_is_refused(suffix: str):
    data = bytearray(cv2.imencode(suffix, coloured_image())[1].tobytes())
    sizes = {'.png': (16, b'\0\0\xff\xff' * 2), '.bmp': (18, b'\xff\xff\0\0' * 2), '.ppm': (3, b'65535 65535\n')}
    at, huge = sizes[suffix]
    data[at : at + len(huge)] = huge
    with pytest.raises(EncodingError, match='no whole'):
        decode_compressed(compressed_message(TYPES, bytes(data)))


def test_a_png_that_unpacks_to_gigabytes_is_refused_by_its_head(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('vggt_ros.decode.MAX_PIXELS', 64 * 48 - 1)
    with pytest.raises(EncodingError, match='no whole'):
        decode_compressed(compressed_message(TYPES, cv2.imencode('.png', coloured_image())[1].tobytes()))


@pytest.mark.parametrize('place', [3, 6, 7, 8])
def test_a_matrix_of_no_pinhole_counts_as_uncalibrated(place: int):
    wrong = K.copy()
    wrong.flat[place] = 0.5
    info = info_message(TYPES, wrong, (48, 64), d=(0.1, 0, 0, 0, 0))
    assert camera_matrix(info, (48, 64)) is None
    frame = decode_frame(image_message(TYPES, coloured_image(), 'rgb8'), info, rectifiers=Rectifiers())
    assert frame.K is None


def test_a_calibration_of_an_empty_image_is_refused():
    with pytest.raises(ShapeError, match='empty'):
        camera_matrix(info_message(TYPES, K, (480, 640)), (0, 640))


def test_a_png_of_which_a_chunk_claims_gigabytes_is_refused_before_they_are_taken(monkeypatch: pytest.MonkeyPatch):
    data = bytearray(cv2.imencode('.png', coloured_image())[1].tobytes())
    data[33:37] = (2**31 - 1).to_bytes(4, 'big')  # the length of the first chunk after the head
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('OpenCV was asked'))
    with pytest.raises(EncodingError, match='no whole'):
        decode_compressed(compressed_message(TYPES, bytes(data)))


def test_a_png_is_whole_up_to_the_last_byte_of_its_end_and_what_follows_is_nobodys():
    whole = cv2.imencode('.png', coloured_image())[1].tobytes()
    for tail in (b'', b'x', bytes(100)):
        np.testing.assert_array_equal(
            decode_compressed(compressed_message(TYPES, whole + tail)), coloured_image()[..., ::-1]
        )
    for cut in (1, 4, 8, 12, 13, len(whole) // 2):
        with pytest.raises(EncodingError, match='no whole'):
            decode_compressed(compressed_message(TYPES, whole[:-cut]))


@pytest.mark.parametrize(
    'd, model, expected',
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5), '', 'plumb_bob'),
        ((0.1, 0.2, 0.3, 0.4), '', 'plumb_bob'),
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), '', 'rational_polynomial'),
        ((0.1, 0.2, 0.3, 0.4), 'equidistant', 'equidistant'),
    ],
)
@pytest.mark.parametrize('has_pinhole', [True, False])
def test_a_lens_is_what_its_calibration_says(d, model, expected, has_pinhole):
    """For an image of half the size; without a P the pinhole has K."""
    P = np.array([[400.0, 0, 300.5], [0, 410.0, 250.5], [0, 0, 1]]) if has_pinhole else np.zeros((3, 3))
    info = info_message(TYPES, K, (480, 640), P=P, d=d)
    lens = lens_of(dataclasses.replace(info, distortion_model=model), (240, 320))
    assert (lens.size, lens.model) == ((240, 320), expected)
    np.testing.assert_array_equal(lens.distortion, d)
    half = np.diag([0.5, 0.5, 1.0])
    half[:2, 2] = 0.5 * 0.5 - 0.5
    np.testing.assert_allclose(lens.K, half @ K)
    np.testing.assert_allclose(lens.K_pinhole, half @ (P if has_pinhole else K))
    np.testing.assert_array_equal(lens.R, np.eye(3))


def test_an_image_that_needs_no_rectifying_has_no_lens():
    assert lens_of(info_message(TYPES, K, (480, 640), P=K), (480, 640)) is None
    assert lens_of(info_message(TYPES, np.zeros((3, 3)), (480, 640), d=(0.1, 0, 0, 0, 0)), (480, 640)) is None


@pytest.mark.parametrize('place, value', [(0, 0.0), (0, -500.0), (4, 0.0), (4, -510.0), (1, 3.0)])
def test_a_matrix_with_a_focal_length_of_nothing_or_of_skew_is_told(place: int, value: float):
    k = K.ravel().copy()
    k[place] = value
    found = camera_matrix(info_message(TYPES, k.reshape(3, 3), (480, 640)), (480, 640))
    assert (found is None) == (place != 1)  # skew is a pinhole's


def test_a_calibration_without_a_size_is_that_of_the_binned_sensor():
    expected = [[250.0, 0, 159.5], [0, 127.5, 59.5], [0, 0, 1]]
    np.testing.assert_allclose(camera_matrix(info_message(TYPES, K, (0, 0), binning=(2, 4)), (120, 320)), expected)
    np.testing.assert_allclose(camera_matrix(info_message(TYPES, K, (0, 0)), (480, 640)), K)


@pytest.mark.parametrize(
    'R, expected',
    [
        (np.zeros((3, 3)), np.eye(3)),
        (1.1 * np.eye(3), np.eye(3)),
        ([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], [[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
    ],
)
def test_a_rectifying_turn_that_is_none_is_left_out(R, expected):
    info = info_message(TYPES, K, (480, 640), d=(0.1, 0, 0, 0, 0))
    lens = lens_of(dataclasses.replace(info, r=np.asarray(R).reshape(9)), (480, 640))
    assert lens is not None
    np.testing.assert_array_equal(lens.R, expected)


def test_a_converter_is_given_a_whole_message_with_packed_rows():
    message = image_message(TYPES, np.zeros((4, 16), np.uint8), 'yuyv', size=(4, 6), step=16)
    given = []

    def convert(packed):
        given.append(packed)
        return np.zeros((4, 6, 3), np.uint8)

    decode_image(message, convert)
    (packed,) = given
    assert (packed.header, packed.height, packed.width, packed.encoding) == (message.header, 4, 6, 'yuyv')
    assert (packed.step, packed.is_bigendian, len(packed.data)) == (12, message.is_bigendian, 48)
