"""Depth at the size of the camera's image."""

import numpy as np
import pytest
import scene

from vggt.preprocessing import resize_keeping_aspect
from vggt_ros.core.config import Config
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import unproject_depth
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import FakePredictor
from vggt_ros.core.resolution import to_source_resolution
from vggt_ros.core.submap import PlacedFrame

K_SOURCE = np.array([[410.0, 0.0, 200.0], [0.0, 400.0, 140.0], [0.0, 0.0, 1.0]])
IMAGE = np.random.default_rng(0).integers(0, 255, (302, 400, 3), dtype=np.uint8)


def upsampled(depth_of_ray):
    """A source of 400x302 seen by a network at 112x84 (which crops), with depth given as a function of (x, y) rays."""
    transform = resize_keeping_aspect(IMAGE, 112, 14).transform
    assert transform.model_size == (84, 112)
    K = transform.K_to_model(K_SOURCE)
    rays = unproject_depth(np.ones(transform.model_size), K)
    depth = depth_of_ray(rays[..., 0], rays[..., 1]).astype(np.float32)
    placed = PlacedFrame(7, 'camera', np.zeros((84, 112, 3), np.uint8), depth, depth + 1, K, np.eye(4), np.eye(6))
    result = to_source_resolution(placed, IMAGE, transform)
    seen = unproject_depth(np.ones((302, 400)), K_SOURCE)
    return result, depth_of_ray(seen[..., 0], seen[..., 1])


def test_a_slanted_wall_stays_flat():
    result, truth = upsampled(lambda x, y: 2.0 / (1.0 + 0.3 * x - 0.2 * y))
    known = np.isfinite(result.depth)
    inner = known & np.pad(np.ones((298, 396), bool), 2)  # at the rim there is nothing to interpolate with
    # depth of a plane is not linear in pixels: the chord over one pixel of the grid
    np.testing.assert_allclose(result.depth[inner], truth[inner], rtol=3e-4)
    assert known[4:-4].all()
    assert result.image is IMAGE
    np.testing.assert_allclose(result.K, K_SOURCE, atol=1e-9)
    assert result.confidence.shape == result.depth.shape == (302, 400)
    # of the network's own pixels, none in between: depth + 1 of 84x112, and unknown
    assert len(np.unique(result.confidence[known])) <= 84 * 112
    assert np.abs(result.confidence - result.depth - 1)[inner].max() > 1e-3


def test_no_point_floats_between_near_and_far():
    result, truth = upsampled(lambda x, _: np.where(x < 0.013, 1.0, 5.0))
    known = np.isfinite(result.depth)
    is_right = np.abs(result.depth - truth) < 1e-5
    is_other = np.abs(result.depth + truth - 6.0) < 1e-5  # the edge itself may lie a pixel off
    assert (is_right | is_other)[known].all()
    assert is_right[known].mean() > 0.99


@pytest.mark.parametrize('step, is_one_surface', [(0.015, True), (0.1, False)])
def test_a_step_in_depth_is_a_slope_below_two_percent_and_an_edge_above(step, is_one_surface):
    result, _ = upsampled(lambda x, _: np.where(x < 0.013, 4.0, 4.0 + 4.0 * step))
    known = result.depth[np.isfinite(result.depth)] / 4
    floats = (known > 1 + step / 4) & (known < 1 + step * 3 / 4)  # the wall in between
    assert floats.any() == is_one_surface


def test_unknown_pixels_do_not_eat_their_neighbours():
    result, truth = upsampled(lambda x, _: np.where(x < 0.013, 2.0, np.nan))
    assert abs(np.isfinite(result.depth).mean() - np.isfinite(truth).mean()) < 0.01


@pytest.mark.parametrize('resolution, size', [('input', (60, 240)), ('model', (28, 112))])
def test_the_pipeline_gives_either_size(resolution, size):
    config = Config().with_values({'output_resolution': resolution, 'backend': 'fake'})
    pipeline = Pipeline(config, FakePredictor(config))
    images = np.random.default_rng(0).integers(0, 255, (12, 60, 240, 3), dtype=np.uint8)
    updates = [pipeline.add_frame(Frame(i + 1, image, 'camera')) for i, image in enumerate(images)]
    frames = scene.placed(update for update in updates if update)
    assert len(frames) == 12
    for i, frame in enumerate(frames):
        assert frame.depth.shape == frame.confidence.shape == frame.image.shape[:2] == size
        assert (frame.depth == FakePredictor.DISTANCE).all()
        if resolution == 'input':
            np.testing.assert_array_equal(frame.image, images[i])
    # both see the same width of wall: focal length over width is one thing
    np.testing.assert_allclose(frames[0].K[0, 0] / size[1], 1.0)
