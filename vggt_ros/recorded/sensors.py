"""RecordedSensors: what other sensors said in a recording, read along with its images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from vggt_ros.core.config import Config
from vggt_ros.core.errors import EncodingError, ShapeError, SourceError
from vggt_ros.core.metric.evidence import Evidence
from vggt_ros.decode import DEFAULT_FRAME_ID, is_depth, stamp_ns
from vggt_ros.decode_sensors import add_cloud, add_depth, add_imu, add_odometry, sample_points
from vggt_ros.recorded.recording import RecordedMessage, open_recording
from vggt_ros.recorded.source import is_bag
from vggt_ros.recorded.tf import RecordedTransforms
from vggt_ros.results.depth_error import DepthFolder
from vggt_ros.throttle import Throttle

log = logging.getLogger(__name__)

AHEAD_NS = 500_000_000  # sensors are read so far ahead of the images: live, they have the time of the network to come
TYPES = {
    'odom': 'nav_msgs/msg/Odometry',
    'depth': 'sensor_msgs/msg/Image',
    'lidar': 'sensor_msgs/msg/PointCloud2',
    'imu': 'sensor_msgs/msg/Imu',
}
TF = '/tf'


class Sensors(Protocol):
    """Sensors beside the images of a recording.

    `evidence` takes what they say; `mounts` is where they sit, which it asks.
    """

    evidence: Evidence
    mounts: RecordedTransforms

    def read_to(self, stamp_ns: int) -> None:
        """Take what was said until a little after a stamp."""

    def close(self) -> None:
        """Free the files."""


def open_sensors(path: Path, config: Config, topics: Mapping[str, str] | None = None) -> Sensors:
    """The sensors that the settings ask for.

    Args:
        path: the recording that the images come from.
        config: all settings; where metres and up come from is read here.
        topics: of a bag, by 'odom', 'depth', 'lidar', 'imu'; what is not named is found by its type.

    Raises:
        SourceError: the recording does not have what the settings ask for.
    """
    wanted = wanted_sensors(config)
    if not wanted:
        return NoSensors(config)
    if path.exists() and is_bag(path):
        return BagSensors(path, config, wanted, topics or {})
    if wanted == {'depth'} and path.is_dir():
        return FolderDepth(path, config)
    raise SourceError(
        f'{path} has no {" and no ".join(sorted(wanted))}: a bag has all kinds of sensors, a folder of images depth '
        'images (camera.json, frames.txt); choose another scale_source or gravity_source'
    )


def wanted_sensors(config: Config) -> set[str]:
    """Names of the sensors that tell metres and up."""
    by_source = {'odometry': 'odom', 'tf': 'tf', 'depth': 'depth', 'lidar': 'lidar'}
    wanted = {by_source[config.scale.scale_source]} if config.scale.scale_source in by_source else set()
    return wanted | ({'imu'} if config.scale.gravity_source == 'imu' else set())


class NoSensors:
    """Nothing beside the images is needed."""

    def __init__(self, config: Config) -> None:
        self.mounts = RecordedTransforms()
        self.evidence = Evidence.of(config, self.mounts)

    def read_to(self, stamp_ns: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class FolderDepth:
    """The depth images of a folder, of the same camera (depth_error.DepthFolder)."""

    def __init__(self, path: Path, config: Config) -> None:
        self.mounts = RecordedTransforms()
        self.evidence = Evidence.of(config, self.mounts)
        self._frame_id = config.frames.camera_optical_frame or DEFAULT_FRAME_ID
        self._images = iter(DepthFolder(path))
        self._next = next(self._images, None)

    def read_to(self, stamp_ns: int) -> None:
        """Take the depth images until a little after a stamp."""
        while self._next is not None and self._next[0] <= stamp_ns + AHEAD_NS:
            stamp, depth, K = self._next
            self.evidence.add_points(stamp, self._frame_id, sample_points(depth, K))
            self._next = next(self._images, None)

    def close(self) -> None:
        """Files are open only while they are read."""


class BagSensors:
    """Topics of a bag.

    Args:
        path: the bag; it is opened a second time, as sensors are read ahead of the images.
        config: all settings.
        wanted: names of the sensors.
        topics: by name, where they are not to be found by type.
    """

    def __init__(self, path: Path, config: Config, wanted: set[str], topics: Mapping[str, str]) -> None:
        self._path, self._throttle = path, Throttle()
        self._recording = open_recording(path)
        try:
            chosen = {self._choose(name, topics.get(name, '')): name for name in sorted(wanted)}
        except BaseException:
            self._recording.close()
            raise
        self.mounts = RecordedTransforms()
        self.evidence = Evidence.of(config, self.mounts)
        self._takers = {topic: self._taker(topic, name) for topic, name in chosen.items()}
        if TF in self._recording.topics:
            self._takers[TF] = self.mounts.add_moving
        for topic in list(self._takers):
            self._listen_for_info(topic, chosen.get(topic, ''))
        self._messages = self._recording.messages(list(self._takers))
        self._read_ns: int | None = None

    def read_to(self, stamp_ns: int) -> None:
        """Take what was said until a little after a stamp."""
        for recorded in self._until(stamp_ns + AHEAD_NS):
            try:
                message = self._recording.deserialize(recorded)
                self._read_ns = _stamp(message) or self._read_ns
                self._takers[recorded.topic](message)
            except (EncodingError, ShapeError) as error:
                self._throttle(log.warning, recorded.topic, f'{recorded.topic}: message skipped: {error}')

    def close(self) -> None:
        self._recording.close()

    def _until(self, stamp_ns: int) -> Iterator[RecordedMessage]:
        while self._read_ns is None or self._read_ns <= stamp_ns:
            recorded = next(self._messages, None)
            if recorded is None:
                return
            yield recorded

    def _choose(self, name: str, wanted: str) -> str:
        topics = self._recording.topics
        if name == 'tf':
            wanted, kind = TF, 'tf2_msgs/msg/TFMessage'
        else:
            kind = TYPES[name]
        found = [one.name for one in topics.values() if one.type == kind and one.count and wanted in ('', one.name)]
        if name == 'depth' and not wanted:
            found = [topic for topic in found if self._holds_depth(topic)]
        if len(found) == 1:
            return found[0]
        said = 'several topics' if found else f'no topic {wanted}' if wanted else 'no topic'
        listing = '\n'.join(f'  {one.name}  {one.type}, {one.count} messages' for one in topics.values())
        raise SourceError(f'{self._path} has {said} of {kind} for {name}; name one with --{name}-topic:\n{listing}')

    def _holds_depth(self, topic: str) -> bool:
        for recorded in self._recording.messages([topic]):
            return is_depth(self._recording.deserialize(recorded))
        return False

    def _taker(self, topic: str, name: str) -> Callable[[Any], None]:
        evidence = self.evidence
        if name == 'depth':
            return self._take_depth
        if name == 'tf':
            return self.mounts.add_moving
        add = {'odom': add_odometry, 'lidar': add_cloud, 'imu': add_imu}[name]
        return lambda message: add(evidence, message)

    def _listen_for_info(self, topic: str, name: str) -> None:
        """The CameraInfo beside a depth image."""
        if name != 'depth':
            return
        self._depth_info: Any = None
        info = topic.rpartition('/')[0] + '/camera_info'
        if info not in self._recording.topics:
            raise SourceError(f'{self._path} has no CameraInfo on {info}, beside the depth images of {topic}')
        first = next(iter(self._recording.messages([info])), None)  # it never changes; so none waits for it
        self._depth_info = None if first is None else self._recording.deserialize(first)

    def _take_depth(self, message: Any) -> None:
        if self._depth_info is not None:
            add_depth(self.evidence, message, self._depth_info)


def _stamp(message: Any) -> int | None:
    """Of a message with a header, or of the first transform of a TFMessage."""
    if hasattr(message, 'transforms'):
        return stamp_ns(message.transforms[0].header.stamp) if message.transforms else None
    return stamp_ns(message.header.stamp)
