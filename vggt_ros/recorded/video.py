"""A video file -> Frames, through OpenCV."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2

from vggt_ros.core.errors import SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.decode import DEFAULT_FRAME_ID
from vggt_ros.masks import FindMask
from vggt_ros.recorded.ahead import all_ahead
from vggt_ros.recorded.static_tf import StaticTransforms

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.ts', '.wmv', '.ogv')
START_NS = 1_000_000_000  # a video knows no date, and stamp 0 means none in ROS: it starts at second 1


class VideoSource:
    """The frames of a video, upright, stamped with their time in it.

    Args:
        path: video file.
        frame_id: name of the optical frame.
        find_mask: which pixels of an image count (masks.Masks.find).

    Raises:
        SourceError: the file cannot be opened as a video.
    """

    def __init__(self, path: Path | str, *, frame_id: str = '', find_mask: FindMask | None = None) -> None:
        self.path, self._frame_id = Path(path), frame_id or DEFAULT_FRAME_ID
        self._find_mask = find_mask
        self.skipped = 0
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise SourceError(f'{path} cannot be opened as a video; re-encode it, for instance: ffmpeg -i IN out.mp4')
        self._rate = self._capture.get(cv2.CAP_PROP_FPS) or 30.0

    def __len__(self) -> int:
        return max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)  # as its header has it

    def __iter__(self) -> Iterator[Frame]:
        return all_ahead(self._frames())

    def _frames(self) -> Iterator[Frame]:
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
        count, last_ns = 0, 0
        while True:
            is_read, image = self._capture.read()
            if not is_read:
                break
            # The container's own times where it has them: phones record at a varying rate.
            stamp_ns = START_NS + round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            if stamp_ns <= last_ns:
                stamp_ns = max(last_ns + 1, START_NS + round(count / self._rate * 1e9))
            seen = self._find_mask(stamp_ns, image.shape[:2]) if self._find_mask is not None else None
            yield Frame(stamp_ns, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self._frame_id, mask=seen)
            count, last_ns = count + 1, stamp_ns
        if count == 0:
            raise SourceError(f'{self.path} holds no readable frame')
        if count < 0.95 * len(self):
            log.warning('%s breaks off: %d of %d frames could be read', self.path, count, len(self))

    def static_transforms(self) -> StaticTransforms:
        """None: nobody says where the camera is mounted."""
        return StaticTransforms()

    def close(self) -> None:
        self._capture.release()
