"""What each kind of evidence says of a window whose unit is known, and when it says nothing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scene
from scipy.spatial.transform import Rotation

from vggt_ros.core.errors import ShapeError
from vggt_ros.core.geometry import Sim3, invert_rigid, unproject_depth
from vggt_ros.core.metric.depth_scale import measure_depth, paired_depths
from vggt_ros.core.metric.evidence import MAX_POINTS, Evidence
from vggt_ros.core.metric.floor_scale import measure_floor
from vggt_ros.core.metric.gravity import measure_up
from vggt_ros.core.metric.odometry_scale import measure_way
from vggt_ros.core.metric.scale import Measurement, NoEvidence

SCALES = (0.3, 1.0, 3.0)  # units of the window a metre
UP = np.array([0.0, -1.0, 0.0])  # of the room, whose axes are those of an optical frame


def window_of(world_from_cams, scale=1.0, seed=0):
    """A perfect prediction that stands at its first camera, in a unit of its own."""
    first = invert_rigid(world_from_cams[0])
    return scene.predict_truth(world_from_cams, Sim3(scale, first[:3, :3], scale * first[:3, 3]))


def metres(measurement) -> float:
    assert isinstance(measurement, Measurement), measurement
    return math.exp(measurement.log_metres)


def rigid(rotvec_deg=(0, 0, 0), shift=(0, 0, 0)):
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(rotvec_deg, degrees=True).as_matrix()
    T[:3, 3] = shift
    return T


class TestWay:
    """Odometry."""

    MOUNT = rigid((-90, 0, 0), (0.4, 0.1, 0.5))  # base_from_cam: half a metre ahead of the wheels

    @staticmethod
    def odometry(world_from_cams, frame=rigid((0, 0, 70), (5, -3, 1)), noise=0.0, seed=0):  # noqa: B008  not changed
        rng = np.random.default_rng(seed)
        poses = [frame @ pose for pose in world_from_cams]
        for pose in poses:
            pose[:3, 3] += rng.normal(0, noise, 3)
        return poses

    @pytest.mark.parametrize('scale', SCALES)
    def test_known_scale_from_ways(self, scale):
        cams = scene.walk(8)
        measured = measure_way(window_of(cams, scale), self.odometry(cams), 0.1)
        assert metres(measured) * scale == pytest.approx(1.0, rel=1e-9)

    def test_noise_of_a_centimetre_on_a_way_of_a_metre_costs_a_percent(self):
        cams = scene.walk(8)
        errors = [
            math.log(metres(measure_way(window_of(cams), self.odometry(cams, noise=0.01, seed=seed), 0.1)))
            for seed in range(40)
        ]
        assert np.sqrt(np.mean(np.square(errors))) < 0.02  # two ends of 1 cm on ways of 0.5 to 0.8 m

    def test_one_pose_far_off_is_outvoted(self):
        cams = scene.walk(8)
        poses = self.odometry(cams)
        poses[3][:3, 3] += [0.4, 0.0, 0.0]
        assert metres(measure_way(window_of(cams), poses, 0.1)) == pytest.approx(1.0, rel=0.05)

    def test_turning_on_the_spot_counts_only_with_the_lever_arm(self):
        """The camera ahead of the wheels goes round them: 0.4 m times the turn is a way that both see."""
        turns = [rigid((0, 0, 8.0 * i)) for i in range(8)]
        place = scene.look([0.0, 0.0, 0.0], 0.0) @ invert_rigid(self.MOUNT)  # so that the robot stands in the room
        cams = np.stack([place @ turn @ self.MOUNT for turn in turns])
        window = window_of(cams, 2.0)
        with_arm = measure_way(window, [turn @ self.MOUNT for turn in turns], 0.1)
        assert metres(with_arm) == pytest.approx(0.5, rel=1e-9)
        assert isinstance(measure_way(window, turns, 0.1), NoEvidence)

    @pytest.mark.parametrize('cams', [[scene.look([0, 0, 0], 0)] * 8, [scene.look([0, 0, 0], 5 * i) for i in range(8)]])
    def test_standing_and_pure_turns_say_nothing(self, cams):
        cams = np.stack(cams)
        said = measure_way(window_of(cams), self.odometry(cams, noise=0.002), 0.1)
        assert isinstance(said, NoEvidence)
        assert 'stands or turns' in said.reason
        assert not said.is_conflict

    def test_wheels_that_slip_under_a_standing_camera_say_nothing(self):
        cams = np.stack([scene.look([0, 0, 0], 0)] * 8)
        slipping = [rigid(shift=(0.1 * i, 0, 0)) for i in range(8)]
        said = measure_way(window_of(cams), slipping, 0.1)
        assert isinstance(said, NoEvidence)
        assert 'slip' in said.reason

    def test_a_wrong_mount_is_told(self):
        """The camera is said to look ahead and looks to the left: ways differ by 90 degrees."""
        cams = np.stack([scene.look([0.1 * i, 0.0, 0.0], 90) for i in range(8)])
        wrong = [pose @ rigid((0, 90, 0)) for pose in self.odometry(cams)]
        said = measure_way(window_of(cams), wrong, 0.1)
        assert isinstance(said, NoEvidence)
        assert said.is_conflict
        assert 'base -> camera' in said.reason

    def test_without_odometry_nothing_is_said(self):
        cams = scene.walk(8)
        assert isinstance(measure_way(window_of(cams), [None] * 8, 0.1), NoEvidence)
        one_known = [np.eye(4)] + [None] * 7
        assert isinstance(measure_way(window_of(cams), one_known, 0.1), NoEvidence)


class TestDepth:
    """Depth camera and lidar."""

    def test_points_are_paired_with_the_pixels_that_they_fall_on_up_to_the_border(self):
        window = window_of(scene.walk(1))
        depth = np.full_like(window.depth, 1.0)
        depth[0, 10, 20] = np.nan
        window = dataclasses.replace(window, depth=depth, confidence=np.full_like(depth, 2.0))
        h, w = depth.shape[1:]
        inside = [(0, 0), (w - 1, 0), (0, h - 1), (w - 1, h - 1), (24, 18)]
        outside = [(-1, 0), (0, -1), (w, 4), (4, h)]
        by_hole = [(20, 10), (19, 9), (21, 10)]
        u, v = np.array(inside + outside + by_hole, float).T
        z = np.linspace(1.0, 1.05, len(u))
        points = np.stack([(u - scene.K[0, 2]) / scene.K[0, 0] * z, (v - scene.K[1, 2]) / scene.K[1, 1] * z, z], axis=1)
        nothing = np.array([[0.0, 0.0, 0.05], [0.0, 0.0, -2.0]])  # the robot itself, and what is behind
        measured, predicted = paired_depths(window, 0, np.concatenate([points, nothing]))
        np.testing.assert_allclose(sorted(measured), z[: len(inside)])
        np.testing.assert_array_equal(predicted, 1.0)

    def test_of_points_on_one_spot_those_behind_do_not_count(self):
        """Another sensor sees round corners: of a cell of 4 pixels what lies a tenth behind the nearest is hidden."""
        window = window_of(scene.walk(1))
        depth = np.full_like(window.depth, 1.0)
        window = dataclasses.replace(window, depth=depth, confidence=np.full_like(depth, 2.0))
        u, v = np.array([(9, 9), (10, 10), (11, 11), (30, 10), (9, 30)], float).T
        z = np.array([1.0, 1.05, 1.3, 1.4, 1.5])
        points = np.stack([(u - scene.K[0, 2]) / scene.K[0, 0] * z, (v - scene.K[1, 2]) / scene.K[1, 1] * z, z], axis=1)
        measured, _ = paired_depths(window, 0, points)
        np.testing.assert_allclose(sorted(measured), [1.0, 1.05, 1.4, 1.5])

    @staticmethod
    def points(world_from_cam, noise=0.01, invalid=0.3, shift=(0.0, 0.0, 0.0), seed=0, size=(120, 160)):
        """What a depth camera of its own resolution measures, in its own frame; zeros where it measures nothing."""
        rng = np.random.default_rng(seed)
        K = scene.K * [[size[1] / scene.WIDTH], [size[0] / scene.HEIGHT], [1]]
        depth = scene.render(world_from_cam @ rigid(shift=shift), K, size)
        depth = depth * rng.normal(1, noise, size)
        depth[rng.random(size) < invalid] = 0.0
        return unproject_depth(depth, K).reshape(-1, 3)[::3]

    @pytest.mark.parametrize('scale', SCALES)
    def test_known_scale_from_depth_with_noise_and_holes(self, scale):
        cams = scene.walk(4)
        measured = measure_depth(window_of(cams, scale), [self.points(cam, seed=i) for i, cam in enumerate(cams)])
        assert metres(measured) * scale == pytest.approx(1.0, rel=0.002)  # 1 % over a thousand points
        assert measured.sigma < 0.01

    def test_a_sensor_beside_the_camera_agrees_through_its_mount(self):
        """20 cm to the right: it sees round the boxes, where only what hides the rest may count."""
        cams, arm = scene.walk(4), (0.2, -0.1, 0.0)
        points = [self.points(cam, shift=arm, seed=i) + arm for i, cam in enumerate(cams)]
        assert metres(measure_depth(window_of(cams), points)) == pytest.approx(1.0, rel=0.005)

    def test_a_sparse_sweep_of_16_lines_is_enough(self):
        rng = np.random.default_rng(3)
        cams = scene.walk(4)
        sweeps = [dense[rng.choice(len(dense), 200, replace=False)] for dense in map(self.points, cams)]
        assert metres(measure_depth(window_of(cams), sweeps)) == pytest.approx(1.0, rel=0.01)

    def test_a_fifth_of_wrong_depth_does_not_count(self):
        rng, cams = np.random.default_rng(0), scene.walk(4)
        points = [self.points(cam) for cam in cams]
        for one in points:
            wrong = rng.random(len(one)) < 0.2
            one[wrong] *= 2.0
        assert metres(measure_depth(window_of(cams), points)) == pytest.approx(1.0, rel=0.01)

    def test_depth_of_another_view_is_told(self):
        cams = scene.walk(4)
        elsewhere = [self.points(scene.look([2.0, 1.2, 0.5], 40.0 * i, 35.0)) for i in range(4)]
        said = measure_depth(window_of(cams), elsewhere)
        assert isinstance(said, NoEvidence)
        assert said.is_conflict

    def test_too_little_depth_says_nothing(self):
        cams = scene.walk(4)
        assert isinstance(measure_depth(window_of(cams), [None] * 4), NoEvidence)
        assert isinstance(measure_depth(window_of(cams), [np.zeros((500, 3))] * 4), NoEvidence)
        assert isinstance(measure_depth(window_of(cams), [self.points(cams[0])[:20]] * 4), NoEvidence)


class TestFloor:
    """Height of the camera over the floor, which lies 1.5 m below the middle of the room."""

    @staticmethod
    def driving(count=6, pitch=-25.0, height=0.9):
        return np.stack([scene.look([0.08 * i - 1, 1.5 - height, -1.5], 20.0 + 3 * i, pitch) for i in range(count)])

    @pytest.mark.parametrize('scale', SCALES)
    @pytest.mark.parametrize('pitch', [-35.0, -20.0])
    def test_known_scale_from_the_height(self, scale, pitch):
        cams = self.driving(pitch=pitch)
        window = window_of(cams, scale)
        up = cams[0, :3, :3].T @ UP
        assert metres(measure_floor(window, up, np.full(6, 0.9), math.radians(10))) * scale == pytest.approx(
            1.0, rel=1e-3
        )

    def test_a_table_that_fills_the_picture_is_not_the_floor(self):
        """The nearer box is 1.2 m high: its top is the fullest level, and the floor lies lower."""
        cams = np.stack([scene.look([0.05 * i - 0.9, -0.6, 0.4], 5.0, -42.0) for i in range(6)])
        window = window_of(cams)
        assert metres(
            measure_floor(window, cams[0, :3, :3].T @ UP, np.full(6, 2.1), math.radians(10))
        ) == pytest.approx(1, rel=0.01)

    @pytest.mark.parametrize('tilt', [4.0, -8.0])
    def test_a_map_that_leans_a_little_finds_the_same_floor(self, tilt):
        cams = self.driving()
        leaning = Rotation.from_rotvec([0, 0, tilt], degrees=True).apply(UP)
        measured = measure_floor(window_of(cams), cams[0, :3, :3].T @ leaning, np.full(6, 0.9), math.radians(15))
        assert metres(measured) == pytest.approx(1.0, rel=0.01)

    def test_depth_noise_averages_out(self):
        rng, cams = np.random.default_rng(0), self.driving()
        window = window_of(cams)
        noisy = window.depth * rng.normal(1, 0.03, window.depth.shape).astype(np.float32)
        measured = measure_floor(
            dataclasses.replace(window, depth=noisy), cams[0, :3, :3].T @ UP, np.full(6, 0.9), math.radians(15)
        )
        assert metres(measured) == pytest.approx(1.0, rel=0.03)

    def test_a_camera_that_sees_no_floor_says_nothing(self):
        cams = np.stack([scene.look([0.05 * i, 0.0, 1.5], 0.0, 20.0) for i in range(4)])
        said = measure_floor(window_of(cams), cams[0, :3, :3].T @ UP, np.full(4, 0.9), math.radians(10))
        assert isinstance(said, NoEvidence)
        assert 'floor' in said.reason


class TestUp:
    """What an IMU says while a window is seen."""

    @staticmethod
    def heard(count, spread_deg=0.0, start_ns=scene.START_NS):
        """Readings 10 ms apart in the axes of the first camera, which leans; every other one off to either side."""
        evidence, up = Evidence(), np.array([0.2, -0.9, 0.1])
        across = np.array([0.9, 0.2, 0.0]) / np.hypot(0.9, 0.2)
        for i in range(count):
            off = Rotation.from_rotvec(spread_deg * (-1) ** i * across, degrees=True).apply(up)
            evidence.add_up(start_ns + i * 10_000_000, 'camera_optical', 9.81 * off)
        return evidence, up / np.linalg.norm(up)

    @staticmethod
    def standing():
        return window_of(np.stack([scene.look([0.0, 0.0, 0.0], 0)] * 4))

    def test_it_is_the_mean_direction_of_length_one(self):
        evidence, up = self.heard(6, 10.0)
        found = measure_up(self.standing(), evidence)
        np.testing.assert_allclose(found, up, atol=1e-9)

    def test_it_is_heard_from_half_a_second_before_the_window_to_its_end(self):
        for start_ns, is_heard in (
            (-500_000_000, True),
            (-560_000_000, False),
            (260_000_000, True),
            (310_000_000, False),
        ):
            evidence, _ = self.heard(5, start_ns=scene.START_NS + start_ns)
            assert (measure_up(self.standing(), evidence) is not None) == is_heard

    def test_few_readings_those_that_differ_and_windows_without_a_pose_say_nothing(self):
        assert measure_up(self.standing(), self.heard(4)[0]) is None
        assert measure_up(self.standing(), self.heard(6, 25.0)[0]) is None
        lost = self.standing()
        poses = lost.cam_from_window.copy()
        poses[2] = np.nan
        assert measure_up(dataclasses.replace(lost, cam_from_window=poses), self.heard(6)[0]) is None

    @pytest.mark.parametrize('up', [np.ones(2), np.ones((1, 3)), np.array([np.nan, 0, 1]), np.zeros(3)])
    def test_what_is_no_direction_is_refused(self, up):
        with pytest.raises(ShapeError, match='up must be a finite'):
            Evidence().add_up(scene.START_NS, 'imu', up)


@pytest.mark.parametrize('shape', [(3,), (4, 2), (1, 4, 3)])
def test_points_of_another_shape_are_refused(shape):
    with pytest.raises(ShapeError, match='points must be'):
        Evidence().add_points(scene.START_NS, 'lidar', np.zeros(shape))


def test_without_mounts_a_sensor_is_known_in_its_own_frame_alone():
    evidence = Evidence()
    evidence.add_points(scene.START_NS, 'camera', np.ones((1, 3)))
    np.testing.assert_array_equal(evidence.points_in('camera', scene.START_NS), np.ones((1, 3)))
    assert evidence.points_in('other', scene.START_NS) is None
    np.testing.assert_array_equal(evidence.base_from_cam('base_link', scene.START_NS), np.eye(4))
    assert evidence.base_from_cam('camera', scene.START_NS) is None


def test_of_several_sweeps_the_nearest_in_time_is_taken_and_none_that_is_too_far():
    evidence = Evidence()
    for i in range(3):
        evidence.add_points(scene.START_NS + i * 40_000_000, 'camera', np.full((1, 3), float(i)))
    taken = [evidence.points_in('camera', scene.START_NS + ms * 1_000_000) for ms in (-51, -50, 19, 21, 61, 130, 131)]
    assert [None if one is None else one[0, 0] for one in taken] == [None, 0, 0, 1, 2, 2, None]


@pytest.mark.parametrize('count', [5, MAX_POINTS, MAX_POINTS + 1, 5 * MAX_POINTS // 2])
def test_a_dense_sweep_is_thinned_evenly(count):
    class Here:
        def find(self, target_frame, source_frame, stamp_ns):
            return np.eye(4)

    evidence = Evidence(Here())
    points = np.stack([np.arange(count, dtype=float)] * 3, axis=1)
    evidence.add_points(scene.START_NS, 'lidar', np.concatenate([points, [[np.nan, 0, 0]]]))
    kept = evidence.points_in('camera', scene.START_NS)
    step = math.ceil(count / MAX_POINTS)
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept[:, 0], np.arange(0, count, step))
