"""A recording in, a folder of results out: read back, compared with the truth, and broken on the way."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import trimesh
from recordings import (
    FRAME_NS,
    REPOSITORY,
    START_NS,
    TruthPredictor,
    camera_bag,
    coloured_image,
    image_message,
    info_message,
    read_mcap,
    read_tum,
    write_bag,
)
from rosbags.highlevel import AnyReader

from vggt.weights import shipped_names
from vggt_ros.core.config import Config
from vggt_ros.core.errors import EncodingError, OutputError, PredictionError, SourceError
from vggt_ros.core.foresight import Foresight
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, invert_rigid
from vggt_ros.core.predictor import FakePredictor, Predictor
from vggt_ros.decode import stamp_ns
from vggt_ros.encode import MessageMaker
from vggt_ros.messages import bag_messages
from vggt_ros.recorded.source import open_source
from vggt_ros.results import exports
from vggt_ros.results.report import STAGES, Report
from vggt_ros.results.result_bag import ResultBag
from vggt_ros.run import FILES, run
from vggt_ros.topics import TOPIC, resolve

TYPES = bag_messages()
FAKE = Config().with_values({'backend': 'fake', 'window_size': 4, 'window_stride': 2})
PER_FRAME = ('/vggt/odom', '/vggt/depth/image_rect', '/vggt/points', '/vggt/camera_pose', '/tf')


def run_fake(recording: Path, out: Path, config: Config = FAKE, **options: Any) -> Report:
    source = open_source(recording)
    try:
        return run(source, out, config, **options)
    finally:
        source.close()


def stamps_of(out: Path, topic: str) -> list[int]:
    return [message.log_time_ns for message in read_mcap(out / 'result.mcap') if message.topic == topic]


def read_ply(data: bytes) -> trimesh.PointCloud:
    return trimesh.load(io.BytesIO(data), file_type='ply')


@pytest.fixture(scope='module')
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run over 7 frames of a bag: windows of 4, 4 and a rest."""
    folder = tmp_path_factory.mktemp('run')
    run_fake(camera_bag(folder / 'bag', 7), folder / 'out')
    return folder / 'out'


def test_all_files_are_there_and_nothing_else(out: Path):
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, 'report.html', 'metadata.yaml'])


def test_every_frame_is_in_every_topic_once_and_in_order(out: Path):
    expected = [START_NS + i * FRAME_NS for i in range(7)]
    for topic in PER_FRAME:
        assert stamps_of(out, topic) == expected, topic


def test_each_topic_of_the_table_is_in_the_bag_with_its_type(out: Path):
    assert {message.topic: message.type for message in read_mcap(out / 'result.mcap')} == {
        resolve(topic.name): topic.type for topic in TOPIC.values()
    }


def test_the_folder_can_be_played_as_a_bag(out: Path):
    with AnyReader([out]) as reader:
        assert reader.topics['/vggt/odom'].msgcount == 7


def test_trajectory_and_camera_poses_are_the_same(out: Path):
    poses = [message.fields for message in read_mcap(out / 'result.mcap') if message.topic == '/vggt/camera_pose']
    trajectory = read_tum(out / 'trajectory_tum.txt')
    assert list(trajectory) == [stamp_ns(pose.header.stamp) for pose in poses]  # exact to the nanosecond
    for pose, world_from_cam in zip(poses, trajectory.values(), strict=True):
        position = pose.pose.position
        np.testing.assert_allclose(world_from_cam[:3, 3], [position.x, position.y, position.z], atol=1e-8)  # 9 digits
        np.testing.assert_allclose(world_from_cam[:3, :3], BODY_FROM_OPTICAL[:3, :3], atol=1e-8)


def test_the_chain_of_tf_leads_from_odom_to_the_camera(out: Path):
    messages = read_mcap(out / 'result.mcap')
    edges = [one for message in messages if message.topic in ('/tf', '/tf_static') for one in message.fields.transforms]
    assert {(edge.header.frame_id, edge.child_frame_id) for edge in edges} == {
        ('odom', 'base_link'),
        ('base_link', 'camera'),
    }


def test_cloud_and_scene_open_in_trimesh(out: Path):
    cloud = read_ply((out / 'cloud.ply').read_bytes())
    np.testing.assert_allclose(cloud.vertices[:, 0], FakePredictor.DISTANCE, atol=1e-6)  # the wall ahead: x forward
    assert cloud.colors.shape == (len(cloud.vertices), 4)
    scene = trimesh.load(out / 'scene.glb')
    assert set(scene.geometry) == {'cloud', 'cameras', 'path'}
    placed = trimesh.transform_points(scene.geometry['cloud'].vertices, scene.graph['cloud'][0])
    np.testing.assert_allclose(placed[:, 2], FakePredictor.DISTANCE, atol=1e-6)  # glTF: z forward
    assert len(placed) == len(cloud.vertices)


def test_summary_tells_settings_counts_seams_and_timings(out: Path):
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['complete']
    assert (summary['frames'], summary['windows'], summary['unit']) == (7, 3, 'units')
    assert summary['counts']['frames'] == 7
    assert summary['settings'] == FAKE.values()
    assert summary['seams'][0]['status'] == 'first'
    assert summary['seams'][0]['inlier_ratio'] is None  # JSON has no NaN
    assert summary['messages']['~/odom'] == 7
    assert set(summary['timings']['total_s']) == set(STAGES)
    assert summary['timings']['total_s']['write'] > 0
    assert summary['recorded_s'] == pytest.approx(6 * FRAME_NS / 1e9)
    assert summary['path_length'] == pytest.approx(6 * FRAME_NS / 1e9 * FakePredictor.SPEED, rel=1e-6)


def test_the_same_recording_gives_the_same_messages(tmp_path: Path):
    bag = camera_bag(tmp_path / 'bag', 7)
    for name in 'ab':
        run_fake(bag, tmp_path / name)
    messages = []
    for name in 'ab':
        with AnyReader([tmp_path / name]) as reader:
            messages.append([(connection.topic, time, data) for connection, time, data in reader.messages()])
    assert messages[0] == messages[1]


def test_a_network_on_a_device_of_its_own_gives_the_same_messages(tmp_path: Path):
    """It begins with windows before they are asked for, so frames are read before their turn."""
    bag = camera_bag(tmp_path / 'bag', 11)
    run_fake(bag, tmp_path / 'a')
    ahead = []

    class Elsewhere(FakePredictor):
        def predict(self, window):
            ahead.append(threading.current_thread().name)
            return super().predict(window)

    report = run_fake(bag, tmp_path / 'b', predictor=Foresight(Elsewhere(FAKE)))
    assert report.counts['frames'] == 11
    assert ahead == ['vggt_network'] * 5
    messages = []
    for name in 'ab':
        with AnyReader([tmp_path / name]) as reader:
            messages.append([(connection.topic, time, data) for connection, time, data in reader.messages()])
    assert messages[0] == messages[1]


@pytest.mark.parametrize('name', ['redkitchen_clip', 'tum_fr3_cabinet'])
def test_true_depth_and_poses_at_random_scales_give_the_true_trajectory_and_cloud(
    tmp_path: Path, sequence: Callable[[str], Path], name: str
):
    """Real images, depth and poses of an RGB-D camera in the place of the network, each window at another scale.

    The seams see real depth: noise of the sensor, 1 to 2 cm at these distances, over 14 to 18 windows.
    """
    folder = sequence(name)
    if not (folder / 'depth').is_dir():
        pytest.skip(f'{folder} has no depth')
    predictor = TruthPredictor(folder)
    run_fake(folder, tmp_path / 'out', Config().with_values({'confidence_percentile': 0.0}), predictor=predictor)
    found = read_tum(tmp_path / 'out' / 'trajectory_tum.txt')
    truth = predictor.world_from_cam
    assert list(found) == sorted(truth)
    first = min(truth)
    scale_to_metres = None
    for stamp, pose in found.items():
        relative = invert_rigid(found[first]) @ pose
        expected = invert_rigid(truth[first]) @ truth[stamp]
        if scale_to_metres is None and np.linalg.norm(expected[:3, 3]) > 0.1:
            scale_to_metres = np.linalg.norm(expected[:3, 3]) / np.linalg.norm(relative[:3, 3])
    assert scale_to_metres is not None
    for stamp, pose in found.items():
        relative = invert_rigid(found[first]) @ pose
        expected = invert_rigid(truth[first]) @ truth[stamp]
        np.testing.assert_allclose(relative[:3, 3] * scale_to_metres, expected[:3, 3], atol=1e-3)
        np.testing.assert_allclose(relative[:3, :3], expected[:3, :3], atol=1e-3)
    seams = json.loads((tmp_path / 'out' / 'summary.json').read_text())['seams']
    assert {seam['status'] for seam in seams[1:]} == {'aligned'}


@pytest.mark.parametrize('name', ['redwood_micro', 'redkitchen_clip', 'tum_fr3_cabinet', 'strecha_fountain_p11'])
def test_each_shared_sequence_runs_from_a_bag(tmp_path: Path, shared_bag: Callable[..., Path], name: str):
    """Five frames of each, one window, through the shipped network; the fake one where none ships.

    Not two windows: a last one of two frames far apart can tell too little for the small network to be believed.
    """
    bag = shared_bag(name, '--encoding', 'jpeg', '--count', '5', '--depth', 'none')
    backend = 'vggt' if 'nano' in shipped_names() else 'fake'
    config = Config().with_values({'backend': backend, 'window_size': 5, 'window_stride': 4, 'device': 'cpu'})
    report = run_fake(bag, tmp_path / 'out', config)
    assert len(report.stamps_ns) == 5
    assert report.is_good
    messages = read_mcap(tmp_path / 'out' / 'result.mcap')
    with AnyReader([bag]) as reader:
        sent = [time for _, time, _ in reader.messages([c for c in reader.connections if 'compressed' in c.topic])]
    depths = [message for message in messages if message.topic == '/vggt/depth/image_rect']
    assert [stamp_ns(message.fields.header.stamp) for message in depths] == sent
    for message in depths:
        depth = np.frombuffer(bytes(message.fields.data), np.float32)
        assert np.isfinite(depth).mean() > 0.5
        assert (depth[np.isfinite(depth)] > 0).all()


def test_a_mount_in_the_recording_places_the_robot(tmp_path: Path):
    make, base_from_cam = MessageMaker(TYPES), BODY_FROM_OPTICAL.copy()
    base_from_cam[:3, 3] = 0.2, 0.0, 0.5
    tf = make.tf([make.transform(START_NS, 'base_link', 'camera', base_from_cam)])
    entries = [('/tf_static', 'tf2_msgs/msg/TFMessage', START_NS, tf)]
    for i in range(3):
        image = image_message(TYPES, coloured_image(), 'rgb8', stamp_ns=START_NS + i * FRAME_NS)
        entries.append(('/camera/image_raw', 'sensor_msgs/msg/Image', START_NS + i, image))
    run_fake(write_bag(tmp_path / 'bag', entries), tmp_path / 'out')
    odometry = [message.fields for message in read_mcap(tmp_path / 'out' / 'result.mcap') if 'odom' in message.topic]
    first = odometry[0].pose.pose
    np.testing.assert_allclose([first.position.x, first.position.y, first.position.z], 0, atol=1e-12)  # at its base
    assert first.orientation.w == pytest.approx(1)
    (static,) = [m.fields for m in read_mcap(tmp_path / 'out' / 'result.mcap') if m.topic == '/tf_static']
    assert static.transforms[0].transform.translation.z == pytest.approx(0.5)


def test_only_the_topics_asked_for_are_written(tmp_path: Path):
    run_fake(camera_bag(tmp_path / 'bag', 4), tmp_path / 'out', wanted=['~/odom'])
    assert {message.topic for message in read_mcap(tmp_path / 'out' / 'result.mcap')} == {'/vggt/odom'}
    assert 'data:image/jpeg' in (tmp_path / 'out' / 'report.html').read_text()  # the page has its pictures anyway


def test_a_resolution_that_changes_starts_a_new_window(tmp_path: Path):
    entries = []
    for i in range(6):
        pixels = coloured_image() if i < 3 else coloured_image(96, 128)
        image = image_message(TYPES, pixels, 'rgb8', stamp_ns=START_NS + i * FRAME_NS)
        entries.append(('/camera/image_raw', 'sensor_msgs/msg/Image', START_NS + i, image))
    report = run_fake(write_bag(tmp_path / 'bag', entries), tmp_path / 'out')
    assert len(report.stamps_ns) == 6
    assert report.counts['restarts'] == 1
    assert any('size changed' in note for note in report.notes)


def test_stamps_that_go_back_are_dropped_and_a_jump_starts_a_new_map(tmp_path: Path):
    entries = []
    for i, seconds in enumerate([0, 1, 2, 1.5, 3, -40, -39, -38]):
        image = image_message(TYPES, coloured_image(), 'rgb8', stamp_ns=START_NS + round(seconds * 1e9))
        entries.append(('/camera/image_raw', 'sensor_msgs/msg/Image', START_NS + i, image))
    report = run_fake(write_bag(tmp_path / 'bag', entries), tmp_path / 'out')
    assert (report.counts['resets'], report.counts['out_of_order']) == (1, 1)
    assert any('stamps went back by 43.000 s' in note for note in report.notes)
    seconds = [(stamp - START_NS) / 1e9 for stamp in report.stamps_ns]
    assert seconds == [0, 1, 2, 3, -40, -39, -38]
    read_mcap(tmp_path / 'out' / 'result.mcap')


@pytest.mark.parametrize('make', [FakePredictor, lambda config: Foresight(FakePredictor(config))])
def test_a_recording_that_breaks_off_keeps_what_was_computed(tmp_path: Path, make: Callable[[Config], Predictor]):
    entries = []
    for i in range(8):
        image = image_message(TYPES, coloured_image(), 'rgb8', stamp_ns=START_NS + i * FRAME_NS)
        entries.append(('/camera/image_raw', 'sensor_msgs/msg/Image', START_NS + i, image))
    entries[6][3].encoding = 'hologram'
    bag = write_bag(tmp_path / 'bag', entries)
    with pytest.raises(EncodingError, match='hologram'):
        run_fake(bag, tmp_path / 'out', predictor=make(FAKE))
    # Six good frames: a window of four, and the two that waited are processed as well.
    assert len(stamps_of(tmp_path / 'out', '/vggt/odom')) == 6
    assert len(read_tum(tmp_path / 'out' / 'trajectory_tum.txt')) == 6
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert not summary['complete']
    assert 'hologram' in summary['failure']
    assert 'The run ended early' in (tmp_path / 'out' / 'report.html').read_text()


def test_a_bad_image_can_be_skipped(tmp_path: Path):
    entries = []
    for i in range(6):
        image = image_message(TYPES, coloured_image(), 'rgb8', stamp_ns=START_NS + i * FRAME_NS)
        entries.append(('/camera/image_raw', 'sensor_msgs/msg/Image', START_NS + i, image))
    entries[3][3].encoding = 'hologram'
    source = open_source(write_bag(tmp_path / 'bag', entries), skip_bad=True)
    report = run(source, tmp_path / 'out', FAKE)
    assert len(report.stamps_ns) == 5
    assert report.counts['skipped'] == 1
    assert any('hologram' in note for note in report.notes)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_never_divides_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    """The signal comes in the middle of writing the second window: that is finished, and the one computed meanwhile."""
    write, odometry = ResultBag.write, []

    def interrupt(bag: ResultBag, topic: str, stamp: int, message: Any) -> None:
        write(bag, topic, stamp, message)
        if topic == '~/odom':
            odometry.append(stamp)
            if len(odometry) == 5:  # the first of the two new frames of that window
                signal.raise_signal(number)

    monkeypatch.setattr(ResultBag, 'write', interrupt)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as where run is called from Python
    try:
        with pytest.raises(KeyboardInterrupt):
            run_fake(camera_bag(tmp_path / 'bag', 20), tmp_path / 'out')
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    windows = len(stamps_of(tmp_path / 'out', '/vggt/path'))
    assert windows in (2, 3)
    assert len(stamps_of(tmp_path / 'out', '/vggt/odom')) == 2 + 2 * windows
    assert len(read_tum(tmp_path / 'out' / 'trajectory_tum.txt')) == 2 + 2 * windows
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class FailingPredictor(FakePredictor):
    """Fails on its third window."""

    windows = 0

    def predict(self, window):
        self.windows += 1
        if self.windows == 3:
            raise self.error
        return super().predict(window)


@pytest.mark.parametrize(
    'error', [PredictionError('the network failed'), KeyboardInterrupt(), RuntimeError('a bug of ours')]
)
def test_whatever_ends_a_run_what_was_computed_is_whole(tmp_path: Path, error: BaseException):
    predictor = FailingPredictor(FAKE)
    predictor.error = error
    with pytest.raises(type(error)):
        run_fake(camera_bag(tmp_path / 'bag', 20), tmp_path / 'out', predictor=predictor)
    assert len(stamps_of(tmp_path / 'out', '/vggt/odom')) == 6
    assert len(read_ply((tmp_path / 'out' / 'cloud.ply').read_bytes()).vertices) > 0
    assert not json.loads((tmp_path / 'out' / 'summary.json').read_text())['complete']


def test_a_disk_that_fills_while_writing_the_bag_keeps_the_bag_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The reserve cannot grow any more after 20 MB."""
    plain = os.posix_fallocate

    def allocate(descriptor: int, offset: int, length: int) -> None:
        if length > 6 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(descriptor, offset, length)

    monkeypatch.setattr(os, 'posix_fallocate', allocate)
    config = FAKE.with_values({'input_width': 500})
    entries = []
    for i in range(8):
        image = image_message(TYPES, coloured_image(480, 640), 'rgb8', stamp_ns=START_NS + i * FRAME_NS)
        entries.append(('/camera/image_raw', 'sensor_msgs/msg/Image', START_NS + i, image))
    bag = write_bag(tmp_path / 'bag', entries)
    with pytest.raises(OutputError, match=r'result\.mcap: No space left.*kept and readable'):
        run_fake(bag, tmp_path / 'out', config)
    assert read_mcap(tmp_path / 'out' / 'result.mcap')
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert 'No space left' in summary['failure']


def test_a_disk_that_fills_at_the_end_keeps_the_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = exports.tempfile.NamedTemporaryFile

    def open_on_full_disk(*arguments: Any, **options: Any) -> Any:
        if 'cloud.ply' in options.get('prefix', ''):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(*arguments, **options)

    monkeypatch.setattr(exports.tempfile, 'NamedTemporaryFile', open_on_full_disk)
    with pytest.raises(OutputError, match=r'cloud\.ply: No space left'):
        run_fake(camera_bag(tmp_path / 'bag', 4), tmp_path / 'out')
    assert not (tmp_path / 'out' / 'cloud.ply').exists()
    assert {path.name for path in (tmp_path / 'out').iterdir()} >= {'trajectory_tum.txt', 'report.html', 'scene.glb'}


def test_results_are_not_replaced_unasked(tmp_path: Path):
    bag = camera_bag(tmp_path / 'bag', 4)
    run_fake(bag, tmp_path / 'out')
    with pytest.raises(OutputError, match='--force replaces'):
        run_fake(bag, tmp_path / 'out')
    run_fake(bag, tmp_path / 'out', force=True)


@pytest.mark.parametrize('out', ['bag', '.', 'other'])
def test_a_recording_is_never_written_over(tmp_path: Path, out: str):
    bag = camera_bag(tmp_path / 'bag', 2)
    camera_bag(tmp_path / 'other', 2)
    before = (tmp_path / out / 'metadata.yaml').read_bytes() if out != '.' else b''
    with pytest.raises(OutputError, match='name a'):
        run_fake(bag, tmp_path / out, force=True)
    assert out == '.' or (tmp_path / out / 'metadata.yaml').read_bytes() == before


def test_an_empty_recording_is_an_error_with_whole_if_empty_results(tmp_path: Path):
    info = info_message(TYPES, np.eye(3) * 50, (48, 64))
    stampless = image_message(TYPES, coloured_image(), 'rgb8', stamp_ns=0)
    entries = [('/camera/camera_info', 'sensor_msgs/msg/CameraInfo', START_NS, info)]
    entries.append(('/camera/image_raw', 'sensor_msgs/msg/Image', START_NS, stampless))
    source = open_source(write_bag(tmp_path / 'bag', entries), skip_bad=True)
    with pytest.raises(SourceError, match='holds no frames'):
        run(source, tmp_path / 'out', FAKE)
    assert [m.topic for m in read_mcap(tmp_path / 'out' / 'result.mcap')] == []
    assert 'holds no frames' in (tmp_path / 'out' / 'report.html').read_text()


def command(*arguments: str, **options: Any) -> subprocess.Popen:
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, '-m', 'vggt_ros.cli', *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A run that takes far longer than the test: thousands of images, all of them one file."""
    folder = tmp_path / 'images'
    folder.mkdir()
    cv2.imwrite(str(tmp_path / 'image.png'), coloured_image())
    for i in range(4000):
        os.link(tmp_path / 'image.png', folder / f'{i:05}.png')
    process = command('run', str(folder), '--out', str(tmp_path / 'out'), '--backend', 'fake', '--quiet')
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_the_results_and_says_so(tmp_path: Path, endless: subprocess.Popen, number: int):
    result, deadline = tmp_path / 'out' / 'result.mcap', time.monotonic() + 60
    while not (result.exists() and result.stat().st_size > 2_000_000):
        assert time.monotonic() < deadline
        assert endless.poll() is None, endless.communicate()
        time.sleep(0.02)
    endless.send_signal(number)
    _, errors = endless.communicate(timeout=60)
    assert endless.returncode == 130
    assert 'interrupted' in errors
    assert 'Traceback' not in errors
    assert 0 < len(stamps_of(tmp_path / 'out', '/vggt/odom')) < 4000
    assert len(read_tum(tmp_path / 'out' / 'trajectory_tum.txt')) == len(stamps_of(tmp_path / 'out', '/vggt/odom'))
