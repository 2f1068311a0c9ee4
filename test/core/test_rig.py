"""Several cameras on one robot: each stands where it is mounted, and the mounts tell metres."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scene
import torch
from scene import placed

from vggt import VGGTOutput
from vggt.pose_encoding import encode_pose_encoding
from vggt_ros.core.config import Config
from vggt_ros.core.errors import ConfigError, ShapeError
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, Sim3, invert_rigid, rotation_angle
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.predictor import FakePredictor, RigPredictor, VggtPredictor, make_predictor
from vggt_ros.core.rig import Rig, all_views, split_cameras
from vggt_ros.core.window import Window

# On the robot: the reference ahead, one to its right looking right, one on the left looking back.
MOUNTS = {
    0: BODY_FROM_OPTICAL,
    1: BODY_FROM_OPTICAL @ scene.look([0.25, 0.0, -0.05], 60),
    2: BODY_FROM_OPTICAL @ scene.look([-0.3, 0.05, -0.2], -150, 10),
}
COUNT = 14


def config_of(**values: object) -> Config:
    return Config().with_values({'confidence_percentile': 0.0, 'window_size': 6, 'window_stride': 3, **values})


def world_from_rig(count: int = COUNT) -> np.ndarray:
    """[count * 3, 4, 4] true poses: moment by moment, camera by camera."""
    ref_from_base = invert_rigid(MOUNTS[0])
    return np.stack([pose @ ref_from_base @ MOUNTS[c] for pose in scene.walk(count) for c in MOUNTS])


def frames_of(world_from_cams: np.ndarray, missing: frozenset[tuple[int, int]] = frozenset()) -> list[Frame]:
    """Moments of three cameras, told apart by their grey; missing holds (moment, camera)."""
    moments = []
    for moment in range(len(world_from_cams) // 3):
        stamp = scene.START_NS + moment * scene.FRAME_NS
        cameras = [
            Frame(
                stamp + 700_000 * c,  # the cameras are not quite at one time
                np.full((scene.HEIGHT, scene.WIDTH, 3), 3 * moment + c, np.uint8),
                f'camera{c}_optical',
                scene.K,
                camera=c,
            )
            for c in MOUNTS
            if (moment, c) not in missing
        ]
        moments.append(dataclasses.replace(cameras[0], views=tuple(cameras[1:])))
    return moments


class Network(scene.SimulatedNetwork):
    """Knows the truth of all cameras, and errs on request.

    Args:
        turn_deg, shift: standard deviation of a camera's turn, and of its place in metres, anew for each window.
        wrong: a camera that is always seen turned by 40 degrees.
    """

    def __init__(
        self, *, turn_deg: float = 0.0, shift: float = 0.0, wrong: int = -1, seed: int = 0, count: int = COUNT
    ) -> None:
        super().__init__(world_from_rig(count), seed)
        self.truth, self.turn_deg, self.shift, self.wrong = self.world_from_cams, turn_deg, shift, wrong

    def predict(self, patch_tokens, image_size, frames):
        indices = patch_tokens[:, 0, 0].long().numpy()
        network_from_world = scene.random_similarity(self.rng)
        self.scales.append(network_from_world.scale)
        truth = scene.predict_truth(self.truth[indices], network_from_world)
        erring = np.stack([self.truth[i] @ self.error(i) for i in indices])
        cam_from_network = torch.from_numpy(invert_rigid(network_from_world.transform_pose(erring)))
        return VGGTOutput(
            image_size=image_size,
            pose_encoding=encode_pose_encoding(cam_from_network, torch.from_numpy(truth.K), image_size)[None],
            depth=torch.from_numpy(truth.depth[frames])[None],
            depth_confidence=torch.from_numpy(truth.confidence[frames])[None],
        )

    def error(self, i: int) -> np.ndarray:
        """[4, 4] of the camera of image i in this window."""
        yaw, pitch = self.rng.normal(0, self.turn_deg, 2)
        return scene.look(self.rng.normal(0, self.shift, 3), yaw + 40 * (i % 3 == self.wrong), pitch)


def run(
    network: Network,
    rig: Rig | None = None,
    missing: frozenset[tuple[int, int]] = frozenset(),
    **values: object,
):
    predictor = RigPredictor(VggtPredictor(config_of(**values), network), rig)
    pipeline = Pipeline(config_of(**values), predictor)
    updates = [pipeline.add_frame(frame) for frame in frames_of(network.truth, missing)] + [pipeline.flush()]
    return [update for update in updates if update is not None], pipeline


def test_every_camera_is_placed_at_its_true_pose_with_its_true_depth():
    network = Network()
    updates, pipeline = run(network, Rig(MOUNTS))
    rigid = BODY_FROM_OPTICAL @ invert_rigid(network.truth[0])
    scale = network.scales[0]
    map_from_world = Sim3(scale, rigid[:3, :3], scale * rigid[:3, 3])
    frames = placed(updates)
    assert len(frames) == COUNT
    for moment, frame in enumerate(frames):
        cameras = (frame, *frame.views)
        assert [one.camera for one in cameras] == [0, 1, 2]
        assert [one.frame_id for one in cameras] == [f'camera{c}_optical' for c in MOUNTS]
        stamp = scene.START_NS + moment * scene.FRAME_NS
        assert [one.stamp_ns for one in cameras] == [stamp, stamp + 700_000, stamp + 1_400_000]
        for one in cameras:
            truth = map_from_world.transform_pose(network.truth[3 * moment + one.camera])
            np.testing.assert_allclose(one.map_from_cam, truth, atol=scene.RELATIVE * 6 * scale)
            depth = scene.render(network.truth[3 * moment + one.camera]) * scale
            np.testing.assert_allclose(one.depth, depth, rtol=scene.RELATIVE)
    xyz, _ = pipeline.map.points()
    in_world = map_from_world.inverse().transform_points(xyz.astype(np.float64))
    assert scene.distance_to_surface(in_world).max() < scene.RELATIVE * 6
    _, alone = run(network, None, frozenset((m, c) for m in range(COUNT) for c in (1, 2)))
    assert len(xyz) > 1.5 * len(alone.map.points()[0])  # the others see more of the room


def test_the_mounts_tell_metres():
    network = Network(turn_deg=0.3, shift=0.01)
    predictor = RigPredictor(VggtPredictor(config_of(), network), Rig(MOUNTS))
    prediction = predictor.predict(Window(tuple(frames_of(network.truth)[:6]), 0))
    # Ten millimetres on baselines of 250 and 360, the median of 12: 1.5 %, three times over.
    assert prediction.metres_per_unit == pytest.approx(1 / network.scales[0], rel=0.05)
    assert 0.002 < prediction.metres_error < 0.05


def test_a_rig_locks_the_scale_of_the_map():
    network = Network(turn_deg=0.1, shift=0.003, count=24)
    updates, _ = run(network, Rig(MOUNTS), scale_source='baseline', camera_names='ahead,right,back')
    frames = updates[-1].frames
    assert updates[-1].metric
    for one in (frames[-1], *frames[-1].views):
        moment = (one.stamp_ns - scene.START_NS) // scene.FRAME_NS
        depth = scene.render(world_from_rig(24)[3 * moment + one.camera])
        np.testing.assert_allclose(one.depth, depth, rtol=0.05)  # metres
    shift = [np.linalg.norm(view.map_from_cam[:3, 3] - frames[-1].map_from_cam[:3, 3]) for view in frames[-1].views]
    np.testing.assert_allclose(shift, [math.hypot(0.25, 0.05), math.hypot(0.3, 0.05, 0.2)], rtol=0.05)


def test_how_far_a_camera_is_off_its_mount_is_told_in_metres():
    mounts = {**MOUNTS, 2: MOUNTS[2].copy()}
    mounts[2][2, 3] += 0.1  # it was moved up by 10 cm, a third of its baseline and across it
    for seed in (3, 4):
        network = Network(seed=seed)
        predictor = RigPredictor(VggtPredictor(config_of(), network), Rig(mounts))
        predictor.predict(Window(tuple(frames_of(network.truth)[:6]), 0))
        assert network.scales[0] != pytest.approx(1, rel=0.3)
        assert predictor.fit.shift[2] == pytest.approx(0.1, rel=0.15)
        assert predictor.fit.shift[1] < 0.03


def test_cameras_of_a_moment_stand_as_they_are_mounted_whatever_the_network_says():
    network = Network(turn_deg=1.0, shift=0.03)
    updates, _ = run(network, Rig(MOUNTS))
    ref_from_base = invert_rigid(MOUNTS[0])
    for update in updates:
        scales = []
        for frame in update.frames:
            for view in frame.views:
                ref_from_cam = invert_rigid(frame.map_from_cam) @ view.map_from_cam
                mount = ref_from_base @ MOUNTS[view.camera]
                np.testing.assert_allclose(ref_from_cam[:3, :3], mount[:3, :3], atol=1e-9)
                scales.append(np.linalg.norm(ref_from_cam[:3, 3]) / np.linalg.norm(mount[:3, 3]))
                np.testing.assert_allclose(ref_from_cam[:3, 3], scales[-1] * mount[:3, 3], atol=1e-9)
        assert np.ptp(scales) < 1e-6 * np.mean(scales)  # one unit for all


def test_three_cameras_know_the_way_better_than_one():
    """The mean of three independent errors is smaller by the root of three; half of that is asked for."""
    errors = {}
    for rig in (Rig(MOUNTS), None):
        network = Network(turn_deg=0.5, shift=0.02, seed=4)
        updates, _ = run(network, rig)
        centres = np.stack([frame.map_from_cam[:3, 3] for frame in placed(updates)])
        errors[rig is not None] = scene.trajectory_error(centres, network.truth[::3, :3, 3])
    assert errors[True] < 0.85 * errors[False]


def test_a_view_that_was_not_understood_loses_its_depth_and_moves_nothing():
    clean, network = Network(), Network(wrong=2)
    expected, _ = run(clean, Rig(MOUNTS), frozenset((m, 2) for m in range(COUNT)))
    updates, pipeline = run(network, Rig(MOUNTS))
    assert pipeline.predictor.fit.misjudged == (2,)
    assert pipeline.predictor.fit.turn_deg[2] == pytest.approx(40, abs=0.01)
    for frame, truth in zip(placed(updates), placed(expected), strict=True):
        ratio = network.scales[0] / clean.scales[0]
        np.testing.assert_allclose(frame.map_from_cam[:3, 3], ratio * truth.map_from_cam[:3, 3], atol=1e-3)
        assert np.isfinite(frame.views[0].depth).all()
        assert np.isnan(frame.views[1].depth).all()


def in_one_place() -> tuple[Rig, Prediction]:
    """Cameras that turn about one point, and what a perfect network says of them."""
    mounts = {c: pose.copy() for c, pose in MOUNTS.items()}
    for pose in mounts.values():
        pose[:3, 3] = 0
    frames = frames_of(world_from_rig())[:4]
    flat, rows = all_views(Window(tuple(frames), 0))
    poses = np.stack([pose @ invert_rigid(mounts[0]) @ mounts[c] for pose in scene.walk(4) for c in mounts])
    prediction = scene.predict_truth(poses, Sim3.from_rigid(invert_rigid(poses[0])), [f.stamp_ns for f in flat])
    return Rig(mounts), split_cameras(prediction, flat, rows)


def test_a_camera_that_is_shifted_is_outvoted_by_two_others():
    rig, prediction = in_one_place()
    truth = prediction.window_from_cam
    seen, off = prediction.views
    shifted = off.prediction.cam_from_window.copy()
    shifted[:, :3, 3] += [0.5, 0.0, 0.0]
    off = dataclasses.replace(off, prediction=dataclasses.replace(off.prediction, cam_from_window=shifted))
    held, _ = rig.hold(dataclasses.replace(prediction, views=(seen, off)))
    np.testing.assert_allclose(held.window_from_cam[:, :3, 3], truth[:, :3, 3], atol=0.01)


def test_the_reference_alone_is_asked_for_apart():
    asked = []

    class Apart(FakePredictor):
        def predict_apart(self, window):
            asked.append(window)
            return super().predict_apart(window)

    window = Window(tuple(scene.frames_of(scene.walk(2))), 0)
    alone = FakePredictor(config_of()).predict(window)
    np.testing.assert_array_equal(RigPredictor(Apart(config_of())).predict_apart(window).depth, alone.depth)
    assert asked == [window]


def test_a_camera_that_the_network_never_placed_stands_with_the_reference_without_depth():
    rig, prediction = in_one_place()
    seen, lost = prediction.views
    unknown = np.full_like(lost.prediction.cam_from_window, np.nan)
    lost = dataclasses.replace(lost, prediction=dataclasses.replace(lost.prediction, cam_from_window=unknown))
    held, fit = rig.hold(dataclasses.replace(prediction, views=(seen, lost)))
    assert fit.misjudged == (2,)
    assert np.isnan(held.views[1].prediction.depth).all()
    assert np.isfinite(held.views[0].prediction.depth).all()
    centres = held.views[1].prediction.window_from_cam[:, :3, 3]
    np.testing.assert_allclose(centres, held.window_from_cam[:, :3, 3], atol=1e-9)


def test_cameras_in_one_place_tell_no_metres_and_still_turn_together():
    rig, prediction = in_one_place()
    held, fit = rig.hold(prediction)
    assert math.isnan(fit.metres_per_unit)
    assert math.isnan(held.metres_per_unit)
    for view in held.views:
        np.testing.assert_allclose(view.prediction.window_from_cam[:, :3, 3], held.window_from_cam[:, :3, 3], atol=1e-9)


def test_baselines_that_were_not_seen_give_no_metres():
    network = Network(shift=0.6)  # twice the baseline: as the network errs in a hall
    predictor = RigPredictor(VggtPredictor(config_of(), network), Rig(MOUNTS))
    prediction = predictor.predict(Window(tuple(frames_of(network.truth)[:6]), 0))
    assert math.isnan(prediction.metres_per_unit)
    assert np.isfinite(prediction.views[0].prediction.cam_from_window).all()


def test_an_image_that_is_missing_is_missing_alone():
    missing = frozenset({(2, 1), (7, 2), (8, 1), (8, 2)})
    network = Network()
    updates, _ = run(network, Rig(MOUNTS), missing)
    frames = placed(updates)
    assert len(frames) == COUNT
    for moment, frame in enumerate(frames):
        assert [view.camera for view in frame.views] == [c for c in (1, 2) if (moment, c) not in missing]
        truth = invert_rigid(network.truth[0]) @ network.truth[3 * moment]
        got = invert_rigid(frames[0].map_from_cam) @ frame.map_from_cam
        assert rotation_angle(got[:3, :3].T @ truth[:3, :3]) < 1e-4


def test_a_moment_without_a_pose_has_no_depth_in_any_view():
    class Blind(Network):
        def predict(self, patch_tokens, image_size, frames):
            output = super().predict(patch_tokens, image_size, frames)
            output.pose_encoding[0, 3] = float('nan')  # the reference at the second moment
            return output

    updates, _ = run(Blind(), Rig(MOUNTS))
    second = updates[0].frames[1]
    for one in (second, *second.views):
        assert np.isnan(one.depth).all()
        assert np.isfinite(one.map_from_cam).all()


def test_intrinsics_are_locked_camera_by_camera():
    network = Network()
    frames = [
        dataclasses.replace(frame, K=None, views=tuple(dataclasses.replace(view, K=None) for view in frame.views))
        for frame in frames_of(network.truth)
    ]

    class Zoomed(Network):
        def predict(self, patch_tokens, image_size, frames):
            output = super().predict(patch_tokens, image_size, frames)
            output.pose_encoding[0, 1::3, 7:] *= 1.2  # another lens on camera 1
            return output

    prediction = VggtPredictor(config_of(), Zoomed()).predict(Window(tuple(frames[:6]), 0))
    focal = [one.K[:, 0, 0] for one in (prediction, *(view.prediction for view in prediction.views))]
    assert [np.ptp(one) for one in focal] == [0, 0, 0]
    assert focal[1][0] < 0.9 * focal[0][0] == pytest.approx(0.9 * focal[2][0])


def test_the_fake_cameras_stand_in_a_row():
    config = config_of(backend='fake', camera_names='left, right', input_width=24)
    predictor = make_predictor(config)
    right = BODY_FROM_OPTICAL @ scene.look([FakePredictor.BASELINE, 0, 0], 0)
    predictor.rig = Rig({0: BODY_FROM_OPTICAL, 1: right})
    frames = [dataclasses.replace(frame, views=frame.views[:1]) for frame in frames_of(world_from_rig(4))]
    prediction = predictor.predict(Window(tuple(frames), 0))
    assert prediction.metres_per_unit == pytest.approx(1.0)
    np.testing.assert_allclose(prediction.views[0].prediction.window_from_cam[0, :3, 3], [0.1, 0, 0], atol=1e-12)


def test_output_at_the_size_of_the_input_holds_for_all_cameras():
    config = config_of(backend='fake', camera_names='a,b,c', output_resolution='input', input_width=24)
    pipeline = Pipeline(config, make_predictor(config))
    updates = [pipeline.add_frame(frame) for frame in frames_of(world_from_rig(6), frozenset({(1, 1)}))]
    for frame in placed(update for update in updates if update is not None):
        cameras = (frame, *frame.views)
        assert [one.depth.shape for one in cameras] == [(scene.HEIGHT, scene.WIDTH)] * len(cameras)
        moment = (frame.stamp_ns - scene.START_NS) // scene.FRAME_NS
        assert [int(one.image[0, 0, 0]) for one in cameras] == [3 * moment + one.camera for one in cameras]


def test_cameras_of_different_sizes_are_refused():
    image = np.zeros((4, 6, 3), np.uint8)
    other = Frame(1, np.zeros((4, 8, 3), np.uint8), 'right', camera=1)
    with pytest.raises(ShapeError, match="one size, got 6x4 of 'left' and 8x4 of 'right'"):
        Frame(1, image, 'left', views=(other,))


@pytest.mark.parametrize('names', ['front', 'front,front', 'front,', 'a b,c', '1,2'])
def test_names_that_are_no_rig_are_refused(names: str):
    with pytest.raises(ConfigError, match='camera_names'):
        Config().with_values({'camera_names': names})


def test_names_of_a_rig():
    assert Config().with_values({'camera_names': 'front, left,back_2'}).rig.cameras == ('front', 'left', 'back_2')
    assert Config().rig.cameras == ()
