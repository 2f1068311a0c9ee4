"""What the network takes, checked where it enters, so that no error comes from deep inside."""

from __future__ import annotations

import torch
from torch import Tensor

from vggt.errors import InputError

RANGE_SLACK = 1e-3  # resampling may leave [0, 1] by rounding; a picture in 0..255 leaves it by far


def check_images(images: Tensor, patch_size: int) -> Tensor:
    """Refuse what is not a window of RGB images in [0, 1].

    Args:
        images: [B, S, 3, H, W] or [S, 3, H, W].
        patch_size: H and W must be multiples of it.

    Returns:
        [B, S, 3, H, W].

    Raises:
        InputError: says what is wrong and how to mend it.
    """
    if isinstance(images, (list, tuple)):
        raise InputError(
            f'images must be one tensor [S, 3, H, W], got a {type(images).__name__} of {len(images)}; bring them to '
            'one size with vggt.preprocessing and torch.stack them'
        )
    if not isinstance(images, Tensor):
        raise InputError(f'images must be a torch tensor, got {type(images).__name__}; use torch.from_numpy')
    if images.ndim not in (4, 5):
        raise InputError(f'images must be [S, 3, H, W] or [B, S, 3, H, W], got {list(images.shape)}')
    if images.shape[-3] != 3:
        raise InputError(f'images must have 3 channels (RGB) before height and width, got {list(images.shape)}')
    if not images.is_floating_point():
        raise InputError(f'images must be floating point in [0, 1], got {images.dtype}; divide 8-bit values by 255')
    if 0 in images.shape:
        raise InputError(f'images must hold at least one frame and one pixel, got {list(images.shape)}')
    _check_grid(images.shape[-2], images.shape[-1], patch_size)
    low, high = (value.item() for value in torch.aminmax(images.detach()))
    if not (low >= -RANGE_SLACK and high <= 1.0 + RANGE_SLACK):  # not (...) also catches NaN
        raise InputError(f'images must be finite and in [0, 1], got values from {low:g} to {high:g}')
    return images if images.ndim == 5 else images[None]


def check_pixels(pixels: Tensor, patch_size: int) -> None:
    """Refuse what is not a window of 8-bit RGB images, [S, H, W, 3]; their values need no look.

    Raises:
        InputError: says what is wrong and how to mend it.
    """
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise InputError(f'8-bit images must be [S, H, W, 3], RGB, got {list(pixels.shape)}')
    _check_grid(pixels.shape[1], pixels.shape[2], patch_size)


def _check_grid(height: int, width: int, patch_size: int) -> None:
    if height % patch_size or width % patch_size:
        raise InputError(
            f'height and width must be multiples of {patch_size}, got {height}x{width}; '
            'vggt.preprocessing resizes any image to such a size'
        )


def check_patch_tokens(patch_tokens: Tensor, frame: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Refuse what are not the patch tokens [B, S, P, C] of images of a size.

    Args:
        patch_tokens: of windows.
        frame: (P, C) of one image.
        image_size: (H, W) of it.

    Raises:
        InputError: says what was expected and what came.
    """
    shape = tuple(patch_tokens.shape)
    if len(shape) != 4 or shape[2:] != frame or 0 in shape:
        height, width = image_size
        raise InputError(
            f'patch_tokens must be [S, {frame[0]}, {frame[1]}] for images of {height}x{width} and at least '
            f'one frame, got {list(shape[1:])}; tokens of frames of another size cannot share a window'
        )


def check_query_points(query_points: Tensor, batch: int, image_size: tuple[int, int]) -> Tensor:
    """Refuse query points that do not lie in the first frame.

    Args:
        query_points: [B, Nq, 2] or [Nq, 2] pixels (x, y).
        batch: number of scenes.
        image_size: (H, W).

    Returns:
        [B, Nq, 2].

    Raises:
        InputError: says what is wrong and how to mend it.
    """
    if not isinstance(query_points, Tensor) or query_points.ndim not in (2, 3) or query_points.shape[-1] != 2:
        came = list(query_points.shape) if isinstance(query_points, Tensor) else type(query_points).__name__
        raise InputError(f'query_points must be a tensor [Nq, 2] or [B, Nq, 2] of pixels (x, y), got {came}')
    points = query_points if query_points.ndim == 3 else query_points[None]
    if points.shape[0] != batch or points.shape[1] == 0:
        raise InputError(f'query_points must hold points for each of {batch} scenes, got {list(points.shape)}')
    height, width = image_size
    limit = points.new_tensor([width - 1, height - 1])
    if not bool(((points >= 0) & (points <= limit)).all()):  # NaN compares as outside
        raise InputError(f'query_points must lie in the first frame, 0..{width - 1} and 0..{height - 1}')
    return points
