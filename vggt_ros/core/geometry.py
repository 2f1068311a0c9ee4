"""SE(3), Sim(3), projection and unprojection: free functions on arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vggt_ros.core.errors import ShapeError

# REP 103: an optical frame is x right, y down, z forward; a robot's body is x forward, y left, z up.
BODY_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


@dataclass(frozen=True, eq=False)
class Sim3:
    """A similarity target_from_source: p_target = scale * R @ p_source + t.

    Args:
        scale: length units of the target per unit of the source, positive.
        R: [3, 3] rotation.
        t: [3] translation in units of the target.
    """

    scale: float
    R: np.ndarray
    t: np.ndarray

    @staticmethod
    def identity() -> Sim3:
        return Sim3(1.0, np.eye(3), np.zeros(3))

    @staticmethod
    def from_rigid(target_from_source: np.ndarray, scale: float = 1.0) -> Sim3:
        """From a [4, 4] rigid transform whose translation is in units of the target."""
        return Sim3(scale, target_from_source[:3, :3].copy(), target_from_source[:3, 3].copy())

    def __matmul__(self, other: Sim3) -> Sim3:
        """target_from_middle @ middle_from_source."""
        return Sim3(self.scale * other.scale, self.R @ other.R, self.scale * self.R @ other.t + self.t)

    def inverse(self) -> Sim3:
        """source_from_target."""
        return Sim3(1.0 / self.scale, self.R.T, -(self.R.T @ self.t) / self.scale)

    def matrix(self) -> np.ndarray:
        """[4, 4] with the scale in its upper left [3, 3]; move_points takes it."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.scale * self.R, self.t
        return matrix

    def transform_points(self, points: np.ndarray) -> np.ndarray:
        """[..., 3] points of the source in the target."""
        return self.scale * points @ self.R.T + self.t

    def transform_pose(self, source_from_body: np.ndarray) -> np.ndarray:
        """[..., 4, 4] rigid poses in the source -> target_from_body, rigid, in units of the target."""
        target_from_body = np.zeros(source_from_body.shape)
        target_from_body[..., :3, :3] = self.R @ source_from_body[..., :3, :3]
        target_from_body[..., :3, 3] = self.transform_points(source_from_body[..., :3, 3])
        target_from_body[..., 3, 3] = 1.0
        return target_from_body


def invert_rigid(target_from_source: np.ndarray) -> np.ndarray:
    """[..., 4, 4] rigid transforms -> source_from_target, as [R^T | -R^T t]."""
    inverse = np.zeros_like(target_from_source, dtype=np.float64)
    R_transposed = np.swapaxes(target_from_source[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = R_transposed
    inverse[..., :3, 3] = -(R_transposed @ target_from_source[..., :3, 3, None])[..., 0]
    inverse[..., 3, 3] = 1.0
    return inverse


def move_points(target_from_source: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[N, 3] points of the source -> [N, 3] in the target, by a [4, 4] rigid transform, or [N, 4, 4] of them.

    In the type of points.

    Coordinate by coordinate: a product of [N, 3] with [3, 3] wakes every BLAS thread, which on a busy robot takes ten
    times as long. The result lies in memory as [3, N].
    """
    moves = target_from_source.astype(points.dtype)
    x, y, z = points.T
    return np.stack(
        [moves[..., i, 0] * x + moves[..., i, 1] * y + moves[..., i, 2] * z + moves[..., i, 3] for i in range(3)]
    ).T


def unproject_depth(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Lift a depth image to one 3D point per pixel.

    Args:
        depth: [H, W] distance along the optical axis, any length unit; NaN where unknown.
        K: [3, 3] intrinsics in pixels of this depth image (not of the camera's full image), pixel centres at integers.

    Returns:
        [H, W, 3] points in the camera optical frame, in the unit and type of depth; NaN stays NaN.

    Raises:
        ShapeError: depth is not [H, W] or K is not [3, 3].

    Source: Hartley and Zisserman, Multiple View Geometry, 2nd ed., sec. 6.1.
    """
    if depth.ndim != 2 or K.shape != (3, 3):
        raise ShapeError(f'depth must be [H, W] and K [3, 3], got {depth.shape} and {K.shape}')
    height, width = depth.shape
    x_over_z, y_over_z = ray_slopes(K, height, width, depth.dtype)
    return np.stack([depth * x_over_z, depth * y_over_z[:, None], depth], axis=-1)


def ray_slopes(
    K: np.ndarray, height: int, width: int, dtype: npt.DTypeLike = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """x / z of every column [width] and y / z of every row [height] of a pinhole [3, 3]."""
    x_over_z = ((np.arange(width) - K[0, 2]) / K[0, 0]).astype(dtype)
    y_over_z = ((np.arange(height) - K[1, 2]) / K[1, 1]).astype(dtype)
    return x_over_z, y_over_z


def unproject_pixels(u: np.ndarray, v: np.ndarray, depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Lift single pixels: u, v and depth [N], K [3, 3] or [N, 3, 3] -> [N, 3] points in the optical frame.

    See unproject_depth.
    """
    x_over_z = ((u - K[..., 0, 2]) / K[..., 0, 0]).astype(depth.dtype)
    y_over_z = ((v - K[..., 1, 2]) / K[..., 1, 1]).astype(depth.dtype)
    return np.stack([depth * x_over_z, depth * y_over_z, depth]).T


def cross_matrix(vector: np.ndarray) -> np.ndarray:
    """[3] -> [3, 3] matrix M with M @ a = vector x a."""
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_angle(R: np.ndarray) -> np.ndarray:
    """[..., 3, 3] rotations -> [...] angles in radians, 0 to pi, exact also where small (the arc cosine is not)."""
    x, y, z = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    return np.arctan2(np.sqrt(x * x + y * y + z * z), R[..., 0, 0] + R[..., 1, 1] + R[..., 2, 2] - 1.0)


def quaternion_xyzw(R: np.ndarray) -> tuple[float, float, float, float]:
    """[3, 3] rotation -> its unit quaternion. For single poses in messages: a tenth of the time of scipy's.

    Source: Shepperd, Quaternion from Rotation Matrix, J. Guidance and Control 1(3), 1978: the largest of the four is
        found first, so that nothing is divided by a small number.
    """
    (a, b, c), (d, e, f), (g, h, i) = R.tolist()
    trace = a + e + i
    largest = max(trace, a, e, i)
    if largest == trace:
        q = (h - f, c - g, d - b, 1 + trace)
    elif largest == a:
        q = (1 + a - e - i, b + d, c + g, h - f)
    elif largest == e:
        q = (b + d, 1 + e - a - i, f + h, c - g)
    else:
        q = (c + g, f + h, 1 + i - a - e, d - b)
    x, y, z, w = q
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    return x / norm, y / norm, z / norm, w / norm


def rotation_from_vector(vectors: np.ndarray) -> np.ndarray:
    """[..., 3] axes times angles in radians -> [..., 3, 3] rotations.

    Source: Rodrigues' formula; Sola et al., A Micro Lie Theory for State Estimation in Robotics, 2018, eq. 132.
    """
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    small = angle < 1e-6  # where the series is exact to rounding
    safe = np.where(small, 1.0, angle)
    K = np.einsum('...k,kij->...ij', vectors, np.stack([cross_matrix(axis) for axis in np.eye(3)]))
    sine = np.where(small, 1 - angle**2 / 6, np.sin(safe) / safe)
    cosine = np.where(small, 0.5 - angle**2 / 24, (1 - np.cos(safe)) / safe**2)
    return np.eye(3) + sine * K + cosine * (K @ K)


def vector_from_rotation(R: np.ndarray) -> np.ndarray:
    """[..., 3, 3] rotations -> [..., 3] axes times angles, 0 to pi; the inverse of rotation_from_vector."""
    twice_sine = np.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1)
    angle = rotation_angle(R)[..., None]
    length = np.linalg.norm(twice_sine, axis=-1, keepdims=True)
    near_half_turn = length < 1e-6
    axis = twice_sine / np.where(near_half_turn, 1.0, length)
    if (near_half_turn & (angle > 1)).any():  # there the axis is the largest column of R + 1
        column = R + np.eye(3)
        largest = np.linalg.norm(column, axis=-2).argmax(axis=-1)
        picked = np.take_along_axis(column, largest[..., None, None], axis=-1)[..., 0]
        axis = np.where(near_half_turn, picked / np.linalg.norm(picked, axis=-1, keepdims=True), axis)
    is_tiny = near_half_turn & (angle < 1)  # the sine of a small angle is the angle
    return np.where(is_tiny, twice_sine / 2, axis * angle)


def nearest_rotation(M: np.ndarray) -> np.ndarray:
    """[..., 3, 3] matrices -> the rotations nearest to them in the Frobenius norm.

    Of a sum of rotations this is their chordal mean.

    Source: Hartley et al., Rotation Averaging, IJCV 2013, sec. 5.3.
    """
    U, _, Vt = np.linalg.svd(M)
    U[..., :, 2] *= np.sign(np.linalg.det(U) * np.linalg.det(Vt))[..., None]
    return U @ Vt
