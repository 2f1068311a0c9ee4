"""Uploads of known content, and the page in a headless browser."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault('OMP_NUM_THREADS', '1')
sys.path.insert(0, str(Path(__file__).parent))  # material.py
sys.path.insert(0, str(Path(__file__).parents[1] / 'vggt'))  # golden.py
sys.path.insert(0, str(Path(__file__).parents[1] / 'core'))  # scene.py, test_loop_closure.py

pytest.importorskip('gradio', reason='the web page needs its extra: pip install "vggt_ros[studio]"')

from material import images, write_bag, write_video


@pytest.fixture(scope='session')
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/, video.mp4 and bag.mcap of the shipped clip, made once."""
    folder = tmp_path_factory.mktemp('material')
    images(folder / 'images', 5)
    write_video(folder / 'video.mp4', seconds=4)
    write_bag(folder / 'bag', 5)
    return folder
