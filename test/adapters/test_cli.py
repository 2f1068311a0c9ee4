"""The command line: flags, messages, exit codes; each command in a process of its own where that matters."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from recordings import REPOSITORY, camera_bag

from vggt import StreamingVGGT
from vggt_ros import cli, doctor
from vggt_ros.core.config import Config, settings
from vggt_ros.core.errors import ConfigError
from vggt_ros.dds import free_domain
from vggt_ros.doctor import Finding, Level
from vggt_ros.flags import config_from_flags


def parse(*arguments: str):
    return cli._parser('run').parse_args(['run', 'x', *arguments])


def test_every_setting_but_the_subscriptions_has_a_flag():
    options = {
        option for action in cli._parser('run')._subparsers._group_actions[0].choices['run']._actions
        for option in action.option_strings
    }  # fmt: skip
    expected = {f'--{one.name.replace("_", "-")}' for one in settings() if one.section != 'input'}
    assert expected <= options


def test_flags_become_settings_and_nothing_else_changes():
    config = config_from_flags(
        parse('--model', 'some/model', '--window-size', '6', '--no-publish-odom-to-base-tf', '--scale-source', 'fixed')
    )
    changed = {name: value for name, value in config.values().items() if value != Config().values()[name]}
    assert changed == {
        'model_id': 'some/model',
        'window_size': 6,
        'publish_odom_to_base_tf': False,
        'scale_source': 'fixed',
    }


def test_values_out_of_range_are_refused_by_name():
    with pytest.raises(ConfigError, match='window_stride must be at most window_size'):
        config_from_flags(parse('--window-size', '2', '--window-stride', '3'))
    with pytest.raises(ConfigError, match='min_depth must be at least 0'):
        config_from_flags(parse('--min-depth', '-1'))


def call(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, '-m', 'vggt_ros.cli', *arguments], capture_output=True, text=True, env=environment, timeout=100
    )


def test_help_names_the_commands_without_loading_anything_heavy():
    code = 'import sys; from vggt_ros import cli; cli._parser(""); print([*{"torch", "rclpy", "cv2"} & {*sys.modules}])'
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    loaded = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment, check=True)
    assert loaded.stdout.strip() == '[]'
    shown = call('--help')
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in ('run', 'replay', 'demo', 'doctor'))


def test_a_run_from_the_shell(tmp_path: Path):
    done = call('run', str(camera_bag(tmp_path / 'bag', 5)), '--out', str(tmp_path / 'out'), '--backend', 'fake')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / 'out' / 'report.html')
    assert json.loads((tmp_path / 'out' / 'summary.json').read_text())['frames'] == 5


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['run', 'nothing.mcap'], 'nothing.mcap does not exist'),
        (['run', 'BAG', '--topic', '/left'], 'no topic /left'),
        (['run', 'BAG', '--window-stride', '99'], 'window_stride must be at most'),
        (['run', 'BAG', '--only', '/odom'], '--only knows'),
        (['run', 'BAG', '--model', 'nothing.safetensors', '--device', 'cpu'], 'nothing.safetensors'),
    ],
)
def test_errors_are_one_line_and_code_2(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    bag = camera_bag(tmp_path / 'bag', 2)
    monkeypatch.chdir(tmp_path)
    assert cli.main([str(bag) if word == 'BAG' else word for word in arguments]) == cli.OUR_ERROR
    said = capsys.readouterr().err
    assert said.startswith('vggt_ros: ')
    assert words in said
    assert 'Traceback' not in said


def test_results_go_to_runs_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    camera_bag(tmp_path / 'drive', 3)
    monkeypatch.chdir(tmp_path)
    assert cli.main(['run', 'drive', '--backend', 'fake', '--quiet']) == 0
    assert (tmp_path / 'runs' / 'drive' / 'report.html').exists()


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, 'main', interrupt)
    assert cli.main(['doctor']) == cli.INTERRUPTED


@pytest.mark.parametrize('level, code', [(Level.OK, 0), (Level.WARN, 0), (Level.FAIL, 1)])
def test_the_doctor_fails_on_failures_only(
    level: Level, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(doctor, 'examine', lambda *_, **__: iter([Finding('gpu', level, 'as it is', 'do this')]))
    assert cli.main(['doctor']) == code
    shown = capsys.readouterr().out
    assert level.value in shown
    assert '-> do this' in shown
    assert cli.main(['doctor', '--json']) == code
    assert json.loads(capsys.readouterr().out)[0] == {
        'subject': 'gpu', 'level': level.value, 'text': 'as it is', 'mend': 'do this',
    }  # fmt: skip


def findings(**replaced: object) -> dict[str, Finding]:
    return {finding.subject: finding for finding in doctor._packages()}


def test_the_doctor_names_the_command_for_a_missing_package(monkeypatch: pytest.MonkeyPatch):
    assert findings()['bags'].level is Level.OK
    monkeypatch.setattr(doctor, '_is_importable', lambda name: name not in ('trimesh', 'rclpy'))
    missing = findings()['bags']
    assert missing.level is Level.FAIL
    assert missing.mend.endswith('-m pip install trimesh')
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    here = '.'.join(map(str, sys.version_info[:2]))
    for python, mend in (
        (here, 'sudo apt install ros-jazzy-rclpy'),
        ('3.99', 'python3.99 -m venv --system-site-packages venv'),  # Jazzy's binaries would not load in this Python
    ):
        monkeypatch.setattr(doctor, 'this_distro', lambda python=python: SimpleNamespace(name='jazzy', python=python))
        (ros,) = doctor._ros()
        assert ros.mend == mend


def test_the_doctor_looks_for_weights_without_loading_them(tmp_path: Path):
    (tmp_path / 'mine.safetensors').write_bytes(b'0' * 1000)
    assert doctor._weights(str(tmp_path / 'mine.safetensors')).level is Level.OK
    assert doctor._weights(str(tmp_path / 'gone.safetensors')).level is Level.FAIL
    assert doctor._weights('micro').level is Level.FAIL
    hub = doctor._weights('nobody/has-cached-this')
    assert (hub.level, hub.mend) == (Level.WARN, 'hf download nobody/has-cached-this')


def test_the_doctor_sees_a_camera_and_what_it_lacks(monkeypatch: pytest.MonkeyPatch):
    rclpy = pytest.importorskip('rclpy', reason='rclpy is not importable: source ROS 2, or run `make test`')
    from rclpy.context import Context
    from sensor_msgs.msg import CameraInfo, Image

    domain = free_domain()
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    try:
        node = rclpy.create_node('camera', context=context)
        node.create_publisher(Image, '/left/image_raw', 5)
        node.create_publisher(CameraInfo, '/left/camera_info', 5)
        node.create_publisher(Image, '/right/image_raw', 5)
        found: dict[str, Finding] = {}
        deadline = time.monotonic() + 60  # discovery takes its time on a loaded machine
        while '/right/image_raw' not in found and time.monotonic() < deadline:
            found = {finding.text.split()[0]: finding for finding in doctor._topics()}
    finally:
        rclpy.shutdown(context=context)
    assert found['/left/image_raw'].level is Level.OK
    assert '1 publishers, reliable' in found['/left/image_raw'].text
    assert found['/right/image_raw'].level is Level.WARN
    assert 'nobody publishes /right/camera_info' in found['/right/image_raw'].mend


def test_the_doctor_tells_what_will_be_computed_and_how_fast() -> None:
    found = doctor._plan('nano')
    assert found.level is Level.OK
    assert 'window_size 8 and window_stride 4 as asked for' in found.text
    assert '128x96' in found.text
    assert re.search(r'(bf16|fp32) \(the processor .*\), .* new frames a second', found.text) or 'cuda' in found.text
    assert doctor._plan('no_such_network').level is Level.FAIL


def test_the_doctor_tells_what_compiling_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = functools.partialmethod(StreamingVGGT.compile, backend='eager')  # no compiler is needed
    monkeypatch.setattr(StreamingVGGT, 'compile', eager)
    found = doctor._plan('nano', compiled=True)
    assert re.search(r'\d+ ms .* to its depth \(compiled; as it is \d+ ms\), ', found.text)


def test_the_doctor_tells_what_keeps_a_latency_budget_and_why() -> None:
    found = doctor._plan('nano', 1e-5)
    assert found.level is Level.WARN
    assert re.search(r'window_stride 4; that takes .* s a window where latency_budget_s allows 1e-05', found.text)
    assert 'so window_size 2, window_stride 1 at 64x48' in found.text
