"""Lens distortion out of an image before the network sees it: plumb_bob, rational_polynomial and equidistant lenses."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vggt_ros.core.errors import EncodingError

# Names that CameraInfo.distortion_model may have. Source: sensor_msgs/include/sensor_msgs/distortion_models.hpp.
MODELS = ('plumb_bob', 'rational_polynomial', 'equidistant')
COEFFICIENTS = {'equidistant': (4,), 'plumb_bob': (4, 5), 'rational_polynomial': (8, 12, 14)}
RADII = 2000  # steps out to the corner at which a lens is looked at for where it folds


@dataclass(frozen=True, eq=False)
class Lens:
    """A calibrated lens, and the pinhole that shall take its place.

    Args:
        size: (height, width) of the image in pixels.
        K: [3, 3] of the image as it comes, pixel centres at integers.
        distortion: coefficients in OpenCV's order; all 0 is a pinhole.
        model: one of MODELS.
        R: [3, 3] turn of the pinhole against the camera: CameraInfo.r, not the identity for a stereo pair.
        K_pinhole: [3, 3] of the image to make.

    Raises:
        EncodingError: another model, or a number of coefficients that it does not have.
    """

    size: tuple[int, int]
    K: np.ndarray
    distortion: np.ndarray
    model: str
    R: np.ndarray
    K_pinhole: np.ndarray

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise EncodingError(
                f'distortion_model {self.model!r} is not known; publish one of {", ".join(MODELS)}, or give a '
                'rectified image and set rectify:=never'
            )
        if len(self.distortion) not in COEFFICIENTS[self.model]:
            counts = ' or '.join(map(str, COEFFICIENTS[self.model]))
            raise EncodingError(f'{self.model} has {counts} coefficients, CameraInfo.d has {len(self.distortion)}')

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for lenses that rectify alike."""
        arrays = (self.K, self.distortion, self.R, self.K_pinhole)
        return (self.size, self.model, *(array.tobytes() for array in arrays))


class Rectifier:
    """Makes the pinhole's image of what a lens sees.

    A pixel of the result looks along a ray; the lens maps that ray to a place in the image, which is read there.
    What lies outside the image, or further out than where the lens begins to fold back, is black and masked.

    Args:
        lens: the calibration; what is computed from it once is kept.

    Source: OpenCV documentation, calib3d: "Detailed Description" and the fisheye namespace, for the lens models.
    """

    def __init__(self, lens: Lens) -> None:
        self.lens = lens
        size = lens.size[::-1]
        undistort = cv2.fisheye.initUndistortRectifyMap if lens.model == 'equidistant' else cv2.initUndistortRectifyMap
        u, v = undistort(lens.K, lens.distortion, lens.R, lens.K_pinhole, size, cv2.CV_32FC1)
        seen = (u >= 0) & (v >= 0) & (u <= size[0] - 1) & (v <= size[1] - 1) & _before_fold(lens)
        u[~seen] = v[~seen] = -10.0  # outside: what is read there is black, never the edge of the picture
        self._maps = cv2.convertMaps(u, v, cv2.CV_16SC2)
        self.mask = None if seen.all() else seen
        self.K = lens.K_pinhole

    def rectify(self, image: np.ndarray) -> np.ndarray:
        """[H, W, 3] uint8 as the lens sees it -> the same size as the pinhole sees it."""
        return cv2.remap(image, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    def cover(self, seen: np.ndarray | None) -> np.ndarray | None:
        """[H, W] bool, where the image counts -> where the rectified one does; None: everywhere."""
        if seen is None:
            return self.mask
        moved = cv2.remap(seen.astype(np.uint8) * 255, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        return moved == 255  # nothing of what does not count is mixed in


class Rectifiers:
    """The rectifier of a calibration, made when it first comes, or changes."""

    def __init__(self) -> None:
        self._last: Rectifier | None = None

    def find(self, lens: Lens) -> Rectifier:
        if self._last is None or self._last.lens.key != lens.key:
            self._last = Rectifier(lens)
        return self._last


def _before_fold(lens: Lens) -> np.ndarray:
    """[H, W] bool: rays of the pinhole that the lens maps one to one.

    A polynomial fitted to the middle of a lens turns back further out, and would show the middle there once more.
    """
    height, width = lens.size
    v, u = np.mgrid[:height, :width]
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(lens.K_pinhole).T @ lens.R  # R^T for columns
    with np.errstate(divide='ignore', invalid='ignore'):
        radius = np.hypot(rays[..., 0], rays[..., 1]) / rays[..., 2]
    radius = np.where(rays[..., 2] > 0, radius, np.inf)
    finite = radius[np.isfinite(radius)]
    samples = np.linspace(0.0, float(finite.max(initial=1.0)), RADII)
    falls = np.flatnonzero(np.diff(_image_radius(lens, samples)) <= 0)
    return radius < (samples[falls[0]] if len(falls) else np.inf)


def _image_radius(lens: Lens, radius: np.ndarray) -> np.ndarray:
    """Where a lens maps rays at these tangents of their angles, in focal lengths; tangential terms left out."""
    d = np.zeros(14)
    d[: len(lens.distortion)] = lens.distortion
    if lens.model == 'equidistant':
        theta = np.arctan(radius)
        square = theta**2
        return theta * (1 + square * (d[0] + square * (d[1] + square * (d[2] + square * d[3]))))
    square = radius**2
    above = 1 + square * (d[0] + square * (d[1] + square * d[4]))
    below = 1 + square * (d[5] + square * (d[6] + square * d[7]))
    return radius * above / below
