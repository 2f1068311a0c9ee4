"""Camera images of any size to the model's input, and the way back to the camera's pixels.

Both axes are scaled alike, so nothing is squashed and one K describes the result. Pixel centres are at integers: a
pixel u of the source lies at u' = (u + 0.5) * scale - 0.5 - offset in the model's image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vggt.errors import InputError
from vggt.resampling import resample

DEFAULT_WIDTH = 518  # the width VGGT-1B was trained at
DEFAULT_PATCH_SIZE = 14


@dataclass(frozen=True)
class ImageTransform:
    """Where the model's pixels lie in the source image.

    Attributes:
        source_size, model_size: (H, W) in pixels.
        scale: model pixels per source pixel, the same for both axes.
        offset: (x, y) model pixels cut off at the left and top; negative where the image was padded.
    """

    source_size: tuple[int, int]
    model_size: tuple[int, int]
    scale: float
    offset: tuple[float, float]

    def K_to_model(self, K: np.ndarray) -> np.ndarray:  # noqa: N802
        """[3, 3] intrinsics in source pixels to the same camera in model pixels."""
        return self._matrix() @ np.asarray(K, dtype=np.float64)

    def K_to_source(self, K: np.ndarray) -> np.ndarray:  # noqa: N802
        """[3, 3] intrinsics in model pixels to the same camera in source pixels."""
        return np.linalg.inv(self._matrix()) @ np.asarray(K, dtype=np.float64)

    def pixels_to_model(self, pixels: np.ndarray) -> np.ndarray:
        """[..., 2] source pixels (u, v) to model pixels."""
        return (np.asarray(pixels, dtype=np.float64) + 0.5) * self.scale - 0.5 - np.array(self.offset)

    def pixels_to_source(self, pixels: np.ndarray) -> np.ndarray:
        """[..., 2] model pixels (u, v) to source pixels."""
        return (np.asarray(pixels, dtype=np.float64) + 0.5 + np.array(self.offset)) / self.scale - 0.5

    def depth_to_source(self, depth: np.ndarray, interpolation: Literal['nearest', 'linear'] = 'nearest') -> np.ndarray:
        """Read a depth image, or any map, at the source's pixels.

        Args:
            depth: [H, W] or [H, W, C] float of model_size.
            interpolation: 'nearest' keeps edges sharp; 'linear' is smoother and draws threads across edges.

        Returns:
            [H, W] or [H, W, C] of source_size; NaN where the model did not see the source.

        Raises:
            InputError: the map is not of model_size.
        """
        if tuple(depth.shape[:2]) != self.model_size:
            raise InputError(f'map must be [{self.model_size[0]}, {self.model_size[1]}, ...], got {list(depth.shape)}')
        rows = (np.arange(self.source_size[0]) + 0.5) * self.scale - 0.5 - self.offset[1]
        columns = (np.arange(self.source_size[1]) + 0.5) * self.scale - 0.5 - self.offset[0]
        # columns first: rows are then copied whole
        result = _sample_axis(_sample_axis(depth, columns, 1, interpolation), rows, 0, interpolation)
        result[~_is_inside(rows, depth.shape[0])] = np.nan
        result[:, ~_is_inside(columns, depth.shape[1])] = np.nan
        return result

    def points_to_source(self, points: np.ndarray) -> np.ndarray:
        """[H, W, 3] points of model_size to one point per source pixel, NaN where the model did not see it."""
        return self.depth_to_source(points)

    def _matrix(self) -> np.ndarray:
        s, (x, y) = self.scale, self.offset
        return np.array([[s, 0.0, 0.5 * s - 0.5 - x], [0.0, s, 0.5 * s - 0.5 - y], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class ModelImage:
    """One image on the model's grid, and where it came from.

    Attributes:
        pixels: [h, w, 3] uint8, RGB.
        transform: from the source.
    """

    pixels: Tensor
    transform: ImageTransform

    @property
    def image(self) -> Tensor:
        """[3, h, w] float32 in [0, 1], as the model takes it."""
        return scale_pixels(self.pixels[None])[0]


def resize_keeping_aspect(
    image: np.ndarray | Tensor,
    width: int = DEFAULT_WIDTH,
    patch_size: int = DEFAULT_PATCH_SIZE,
    fit: Literal['crop', 'pad'] = 'crop',
) -> ModelImage:
    """Scale an image to a width, and cut or fill its height to a multiple of the patch size, evenly at both ends.

    Args:
        image: [H, W, 3] uint8, RGB. A tensor is resized on its device, where the result stays: to the same bits.
        width: of the result in pixels, a multiple of patch_size.
        patch_size: of the network.
        fit: 'crop' loses up to patch_size - 1 rows of the result; 'pad' repeats the edge rows instead.

    Raises:
        InputError: an image or a width of another form, or an image too wide to leave one row of patches.
    """
    _check_image(image)
    if width < patch_size or width % patch_size:
        raise InputError(f'width must be a positive multiple of the patch size {patch_size}, got {width}')
    if fit not in ('crop', 'pad'):
        raise InputError(f"fit must be 'crop' or 'pad', got {fit!r}")
    source_height, source_width = image.shape[:2]
    scale = width / source_width
    exact_patches = source_height * scale / patch_size
    # A height that is a multiple up to rounding is one: 1e-6 patches are far below a pixel.
    patches = int(exact_patches + 1e-6) if fit == 'crop' else -int(-(exact_patches - 1e-6) // 1)
    if patches == 0:
        raise InputError(
            f'an image of {source_height}x{source_width} has less than {patch_size} rows at width {width}; use '
            "fit='pad' or cut its sides"
        )
    height = patches * patch_size
    offset = (source_height * scale - height) / 2
    transform = ImageTransform((source_height, source_width), (height, width), scale, (0.0, offset))
    return ModelImage(_resample(image, transform), transform)


def stack_window(images: Sequence[ModelImage]) -> Tensor:
    """The images of one window as the network's input.

    Returns:
        [S, 3, H, W].

    Raises:
        InputError: no image, or images of different sizes.
    """
    return scale_pixels(stack_pixels(images))


def stack_pixels(images: Sequence[ModelImage]) -> Tensor:
    """The images of one window as they are, for whoever scales them elsewhere.

    Returns:
        [S, H, W, 3] uint8.

    Raises:
        InputError: no image, or images of different sizes.
    """
    if not images:
        raise InputError('a window needs at least one image, got none')
    sizes = {tuple(image.pixels.shape) for image in images}
    if len(sizes) > 1:
        raise InputError(f'all images of a window must have one size, got {sorted(sizes)}; scale them to one K first')
    return torch.stack([image.pixels for image in images])


def scale_pixels(pixels: Tensor) -> Tensor:
    """[S, H, W, 3] uint8 -> [S, 3, H, W] float32 in [0, 1], on the device that they are on."""
    return pixels.permute(0, 3, 1, 2).contiguous().float().div_(255)


def _resample(image: np.ndarray | Tensor, transform: ImageTransform) -> Tensor:
    """Bicubic with antialiasing, from the exact, fractional box of the source that the result covers."""
    height, width = transform.model_size
    top = transform.offset[1] / transform.scale
    bottom = top + height / transform.scale
    margin = max(0, int(np.ceil(-top)))
    # Rounding must not push the box over the edge by 1e-13 px, which Pillow refuses.
    end = min(float(image.shape[0] + 2 * margin), bottom + margin)
    box = (0.0, max(0.0, top + margin), float(image.shape[1]), end)
    if isinstance(image, Tensor):
        return resample(image, box, (height, width), margin)
    from PIL import Image  # here, so that the network runs where Pillow is not installed

    padded = np.pad(image, ((margin, margin), (0, 0), (0, 0)), mode='edge') if margin else image
    resized = Image.fromarray(padded).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(resized))


def _check_image(image: np.ndarray | Tensor) -> None:
    is_image = isinstance(image, (np.ndarray, Tensor))
    if not is_image or image.dtype != (torch.uint8 if isinstance(image, Tensor) else np.uint8):
        came = image.dtype if is_image else type(image).__name__
        raise InputError(f'image must be a uint8 array [H, W, 3] in RGB, got {came}')
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f'image must be [H, W, 3] in RGB with at least one pixel, got {list(image.shape)}')


def _is_inside(coordinates: np.ndarray, cells: int) -> np.ndarray:
    return (coordinates >= -0.5) & (coordinates <= cells - 0.5)


def _sample_axis(values: np.ndarray, coordinates: np.ndarray, axis: int, interpolation: str) -> np.ndarray:
    """Read along one axis at fractional places, the edge repeated."""
    last = values.shape[axis] - 1
    if interpolation == 'nearest':
        return values.take(np.clip(np.round(coordinates), 0, last).astype(int), axis)
    inside = np.clip(coordinates, 0, last)
    low = np.minimum(inside.astype(int), max(last - 1, 0))
    weight = (inside - low).reshape([-1 if i == axis else 1 for i in range(values.ndim)]).astype(values.dtype)
    result, higher = values.take(low, axis), values.take(np.minimum(low + 1, last), axis)
    result *= 1 - weight
    higher *= weight
    result += higher
    return result
