"""The masks of a recording: from the file of mask_path, and from a topic of a bag."""

from __future__ import annotations

from pathlib import Path

from vggt_ros.core.config import Config
from vggt_ros.core.errors import EncodingError, SourceError
from vggt_ros.masks import FindMask, Masks
from vggt_ros.recorded.recording import open_recording


def masks_of(path: Path, config: Config, topics: str = '') -> tuple[FindMask, ...]:
    """For each camera what finds its masks; empty where there are none.

    Args:
        path: the recording.
        config: mask and rig settings.
        topics: of the masks, one a camera, separated by commas.

    Raises:
        ConfigError: mask_path is no mask.
        SourceError: mask_mode asks for masks that the recording does not have.
        EncodingError: a mask of the recording is none.
    """
    if not config.mask.path and config.mask.mode == 'none':
        return ()
    cameras = config.rig.cameras or ('',)
    masks = tuple(Masks(config.mask, camera, is_live=False) for camera in cameras)
    if config.mask.mode != 'none':
        names = [name for name in topics.split(',') if name]
        if len(names) != len(cameras):
            raise SourceError(f'mask_mode {config.mask.mode} needs --mask-topic with {len(cameras)} topic(s)')
        for one, name in zip(masks, names, strict=True):
            _read(path, name, one)
    return tuple(one.find for one in masks)


def _read(path: Path, topic: str, masks: Masks) -> None:
    """Take all masks of a topic, a bit a pixel."""
    recording = open_recording(path)
    try:
        if topic not in recording.topics:
            raise SourceError(f'{path} has no topic {topic} for masks')
        for recorded in recording.messages([topic]):
            try:
                masks.add(recording.deserialize(recorded))
            except EncodingError as error:
                raise EncodingError(f'{topic} in {path}: {error}') from error
    finally:
        recording.close()
