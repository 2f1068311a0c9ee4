"""Data that the training tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from training.pool import Pool
from training.windows import make_window


@pytest.fixture(scope='session', autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of six rendered windows."""
    folder = tmp_path_factory.mktemp('pool')
    pool = Pool(folder, windows=6)
    for seed in range(6):
        pool.write(seed, make_window(seed))
    return folder


@pytest.fixture(scope='session')
def goldens() -> Path:
    """Folder of the reference's numbers."""
    here = Path(__file__)
    candidates = (
        Path(os.environ.get('VGGT_GOLDENS', '/nonexistent')),
        here.parents[1] / 'vggt' / 'goldens',
        here.parents[2] / '../shared/vggt/goldens',
    )
    for folder in candidates:
        if (folder / 'losses.npz').exists():
            return folder
    pytest.skip(f'losses.npz is in none of {[str(c) for c in candidates]}; set VGGT_GOLDENS')
