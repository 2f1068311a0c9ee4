"""The demo from end to end, and that its checks can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robot import CLIPS, OPTICAL, ROOT, Clip

from vggt_ros.checks import LiveChecks, reprojection_error
from vggt_ros.core.config import Config
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import BODY_FROM_OPTICAL
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import FakePredictor
from vggt_ros.encode import Encoder, Output, standalone_tf_static
from vggt_ros.messages import ros_messages

Break = Callable[[Output], Output | None]


@pytest.fixture(scope='module')
def published(clip: Clip) -> list[Output]:
    """What a node without a robot publishes for six frames."""
    config = Config().with_values({'window_size': 4, 'window_stride': 2, 'backend': 'fake'})
    pipeline = Pipeline(config, FakePredictor(config))
    encoder = Encoder(config, ros_messages(), pipeline.points)
    outputs = [Output('/tf_static', 1, standalone_tf_static(ros_messages(), config, 1, OPTICAL))]
    for stamp, image in list(zip(clip.stamps_ns, clip.images, strict=True))[:6]:
        update = pipeline.add_frame(Frame(stamp, image, OPTICAL, clip.K))
        outputs += encoder.encode(update, BODY_FROM_OPTICAL) if update is not None else []
    return outputs


def failed(published: list[Output], clip: Clip, change: Break) -> set[str]:
    """Names of the checks that do not hold once the messages are changed."""
    checks = LiveChecks(clip.stamps_ns[:6])
    for output in published:
        changed = change(output)
        if changed is not None:
            checks.look(*changed)
    return {check.name for check in checks.results() if not check.is_good}


def test_all_checks_hold_for_what_the_node_publishes(published: list[Output], clip: Clip) -> None:
    assert failed(published, clip, lambda output: output) == set()


def test_a_missing_message_is_noticed(published: list[Output], clip: Clip) -> None:
    dropped: list[Output] = []

    def drop_one(output: Output) -> Output | None:
        if output.topic == '~/confidence' and not dropped:
            dropped.append(output)
            return None
        return output

    assert any('stamps' in name for name in failed(published, clip, drop_one))


def test_a_stamp_that_is_off_by_a_nanosecond_is_noticed(published: list[Output], clip: Clip) -> None:
    names = failed(published, clip, lambda one: one._replace(stamp_ns=one.stamp_ns + 1))
    assert any('stamps' in name for name in names)


def test_a_cloud_of_another_frame_is_noticed(published: list[Output], clip: Clip) -> None:
    """The same wall, one pixel to the side."""
    from copy import deepcopy

    def shift(output: Output) -> Output:
        if output.topic != '~/points':
            return output
        message = deepcopy(output.message)
        message.data = np.roll(message.data, -message.point_step)
        return output._replace(message=message)

    assert failed(published, clip, shift) == {'clouds are the depth images seen through K'}


def test_tf_that_leads_elsewhere_is_noticed(published: list[Output], clip: Clip) -> None:
    from copy import deepcopy

    def move(output: Output) -> Output:
        if output.topic != '/tf':
            return output
        message = deepcopy(output.message)
        message.transforms[0].transform.translation.x += 1e-3
        return output._replace(message=message)

    assert failed(published, clip, move) == {'odometry equals TF', 'TF leads to the camera'}


def test_reprojection_error_is_in_pixels() -> None:
    K = np.array([[100.0, 0, 1.5], [0, 100.0, 1.0], [0, 0, 1]])
    depth = np.full((3, 4), 2.0, np.float32)
    v, u = np.mgrid[:3, :4]
    points = np.stack([(u - 1.5) * 2 / 100, (v - 1.0) * 2 / 100, depth], axis=-1).astype(np.float32)
    assert reprojection_error(depth, K, points) < 1e-5
    points[1, 2, 0] += 0.02  # 2 cm at 2 m through 100 px is one pixel
    assert reprojection_error(depth, K, points) == pytest.approx(1.0, abs=1e-4)
    points[1, 2, 2] += 1
    assert reprojection_error(depth, K, points) == float('inf')


@pytest.fixture
def folder() -> Path:
    found = next((folder for folder in CLIPS if folder.is_dir()), None)
    if found is None:
        pytest.skip('no clip of real frames')
    return found


def demo(*arguments: str) -> Any:
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'}
    for name in list(environment):  # the demo chooses a domain and a transport of its own
        if name.startswith(('ROS_DOMAIN_ID', 'FASTDDS_', 'FASTRTPS_')):
            del environment[name]
    command = [sys.executable, '-m', 'vggt_ros.cli', 'demo', *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)


def test_the_demo_ends_with_a_report_of_a_good_run(folder: Path, tmp_path: Path) -> None:
    arguments = ('--short', '--backend', 'fake', '--speed', '4', '--clip', str(folder), '--out', str(tmp_path))
    result = demo(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.strip().splitlines()
    assert lines[-1] == str(tmp_path / 'report.html')
    assert sum(line.startswith('ok') for line in lines) >= 9
    assert 'FAIL' not in result.stdout
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['frames'] >= 8
    assert summary['timings']['total_s']['encode'] > 0
    for name in ('result.mcap', 'trajectory_tum.txt', 'cloud.ply', 'scene.glb', 'report.html', 'node.log'):
        assert (tmp_path / name).stat().st_size > 0


def test_the_demo_says_why_the_node_did_not_start(folder: Path, tmp_path: Path) -> None:
    result = demo('--short', '--model', '/nowhere.safetensors', '--clip', str(folder), '--out', str(tmp_path))
    assert result.returncode == 2
    assert '/nowhere.safetensors' in result.stderr
    assert 'Traceback' not in result.stderr
