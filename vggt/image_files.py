"""Picture files to the model's input exactly as the reference prepares them.

For results that must compare with published ones. A robot should use vggt.preprocessing instead: here the aspect
changes a little by rounding, and tall pictures lose their ends. Source: docs/network_facts.md sec. 9.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vggt.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 518
PATCH = 14
WHITE = 1.0
_log = logging.getLogger(__name__)


def load_images(paths: Sequence[str | Path], mode: Literal['crop', 'pad'] = 'crop') -> Tensor:
    """Read pictures, 518 wide ('crop') or 518 square ('pad').

    Args:
        paths: at least one picture; transparent ones (RGBA) are laid over white.
        mode: 'crop' sets the width to 518 and cuts the middle out of what is taller; 'pad' sets the longer side to
            518 and fills with white.

    Returns:
        [S, 3, H, W] in [0, 1]. Pictures of unequal size are centred on white of the largest height and width.

    Raises:
        InputError: no path, another mode, or a picture too wide to leave one row of patches.
    """
    if not paths:
        raise InputError('at least one picture is needed, got none')
    if mode not in ('crop', 'pad'):
        raise InputError(f"mode must be 'crop' or 'pad', got {mode!r}")
    images = [_prepare(_open_rgb(path), mode) for path in paths]
    sizes = sorted({(image.shape[1], image.shape[2]) for image in images})
    if len(sizes) > 1:
        _log.warning('pictures of different sizes %s are padded with white to one size', sizes)
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    return torch.stack([_centre_on_white(image, height, width) for image in images])


def load_square_images(paths: Sequence[str | Path], side: int = 1024) -> tuple[Tensor, Tensor]:
    """Read pictures centred on black squares.

    Returns:
        [S, 3, side, side] in [0, 1], and [S, 6] with x1, y1, x2, y2 of the picture in the result and its original
        width and height.

    Raises:
        InputError: no path.
    """
    if not paths:
        raise InputError('at least one picture is needed, got none')
    prepared = [_on_black_square(_open_rgb(path), side) for path in paths]
    return torch.stack([image for image, _ in prepared]), torch.stack([box for _, box in prepared])


def _open_rgb(path: str | Path) -> Image:
    from PIL import Image  # here, so that the network runs where Pillow is not installed

    with Image.open(path) as picture:
        if picture.mode == 'RGBA':
            white = Image.new('RGBA', picture.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, picture).convert('RGB')
        return picture.convert('RGB')


def _prepare(picture: Image, mode: str) -> Tensor:
    width, height = picture.size
    if mode == 'pad' and height > width:
        new_width, new_height = round(width * (SIDE / height) / PATCH) * PATCH, SIDE
    else:
        # Python rounds ties to even, which decides 518x511 -> 504.
        new_width, new_height = SIDE, round(height * (SIDE / width) / PATCH) * PATCH
    if not new_width or not new_height:
        raise InputError(f'a picture of {height}x{width} leaves no row of patches at {SIDE} px; cut it first')
    image = _to_tensor(_resize(picture, (new_width, new_height)))
    if mode == 'pad':
        return _centre_on_white(image, SIDE, SIDE)
    start = max(0, (new_height - SIDE) // 2)
    return image[:, start : start + SIDE]


def _centre_on_white(image: Tensor, height: int, width: int) -> Tensor:
    """Fill to a size; the smaller share goes to the top and left."""
    rows, columns = height - image.shape[1], width - image.shape[2]
    margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return F.pad(image, margins, value=WHITE)


def _on_black_square(picture: Image, side: int) -> tuple[Tensor, Tensor]:
    from PIL import Image

    width, height = picture.size
    longest = max(width, height)
    left, top = (longest - width) // 2, (longest - height) // 2
    square = Image.new('RGB', (longest, longest))
    square.paste(picture, (left, top))
    scale = side / longest
    box = [left * scale, top * scale, (left + width) * scale, (top + height) * scale, width, height]
    return _to_tensor(_resize(square, (side, side))), torch.tensor(box, dtype=torch.float32)


def _resize(picture: Image, size: tuple[int, int]) -> Image:
    from PIL import Image

    return picture.resize(size, Image.Resampling.BICUBIC)


def _to_tensor(picture: Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255).permute(2, 0, 1).contiguous()
