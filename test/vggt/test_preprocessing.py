"""Images scale without being squashed, K goes with them, and results come back to the source's pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vggt.errors import InputError
from vggt.preprocessing import ModelImage, resize_keeping_aspect, stack_window

K = np.array([[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])
SIZES = [(480, 640), (479, 641), (720, 1280), (240, 320), (600, 400), (97, 333)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    """Red grows with the column and green with the row, so that a colour tells its place."""
    v, u = np.mgrid[:height, :width]
    return np.stack((255 * u / (width - 1), 255 * v / (height - 1), 0 * u), axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize('fit', ['crop', 'pad'])
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('width, patch', [(518, 14), (168, 8)])
def test_both_sides_are_multiples_and_both_scales_alike(
    size: tuple[int, int], width: int, patch: int, fit: str
) -> None:
    scaled = resize_keeping_aspect(noise(*size), width, patch, fit)
    transform = scaled.transform
    height = scaled.image.shape[1]
    assert scaled.image.shape == (3, height, width)
    assert scaled.image.dtype == torch.float32
    assert height % patch == 0
    assert transform.scale == width / size[1]
    left_over = size[0] * transform.scale - height
    assert 0 <= left_over < patch if fit == 'crop' else -patch < left_over <= 0
    assert transform.offset == (0.0, pytest.approx(left_over / 2))


@pytest.mark.parametrize('fit', ['crop', 'pad'])
def test_picture_lands_where_the_transform_says(fit: str) -> None:
    source = ramp(480, 640)
    scaled = resize_keeping_aspect(source, 518, 14, fit)
    pixels = np.array([[20, 30], [250, 200], [500, 340]])  # (u, v) of the model's image
    where = scaled.transform.pixels_to_source(pixels)
    for (u, v), (x, y) in zip(pixels, where, strict=True):
        red, green = (scaled.image[:2, v, u] * 255).tolist()
        # One level of 255 is 2.5 columns or 1.9 rows; half a pixel wrong would be 0.2 levels, so average a patch.
        assert red == pytest.approx(255 * x / 639, abs=0.6)
        assert green == pytest.approx(255 * y / 479, abs=0.6)
    patch = scaled.image[0, 100:200, 200:300].mean().item() * 255
    centre = scaled.transform.pixels_to_source(np.array([249.5, 149.5]))[0]
    assert patch == pytest.approx(255 * centre / 639, abs=0.05)  # 0.05 levels are 0.13 px


def test_intrinsics_go_with_the_picture_and_back() -> None:
    transform = resize_keeping_aspect(noise(480, 640)).transform
    point = np.array([0.3, -0.2, 2.0])
    for there in (transform.K_to_model(K),):
        in_model = there @ point
        in_source = K @ point
        expected = transform.pixels_to_model(in_source[:2] / in_source[2])
        np.testing.assert_allclose(in_model[:2] / in_model[2], expected, atol=1e-9)
    np.testing.assert_allclose(transform.K_to_source(transform.K_to_model(K)), K, atol=1e-9)
    assert transform.K_to_model(K)[0, 0] / K[0, 0] == transform.K_to_model(K)[1, 1] / K[1, 1] == transform.scale


def test_pixels_go_there_and_back() -> None:
    transform = resize_keeping_aspect(noise(479, 641)).transform
    pixels = np.random.default_rng(0).uniform(0, 470, (50, 2))
    np.testing.assert_allclose(transform.pixels_to_source(transform.pixels_to_model(pixels)), pixels, atol=1e-9)
    # Outer edges meet: the left edge of the source is the left edge of the result.
    np.testing.assert_allclose(transform.pixels_to_model(np.array([-0.5, 0.0]))[0], -0.5)
    np.testing.assert_allclose(transform.pixels_to_model(np.array([640.5, 0.0]))[0], 517.5)


@pytest.mark.parametrize('fit', ['crop', 'pad'])
def test_maps_come_back_to_the_pixels_they_came_from(fit: str) -> None:
    """A map that is linear in the source's pixels, drawn in the model's image, is itself again in the source."""
    transform = resize_keeping_aspect(noise(480, 640), 518, 14, fit).transform
    v, u = np.mgrid[: transform.model_size[0], : transform.model_size[1]]
    in_source = transform.pixels_to_source(np.stack((u, v), axis=-1))
    back = transform.depth_to_source(in_source, 'linear')
    rows, columns = np.mgrid[:480, :640]
    seen = np.isfinite(back[..., 0])
    inner = np.zeros_like(seen)
    inner[10:-10, 1:-1] = True  # the outermost half pixel repeats the edge
    np.testing.assert_allclose(back[seen & inner], np.stack((columns, rows), -1)[seen & inner], atol=1e-9)
    nearest = transform.depth_to_source(in_source[..., 0])
    half_a_model_pixel = 0.5 / transform.scale
    assert np.nanmax(np.abs(nearest - columns)) <= half_a_model_pixel + 1e-9


def test_what_the_model_did_not_see_is_nan() -> None:
    transform = resize_keeping_aspect(noise(480, 640)).transform  # cuts 5.25 of 388.5 rows at each end
    depth = transform.depth_to_source(np.ones(transform.model_size, dtype=np.float32))
    cut = 5.25 / transform.scale  # 6.49 source rows
    assert depth.dtype == np.float32
    assert np.isnan(depth[: int(cut)]).all()
    assert np.isnan(depth[-int(cut) :]).all()
    assert (depth[int(cut) + 1 : -int(cut) - 1] == 1).all()
    padded = resize_keeping_aspect(noise(480, 640), fit='pad').transform
    assert (padded.depth_to_source(np.ones(padded.model_size)) == 1).all()


def test_points_come_back_like_depth() -> None:
    transform = resize_keeping_aspect(noise(100, 150), 56, 14).transform
    points = np.random.default_rng(1).normal(size=(*transform.model_size, 3))
    back = transform.points_to_source(points)
    assert back.shape == (100, 150, 3)
    np.testing.assert_array_equal(back[..., 2], transform.depth_to_source(points[..., 2]))


def test_padding_repeats_the_edge() -> None:
    source = np.full((100, 100, 3), 200, dtype=np.uint8)
    scaled = resize_keeping_aspect(source, 42, 14, 'pad')
    assert (scaled.image * 255).round().unique().tolist() == [200]


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason='no GPU'))])  # fmt: skip
@pytest.mark.parametrize('fit', ['crop', 'pad'])
@pytest.mark.parametrize('size', [*SIZES, (392, 518), (50, 60), (1080, 1920)])
def test_a_tensor_is_resized_to_the_bits_that_pillow_makes(size: tuple[int, int], fit: str, device: str) -> None:
    hard = (noise(*size) > 127).astype(np.uint8) * 255  # black and white: the kernel overshoots both
    for image in (noise(*size), hard):
        expected = resize_keeping_aspect(image, 518, 14, fit)
        found = resize_keeping_aspect(torch.from_numpy(image).to(device), 518, 14, fit)
        assert found.transform == expected.transform
        assert found.pixels.device.type == device
        np.testing.assert_array_equal(found.pixels.cpu().numpy(), expected.pixels.numpy())


@pytest.mark.parametrize(
    'image, message',
    [
        (np.zeros((10, 10), np.uint8), r'\[H, W, 3\]'),
        (np.zeros((10, 10, 4), np.uint8), r'\[H, W, 3\]'),
        (np.zeros((3, 10, 10), np.uint8), r'\[H, W, 3\]'),
        (np.zeros((0, 10, 3), np.uint8), 'at least one pixel'),
        (np.zeros((10, 10, 3), np.float32), 'uint8.*float32'),
        (torch.zeros(10, 10, 3), 'uint8.*float32'),
        (torch.zeros(3, 10, 10, dtype=torch.uint8), r'\[H, W, 3\]'),
        ([[0, 0, 0]], 'list'),
        (np.zeros((5, 1000, 3), np.uint8), "fit='pad'"),
    ],
)
def test_bad_images_are_refused_in_words(image: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resize_keeping_aspect(image)


def test_bad_settings_maps_and_windows_are_refused_in_words() -> None:
    image = noise(100, 100)
    with pytest.raises(InputError, match='multiple of the patch size 14'):
        resize_keeping_aspect(image, width=500)
    with pytest.raises(InputError, match='crop'):
        resize_keeping_aspect(image, fit='squash')
    with pytest.raises(InputError, match=r'\[518, 518'):
        resize_keeping_aspect(image).transform.depth_to_source(np.zeros((5, 5)))
    with pytest.raises(InputError, match='at least one image'):
        stack_window([])
    with pytest.raises(InputError, match='one size'):
        stack_window([resize_keeping_aspect(image), resize_keeping_aspect(noise(100, 150))])
    window: list[ModelImage] = [resize_keeping_aspect(image, 56)] * 2
    assert stack_window(window).shape == (2, 3, 56, 56)
