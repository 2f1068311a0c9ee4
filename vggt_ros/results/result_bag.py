"""The messages of a run -> one MCAP file that ros2 bag, rosbags and the viewers read, also after a full disk."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import IO, Any, NoReturn

from vggt_ros import __version__
from vggt_ros.core.errors import OutputError
from vggt_ros.messages import bag_typestore
from vggt_ros.results.exports import write_atomically
from vggt_ros.topics import NODE_NAME, resolve, topics_of

CHUNK_BYTES = 1 << 20  # a chunk is the unit of compression and of seeking; 1 MiB is the recorders' default
RESERVE_MARGIN = 4 << 20  # for the last chunk's index and the summary of 10 000 chunks


class ResultBag:
    """Writes result.mcap.

    Room for the end of the file is held while the run goes on. When the disk fills, that room is given back, the file
    is ended as it should be, and OutputError is raised: what was written stays readable.

    A metadata.yaml beside it makes the folder a rosbag2 bag.

    Args:
        path: file to make; one that is there is replaced.
        node_name: what '~' in topics stands for.
        cameras: names of a rig's cameras, which have topics of their own.

    Raises:
        OutputError: the file cannot be made.
    """

    def __init__(self, path: Path | str, *, node_name: str = NODE_NAME, cameras: tuple[str, ...] = ()) -> None:
        from mcap.writer import CompressionType, Writer

        self.path, self._node_name = Path(path), node_name
        self.counts: dict[str, int] = {}
        self.start_ns, self.end_ns = 0, 0
        self._store = bag_typestore()
        self._offers = {topic.name: (topic.type, topic.depth, topic.latched) for topic in topics_of(cameras)}
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._pending = 0
        self._is_closed = False
        self._reserve = _Reserve(self.path.parent)
        try:
            self._reserve.hold(RESERVE_MARGIN)
            self._stream = _Stream(self.path, self._reserve)
        except OSError as error:
            self._reserve.release()
            raise OutputError(f'cannot write {self.path}: {error.strerror or error}') from error
        # Not compressed, as rosbag2 does: of a frame's 7.5 MB LZ4 saved 17 % for 29 ms, zstd 33 % for 90 ms.
        self._writer = Writer(self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)  # type: ignore[arg-type]
        self._writer.start(profile='ros2', library=f'vggt_ros {__version__}')

    def add_topic(self, name: str, message_type: str, *, depth: int = 5, latched: bool = False) -> None:
        """Allow a topic that is not in topics.TOPICS."""
        self._offers[name] = (message_type, depth, latched)

    def write(self, topic: str, log_time_ns: int, message: Any) -> None:
        """Write a message of the bag's own classes (messages.bag_messages); topic as in topics.TOPICS."""
        self.write_cdr(topic, log_time_ns, self._store.serialize_cdr(message, self._offers[topic][0]))

    def write_cdr(self, topic: str, log_time_ns: int, data: bytes | memoryview) -> None:
        """Write a message that is serialised already, as a raw subscription gives it.

        Raises:
            OutputError: the disk is full; the file has been ended properly before this message.
        """
        self._hold_room(len(data))
        self._writer.add_message(self._channel(topic), log_time_ns, bytes(data), log_time_ns, self.counts.get(topic, 0))
        self.start_ns = min(self.start_ns or log_time_ns, log_time_ns)
        self.end_ns = max(self.end_ns, log_time_ns)
        self.counts[topic] = self.counts.get(topic, 0) + 1
        if self._stream.full is not None:
            self._end_early(self._stream.full)

    def close(self) -> None:
        """End the file, with the index that players want, and give back the reserve; twice is once."""
        if self._is_closed:
            return
        self._is_closed = True
        self._reserve.release()
        try:
            # Empty: rosbag2 then takes QoS in the numbers of metadata version 8, which Humble reads as well.
            # Source: ros2/rosbag2, rosbag2_storage_mcap/src/mcap_storage.cpp, read_metadata.
            self._writer.add_metadata('rosbag2', {'serialized_metadata': ''})
            self._writer.finish()
            self._stream.close()
            write_atomically(self.path.with_name('metadata.yaml'), self._metadata().encode())
        except OSError as error:
            raise OutputError(f'cannot finish {self.path}: {error.strerror or error}') from error

    def __enter__(self) -> ResultBag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hold_room(self, size: int) -> None:
        """Hold room for the chunk that this message goes into, and for the end of the file."""
        self._pending = size if self._pending > CHUNK_BYTES else self._pending + size
        try:
            self._reserve.hold(RESERVE_MARGIN + self._pending + self._pending // 16)
        except OSError as error:
            self._end_early(error)

    def _end_early(self, error: OSError) -> NoReturn:
        kept = sum(self.counts.values())
        self.close()
        raise OutputError(
            f'cannot go on writing {self.path}: {error.strerror or error}; '
            f'its {kept} messages so far are kept and readable; free some space and run again'
        ) from error

    def _metadata(self) -> str:
        """metadata.yaml in the version of Humble: it makes the folder a bag for `ros2 bag play FOLDER`."""
        from ruamel.yaml import YAML

        count, duration_ns = sum(self.counts.values()), self.end_ns - self.start_ns
        start, duration = {'nanoseconds_since_epoch': self.start_ns}, {'nanoseconds': duration_ns}
        topics = []
        for name, messages in self.counts.items():
            message_type, depth, latched = self._offers[name]
            topic = {'name': resolve(name, self._node_name), 'type': message_type, 'serialization_format': 'cdr'}
            topic['offered_qos_profiles'] = _offered_qos(depth, latched)
            topics.append({'topic_metadata': topic, 'message_count': messages})
        file = {'path': self.path.name, 'starting_time': start, 'duration': duration, 'message_count': count}
        information = {
            'version': 5,
            'storage_identifier': 'mcap',
            'relative_file_paths': [self.path.name],
            'duration': duration,
            'starting_time': start,
            'message_count': count,
            'topics_with_message_count': topics,
            'compression_format': '',
            'compression_mode': '',
            'files': [file],
        }
        text = io.StringIO()
        yaml = YAML()
        yaml.representer.ignore_aliases = lambda *_: True
        yaml.dump({'rosbag2_bagfile_information': information}, text)
        return text.getvalue()

    def _channel(self, topic: str) -> int:
        if topic not in self._channels:
            message_type, depth, latched = self._offers[topic]
            self._channels[topic] = self._writer.register_channel(
                resolve(topic, self._node_name),
                'cdr',
                self._schema(message_type),
                {
                    'offered_qos_profiles': _offered_qos(depth, latched),
                    'topic_type_hash': self._store.hash_rihs01(message_type),
                },
            )
        return self._channels[topic]

    def _schema(self, message_type: str) -> int:
        if message_type not in self._schemas:
            definition, _ = self._store.generate_msgdef(message_type, ros_version=2)
            self._schemas[message_type] = self._writer.register_schema(message_type, 'ros2msg', definition.encode())
        return self._schemas[message_type]


class _Reserve:
    """Disk space held by a file without a name, so that it can be given back when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._size = folder, 0
        self._file: IO[bytes] | None = None

    def hold(self, size: int) -> None:
        """Hold at least so many bytes; OSError where the disk has no room for more."""
        if size <= self._size:
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115  held until release
        if hasattr(os, 'posix_fallocate'):
            os.posix_fallocate(self._file.fileno(), 0, size)
        else:  # macOS, Windows: really written, as a hole would hold nothing
            self._file.seek(self._size)
            self._file.write(b'\0' * (size - self._size))
        self._size = size

    def release(self) -> None:
        """Give it back."""
        if self._file is not None:
            self._file.close()
        self._file, self._size = None, 0


class _Stream:
    """A file that takes the room it lacks from the reserve, once, and then says that it is full."""

    def __init__(self, path: Path, reserve: _Reserve) -> None:
        self._file = path.open('wb', buffering=0)
        self._reserve = reserve
        self.full: OSError | None = None

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                if self.full is not None:
                    raise
                self.full = error
                self._reserve.release()
        return len(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        self._file.close()


def _offered_qos(depth: int, latched: bool) -> str:
    """QoS as a publisher offers it, in the words of rosbag2's metadata version 8: enumerators as numbers.

    Source: ros2/rosbag2, rosbag2_storage/src/rosbag2_storage/qos.cpp; ros2/rmw, rmw/include/rmw/types.h.
    """
    infinite = '{sec: 9223372036, nsec: 854775807}'
    return '\n'.join(
        [
            '- history: 1',  # keep last
            f'  depth: {depth}',
            '  reliability: 1',  # reliable
            f'  durability: {1 if latched else 2}',  # transient local, volatile
            f'  deadline: {infinite}',
            f'  lifespan: {infinite}',
            '  liveliness: 1',  # automatic
            f'  liveliness_lease_duration: {infinite}',
            '  avoid_ros_namespace_conventions: false',
        ]
    )
