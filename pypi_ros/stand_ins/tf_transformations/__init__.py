"""Stand-in for tf_transformations where only the ROS 2 wheels of PyPI are installed: rotations and 4x4 matrices.

Quaternions are xyzw everywhere, as in ROS messages; transforms3d, which does the arithmetic, takes wxyz.
Euler angles are in radians, 'sxyz' (static axes: roll, pitch, yaw) unless told otherwise.

Source: the public names of DLu/tf_transformations, compared in test/pypi_ros.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import ArrayLike
from transforms3d import affines, axangles, euler, quaternions

__all__ = [
    'concatenate_matrices',
    'euler_from_matrix',
    'euler_from_quaternion',
    'euler_matrix',
    'identity_matrix',
    'inverse_matrix',
    'is_same_transform',
    'quaternion_about_axis',
    'quaternion_conjugate',
    'quaternion_from_euler',
    'quaternion_from_matrix',
    'quaternion_inverse',
    'quaternion_matrix',
    'quaternion_multiply',
    'quaternion_slerp',
    'rotation_matrix',
    'translation_from_matrix',
    'translation_matrix',
    'unit_vector',
    'vector_norm',
]

_ONLY_IN_THE_REAL_PACKAGE = (
    'Arcball',
    'arcball_constrain_to_axis',
    'arcball_map_to_sphere',
    'arcball_nearest_axis',
    'clip_matrix',
    'compose_matrix',
    'decompose_matrix',
    'orthogonalization_matrix',
    'projection_from_matrix',
    'projection_matrix',
    'random_quaternion',
    'random_rotation_matrix',
    'random_vector',
    'reflection_from_matrix',
    'reflection_matrix',
    'rotation_from_matrix',
    'scale_from_matrix',
    'scale_matrix',
    'shear_from_matrix',
    'shear_matrix',
    'superimposition_matrix',
)


def __getattr__(name: str) -> object:
    if name in _ONLY_IN_THE_REAL_PACKAGE:
        raise NotImplementedError(
            f'tf_transformations.{name} is not in this stand-in; '
            'install the real tf_transformations (apt: ros-<distro>-tf-transformations)'
        )
    raise AttributeError(f'neither tf_transformations nor its stand-in from pypi_ros has {name!r}')


def identity_matrix() -> np.ndarray:
    """[4, 4] identity."""
    return np.eye(4)


def translation_matrix(direction: ArrayLike) -> np.ndarray:
    """[4, 4] translation by direction [3]."""
    return affines.compose(np.asarray(direction, dtype=np.float64)[:3], np.eye(3), np.ones(3))


def translation_from_matrix(matrix: ArrayLike) -> np.ndarray:
    """[3] translation of a [4, 4] matrix."""
    return np.array(matrix, dtype=np.float64)[:3, 3]


def rotation_matrix(angle: float, direction: ArrayLike, point: ArrayLike | None = None) -> np.ndarray:
    """[4, 4] rotation by angle (radians) about an axis through point, or through the origin."""
    return axangles.axangle2aff(direction, angle, point=point)


def euler_matrix(ai: float, aj: float, ak: float, axes: str = 'sxyz') -> np.ndarray:
    """[4, 4] rotation by three angles."""
    return _affine(euler.euler2mat(ai, aj, ak, axes))


def euler_from_matrix(matrix: ArrayLike, axes: str = 'sxyz') -> tuple[float, float, float]:
    """Three angles of the rotation in a [3, 3] or [4, 4] matrix."""
    return euler.mat2euler(np.asarray(matrix, dtype=np.float64)[:3, :3], axes)


def euler_from_quaternion(quaternion: ArrayLike, axes: str = 'sxyz') -> tuple[float, float, float]:
    """Three angles of a quaternion xyzw."""
    return euler.quat2euler(_wxyz(quaternion), axes)


def quaternion_from_euler(ai: float, aj: float, ak: float, axes: str = 'sxyz') -> tuple[float, float, float, float]:
    """Quaternion xyzw of three angles."""
    return _xyzw(euler.euler2quat(ai, aj, ak, axes))


def quaternion_about_axis(angle: float, axis: ArrayLike) -> tuple[float, float, float, float]:
    """Quaternion xyzw of a rotation by angle (radians) about an axis [3] of any length."""
    return _xyzw(quaternions.axangle2quat(axis, angle))


def quaternion_matrix(quaternion: ArrayLike) -> np.ndarray:
    """[4, 4] rotation of a quaternion xyzw, which need not be of unit length."""
    return _affine(quaternions.quat2mat(_wxyz(quaternion)))


def quaternion_from_matrix(matrix: ArrayLike) -> tuple[float, float, float, float]:
    """Quaternion xyzw, w >= 0, of the rotation in a [3, 3] or [4, 4] matrix."""
    return _xyzw(quaternions.mat2quat(np.asarray(matrix, dtype=np.float64)[:3, :3]))


def quaternion_multiply(quaternion1: ArrayLike, quaternion0: ArrayLike) -> tuple[float, float, float, float]:
    """Quaternion xyzw that rotates by quaternion0 first and then by quaternion1."""
    return _xyzw(quaternions.qmult(_wxyz(quaternion1), _wxyz(quaternion0)))


def quaternion_conjugate(quaternion: ArrayLike) -> np.ndarray:
    """[4] xyzw with the vector part turned round."""
    return np.asarray(quaternion, dtype=np.float64) * (-1.0, -1.0, -1.0, 1.0)


def quaternion_inverse(quaternion: ArrayLike) -> np.ndarray:
    """[4] xyzw whose product with the quaternion is (0, 0, 0, 1)."""
    return quaternion_conjugate(quaternion) / np.sum(np.square(quaternion))


def quaternion_slerp(
    quat0: ArrayLike, quat1: ArrayLike, fraction: float, spin: int = 0, shortestpath: bool = True
) -> np.ndarray:
    """[4] xyzw on the great arc from quat0 (fraction 0) to quat1 (fraction 1), both normalised first.

    Source: K. Shoemake, Animating Rotation with Quaternion Curves, SIGGRAPH 1985.
    """
    if spin:
        raise NotImplementedError('quaternion_slerp with spin is only in the real tf_transformations')
    start, end = unit_vector(quat0), unit_vector(quat1)
    cosine = float(start @ end)
    if shortestpath and cosine < 0.0:
        end, cosine = -end, -cosine
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-12:  # the same rotation, or no unique arc: nothing to interpolate
        return end if fraction == 1.0 else start
    return (np.sin((1.0 - fraction) * angle) * start + np.sin(fraction * angle) * end) / np.sin(angle)


def inverse_matrix(matrix: ArrayLike) -> np.ndarray:
    """Inverse of a square matrix."""
    return np.linalg.inv(np.asarray(matrix, dtype=np.float64))


def concatenate_matrices(*matrices: ArrayLike) -> np.ndarray:
    """Product of [4, 4] matrices from left to right; the rightmost acts first."""
    return reduce(np.matmul, map(np.asarray, matrices), np.eye(4))


def is_same_transform(matrix0: ArrayLike, matrix1: ArrayLike) -> bool:
    """Whether two homogeneous matrices agree up to their scale, to numpy's allclose."""
    first, second = np.array(matrix0, dtype=np.float64), np.array(matrix1, dtype=np.float64)
    return np.allclose(first / first[3, 3], second / second[3, 3])


def vector_norm(data: ArrayLike, axis: int | None = None) -> np.ndarray | float:
    """Euclidean length, of all of data or along an axis."""
    return np.sqrt(np.sum(np.square(np.asarray(data, dtype=np.float64)), axis=axis))


def unit_vector(data: ArrayLike, axis: int | None = None) -> np.ndarray:
    """Data divided by its length, along an axis if given."""
    array = np.asarray(data, dtype=np.float64)
    return array / np.sqrt(np.sum(np.square(array), axis=axis, keepdims=axis is not None))


def _affine(rotation: np.ndarray) -> np.ndarray:
    return affines.compose(np.zeros(3), rotation, np.ones(3))


def _wxyz(quaternion: ArrayLike) -> np.ndarray:
    x, y, z, w = np.asarray(quaternion, dtype=np.float64)
    return np.array([w, x, y, z])


def _xyzw(quaternion: np.ndarray) -> tuple[float, float, float, float]:
    w, x, y, z = quaternion
    return x, y, z, w
