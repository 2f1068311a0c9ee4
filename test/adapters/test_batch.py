"""Many recordings: resumed, broken, killed, split; the results are those of one run after the other."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import REPOSITORY, camera_bag, coloured_image, read_mcap, read_tum

from vggt_ros import cli
from vggt_ros.batch.jobs import find_sources, make_jobs
from vggt_ros.batch.parts import AheadSource, Answer, Part, PartsPredictor, Workers, predict_part
from vggt_ros.core.config import Config
from vggt_ros.core.errors import ConfigError, SourceError
from vggt_ros.core.frame import Frame
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import FakePredictor, load_network, make_predictor
from vggt_ros.recorded.static_tf import StaticTransforms

RESULTS = ('trajectory_tum.txt', 'cloud.ply')
FAKE = ['--backend', 'fake', '--quiet']


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Three bags and a file that is none."""
    folder = tmp_path / 'bags'
    for i in range(3):
        camera_bag(folder / f'drive{i}', 6 + i)
    (folder / 'broken.mcap').write_bytes(b'no bag')
    return folder


def batch(*arguments: object) -> int:
    return cli.main(['batch', *map(str, arguments), *FAKE])


def summary_of(out: Path) -> dict:
    return json.loads((out / 'summary.json').read_text())


def states(out: Path) -> dict[str, str]:
    return {row['name']: row['state'] for row in summary_of(out)['rows']}


def assert_same_results(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    ours, theirs = read_mcap(one / 'result.mcap'), read_mcap(other / 'result.mcap')
    assert [message[:3] for message in ours] == [message[:3] for message in theirs]


def test_a_batch_gives_what_one_run_after_the_other_gives_and_a_broken_bag_costs_only_itself(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / 'out'
    assert batch(recordings, '--out', out, '--workers', '1') == 1
    assert states(out) == {'broken': 'failed', 'drive0': 'done', 'drive1': 'done', 'drive2': 'done'}
    for name in ('drive0', 'drive1', 'drive2'):
        assert cli.main(['run', str(recordings / name), '--out', str(tmp_path / name), *FAKE]) == 0
        assert_same_results(out / name, tmp_path / name)
    rows = {row['name']: row for row in summary_of(out)['rows']}
    assert 'broken.mcap cannot be read' in rows['broken']['failure']
    assert (rows['drive2']['frames'], rows['drive2']['poor_seams']) == (8, 0)
    shown = capsys.readouterr().out
    assert 'broken.mcap cannot be read' in shown
    assert (out / 'summary.txt').read_text() in shown
    page = (out / 'index.html').read_text()
    for name in ('drive0', 'drive1', 'drive2'):
        assert f'href="{name}/report.html"' in page
        assert (out / name / 'report.html').is_file()


def test_what_is_done_is_kept_and_what_failed_is_tried_again(recordings: Path, tmp_path: Path):
    out = tmp_path / 'out'
    batch(recordings, '--out', out, '--workers', '1')
    before = (out / 'drive0' / 'report.html').stat().st_mtime_ns
    camera_bag(tmp_path / 'mended', 5)
    (recordings / 'broken.mcap').write_bytes(next((tmp_path / 'mended').glob('*.mcap')).read_bytes())
    assert batch(recordings, '--out', out, '--workers', '1') == 0
    assert states(out) == dict.fromkeys(('drive0', 'drive1', 'drive2'), 'done before') | {'broken': 'done'}
    assert (out / 'drive0' / 'report.html').stat().st_mtime_ns == before


def test_a_recording_that_breaks_off_keeps_its_results_so_far(tmp_path: Path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for i in range(12):
        cv2.imwrite(str(folder / f'{i:02}.png'), coloured_image())
    (folder / '07.png').write_bytes(b'no image')
    camera_bag(tmp_path / 'whole', 4)
    out = tmp_path / 'out'
    assert batch(folder, tmp_path / 'whole', '--out', out, '--workers', '1') == 1
    rows = {row['name']: row for row in summary_of(out)['rows']}
    assert (rows['whole']['state'], rows['images']['state']) == ('done', 'failed')
    assert '07.png' in rows['images']['failure']
    assert rows['images']['frames'] == 7
    assert rows['images']['report'] == 'images.failed/report.html'
    assert (out / 'images.failed' / 'report.html').is_file()
    assert not (out / 'images').exists()


def test_results_of_others_are_not_taken_for_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):  # fmt: skip
    camera_bag(tmp_path / 'a' / 'drive', 4)
    camera_bag(tmp_path / 'b' / 'drive', 5)
    out = tmp_path / 'out'
    assert batch(tmp_path / 'a' / 'drive', '--out', out, '--workers', '1') == 0
    assert batch(tmp_path / 'b' / 'drive', '--out', out, '--workers', '1') == cli.OUR_ERROR
    assert 'holds results of' in capsys.readouterr().err
    assert batch(tmp_path / 'a' / 'drive', '--out', out, '--workers', '1', '--window-size', '4') == cli.OUR_ERROR
    assert 'another window_size' in capsys.readouterr().err
    assert batch(tmp_path / 'b' / 'drive', '--out', out, '--workers', '1', '--force') == 0
    assert summary_of(out)['rows'][0]['frames'] == 5


def test_recordings_of_one_name_are_told_apart_by_their_folder(tmp_path: Path):
    paths = [camera_bag(tmp_path / day / 'drive', 2) for day in ('monday', 'tuesday')]
    assert [job.name for job in make_jobs(paths, tmp_path)] == ['monday-drive', 'tuesday-drive']
    with pytest.raises(SourceError, match='names of their own'):
        make_jobs([paths[0], paths[0]], tmp_path)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SourceError, match='holds none'):
        find_sources([tmp_path / 'empty'])


def test_killed_in_the_middle_and_called_again(tmp_path: Path):
    for i in range(3):
        camera_bag(tmp_path / 'bags' / f'drive{i}', 20)
    out = tmp_path / 'out'
    call = [sys.executable, '-m', 'vggt_ros.cli', 'batch', tmp_path / 'bags', '--out', out, '--workers', '1', *FAKE]
    running = subprocess.Popen([*map(str, call)], env={**os.environ, 'PYTHONPATH': str(REPOSITORY)})
    deadline = time.monotonic() + 90
    while not ((out / 'drive0').exists() and list(out.glob('.*.unfinished'))) and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = {path.name for path in out.glob('drive*')}
    assert 'drive0' in done
    assert all((out / name / 'report.html').is_file() for name in done)  # whole, or not there
    assert batch(tmp_path / 'bags', '--out', out, '--workers', '1') == 0
    assert states(out) == {f'drive{i}': 'done before' if f'drive{i}' in done else 'done' for i in range(3)}
    assert not list(out.glob('.*'))


def test_without_ray_several_workers_are_refused_with_the_way_out(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'ray' else find(name))
    assert batch(recordings, '--out', tmp_path / 'out', '--workers', '2') == cli.OUR_ERROR
    assert 'pip install' in capsys.readouterr().err
    assert batch(recordings / 'drive0', '--out', tmp_path / 'out') == 0  # one after the other


# --- a recording in parts


class Frames:
    """A source of frames in memory."""

    path, skipped = Path('memory'), 0

    def __init__(self, frames: list[Frame], error: Exception | None = None) -> None:
        self.frames, self.error = frames, error

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self):
        yield from self.frames
        if self.error is not None:
            raise self.error

    def static_transforms(self) -> StaticTransforms:
        return StaticTransforms()

    def close(self) -> None:
        pass


def walk(count: int, *, gap_after: int = -1, K: np.ndarray | None = None) -> list[Frame]:
    """A texture that shifts; a pause of ten seconds after one of the frames."""
    texture = np.random.default_rng(0).integers(0, 255, (60, 80 + 2 * count, 3), dtype=np.uint8)
    stamps = [1_000_000_000 + i * 100_000_000 + 10_000_000_000 * (0 <= gap_after < i) for i in range(count)]
    return [Frame(stamp, texture[:, 2 * i : 2 * i + 80].copy(), 'camera', K) for i, stamp in enumerate(stamps)]


def updates_of(frames: list[Frame], config: Config, make) -> list:
    """What the pipeline says, whole and in parts computed on two threads with a predictor each."""
    pipeline = Pipeline(config, make())
    whole = [one for frame in frames if (one := pipeline.add_frame(frame))] + [pipeline.flush()]
    predictors, parts = [make(), make()], []
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:

        def submit(part: Part) -> Future[Answer]:
            parts.append(part)
            i = len(parts) % 2
            return (first, second)[i].submit(predict_part, predictors[i], part)

        predictor = PartsPredictor(Workers(submit, 2), frames_a_part=6)
        joined_pipeline = Pipeline(config, predictor)
        source = AheadSource(Frames(frames), config, predictor)
        joined = [one for frame in source if (one := joined_pipeline.add_frame(frame))] + [joined_pipeline.flush()]
    assert len(parts) > 2
    return [[one for one in updates if one is not None] for updates in (whole, joined)]


def assert_same_map(whole: list, joined: list, tolerance: float) -> None:
    assert [one.window_stamps_ns for one in joined] == [one.window_stamps_ns for one in whole]
    for a, b in zip(whole, joined, strict=True):
        assert a.seam.status == b.seam.status
        np.testing.assert_allclose(b.map_from_window_cams, a.map_from_window_cams, atol=tolerance)
        for x, y in zip(a.frames, b.frames, strict=True):
            np.testing.assert_allclose(y.K, x.K, atol=tolerance * 100)
            np.testing.assert_allclose(y.depth, x.depth, atol=tolerance * 10)


@pytest.mark.parametrize('gap_after', [-1, 20])
def test_parts_joined_are_the_whole(gap_after: int):
    config = Config().with_values({'backend': 'fake', 'window_size': 6, 'window_stride': 3})
    whole, joined = updates_of(walk(41, gap_after=gap_after), config, lambda: FakePredictor(config))
    assert_same_map(whole, joined, 1e-9)


def test_parts_joined_are_the_whole_with_the_network_that_ships():
    """Cameras without a calibration: all parts must use the intrinsics that the first window locked."""
    config = Config().with_values({'device': 'cpu', 'window_size': 4, 'window_stride': 2, 'input_width': 56})
    network = load_network(config, quiet=True)
    whole, joined = updates_of(walk(18), config, lambda: make_predictor(config, network))
    # The first window of a part encodes its shared frames beside others, so sums are rounded in another order; seams
    # of this network are off by a hundred times as much.
    assert_same_map(whole, joined, 1e-3)


def test_a_recording_that_breaks_off_gives_all_frames_before_its_error():
    config = Config().with_values({'backend': 'fake', 'window_size': 4, 'window_stride': 2})
    fake = FakePredictor(config)

    def submit(part: Part) -> Future[Answer]:
        answer: Future[Answer] = Future()
        answer.set_result(predict_part(fake, part))
        return answer

    predictor = PartsPredictor(Workers(submit, 1), frames_a_part=4)
    seen: list[int] = []

    def read() -> None:
        for frame in AheadSource(Frames(walk(9), SourceError('breaks off')), config, predictor):
            seen.append(frame.stamp_ns)

    with pytest.raises(SourceError, match='breaks off'):
        read()
    assert seen == [frame.stamp_ns for frame in walk(9)]


def test_windows_that_nobody_foresaw_are_computed_all_the_same():
    config = Config().with_values({'backend': 'fake', 'window_size': 6, 'window_stride': 3})
    fake = FakePredictor(config)
    asked: list[Part] = []

    def submit(part: Part) -> Future[Answer]:
        asked.append(part)
        answer: Future[Answer] = Future()
        answer.set_result(predict_part(fake, part))
        return answer

    predictor = PartsPredictor(Workers(submit, 1), frames_a_part=6)
    pipeline = Pipeline(config, predictor)
    source = AheadSource(Frames(walk(40)), config, predictor)
    stamps = []
    for i, frame in enumerate(source):
        if i == 12:
            pipeline.halve_windows()  # as where memory is short: the scout goes on with the windows that were asked for
        update = pipeline.add_frame(frame)
        stamps += [placed.stamp_ns for placed in update.frames] if update else []
    last = pipeline.flush()
    stamps += [placed.stamp_ns for placed in last.frames] if last else []
    assert stamps == [frame.stamp_ns for frame in walk(40)]


# --- on Ray

os.environ.setdefault('RAY_worker_niceness', '0')  # else its workers wait for whatever runs beside the tests
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec('ray') is None, reason='ray is not installed: pip install -r requirements/batch.txt'
)


@needs_ray
def test_two_workers_on_ray_and_a_recording_split_between_them(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One batch for all of it, since Ray takes its time to start: whole, split, broken, the result as one by one."""
    monkeypatch.setenv('RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER', '0')  # as the command does before it imports Ray
    import ray

    from vggt_ros.batch import command

    out, alone, listening = tmp_path / 'out', tmp_path / 'alone', []
    camera_bag(recordings / 'long', 40)
    is_long = command._is_long

    def look(*args: object) -> bool:
        listening.extend(node['NodeManagerAddress'] for node in ray.nodes())
        return is_long(*args)

    monkeypatch.setattr(command, '_is_long', look)
    assert batch(recordings, '--out', out, '--workers', '2', '--split', '12') == 1
    assert set(listening) == {'127.0.0.1'}  # nobody else reaches it
    assert batch(recordings, '--out', alone, '--workers', '1') == 1
    assert states(out) == {'broken': 'failed', 'long': 'done', **{f'drive{i}': 'done' for i in range(3)}}
    for name in ('drive0', 'drive1', 'drive2', 'long'):
        assert_same_results(out / name, alone / name)
    assert len(read_tum(out / 'long' / 'trajectory_tum.txt')) == 40
    assert 'broken.mcap cannot be read' in {row['name']: row for row in summary_of(out)['rows']}['broken']['failure']


@needs_ray
def test_a_cluster_that_is_not_there_is_said_in_one_line(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert batch(recordings, '--out', tmp_path / 'out', '--address', '127.0.0.1:1') == cli.OUR_ERROR
    assert 'cannot be started or reached at 127.0.0.1:1' in capsys.readouterr().err


@needs_ray
def test_ray_that_does_not_start_in_time_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from vggt_ros.batch.on_ray import _connect

    def init(**_: object) -> None:
        raise Exception('The current node timed out during startup.')  # as ray 2.60 raises it

    monkeypatch.setattr(ray, 'init', init)
    with pytest.raises(ConfigError, match='Ray cannot be started or reached: The current node timed out'):
        _connect('', 1)
