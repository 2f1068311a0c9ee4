"""One training or test sample: a window of frames of one scene with true depth, poses and intrinsics."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.homes import make_home
from training.paths import LEAST_RADIUS_M, draw_path, tumble, walk_round, way_round
from training.renderer import render
from training.scenes import Scene, make_empty_room, make_scene, scatter

HELD_BACK_SEED = 1_000_000  # scenes from this seed on are for evaluation and are never trained on
IMAGE_SIZE = (96, 128)  # height and width of the pictures that nano is trained on
SCENERY = ('furnished', 'bare', 'scattered', 'home', 'walk')
_MID_GREY, _TOO_BRIGHT = (0.2, 0.45), (0.2, 0.9)
_FOV_DEG = (45.0, 85.0)  # horizontal: from a long lens to the wide ones on robots


@dataclass(frozen=True)
class Window:
    """Frames of one scene.

    Attributes:
        images: [S, 3, H, W] uint8, as a camera would deliver them.
        depth: [S, H, W] metres along the optical axis, finite everywhere.
        cam_from_world: [S, 3, 4], metres.
        K: [S, 3, 3] pixels; the principal point is (W/2, H/2), as VGGT decodes it.
    """

    images: Tensor
    depth: Tensor
    cam_from_world: Tensor
    K: Tensor

    def to(self, device: torch.device | str) -> Window:
        """Move every tensor."""
        return Window(*(getattr(self, field.name).to(device) for field in fields(self)))


def make_window(
    seed: int,
    frames: int = 8,
    image_size: tuple[int, int] = IMAGE_SIZE,
    device: torch.device | str = 'cpu',
    scenery: str = 'furnished',
) -> Window:
    """Render the window that belongs to a seed; the same seed gives the same window on every CPU.

    Args:
        seed: any integer from 0; those from HELD_BACK_SEED on are for evaluation.
        frames: views along the path.
        image_size: (H, W).
        device: where the rays are cast; the window comes back on the CPU.
        scenery: one of SCENERY. 'bare' is a furnished room with painted surfaces in a picture that may be too bright;
            'scattered' are solids afloat, seen from any attitude; 'home' is a room with furniture that people know,
            with shadows and daylight, seen by who looks at a piece of it; 'walk' is a piece of a walk round a furnished
            room, where a camera that goes ahead turns so far that walls come no nearer.

    Raises:
        ValueError: there is no such scenery.
    """
    if scenery not in SCENERY:
        raise ValueError(f'scenery is one of {", ".join(SCENERY)}, got {scenery!r}')
    rng = np.random.default_rng(seed)
    sights = None
    if scenery == 'home':
        scene, sights = make_home(rng)
    else:
        scene = make_empty_room(rng) if scenery == 'scattered' else make_scene(rng, bare=scenery == 'bare')
    fov = np.radians(rng.uniform(*_FOV_DEG))
    if scenery == 'walk':
        scene, drawn = _walk(rng, scene, frames, fov)
    else:
        drawn = draw_path(rng, scene, frames, fov, sights)
    if scenery == 'scattered':
        drawn = tumble(rng, scene, drawn)
        scene = scatter(rng, scene, drawn, fov)
    path = torch.from_numpy(drawn).float()
    H, W = image_size
    focal = W / 2 / np.tan(fov / 2)
    K = torch.tensor([[focal, 0, W / 2], [0, focal, H / 2], [0, 0, 1]], dtype=torch.float32).expand(frames, 3, 3)
    colour, depth = render(scene.to(device), path.to(device), K.to(device), image_size)
    brightness = _TOO_BRIGHT if scenery in ('bare', 'home') else _MID_GREY
    return Window(develop(colour.cpu(), rng, brightness), depth.cpu(), path, K.contiguous())


def _walk(rng: np.random.Generator, scene: Scene, frames: int, fov: float) -> tuple[Scene, np.ndarray]:
    """A room with a way round, the given one if it has, and a piece of that way [frames, 3, 4] that stays in view."""
    while (way := way_round(scene, rng))[1].min() < LEAST_RADIUS_M:
        scene = make_scene(rng)
    laps = rng.uniform(0.2, 0.9) * fov / (2 * np.pi)
    return scene, walk_round(way, frames, laps, rng, aside=np.radians(rng.uniform(-75, 75)))[:, :3]


def develop(colour: Tensor, rng: np.random.Generator, brightness: tuple[float, float] = _MID_GREY) -> Tensor:
    """Turn linear colour into the picture of an imperfect camera: exposure, lens blur, gamma, noise, eight bits.

    Args:
        colour: [S, 3, H, W] linear.
        rng: source of chance.
        brightness: range of the mean that exposure aims at, 1 being white.

    Returns:
        [S, 3, H, W] uint8.
    """
    frames = len(colour)
    # Auto-exposure aims at mid grey and hunts a little from frame to frame.
    exposure = rng.uniform(*brightness) / float(colour.mean().clamp(min=1e-3))
    hunting = torch.from_numpy(np.exp(rng.normal(0, 0.06, frames))).float().reshape(-1, 1, 1, 1)
    blurred = _blur(colour * exposure * hunting, rng.uniform(0.3, 0.8))
    picture = blurred.clamp(0, 1) ** (1 / rng.uniform(1.8, 2.4))
    noise = torch.from_numpy(rng.standard_normal(colour.shape, dtype=np.float32)) * rng.uniform(0.0, 0.025)
    return ((picture + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian of `sigma` pixels; also what smooths the stairs of a picture made with one ray a pixel."""
    offsets = torch.arange(-2, 3, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 5)
    padded = F.pad(images, (2, 2, 2, 2), mode='replicate')
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)
