"""Recorded bags: rosbag2 (MCAP, sqlite3) and rosbag1, read through rosbags; no ROS needed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vggt_ros.core.errors import EncodingError, ShapeError, SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.decode import CameraInfoCache, decode_frame, is_depth, is_distorted, stamp_ns
from vggt_ros.messages import bag_typestore
from vggt_ros.static_tf import StaticTransforms

log = logging.getLogger(__name__)

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
STORAGE_SUFFIXES = ('.mcap', '.db3')
BAG_SUFFIXES = (*STORAGE_SUFFIXES, '.bag')
IMAGES_BEFORE_INFO = 64  # images held while no CameraInfo has come; a driver sends the two within a few messages


@dataclass(frozen=True)
class RecordedTopic:
    """One topic of a recording: type, messages in it, and the QoS it was offered with, as rosbags has it."""

    name: str
    type: str
    count: int
    qos: list[Any] = field(default_factory=list)


class RecordedMessage(NamedTuple):
    """A message as it lies in the recording: its serialised bytes, and when they were written, in ns."""

    topic: str
    type: str
    log_time_ns: int
    data: bytes


class Recording(Protocol):
    """What a bag gives, whatever its format.

    `is_ros2` tells how the bytes of a message are serialised: CDR, or the layout of ROS 1.
    """

    topics: dict[str, RecordedTopic]
    is_ros2: bool

    def messages(self, topics: Collection[str] = ()) -> Iterator[RecordedMessage]:
        """Messages in order of log time; of all topics where none is named."""

    def deserialize(self, message: RecordedMessage) -> Any:
        """The message's fields as attributes."""

    def close(self) -> None:
        """Free the files."""


def open_recording(path: Path | str) -> Recording:
    """Open a bag: a rosbag2 folder or file (MCAP, sqlite3), or a rosbag1 file.

    An MCAP file that its recorder could not finish is read as far as it goes, with a warning.

    Raises:
        SourceError: there is no bag, or it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f'bag {path} does not exist')
    parts = _storage_files(path)
    try:
        return _WholeRecording([path] if path.is_file() or (path / 'metadata.yaml').exists() else parts)
    except SourceError as error:
        torn = [part for part in parts if part.suffix == '.mcap']
        if not torn or len(torn) != len(parts) or not any(_is_torn_mcap(part) for part in torn):
            raise
        log.warning('%s: reading what is there of it', error)
        return _TornMcap(torn)


class BagSource:
    """The frames of one camera in a bag.

    Args:
        path: bag file or folder.
        topic: image topic; empty takes the only one there is (depth images do not count).
        camera_info_topic: its calibration; empty takes the sibling `camera_info` of the image topic.
        frame_id: name of the optical frame; empty takes that of the images.
        skip_bad: log and count an image that cannot be decoded, instead of stopping on it.

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
    ) -> None:
        self.path, self.skip_bad, self.skipped = Path(path), skip_bad, 0
        self._frame_id = frame_id
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
        for recorded in self._images_after_info(infos):
            try:
                yield self._decode(recorded, infos)
            except (EncodingError, ShapeError) as error:
                where = f'{self.topic} in {self.path}'
                if not self.skip_bad:
                    raise EncodingError(f'{where}: {error}; --skip-bad goes on without it') from error
                self.skipped += 1
                log.warning('skipped an image: %s: %s', where, error)

    def close(self) -> None:
        self._recording.close()

    def static_transforms(self) -> StaticTransforms:
        """What the recording says of the robot's fixed frames; empty where it has no /tf_static."""
        transforms = StaticTransforms()
        if '/tf_static' in self._recording.topics:
            for recorded in self._recording.messages(['/tf_static']):
                transforms.add(self._recording.deserialize(recorded))
        return transforms

    def _decode(self, recorded: RecordedMessage, infos: CameraInfoCache) -> Frame:
        message = self._recording.deserialize(recorded)
        info = infos.find(stamp_ns(message.header.stamp))
        return decode_frame(message, info, convert=convert_image, frame_id=self._frame_id, rectified=self._rectified)

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
                    _warn_of_distortion(info, self._rectified)
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


class _WholeRecording:
    """Any bag that is complete, through rosbags' AnyReader."""

    def __init__(self, paths: list[Path]) -> None:
        from rosbags.highlevel import AnyReader, AnyReaderError

        self._name = ', '.join(map(str, paths))
        try:
            self._reader = AnyReader(paths, default_typestore=bag_typestore())
            self._reader.open()
        except (AnyReaderError, OSError, ValueError, KeyError, AssertionError, EOFError, TypeError) as error:
            # rosbags checks most, not all, of what a broken file may hold
            raise SourceError(f'bag {self._name} cannot be read: {error or type(error).__name__}') from error
        self.is_ros2 = self._reader.is2
        self.topics = {
            name: RecordedTopic(name, info.msgtype or 'several types', info.msgcount, _offered_qos(info.connections))
            for name, info in self._reader.topics.items()
        }

    def messages(self, topics: Collection[str] = ()) -> Iterator[RecordedMessage]:
        connections = [one for one in self._reader.connections if not topics or one.topic in topics]
        try:
            for connection, time, data in self._reader.messages(connections=connections):
                yield RecordedMessage(connection.topic, connection.msgtype, time, data)
        except Exception as error:  # rosbags, its decompressors and sqlite each have their own
            if isinstance(error, MemoryError):
                raise
            raise SourceError(f'bag {self._name} breaks off: {error or type(error).__name__}') from error

    def deserialize(self, message: RecordedMessage) -> Any:
        try:
            return self._reader.deserialize(message.data, message.type)
        except Exception as error:
            raise EncodingError(f'a message of {message.topic} is broken: {error or type(error).__name__}') from error

    def close(self) -> None:
        self._reader.close()


class _TornMcap:
    """MCAP files without an end, read record by record as far as they go.

    Source: the MCAP specification, https://mcap.dev/spec: records stand one after another, the index comes last.
    """

    is_ros2 = True

    def __init__(self, paths: list[Path]) -> None:
        from rosbags.typesys import Stores, get_typestore

        self._paths = paths
        self._store = get_typestore(Stores.EMPTY)
        counts: dict[str, int] = {}
        types: dict[str, str] = {}
        for message in self._records():
            counts[message.topic] = counts.get(message.topic, 0) + 1
            types[message.topic] = message.type
        self.topics = {name: RecordedTopic(name, types[name], count) for name, count in counts.items()}
        if not counts:
            raise SourceError(f'{", ".join(map(str, paths))} is no MCAP file, or holds no whole message')
        log.warning('%s is truncated: %d whole messages could be read', paths[0], sum(counts.values()))

    def messages(self, topics: Collection[str] = ()) -> Iterator[RecordedMessage]:
        return (message for message in self._records() if not topics or message.topic in topics)

    def deserialize(self, message: RecordedMessage) -> Any:
        try:
            return self._store.deserialize_cdr(message.data, message.type)
        except Exception as error:
            raise EncodingError(f'a message of {message.topic} is broken: {error or type(error).__name__}') from error

    def close(self) -> None:
        """Files are open only while they are read."""

    def _records(self) -> Iterator[RecordedMessage]:
        from mcap.records import Channel, Message, Schema
        from mcap.stream_reader import StreamReader

        for path in self._paths:
            schemas: dict[int, Any] = {}
            channels: dict[int, Any] = {}
            with path.open('rb') as stream:
                records = StreamReader(stream, record_size_limit=path.stat().st_size).records
                while True:
                    try:
                        record = next(records)
                    except Exception:  # the torn end shows as a short read, a bad length or a chunk that won't unpack
                        break
                    if isinstance(record, Schema):
                        schemas[record.id] = record
                        self._learn(record)
                    elif isinstance(record, Channel):
                        channels[record.id] = record
                    elif isinstance(record, Message) and record.channel_id in channels:
                        channel = channels[record.channel_id]
                        schema = schemas.get(channel.schema_id)
                        if schema is not None:
                            yield RecordedMessage(channel.topic, schema.name, record.log_time, record.data)

    def _learn(self, schema: Any) -> None:
        from rosbags.typesys import get_types_from_idl, get_types_from_msg

        if schema.name in self._store.types:
            return
        text = schema.data.decode()
        types = get_types_from_msg(text, schema.name) if schema.encoding == 'ros2msg' else get_types_from_idl(text)
        self._store.register({name: one for name, one in types.items() if name not in self._store.types})


def _storage_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(part for part in path.iterdir() if part.suffix in STORAGE_SUFFIXES)


def _is_torn_mcap(path: Path) -> bool:
    magic = b'\x89MCAP0\r\n'
    with path.open('rb') as stream:
        if stream.read(len(magic)) != magic:
            return False
        stream.seek(-len(magic), 2)
        return stream.read() != magic


def _offered_qos(connections: Collection[Any]) -> list[Any]:
    return [qos for one in connections for qos in getattr(one.ext, 'offered_qos_profiles', [])]


def _warn_of_distortion(info: Any, rectified: bool) -> None:
    if is_distorted(info) and not rectified:
        log.warning(
            'the camera has lens distortion and the images are not rectified: shapes bend; run image_proc first'
        )


def _images(topics: dict[str, RecordedTopic]) -> str:
    return _listing(one for one in topics.values() if one.type in (IMAGE, COMPRESSED))


def _listing(topics: Any) -> str:
    return '\n'.join(f'  {one.name}  {one.type}, {one.count} messages' for one in topics)
