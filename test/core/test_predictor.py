"""Window -> Prediction, with networks that know the truth and with a real one of random weights."""

import dataclasses
import logging

import numpy as np
import pytest
import scene
import torch
from scene import assert_on_truth

from vggt import VGGT, StreamingVGGT, VGGTConfig
from vggt.approximation import Approximation
from vggt.config import CameraHeadConfig, DenseHeadConfig
from vggt.errors import CompileError
from vggt.preprocessing import resize_keeping_aspect
from vggt_ros.core import predictor as predictor_module
from vggt_ros.core.config import Config
from vggt_ros.core.devices import explain_precision, resolve_device, resolve_precision
from vggt_ros.core.errors import ConfigError, PredictionError
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import (
    FakePredictor,
    VggtPredictor,
    fitting_width,
    load_network,
    make_predictor,
    seen_on_grid,
)
from vggt_ros.core.window import Window

TINY = VGGTConfig(
    image_size=56,
    patch_size=14,
    embed_dim=32,
    depth=4,
    num_heads=2,
    backbone=None,
    camera_head=CameraHeadConfig(trunk_depth=1, num_heads=2),
    depth_head=DenseHeadConfig(features=16, hidden_channels=8, out_channels=(8, 8, 8, 8), layers=(0, 1, 2, 3)),
    point_head=None,
    track_head=None,
)


def config_of(**values):
    return Config().with_values({'confidence_percentile': 0.0, 'bundle_adjustment': 'off', **values})


def window_of(count, shared=0, start=0, size=(48, 64), K=None):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (start + count, *size, 3), dtype=np.uint8)
    frames = [Frame(1000 + i, images[i], 'camera_optical', K) for i in range(start, start + count)]
    return Window(tuple(frames), shared)


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    model = VGGT(TINY)
    with torch.no_grad():  # random weights see a negative field of view, which the network cuts at 0
        model.camera_head.pose_branch.fc2.weight *= 0.1
        model.camera_head.pose_branch.fc2.bias[7:] += 0.25  # radians in each of 4 rounds
        for name, parameter in model.named_parameters():
            if name.endswith('.gamma'):
                parameter += 0.5  # layers that start near 0 would hide a mix-up of frames
    return StreamingVGGT(model)


@pytest.mark.parametrize('size, stride', [(8, 4), (6, 1), (4, 4)])
def test_network_in_a_random_frame_gives_the_true_map(size, stride):
    simulated = scene.SimulatedNetwork(scene.walk(26), 3)
    config = config_of(window_size=size, window_stride=stride)
    pipeline = Pipeline(config, VggtPredictor(config, simulated))
    updates = [pipeline.add_frame(frame) for frame in scene.frames_of(simulated.world_from_cams)] + [pipeline.flush()]
    updates = [update for update in updates if update is not None]
    if stride < size:
        assert_on_truth(updates, pipeline, simulated)
    assert simulated.encoded == list(range(26))  # each frame once, however many windows it is in
    new = [list(range(26))[k * stride + size - stride : (k + 1) * stride + size - stride] for k in range(len(updates))]
    for window, frames in enumerate(simulated.decoded[1:], start=1):
        shared = min(size - stride, config.alignment.max_frames)
        assert frames == [new[window][0] - 1 - i for i in reversed(range(shared))] + new[window]


def test_of_a_window_that_bridges_all_shared_frames_are_decoded():
    """They are not those of the window before, so their depth is not known yet."""
    simulated = scene.SimulatedNetwork(scene.walk(8))
    predictor, frames = VggtPredictor(config_of(alignment_max_frames=2), simulated), scene.frames_of(scene.walk(8))
    predictor.predict(Window(tuple(frames), 6))
    predictor.predict(Window(tuple(frames), 6, is_bridge=True))
    assert simulated.decoded == [[4, 5, 6, 7], list(range(8))]


def test_tokens_kept_from_the_last_window_change_nothing(network):
    streaming, fresh = VggtPredictor(config_of(), network), VggtPredictor(config_of(), network)
    streaming.predict(window_of(6))
    kept, new = streaming.predict(window_of(6, shared=4, start=2)), fresh.predict(window_of(6, shared=4, start=2))
    # the same numbers but for the order in which a batch of another size is summed, float32
    np.testing.assert_allclose(kept.depth, new.depth, rtol=1e-4)
    np.testing.assert_allclose(kept.cam_from_window, new.cam_from_window, atol=1e-5)
    np.testing.assert_array_equal(kept.image, new.image)


def test_frames_are_encoded_on_arrival_and_the_window_is_the_same(network):
    late, early = VggtPredictor(config_of(), network), VggtPredictor(config_of(), network)
    window = window_of(4)
    expected = late.predict(window)
    for frame in window.frames[:3]:
        assert early.anticipate(frame) > 0
    encoded = []
    network.encode, encode = lambda images: encoded.append(len(images)) or encode(images), network.encode
    try:
        found = early.predict(window)
    finally:
        network.encode = encode
    assert encoded == [1]  # what is left to the moment when the newest frame is there
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-4)
    np.testing.assert_allclose(found.cam_from_window, expected.cam_from_window, atol=1e-5)


def test_the_pipeline_shows_frames_to_the_network_as_they_arrive():
    cameras = scene.walk(10)
    simulated = scene.SimulatedNetwork(cameras)
    config = config_of(window_size=6, window_stride=3)
    pipeline = Pipeline(config, VggtPredictor(config, simulated))
    for i, frame in enumerate(scene.frames_of(cameras)):
        pipeline.add_frame(frame)
        assert simulated.encoded == list(range(i + 1))


def test_what_fails_ahead_is_told_by_the_window(network):
    predictor, window = VggtPredictor(config_of(), network), window_of(2, size=(10, 640))
    assert predictor.anticipate(window.frames[0]) == 0
    with pytest.raises(PredictionError, match='less than 14 rows'):
        predictor.predict(window)


def test_only_the_last_window_is_remembered():
    simulated = scene.SimulatedNetwork(scene.walk(12))
    predictor, frames = VggtPredictor(config_of(), simulated), scene.frames_of(scene.walk(12))
    for start in (0, 4, 8, 0):
        predictor.predict(Window(tuple(frames[start : start + 4]), 0))
    assert simulated.encoded == [*range(12), 0, 1, 2, 3]


def test_prediction_is_that_of_the_plain_network(network):
    prediction = VggtPredictor(config_of(), network).predict(window_of(3, size=(42, 56)))
    frames = window_of(3, size=(42, 56)).frames
    images = torch.stack([torch.from_numpy(frame.image).permute(2, 0, 1) / 255 for frame in frames])
    with torch.no_grad():
        output = network.model(images)
    cam_from_world, K = output.cameras()
    np.testing.assert_allclose(prediction.depth, output.depth[0], rtol=1e-4)
    np.testing.assert_allclose(prediction.K_network, K[0], rtol=1e-5)
    relative = prediction.cam_from_window[2] @ invert_rigid(prediction.cam_from_window[1])
    last, middle = (np.vstack([cam_from_world[0, i].numpy(), [0, 0, 0, 1]]) for i in (2, 1))
    np.testing.assert_allclose(relative, last @ invert_rigid(middle), atol=1e-5)  # float32 quaternions
    np.testing.assert_array_equal(prediction.cam_from_window[0], np.eye(4))


def test_image_keeps_its_aspect_and_its_pixels(network):
    prediction = VggtPredictor(config_of(), network).predict(window_of(2, size=(42, 56)))
    np.testing.assert_array_equal(prediction.image[1], window_of(2, size=(42, 56)).frames[1].image)
    wide = VggtPredictor(config_of(), network).predict(window_of(2, size=(480, 640)))
    assert wide.image.shape == (*wide.depth.shape, 3) == (2, 42, 56, 3)
    narrow = VggtPredictor(config_of(input_width=28), network).predict(window_of(2, size=(480, 640)))
    assert narrow.depth.shape == (2, 14, 28)


@pytest.mark.parametrize('height, width, expected', [(480, 640, 518), (518, 518, 518), (1920, 1080, 280), (9, 16, 518)])
def test_upright_images_stay_within_what_the_network_was_made_for(height, width, expected):
    assert fitting_width(height, width, 518, 14) == expected


K_CAMERA = np.array([[500.0, 0.0, 310.0], [0.0, 510.0, 250.0], [0.0, 0.0, 1.0]])


def test_calibration_travels_with_the_image(network):
    prediction = VggtPredictor(config_of(), network).predict(window_of(2, size=(480, 640), K=K_CAMERA))
    # a point on the ray of source pixel (u, v) is seen at (u + 0.5) s - 0.5, s = 56 / 640
    point = np.linalg.inv(K_CAMERA) @ [400.0, 200.0, 1.0]
    u, v, _ = prediction.K[1] @ point
    np.testing.assert_allclose([u, v], [400.5 * 56 / 640 - 0.5, 200.5 * 56 / 640 - 0.5], atol=1e-9)
    assert not np.allclose(prediction.K, prediction.K_network)


def test_locked_intrinsics_are_the_median_of_the_first_window(network):
    predictor = VggtPredictor(config_of(intrinsics_mode='locked'), network)
    first, second = predictor.predict(window_of(5, K=K_CAMERA)), predictor.predict(window_of(5, shared=2, start=3))
    np.testing.assert_allclose(first.K[0], np.median(first.K_network, axis=0))
    np.testing.assert_array_equal(second.K, first.K)
    assert not np.allclose(second.K_network[0], first.K_network[0])
    predictor.reset()
    again = predictor.predict(window_of(5, start=3))
    np.testing.assert_allclose(again.K[0], np.median(second.K_network, axis=0), rtol=1e-4)


def test_intrinsics_are_locked_anew_where_pictures_change_their_size(network):
    predictor = VggtPredictor(config_of(), network)
    predictor.predict(window_of(5))
    tall = predictor.predict(window_of(5, size=(64, 48)))
    np.testing.assert_allclose(tall.K, np.tile(np.median(tall.K_network, axis=0), (5, 1, 1)))


def test_intrinsics_are_locked_where_no_calibration_came(network):
    prediction = VggtPredictor(config_of(), network).predict(window_of(5))
    np.testing.assert_allclose(prediction.K, np.tile(np.median(prediction.K_network, axis=0), (5, 1, 1)))


def test_intrinsics_per_window_are_those_of_the_network(network):
    prediction = VggtPredictor(config_of(intrinsics_mode='per_window'), network).predict(window_of(3, K=K_CAMERA))
    np.testing.assert_array_equal(prediction.K, prediction.K_network)


class Spoilt(scene.SimulatedNetwork):
    """Answers like the true network, then with one value changed in one frame."""

    def __init__(self, name, frame, value):
        super().__init__(scene.walk(8))
        self.name, self.frame, self.value = name, frame, value

    def predict(self, patch_tokens, image_size, frames):
        output = super().predict(patch_tokens, image_size, frames)
        getattr(output, self.name)[0, self.frame] = self.value
        return output


@pytest.mark.parametrize(
    'name, value', [('depth', np.nan), ('depth', -1.0), ('depth', np.inf), ('depth_confidence', np.nan)]
)
def test_depth_that_is_no_depth_is_unknown(name, value):
    window = Window(tuple(scene.frames_of(scene.walk(5))), 0)
    prediction = VggtPredictor(config_of(), Spoilt(name, 3, value)).predict(window)
    assert np.isnan(prediction.depth[3]).all()
    assert np.isfinite(prediction.depth[[0, 1, 2, 4]]).all()
    assert prediction.is_posed.all()


def test_a_pose_of_nan_is_unknown_and_not_the_identity():
    window = Window(tuple(scene.frames_of(scene.walk(5))), 0)
    later = VggtPredictor(config_of(), Spoilt('pose_encoding', 3, np.nan)).predict(window)
    assert list(later.is_posed) == [True, True, True, False, True]
    first = VggtPredictor(config_of(), Spoilt('pose_encoding', 0, np.nan)).predict(window)
    assert not first.is_posed.any()  # nobody knows where its window is


def test_depth_without_any_intrinsics_is_unknown():
    frames = [Frame(f.stamp_ns, f.image, f.frame_id) for f in scene.frames_of(scene.walk(5))]
    predictor = VggtPredictor(config_of(intrinsics_mode='per_window'), Spoilt('pose_encoding', 3, np.nan))
    prediction = predictor.predict(Window(tuple(frames), 0))
    assert np.isfinite(prediction.K).all()
    assert np.isnan(prediction.depth[3]).all()
    np.testing.assert_array_equal(prediction.K[3], [[48, 0, 24], [0, 48, 18], [0, 0, 1]])  # 53 degrees across


@pytest.fixture
def made_ready(network, monkeypatch):
    """What the network was compiled and captured for, instead of doing it."""
    calls = []

    def compile(frames, size, images=1):
        calls.append(('compile', frames, size, images))

    def capture(frames, size, decoded):
        calls.append(('capture', frames, size, list(decoded)))

    monkeypatch.setattr(network, 'compile', compile)
    monkeypatch.setattr(network, 'capture', capture)
    return calls


FAST = {'compile': True, 'cuda_graph': True, 'window_size': 6, 'window_stride': 1}


@pytest.mark.parametrize('names, cameras', [('', 1), ('left, right', 2)])
def test_windows_as_the_stream_will_have_them_are_compiled_and_captured(network, made_ready, names, cameras):
    predictor = VggtPredictor(config_of(camera_names=names, **FAST), network)
    assert predictor.warm_up(predictor.config.window) is None
    newest = list(range(1 * cameras, 6 * cameras))  # one that is new and the four that are compared
    assert made_ready == [('compile', 6 * cameras, (42, 56), cameras), ('capture', 6 * cameras, (42, 56), newest)]


def test_pictures_of_another_shape_are_made_ready_for_with_their_first_whole_window(network, made_ready):
    predictor = VggtPredictor(config_of(**FAST), network)
    predictor.predict(window_of(5, size=(64, 48)))
    predictor.predict_apart(window_of(6, size=(56, 42), K=K_CAMERA))
    assert not made_ready
    for _ in range(2):
        predictor.predict(window_of(6, size=(64, 48)))
    assert made_ready == [('compile', 6, (56, 42), 1), ('capture', 6, (56, 42), [1, 2, 3, 4, 5])]


def test_what_a_budget_allows_is_captured_once_it_is_chosen(network, made_ready):
    predictor = VggtPredictor(config_of(**FAST), network)
    plan = predictor.warm_up(predictor.config.window, budget_s=60.0)
    assert (plan.window, plan.size) == (predictor.config.window, (42, 56))
    assert 'window_size 6 and window_stride 1; ' in plan.reason
    assert 's a window of 60 allowed' in plan.reason
    assert [one[0] for one in made_ready] == ['compile', 'capture']
    bare = VggtPredictor(config_of(compile=False, cuda_graph=False), network)
    assert bare.warm_up(bare.config.window) is None
    assert len(made_ready) == 2


def test_what_cannot_be_compiled_or_captured_is_told_once_and_the_stream_goes_on(network, monkeypatch, caplog):
    def refuse(*_args, **_kwargs):
        raise CompileError('no compiler here')

    monkeypatch.setattr(network, 'compile', refuse)
    monkeypatch.setattr(network, 'capture', refuse)
    predictor = VggtPredictor(config_of(**FAST), network)
    predictor.warm_up(predictor.config.window)
    assert np.isfinite(predictor.predict(window_of(6)).depth[1:]).all()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert all('no compiler here; ' in one for one in told)
    assert ('compile:=false' in told[0], 'cuda_graph:=false' in told[1]) == (True, True)


def test_a_failing_network_raises_our_error(network, monkeypatch):
    predictor = VggtPredictor(config_of(), network)

    def fail(*_args, **_kwargs):
        raise RuntimeError('a kernel broke')

    monkeypatch.setattr(network, 'predict', fail)
    with pytest.raises(PredictionError, match='window of 4 frames: a kernel broke'):
        predictor.predict(window_of(4))


def test_an_image_that_is_too_flat_raises_our_error(network):
    with pytest.raises(PredictionError, match='less than 14 rows'):
        VggtPredictor(config_of(), network).predict(window_of(2, size=(10, 640)))


def test_weights_that_do_not_exist_are_named():
    with pytest.raises(ConfigError, match='no_such_network'):
        make_predictor(config_of(model_id='no_such_network', device='cpu'))


def test_a_network_is_loaded_as_the_settings_say(monkeypatch):
    asked = []
    monkeypatch.setattr(predictor_module, 'load_vggt', lambda source, **how: asked.append((source, how)) or 'weights')
    monkeypatch.setattr(predictor_module, 'StreamingVGGT', lambda model, **how: asked.append((model, how)) or 'network')
    values = {'device': 'cpu', 'precision': 'bf16', 'head_precision': 'fp32', 'model_id': 'some/model'}
    config = config_of(local_files_only=True, approximate_camera_rounds=2, approximate_key_stride=3, **values)
    assert load_network(config) == 'network'
    device, heads = torch.device('cpu'), ('camera', 'depth')  # others would cost memory for nothing
    assert asked == [
        (config.model.source, {'device': device, 'heads': heads, 'local_files_only': True}),
        (
            'weights',
            {
                'device': device,
                'dtype': torch.bfloat16,
                'heads': heads,
                'approximation': Approximation(2, 3),
                'head_dtype': torch.float32,
            },
        ),
    ]


def test_a_width_that_patches_do_not_fill_is_refused(network):
    with pytest.raises(ConfigError, match=r'multiple of 14 .* got 100; try 98'):
        VggtPredictor(config_of(input_width=100), network)


def test_no_gpu_is_told_once_and_only_auto_falls_back(monkeypatch, caplog):
    monkeypatch.setattr(torch.version, 'cuda', None)
    monkeypatch.setattr(predictor_module, 'load_vggt', lambda *_, **__: VGGT(TINY))
    with caplog.at_level(logging.WARNING):
        assert make_predictor(config_of()).network.device == torch.device('cpu')
    assert len(caplog.records) == 1
    assert 'without CUDA' in caplog.text
    caplog.clear()
    make_predictor(config_of(device='cpu'))
    assert not caplog.records
    with pytest.raises(ConfigError, match=r'cuda:0 cannot be used: .*without CUDA.*set device to cpu'):
        resolve_device(config_of(device='cuda:0').model)
    for name in ('gpu', 'cuda:', 'cuda:x', 'cpu:0', 'mps'):
        with pytest.raises(ConfigError, match='auto, cpu, cuda'):
            resolve_device(config_of(device=name).model)
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {'avx512_f': True})
    assert resolve_precision(config_of().model, torch.device('cpu')) is torch.float32
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {'avx512_f': True, 'avx512_bf16': True})
    assert resolve_precision(config_of().model, torch.device('cpu')) is torch.bfloat16
    assert resolve_precision(config_of(precision='fp32').model, torch.device('cpu')) is torch.float32
    assert resolve_precision(config_of(precision='bf16').model, torch.device('cpu')) is torch.bfloat16


def test_gpus_are_counted_and_what_keeps_one_from_being_used_is_told(monkeypatch):
    def device(name):
        return resolve_device(config_of(device=name).model)

    monkeypatch.setattr(torch.version, 'cuda', '12.4')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert device('auto') == torch.device('cpu')
    with pytest.raises(ConfigError, match=r'device cuda cannot be used: .*driver.*or set device to cpu'):
        device('cuda')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert [device(name) for name in ('auto', 'cuda', 'cuda:1')] == [torch.device('cuda', i) for i in (0, 0, 1)]
    with pytest.raises(ConfigError, match='torch finds 2 GPU, counted from 0'):
        device('cuda:2')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert device('auto') == torch.device('cpu')


def test_the_number_format_is_that_of_the_device_and_the_reason_is_told(monkeypatch):
    gpu, cpu, auto = torch.device('cuda', 0), torch.device('cpu'), config_of().model
    for capability, dtype, said in (((8, 0), torch.bfloat16, 'bf16'), ((7, 5), torch.float16, 'fp16')):
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device, it=capability: it)
        assert resolve_precision(auto, gpu) is dtype
        number = '.'.join(map(str, capability))
        assert explain_precision(dtype, gpu) == f'{said} (compute capability {number})'
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {'amx_bf16': True})
    assert resolve_precision(auto, cpu) is torch.bfloat16
    assert explain_precision(torch.bfloat16, cpu) == 'bf16 (the processor multiplies bfloat16)'
    monkeypatch.setattr(torch.cpu, 'get_capabilities', dict)
    assert resolve_precision(auto, cpu) is torch.float32
    assert explain_precision(torch.float32, cpu) == 'fp32 (the processor does not multiply bfloat16)'


def test_the_fake_camera_glides_along_its_wall():
    config = config_of(backend='fake')
    pipeline = Pipeline(config, make_predictor(config))
    updates = [pipeline.add_frame(frame) for frame in scene.frames_of(scene.walk(16))]
    frames = scene.placed(update for update in updates if update is not None)
    assert len(frames) == 16
    for i, frame in enumerate(frames):
        # to the right is -y of a map with the axes of a body
        np.testing.assert_allclose(frame.map_from_cam[:3, 3], [0.0, -FakePredictor.SPEED * 0.1 * i, 0.0], atol=1e-9)
        assert (frame.depth == FakePredictor.DISTANCE).all()
    np.testing.assert_array_equal(frames[0].K, scene.K)
    xyz, _ = pipeline.map.points()
    np.testing.assert_allclose(xyz[:, 0], FakePredictor.DISTANCE, rtol=1e-6)


@pytest.mark.parametrize('make', [VggtPredictor, FakePredictor])
def test_depth_is_unknown_where_a_frame_does_not_show_the_scene(make):
    mask = np.ones((scene.HEIGHT, scene.WIDTH), bool)
    mask[:, :10] = False
    frames = [dataclasses.replace(frame, mask=mask) for frame in scene.frames_of(scene.walk(3))]
    arguments = (scene.SimulatedNetwork(scene.walk(3)),) if make is VggtPredictor else ()
    prediction = make(config_of(input_width=scene.WIDTH), *arguments).predict(Window(tuple(frames), 0))
    assert np.isnan(prediction.depth[:, :, :10]).all()
    assert np.isnan(prediction.confidence[:, :, :10]).all()
    assert np.isfinite(prediction.depth[:, :, 10:]).all()
    assert prediction.K.shape == prediction.K_network.shape == (3, 3, 3)


@pytest.mark.parametrize('width', [8, 13, 24, 96])
def test_a_pixel_of_the_grid_is_seen_where_all_the_pixels_under_it_are(width):
    mask = np.random.default_rng(width).random((36, 48)) > 0.02
    frame = Frame(1, np.zeros((36, 48, 3), np.uint8), 'camera', mask=mask)
    transform = resize_keeping_aspect(frame.image, width, 1).transform
    seen = seen_on_grid(frame, transform)
    for v, u in np.ndindex(*transform.model_size):
        left, top = transform.pixels_to_source(np.array([u - 0.5, v - 0.5]) + 1e-6) + 0.5  # edges of the pixel
        right, bottom = transform.pixels_to_source(np.array([u + 0.5, v + 0.5]) - 1e-6) + 0.5
        under = mask[max(0, int(top)) : int(bottom) + 1, max(0, int(left)) : int(right) + 1]
        assert not seen[v, u] or under.all()
    assert seen.any()
