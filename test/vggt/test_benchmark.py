"""The benchmark runs, its forms agree, and it counts operations right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    from benchmarks.meter import FORGET_PEAK, Meter

    if not FORGET_PEAK.exists():
        pytest.skip(f'{FORGET_PEAK} is Linux only')
    meter = Meter(torch.device('cpu'))
    meter.start()
    torch.ones(50_000_000 // 4).sum()  # 50 MB
    assert meter.stop()['total'].peak_bytes == pytest.approx(50e6, rel=0.2)
