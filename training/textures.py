"""Surface textures made from a random generator, so that a scene needs no files but eight small photographs.

A texture is drawn once for a scene and stays glued to its surface: the same spot looks alike from everywhere, which
is all that correspondence can be learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 128  # texels a side; a texture that covers 1.5 m then has 12 mm texels, about a pixel at 1.5 m
LEVELS = 6  # of the mip pyramid: 128, 64, ... 4 texels
PHOTOS = Path(__file__).parent / 'photos'


@dataclass(frozen=True)
class TextureAtlas:
    """Textures with their mip pyramids, flattened for lookup by row.

    Attributes:
        texels: [count * texels of a pyramid, 3] linear colour in [0, 1].
        count: number of textures.
    """

    texels: Tensor
    count: int

    def to(self, device: torch.device | str) -> TextureAtlas:
        """Move the texels."""
        return TextureAtlas(self.texels.to(device), self.count)

    @staticmethod
    def build(textures: Tensor) -> TextureAtlas:
        """Stack a mip pyramid on [count, 3, SIZE, SIZE] textures."""
        levels = [textures]
        for _ in range(LEVELS - 1):
            levels.append(F.avg_pool2d(levels[-1], 2))
        rows = torch.cat([level.flatten(2) for level in levels], dim=2)  # (count, 3, texels of a pyramid)
        return TextureAtlas(rows.permute(0, 2, 1).reshape(-1, 3).contiguous(), len(textures))

    def sample(self, texture: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> Tensor:
        """Look colours up, bilinearly on the mip level that fits, repeating beyond the border.

        Args:
            texture: [N] which texture.
            u, v: [N] place in texture widths; 1.0 is one full texture.
            footprint: [N] width of a pixel on the surface, in texture widths.

        Returns:
            [N, 3] colour.
        """
        level = (footprint * SIZE).clamp(min=1).log2().round().clamp(max=LEVELS - 1).long()
        size = SIZE >> level
        offset = texture * _PYRAMID + _LEVEL_START.to(level.device)[level]
        x, y = u * size - 0.5, v * size - 0.5
        x0, y0 = x.floor(), y.floor()
        wx, wy = (x - x0)[:, None], (y - y0)[:, None]
        x0, y0 = x0.long() % size, y0.long() % size
        x1, y1 = (x0 + 1) % size, (y0 + 1) % size
        top = torch.lerp(self.texels[offset + y0 * size + x0], self.texels[offset + y0 * size + x1], wx)
        bottom = torch.lerp(self.texels[offset + y1 * size + x0], self.texels[offset + y1 * size + x1], wx)
        return torch.lerp(top, bottom, wy)


_LEVEL_START = torch.tensor([sum((SIZE >> i) ** 2 for i in range(level)) for level in range(LEVELS)])
_PYRAMID = sum((SIZE >> i) ** 2 for i in range(LEVELS))


def draw_textures(rng: np.random.Generator, count: int, paint: Sequence[float] | None = None) -> TextureAtlas:
    """Draw textures of mixed kinds; the same generator state gives the same textures.

    Args:
        rng: source of chance.
        count: number of textures.
        paint: how likely each one is a single coat of paint, [0, 1]; None for none.
    """
    return TextureAtlas.build(torch.stack([_draw_one(rng, paint[i] if paint else 0.0) for i in range(count)]))


def _draw_one(rng: np.random.Generator, paint: float) -> Tensor:
    if paint and rng.random() < paint:
        return _paint(rng)
    kind = _KINDS[rng.choice(len(_KINDS), p=_PROBABILITIES)]
    texture = kind(rng)
    # No real surface is perfectly flat in colour; fine grain also keeps plain walls from being featureless.
    grain = rng.uniform(0.0, 0.08) * (_value_noise(rng, first=32, octaves=2) - 0.5)
    return (texture + grain).clamp(0, 1)


def _colours(rng: np.random.Generator, count: int) -> Tensor:
    """Random colours, mostly muted as indoors: a grey level, a little hue, sometimes a vivid one."""
    grey = rng.uniform(0.08, 0.95, (count, 1))
    saturation = rng.choice([0.08, 0.25, 0.7], size=(count, 1), p=[0.45, 0.35, 0.2])
    return torch.from_numpy(np.clip(grey + saturation * rng.uniform(-0.5, 0.5, (count, 3)), 0.02, 1.0)).float()


def _value_noise(rng: np.random.Generator, first: int, octaves: int, gain: float = 0.55) -> Tensor:
    """Sum of smoothly enlarged random grids, first of `first` cells a side; [SIZE, SIZE] in [0, 1], periodic."""
    total, weight, amplitude = torch.zeros(SIZE, SIZE), 0.0, 1.0
    for octave in range(octaves):
        cells = first << octave
        if cells > SIZE:
            break
        grid = torch.from_numpy(rng.random((1, 1, cells, cells), dtype=np.float32))
        padded = F.pad(grid, (2, 2, 2, 2), mode='circular')
        margin = 2 * (SIZE // cells)
        enlarged = F.interpolate(padded, scale_factor=SIZE // cells, mode='bicubic', align_corners=False)
        total += amplitude * enlarged[0, 0, margin : margin + SIZE, margin : margin + SIZE]
        weight += amplitude
        amplitude *= gain
    return (total / weight).clamp(0, 1)


def _ramp(values: Tensor, colours: Tensor) -> Tensor:
    """Map [SIZE, SIZE] values in [0, 1] through evenly spaced colours; [3, SIZE, SIZE]."""
    place = values.clamp(0, 1) * (len(colours) - 1)
    low = place.floor().long().clamp(max=len(colours) - 2)
    return torch.lerp(colours[low], colours[low + 1], (place - low)[..., None]).permute(2, 0, 1)


def _stretch(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min() + 1e-6)


def _noise(rng: np.random.Generator) -> Tensor:
    values = _stretch(_value_noise(rng, first=int(rng.choice([4, 8, 16])), octaves=5))
    return _ramp(values, _colours(rng, int(rng.integers(2, 5))))


def _blotches(rng: np.random.Generator) -> Tensor:
    values = _stretch(_value_noise(rng, first=int(rng.choice([4, 8, 16])), octaves=2))
    levels = int(rng.integers(2, 6))
    return _colours(rng, levels)[(values * levels).long().clamp(max=levels - 1)].permute(2, 0, 1)


def _tiles(rng: np.random.Generator) -> Tensor:
    """Tiles, bricks or checkers: cells of their own colour with joints between."""
    rows, columns = int(rng.choice([2, 4, 8, 16])), int(rng.choice([2, 4, 8]))
    shift = float(rng.choice([0.0, 0.5]))
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    row = (y * rows).astype(int)
    along = x * columns + shift * (row % 2)
    cell = row * columns + along.astype(int) % columns
    palette = _colours(rng, 2)
    jitter = torch.from_numpy(rng.normal(0, rng.uniform(0.01, 0.2), (rows * columns, 3))).float()
    if rng.random() < 0.7:
        colours = palette[:1] + jitter
    else:  # two colours at random
        colours = palette[torch.from_numpy(rng.integers(0, 2, rows * columns))]
    texture = colours[torch.from_numpy(cell)]
    joint_width = rng.uniform(0.02, 0.12)
    joint = torch.from_numpy((y * rows % 1 < joint_width) | (along % 1 < joint_width))
    return torch.where(joint[..., None], palette[1], texture).permute(2, 0, 1)


def _stripes(rng: np.random.Generator) -> Tensor:
    """Planks or stripes with grain along them."""
    count = int(rng.choice([3, 5, 8, 12, 20]))
    y = np.mgrid[0:SIZE, 0:SIZE][0] / SIZE
    palette = _colours(rng, 2)
    blend = torch.from_numpy(rng.random((count, 1))).float()
    stripes = torch.lerp(palette[:1].expand(count, 3), palette[1:].expand(count, 3), blend)
    stripe = stripes[torch.from_numpy((y * count).astype(int))]
    grain = _value_noise(rng, first=8, octaves=4)[:, :1].expand(SIZE, SIZE) - 0.5
    texture = stripe + 0.3 * grain[..., None] + 0.2 * (_value_noise(rng, first=8, octaves=3)[..., None] - 0.5)
    texture = texture.permute(2, 0, 1)
    return texture.transpose(1, 2) if rng.random() < 0.5 else texture


def _rectangles(rng: np.random.Generator) -> Tensor:
    """Overlapping rectangles: posters, shelves, print."""
    texture = _colours(rng, 1).reshape(3, 1, 1).repeat(1, SIZE, SIZE)
    count = int(rng.integers(10, 60))
    colours = _colours(rng, count)
    largest = rng.uniform(0.1, 0.5)
    for colour in colours:
        height, width = (rng.uniform(0.03, largest, 2) * SIZE).astype(int) + 1
        top, left = rng.integers(0, SIZE, 2)
        texture[:, top : top + height, left : left + width] = colour.reshape(3, 1, 1)
    return texture


def _plain(rng: np.random.Generator) -> Tensor:
    base = _colours(rng, 1).reshape(3, 1, 1)
    return base + rng.uniform(0.02, 0.15) * (_value_noise(rng, first=4, octaves=5) - 0.5)


def _paint(rng: np.random.Generator) -> Tensor:
    """A painted wall, a lacquered door: one colour, hardly a spot on it."""
    base = _colours(rng, 1).reshape(3, 1, 1)
    return (base + rng.uniform(0.0, 0.03) * (_value_noise(rng, first=4, octaves=3) - 0.5)).clamp(0, 1)


def _photo(rng: np.random.Generator) -> Tensor:
    """A crop of one of the photographs, turned, and tinted half of the time."""
    pictures = _photos()
    picture = pictures[rng.integers(len(pictures))]
    side = int(rng.integers(SIZE // 2, picture.shape[1] + 1))
    top, left = rng.integers(0, picture.shape[1] - side + 1, 2)
    crop = picture[:, top : top + side, left : left + side]
    texture = F.interpolate(crop[None], size=(SIZE, SIZE), mode='bilinear', align_corners=False, antialias=True)[0]
    texture = torch.rot90(texture, int(rng.integers(4)), (1, 2))
    return texture * _colours(rng, 1).reshape(3, 1, 1).clamp(min=0.3) if rng.random() < 0.5 else texture


@lru_cache(maxsize=1)
def _photos() -> tuple[Tensor, ...]:
    pictures = []
    for path in sorted(PHOTOS.glob('*.jpg')):
        picture = cv2.imread(str(path))
        if picture is None:
            raise OSError(f'{path} is not a picture that can be read; restore it from the repository')
        pictures.append(torch.from_numpy(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).float() / 255)
    return tuple(pictures)


_KINDS: tuple[Callable[[np.random.Generator], Tensor], ...] = (
    _noise, _blotches, _tiles, _stripes, _rectangles, _plain, _photo,
)  # fmt: skip
_PROBABILITIES = (0.2, 0.12, 0.16, 0.12, 0.14, 0.08, 0.18)
