"""Distorted pictures of known dots -> a pinhole's picture: straight lines, and dots where the published K has them.

The lenses are written out from their definition and inverted numerically, without OpenCV's.
"""

from __future__ import annotations

import numpy as np
import pytest
from recordings import START_NS, image_message, info_message

from vggt_ros.core.errors import EncodingError
from vggt_ros.core.frame import Frame
from vggt_ros.decode import decode_frame
from vggt_ros.messages import MessageTypes, bag_messages
from vggt_ros.rectify import Lens, Rectifiers

TYPES = bag_messages()
SIZE = (240, 320)
K = np.array([[180.0, 0, 158.0], [0, 182.0, 121.0], [0, 0, 1]])
DOTS = np.stack(np.meshgrid(np.linspace(-0.7, 0.7, 9), np.linspace(-0.5, 0.5, 7)), axis=-1)  # x, y at distance 1
DOT_RADIUS = 0.012  # two pixels
LENSES = {
    'barrel': ('plumb_bob', [-0.25, 0.06, 0.001, -0.0008, -0.005]),
    'pincushion': ('plumb_bob', [0.12, 0.02, -0.0005, 0.001, 0.0]),
    'four terms': ('plumb_bob', [-0.2, 0.05, 0.0, 0.001]),
    'rational': ('rational_polynomial', [0.35, 0.02, 0.0005, -0.0004, 0.001, 0.55, 0.08, 0.004]),
    'fisheye': ('equidistant', [0.03, -0.01, 0.004, -0.001]),
}


def distort(points: np.ndarray, model: str, d: list[float]) -> np.ndarray:
    """[..., 2] places at distance 1 -> [..., 2] where the lens shows them, in focal lengths.

    Source: D. C. Brown, Close-range camera calibration, 1971, with the terms named as in CameraInfo.msg; Kannala and
    Brandt, A generic camera model, PAMI 2006, eq. 6, divided by the focal length.
    """
    x, y = points[..., 0], points[..., 1]
    if model == 'equidistant':
        r = np.hypot(x, y)
        angle = np.arctan(r)
        bent = angle + sum(k * angle ** (3 + 2 * i) for i, k in enumerate(d))
        return points * np.where(r > 0, bent / np.maximum(r, 1e-12), 1.0)[..., None]
    k1, k2, p1, p2, k3, k4, k5, k6 = [*d, *[0.0] * (8 - len(d))]
    r2 = x * x + y * y
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    tangential = (2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y)
    return points * radial[..., None] + np.stack(tangential, axis=-1)


def undistort(shown: np.ndarray, model: str, d: list[float]) -> np.ndarray:
    """The inverse of distort: Newton's method, with slopes from differences."""
    points, step = shown.copy(), 1e-6
    for _ in range(8):
        error = distort(points, model, d) - shown
        slopes = [(distort(points + step * axis, model, d) - shown - error) / step for axis in np.eye(2)]
        points -= np.linalg.solve(np.stack(slopes, axis=-1), error[..., None])[..., 0]
    assert np.abs(distort(points, model, d) - shown).max() < 1e-9
    return points


def picture(model: str, d: list[float]) -> np.ndarray:
    """[H, W, 3] what the lens sees of bright round dots on a dark wall."""
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    shown = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]], axis=-1)
    places = undistort(shown, model, d)
    grey = np.zeros(SIZE)
    for dot in DOTS.reshape(-1, 2):
        grey += np.exp(-((places - dot) ** 2).sum(axis=-1) / (2 * DOT_RADIUS**2))
    return np.repeat((30 + 220 * grey.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=-1)


def frame_of(model: str, d: list[float], types: MessageTypes = TYPES, P: np.ndarray | None = None, **info) -> Frame:
    message = image_message(types, picture(model, d), 'rgb8')
    calibration = info_message(types, K, SIZE, d=d, P=P, **info)
    calibration.distortion_model = model
    return decode_frame(message, calibration, rectifiers=Rectifiers())


def find_dots(frame: Frame) -> np.ndarray:
    """[rows, columns, 2] u, v of the dots: centroids round where K has them; NaN where they are out of sight."""
    grey, found = frame.image[..., 0].astype(float) - 30, np.full(DOTS.shape, np.nan)
    for index in np.ndindex(DOTS.shape[:2]):
        u, v = frame.K[:2, :2] @ DOTS[index] + frame.K[:2, 2]
        left, top = round(u) - 6, round(v) - 6
        if left < 0 or top < 0 or left + 13 > SIZE[1] or top + 13 > SIZE[0]:
            continue
        patch = grey[top : top + 13, left : left + 13].clip(0)
        if frame.mask is not None and not frame.mask[top : top + 13, left : left + 13].all():
            continue
        rows, columns = np.mgrid[top : top + 13, left : left + 13]
        found[index] = (patch * columns).sum() / patch.sum(), (patch * rows).sum() / patch.sum()
    return found


@pytest.mark.parametrize('name', LENSES)
def test_dots_lie_where_the_published_k_has_them_and_their_rows_are_straight(name: str, messages: MessageTypes):
    frame = frame_of(*LENSES[name], messages)
    found = find_dots(frame)
    truth = DOTS @ frame.K[:2, :2].T + frame.K[:2, 2]
    seen = np.isfinite(found).all(axis=-1)
    assert seen.sum() >= 35  # of 63; with a barrel's K all, with a pincushion's the middle
    # A tenth of a pixel: levels of 8 bits in two interpolations. The lens itself moves the outer dots by 5 and more.
    assert np.abs(found[seen] - truth[seen]).max() < 0.1
    for row, known in zip(found, seen, strict=True):
        if known.sum() >= 3:
            line = np.polyfit(row[known, 0], row[known, 1], 1)
            assert np.abs(np.polyval(line, row[known, 0]) - row[known, 1]).max() < 0.1


@pytest.mark.parametrize('name', LENSES)
def test_the_lenses_bend_what_they_show(name: str):
    """Else the test above would hold for a picture left as it is."""
    shown = distort(DOTS, *LENSES[name]) @ K[:2, :2].T + K[:2, 2]
    pinhole = DOTS @ K[:2, :2].T + K[:2, 2]
    assert np.linalg.norm(shown - pinhole, axis=-1).max() > 5


def test_the_pinhole_is_that_of_p_and_its_empty_border_is_masked():
    P = np.array([[120.0, 0, 160.0], [0, 120.0, 120.0], [0, 0, 1]])  # wider than the lens sees
    frame = frame_of(*LENSES['barrel'], P=P)
    np.testing.assert_array_equal(frame.K, P)
    assert frame.mask is not None
    assert frame.mask[SIZE[0] // 2, SIZE[1] // 2]
    assert not frame.image[~frame.mask].any()
    # Masked is exactly what the lens does not show.
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    rays = np.stack([(u - P[0, 2]) / P[0, 0], (v - P[1, 2]) / P[1, 1]], axis=-1)
    shown = distort(rays, *LENSES['barrel']) @ K[:2, :2].T + K[:2, 2]
    inside = ((shown >= 0) & (shown <= [SIZE[1] - 1, SIZE[0] - 1])).all(axis=-1)
    assert (frame.mask == inside).mean() > 0.999  # float32 of the maps, at the very edge
    dots = find_dots(frame)
    seen = np.isfinite(dots).all(axis=-1)
    assert seen.all()
    assert np.abs(dots - (DOTS @ P[:2, :2].T + P[:2, 2])).max() < 0.1


def test_a_lens_that_folds_back_shows_nothing_twice():
    """Beyond 1 / sqrt(3 * 0.45) = 0.86 this polynomial turns back, and would show the middle again."""
    wide = np.array([[90.0, 0, 160], [0, 90, 120], [0, 0, 1]])
    lens = Lens(SIZE, K, np.array([-0.45, 0, 0, 0, 0]), 'plumb_bob', np.eye(3), wide)
    mask = Rectifiers().find(lens).mask
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    radius = np.hypot((u - 160) / 90, (v - 120) / 90)
    assert not mask[radius > 0.87].any()
    assert mask[radius < 0.5].all()


def test_a_region_of_interest_and_binning_rectify_as_the_whole():
    """The dots of a cut and halved picture lie where the cut and halved picture of the rectified whole has them."""
    model, d = LENSES['barrel']
    whole = picture(model, d)
    x, y, height, width = 40, 30, 180, 240
    cut = whole[y : y + height, x : x + width].reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
    info = info_message(TYPES, K, SIZE, d=d, roi=(x, y, height, width), binning=(2, 2))
    frame = decode_frame(image_message(TYPES, cut.astype(np.uint8), 'rgb8'), info, rectifiers=Rectifiers())
    np.testing.assert_allclose(frame.K[:2, 2], [(K[0, 2] - x + 0.5) / 2 - 0.5, (K[1, 2] - y + 0.5) / 2 - 0.5])
    u, v = frame.K[:2, :2] @ DOTS[4, 2] + frame.K[:2, 2]
    patch = frame.image[round(v) - 3 : round(v) + 4, round(u) - 3 : round(u) + 4, 0].astype(float) - 30
    rows, columns = np.mgrid[round(v) - 3 : round(v) + 4, round(u) - 3 : round(u) + 4]
    patch = patch.clip(0)
    found = [(patch * columns).sum() / patch.sum(), (patch * rows).sum() / patch.sum()]
    np.testing.assert_allclose(found, [u, v], atol=0.1)


def test_a_pinhole_or_an_uncalibrated_camera_is_left_alone():
    message = image_message(TYPES, picture('plumb_bob', [0.0] * 5), 'rgb8')
    for info in (info_message(TYPES, K, SIZE), info_message(TYPES, np.zeros((3, 3)), SIZE, d=[0.1, 0, 0, 0, 0]), None):
        frame = decode_frame(message, info, rectifiers=Rectifiers())
        assert np.shares_memory(frame.image, message.data)
        assert frame.mask is None


def test_a_rectified_image_is_not_rectified_again():
    message = image_message(TYPES, picture('plumb_bob', [0.0] * 5), 'rgb8')
    info = info_message(TYPES, K, SIZE, d=[-0.3, 0.1, 0, 0, 0])
    frame = decode_frame(message, info, rectified=True, rectifiers=Rectifiers())
    assert np.shares_memory(frame.image, message.data)


def test_a_calibration_that_changes_is_followed_and_one_that_stays_costs_nothing():
    rectifiers = Rectifiers()
    lenses = [Lens(SIZE, K, np.array([k, 0, 0, 0, 0]), 'plumb_bob', np.eye(3), K) for k in (-0.2, -0.2, -0.1)]
    first, same, other = (rectifiers.find(lens) for lens in lenses)
    assert first is same
    assert other is not first


@pytest.mark.parametrize(
    'model, d, said', [('double_sphere', [0.1], 'plumb_bob'), ('equidistant', [0.1] * 5, '4 coefficients')]
)
def test_a_lens_that_is_not_known_is_named(model: str, d: list[float], said: str):
    info = info_message(TYPES, K, SIZE, d=d)
    info.distortion_model = model
    message = image_message(TYPES, np.zeros((*SIZE, 3), np.uint8), 'rgb8', stamp_ns=START_NS)
    with pytest.raises(EncodingError, match=said) as caught:
        decode_frame(message, info, rectifiers=Rectifiers())
    assert model in str(caught.value)
