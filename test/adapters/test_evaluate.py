"""`vggt_ros evaluate`: the figures of evo on real paths, depth against a depth camera, and files of other layouts."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import FRAME_NS, START_NS, TruthPredictor
from scipy.spatial.transform import Rotation

from vggt_ros.cli import main
from vggt_ros.core.config import Config
from vggt_ros.core.errors import SourceError, TrajectoryError
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.trajectory import Trajectory
from vggt_ros.recorded.source import open_source
from vggt_ros.results.depth_error import DepthFolder, score
from vggt_ros.results.evaluate import evaluate, window_starts
from vggt_ros.results.exports import tum_trajectory
from vggt_ros.results.tum import read_tum
from vggt_ros.run import run

Find = Callable[[str], Path]


def write_tum(path: Path, trajectory: Trajectory) -> Path:
    path.write_text(tum_trajectory(trajectory.stamps_ns.tolist(), trajectory.world_from_cam))
    return path


def spoil(trajectory: Trajectory, seed: int = 0) -> Trajectory:
    """Another frame and unit, 3 cm and 1 degree of noise, every seventh pose missing, stamps 1 ms off."""
    rng = np.random.default_rng(seed)
    poses = trajectory.world_from_cam.copy()
    poses[:, :3, 3] += rng.normal(0, 0.03, (len(poses), 3))
    poses[:, :3, :3] = poses[:, :3, :3] @ Rotation.from_rotvec(rng.normal(0, 0.01, (len(poses), 3))).as_matrix()
    moved = Trajectory(trajectory.stamps_ns + 1_000_000, poses).moved(
        Sim3(0.4, Rotation.random(random_state=rng).as_matrix(), rng.normal(0, 3, 3))
    )
    return moved.take(np.flatnonzero(np.arange(len(poses)) % 7 != 3))


@pytest.mark.parametrize('name', ['tum_fr3_cabinet', 'redkitchen_clip', 'strecha_fountain_p11'])
def test_figures_are_those_of_evo(name: str, sequence: Find, tmp_path: Path):
    pytest.importorskip('evo', reason='evo is not installed: pip install -r requirements/dev.txt')
    from evo.core import metrics, sync
    from evo.tools import file_interface

    truth_file = sequence(name) / 'trajectory_tum.txt'
    estimate_file = write_tum(tmp_path / 'estimate.txt', spoil(read_tum(truth_file)))
    ours = evaluate(read_tum(estimate_file), read_tum(truth_file), way=0.5)
    truth, estimate = sync.associate_trajectories(
        file_interface.read_tum_trajectory_file(str(truth_file)),
        file_interface.read_tum_trajectory_file(str(estimate_file)),
        max_diff=0.01,
    )
    assert (truth.num_poses, ours.matched) == (estimate.num_poses, estimate.num_poses)

    def rmse(metric: metrics.PE, aligned: object) -> float:
        metric.process_data((truth, aligned))
        return metric.get_statistic(metrics.StatisticsType.rmse)

    def relative(relation: metrics.PoseRelation, delta: float, unit: metrics.Unit, aligned: object) -> float:
        return rmse(metrics.RPE(relation, delta, unit, pairs_from_reference=True), aligned)

    shift, turn = metrics.PoseRelation.translation_part, metrics.PoseRelation.rotation_angle_deg
    same = pytest.approx  # 1e-6 of the value: float64 on both sides, files with nine digits
    for correct_scale, ate, per_frame, per_way in (
        (False, ours.ate_se3, ours.per_frame.translation_se3, ours.per_way.translation_se3),
        (True, ours.ate_sim3, ours.per_frame.translation_sim3, ours.per_way.translation_sim3),
    ):
        aligned = copy.deepcopy(estimate)
        _, _, scale = aligned.align(truth, correct_scale=correct_scale)
        assert ate == same(rmse(metrics.APE(shift), aligned))
        assert per_frame == same(relative(shift, 1, metrics.Unit.frames, aligned))
        assert per_way == same(relative(shift, 0.5, metrics.Unit.meters, aligned))
        assert ours.per_frame.rotation_deg == same(relative(turn, 1, metrics.Unit.frames, aligned))
        assert ours.per_way.rotation_deg == same(relative(turn, 0.5, metrics.Unit.meters, aligned))
        assert scale == same(ours.scale if correct_scale else 1.0)
    assert ours.ate_se3 > 2 * ours.ate_sim3  # the scale of 0.4 shows in one of them only


def test_noise_and_scale_put_in_come_out(sequence: Find):
    truth = read_tum(sequence('tum_fr3_cabinet') / 'trajectory_tum.txt')
    found = [evaluate(spoil(truth, seed), truth) for seed in range(5)]
    # 3 cm in each of three axes; the fit of seven unknowns to 150 numbers takes 2 % of it
    assert np.mean([one.ate_sim3 for one in found]) == pytest.approx(0.03 * math.sqrt(3), rel=0.06)
    assert np.mean([one.scale for one in found]) == pytest.approx(1 / 0.4, rel=0.005)
    # a step is the difference of two poses; 0.01 rad about each axis; lever arms add nothing to the turn
    turn = math.degrees(0.01 * math.sqrt(3) * math.sqrt(2))
    assert np.mean([one.per_frame.rotation_deg for one in found]) == pytest.approx(turn, rel=0.06)


def line(count: int = 12) -> Trajectory:
    """A camera that goes 0.1 m a frame along a bent way."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3] = 0.1 * np.arange(count)
    poses[:, 2, 3] = 0.02 * np.arange(count) ** 1.5
    return Trajectory(START_NS + FRAME_NS * np.arange(count, dtype=np.int64), poses)


def test_a_jump_at_window_seams_is_told_from_noise():
    truth = line()
    jumping = truth.world_from_cam.copy()
    jumping[:, 1, 3] += 0.05 * (np.arange(12) // 4 % 2)  # up at frame 4, down at frame 8
    found = evaluate(Trajectory(truth.stamps_ns, jumping), truth, starts_ns=truth.stamps_ns[[3, 7]])
    assert found.seams is not None
    assert found.seams.seams == 2
    assert found.seams.jitter == pytest.approx(0.05, rel=0.05)  # the fit turns the way by a few degrees
    assert found.seams.inside < 0.005
    elsewhere = evaluate(Trajectory(truth.stamps_ns, jumping), truth, starts_ns=truth.stamps_ns[[1, 5]])
    assert elsewhere.seams is not None
    assert elsewhere.seams.jitter < 0.005 < elsewhere.seams.inside


def test_a_file_of_inverse_poses_is_told(sequence: Find):
    truth = read_tum(sequence('tum_fr3_cabinet') / 'trajectory_tum.txt')
    found = evaluate(truth.inverted(), truth)
    assert found.ate_sim3 > 0.1
    assert 'cam_from_world' in ' '.join(found.notes)
    assert evaluate(spoil(truth), truth).notes == ()


def test_a_camera_held_in_place_has_no_scale_but_an_error():
    truth = line()
    found = evaluate(Trajectory(truth.stamps_ns, np.tile(np.eye(4), (12, 1, 1))), truth)
    assert found.ate_se3 == pytest.approx(found.ate_standstill)
    assert found.ate_standstill == pytest.approx(math.sqrt(truth.centres.var(axis=0).sum()))
    assert found.to_dict()['ate_sim3'] is None
    assert found.to_dict()['scale'] is None
    assert 'stands still' in found.notes[0]


def test_other_times_are_refused_with_both_spans():
    truth = line()
    late = Trajectory(truth.stamps_ns + 10**12, truth.world_from_cam)
    with pytest.raises(TrajectoryError, match=r'got 0: the result has 12 poses from \d+\.\d+ to .*same recording'):
        evaluate(late, truth)
    two = truth.take(np.array([0, 11]))
    with pytest.raises(TrajectoryError, match=r'need 3 poses .* got 2'):
        evaluate(two, truth)


GOOD = '1.0 0 0 0 0 0 0 1\n'


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'holds no poses'),
        ('# only a comment\n', 'holds no poses'),
        ('1 0 0 0 0 1 0 0 0 0 1 0\n', 'line 1: .* got 12; 12 numbers are KITTI'),
        ('# t,x,y,z\n1403636579763555584,4.6,-1.7,0.7,0.5,-0.1,-0.8,-0.1\n', 'line 2: .* got 1; is it CSV'),
        ('1403636579763555584 0 0 0 0 0 0 1\n', 'are those nanoseconds'),
        (GOOD + '2.0 0 0 x 0 0 0 1\n', 'line 2'),
        ('inf 0 0 0 0 0 0 1\n', 'line 1'),
        ('1.0 nan 0 0 0 0 0 1\n', 'quaternion'),
        ('1.0 0 0 0 0 0 0 0\n', 'quaternion of length 1'),
        (GOOD + '0.5 0 0 0 0 0 0 1\n', 'must increase'),
        (GOOD + GOOD, 'must increase'),
    ],
)
def test_other_layouts_are_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / 'trajectory.txt'
    path.write_text(text)
    with pytest.raises(SourceError, match=message):
        read_tum(path)


def test_stamps_keep_their_nanoseconds(tmp_path: Path):
    path = write_tum(tmp_path / 'trajectory.txt', line())
    np.testing.assert_array_equal(read_tum(path).stamps_ns, line().stamps_ns)
    np.testing.assert_allclose(read_tum(path).world_from_cam, line().world_from_cam, atol=1e-8)  # nine digits


def test_comments_and_empty_lines_count_as_lines_and_hold_no_pose(tmp_path: Path):
    path = tmp_path / 'trajectory.txt'
    path.write_text('# stamp tx ty tz qx qy qz qw\n\n1.5 1 2 3 0 0 0 1\n#2 0 0\n  \n2.5 4 5 6 0 0 0 1.009\n')
    found = read_tum(path)
    assert found.stamps_ns.tolist() == [1_500_000_000, 2_500_000_000]
    np.testing.assert_array_equal(found.world_from_cam[:, :3, 3], [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(found.world_from_cam[:, 3], [[0, 0, 0, 1]] * 2)
    path.write_text('# one\n\n3 0 0 0 0 0 0 0.98\n')
    with pytest.raises(SourceError, match=r'line 3.*quaternion of length 1'):
        read_tum(path)


@pytest.mark.parametrize('words, hint', [(12, 'KITTI'), (1, 'CSV'), (7, '8 numbers, got 7$'), (9, '8 numbers, got 9$')])
def test_a_line_of_another_length_is_told_with_what_it_may_be(tmp_path: Path, words: int, hint: str):
    path = tmp_path / 'trajectory.txt'
    path.write_text(' '.join(['1'] * words))
    with pytest.raises(SourceError, match=hint):
        read_tum(path)


@pytest.mark.parametrize('stamp, is_time', [('0', True), ('8999999999.9', True), ('9000000000', False), ('-1', False)])
def test_stamps_are_seconds_from_1970_to_2255(tmp_path: Path, stamp: str, is_time: bool):
    path = tmp_path / 'trajectory.txt'
    path.write_text(f'{stamp} 0 0 0 0 0 0 1\n')
    with contextlib.nullcontext() if is_time else pytest.raises(SourceError, match=r'seconds|line 1'):
        read_tum(path)


def test_quaternions_are_xyzw(tmp_path: Path):
    path = tmp_path / 'trajectory.txt'
    path.write_text('1.0 0 0 0 0 0 0.70710678 0.70710678\n')
    turned = read_tum(path).world_from_cam[0, :3, :3]
    np.testing.assert_allclose(turned @ [1, 0, 0], [0, 1, 0], atol=1e-8)  # a quarter turn about z, to the left


@pytest.fixture(scope='module')
def cabinet_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a run over real images by a network that knows depth and poses, and that of the sequence."""
    from recordings import SHARED

    folder = SHARED / 'data' / 'tum_fr3_cabinet'
    if not (folder / 'depth').is_dir():
        pytest.skip(f'no depth in {folder}; set VGGT_ROS_SHARED to the folder that holds data/')
    out = tmp_path_factory.mktemp('evaluate') / 'run'
    wanted = ('~/depth/image_rect', '~/depth/camera_info')
    run(open_source(folder), out, Config(), predictor=TruthPredictor(folder), wanted=wanted)
    return out, folder


def test_a_perfect_run_has_no_error(cabinet_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, folder = cabinet_run
    arguments = ['evaluate', str(out), '--reference', str(folder / 'trajectory_tum.txt'), '--depth', str(folder)]
    assert main([*arguments, '--json', str(tmp_path / 'out.json'), '--plot', str(tmp_path / 'out.png')]) == 0
    found = json.loads((tmp_path / 'out.json').read_text())
    assert (found['poses'], found['matched'], found['depth']['frames']) == (58, 58, 58)
    way = found['path_length']
    assert way == pytest.approx(8.268, abs=0.001)
    assert found['ate_sim3'] < 1e-4 * way  # float32 depth at every seam
    assert found['seams']['seams'] == 13  # windows of 8, then 12 of 4, then a rest of 2
    assert found['seams']['jitter'] < 1e-4 * way
    depth = found['depth']
    # the same grid, the same pixels: only float32 is between them, once the unit is that of the trajectory
    assert depth['trajectory_scaled']['abs_rel'] < 1e-4
    assert depth['median_scaled'] == {'abs_rel': pytest.approx(0, abs=1e-4), 'within_delta': 1.0}
    assert depth['published']['abs_rel'] == pytest.approx(abs(1 / found['scale'] - 1), abs=1e-4)
    assert 0.5 < depth['coverage'] <= 1
    assert 0.1 < depth['flat']['abs_rel'] < 0.4  # a cabinet on a floor is no wall
    shown = capsys.readouterr().out
    assert '58 of 58 poses' in shown
    assert f'{found["scale"]:.4f}' in shown
    picture = cv2.imread(str(tmp_path / 'out.png'))
    assert picture.shape[1] > 2 * picture.shape[0]
    assert picture.std() > 10


def test_depth_is_compared_through_the_published_intrinsics(cabinet_run: tuple[Path, Path]):
    _, folder = cabinet_run
    depth = DepthFolder(folder)
    stamp = int(depth.stamps_ns[7])
    stored = cv2.imread(str(folder / 'depth' / '0007.png'), cv2.IMREAD_UNCHANGED) / 5000
    stored[stored == 0] = np.nan
    np.testing.assert_allclose(depth.sample(stamp, 0, depth.K, (480, 640)), stored)
    # every second pixel, cut by 100 columns at the left: known from K alone
    K = np.diag([0.5, 0.5, 1.0]) @ depth.K
    K[0, 2] -= 50
    np.testing.assert_allclose(depth.sample(stamp, 0, K, (240, 200)), stored[::2, 100:500:2])
    # a camera that sees wider than the sensor
    wider = depth.K.copy()
    wider[:2, 2] += 10
    sampled = depth.sample(stamp, 0, wider, (500, 660))
    assert sampled is not None
    assert np.isnan(sampled[:10]).all()
    np.testing.assert_allclose(sampled[10:490, 10:650], stored)
    assert depth.sample(stamp + 11_000_000, 10_000_000, depth.K, (480, 640)) is None


def test_scores_of_known_depths():
    found = score(np.array([1.1, 1.8, 3.0, 5.2]), np.array([1.0, 2.0, 2.0, 4.0]))
    assert found.abs_rel == pytest.approx((0.1 + 0.1 + 0.5 + 0.3) / 4)
    assert found.within_delta == 0.5


def test_what_cannot_be_compared_is_said(
    cabinet_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, folder = cabinet_run
    truth = str(folder / 'trajectory_tum.txt')

    def said(*arguments: str) -> str:
        assert main(['evaluate', *arguments]) == 2
        return capsys.readouterr().err

    assert 'cannot read the trajectory' in said(str(tmp_path), '--reference', truth)
    assert 'needs the folder of a run' in said(truth, '--reference', truth, '--depth', str(folder))
    assert 'camera.json' in said(str(out), '--reference', truth, '--depth', str(tmp_path))
    assert 'above it' in said(truth, '--reference', truth, '--way', '0')
    (tmp_path / 'camera.json').write_text('{"fx": 1, "fy": 1, "cx": 0, "cy": 0, "depth_scale": 1000}')
    (tmp_path / 'frames.txt').write_text('# stamp image depth\n1.0 a.png -\n')
    assert 'lists no depth images' in said(str(out), '--reference', truth, '--depth', str(tmp_path))
    (tmp_path / 'frames.txt').write_text('1.0 a.png b.png\n')
    assert 'none can be compared' in said(str(out), '--reference', truth, '--depth', str(tmp_path))


@pytest.mark.parametrize(
    'text',
    ['', '[' * 100_000, '[]', '{"seams": 3}', '{"seams": [{}, {}]}', '{"seams": [{"stamp_ns": 1e400}, 0]}',
     '{"seams": [{"stamp_ns": 1000000000000000000000000}, 0]}', '\xff'],
)  # fmt: skip
def test_a_summary_that_does_not_say_where_windows_begin_says_nothing(tmp_path: Path, text: str):
    (tmp_path / 'summary.json').write_bytes(text.encode('latin-1'))
    assert window_starts(tmp_path / 'summary.json') is None
