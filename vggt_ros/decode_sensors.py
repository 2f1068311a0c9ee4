"""Messages of other sensors -> evidence for the scale: odometry, depth images, clouds, IMU.

Only attributes are read, so messages of rclpy and of a bag both fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vggt_ros.core.errors import EncodingError
from vggt_ros.core.metric.evidence import MAX_POINTS, Evidence
from vggt_ros.decode import camera_matrix, stamp_ns

DEPTH = {'16UC1': ('u2', 0.001), 'mono16': ('u2', 0.001), '32FC1': ('f4', 1.0)}  # metres a unit. Source: REP 118
EDGE = 1.1  # a pixel whose neighbours differ by more is at an edge, where a depth camera mixes front and back
_FLOATS = {7: 'f4', 8: 'f8'}  # sensor_msgs/PointField: FLOAT32, FLOAT64


def add_odometry(evidence: Evidence, message: Any) -> None:
    """nav_msgs/Odometry: the pose of child_frame_id; EncodingError where it is none."""
    evidence.add_odometry(_stamp(message), pose_matrix(message.pose.pose), message.child_frame_id.lstrip('/'))


def add_depth(evidence: Evidence, message: Any, info: Any) -> None:
    """A depth Image of 16UC1 (millimetres) or 32FC1 (metres) with the CameraInfo that belongs to it.

    Raises:
        EncodingError: another encoding, a truncated image, or a CameraInfo without calibration.
    """
    depth = decode_depth(message)
    K = camera_matrix(info, (message.height, message.width))
    if K is None:
        raise EncodingError('the CameraInfo of the depth image has no calibration (K is zero)')
    points = sample_points(depth, K)
    evidence.add_points(_stamp(message), message.header.frame_id.lstrip('/'), points)


def add_cloud(evidence: Evidence, message: Any) -> None:
    """sensor_msgs/PointCloud2 with float fields x, y, z, in its header's frame; EncodingError on another."""
    evidence.add_points(_stamp(message), message.header.frame_id.lstrip('/'), decode_points(message))


def add_imu(evidence: Evidence, message: Any) -> None:
    """sensor_msgs/Imu: its acceleration, or where it has none its orientation, says where up is.

    Acceleration first: drivers without an orientation filter often send the identity without saying that it is none.
    A first element of -1 in a covariance means that there is no such reading. Source: sensor_msgs/msg/Imu.
    """
    a, q = message.linear_acceleration, message.orientation
    up = np.array([a.x, a.y, a.z], np.float64)
    if message.linear_acceleration_covariance[0] == -1 or not up.any():
        if message.orientation_covariance[0] == -1:
            raise EncodingError('the Imu message has neither acceleration nor orientation')
        up = _rotation(q).as_matrix()[2]  # z of the world, in the sensor
    evidence.add_up(_stamp(message), message.header.frame_id.lstrip('/'), up)


def pose_matrix(pose: Any) -> np.ndarray:
    """geometry_msgs/Pose or Transform -> [4, 4]; EncodingError where the quaternion is not of length 1."""
    position, q = getattr(pose, 'position', None), getattr(pose, 'orientation', None)
    if position is None or q is None:
        position, q = pose.translation, pose.rotation
    matrix = np.eye(4)
    matrix[:3, :3] = _rotation(q).as_matrix()
    matrix[:3, 3] = position.x, position.y, position.z
    if not np.isfinite(matrix).all():
        raise EncodingError('a pose holds numbers that are not finite')
    return matrix


def decode_depth(message: Any) -> np.ndarray:
    """[H, W] float32 metres, NaN where unknown; EncodingError on another encoding or a truncated image."""
    if message.encoding not in DEPTH:
        raise EncodingError(f'depth encoding {message.encoding!r} is not supported; publish one of {", ".join(DEPTH)}')
    kind, metres = DEPTH[message.encoding]
    dtype = np.dtype(('>' if message.is_bigendian else '<') + kind)
    data = np.frombuffer(message.data, np.uint8)
    if message.height <= 0 or message.width <= 0:
        raise EncodingError(f'depth image must not be empty, got {message.width}x{message.height}')
    step = message.step or message.width * dtype.itemsize
    if step < message.width * dtype.itemsize or data.size < step * message.height:
        raise EncodingError(
            f'depth image {message.width}x{message.height} {message.encoding} with step {message.step} is truncated: '
            f'got {data.size} bytes'
        )
    rows = data[: step * message.height].reshape(message.height, step)[:, : message.width * dtype.itemsize]
    depth = np.ascontiguousarray(rows).view(dtype).astype(np.float32) * np.float32(metres)
    depth[~((depth > 0) & (depth < np.inf))] = np.nan  # 0 is what sensors send where they saw nothing
    return depth


def sample_points(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """[N, 3] points of a depth image [H, W] on a regular grid, at most MAX_POINTS; none at its edges and holes."""
    if min(depth.shape) < 3:  # all of it is edge
        return np.zeros((0, 3))
    step = max(1, int(np.ceil(np.sqrt(depth.size / MAX_POINTS))))
    v, u = np.mgrid[step // 2 + 1 : depth.shape[0] - 1 : step, step // 2 + 1 : depth.shape[1] - 1 : step]
    v, u = v.ravel(), u.ravel()
    around = np.stack([depth[v, u], depth[v - 1, u], depth[v + 1, u], depth[v, u - 1], depth[v, u + 1]])
    is_smooth = around.max(axis=0) < EDGE * around.min(axis=0)  # NaN compares false
    v, u, z = v[is_smooth], u[is_smooth], depth[v, u][is_smooth].astype(np.float64)
    return np.stack([z * (u - K[0, 2]) / K[0, 0], z * (v - K[1, 2]) / K[1, 1], z], axis=-1)


def decode_points(message: Any) -> np.ndarray:
    """[N, 3] float64 points of a PointCloud2, NaN where it has NaN; EncodingError without float x, y, z."""
    fields = {field.name: field for field in message.fields}
    if not all(name in fields and fields[name].datatype in _FLOATS for name in 'xyz'):
        raise EncodingError(f'a cloud needs float fields x, y, z, got {", ".join(fields) or "none"}')
    order = '>' if message.is_bigendian else '<'
    ends = [fields[name].offset + np.dtype(_FLOATS[fields[name].datatype]).itemsize for name in 'xyz']
    if max(ends) > message.point_step:
        raise EncodingError(f'x, y, z of a cloud must lie within its point_step of {message.point_step} bytes')
    data = np.frombuffer(message.data, np.uint8)
    row_bytes = message.width * message.point_step
    step = message.row_step or row_bytes
    if step < row_bytes or data.size < step * message.height:
        raise EncodingError(f'cloud of {message.width}x{message.height} points is truncated: got {data.size} bytes')
    if not row_bytes * message.height:
        return np.zeros((0, 3))
    layout = np.dtype(
        {
            'names': list('xyz'),
            'formats': [order + _FLOATS[fields[name].datatype] for name in 'xyz'],
            'offsets': [fields[name].offset for name in 'xyz'],
            'itemsize': message.point_step,
        }
    )
    rows = np.ascontiguousarray(data[: step * message.height].reshape(message.height, step)[:, :row_bytes])
    points = rows.reshape(-1).view(layout)
    return np.stack([points[name].astype(np.float64) for name in 'xyz'], axis=-1)


def _stamp(message: Any) -> int:
    """Of the header; EncodingError where there is none, as such a message belongs to no image."""
    stamp = stamp_ns(message.header.stamp)
    if stamp == 0:
        raise EncodingError('the stamp is zero; the driver must say when it measured')
    return stamp


def _rotation(q: Any) -> Any:
    from scipy.spatial.transform import Rotation  # where it is used: a camera alone never loads it

    length = np.linalg.norm([q.x, q.y, q.z, q.w])
    if not abs(length - 1) < 0.01:  # NaN compares false
        raise EncodingError(f'a quaternion must have length 1, got {length:.3g}')
    return Rotation.from_quat([q.x, q.y, q.z, q.w])
