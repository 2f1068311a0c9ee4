"""What a path holds -> the right reader of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from vggt_ros.core.config import RigConfig
from vggt_ros.core.errors import SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.masks import FindMask
from vggt_ros.recorded.bag import BagSource
from vggt_ros.recorded.images import ImageFolderSource
from vggt_ros.recorded.recording import BAG_SUFFIXES, STORAGE_SUFFIXES
from vggt_ros.recorded.rig_source import RigSource
from vggt_ros.recorded.static_tf import StaticTransforms
from vggt_ros.recorded.video import VIDEO_SUFFIXES, VideoSource


class Source(Protocol):
    """A recording of one camera.

    Its length is that of its index, for progress bars; a broken recording gives fewer frames.
    """

    path: Path

    @property
    def skipped(self) -> int:
        """Images that could not be decoded so far."""

    def __len__(self) -> int:
        """Frames as the index has them."""

    def __iter__(self) -> Iterator[Frame]:
        """Frames in recorded order."""

    def static_transforms(self) -> StaticTransforms:
        """Fixed frames of the robot, where the recording knows them."""

    def close(self) -> None:
        """Free the files."""


def open_source(
    path: Path | str,
    topic: str = '',
    *,
    camera_info_topic: str = '',
    frame_id: str = '',
    rate: float = 10.0,
    skip_bad: bool = False,
    rectify: bool = True,
    rig: RigConfig | None = None,
    find_masks: Sequence[FindMask] = (),
) -> Source:
    """Open a bag, a video or a folder of images.

    Args:
        path: rosbag2 folder, .mcap, .db3, .bag, a video file, or a folder of images.
        topic, camera_info_topic: of a bag; empty finds them.
        frame_id: name of the optical frame; empty takes that of the recording.
        rate: images a second, for a folder that does not tell.
        skip_bad: go on where an image cannot be decoded.
        rectify: take lens distortion out where the calibration has it.
        rig: several cameras of a bag as one; topic then names their topics, separated by commas.
        find_masks: for each camera which of its pixels count (masks.Masks.find); none where all do.

    Raises:
        SourceError: nothing there, or nothing that holds frames.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f'{path} does not exist')
    suffix = path.suffix.lower()
    if rig is not None and rig.cameras:
        if not is_bag(path):
            raise SourceError(f'{path} is no bag: it holds one camera, camera_names names {len(rig.cameras)}')
        topics = [name for name in topic.split(',') if name]
        return RigSource(path, rig, topics, skip_bad=skip_bad, rectify=rectify, find_masks=find_masks)
    find_mask = find_masks[0] if find_masks else None
    if is_bag(path):
        return BagSource(
            path,
            topic,
            camera_info_topic=camera_info_topic,
            frame_id=frame_id,
            skip_bad=skip_bad,
            rectify=rectify,
            find_mask=find_mask,
        )
    if topic:
        raise SourceError(f'{path} is no bag, so it has no topic {topic}')
    if path.is_dir():
        return ImageFolderSource(
            path, rate=rate, frame_id=frame_id, skip_bad=skip_bad, rectify=rectify, find_mask=find_mask
        )
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path, frame_id=frame_id, find_mask=find_mask)
    raise SourceError(
        f'{path} is none of: a bag ({", ".join(BAG_SUFFIXES)}, a rosbag2 folder), '
        f'a video ({", ".join(VIDEO_SUFFIXES)}), a folder of images'
    )


def is_bag(path: Path) -> bool:
    """Whether a path is a bag file, or a folder that holds one."""
    if path.is_dir():
        return (path / 'metadata.yaml').exists() or any(part.suffix in STORAGE_SUFFIXES for part in path.iterdir())
    return path.suffix.lower() in BAG_SUFFIXES
