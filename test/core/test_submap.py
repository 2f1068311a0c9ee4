"""The map: what it keeps, what it forgets, and which depth it trusts."""

import dataclasses

import numpy as np
import pytest
import scene
from scene import predict_truth

from vggt_ros.core.config import Config
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.placement import Placement, Seam, SeamStatus
from vggt_ros.core.prediction import View
from vggt_ros.core.submap import Map, Submap, trusted, validity


def config_of(**values):
    return Config().with_values({'confidence_percentile': 0.0, **values})


def submap_of(start=0, count=4, shared=0, scale=1.0, **arrays):
    """The truth of a walk, placed so that the map is the world, `scale` units a metre."""
    poses = scene.walk(start + count)[start:]
    stamps = [scene.START_NS + i * scene.FRAME_NS for i in range(start, start + count)]
    prediction = dataclasses.replace(predict_truth(poses, Sim3.identity(), stamps), **arrays)
    place = Placement(Sim3(scale, np.eye(3), np.zeros(3)), Seam(SeamStatus.FIRST))
    return Submap(prediction, place, shared)


def test_only_new_frames_come_out_and_all_poses_of_the_window():
    update = Map(config_of()).insert(submap_of(count=6, shared=2))
    assert [frame.stamp_ns for frame in update.frames] == [scene.START_NS + i * scene.FRAME_NS for i in (2, 3, 4, 5)]
    np.testing.assert_allclose(update.map_from_window_cams, scene.walk(6), atol=1e-12)
    np.testing.assert_allclose(update.frames[0].map_from_cam, scene.walk(6)[2], atol=1e-12)
    assert update.frames[0].frame_id == 'camera_optical'


def test_depth_and_poses_are_in_map_units():
    update = Map(config_of()).insert(submap_of(scale=3.0))
    np.testing.assert_allclose(update.frames[1].depth, 3 * scene.render(scene.walk(2)[1]), rtol=1e-6)
    np.testing.assert_allclose(update.frames[1].map_from_cam[:3, 3], 3 * scene.walk(2)[1, :3, 3])
    np.testing.assert_allclose(update.frames[1].map_from_cam[:3, :3], scene.walk(2)[1, :3, :3])


def test_near_far_and_doubtful_depth_is_unknown():
    submap = submap_of(start=9, count=2, scale=2.0)
    confidence = submap.prediction.confidence.copy()
    confidence[1, :5] = 1.0
    submap = submap_of(start=9, count=2, scale=2.0, confidence=confidence)
    update = Map(config_of(min_depth=4.0, max_depth=5.0, confidence_threshold=1.5)).insert(submap)
    for i, frame in enumerate(update.frames):
        truth = 2 * scene.render(scene.walk(11)[9 + i])
        expected = (truth >= 4.0) & (truth < 5.0)
        expected[:5] &= i == 0
        np.testing.assert_array_equal(np.isfinite(frame.depth), expected)
        assert expected.any()
        assert not expected.all()
        np.testing.assert_array_equal(frame.confidence, confidence[i])  # raw, for those who know better


@pytest.mark.parametrize('percentile', [0.0, 20.0, 50.0])
def test_the_least_confident_share_of_a_window_is_unknown(percentile):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(1, 10, (4, scene.HEIGHT, scene.WIDTH)).astype(np.float32)
    confidence[0] *= 5  # one good frame keeps more than its share
    prediction = submap_of(confidence=confidence).prediction
    is_valid = validity(prediction, trusted(prediction, 1.0, config_of(confidence_percentile=percentile).cloud))
    # the percentile is read from a 16th of 6912 pixels: 1 / sqrt(432) of spread at the most
    assert abs((1 - is_valid.mean()) * 100 - percentile) < 5
    assert is_valid[0].mean() >= is_valid[1].mean()
    assert confidence[is_valid].min() >= np.percentile(confidence, max(0.0, percentile - 5))


def test_frames_that_were_not_decoded_do_not_shift_the_percentile():
    confidence = np.full((4, scene.HEIGHT, scene.WIDTH), np.nan, np.float32)
    confidence[2:] = np.linspace(1, 2, scene.HEIGHT * scene.WIDTH).reshape(scene.HEIGHT, scene.WIDTH)
    prediction = submap_of(confidence=confidence).prediction
    is_valid = validity(prediction, trusted(prediction, 1.0, config_of(confidence_percentile=50.0).cloud))
    assert not is_valid[:2].any()
    assert abs(is_valid[2:].mean() - 0.5) < 0.05


def test_views_of_other_cameras_come_out_with_the_new_frames_of_their_moments():
    poses = scene.walk(4)
    aside = poses @ scene.look([0.3, 0.0, 0.0], 20)
    one = dataclasses.replace(predict_truth(aside[[0, 2, 3]], Sim3.identity(), (10, 12, 13)), frame_ids=('right',) * 3)
    one.cam_from_window[2] = np.nan  # not understood there
    two = dataclasses.replace(predict_truth(aside[[1, 3]], Sim3.identity(), (21, 23)), frame_ids=('left',) * 2)
    main = submap_of(shared=1, scale=2.0)
    main.prediction.cam_from_window[1] = np.nan
    views = (View(1, (0, 2, 3), one), View(2, (1, 3), two))
    submap = dataclasses.replace(main, prediction=dataclasses.replace(main.prediction, views=views))
    frames = Map(config_of(max_depth=4.5)).insert(submap).frames
    seen = [[(view.camera, view.stamp_ns, view.frame_id) for view in frame.views] for frame in frames]
    assert seen == [[(2, 21, 'left')], [(1, 12, 'right')], [(1, 13, 'right'), (2, 23, 'left')]]
    for frame, row, view, source, i in (
        (frames[1], 2, frames[1].views[0], one, 1),
        (frames[2], 3, frames[2].views[1], two, 1),
    ):
        depth = 2 * scene.render(aside[row])
        assert (depth >= 4.5).any()
        np.testing.assert_allclose(view.depth, np.where(depth < 4.5, depth, np.nan), rtol=1e-6)
        assert view.depth.dtype == np.float32
        np.testing.assert_allclose(view.map_from_cam[:3, 3], 2 * aside[row, :3, 3], atol=1e-9)
        np.testing.assert_array_equal(view.image, source.image[i])
        np.testing.assert_array_equal(view.confidence, source.confidence[i])
        np.testing.assert_array_equal(view.K, source.K[i])
        np.testing.assert_array_equal(view.covariance, frame.covariance)
    assert np.isnan(frames[0].views[0].depth).all()  # the frame has no pose
    lost = frames[2].views[0]  # the view has none: it is taken to stand where the frame does
    assert np.isnan(lost.depth).all()
    np.testing.assert_array_equal(lost.map_from_cam, frames[2].map_from_cam)


def test_a_frame_without_a_pose_has_no_depth_and_no_points():
    poses = submap_of().prediction.cam_from_window.copy()
    poses[2] = np.nan
    whole, one = Map(config_of(voxel_size=1e-4)), Map(config_of(voxel_size=1e-4))
    whole.insert(submap_of())
    update = one.insert(submap_of(cam_from_window=poses))
    assert [np.isfinite(frame.depth).any() for frame in update.frames] == [True, True, False, True]
    assert len(one.points()[0]) == len(whole.points()[0]) * 3 // 4
    np.testing.assert_array_equal(update.frames[2].map_from_cam, update.frames[1].map_from_cam)
    assert update.frames[2].covariance[0, 0] >= 9999 > update.frames[3].covariance[0, 0]


def test_every_voxel_that_a_dense_cloud_fills_is_in_the_map_or_beside_one():
    # near pixels are left out where they crowd a voxel; what is seen must not be thinner for it
    fine, coarse = Map(config_of(voxel_size=1e-3)), Map(config_of(voxel_size=0.25))
    for one in (fine, coarse):
        one.insert(submap_of(count=3))
    dense, thinned = (np.unique(np.floor(m.points()[0] / 0.25), axis=0) for m in (fine, coarse))
    assert len(fine.points()[0]) == 3 * scene.HEIGHT * scene.WIDTH
    nearest = np.abs(dense[:, None] - thinned).max(axis=2).min(axis=1)
    assert nearest.max() <= 1
    assert (nearest == 0).mean() > 0.9  # the others were touched at a corner only


def test_cloud_is_coloured_by_its_pixels():
    image = np.random.default_rng(1).integers(0, 255, (1, scene.HEIGHT, scene.WIDTH, 3), dtype=np.uint8)
    world = Map(config_of(voxel_size=1e-4))
    world.insert(submap_of(count=1, image=image))
    xyz, rgb = world.points()
    assert (xyz.dtype, rgb.dtype) == (np.float32, np.uint8)
    in_cam = (xyz - scene.walk(1)[0, :3, 3]) @ scene.walk(1)[0, :3, :3]
    u, v, _ = (scene.K @ (in_cam / in_cam[:, 2:]).T).round().astype(int)
    np.testing.assert_array_equal(rgb, image[0, v, u])


def test_stride_thins_the_cloud():
    clouds = []
    for stride in (1, 2):
        one = Map(config_of(voxel_size=1e-4, cloud_stride=stride))
        one.insert(submap_of(count=1))
        clouds.append(one.points()[0])
    assert len(clouds[0]) == 4 * len(clouds[1])
    assert {tuple(point) for point in clouds[1]} <= {tuple(point) for point in clouds[0]}


def test_map_is_bounded():
    one = Map(config_of(map_max_submaps=3, path_max_size=10, map_max_points=500, voxel_size=0.05))
    for k in range(8):
        one.insert(submap_of(start=2 * k, count=4, shared=2 if k else 0))
    assert len(one.submaps) == 3
    assert [stamp for stamp, _ in one.path] == [scene.START_NS + i * scene.FRAME_NS for i in range(8, 18)]
    np.testing.assert_allclose(one.path[-1][1], scene.walk(18)[17], atol=1e-12)
    assert len(one.points()[0]) == 500


def test_reset_forgets_all_but_the_mount():
    one = Map(config_of())
    one.map_from_first_camera = np.diag([1.0, -1.0, -1.0, 1.0])
    one.insert(submap_of())
    one.reset()
    assert one.latest is None
    assert len(one.submaps) == len(one.path) == len(one.points()[0]) == 0
    assert one.insert(submap_of()).index == 0
    np.testing.assert_array_equal(one.map_from_first_camera, np.diag([1.0, -1.0, -1.0, 1.0]))


def test_covariance_grows_along_the_path_and_is_positive():
    one = Map(config_of())
    seam = Seam(SeamStatus.ALIGNED, 2, 1.0, residual=0.02, scale_ratio=1.0, rotation_deg=0.2)
    frames = list(one.insert(submap_of()).frames)
    for k in range(1, 6):
        submap = submap_of(start=2 * k, count=4, shared=2)
        placed = dataclasses.replace(submap, placement=dataclasses.replace(submap.placement, seam=seam))
        frames += one.insert(placed).frames
    assert np.trace(frames[-1].covariance[:3, :3]) > np.trace(frames[3].covariance[:3, :3])
    for frame in frames:
        np.testing.assert_allclose(frame.covariance, frame.covariance.T)
        assert np.linalg.eigvalsh(frame.covariance).min() > 0


def test_where_the_map_starts_is_settled_by_its_first_window():
    one = Map(config_of())
    one.map_from_first_camera = np.diag([1.0, -1.0, -1.0, 1.0])
    one.insert(submap_of())
    with pytest.raises(RuntimeError, match='reset the map'):
        one.map_from_first_camera = np.eye(4)
    one.reset()
    one.map_from_first_camera = np.eye(4)


def test_the_range_of_depth_is_in_metres_and_its_far_end_is_out():
    prediction = submap_of(count=1, depth=np.array([[[1.0, 1.5, 2.0, 0.0, -1.0, np.nan]]], np.float32)).prediction
    prediction = dataclasses.replace(prediction, confidence=np.ones((1, 1, 6), np.float32))
    ranges = {'min_depth': 3.0, 'max_depth': 4.0, 'confidence_threshold': 1.0}  # of 2 m a unit: 1.5 to 2
    is_valid = validity(prediction, trusted(prediction, 2.0, config_of(**ranges).cloud))
    assert is_valid.tolist() == [[[False, True, False, False, False, False]]]
    boundless = validity(prediction, trusted(prediction, 2.0, config_of(min_depth=0.0, max_depth=0.0).cloud))
    assert boundless.tolist() == [[[True, True, True, False, False, False]]]


def test_a_frame_whose_confidence_is_unknown_has_no_depth():
    confidence = np.full((2, scene.HEIGHT, scene.WIDTH), np.nan, np.float32)
    prediction = submap_of(count=2, confidence=confidence).prediction
    assert not validity(prediction, trusted(prediction, 1.0, config_of().cloud)).any()
    assert not np.isfinite(Map(config_of()).insert(submap_of(count=2, confidence=confidence)).frames[0].depth).any()


def test_moved_windows_take_their_frames_and_what_follows_with_them():
    one = Map(config_of())
    one.insert(submap_of())
    one.insert(submap_of(start=2, shared=2))
    shift = Sim3(1.0, np.eye(3), np.array([5.0, 0.0, 0.0]))
    moves = one.move({1: shift, 7: shift})
    assert list(moves) == [1]
    np.testing.assert_allclose(moves[1].t, [5, 0, 0])
    ways = np.array([pose[:3, 3] for _, pose in one.path]) - scene.walk(6)[:, :3, 3]
    np.testing.assert_allclose(ways, [[0, 0, 0]] * 4 + [[5, 0, 0]] * 2, atol=1e-12)
    assert [submap.placement.map_from_window.t[0] for submap in one.submaps] == [0, 5]
    assert one.latest is not None
    assert one.latest.placement.map_from_window.t[0] == 5
    held = one.insert(submap_of(start=4, shared=2, cam_from_window=np.full((4, 4, 4), np.nan)))
    np.testing.assert_allclose(held.frames[0].map_from_cam[:3, 3], scene.walk(6)[5, :3, 3] + [5, 0, 0], atol=1e-12)
    stamp, newest = one.newest
    assert stamp == held.frames[-1].stamp_ns
    np.testing.assert_allclose(newest, held.frames[-1].map_from_cam, atol=1e-12)


def test_an_outvoted_window_leaves_the_cloud_and_no_other_does():
    one, first = Map(config_of(voxel_size=1e-4)), Map(config_of(voxel_size=1e-4))
    first.insert(submap_of())
    one.withdraw_latest()  # of an empty map: nothing happens
    one.insert(submap_of())
    one.insert(submap_of(start=4))
    one.withdraw_latest()
    np.testing.assert_array_equal(one.points()[0], first.points()[0])


def test_points_are_sorted_anew_where_the_scale_has_changed_by_far():
    one = Map(config_of(voxel_size=0.05))
    one.insert(submap_of())
    count = len(one.points()[0])
    one.rescale(1.09)
    assert (len(one.points()[0]), one.voxels.voxel_size) == (count, 0.05)
    one.rescale(0.5)  # a unit is half a metre: voxels of 5 cm are 0.1 units
    assert one.voxels.voxel_size == pytest.approx(0.1)
    assert 0.15 * count < len(one.points()[0]) < 0.6 * count  # an eighth in space, a quarter on walls
    one.reconfigure(config_of(voxel_size=0.1))
    assert one.voxels.voxel_size == pytest.approx(0.2)
    before = one.voxels
    one.reconfigure(config_of(voxel_size=0.1, path_max_size=7))
    assert one.voxels is before
    one.reset()
    assert one.voxels.voxel_size == pytest.approx(0.1)  # settings are in metres, a new map is in them


def test_a_cloud_moved_beside_the_stream_gets_what_came_meanwhile():
    one = Map(config_of(voxel_size=1e-4))
    one.insert(submap_of())
    aside, since = one.voxels.without(99), len(one.points()[0])
    one.insert(submap_of(start=4))
    whole = one.points()[0].copy()
    one.take_points(aside, since)
    assert one.voxels is aside
    assert {tuple(point) for point in one.points()[0]} == {tuple(point) for point in whole}
