"""The little pyramids that stand for cameras in a scene."""

from __future__ import annotations

import numpy as np

WIDTH, HEIGHT = 0.05, 0.1  # radius of the opening and depth, as shares of the scene's size
INSET, TWIST_DEG = 0.95, 2.0  # of the two copies between which and the outline the slivers lie
_CORNERS = ((1, -1), (-1, -1), (-1, 1), (1, 1))


def camera_cone(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """An open pyramid drawn as thin slivers along its edges, its tip in the optical centre, its mouth along +z.

    Every edge of a side is joined by a sliver to two copies of the pyramid, one a little smaller and one a little
    twisted; each sliver is there twice, facing both ways.

    Args:
        scale: size of the scene.

    Returns:
        [14, 3] vertices in the optical frame and [48, 3] faces.

    Source: vertices of the reference's GLB, docs/network_facts.md sec. 10; the faces are ours, as many as there.
    """
    side = WIDTH * scale / np.sqrt(2)
    outline = np.array([[side * x, side * y, HEIGHT * scale] for x, y in _CORNERS])
    angle = np.radians(TWIST_DEG)
    twist = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    tip = np.zeros(3)
    inset_tip = np.array([0, 0, HEIGHT * scale * (1 - INSET)])
    outer, inner, twisted = outline, outline * [INSET, INSET, 1], outline @ twist
    vertices = np.array([outer[0], tip, *outer[1:], inner[0], inset_tip, *inner[1:], *twisted])
    copies = ([1, 0, 2, 3, 4], [6, 5, 7, 8, 9], [1, 10, 11, 12, 13])  # tip and corners of each pyramid
    faces = []
    for k in range(4):
        side_of = [[copy[0], copy[1 + k], copy[1 + (k + 1) % 4]] for copy in copies]
        for other in side_of[1:]:
            faces += _slivers(side_of[0], other)
    faces += [face[::-1] for face in faces]
    return vertices, np.array(faces)


def _slivers(side: list[int], copy: list[int]) -> list[list[int]]:
    """Each edge of a side with a corner of its copy, never the tip: the twisted copy has the same one."""
    tip, a, b = side
    return [[tip, b, copy[2]], [a, tip, copy[1]], [b, a, copy[2]]]


def rainbow(count: int) -> np.ndarray:
    """[count, 4] uint8 colours of cameras, from red to violet. Source: docs/network_facts.md sec. 10, gist_rainbow."""
    import matplotlib

    shares = np.arange(count) / max(count, 1)
    return (matplotlib.colormaps['gist_rainbow'](shares) * 255).astype(np.uint8)
