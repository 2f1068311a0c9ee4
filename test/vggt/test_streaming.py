"""The inference form gives what the plain form gives, and computes no more than asked."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from small import SMALL, random_images, small_model

from vggt import VGGT, StreamingVGGT, VGGTOutput
from vggt.approximation import Approximation
from vggt.errors import CompileError, ConfigError, InputError
from vggt.layers import attention

SIZE = (56, 70)
# The tolerances of the goldens: rounding only, as another chunk or batch may take another kernel.
POSE, DEPTH, POINTS = 1e-5, 5e-5, 1e-4
# bfloat16 keeps 8 bits, a relative step of 2^-8 = 4e-3 at each of some fifty matrix products; float16 keeps 11.
LOW_PRECISION = {torch.bfloat16: 2e-2, torch.float16: 2.5e-3}


def plain(images: torch.Tensor) -> VGGTOutput:
    with torch.inference_mode():
        return small_model()(images)


def assert_same(ours: VGGTOutput, plain: VGGTOutput, frames: list[int]) -> None:
    torch.testing.assert_close(ours.pose_encoding, plain.pose_encoding, rtol=0, atol=POSE)
    torch.testing.assert_close(ours.depth, plain.depth[:, frames], rtol=0, atol=DEPTH)
    torch.testing.assert_close(ours.depth_confidence, plain.depth_confidence[:, frames], rtol=0, atol=DEPTH)


@pytest.mark.parametrize('chunk', [1, 2, 8])
def test_outputs_equal_the_plain_forms(chunk: int) -> None:
    images = random_images(5)
    stream = StreamingVGGT(small_model(), heads=('camera', 'depth', 'point'), chunk=chunk)
    ours, expected = stream.predict(stream.encode(images), SIZE), plain(images)
    assert_same(ours, expected, [0, 1, 2, 3, 4])
    torch.testing.assert_close(ours.world_points, expected.world_points, rtol=0, atol=POINTS)
    assert ours.tracks is None


def test_tokens_of_a_frame_serve_every_window_that_holds_it() -> None:
    images = random_images(7)
    stream = StreamingVGGT(small_model())
    tokens = torch.cat([stream.encode(images[:4]), stream.encode(images[4:])])
    for start in (0, 3):
        window = slice(start, start + 4)
        assert_same(stream.predict(tokens[window], SIZE), plain(images[window]), [0, 1, 2, 3])


def test_8_bit_images_are_encoded_like_the_same_in_0_to_1() -> None:
    pixels = torch.randint(0, 256, (2, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    stream = StreamingVGGT(small_model())
    expected = stream.encode(pixels.permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(stream.encode(pixels), expected, rtol=0, atol=0)
    for wrong in (pixels[0], pixels[:, :-1], pixels.permute(0, 3, 1, 2)):
        with pytest.raises(InputError, match=r'8-bit images must be|multiples of'):
            stream.encode(wrong)


@pytest.mark.parametrize('frames', [[3], [2, 3], [3, 0]])
def test_only_the_frames_asked_for_are_decoded(frames: list[int]) -> None:
    images = random_images(4)
    stream = StreamingVGGT(small_model())
    decoded = []
    stream.model.depth_head.norm.register_forward_hook(lambda _m, inputs, _o: decoded.append(inputs[0].shape[0]))
    ours = stream.predict(stream.encode(images), SIZE, frames=frames)
    assert_same(ours, plain(images), frames)
    assert sum(decoded) == 4 * len(frames)  # four levels each


def test_no_frame_asked_for_gives_cameras_only() -> None:
    stream = StreamingVGGT(small_model())
    output = stream.predict(stream.encode(random_images(3)), SIZE, frames=[])
    assert output.pose_encoding.shape == (1, 3, 9)
    assert output.depth is None


def test_only_layers_that_a_head_reads_are_kept() -> None:
    config = replace(SMALL, depth=6, depth_head=replace(SMALL.depth_head, layers=(0, 1, 2, 3)))
    model = small_model(config)
    assert model.layers_read(('camera',)) == {5}
    assert model.layers_read(('camera', 'depth')) == {0, 1, 2, 3, 5}
    assert set(model.aggregator(random_images(2)[None], keep={1, 5})) == {1, 5}


@pytest.mark.parametrize('dtype', LOW_PRECISION, ids=str)
def test_low_precision_stays_within_its_rounding(dtype: torch.dtype) -> None:
    images = random_images(5)
    expected = plain(images)
    stream = StreamingVGGT(small_model(), dtype=dtype)
    ours = stream.predict(stream.encode(images), SIZE)
    assert ours.depth.dtype == ours.pose_encoding.dtype == torch.float32
    assert stream.model.aggregator.global_blocks[0].mlp.fc1.weight.dtype == dtype
    relative = ((ours.depth - expected.depth).abs() / expected.depth).max().item()
    pose = (ours.pose_encoding - expected.pose_encoding).abs().max().item()
    assert 0 < relative < LOW_PRECISION[dtype]
    assert 0 < pose < LOW_PRECISION[dtype]


def test_bad_tokens_frames_and_settings_are_refused_in_words() -> None:
    stream = StreamingVGGT(small_model())
    tokens = stream.encode(random_images(2))
    with pytest.raises(InputError, match='another size'):
        stream.predict(tokens, (70, 70))
    with pytest.raises(InputError, match='at least one frame'):
        stream.predict(tokens[:0], SIZE)
    with pytest.raises(InputError, match=r'0\.\.1'):
        stream.predict(tokens, SIZE, frames=[2])
    with pytest.raises(InputError, match='one window'):
        stream.encode(random_images(4).unflatten(0, (2, 2)))
    with pytest.raises(InputError, match='multiples of 14'):
        stream.encode(torch.rand(1, 3, 50, 50))
    with pytest.raises(ConfigError, match='plain VGGT'):
        StreamingVGGT(small_model(), heads=('track',))
    with pytest.raises(ConfigError, match='float64'):
        StreamingVGGT(small_model(), dtype=torch.float64)


def test_nothing_is_approximated_unless_asked_for() -> None:
    images = random_images(4)
    stream = StreamingVGGT(small_model(), approximation=Approximation(0, 1, 0))
    assert_same(stream.predict(stream.encode(images), SIZE), plain(images), [0, 1, 2, 3])


def test_fewer_rounds_of_the_camera_head_are_the_first_of_all() -> None:
    images = random_images(3)
    stream = StreamingVGGT(small_model(), approximation=Approximation(camera_iterations=2))
    output, exact = stream.predict(stream.encode(images), SIZE), plain(images)
    torch.testing.assert_close(output.pose_encoding, exact.pose_encodings[1], rtol=0, atol=POSE)
    torch.testing.assert_close(output.depth, exact.depth, rtol=0, atol=DEPTH)


def test_a_key_stride_leaves_the_first_frame_and_special_tokens_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    attend = attention.attend

    def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append((q.shape[2], k.shape[2]))
        return attend(q, k, v)

    stream = StreamingVGGT(small_model(), approximation=Approximation(key_stride=3))
    tokens = stream.encode(random_images(4))
    monkeypatch.setattr(attention, 'attend', watched)
    output = stream.predict(tokens, SIZE)
    special, patches = stream.config.num_special_tokens, 4 * 5
    frame = special + patches
    whole = {(frame, frame), (4, 4)}  # frame blocks and the camera head
    assert set(seen) - whole == {(4 * frame, frame + 3 * (special + -(-patches // 3)))}
    assert not torch.equal(output.depth, plain(random_images(4)).depth)


def test_local_blocks_let_no_frame_see_another() -> None:
    images = random_images(3)
    stream = StreamingVGGT(small_model(), approximation=Approximation(local_blocks=3))
    seen = []
    stream.model.aggregator.global_blocks[2].register_forward_hook(lambda _m, _i, output: seen.append(output))
    stream.predict(stream.encode(images), SIZE)
    changed = images.clone()
    changed[2] = random_images(1, seed=9)
    stream.predict(stream.encode(changed), SIZE)
    torch.testing.assert_close(seen[1][:2], seen[0][:2], rtol=0, atol=1e-5)
    assert not torch.allclose(seen[1][2], seen[0][2])


def test_approximations_out_of_range_are_refused() -> None:
    for wrong in (Approximation(key_stride=0), Approximation(local_blocks=4), Approximation(camera_iterations=99)):
        with pytest.raises(ConfigError, match='must be'):
            StreamingVGGT(small_model(), approximation=wrong)


def test_a_dense_head_in_bfloat16_stays_within_its_rounding() -> None:
    images = random_images(4)
    stream = StreamingVGGT(small_model(), head_dtype=torch.bfloat16)
    output, exact = stream.predict(stream.encode(images), SIZE), plain(images)
    assert output.depth.dtype == output.depth_confidence.dtype == torch.float32
    relative = ((output.depth - exact.depth).abs() / exact.depth).max().item()
    assert 0 < relative < LOW_PRECISION[torch.bfloat16]
    torch.testing.assert_close(output.pose_encoding, exact.pose_encoding, rtol=0, atol=POSE)


class Counted:
    """A backend of torch.compile that runs what it was given, and counts."""

    def __init__(self) -> None:
        self.made = self.runs = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: object) -> Callable[..., object]:
        self.made += 1

        def run(*args: object) -> object:
            self.runs += 1
            return graph(*args)

        return run


def test_compiled_windows_are_the_plain_ones_and_nothing_is_compiled_in_the_stream() -> None:
    backend, images = Counted(), random_images(8)
    stream = StreamingVGGT(small_model())
    stream.compile(4, SIZE, backend=backend)
    assert backend.made == 3  # of backbone, frame and global blocks, however many there are
    assert stream.is_compiled
    for start, size, decoded in ((0, 4, None), (2, 4, [2, 3]), (1, 3, None), (0, 8, None), (4, 4, [3])):
        window, before = images[start : start + size], backend.runs
        tokens = torch.cat([stream.encode(window[i : i + 1]) for i in range(size)])
        output = stream.predict(tokens, SIZE, frames=decoded)
        assert_same(output, plain(window), list(range(size)) if decoded is None else decoded)
        compiled = size * stream.config.backbone.depth + (size == 4) * 2 * stream.config.depth
        assert backend.runs - before == compiled
    assert backend.made == 3
    stream.compile(4, SIZE)
    assert backend.made == 3
    stream.compile(5, SIZE)
    assert backend.made == 5  # the backbone's is there
    stream.uncompile()
    before = backend.runs
    assert_same(stream.predict(stream.encode(images), SIZE), plain(images), list(range(8)))
    assert backend.runs == before


@pytest.mark.parametrize('dtype', LOW_PRECISION, ids=str)
def test_compiled_in_low_precision_nothing_changes_but_rounding(dtype: torch.dtype) -> None:
    images, backend = random_images(3), Counted()
    stream = StreamingVGGT(small_model(), dtype=dtype)
    before = stream.predict(stream.encode(images), SIZE)
    stream.compile(3, SIZE, images=3, backend=backend)
    after = stream.predict(stream.encode(images), SIZE)
    assert backend.runs >= 2 * backend.made
    torch.testing.assert_close(after.depth, before.depth, rtol=LOW_PRECISION[dtype], atol=0)
    torch.testing.assert_close(after.pose_encoding, before.pose_encoding, rtol=0, atol=LOW_PRECISION[dtype])


def test_what_cannot_be_compiled_is_told_and_runs_as_it_is() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError('Cannot find a working triton installation')

    images = random_images(4)
    stream = StreamingVGGT(small_model())
    with pytest.raises(CompileError, match='Cannot find a working triton'):
        stream.compile(4, SIZE, backend=fail)
    assert not stream.is_compiled
    assert_same(stream.predict(stream.encode(images), SIZE), plain(images), [0, 1, 2, 3])


def test_a_compiled_network_that_is_let_go_leaves_at_once() -> None:
    stream = StreamingVGGT(small_model())
    stream.compile(2, SIZE, backend='eager')
    weights = [weakref.ref(parameter) for parameter in stream.model.parameters()]
    del stream  # the next one needs its memory
    assert not any(one() is not None for one in weights)


def test_another_thread_runs_on_while_one_compiles() -> None:
    compiling, done = threading.Event(), threading.Event()

    def wait(graph: torch.fx.GraphModule, _inputs: object) -> torch.fx.GraphModule:
        compiling.set()
        assert done.wait(60)
        return graph

    images = random_images(4)
    stream = StreamingVGGT(small_model())
    with ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(stream.compile, 4, SIZE, backend=wait)
        assert compiling.wait(60)
        output = stream.predict(stream.encode(images), SIZE)
        done.set()
        compiled.result(60)
    assert_same(output, plain(images), [0, 1, 2, 3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU: what inductor and triton make runs there alone')
def test_on_a_gpu_compiled_windows_are_the_plain_ones_on_any_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)  # it has depth 1.8e-3 off on an H200
    images, expected = random_images(4), plain(random_images(4))
    stream = StreamingVGGT(small_model(), 'cuda')
    stream.compile(4, SIZE)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # as pictures are
        tokens = torch.cat([stream.encode(images[i : i + 1]) for i in range(4)])
    torch.cuda.current_stream().wait_stream(side)
    output = stream.predict(tokens, SIZE)
    torch.testing.assert_close(output.pose_encoding.cpu(), expected.pose_encoding, rtol=0, atol=1e-3)
    torch.testing.assert_close(output.depth.cpu(), expected.depth, rtol=1e-3, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU: there are no CUDA graphs elsewhere')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_replayed_on_a_gpu_each_answer_is_its_callers_own_on_any_stream(dtype: torch.dtype) -> None:
    images = random_images(16)
    stream = StreamingVGGT(small_model(), 'cuda', dtype)
    windows = [torch.cat([stream.encode(images[i + k : i + k + 1]) for k in range(4)]) for i in range(12)]
    expected = [stream.predict(tokens, SIZE, frames=[2, 3]) for tokens in windows]
    stream.capture(4, SIZE, [2, 3])
    assert stream.is_compiled
    stream.capture(4, SIZE, [2, 3])
    assert len(stream._prepared.graphs) == 1
    torch.cuda.synchronize()
    sides, found = [torch.cuda.Stream() for _ in range(3)], []
    for i, tokens in enumerate(windows):
        with torch.cuda.stream(sides[i % 3]):  # nothing here waits for the one before
            found.append(stream.predict(tokens, SIZE, frames=[2, 3]))
    torch.cuda.synchronize()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.depth, other.depth, rtol=1e-4, atol=0)
        torch.testing.assert_close(one.pose_encoding, other.pose_encoding, rtol=0, atol=1e-4)
    held = torch.cuda.memory_allocated()
    stream.release()
    assert torch.cuda.memory_allocated() < held


@torch.inference_mode()
def test_compiled_no_part_of_it_lies_on_the_processor() -> None:
    """A graph with such a part does not become a CUDA graph, and torch says so in no more than a hint."""
    elsewhere, sizes = [], []

    def look(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        values = [node.meta.get('example_value') for node in graph.graph.nodes]
        found = [value.device.type for value in values if isinstance(value, torch.Tensor)]
        sizes.append(len(found))
        elsewhere.extend(device for device in found if device != 'meta')
        return graph

    with torch.device('meta'):
        aggregator = VGGT(SMALL).aggregator.eval()
    tokens = torch.compile(aggregator.encode, backend=look)(torch.empty(2, 3, *SIZE, device='meta'))
    torch.compile(aggregator.attend, backend=look)(tokens[None], SIZE)
    assert len(sizes) == 2  # one graph each
    assert min(sizes) > 10
    assert not elsewhere
