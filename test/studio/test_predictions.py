"""predictions.npz: as the original's readers expect it, and back."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from material import wall

from vggt_ros.core.errors import SourceError
from vggt_ros.studio.predictions import read_predictions


def test_arrays_have_the_names_and_shapes_of_the_original() -> None:
    predictions = wall(points=True)
    with np.load(io.BytesIO(predictions.to_npz()), allow_pickle=False) as file:
        shapes = {name: file[name].shape for name in file.files}
        images = file['images']
        lifted = file['world_points_from_depth']
    frames = (3, 12, 16)
    assert shapes['images'] == (3, 3, 12, 16)
    assert images.max() <= 1
    assert shapes['depth'] == (*frames, 1)
    assert shapes['depth_conf'] == shapes['world_points_conf'] == frames
    assert shapes['world_points'] == shapes['world_points_from_depth'] == (*frames, 3)
    assert shapes['extrinsic'] == (3, 3, 4)
    assert shapes['intrinsic'] == (3, 3, 3)
    np.testing.assert_allclose(lifted[..., 2], 2.0)


@pytest.mark.parametrize('compact', [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, compact: bool) -> None:
    predictions = wall()
    predictions.depth[0, :3] = predictions.confidence[0, :3] = np.nan
    (tmp_path / 'p.npz').write_bytes(predictions.to_npz(compact=compact))
    back = read_predictions(tmp_path / 'p.npz')
    np.testing.assert_array_equal(back.images, predictions.images)
    np.testing.assert_array_equal(np.isnan(back.depth), np.isnan(predictions.depth))
    half = 2**-11 if compact else 0  # what half precision rounds by
    np.testing.assert_allclose(back.depth, predictions.depth, rtol=half)
    np.testing.assert_allclose(back.confidence - 1, predictions.confidence - 1, rtol=2 * half, atol=1e-6)
    np.testing.assert_allclose(back.cam_from_world, predictions.cam_from_world, atol=1e-7)
    np.testing.assert_array_equal(back.stamps_ns, predictions.stamps_ns)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'p.npz').write_bytes(pickle.dumps({'depth': 1}))
    with pytest.raises(SourceError, match=r'p\.npz'):
        read_predictions(tmp_path / 'p.npz')
    np.savez(tmp_path / 'q.npz', depth_conf=np.array([{}], dtype=object))
    with pytest.raises(SourceError, match=r'q\.npz'):
        read_predictions(tmp_path / 'q.npz')
