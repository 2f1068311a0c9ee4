"""Pictures resized and encoded on the network's device, beside the window that is computed, change no result."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest
import torch

pytest.importorskip('cv2')

from noise_stream import STRIDE, assert_same, predictions_of, windows_of

from vggt import StreamingVGGT, load_vggt
from vggt.preprocessing import resize_keeping_aspect
from vggt_ros.core.config import Config
from vggt_ros.core.foresight import Foresight
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.predictor import VggtPredictor
from vggt_ros.core.shared_network import SharedNetwork
from vggt_ros.core.transfer import beside, download, picture_stream, to_host, upload

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
DEVICES = ['cpu', pytest.param('cuda', marks=GPU)]
ROUNDING = {'cpu': 0.0, 'cuda': 1e-4}  # a GPU's libraries promise no bits where several streams are used


@pytest.fixture(scope='module')
def networks() -> dict[str, StreamingVGGT]:
    devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    return {device: StreamingVGGT(load_vggt('nano', heads=('camera', 'depth'), device=device), device)
            for device in devices}  # fmt: skip


def config_of(**values: object) -> Config:
    return Config().with_values(
        {'input_width': 64, 'precision': 'fp32', 'confidence_percentile': 0.0, 'bundle_adjustment': 'off', **values}
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('closure', [False, True])
def test_a_stream_gives_the_same_results_either_way(
    networks: dict[str, StreamingVGGT], device: str, closure: bool
) -> None:
    found = {}
    for works_on_device in (False, True):
        predictor = VggtPredictor(config_of(loop_closure=closure), networks[device])
        predictor.works_on_device = works_on_device
        found[works_on_device] = predictions_of(predictor, windows_of(4))
    assert_same(found[True], found[False], ROUNDING[device])
    assert (found[True][0].descriptors is not None) == closure
    assert all(len(one.on_device) >= STRIDE for one in found[True])


@pytest.mark.parametrize('device', DEVICES)
def test_clouds_are_the_same_while_the_network_is_at_the_next_window(
    networks: dict[str, StreamingVGGT], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)  # 3e-4 on an H200, by how many are encoded

    def clouds_of(prediction: Prediction) -> np.ndarray:
        return np.stack([frame.packed(prediction.K[i]) for i, frame in sorted(prediction.on_device.items())])

    windows, config = windows_of(8), config_of(loop_closure=False)
    asked, ahead = (VggtPredictor(config, networks[device]) for _ in range(2))
    asked.works_on_device = ahead.works_on_device = True
    expected = predictions_of(asked, windows)
    foresight, found, clouds = Foresight(ahead), [], []
    for window, coming in pairwise((*windows, None)):
        found.append(foresight.predict(window))
        if coming is not None:
            foresight.begin(coming)
        clouds.append(clouds_of(found[-1]))
    assert_same(found, expected, ROUNDING[device])
    for cloud, prediction in zip(clouds, expected, strict=True):
        np.testing.assert_allclose(cloud[..., :3], clouds_of(prediction)[..., :3], rtol=ROUNDING[device])
        np.testing.assert_array_equal(cloud[..., 3].view(np.uint32), clouds_of(prediction)[..., 3].view(np.uint32))


@GPU
def test_a_long_stream_beside_a_busy_device_is_that_of_an_idle_one(networks: dict[str, StreamingVGGT]) -> None:
    """Were memory given away too early, or a copy not waited for, other pictures would show."""
    predictor = VggtPredictor(config_of(loop_closure=False), networks['cuda'])
    predictor.works_on_device = False
    expected = predictions_of(predictor, windows_of(24))
    a = torch.randn(4096, 4096, device='cuda')
    for _ in range(3):
        predictor = VggtPredictor(config_of(loop_closure=False), networks['cuda'])
        found = []
        for window in windows_of(24):
            for _ in range(20):
                a @ a  # stands for a window of another stream: the pictures pass it
            for frame in window.frames[:-1]:
                predictor.anticipate(frame)
            found.append(predictor.predict(window))
        assert_same(found, expected, ROUNDING['cuda'])


@pytest.mark.parametrize('device', DEVICES)
def test_streams_that_share_a_network_get_their_own_answers(networks: dict[str, StreamingVGGT], device: str) -> None:
    config = config_of(loop_closure=False)
    expected = [predictions_of(VggtPredictor(config, networks[device]), windows_of(4, seed)) for seed in range(3)]
    owner = SharedNetwork(networks[device])
    found: dict[int, list[Prediction]] = {}

    def run(seed: int) -> None:
        found[seed] = predictions_of(VggtPredictor(config, owner.member()), windows_of(4, seed))  # type: ignore[arg-type]

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    owner.close()
    for seed in range(3):  # on a GPU several windows take one pass, and products are rounded otherwise
        assert_same(found[seed], expected[seed], 0.0 if device == 'cpu' else 0.02)


@GPU
def test_cuda_agrees_with_the_host(networks: dict[str, StreamingVGGT], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    config = config_of(loop_closure=False)
    ours, theirs = (
        predictions_of(VggtPredictor(config, networks[device]), windows_of(2)) for device in ('cuda', 'cpu')
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_allclose(one.depth, other.depth, rtol=0.01)


@GPU
def test_nothing_from_a_picture_to_its_tokens_waits_for_the_device(networks: dict[str, StreamingVGGT]) -> None:
    predictor = VggtPredictor(config_of(loop_closure=False), networks['cuda'])
    predictions_of(predictor, windows_of(1))  # tables are made for each size once
    frames = [frame for window in windows_of(1, seed=1) for frame in window.frames]
    torch.cuda.set_sync_debug_mode('error')
    try:
        for frame in frames:
            predictor._look_at([frame])  # anticipate would keep the error to itself
        tokens = torch.stack([predictor._encoded[frame.key].tokens for frame in frames])
        networks['cuda'].predict(tokens, predictor._encoded[frames[0].key].image.transform.model_size, frames=[2, 3])
    finally:
        torch.cuda.set_sync_debug_mode('default')
        torch.cuda.synchronize()


@GPU
def test_what_is_given_to_the_second_stream_passes_what_runs_on_the_first() -> None:
    device = torch.device('cuda')
    a, image = torch.randn(8192, 8192, device=device), np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    for _ in range(3):  # the first two also make the stream and pin memory, which waits for the device
        torch.cuda.synchronize()
        for _ in range(30):
            a @ a
        busy = torch.cuda.Event()
        busy.record()
        with beside(device) as hand_over:
            pixels = upload(image, device)
            host = download(pixels)
            hand_over(pixels)
        picture_stream(device).synchronize()
        passed = not busy.query()
        doubled = to_host([2 * pixels])[0]
    assert passed
    np.testing.assert_array_equal(host.numpy(), image)
    np.testing.assert_array_equal(doubled, 2.0 * image)


@pytest.mark.parametrize('device', DEVICES)
def test_pictures_that_may_not_be_written_are_taken_as_they_are(device: str) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    part = whole[5:53, 10:74, ::-1]
    part.flags.writeable = False
    uploaded = upload(part, torch.device(device))
    expected = resize_keeping_aspect(np.ascontiguousarray(part), 56).pixels
    part = np.zeros(1)
    assert uploaded.device.type == device
    np.testing.assert_array_equal(resize_keeping_aspect(uploaded, 56).pixels.cpu().numpy(), expected.numpy())
