"""The benchmark runs, its forms agree, and it counts operations right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vggt.weights import shipped_names

ROOT = Path(__file__).resolve().parents[2]


def test_forms_agree_and_the_inference_form_needs_fewer_operations() -> None:
    if 'nano' not in shipped_names():
        pytest.skip('the benchmark is tried on the shipped weights, and none are shipped')
    sizes = '--model nano --height 48 --width 64 --frames 4 --stride 2 --repeats 1 --threads 1'
    command = [sys.executable, '-m', 'benchmarks.network', *sizes.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    rows = [line.strip('| ').split(' | ') for line in done.stdout.splitlines() if line.startswith('| streaming')]
    assert len(rows) == 1
    allowed, pose, depth = float(rows[0][4]), float(rows[0][6]), float(rows[0][7])
    assert allowed > 1.0
    assert pose < 1e-5
    assert depth < 1e-4


def test_operations_are_two_per_multiply_add_attention_included(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.meter import Meter, make_counter

    linear = nn.Linear(8, 16)
    meter = Meter(torch.device('cpu'))
    meter.watch({'linear': [linear]})
    q = torch.randn(1, 2, 10, 4)
    with torch.inference_mode(), make_counter() as counter:
        meter.start(counter)
        linear(torch.randn(5, 8))
        nn.functional.scaled_dot_product_attention(q, q, q)
        parts = meter.stop()
    assert parts['linear'].flops == 2 * 5 * 8 * 16
    assert parts['total'].flops == 2 * 5 * 8 * 16 + 2 * 2 * 2 * 10 * 10 * 4
    assert parts['total'].seconds >= parts['linear'].seconds > 0


def test_peak_memory_sees_what_was_freed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.meter import FORGET_PEAK, Meter, return_free_memory

    if not FORGET_PEAK.exists():
        pytest.skip(f'{FORGET_PEAK} is Linux only')
    return_free_memory()  # of the tests before, or the 50 MB would be found in what they left
    meter = Meter(torch.device('cpu'))
    meter.start()
    torch.ones(50_000_000 // 4).sum()  # 50 MB
    assert meter.stop()['total'].peak_bytes == pytest.approx(50e6, rel=0.2)


def test_operations_of_any_window_follow_from_two_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from small import SMALL

    from benchmarks.meter import Meter, Operations, make_counter
    from vggt import VGGT

    config, shape, frames = SMALL.with_heads(('camera', 'depth', 'point')), (28, 42), 5
    model = VGGT(config).eval().requires_grad_(False)
    parts = Operations(config, shape).of(frames, frames)
    with torch.inference_mode(), make_counter() as counter:
        meter = Meter(torch.device('cpu'))
        meter.start(counter)
        model(torch.rand(frames, 3, *shape))
        assert sum(parts.values()) == meter.stop()['total'].flops


def test_weights_by_recipe_are_the_same_where_the_device_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from golden import recipe_tensor

    from benchmarks.gpu import recipe_tensor as on_device

    names = ('a.gamma', 'b.camera_token', 'c.pose_branch.fc2.bias', 'd.norm.weight', 'e.bias', 'f.weight',
             'g.resize_layers.0.weight')  # fmt: skip
    shapes = ((33,), (1, 2, 1, 9), (9,), (17,), (5,), (31, 65), (6, 4, 3, 3))
    for name, shape in zip(names, shapes, strict=True):
        ours = on_device(7, name, shape, torch.device('cpu')).numpy()
        np.testing.assert_array_equal(ours, recipe_tensor(7, name, shape))


def test_all_of_a_gpu_is_measured_in_one_command_and_a_part_that_fails_does_not_end_it(tmp_path: Path) -> None:
    if 'nano' not in shipped_names():
        pytest.skip('the benchmark is tried on the shipped weights, and none are shipped')
    log, figures = tmp_path / 'log', tmp_path / 'figures.json'
    options = f'--device cpu --model nano --quick --patience 9 --log {log} --json {figures}'.split()
    options += ['ceilings', 'reference', 'streaming', 'clouds']
    command = [sys.executable, '-c', 'from benchmarks import gpu; gpu.cloud_row = None; gpu.main()', *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert log.read_text() == done.stdout
    assert "TypeError: 'NoneType' object is not callable" in done.stdout
    rows = json.loads(figures.read_text())
    assert [row['part'] for row in rows['seconds']] == ['ceilings', 'reference', 'streaming', 'clouds']
    assert 'this needs --reference' in done.stdout
    assert {row['times upstream'] for row in rows['streaming']} == {'-'}
    assert [row['stride'] for row in rows['streaming']] == [1, 2, 1, 2]
    for row in rows['streaming']:
        assert float(row['operations allow']) > 1
        assert float(row['pose differs']) < 0.05


def test_a_checkout_called_like_our_package_is_timed_and_its_outputs_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.reference import read_outputs, read_runs

    folder = tmp_path / 'checkout' / 'vggt' / 'models'
    folder.mkdir(parents=True)
    (folder / 'vggt.py').write_text(CHECKOUT)
    options = ['--frames', '2', '3', '--height', '4', '--width', '6', '--repeats', '2', '--threads', '1']
    command = [sys.executable, '-m', 'benchmarks.reference', str(tmp_path / 'checkout'), str(tmp_path / 'out')]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    runs = read_runs(tmp_path / 'out')
    assert [(run.frames, run.dtype, len(run.seconds)) for run in runs] == [
        (2, 'bfloat16', 2),
        (3, 'bfloat16', 2),
        (2, 'float32', 0),
    ]
    for run in runs:
        outputs = read_outputs(tmp_path / 'out', run, torch.device('cpu'))
        assert outputs['pose_encoding'].shape == (1, run.frames, 9)
        assert outputs['depth'].shape == (1, run.frames, 4, 6)


CHECKOUT = """
import torch


class VGGT(torch.nn.Module):
    def __init__(self, enable_track):
        super().__init__()
        self.layer = torch.nn.Linear(3, 9)

    def forward(self, images):
        assert images.dtype is self.layer.weight.dtype is torch.float32
        pose = self.layer(images.mean((-2, -1)))[None]
        return {'pose_enc': pose, 'depth': images[None, :, :1].permute(0, 1, 3, 4, 2)}
"""
