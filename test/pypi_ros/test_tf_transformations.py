"""Quaternions xyzw, Euler angles and 4x4 matrices. Truth: scipy, which is written independently."""

import itertools

import numpy as np
import pytest
import tf_transformations as tft
from scipy.spatial.transform import Rotation

PACKAGE = 'tf_transformations'
RNG = np.random.default_rng(0)
EXACT = 1e-12  # a handful of float64 operations on numbers near 1
ROTATIONS = list(Rotation.random(20, rng=RNG))


def same_rotation(quaternion_xyzw, rotation):
    return (Rotation.from_quat(quaternion_xyzw) * rotation.inv()).magnitude() < 1e-7  # acos near 1


def test_a_quaternion_is_xyzw():
    np.testing.assert_allclose(tft.quaternion_from_euler(np.pi, 0, 0), [1, 0, 0, 0], atol=EXACT)
    np.testing.assert_allclose(tft.quaternion_matrix([0, 0, 0, 1]), np.eye(4), atol=EXACT)


def test_euler_angles_are_roll_pitch_yaw_about_fixed_axes():
    angles = (0.1, -0.2, 0.3)
    assert same_rotation(tft.quaternion_from_euler(*angles), Rotation.from_euler('xyz', angles))
    np.testing.assert_allclose(
        tft.euler_matrix(*angles)[:3, :3], Rotation.from_euler('xyz', angles).as_matrix(), atol=EXACT
    )
    np.testing.assert_allclose(tft.euler_from_quaternion(tft.quaternion_from_euler(*angles)), angles, atol=EXACT)
    np.testing.assert_allclose(tft.euler_from_matrix(tft.euler_matrix(*angles)), angles, atol=EXACT)


@pytest.mark.parametrize('axes', [''.join(axes) for axes in itertools.permutations('xyz')])
def test_other_orders_of_angles_follow_scipy(axes):
    angles = (0.4, -0.7, 1.1)
    assert same_rotation(tft.quaternion_from_euler(*angles, axes=f's{axes}'), Rotation.from_euler(axes, angles))
    assert same_rotation(tft.quaternion_from_euler(*angles, axes=f'r{axes}'), Rotation.from_euler(axes.upper(), angles))
    np.testing.assert_allclose(
        tft.euler_from_matrix(Rotation.from_euler(axes, angles).as_matrix(), f's{axes}'), angles, atol=EXACT
    )


@pytest.mark.parametrize('rotation', ROTATIONS)
def test_matrix_and_quaternion_say_the_same(rotation):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation.as_matrix()
    np.testing.assert_allclose(tft.quaternion_matrix(rotation.as_quat()), matrix, atol=EXACT)
    assert same_rotation(tft.quaternion_from_matrix(matrix), rotation)
    np.testing.assert_allclose(tft.quaternion_matrix(2.5 * rotation.as_quat()), matrix, atol=EXACT)


def test_products_apply_the_right_factor_first():
    for first, second in itertools.pairwise(ROTATIONS):
        product = tft.quaternion_multiply(second.as_quat(), first.as_quat())
        assert same_rotation(product, second * first)
    move, turn = tft.translation_matrix([1, 2, 3]), tft.euler_matrix(0, 0, np.pi / 2)
    np.testing.assert_allclose(tft.concatenate_matrices(move, turn) @ [1, 0, 0, 1], [1, 3, 3, 1], atol=EXACT)
    np.testing.assert_allclose(tft.concatenate_matrices(turn, move) @ [1, 0, 0, 1], [-2, 2, 3, 1], atol=EXACT)


def test_an_inverse_undoes():
    for rotation in ROTATIONS:
        quaternion = 1.5 * rotation.as_quat()
        undone = tft.quaternion_multiply(quaternion, tft.quaternion_inverse(quaternion))
        np.testing.assert_allclose(undone, [0, 0, 0, 1], atol=EXACT)
        assert same_rotation(tft.quaternion_conjugate(rotation.as_quat()), rotation.inv())
        matrix = tft.concatenate_matrices(tft.translation_matrix([4, 5, 6]), tft.quaternion_matrix(rotation.as_quat()))
        np.testing.assert_allclose(tft.inverse_matrix(matrix) @ matrix, np.eye(4), atol=1e-10)


def test_an_axis_may_have_any_length_and_a_rotation_any_centre():
    axis, angle = np.array([1.0, -2.0, 2.0]), 0.7
    expected = Rotation.from_rotvec(axis / 3 * angle)
    assert same_rotation(tft.quaternion_about_axis(angle, axis), expected)
    np.testing.assert_allclose(tft.rotation_matrix(angle, axis)[:3, :3], expected.as_matrix(), atol=EXACT)
    centre = [5.0, 6.0, 7.0]
    np.testing.assert_allclose(tft.rotation_matrix(angle, axis, centre) @ [*centre, 1], [*centre, 1], atol=EXACT)


def test_translations_go_in_and_out():
    matrix = tft.translation_matrix([1, 2, 3])
    np.testing.assert_allclose(tft.translation_from_matrix(matrix), [1, 2, 3], atol=EXACT)
    np.testing.assert_allclose(tft.identity_matrix(), np.eye(4))
    assert tft.is_same_transform(matrix, 3 * matrix)
    assert not tft.is_same_transform(matrix, tft.identity_matrix())


@pytest.mark.parametrize('fraction', [0.0, 0.25, 1.0])
def test_slerp_goes_the_short_way_at_a_constant_pace(fraction):
    start, end = Rotation.from_euler('z', 10, degrees=True), Rotation.from_euler('z', 50, degrees=True)
    for sign in (1, -1):
        found = tft.quaternion_slerp(start.as_quat(), sign * end.as_quat(), fraction)
        assert same_rotation(found, Rotation.from_euler('z', 10 + 40 * fraction, degrees=True))
    np.testing.assert_allclose(tft.quaternion_slerp(start.as_quat(), start.as_quat(), 0.5), start.as_quat(), atol=EXACT)


def test_lengths():
    assert tft.vector_norm([3, 4]) == pytest.approx(5)
    np.testing.assert_allclose(tft.vector_norm([[3, 4], [6, 8]], axis=1), [5, 10])
    np.testing.assert_allclose(tft.unit_vector([0, 3, 4]), [0, 0.6, 0.8])
    np.testing.assert_allclose(tft.unit_vector([[0, 2], [3, 0]], axis=1), [[0, 1], [1, 0]])


def test_what_the_stand_in_lacks_names_the_real_package(only_of_the_stand_in):
    for name in ('compose_matrix', 'superimposition_matrix', 'random_quaternion', 'Arcball'):
        with pytest.raises(NotImplementedError, match='real tf_transformations'):
            getattr(tft, name)
    with pytest.raises(AttributeError):
        tft.quaternion_from_eulr  # noqa: B018
