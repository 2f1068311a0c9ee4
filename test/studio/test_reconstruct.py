"""What an upload becomes: the same map as on a robot, as it is known in the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scene
from test_loop_closure import COUNT, Drifting, Recorded

from vggt_ros.core.config import Config
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.studio.reconstruct import reconstruct, settings_for


def test_a_closed_loop_moves_the_frames_before_it(tmp_path: Path) -> None:
    predictor = Drifting(scene.walk(COUNT))
    source = Recorded(tmp_path / 'walk', scene.frames_of(predictor.world_from_cams))
    config = settings_for('window', COUNT, Config().with_values({'voxel_size': 0.2, 'cloud_stride': 4}))
    predictions, report = reconstruct(source, COUNT, tmp_path / 'out', config, predictor, lambda share, words: None)
    assert len(predictions.stamps_ns) == COUNT == len(report.stamps_ns)
    world_from_cams = invert_rigid(predictions.cam_from_world)
    assert scene.trajectory_error(world_from_cams[:, :3, 3], predictor.world_from_cams[:, :3, 3]) < 0.02  # 0.077 before
    # One story with the trajectory that is downloaded beside it.
    lines = (tmp_path / 'out' / 'trajectory_tum.txt').read_text().splitlines()
    centres = np.array([[float(x) for x in line.split()[1:4]] for line in lines if line[0] != '#'])
    map_from_cams = predictions.map_from_world @ world_from_cams
    np.testing.assert_allclose(map_from_cams[:, :3, 3], centres, atol=1e-5)
    # ... and the cloud of the last lap lies on the walls that the first one saw.
    last, first = COUNT - 1, COUNT - 1 - 60
    assert np.linalg.norm(map_from_cams[last, :3, 3] - map_from_cams[first, :3, 3]) < 0.05
