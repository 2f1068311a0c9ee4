"""StaticTransforms: known trees, known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vggt_ros.core.errors import EncodingError
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.encode import MessageMaker
from vggt_ros.messages import bag_messages
from vggt_ros.recorded.static_tf import StaticTransforms
from vggt_ros.recorded.tf import RecordedTransforms

MAKE = MessageMaker(bag_messages())


def random_pose(seed: int) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    pose[:3, 3] = np.random.default_rng(seed).normal(size=3)
    return pose


def tree(*edges: tuple[str, str, np.ndarray]) -> StaticTransforms:
    transforms = StaticTransforms()
    for parent, child, parent_from_child in edges:
        transforms.add(MAKE.tf([MAKE.transform(1, parent, child, parent_from_child)]))
    return transforms


def test_a_chain_is_multiplied_from_robot_to_camera():
    a, b = random_pose(0), random_pose(1)
    transforms = tree(('base_link', 'mast', a), ('mast', 'camera', b))
    np.testing.assert_allclose(transforms.find('base_link', 'camera'), a @ b, atol=1e-12)
    np.testing.assert_allclose(transforms.find('camera', 'base_link'), invert_rigid(a @ b), atol=1e-12)


def test_two_branches_meet_at_their_common_frame():
    a, b = random_pose(0), random_pose(1)
    transforms = tree(('chassis', 'base_link', a), ('chassis', 'camera', b))
    np.testing.assert_allclose(transforms.find('base_link', 'camera'), invert_rigid(a) @ b, atol=1e-12)


def test_frames_of_different_trees_have_no_transform():
    assert tree(('base_link', 'mast', random_pose(0))).find('base_link', 'camera') is None


def test_a_loop_ends():
    transforms = tree(('a', 'b', random_pose(0)), ('b', 'a', random_pose(1)))
    assert transforms.find('c', 'a') is None


def test_the_last_word_on_a_frame_counts():
    a, b = random_pose(0), random_pose(1)
    transforms = tree(('base_link', 'camera', a), ('base_link', 'camera', b))
    np.testing.assert_allclose(transforms.find('base_link', 'camera'), b, atol=1e-12)


@pytest.mark.parametrize('quaternion', [(0, 0, 0, 0), (float('nan'), 0, 0, 1), (0, 0, 0, 2)])
def test_a_transform_that_is_none_is_told_and_the_others_are_kept(quaternion: tuple[float, ...]):
    good, bad = MAKE.transform(1, 'mast', 'camera', np.eye(4)), MAKE.transform(1, 'base', 'mast', np.eye(4))
    q = bad.transform.rotation
    q.x, q.y, q.z, q.w = quaternion
    fixed, moving = StaticTransforms(), RecordedTransforms()
    for add in (fixed.add, moving.add_moving):
        with pytest.raises(EncodingError, match="'base' -> 'mast'"):
            add(MAKE.tf([bad, good]))
    for known in (fixed.find('mast', 'camera'), moving.find('mast', 'camera', 1)):
        np.testing.assert_array_equal(known, np.eye(4))
    assert fixed.find('base', 'mast') is None


def test_a_moving_frame_below_one_without_a_name_is_taken():
    moving = RecordedTransforms()
    moving.add_moving(MAKE.tf([MAKE.transform(1, '', 'base', random_pose(1))]))
    np.testing.assert_allclose(moving.find('', 'base', 1), random_pose(1), atol=1e-12)


def test_a_slash_before_a_name_is_none_of_it():
    # TF of ROS 1 had them. Source: wiki.ros.org/tf2/Migration, "Removal of support for tf_prefix"
    pose = random_pose(3)
    moving = RecordedTransforms()
    moving.add_moving(MAKE.tf([MAKE.transform(1, '/base', '/X/', pose)]))
    np.testing.assert_allclose(tree(('/base', '/X/', pose)).find('base', 'X/'), pose, atol=1e-12)
    np.testing.assert_allclose(moving.find('base', 'X/', 1), pose, atol=1e-12)
    np.testing.assert_allclose(tree(('/ base', '/Xcam', pose)).find(' base', 'Xcam'), pose, atol=1e-12)
