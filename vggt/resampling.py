"""Pillow's bicubic resizing on any device, to the bit: what a GPU makes of a picture is what the host would have made.

Source: Pillow, src/libImaging/Resample.c, for the method: Keys' kernel with a = -0.5, stretched where pictures shrink;
weights of 22 bits after the point; columns first, and the result rounded to 8 bits between the two passes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

SUPPORT = 2.0  # of the kernel, in pixels of the coarser grid
PRECISION = 22  # bits after the point: a sum of 8-bit values times weights fits into 32
TOGETHER = 8  # taps read at a time: 54 MB for a picture of 1920x1080, all that a picture of 640x480 needs


def resample(image: Tensor, box: tuple[float, float, float, float], size: tuple[int, int], margin: int = 0) -> Tensor:
    """What PIL.Image.resize gives with BICUBIC and this box.

    Args:
        image: [H, W, 3] uint8.
        box: left, top, right, bottom of what the result covers, in pixels; not outside the image and its margin.
        size: (h, w) of the result.
        margin: so many rows above the image, and below, repeat its first and last one; the box counts from the topmost.

    Returns:
        [h, w, 3] uint8 on the device of the image.
    """
    left, top, right, bottom = box
    height, width = image.shape[:2]
    columns, column_weights = _taps(width, left, right, size[1], 0, image.device)
    rows, row_weights = _taps(height, top, bottom, size[0], margin, image.device)
    if not (size[1] == width and (left, right) == (0, width)):
        image = _weigh(image, 1, columns, column_weights[..., None])  # (taps, w, 1)
    if not (size[0] == height + 2 * margin and (top, bottom) == (0, height + 2 * margin)):
        image = _weigh(image, 0, rows, row_weights[..., None, None])  # (taps, h, 1, 1)
    return image


def _weigh(image: Tensor, axis: int, cells: Tensor, weights: Tensor) -> Tensor:
    """[H, W, 3] with one axis resized."""
    total: Tensor | int = 1 << (PRECISION - 1)
    for some, weight in zip(cells.split(TOGETHER), weights.split(TOGETHER), strict=True):
        spread = image.index_select(axis, some.flatten()).unflatten(axis, some.shape)
        total = (spread * weight).sum(axis, dtype=torch.int32) + total
    assert isinstance(total, Tensor)
    return (total >> PRECISION).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=32)
def _taps(cells: int, start: float, end: float, count: int, margin: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cells read for each of the results, and what each weighs: [taps, count] int64 and int32.

    Args:
        cells: of the axis, without its margins.
        start, end: of the box, from the beginning of the first margin.
        count: of the results.
        margin: cells at either end that repeat the outermost.
        device: for the tables, which are made once for each size.
    """
    first, last = np.float32(start), np.float32(end)  # Pillow takes a box in this precision
    step = float(last - first) / count
    stretch = max(step, 1.0)
    centres = float(first) + (np.arange(count) + 0.5) * step
    lowest = (centres - SUPPORT * stretch + 0.5).astype(int).clip(0)
    beyond = (centres + SUPPORT * stretch + 0.5).astype(int).clip(max=cells + 2 * margin)
    taps = lowest + np.arange(math.ceil(SUPPORT * stretch) * 2 + 1)[:, None]
    weights = _cubic((taps - centres + 0.5) / stretch) * (taps < beyond)
    weights /= weights.sum(axis=0)
    whole = np.trunc(weights * (1 << PRECISION) + np.copysign(0.5, weights)).astype(np.int32)
    inside = (taps - margin).clip(0, cells - 1)
    # made outside inference_mode, as a later call may be; both copies have ended when this returns, for every stream
    with torch.inference_mode(False):
        return torch.from_numpy(inside).to(device), torch.from_numpy(whole).to(device)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
