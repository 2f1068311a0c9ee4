"""What a visitor may ask of this machine, and how many frames fit into its memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from vggt.config import VGGTConfig
from vggt_ros.core.errors import SourceError
from vggt_ros.core.planner import free_memory

MOST_AT_ONCE = 64  # bound of window_size
# Peak memory beyond the weights, per token and channel of the embedding, in float32: 470 MB for 8 frames of 196x252 of
# the 1B architecture (2061 tokens with special ones, 1024 channels). Source: docs/benchmarks.md, Network, streaming.
BYTES_PER_TOKEN_AND_CHANNEL = 470e6 / (8 * (14 * 18 + 5)) / 1024
USABLE = 0.7  # of the free memory: allocators lose some, and others want some
BYTES_PER_KEPT_PIXEL = 60  # colour, depth, confidence and points of a result, with the copies made while it is written


@dataclass(frozen=True)
class Limits:
    """Bounds on what comes in.

    Args:
        upload_bytes: of an upload, also when unpacked.
        images: files in an upload.
        video_s: length of a video, seconds.
        frames: of a reconstruction.
        keep_s: seconds after which an unused session is removed with its files.
    """

    upload_bytes: int = 2_000_000_000
    images: int = 500
    video_s: float = 600.0
    frames: int = 1000
    keep_s: float = 24 * 3600.0


def require_frames(count: int, mode: str, network: VGGTConfig, grid: tuple[int, int], device: torch.device) -> None:
    """Refuse more frames than fit, with the number that does.

    Raises:
        SourceError: none, or too many.
    """
    if count == 0:
        raise SourceError('there is no image to work on: upload images, a video or a bag first')
    memory = free_bytes(device)
    if mode == 'all':
        fits = frames_at_once(network, grid, memory)
        if count > fits:
            raise SourceError(
                f'{count} frames are too many at once: {fits} fit here; take every second or third frame, '
                'or choose the sliding window'
            )
    fits = min(Limits.frames, int(memory * USABLE / (BYTES_PER_KEPT_PIXEL * grid[0] * grid[1])))
    if count > fits:
        raise SourceError(f'{count} frames are too many: {fits} fit here; take fewer frames a second')


def frames_at_once(network: VGGTConfig, grid: tuple[int, int], memory: float) -> int:
    """How many frames of grid (height, width) one call of a network can take in so many free bytes; 64 at most."""
    tokens = grid[0] // network.patch_size * (grid[1] // network.patch_size) + network.num_special_tokens
    per_frame = BYTES_PER_TOKEN_AND_CHANNEL * tokens * network.embed_dim
    return max(1, min(MOST_AT_ONCE, int(memory * USABLE / per_frame)))


def free_bytes(device: torch.device) -> float:
    """Memory that can be had on a device; half of the machine's where it does not tell."""
    free = free_memory(device)
    return float(os.sysconf('SC_PHYS_PAGES')) * os.sysconf('SC_PAGE_SIZE') / 2 if free is None else float(free)
