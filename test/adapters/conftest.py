"""Makes recordings.py, the messages and bags shared by these tests, importable."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault('OMP_NUM_THREADS', '1')
sys.path.insert(0, str(Path(__file__).parent))

from recordings import SHARED, SHIPPED_CLIP, make_shared_bag

from vggt_ros.messages import MessageTypes, bag_messages, ros_messages

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it runs in the background


@pytest.fixture(params=['bag', 'rclpy'])
def messages(request: pytest.FixtureRequest) -> MessageTypes:
    """Message classes of bags and of rclpy: what is read and written must not depend on which."""
    if request.param == 'bag':
        return bag_messages()
    pytest.importorskip('rclpy', reason='rclpy is not importable: source a ROS 2 installation, or run `make test`')
    return ros_messages()


@pytest.fixture
def sequence() -> Callable[[str], Path]:
    """Folder of a sequence of shared/data by name."""

    def find(name: str) -> Path:
        folder = SHARED / 'data' / name
        if not folder.is_dir() and name == 'tum_fr3_cabinet' and SHIPPED_CLIP.is_dir():
            return SHIPPED_CLIP
        if not folder.is_dir():
            pytest.skip(f'no {folder}; set VGGT_ROS_SHARED to the folder that holds data/')
        return folder

    return find


@pytest.fixture
def shared_bag(tmp_path: Path, sequence: Callable[[str], Path]) -> Callable[..., Path]:
    """Bag of a sequence of shared/data, by its own tool."""

    def make(name: str, *arguments: str) -> Path:
        return make_shared_bag(sequence(name), tmp_path / f'{name}_bag', *arguments)

    return make
