"""Transforms and projections: round trips, and the conventions that could flip quietly."""

import math

import numpy as np
import pytest
import scene
from scipy.spatial.transform import Rotation

from vggt_ros.core.errors import ShapeError
from vggt_ros.core.geometry import (
    BODY_FROM_OPTICAL,
    Sim3,
    cross_matrix,
    invert_rigid,
    move_points,
    nearest_rotation,
    quaternion_xyzw,
    ray_slopes,
    rotation_angle,
    rotation_from_vector,
    unproject_depth,
    unproject_pixels,
    vector_from_rotation,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_optical_axes_in_the_body_frame():
    # REP 103: optical z forward, x right, y down; body x forward, y left, z up
    np.testing.assert_array_equal(BODY_FROM_OPTICAL[:3, :3] @ [0, 0, 1], [1, 0, 0])
    np.testing.assert_array_equal(BODY_FROM_OPTICAL[:3, :3] @ [1, 0, 0], [0, -1, 0])
    np.testing.assert_array_equal(BODY_FROM_OPTICAL[:3, :3] @ [0, 1, 0], [0, 0, -1])


def test_similarities_cancel_and_chain(rng):
    a, b, points = scene.random_similarity(rng), scene.random_similarity(rng), rng.normal(size=(5, 3))
    np.testing.assert_allclose((a @ b).transform_points(points), a.transform_points(b.transform_points(points)))
    np.testing.assert_allclose((a @ a.inverse()).transform_points(points), points, atol=1e-12)
    np.testing.assert_allclose((a.inverse() @ a).scale, 1.0)


def test_a_similarity_moves_a_pose_and_what_is_seen_from_it_alike(rng):
    target_from_source = scene.random_similarity(rng)
    source_from_body = scene.look([1.0, 2.0, 3.0], 40.0)
    in_body = rng.normal(size=(4, 3))
    target_from_body = target_from_source.transform_pose(source_from_body)
    seen = move_points(target_from_body, target_from_source.scale * in_body)
    np.testing.assert_allclose(seen, target_from_source.transform_points(move_points(source_from_body, in_body)))
    np.testing.assert_allclose(target_from_body[:3, :3] @ target_from_body[:3, :3].T, np.eye(3), atol=1e-12)


def test_inverse_pose_brings_points_back(rng):
    poses, points = scene.walk(5), rng.normal(size=(7, 3))
    for pose, inverse in zip(poses, invert_rigid(poses), strict=True):
        np.testing.assert_allclose(move_points(inverse, move_points(pose, points)), points, atol=1e-12)
        np.testing.assert_allclose(inverse @ pose, np.eye(4), atol=1e-12)


def test_moved_points_keep_their_type():
    points = np.ones((3, 3), np.float32)
    assert move_points(np.eye(4), points).dtype == np.float32


def test_unprojected_pixels_project_back():
    depth = scene.render(scene.walk(1)[0])
    points = unproject_depth(depth, scene.K)
    u, v, _ = np.moveaxis(points / points[..., 2:], -1, 0) * [[[40.0]], [[40.0]], [[1.0]]] + [[[23.5]], [[17.5]], [[0]]]
    np.testing.assert_allclose(u, np.broadcast_to(np.arange(scene.WIDTH), u.shape), atol=1e-9)
    np.testing.assert_allclose(v, np.broadcast_to(np.arange(scene.HEIGHT)[:, None], v.shape), atol=1e-9)
    np.testing.assert_array_equal(points[..., 2], depth)
    rows, columns = np.array([3, 7]), np.array([40, 2])
    lifted = unproject_pixels(columns, rows, depth[rows, columns], scene.K)
    np.testing.assert_allclose(lifted, points[rows, columns])


def test_unknown_depth_stays_unknown():
    depth = np.array([[1.0, np.nan]], np.float32)
    points = unproject_depth(depth, np.eye(3))
    assert np.isnan(points[0, 1]).all()
    assert points.dtype == np.float32


def test_wrong_shapes_are_named():
    with pytest.raises(ShapeError, match=r'\(2, 2, 1\)'):
        unproject_depth(np.zeros((2, 2, 1)), np.eye(3))


@pytest.mark.parametrize('angle', [0.0, 1e-9, 1e-4, 1.0, np.pi - 1e-6, np.pi])
def test_angle_of_a_rotation(angle, rng):
    axis = rng.normal(size=3)
    R = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    np.testing.assert_allclose(rotation_angle(R), angle, atol=1e-15, rtol=1e-6)


def test_nearest_rotation_to_a_sum_is_the_middle(rng):
    middle = Rotation.random(random_state=rng)
    left, right = (middle * Rotation.from_rotvec([0.2 * sign, 0, 0]) for sign in (-1, 1))
    found = nearest_rotation(left.as_matrix() + right.as_matrix())
    np.testing.assert_allclose(found, middle.as_matrix(), atol=1e-12)


def test_nearest_rotation_is_never_a_mirror(rng):
    for M in rng.normal(size=(20, 3, 3)):
        R = nearest_rotation(M)
        np.testing.assert_allclose(np.linalg.det(R), 1.0)
        others = Rotation.random(500, random_state=rng).as_matrix()
        assert np.linalg.norm(R - M) <= np.linalg.norm(others - M, axis=(1, 2)).min()


def test_cross_matrix(rng):
    a, b = rng.normal(size=(2, 3))
    np.testing.assert_allclose(cross_matrix(a) @ b, np.cross(a, b))


def test_quaternions_of_all_rotations_are_those_of_scipy():
    rotations = Rotation.random(2000, random_state=5).as_matrix()
    half_turns = Rotation.from_rotvec(np.pi * np.vstack([np.eye(3), -np.eye(3)])).as_matrix()
    for R in (*rotations, *half_turns, np.eye(3)):
        found = np.array(quaternion_xyzw(R))
        expected = Rotation.from_matrix(R).as_quat()
        assert abs(abs(found @ expected) - 1) < 1e-14  # q and -q are one rotation
        np.testing.assert_allclose(Rotation.from_quat(found).as_matrix(), R, atol=1e-14)


@pytest.mark.parametrize('angle', [0.0, 1e-12, 1e-9, 3e-7, 1e-5, 0.1, 3.0, math.pi - 1e-9, math.pi])
def test_rotation_vectors_there_and_back(angle):
    axes = np.random.default_rng(0).normal(size=(20, 3))
    vectors = angle * axes / np.linalg.norm(axes, axis=1, keepdims=True)
    R = rotation_from_vector(vectors)
    np.testing.assert_allclose(R, Rotation.from_rotvec(vectors).as_matrix(), atol=1e-14)
    found = vector_from_rotation(R)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), angle, rtol=1e-9, atol=1e-15)
    # a half turn has two axes; near it the axis is known to the root of the rounding
    np.testing.assert_allclose(rotation_from_vector(found), R, atol=1e-7 if angle > 3.1 else 1e-14)


def test_rotation_vectors_of_every_kind_side_by_side():
    """Tiny, ordinary and half turns in one array: none is computed as another, whatever the array's shape."""
    angles = np.array([[0.0, 1e-8, 0.5], [math.pi, 2.0, math.pi - 1e-9]])
    axes = np.random.default_rng(3).normal(size=(2, 3, 3))
    vectors = angles[..., None] * axes / np.linalg.norm(axes, axis=-1, keepdims=True)
    R = rotation_from_vector(vectors)
    np.testing.assert_allclose(
        R.reshape(-1, 3, 3), Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix(), atol=1e-14
    )
    found = vector_from_rotation(R)
    assert found.shape == (2, 3, 3)
    np.testing.assert_allclose(found[0], vectors[0], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(found[1, 1], vectors[1, 1], rtol=1e-9)
    np.testing.assert_allclose(rotation_from_vector(found[1]), R[1], atol=1e-7)
    for axis in np.vstack([np.eye(3), -np.eye(3)]):  # a half turn about an axis has columns of nothing
        half = vector_from_rotation(Rotation.from_rotvec(math.pi * axis).as_matrix())
        np.testing.assert_allclose(np.abs(half), math.pi * np.abs(axis), atol=1e-9)


def test_columns_go_with_one_focal_length_and_rows_with_the_other():
    K = np.array([[50.0, 0, 3.0], [0, 20.0, 1.0], [0, 0, 1]])
    depth = np.arange(1, 16, dtype=np.float32).reshape(3, 5)
    points = unproject_depth(depth, K)
    assert points.dtype == np.float32
    x_over_z, y_over_z = ray_slopes(K, 3, 5)
    assert (x_over_z.dtype, y_over_z.dtype) == (np.float32, np.float32)
    for v in range(3):
        for u in range(5):
            ray = np.array([(u - 3) / 50, (v - 1) / 20, 1.0])
            np.testing.assert_allclose(points[v, u], depth[v, u] * ray, rtol=1e-6)
            np.testing.assert_allclose([x_over_z[u], y_over_z[v]], ray[:2], rtol=1e-6)
    u, v = np.array([4, 0, 2]), np.array([0, 2, 1])
    several = K + np.arange(3.0)[:, None, None] * np.diag([1.0, 2.0, 0.0])  # each pixel with a K of its own
    lifted = unproject_pixels(u, v, depth[v, u], several)
    assert lifted.dtype == np.float32
    for i in range(3):
        ray = np.array([(u[i] - 3) / (50 + i), (v[i] - 1) / (20 + 2 * i), 1.0])
        np.testing.assert_allclose(lifted[i], depth[v[i], u[i]] * ray, rtol=1e-6)
    for wrong in (np.eye(4), np.eye(3)[:2]):
        with pytest.raises(ShapeError, match='got'):
            unproject_depth(depth, wrong)


def test_each_point_can_have_a_move_of_its_own(rng):
    moves, points = scene.walk(6), rng.normal(size=(6, 3))
    expected = [(move @ [*point, 1.0])[:3] for move, point in zip(moves, points, strict=True)]
    np.testing.assert_allclose(move_points(moves, points), expected)


def test_a_similarity_and_its_matrix_say_the_same(rng):
    target_from_source, points = scene.random_similarity(rng), rng.normal(size=(5, 3))
    expected = target_from_source.transform_points(points)
    np.testing.assert_allclose(move_points(target_from_source.matrix(), points), expected)
    np.testing.assert_array_equal(target_from_source.matrix()[3], [0, 0, 0, 1])
    np.testing.assert_array_equal(Sim3.identity().transform_points(points), points)
    rigid = scene.look([1.0, 2.0, 3.0], 40.0)
    scaled = Sim3.from_rigid(rigid, 2.5)
    np.testing.assert_allclose(scaled.transform_points(points), move_points(rigid, 2.5 * points))
    assert Sim3.from_rigid(rigid).scale == 1.0
    scaled.t[:] = scaled.R[:] = 7.0  # copies: the pose it came from stays
    np.testing.assert_array_equal(rigid, scene.look([1.0, 2.0, 3.0], 40.0))


def test_an_inverse_is_exact_also_of_single_precision_and_of_one_alone():
    pose = scene.look([1.0, 2.0, 3.0], 40.0).astype(np.float32)
    inverse = invert_rigid(pose)
    assert inverse.dtype == np.float64
    np.testing.assert_allclose(inverse @ pose, np.eye(4), atol=1e-6)
    np.testing.assert_array_equal(inverse[3], [0, 0, 0, 1])
