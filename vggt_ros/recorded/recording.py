"""Recording: the messages of a bag, rosbag2 (MCAP, sqlite3) or rosbag1, also where its recorder was cut off."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vggt_ros.core.errors import EncodingError, SourceError
from vggt_ros.messages import bag_typestore

log = logging.getLogger(__name__)

STORAGE_SUFFIXES = ('.mcap', '.db3')
BAG_SUFFIXES = (*STORAGE_SUFFIXES, '.bag')
_MEND = {
    '.mcap': 'mcap recover FILE -o mended.mcap',
    '.db3': 'sqlite3 FILE ".recover" | sqlite3 mended.db3',
    '.bag': 'rosbag reindex FILE',
}


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
        if not parts or not all(part.suffix == '.mcap' for part in parts) or not any(map(_is_torn_mcap, parts)):
            raise
        log.debug('%s', error)
        return _TornMcap(parts)


class _WholeRecording:
    """Any bag that is complete, through rosbags' AnyReader."""

    def __init__(self, paths: list[Path]) -> None:
        from rosbags.highlevel import AnyReader

        self._name = ', '.join(map(str, paths))
        try:
            self._reader = AnyReader(paths, default_typestore=bag_typestore())
            self._reader.open()
        except Exception as error:  # rosbags checks most, not all, of what a broken file may hold
            mend = _MEND.get(_suffix(paths[0]), '')
            way_out = f'; this may mend it: {mend}' if mend else ''
            raise SourceError(f'bag {self._name} cannot be read: {error or type(error).__name__}{way_out}') from error
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
        try:
            text = schema.data.decode()
            types = get_types_from_msg(text, schema.name) if schema.encoding == 'ros2msg' else get_types_from_idl(text)
            self._store.register({name: one for name, one in types.items() if name not in self._store.types})
        except Exception as error:  # of the parser and of the store; its messages then cannot be read
            log.debug('%s: %s', schema.name, error)


def _storage_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(part for part in path.iterdir() if part.suffix in STORAGE_SUFFIXES)


def _suffix(path: Path) -> str:
    """Of the files in which the bag lies."""
    return next((part.suffix for part in _storage_files(path)), '')


def _is_torn_mcap(path: Path) -> bool:
    magic = b'\x89MCAP0\r\n'
    with path.open('rb') as stream:
        if stream.read(len(magic)) != magic:
            return False
        stream.seek(-len(magic), os.SEEK_END)
        return stream.read() != magic


def _offered_qos(connections: Collection[Any]) -> list[Any]:
    return [qos for one in connections for qos in getattr(one.ext, 'offered_qos_profiles', [])]
