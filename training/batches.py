"""From rendered windows to batches: which frames, in which order, and how the pictures are varied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.correspondence import lift
from training.losses import Targets, normalise
from training.pool import FRAMES, Pool
from training.windows import Window


@dataclass(frozen=True)
class Batch:
    """Input and truth.

    Attributes:
        images: [B, S, 3, H, W] in [0, 1].
        targets: normalised scene at the same size.
    """

    images: Tensor
    targets: Targets


def draw_batch(
    pool: Pool,
    rng: np.random.Generator,
    ready: np.ndarray,
    batch: int,
    frames: int,
    image_size: tuple[int, int],
    wide: bool = False,
    device: torch.device | str = 'cpu',
) -> Batch:
    """Draw scenes and some frames of each, in any order: the first frame drawn is the reference.

    Args:
        pool: rendered windows.
        rng: source of chance; the same state and the same ready slots give the same batch.
        ready: slots to choose from.
        batch: scenes.
        frames: views of each.
        image_size: (H, W) to scale the pictures to; the aspect of the pool's.
        wide: prefer large motion: of twice as many scenes those that turn most, and frames from both ends.
        device: where the batch is made and stays.
    """
    slots = rng.choice(ready, 2 * batch if wide else batch)
    if wide:
        slots = rng.permutation(slots[np.argsort(-pool.turn(slots))[:batch]])
    chosen = np.stack([_choose_frames(rng, frames, wide) for _ in range(batch)])
    window = resize(pool.read(slots, chosen, device), image_size)
    if rng.random() < 0.5:
        window = mirror(window)
    images = vary_colours(window.images.float() / 255, rng)
    if rng.random() < 0.5:
        images = vary_lens(images, rng)
    return Batch(images, targets_of(window))


def targets_of(window: Window) -> Targets:
    """Truth of a batched window in the form that the losses read."""
    valid = torch.isfinite(window.depth) & (window.depth > 0)
    points = lift(window.depth, window.cam_from_world, window.K)
    return normalise(window.cam_from_world, window.K, window.depth, points, valid)


def _choose_frames(rng: np.random.Generator, frames: int, wide: bool) -> np.ndarray:
    """Some of a window's frames: half of the time in the order of the path, as a robot sends them."""
    chosen = rng.permutation(FRAMES)[:frames]
    while wide and np.ptp(chosen) < FRAMES // 2:
        chosen = rng.permutation(FRAMES)[:frames]
    return np.sort(chosen) if rng.random() < 0.5 else chosen


def resize(window: Window, image_size: tuple[int, int]) -> Window:
    """Scale the pictures of a batched window by area, the depth by its nearest pixel, and K with them.

    The principal point stays (W/2, H/2), VGGT's convention, at every size: a fraction of a pixel is given up.
    """
    H, W = window.images.shape[-2:]
    if image_size == (H, W):
        return window
    scale = window.K.new_tensor([image_size[1] / W, image_size[0] / H, 1.0])
    images = F.interpolate(window.images.flatten(0, 1).float(), size=image_size, mode='area')
    depth = F.interpolate(window.depth, size=image_size, mode='nearest-exact')
    return Window(
        images.round().to(torch.uint8).unflatten(0, window.images.shape[:2]),
        depth,
        window.cam_from_world,
        window.K * scale[:, None],
    )


def mirror(window: Window) -> Window:
    """The scene in a mirror: pixel u becomes W - u, which keeps a principal point at W/2 where it is."""

    def flip(x: Tensor) -> Tensor:
        flipped = x.flip(-1)
        return torch.cat((flipped[..., :1], flipped[..., :-1]), dim=-1)

    mirror_x = window.K.new_tensor([-1.0, 1.0, 1.0])
    sign = mirror_x[:, None] * torch.cat((mirror_x, mirror_x.new_ones(1)))  # M R M and M t
    depth = flip(window.depth)
    depth[..., 0] = 0  # that column has no source: unknown
    return Window(flip(window.images), depth, window.cam_from_world * sign, window.K)


def vary_colours(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Other light, other sensor: contrast, gain and tint of the scene, a little of each frame, sometimes grey.

    Args:
        images: [B, S, 3, H, W] in [0, 1].
    """
    batch, frames = images.shape[:2]

    def random(sigma: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(0, sigma, shape)).to(images)[..., None, None]

    order = torch.from_numpy(np.stack([rng.permutation(3) for _ in range(batch)])).to(images.device)
    images = images.gather(2, order[:, None, :, None, None].expand_as(images))
    grey = torch.from_numpy(rng.random(batch) < 0.1).to(images.device)[:, None, None, None, None]
    images = torch.where(grey, images.mean(2, keepdim=True), images)
    gain = torch.exp(random(0.15, batch, 1, 3) + random(0.05, batch, frames, 1))
    contrast = torch.exp(random(0.15, batch, 1, 1))
    return (((images - 0.5) * contrast + 0.5) * gain).clamp(0, 1)


def vary_lens(images: Tensor, rng: np.random.Generator) -> Tensor:
    """A darker rim, and some frames blurred along a line as by a moving camera, up to five pixels long.

    Args:
        images: [B, S, 3, H, W] in [0, 1].
    """
    batch, frames, channels, H, W = images.shape
    x, y = torch.linspace(-1, 1, W), torch.linspace(-1, 1, H)
    rim = torch.from_numpy(rng.uniform(0, 0.25, batch)).float()[:, None, None] * (x.square() + y[:, None].square())
    direction = rng.uniform(0, np.pi, batch * frames)
    reach = rng.uniform(0, 2, batch * frames) * (rng.random(batch * frames) < 0.3)
    along = np.linspace(-1, 1, 9)[:, None] * reach
    kernels = torch.zeros(batch * frames, 5, 5)
    column, row = (np.rint(2 + along * part(direction)).astype(int) for part in (np.cos, np.sin))
    places = (torch.arange(len(kernels)).expand(9, -1), torch.from_numpy(row), torch.from_numpy(column))
    kernels.index_put_(places, torch.tensor(1 / 9), accumulate=True)
    kernels = kernels.repeat_interleave(channels, 0)[:, None].to(images)
    padded = F.pad(images.reshape(1, -1, H, W), (2, 2, 2, 2), mode='replicate')
    blurred = F.conv2d(padded, kernels, groups=len(kernels)).view_as(images)
    return blurred * (1 - rim.to(images))[:, None, None]
