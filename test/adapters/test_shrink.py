"""What the relay sends is what the network would have made of the image itself."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vggt.preprocessing import resize_keeping_aspect
from vggt_ros.core.errors import EncodingError, ShapeError
from vggt_ros.core.frame import Frame
from vggt_ros.core.predictor import seen_on_grid
from vggt_ros.shrink import Shrink, encode

K = np.array([[600.0, 0, 330.0], [0, 610.0, 230.0], [0, 0, 1]])


def picture(height: int = 480, width: int = 640) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize('size', [(480, 640), (1080, 1920), (481, 643)])
@pytest.mark.parametrize('width, patch', [(518, 14), (128, 8)])
def test_the_network_sees_the_same_pixels_and_the_same_camera(size: tuple[int, int], width: int, patch: int):
    image = picture(*size)
    small = Shrink(width, patch)(Frame(7, image, 'camera', K))
    direct, relayed = resize_keeping_aspect(image, width, patch), resize_keeping_aspect(small.image, width, patch)
    np.testing.assert_array_equal(small.image, (direct.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    assert relayed.transform.scale == 1  # nothing is left to do at the other end
    np.testing.assert_array_equal(relayed.image, direct.image)
    np.testing.assert_allclose(relayed.transform.K_to_model(small.K), direct.transform.K_to_model(K), atol=1e-9)
    assert (small.stamp_ns, small.frame_id) == (7, 'camera')


def test_masked_pixels_are_black_and_the_mask_goes_along():
    mask = np.ones((480, 640), bool)
    mask[300:, :200] = False
    image = picture()
    small = Shrink()(Frame(1, image, 'camera', K, mask))
    assert (small.image[~small.mask] == 0).all()
    transform = resize_keeping_aspect(image, 518, 14).transform
    direct = seen_on_grid(Frame(1, image, 'camera', K, mask), transform)
    assert (small.mask == direct).mean() > 0.999
    assert not (small.mask & ~direct).any()  # never does a masked pixel count


def test_small_images_are_left_as_they_are():
    frame = Frame(1, picture(96, 128), 'camera', K)
    for shrink in (Shrink(518, 14), Shrink(0)):
        same = shrink(frame)
        np.testing.assert_array_equal(same.image, frame.image)
        np.testing.assert_array_equal(same.K, K)
    with pytest.raises(ShapeError, match='less than 14 rows'):
        Shrink(518, 14)(Frame(1, picture(16, 2000), 'camera'))


def test_png_loses_nothing_and_jpeg_is_smaller():
    image = picture(392, 518)
    png, jpeg = encode(image, 'png', 80), encode(image, 'jpeg', 80)
    np.testing.assert_array_equal(cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), 1), cv2.COLOR_BGR2RGB), image)
    assert len(jpeg) < len(png) / 3
    with pytest.raises(EncodingError, match='jpeg, png'):
        encode(image, 'webp', 80)
