"""What the consumers of our messages do with them, from their published rules; own code, and none of ours in it.

Each judge takes messages as they came over the wire and gives what the consumer makes of them, or raises RejectedError
with the consumer's reason. Facts are named under Source; nothing here ran inside a consumer.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from rclpy.time import Time

FLOAT32 = 7  # sensor_msgs/PointField


class RejectedError(Exception):
    """The consumer drops the message, or stops."""


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def depth_pixels(message: Any) -> np.ndarray:
    """[H, W] metres."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    if message.encoding == '32FC1':
        return rows[:, : 4 * message.width].copy().view('<f4')
    return rows[:, : 2 * message.width].copy().view('<u2') / 1000.0


def cloud_columns(cloud: Any, *names: str) -> list[np.ndarray]:
    """Fields of a cloud, point by point, found by name as sensor_msgs' iterators do."""
    fields = {field.name: field for field in cloud.fields}
    data, columns = bytes(cloud.data), []
    starts = [
        row * cloud.row_step + column * cloud.point_step for row in range(cloud.height) for column in range(cloud.width)
    ]
    for name in names:
        if name not in fields or fields[name].datatype != FLOAT32:
            raise RejectedError(f'field {name} as FLOAT32 is missing')
        columns.append(np.array([struct.unpack_from('<f', data, start + fields[name].offset)[0] for start in starts]))
    return columns


def transform_at(buffer: Any, target: str, source: str, stamp: Any) -> np.ndarray:
    """[4, 4] target_from_source as tf2 gives it at exactly this stamp."""
    try:
        found = buffer.lookup_transform(target, source, Time.from_msg(stamp)).transform
    except Exception as error:
        raise RejectedError(f'no transform {target} <- {source} at the stamp: {error}') from error
    x, y, z, w = (getattr(found.rotation, axis) for axis in 'xyzw')
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = found.translation.x, found.translation.y, found.translation.z
    return matrix


def depth_image_proc(depth: Any, colour: Any, info: Any) -> tuple[np.ndarray, np.ndarray]:
    """[H, W, 3] points and [H, W, 3] colours of its xyzrgb node.

    Source: ros-perception/image_pipeline, depth_image_proc/src/point_cloud_xyzrgb.cpp and conversions.hpp: one size for
    depth and colour or the frame is dropped; the camera model is that of P; depth that is not finite gives NaN.
    """
    if stamp_ns(depth) != stamp_ns(colour) or stamp_ns(depth) != stamp_ns(info):
        raise RejectedError('depth, colour and camera_info differ in their stamps (exact_sync)')
    if depth.header.frame_id != colour.header.frame_id:
        raise RejectedError('depth and colour differ in their frames')
    if (depth.width, depth.height) != (colour.width, colour.height):
        raise RejectedError('depth and colour differ in size')
    if depth.encoding not in ('32FC1', '16UC1') or colour.encoding not in ('rgb8', 'bgr8', 'mono8'):
        raise RejectedError(f'encodings {depth.encoding} and {colour.encoding}')
    fx, _, cx, _, _, fy, cy, _ = info.p[:8]
    z = depth_pixels(depth).astype(np.float64)
    v, u = np.mgrid[: depth.height, : depth.width]
    points = np.stack([(u - cx) * z / fx, (v - cy) * z / fy, z], axis=-1)
    points[~np.isfinite(z)] = np.nan
    pixels = np.frombuffer(colour.data, np.uint8).reshape(colour.height, colour.step)[:, : 3 * colour.width]
    return points, pixels.reshape(colour.height, colour.width, 3)


class Nvblox:
    """Takes depth and colour frame after frame, and stops when a camera changes.

    Source: isaac_ros_nvblox, nvblox_ros/src/lib/image_conversions.cpp (encodings, K), camera_cache.cpp (a CHECK that
    cameras are equal), transformer.cpp (transform at the exact stamp), nvblox_node.cpp (exact time synchronisation).
    """

    def __init__(self, buffer: Any, global_frame: str = 'odom') -> None:
        self._buffer, self._global_frame = buffer, global_frame
        self._cameras: dict[str, tuple[float, ...]] = {}
        self.integrated = 0

    def take(self, depth: Any, depth_info: Any, colour: Any, colour_info: Any) -> None:
        if depth.encoding not in ('32FC1', '16UC1'):
            raise RejectedError(f'depth encoding {depth.encoding}')
        if colour.encoding not in ('rgb8', 'bgra8'):
            raise RejectedError(f'colour encoding {colour.encoding}')
        for image, info in ((depth, depth_info), (colour, colour_info)):
            if stamp_ns(image) != stamp_ns(info):
                raise RejectedError('image and camera_info differ in their stamps')
            camera = (info.k[0], info.k[4], info.k[2], info.k[5], info.width, info.height)
            if self._cameras.setdefault(info.header.frame_id, camera) != camera:
                raise RejectedError('CHECK failed: the camera of a frame_id changed; the process ends')
        transform_at(self._buffer, self._global_frame, depth.header.frame_id, depth.header.stamp)
        self.integrated += 1


class Rtabmap:
    """RGB-D with external odometry, approx_sync off.

    Source: introlab/rtabmap_ros, rtabmap_slam/src/CoreWrapper.cpp (zero stamps, odometry resets, covariance),
    rtabmap_conversions/src/MsgConversion.cpp (sizes in whole ratios, encodings, TF at the stamp).
    """

    def __init__(self, buffer: Any, base_frame: str = 'base_link') -> None:
        self._buffer, self._base_frame = buffer, base_frame
        self._odom_frame = ''
        self._has_moved = False
        self.variances: list[float] = []
        self.is_lost = False

    def take(self, colour: Any, depth: Any, info: Any, odom: Any) -> None:
        stamps = {stamp_ns(message) for message in (colour, depth, info, odom)}
        if len(stamps) != 1:
            raise RejectedError('the four topics differ in their stamps: nothing is ever synchronised')
        if stamps == {0}:
            raise RejectedError('stamp 0')
        if depth.encoding not in ('32FC1', '16UC1', 'mono16') or colour.encoding not in (
            'mono8', 'mono16', 'rgb8', 'bgr8', 'rgba8', 'bgra8',
        ):  # fmt: skip
            raise RejectedError(f'encodings {colour.encoding} and {depth.encoding}')
        if colour.width // depth.width != colour.height // depth.height or colour.width % depth.width:
            raise RejectedError('the sizes of colour and depth are in no whole ratio')
        if self._odom_frame not in ('', odom.header.frame_id):
            raise RejectedError('the frame of the odometry changed')
        self._odom_frame = odom.header.frame_id
        transform_at(self._buffer, self._base_frame, colour.header.frame_id, colour.header.stamp)
        self._take_odometry(odom)

    def _take_odometry(self, odom: Any) -> None:
        pose = odom.pose.pose
        is_identity = (pose.position.x, pose.position.y, pose.position.z) == (0, 0, 0) and abs(pose.orientation.w) == 1
        if is_identity and self._has_moved:
            raise RejectedError('identity after motion: odometry was reset, a new map begins')
        self._has_moved |= not is_identity
        self.is_lost = odom.pose.covariance[0] >= 9999 and odom.twist.covariance[0] >= 9999
        if self.is_lost:
            return
        variance = odom.twist.covariance[0]
        if not (variance > 0 and variance != 9999):
            variance = odom.pose.covariance[0] / 2
        if not math.isfinite(variance) or variance <= 0 or variance == 1.0:
            raise RejectedError(f'variance {variance} is ignored, defaults are taken')
        self.variances.append(variance)


def octomap(
    cloud: Any, buffer: Any, map_frame: str = 'odom', max_range: float = 100.0
) -> tuple[np.ndarray, np.ndarray]:
    """Origin [3] of the rays and their ends [N, 3] in the map.

    Source: OctoMap/octomap_mapping, octomap_server/src/octomap_server.cpp: rays start at the origin of the cloud's
    frame; points that are not finite are filtered out; the transform is that at the cloud's stamp.
    """
    map_from_cloud = transform_at(buffer, map_frame, cloud.header.frame_id, cloud.header.stamp)
    points = np.stack(cloud_columns(cloud, 'x', 'y', 'z'), axis=-1)
    points = points[np.isfinite(points).all(axis=1)]
    points = points[np.linalg.norm(points, axis=1) < max_range]
    return map_from_cloud[:3, 3], points @ map_from_cloud[:3, :3].T + map_from_cloud[:3, 3]


def nav2_obstacles(
    cloud: Any, buffer: Any, min_height: float, max_height: float, max_range: float, global_frame: str = 'odom'
) -> np.ndarray:
    """[N, 3] points that mark obstacles in a costmap.

    Source: ros-navigation/navigation2, nav2_costmap_2d/src/observation_buffer.cpp (the whole cloud is transformed at
    its stamp; heights are compared, so NaN drops out) and plugins/obstacle_layer.cpp (range from the sensor's origin).
    """
    origin, points = octomap(cloud, buffer, global_frame, math.inf)
    kept = (points[:, 2] <= max_height) & (points[:, 2] >= min_height)
    return points[kept & (np.linalg.norm(points - origin, axis=1) < max_range)]


def rviz_colours(cloud: Any) -> np.ndarray:
    """[H, W, 3] as the RGB8 colour transformer reads them: 0x00RRGGBB in the field rgb.

    Source: ros2/rviz, rviz_default_plugins/src/.../point_cloud_transformers/rgb8_pc_transformer.cpp.
    """
    (field,) = [one for one in cloud.fields if one.name == 'rgb'] or [None]
    if field is None:
        raise RejectedError('no field rgb')
    words = np.frombuffer(cloud.data, np.uint8).reshape(cloud.height, cloud.width, cloud.point_step)
    packed = words[..., field.offset : field.offset + 4].copy().view('<u4')[..., 0]
    return np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)


def rviz_depth_cloud(depth_topic: str, depth: Any, infos: dict[str, Any]) -> None:
    """Whether the DepthCloud display draws it.

    Source: ros2/rviz, depth_cloud_display.cpp and depth_cloud_mld.cpp: camera_info is the sibling; sizes must be equal.
    """
    sibling = depth_topic.rpartition('/')[0] + '/camera_info'
    if sibling not in infos:
        raise RejectedError(f'no {sibling}')
    info = infos[sibling]
    if (info.width, info.height) != (depth.width, depth.height):
        raise RejectedError('depth image and camera_info differ in size')


def laserscan(depth: Any, info: Any) -> tuple[np.ndarray, np.ndarray]:
    """Angles and ranges of the middle row, as depthimage_to_laserscan makes them for slam_toolbox with scan_height 1.

    Source: ros-perception/depthimage_to_laserscan, DepthImageToLaserScan.hpp: angle of a column -atan2(u - cx, fx),
    range hypot(x, z) in the plane of the row.
    """
    if depth.encoding not in ('32FC1', '16UC1'):
        raise RejectedError(f'encoding {depth.encoding}')
    fx, cx, cy = info.k[0], info.k[2], info.k[5]
    z = depth_pixels(depth)[int(cy - 0.5)]
    x = (np.arange(depth.width) - cx) * z / fx
    return -np.arctan2(np.arange(depth.width) - cx, fx), np.hypot(x, z)
