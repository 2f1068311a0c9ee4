"""One camera of a recorded bag -> Frames; no ROS needed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.core.errors import EncodingError, ShapeError, SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.decode import CameraInfoCache, decode_frame, is_depth, is_distorted, stamp_ns
from vggt_ros.masks import FindMask
from vggt_ros.recorded.ahead import ahead
from vggt_ros.recorded.recording import RecordedMessage, RecordedTopic, open_recording
from vggt_ros.recorded.static_tf import StaticTransforms
from vggt_ros.rectify import Rectifiers

log = logging.getLogger(__name__)

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
IMAGES_BEFORE_INFO = 64  # images held while no CameraInfo has come; a driver sends the two within a few messages


class BagSource:
    """The frames of one camera in a bag.

    Args:
        path: bag file or folder.
        topic: image topic; empty takes the only one there is (depth images do not count).
        camera_info_topic: its calibration; empty takes the sibling `camera_info` of the image topic.
        frame_id: name of the optical frame; empty takes that of the images.
        skip_bad: log and count an image that cannot be decoded, instead of stopping on it.
        rectify: take lens distortion out, unless the topic is a rectified one.
        find_mask: which pixels of an image count (masks.Masks.find).

    Raises:
        SourceError: no bag, no image topic, or several and none is named.
    """

    def __init__(
        self,
        path: Path | str,
        topic: str = '',
        *,
        camera_info_topic: str = '',
        frame_id: str = '',
        skip_bad: bool = False,
        rectify: bool = True,
        find_mask: FindMask | None = None,
    ) -> None:
        self.path, self.skip_bad, self.skipped = Path(path), skip_bad, 0
        self._frame_id = frame_id
        self._rectifiers = Rectifiers() if rectify else None
        self._find_mask = find_mask
        self._recording = open_recording(path)
        try:
            self.topic = self._choose_topic(topic)
            self.camera_info_topic = self._choose_camera_info(camera_info_topic)
        except BaseException:
            self._recording.close()
            raise
        self._rectified = 'rect' in self.topic.removesuffix('/compressed').rsplit('/', 1)[-1]

    def __len__(self) -> int:
        return self._recording.topics[self.topic].count

    def __iter__(self) -> Iterator[Frame]:
        """Frames in recorded order.

        Raises:
            EncodingError: an image cannot be decoded, and skip_bad is off.
            SourceError: the bag breaks off; the frames before it are good.
        """
        infos = CameraInfoCache()
        for frame in ahead(self._reading(one, infos) for one in self._images_after_info(infos)):
            if not isinstance(frame, Exception):
                yield frame
                continue
            where = f'{self.topic} in {self.path}'
            if not self.skip_bad:
                raise EncodingError(f'{where}: {frame}; --skip-bad goes on without it') from frame
            self.skipped += 1
            log.warning('skipped an image: %s: %s', where, frame)

    def close(self) -> None:
        self._recording.close()

    def static_transforms(self) -> StaticTransforms:
        """What the recording says of the robot's fixed frames; empty where it has no /tf_static."""
        transforms = StaticTransforms()
        if '/tf_static' in self._recording.topics:
            for recorded in self._recording.messages(['/tf_static']):
                try:
                    transforms.add(self._recording.deserialize(recorded))
                except EncodingError as error:
                    log.warning('left out of /tf_static in %s: %s', self.path, error)
        return transforms

    def _reading(self, recorded: RecordedMessage, infos: CameraInfoCache) -> Callable[[], Frame | Exception]:
        """What decodes an image, with the calibration known by now; what is wrong with it is returned."""
        try:
            message = self._recording.deserialize(recorded)
            info = infos.find(stamp_ns(message.header.stamp))
        except (EncodingError, ShapeError) as error:
            return partial(_same, error)
        return partial(self._decode, message, info)

    def _decode(self, message: Any, info: Any) -> Frame | Exception:
        try:
            return decode_frame(
                message,
                info,
                convert=convert_image,
                frame_id=self._frame_id,
                rectified=self._rectified,
                rectifiers=self._rectifiers,
                find_mask=self._find_mask,
            )
        except (EncodingError, ShapeError) as error:
            return error

    def _images_after_info(self, infos: CameraInfoCache) -> Iterator[RecordedMessage]:
        """Images in recorded order; those before the first CameraInfo wait for it, within bounds."""
        waiting: deque[RecordedMessage] = deque()
        is_waiting = bool(self.camera_info_topic)
        for recorded in self._recording.messages([self.topic, *filter(None, [self.camera_info_topic])]):
            if recorded.topic == self.topic:
                waiting.append(recorded)
                is_waiting = is_waiting and len(waiting) <= IMAGES_BEFORE_INFO
            else:
                info = self._recording.deserialize(recorded)
                if infos.find(0) is None:
                    _warn_of_distortion(info, self._rectified or self._rectifiers is not None)
                infos.add(info)
                is_waiting = False
            while waiting and not is_waiting:
                yield waiting.popleft()
        yield from waiting

    def _choose_topic(self, wanted: str) -> str:
        topics = self._recording.topics
        if wanted:
            if wanted not in topics:
                raise SourceError(f'{self.path} has no topic {wanted}; it has\n{_listing(topics.values())}')
            if topics[wanted].type not in (IMAGE, COMPRESSED):
                raise SourceError(f'{wanted} holds {topics[wanted].type}, not images; choose one of\n{_images(topics)}')
            return wanted
        images = [one for one in topics.values() if one.type in (IMAGE, COMPRESSED) and one.count]
        colour = [one.name for one in images if not self._holds_depth(one.name)]
        # A camera recorded both raw and compressed is one camera.
        cameras = [name for name in colour if name.removesuffix('/compressed') == name or name[:-11] not in colour]
        if len(cameras) == 1:
            return cameras[0]
        if cameras:
            listing = _listing(topics[name] for name in cameras)
            raise SourceError(f'{self.path} has several image topics; name one with --topic:\n{listing}')
        if images:
            raise SourceError(f'{self.path} has depth images only, no colour:\n{_listing(images)}')
        raise SourceError(f'{self.path} has no image topic; it has\n{_listing(topics.values()) or "  nothing"}')

    def _holds_depth(self, topic: str) -> bool:
        for recorded in self._recording.messages([topic]):
            return is_depth(self._recording.deserialize(recorded))
        return False

    def _choose_camera_info(self, wanted: str) -> str:
        """The sibling of the image topic: /camera/image_raw -> /camera/camera_info.

        Source: ros-perception/image_pipeline, image_pipeline/doc/tutorials.rst, "Remapping camera_info".
        """
        topics = self._recording.topics
        name = wanted or self.topic.removesuffix('/compressed').rpartition('/')[0] + '/camera_info'
        if name in topics and topics[name].type == CAMERA_INFO and topics[name].count:
            return name
        if wanted:
            raise SourceError(f'{self.path} has no CameraInfo on {wanted}; it has\n{_listing(topics.values())}')
        log.warning('no CameraInfo on %s: the network estimates the intrinsics', name)
        return ''


def convert_image(message: Any) -> np.ndarray:
    """An Image of the rarer encodings -> [H, W, 3] uint8 RGB, through rosbags.image."""
    from rosbags.image import message_to_cvimage

    return message_to_cvimage(message, 'rgb8')


def _same(error: Exception) -> Exception:
    return error


def _warn_of_distortion(info: Any, rectified: bool) -> None:
    if is_distorted(info) and not rectified:
        log.warning('the camera has lens distortion and rectify is never: shapes bend; take --rectify auto')


def _images(topics: dict[str, RecordedTopic]) -> str:
    return _listing(one for one in topics.values() if one.type in (IMAGE, COMPRESSED))


def _listing(topics: Any) -> str:
    return '\n'.join(f'  {one.name}  {one.type}, {one.count} messages' for one in topics)
