"""A placed frame from the network's pixel grid to the pixels of the camera."""

from __future__ import annotations

import dataclasses

import numpy as np

from vggt.preprocessing import ImageTransform
from vggt_ros.core.frame import Frame
from vggt_ros.core.submap import PlacedFrame

MAX_STEP = 0.02  # of the depth between neighbours on one surface; 25 px of focal length per px of step at 45 degrees


def to_source_frame(placed: PlacedFrame, frame: Frame, transform: ImageTransform) -> PlacedFrame:
    """The same placed frame, and its views, at the size of the images that the cameras took."""
    images = {view.camera: view.image for view in frame.views}
    views = tuple(to_source_resolution(view, images[view.camera], transform) for view in placed.views)
    return dataclasses.replace(to_source_resolution(placed, frame.image, transform), views=views)


def to_source_resolution(placed: PlacedFrame, image: np.ndarray, transform: ImageTransform) -> PlacedFrame:
    """The same frame with depth, confidence and K at the size of the image the camera took.

    Depth is interpolated on surfaces, so that a cloud shows no stairs. At edges and beside unknown pixels it is that of
    the nearest pixel, so that no point floats between a thing and what is behind it. Rows that the network did not see
    are unknown.

    Args:
        placed: on the network's grid.
        image: [H, W, 3] uint8, the source image.
        transform: how the source became the grid.
    """
    depth = transform.depth_to_source(placed.depth, 'nearest')
    smooth = transform.depth_to_source(placed.depth, 'linear')
    step = smooth - depth
    np.copyto(depth, smooth, where=np.abs(step, out=step) < MAX_STEP * depth)
    return dataclasses.replace(
        placed,
        image=image,
        depth=depth,
        confidence=transform.depth_to_source(placed.confidence, 'nearest'),
        K=transform.K_to_source(placed.K),
    )
