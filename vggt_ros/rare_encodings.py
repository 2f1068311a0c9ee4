"""Images in the rarer encodings, through cv_bridge."""

from __future__ import annotations

from typing import Any

import numpy as np

from vggt_ros.core.errors import EncodingError


def convert_to_rgb(message: Any) -> np.ndarray:
    """[H, W, 3] uint8 RGB of a sensor_msgs/Image."""
    try:
        from cv_bridge import CvBridge
    except ImportError as error:  # its binary of Humble and Jazzy breaks beside NumPy 2
        raise EncodingError(
            f'image encoding {message.encoding!r} needs cv_bridge, which fails here: {error}'
        ) from error
    return CvBridge().imgmsg_to_cv2(message, 'rgb8')
