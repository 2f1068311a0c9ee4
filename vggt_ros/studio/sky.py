"""Which pixels look like sky by their colour; core/sky.py tells it by depth."""

from __future__ import annotations

import cv2
import numpy as np

SMOOTH = 0.05  # largest change of brightness from pixel to pixel within sky: clouds are soft
BRIGHT = 0.45  # least brightness of the blue channel
LEAST_SHARE = 0.02  # of the image: less is a lamp, or a white wall's corner


def is_sky(image: np.ndarray) -> np.ndarray:
    """Pixels that are smooth, bright, no more red than blue, and joined with the upper edge.

    A rule of colour, not a network: the original demo takes a network of its own for this (skyseg), whose weights do
    not come with this package. A bright ceiling or a bright plain wall that reaches the upper edge is taken as sky too.

    Args:
        image: [H, W, 3] uint8 RGB.

    Returns:
        [H, W] bool.
    """
    rgb = cv2.GaussianBlur(image, (3, 3), 0).astype(np.float32) / 255
    brightness = rgb.mean(axis=-1)
    slope = np.maximum(
        np.abs(np.diff(brightness, axis=0, append=brightness[-1:])),
        np.abs(np.diff(brightness, axis=1, append=brightness[:, -1:])),
    )
    looks = (rgb[..., 2] >= BRIGHT) & (rgb[..., 2] >= rgb[..., 0] - 0.02) & (slope <= SMOOTH)
    _, labels = cv2.connectedComponents(looks.astype(np.uint8), connectivity=4)
    at_top = np.unique(labels[0][looks[0]])
    sky = np.isin(labels, at_top[at_top > 0]) & looks
    if sky.mean() < LEAST_SHARE:
        return np.zeros(image.shape[:2], bool)
    return cv2.dilate(sky.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)  # the soft rim too
