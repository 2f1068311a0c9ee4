"""Messages, bags and updates with known content, and a network that knows the truth of an RGB-D folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from vggt.preprocessing import resize_keeping_aspect
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, Sim3, invert_rigid
from vggt_ros.core.placement import Seam, SeamStatus
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.submap import PlacedFrame, Update
from vggt_ros.core.window import Window
from vggt_ros.messages import MessageTypes, bag_messages

REPOSITORY = Path(__file__).parents[2]
SHARED = Path(os.environ.get('VGGT_ROS_SHARED', REPOSITORY.parent / 'shared'))
SHIPPED_CLIP = REPOSITORY / 'vggt_ros' / 'data' / 'cabinet'
START_NS = 1_763_800_000_123_456_789  # a stamp of today that no float64 of seconds can hold
FRAME_NS = 33_333_333


def make_shared_bag(folder: Path, bag: Path, *arguments: str) -> Path:
    tool = SHARED / 'tools' / 'make_bag.py'
    if not tool.is_file():
        pytest.skip(f'no {tool} to make a bag with')
    subprocess.run([sys.executable, str(tool), str(folder), str(bag), *arguments], check=True, capture_output=True)
    return bag


class ReadMessage(NamedTuple):
    """A message as mcap-ros2-support, a reader that shares no code with what wrote it, gives it."""

    topic: str
    type: str
    log_time_ns: int
    fields: Any


def read_mcap(path: Path) -> list[ReadMessage]:
    with path.open('rb') as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        return [
            ReadMessage(channel.topic, schema.name, message.log_time, decoded)
            for schema, channel, message, decoded in reader.iter_decoded_messages(log_time_order=False)
        ]


def coloured_image(height: int = 48, width: int = 64) -> np.ndarray:
    """[H, W, 3] uint8 RGB, smooth, each channel another gradient: a swapped or shifted channel shows."""
    v, u = np.mgrid[:height, :width]
    channels = (60 + 120 * u / width, 200 - 120 * v / height, 40 + 60 * (u + v) / (height + width))
    return np.stack(channels, axis=-1).astype(np.uint8)


def header(types: MessageTypes, stamp_ns: int, frame_id: str = 'camera') -> Any:
    time = types['builtin_interfaces/msg/Time'](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return types['std_msgs/msg/Header'](stamp=time, frame_id=frame_id)


def image_message(
    types: MessageTypes,
    pixels: np.ndarray,
    encoding: str,
    *,
    stamp_ns: int = START_NS,
    size: tuple[int, int] | None = None,
    step: int | None = None,
    is_bigendian: int = 0,
    frame_id: str = 'camera',
) -> Any:
    """Image of rows of bytes; size (height, width) where it is not that of the array."""
    height, width = size or pixels.shape[:2]
    return types.with_data(
        types['sensor_msgs/msg/Image'],
        pixels,
        header=header(types, stamp_ns, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=pixels.nbytes // height if step is None else step,
    )


def compressed_message(
    types: MessageTypes, data: bytes, form: str = 'rgb8; jpeg compressed bgr8', stamp_ns: int = START_NS
) -> Any:
    kind = types['sensor_msgs/msg/CompressedImage']
    return types.with_data(kind, np.frombuffer(data, np.uint8), header=header(types, stamp_ns), format=form)


def info_message(
    types: MessageTypes,
    K: np.ndarray,
    size: tuple[int, int],
    *,
    stamp_ns: int = START_NS,
    P: np.ndarray | None = None,
    d: Iterable[float] = (0, 0, 0, 0, 0),
    binning: tuple[int, int] = (0, 0),
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Any:
    """CameraInfo; size (height, width), roi x_offset, y_offset, height, width."""
    x, y, height, width = roi
    projection = np.hstack([K if P is None else P, np.zeros((3, 1))])
    return types['sensor_msgs/msg/CameraInfo'](
        header=header(types, stamp_ns),
        height=size[0],
        width=size[1],
        distortion_model='plumb_bob',
        d=types.doubles_field(np.array(list(d), np.float64)),
        k=np.asarray(K, np.float64).reshape(9),
        r=np.eye(3).reshape(9),
        p=projection.reshape(12),
        binning_x=binning[0],
        binning_y=binning[1],
        roi=types['sensor_msgs/msg/RegionOfInterest'](
            x_offset=x, y_offset=y, height=height, width=width, do_rectify=False
        ),
    )


def write_bag(
    path: Path,
    messages: Iterable[tuple[str, str, int, Any]],
    storage: StoragePlugin = StoragePlugin.MCAP,
) -> Path:
    """rosbag2 folder of (topic, type, log time ns, message)."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    connections: dict[str, Any] = {}
    with Writer(path, version=8, storage_plugin=storage) as writer:
        for topic, kind, time, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], time, store.serialize_cdr(message, kind))
    return path


def camera_bag(path: Path, count: int = 6, **write: Any) -> Path:
    """A bag of one calibrated camera: count coloured images of 64x48 on /camera/image_raw."""
    types, K = bag_messages(), np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
    entries = []
    for i in range(count):
        stamp = START_NS + i * FRAME_NS
        info = info_message(types, K, (48, 64), stamp_ns=stamp)
        entries.append(('/camera/camera_info', 'sensor_msgs/msg/CameraInfo', stamp, info))
        image = image_message(types, coloured_image(), 'rgb8', stamp_ns=stamp)
        entries.append(('/camera/image_raw', 'sensor_msgs/msg/Image', stamp, image))
    return write_bag(path, entries, **write)


def placed_frame(
    index: int = 0,
    size: tuple[int, int] = (30, 40),
    map_from_cam: np.ndarray | None = None,
    frame_id: str = 'camera',
    seed: int = 0,
) -> PlacedFrame:
    """A frame that looks at a slanted wall with holes; the camera moves 0.1 forward each frame."""
    height, width = size
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:height, :width]
    depth = (2.0 + 0.01 * u + 0.02 * v).astype(np.float32)
    depth[rng.random(size) < 0.1] = np.nan
    if map_from_cam is None:
        forward = np.eye(4)
        forward[2, 3] = 0.1 * index
        map_from_cam = BODY_FROM_OPTICAL @ forward
    return PlacedFrame(
        stamp_ns=START_NS + index * FRAME_NS,
        frame_id=frame_id,
        image=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        depth=depth,
        confidence=(1 + rng.random(size)).astype(np.float32),
        K=np.array([[50.0, 0, 19.3], [0, 51.0, 14.6], [0, 0, 1]]),
        map_from_cam=map_from_cam,
        covariance=np.eye(6) * 1e-4,
        step_covariance=np.eye(6) * 1e-5,
    )


def update_of(
    *frames: PlacedFrame, index: int = 0, status: SeamStatus = SeamStatus.ALIGNED, ratio: float = 0.9
) -> Update:
    return Update(
        frames=frames,
        window_stamps_ns=tuple(frame.stamp_ns for frame in frames),
        map_from_window_cams=np.stack([frame.map_from_cam for frame in frames]),
        map_from_window=Sim3.identity(),
        seam=Seam(status, shared_frames=4, inlier_ratio=ratio, residual=0.01, scale_ratio=1.05),
        index=index,
        metric=False,
    )


class TruthPredictor:
    """A network that knows depth and poses of an RGB-D folder, and answers at a random scale per window.

    Args:
        folder: in the layout of shared/data, with depth and trajectory_tum.txt.
        width: of its grid in pixels.
    """

    def __init__(self, folder: Path, width: int = 112) -> None:
        self._rng, self._width = np.random.default_rng(0), width
        self._unit = 1 / json.loads((folder / 'camera.json').read_text())['depth_scale']
        self.world_from_cam = read_tum(folder / 'trajectory_tum.txt')
        rows = [line.split() for line in (folder / 'frames.txt').read_text().splitlines() if not line.startswith('#')]
        self._depth = {seconds_to_ns(row[0]): folder / row[2] for row in rows}

    def reset(self) -> None:
        """Nothing is kept."""

    def predict(self, window: Window) -> Prediction:
        frames = window.frames
        images = [resize_keeping_aspect(frame.image, self._width, 14) for frame in frames]
        transform, scale = images[0].transform, float(np.exp(self._rng.normal() * 0.3))
        truth = [self.world_from_cam[self._nearest(frame.stamp_ns)] for frame in frames]
        cam_from_window = np.stack([invert_rigid(pose) @ truth[0] for pose in truth])
        cam_from_window[0] = np.eye(4)
        cam_from_window[:, :3, 3] *= scale
        K = np.stack([transform.K_to_model(frame.K) for frame in frames])
        depth = np.stack([self._sample(frame.stamp_ns, transform) for frame in frames]) * np.float32(scale)
        return Prediction(
            stamps_ns=tuple(frame.stamp_ns for frame in frames),
            frame_ids=tuple(frame.frame_id for frame in frames),
            image=np.stack([(image.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for image in images]),
            cam_from_window=cam_from_window,
            K=K,
            K_network=K,
            depth=depth,
            confidence=np.where(np.isfinite(depth), np.float32(2), np.float32('nan')),
            transform=transform,
        )

    def _nearest(self, stamp_ns: int) -> int:
        """A bag's stamps went through float seconds: 0.2 us off."""
        return min(self.world_from_cam, key=lambda known: abs(known - stamp_ns))

    def _sample(self, stamp_ns: int, transform: Any) -> np.ndarray:
        """[h, w] depth at the grid's pixel centres, the nearest of the sensor's."""
        stored = cv2.imread(str(self._depth[self._nearest(stamp_ns)]), cv2.IMREAD_UNCHANGED)
        height, width = transform.model_size
        grid_from_source = transform.K_to_model(np.eye(3))  # of a unit camera: scale and shift
        (su, sv), (tu, tv) = np.diag(grid_from_source)[:2], grid_from_source[:2, 2]
        u = np.round((np.arange(width) - tu) / su).astype(int).clip(0, stored.shape[1] - 1)
        v = np.round((np.arange(height) - tv) / sv).astype(int).clip(0, stored.shape[0] - 1)
        metres = stored[np.ix_(v, u)].astype(np.float32) * np.float32(self._unit)
        metres[metres == 0] = np.nan
        return metres


def read_tum(path: Path) -> dict[int, np.ndarray]:
    """trajectory_tum.txt -> stamp in ns to [4, 4] pose, by this test's own reading."""
    poses = {}
    for line in path.read_text().splitlines():
        if line.startswith('#'):
            continue
        stamp, *values = line.split()
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat([float(value) for value in values[3:]]).as_matrix()
        pose[:3, 3] = [float(value) for value in values[:3]]
        poses[seconds_to_ns(stamp)] = pose
    return poses


def seconds_to_ns(text: str) -> int:
    seconds, _, fraction = text.partition('.')
    return int(seconds) * 10**9 + int((fraction + '0' * 9)[:9])
