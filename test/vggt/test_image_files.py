"""Picture files are prepared exactly as the reference prepares them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import load_arrays, load_json
from PIL import Image

from vggt.errors import InputError
from vggt.image_files import load_images, load_square_images

PICTURES = load_arrays('preprocess.npz')
RESULTS = load_json('preprocess.json')['results']
# Pillow's own resampling may change by one level of 255 between its releases; the goldens are of Pillow 13.
LEVELS = 0 if Image.__version__.startswith('13.') else 1


@pytest.fixture
def picture_files(tmp_path: Path) -> dict[str, Path]:
    files = {}
    for key, pixels in PICTURES.items():
        if key.startswith('in_'):
            name = key.removeprefix('in_')
            files[name] = tmp_path / f'{name}.png'
            Image.fromarray(pixels).save(files[name])
    return files


def assert_same_levels(ours: torch.Tensor, expected: np.ndarray) -> None:
    assert ours.dtype == torch.float32
    assert tuple(ours.shape) == expected.shape
    levels = ours.numpy() * 255
    assert np.abs(levels - expected).max() <= LEVELS + 1e-4


@pytest.mark.parametrize('key', [key for key in RESULTS if not key.startswith('square')])
def test_pictures_are_prepared_as_in_the_reference(key: str, picture_files: dict[str, Path]) -> None:
    mode, name = key.split('__')
    members = RESULTS[key].get('members', [name])
    assert_same_levels(load_images([picture_files[member] for member in members], mode), PICTURES[key])


def test_square_pictures_are_prepared_as_in_the_reference(picture_files: dict[str, Path]) -> None:
    about = RESULTS['square__two']
    images, boxes = load_square_images([picture_files[m] for m in about['members']], about['target_size'])
    assert_same_levels(images, PICTURES['square__two'])
    np.testing.assert_allclose(boxes.numpy(), PICTURES['square_coords__two'], rtol=1e-6)


def test_no_picture_and_an_unknown_mode_are_refused(picture_files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match='at least one'):
        load_images([])
    with pytest.raises(InputError, match='at least one'):
        load_square_images([])
    with pytest.raises(InputError, match='stretch'):
        load_images([picture_files['small']], mode='stretch')


def test_a_thread_of_a_picture_is_refused(tmp_path: Path) -> None:
    Image.new('RGB', (750, 10)).save(tmp_path / 'thread.png')
    with pytest.raises(InputError, match='10x750'):
        load_images([tmp_path / 'thread.png'])
