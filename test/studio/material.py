"""Images, a video and a bag made of the shipped clip, and predictions of a known wall."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vggt_ros.studio.predictions import Predictions

CLIP = Path(__file__).parents[2] / 'vggt_ros' / 'data' / 'cabinet' / 'rgb'
START_NS = 1_763_800_000_123_456_789
VIDEO_RATE = 5


def images(folder: Path, count: int) -> list[Path]:
    """So many of the clip's images, under the names that a camera gives."""
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(CLIP.glob('*.jpg'))[:count]
    return [Path(shutil.copy(file, folder / f'IMG {i}.jpg')) for i, file in enumerate(files)]


def write_video(path: Path, seconds: int) -> Path:
    """MPEG-4 at VIDEO_RATE; its frame k is the clip's image k, at a quarter of the size."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), VIDEO_RATE, (320, 240))
    for file in sorted(CLIP.glob('*.jpg'))[: seconds * VIDEO_RATE]:
        writer.write(cv2.resize(cv2.imread(str(file)), (320, 240), interpolation=cv2.INTER_AREA))
    writer.release()
    return path


def write_bag(folder: Path, count: int) -> Path:
    """rosbag2 folder with compressed images on /camera/image/compressed, two a second."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    kind = 'sensor_msgs/msg/CompressedImage'
    types = store.types
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection('/camera/image/compressed', kind, typestore=store)
        for i, file in enumerate(sorted(CLIP.glob('*.jpg'))[:count]):
            stamp = START_NS + i * 500_000_000
            time = types['builtin_interfaces/msg/Time'](sec=stamp // 10**9, nanosec=stamp % 10**9)
            header = types['std_msgs/msg/Header'](stamp=time, frame_id='camera_optical')
            data = np.fromfile(file, np.uint8)
            message = types[kind](header=header, format='jpeg', data=data)
            writer.write(connection, stamp, store.serialize_cdr(message, kind))
    return next(folder.glob('*.mcap'))


def wall(frames: int = 3, size: tuple[int, int] = (12, 16), *, points: bool = False) -> Predictions:
    """A wall two units ahead, seen by cameras that step 0.1 to the right; confidence rises from left to right.

    Args:
        frames, size: how many, (height, width).
        points: whether there is a point head; its points lie one unit farther.
    """
    height, width = size
    K = np.array([[16.0, 0, width / 2], [0, 16.0, height / 2], [0, 0, 1]])
    cam_from_world = np.tile(np.eye(4), (frames, 1, 1))
    cam_from_world[:, 0, 3] = -0.1 * np.arange(frames)
    confidence = np.tile(np.linspace(1, 3, width, dtype=np.float32), (frames, height, 1))
    image = np.zeros((frames, height, width, 3), np.uint8)
    image[..., 0] = np.linspace(30, 200, width).astype(np.uint8)
    predictions = Predictions(
        names=tuple(f'frame {i}' for i in range(frames)),
        stamps_ns=START_NS + 100_000_000 * np.arange(frames),
        images=image,
        depth=np.full((frames, height, width), 2.0, np.float32),
        confidence=confidence,
        cam_from_world=cam_from_world,
        K=np.tile(K, (frames, 1, 1)),
    )
    if not points:
        return predictions
    behind = np.stack([predictions.points_from_depth(i) + np.array([0, 0, 1.0]) for i in range(frames)])
    return Predictions(**{**vars(predictions), 'world_points': behind, 'world_points_confidence': confidence})
