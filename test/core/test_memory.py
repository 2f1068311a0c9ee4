"""A program that asked to keep freed memory does not page it in again and again."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vggt_ros.core.memory import keep_freed_memory

ALLOCATE = """
import resource, sys
import numpy as np
from vggt_ros.core.memory import keep_freed_memory
if sys.argv[1] == 'keep' and not keep_freed_memory():
    sys.exit('cannot')
def touch():
    planes = [np.ones((480, 640), np.float32) for _ in range(6)]
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

LOADED = """
import gc, time, weakref
class Thing: pass
loaded = [Thing() for _ in range(300_000)]
def collect():
    start = time.thread_time()
    gc.collect()
    return time.thread_time() - start
collect()
before = min(collect() for _ in range(3))
from vggt_ros.core.memory import leave_loaded_alone
leave_loaded_alone()
after = min(collect() for _ in range(3))
ring = Thing()
ring.self, watched = ring, weakref.ref(ring)
del ring
gc.collect()
print(after < before / 4, watched() is None)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, '-c', ALLOCATE, how], capture_output=True, text=True, timeout=60)
    if done.stderr.strip() == 'cannot':
        pytest.skip('not glibc: its malloc cannot be told')
    return int(done.stdout)


def test_images_are_not_paged_in_anew() -> None:
    paged, kept = page_faults('default'), page_faults('keep')
    assert kept < 300  # one image is 300 pages; 120 were allocated
    assert paged > 10 * kept or paged < 300  # a malloc that keeps memory of its own accord is no fault


def test_a_full_collection_passes_over_what_was_loaded_and_finds_what_came_later() -> None:
    done = subprocess.run([sys.executable, '-c', LOADED], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ['True', 'True'], done.stderr


def test_malloc_is_told_two_bounds_and_whether_it_took_them_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Source of the numbers: glibc, malloc.h, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""
    told: list[tuple[int, int]] = []
    refused: list[int] = []

    def load(name: str) -> SimpleNamespace:
        assert name == 'libc.so.6'
        return SimpleNamespace(mallopt=lambda *pair: told.append(pair) or pair[0] not in refused)

    monkeypatch.setattr(ctypes, 'CDLL', load)
    for refused[:] in ([], [-1], [-3]):
        told.clear()
        assert keep_freed_memory(1000, 200) == (not refused)
        assert dict(told) == {-1: 1000, -3: 200}

    def no_library(name: str) -> SimpleNamespace:
        raise OSError(name)

    for other in (no_library, lambda name: SimpleNamespace()):  # another C library; one without mallopt
        monkeypatch.setattr(ctypes, 'CDLL', other)
        assert keep_freed_memory() is False
