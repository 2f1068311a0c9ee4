"""Several cameras of one bag -> Frames with views; no ROS needed."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path

from vggt_ros.core.config import RigConfig
from vggt_ros.core.errors import SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.masks import FindMask
from vggt_ros.moments import Moment, Moments
from vggt_ros.recorded.bag import BagSource
from vggt_ros.recorded.static_tf import StaticTransforms


class RigSource:
    """The frames of a rig's reference camera in a bag, each with what the other cameras saw at that moment.

    Args:
        path: bag file or folder.
        config: names of the cameras, and how far apart the images of a moment may be.
        topics: image topics in the order of the names; none takes /NAME/image.
        skip_bad: log and count an image that cannot be decoded, instead of stopping on it.
        rectify: take lens distortion out, unless the topic is a rectified one.

    Raises:
        SourceError: no bag, another number of topics than of names, or a topic without images.
    """

    def __init__(
        self,
        path: Path | str,
        config: RigConfig,
        topics: list[str],
        *,
        skip_bad: bool = False,
        rectify: bool = True,
        find_masks: Sequence[FindMask | None] = (),
    ) -> None:
        names = config.cameras
        topics = topics or [f'/{name}/image' for name in names]
        if len(topics) != len(names):
            raise SourceError(
                f'{len(names)} cameras ({", ".join(names)}) need as many topics, got {", ".join(topics)}; name them in '
                'that order: --topic /left/image_raw,/right/image_raw'
            )
        self.path, self._config = Path(path), config
        self._cameras: list[BagSource] = []
        try:
            for topic, find_mask in zip(topics, find_masks or [None] * len(topics), strict=True):
                source = BagSource(path, topic, skip_bad=skip_bad, rectify=rectify, find_mask=find_mask)
                self._cameras.append(source)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._cameras[0])

    @property
    def skipped(self) -> int:
        """Images that could not be decoded."""
        return sum(camera.skipped for camera in self._cameras)

    def __iter__(self) -> Iterator[Frame]:
        """Frames of the reference in recorded order, with their views."""
        moments: Moments[Frame] = Moments(len(self._cameras), round(self._config.camera_sync_s * 1e9))
        streams = [_numbered(i, camera) for i, camera in enumerate(self._cameras)]
        for frame in heapq.merge(*streams, key=lambda one: one.stamp_ns):
            yield from map(_with_views, moments.add(frame.camera, frame.stamp_ns, frame))
        yield from map(_with_views, moments.flush())

    def static_transforms(self) -> StaticTransforms:
        """What the recording says of the robot's fixed frames."""
        return self._cameras[0].static_transforms()

    def close(self) -> None:
        for camera in self._cameras:
            camera.close()


def _numbered(camera: int, source: BagSource) -> Iterator[Frame]:
    return (dataclasses.replace(frame, camera=camera) for frame in source)


def _with_views(moment: Moment[Frame]) -> Frame:
    reference, *views = moment.items.values()
    return dataclasses.replace(reference, views=tuple(views))
