"""Real sequences with poses (and mostly depth) as windows for evaluation; never for training.

The folders hold camera.json, frames.txt (stamp, image, depth or '-') and trajectory_tum.txt (stamp, translation,
quaternion xyzw of world_from_cam).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from training.metrics import Cameras
from vggt.geometry import invert_rigid, rotation_from_quaternion
from vggt.preprocessing import resize_keeping_aspect


@dataclass(frozen=True)
class RealWindow:
    """Images as the model takes them, and the truth at their size.

    Attributes:
        name: sequence and first frame.
        images: [S, 3, H, W] in [0, 1].
        truth: metres; depth is None where the sequence has none.
    """

    name: str
    images: Tensor
    truth: Cameras


def load_windows(folder: Path, width: int, patch_size: int, size: int = 8, gap: int = 1) -> list[RealWindow]:
    """Cut a sequence into windows that overlap by half.

    Args:
        folder: one sequence.
        width: of the model's image in pixels.
        patch_size: of the model.
        size: frames of a window; a shorter sequence gives one window with all its frames.
        gap: take every gap-th frame.
    """
    camera = json.loads((folder / 'camera.json').read_text())
    K = np.array([[camera['fx'], 0, camera['cx']], [0, camera['fy'], camera['cy']], [0, 0, 1]])
    world_from_cam = _read_trajectory(folder / 'trajectory_tum.txt')
    rows = [line.split() for line in (folder / 'frames.txt').read_text().splitlines() if line and line[0] != '#']
    rows = [row for row in rows if float(row[0]) in world_from_cam][::gap]
    size = min(size, len(rows))
    windows = []
    for start in range(0, len(rows) - size + 1, max(1, size // 2)):
        part = rows[start : start + size]
        pictures = [resize_keeping_aspect(_read_rgb(folder / image), width, patch_size) for _, image, _ in part]
        transform = pictures[0].transform
        scaled = torch.from_numpy(transform.K_to_model(K)).float().expand(size, 3, 3)
        depth = None
        if all(name != '-' for *_, name in part):
            depth = torch.stack([_read_depth(folder / name, camera['depth_scale'], transform) for *_, name in part])
        cam_from_world = invert_rigid(torch.stack([world_from_cam[float(row[0])] for row in part]))[:, :3]
        windows.append(
            RealWindow(
                f'{folder.name} {start * gap}',
                torch.stack([picture.image for picture in pictures]),
                Cameras(cam_from_world.float(), scaled, depth),
            )
        )
    return windows


def _read_rgb(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise OSError(f'{path} is not an image that can be read')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read_depth(path: Path, scale: float, transform) -> Tensor:
    """Metres at the middle of each model pixel, 0 where unknown."""
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16:
        raise OSError(f'{path} is not a 16-bit depth image')
    H, W = transform.model_size
    v, u = np.mgrid[0:H, 0:W]
    pixels = np.round(transform.pixels_to_source(np.stack((u, v), axis=-1))).astype(int)
    column = pixels[..., 0].clip(0, stored.shape[1] - 1)
    row = pixels[..., 1].clip(0, stored.shape[0] - 1)
    return torch.from_numpy(stored[row, column].astype(np.float32) / scale)


def _read_trajectory(path: Path) -> dict[float, Tensor]:
    """Stamp to [4, 4] world_from_cam."""
    poses = {}
    for line in path.read_text().splitlines():
        if line and line[0] != '#':
            stamp, *numbers = (float(part) for part in line.split())
            pose = torch.eye(4, dtype=torch.float64)
            pose[:3, 3] = torch.tensor(numbers[:3])
            pose[:3, :3] = rotation_from_quaternion(torch.tensor(numbers[3:], dtype=torch.float64))
            poses[stamp] = pose
    return poses
