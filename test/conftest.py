"""Which vggt_ros is tested: that of the sources, or what lies in the space that VGGT_ROS_INSTALL_SPACE names."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPACE = os.environ.get('VGGT_ROS_INSTALL_SPACE')

if SPACE is not None:
    # `python -m pytest` puts the working directory first, and with it the sources. Now, before other conftests import.
    sys.path[:] = [entry for entry in sys.path if Path(entry or '.').resolve() != ROOT]

import vggt_ros  # noqa: E402
from vggt_ros.dds import remove_segments_of_the_dead  # noqa: E402

if SPACE is not None and Path(SPACE).resolve() not in Path(vggt_ros.__file__).resolve().parents:
    raise pytest.UsageError(f'vggt_ros comes from {vggt_ros.__file__}, not from {SPACE}; source its setup.bash')


def pytest_report_header() -> str:
    return f'vggt_ros: {Path(vggt_ros.__file__).parent}'


def pytest_sessionfinish() -> None:
    """Nodes that tests kill leave a gigabyte of shared memory behind."""
    remove_segments_of_the_dead()
