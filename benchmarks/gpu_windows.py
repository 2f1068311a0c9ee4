"""Windows on one device in one process: latency by part, sliding windows, CUDA graphs and compiled blocks.

All forms are made from one set of weights. The plain form stands in for code that knows nothing of streams: every head
on every frame of every window, all layers kept, autocast, images in float32 on the device. Times are wall times, the
device synchronised at the end of each call; parts are timed by events in the device's own queue, in runs of their own.
"""

from __future__ import annotations

import copy
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.forms import Workload, groups
from benchmarks.meter import Operations
from benchmarks.reference import ReferenceRun, read_outputs
from benchmarks.streaming import differences, make_network
from benchmarks.timing import FEWEST, exact_products, peak_gb, synchronise, timed, weights_gb
from vggt import VGGT, StreamingVGGT, VGGTOutput
from vggt.captured_call import CapturedCall, record
from vggt.preprocessing import scale_pixels

HEADS = ('camera', 'depth')
AGGREGATOR = ('patch tokens', 'frame blocks', 'global blocks')


@dataclass
class Networks:
    """The forms of one network on one device, each made when it is first asked for.

    Args:
        name: '1b' with random weights, or what load_vggt takes.
        device: where they are.
        blocks: of '1b': so many of each kind; 0: all.
    """

    name: str
    device: torch.device
    blocks: int = 0
    _streams: dict[tuple[torch.dtype, torch.dtype], StreamingVGGT] = field(default_factory=dict)
    _operations: dict[tuple[tuple[int, int], tuple[str, ...]], Operations] = field(default_factory=dict)

    @property
    def heads(self) -> tuple[str, ...]:
        """Of the plain form."""
        return (*HEADS, 'point') if self.name == '1b' else HEADS

    @cached_property
    def plain(self) -> VGGT:
        """In float32, with all heads but tracking."""
        with torch.inference_mode(False):
            return make_network(self.name, str(self.device), self.blocks, self.heads)

    def stream(self, dtype: torch.dtype, head_dtype: torch.dtype = torch.float32) -> StreamingVGGT:
        """The inference form of the same weights, in a copy of its own without the point head."""
        key = (dtype, head_dtype)
        if key not in self._streams:
            with torch.inference_mode(False):
                model = copy.deepcopy(self.plain)
                model.point_head, model.config = None, model.config.with_heads(HEADS)
                self._streams[key] = StreamingVGGT(model, self.device, dtype, head_dtype=head_dtype)
        return self._streams[key]

    def operations(self, shape: tuple[int, int], heads: Sequence[str]) -> Operations:
        """Counted once for each size."""
        key = (shape, tuple(heads))
        if key not in self._operations:
            self._operations[key] = Operations(self.plain.config.with_heads(heads), shape)
        return self._operations[key]

    def run_plain(self, images: Tensor, dtype: torch.dtype = torch.bfloat16) -> VGGTOutput:
        """Everything of a window, [S, 3, H, W] in [0, 1], with no layer left out."""
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            layers = self.plain.aggregator(images[None], keep=None)
            output: VGGTOutput = self.plain.read_heads(layers, (images.shape[-2], images.shape[-1]))
        return output


def random_pixels(frames: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """[S, H, W, 3] uint8 noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, *shape, 3), dtype=torch.uint8, generator=generator).to(device)


def reserved_gb(device: torch.device) -> float:
    """Device memory that is held, what is only kept for later handed back; nan where torch does not count it."""
    if device.type != 'cuda':
        return float('nan')
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device) / 1e9


class Split:
    """Seconds of each part of a network in one run, from events in the device's queue: nothing waits in between."""

    def __init__(self, parts: Mapping[str, Sequence[nn.Module]], device: torch.device) -> None:
        self.device = device
        self._marks: dict[str, list[Any]] = {}
        self._handles: list[Any] = []
        for name, modules in parts.items():
            for module in modules:
                mark = self._marker(name)
                self._handles += [module.register_forward_pre_hook(mark), module.register_forward_hook(mark)]

    def _marker(self, name: str) -> Callable[..., None]:
        def mark(*_: Any) -> None:
            if self.device.type == 'cuda':
                event = torch.cuda.Event(enable_timing=True)
                event.record()
                self._marks.setdefault(name, []).append(event)
            else:
                self._marks.setdefault(name, []).append(time.perf_counter())

        return mark

    def take(self) -> dict[str, float]:
        """What was spent since the last call."""
        synchronise(self.device)
        spent = {}
        for name, marks in self._marks.items():
            pairs = zip(marks[::2], marks[1::2], strict=True)
            if self.device.type == 'cuda':
                spent[name] = sum(begin.elapsed_time(end) for begin, end in pairs) / 1e3
            else:
                spent[name] = sum(end - begin for begin, end in pairs)
        self._marks.clear()
        return spent

    def remove(self) -> None:
        """Leave the modules as they were."""
        for handle in self._handles:
            handle.remove()


def parts_of(call: Callable[[], object], model: nn.Module, device: torch.device, runs: int = 5) -> dict[str, float]:
    """Median seconds of each part."""
    split = Split(groups(model), device)
    try:
        found = []
        for _ in range(runs):
            call()
            found.append(split.take())
    finally:
        split.remove()
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def share(operations: Mapping[str, int], seconds: Mapping[str, float], ceiling: float | None) -> str:
    """Of the matrix product's rate, in the aggregator."""
    done = sum(operations[part] for part in AGGREGATOR)
    spent = sum(seconds[part] for part in AGGREGATOR)
    return rate(done, spent, ceiling)


def rate(done: int, spent: float, ceiling: float | None) -> str:
    """Operations a second as a share of the matrix product's, or by themselves where that was not measured."""
    return f'{100 * done / spent / ceiling:.0f} %' if ceiling else f'{done / spent / 1e12:.2f} TFLOP/s'


@dataclass
class Form:
    """A way to compute a window: what it is called, what it runs, and on which network."""

    name: str
    call: Callable[[], VGGTOutput]
    model: VGGT
    heads: tuple[str, ...]


LATENCY_COLUMNS = (
    'size', 'frames', 'form', 'ms', 'spread', 'runs', 'frames/s', 'patch tokens', 'frame blocks', 'global blocks',
    'camera head', 'dense heads', 'rest', 'TFLOP', 'aggregator of ceiling', 'peak [GB]', 'with weights [GB]',
)  # fmt: skip


@torch.inference_mode()
def latency_rows(
    networks: Networks, shape: tuple[int, int], frames: int, repeats: int, limit_s: float, ceiling: float | None
) -> Iterator[dict[str, object]]:
    """The plain and the inference form on all frames of one window."""
    device = networks.device
    pixels = random_pixels(frames, shape, device)
    images, stream = scale_pixels(pixels), networks.stream(torch.bfloat16)
    forms = (
        Form('plain', lambda: networks.run_plain(images), networks.plain, networks.heads),
        Form('inference', lambda: stream.predict(stream.encode(pixels), shape), stream.model, HEADS),
    )
    for form in forms:
        taken = timed(form.call, device, repeats, limit_s)
        middle = statistics.median(taken)
        parts = parts_of(form.call, form.model, device, runs=FEWEST if middle < 0.15 else 3)
        dense = sum(spent for name, spent in parts.items() if name in ('depth head', 'point head'))
        operations = networks.operations(shape, form.heads).of(frames, frames)
        peak = peak_gb(form.call, device)
        yield {
            'size': f'{shape[1]}x{shape[0]}',
            'frames': frames,
            'form': form.name,
            'ms': f'{middle * 1e3:.1f}',
            'spread': f'{(max(taken) - min(taken)) * 1e3:.1f}',
            'runs': len(taken),
            'frames/s': f'{frames / middle:.1f}',
            **{name: f'{parts[name] * 1e3:.1f}' for name in (*AGGREGATOR, 'camera head')},
            'dense heads': f'{dense * 1e3:.1f}',
            'rest': f'{(middle - sum(parts.values())) * 1e3:.1f}',
            'TFLOP': f'{sum(operations.values()) / 1e12:.2f}',
            'aggregator of ceiling': share(operations, parts, ceiling),
            'peak [GB]': f'{peak:.2f}',
            'with weights [GB]': f'{peak + weights_gb(form.model):.2f}',
        }


REFERENCE_COLUMNS = (
    'frames', 'format', 'ms', 'spread', 'runs', 'frames/s', 'peak [GB]', 'with weights [GB]', 'pose differs',
    'depth differs',
)  # fmt: skip


@torch.inference_mode()
def reference_rows(
    networks: Networks, shape: tuple[int, int], runs: Sequence[ReferenceRun], folder: Path
) -> Iterator[dict[str, object]]:
    """What upstream's code took; its outputs against the plain form's, as a share of the largest value."""
    for run in runs:
        images = Workload(*shape, run.frames, run.frames, run.dtype, str(networks.device), networks.name).images()
        with exact_products() if run.dtype == 'float32' else nullcontext():
            ours = networks.run_plain(images, getattr(torch, run.dtype))
        theirs = read_outputs(folder, run, networks.device)
        found: dict[str, Any] = {
            'pose': (ours.pose_encoding, theirs['pose_encoding']),
            'depth': (ours.depth, theirs['depth']),
        }
        timed_cells = {}
        if run.seconds:
            timed_cells = {
                'ms': f'{run.middle_s * 1e3:.1f}',
                'spread': f'{(max(run.seconds) - min(run.seconds)) * 1e3:.1f}',
                'runs': len(run.seconds),
                'frames/s': f'{run.frames / run.middle_s:.1f}',
                'peak [GB]': f'{run.peak_gb:.2f}',
                'with weights [GB]': f'{run.peak_gb + run.weights_gb:.2f}',
            }
        yield {
            **dict.fromkeys(REFERENCE_COLUMNS, '-'),
            'frames': run.frames,
            'format': run.dtype,
            **timed_cells,
            **{f'{name} differs': f'{largest_share(*pair):.1e}' for name, pair in found.items()},
        }


def largest_share(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value."""
    return ((ours.float() - theirs).abs().max() / theirs.abs().max()).item()


def against(run: ReferenceRun | None, step_s: float) -> dict[str, object]:
    """A step with its new frames, against upstream's code rerun on the whole window."""
    if run is None:
        return {'upstream [ms]': '-', 'times upstream': '-'}
    return {'upstream [ms]': f'{run.middle_s * 1e3:.1f}', 'times upstream': f'{run.middle_s / step_s:.2f}'}


STREAMING_COLUMNS = (
    'window', 'stride', 'form', 'new frames/s', 'whole step [ms]', 'newest frame [ms]', 'plain form [ms]', 'ratio',
    'upstream [ms]', 'times upstream', 'operations allow', 'of that', 'aggregator [ms]', 'aggregator of ceiling',
    'peak [GB]', "plain's peak [GB]", 'with weights [GB]', "plain's with weights [GB]", "upstream's with weights [GB]",
    'pose differs', 'depth differs', 'runs',
)  # fmt: skip


@torch.inference_mode()
def streaming_rows(
    networks: Networks,
    shape: tuple[int, int],
    size: int,
    strides: Sequence[int],
    repeats: int,
    limit_s: float,
    ceiling: float | None,
    upstream: ReferenceRun | None = None,
) -> Iterator[dict[str, object]]:
    """Sliding windows of one size: new frames come from the host, all but the newest are encoded as they come."""
    device = networks.device
    pixels = random_pixels(size, shape, torch.device('cpu'))
    images = scale_pixels(pixels.to(device))
    plain_s = statistics.median(timed(lambda: networks.run_plain(images), device, repeats, limit_s))
    plain_peak = peak_gb(lambda: networks.run_plain(images), device)
    expected = networks.run_plain(images)
    everything = sum(networks.operations(shape, networks.heads).of(size, size).values())
    for head_dtype in (torch.float32, torch.bfloat16):
        stream = networks.stream(torch.bfloat16, head_dtype)
        kept = torch.cat([stream.encode(pixels[i : i + 1]) for i in range(size - 1)])
        for stride in strides:

            def ahead(stream: StreamingVGGT = stream, stride: int = stride) -> None:
                for i in range(size - stride, size - 1):
                    stream.encode(pixels[i : i + 1])

            def newest(stream: StreamingVGGT = stream, stride: int = stride, kept: Tensor = kept) -> VGGTOutput:
                tokens = torch.cat((kept, stream.encode(pixels[-1:])))
                return stream.predict(tokens, shape, frames=range(size - stride, size))

            def step(ahead: Callable[[], None] = ahead, newest: Callable[[], VGGTOutput] = newest) -> VGGTOutput:
                ahead()
                return newest()

            taken = timed(step, device, repeats, limit_s)
            step_s = statistics.median(taken)
            newest_s = statistics.median(timed(newest, device, repeats, limit_s / 2))
            parts = parts_of(step, stream.model, device)
            operations = networks.operations(shape, HEADS).of(size, stride)
            allowed, ratio = everything / sum(operations.values()), plain_s / step_s
            peak = peak_gb(step, device)
            pose, depth = differences(expected, step(), stride)
            yield {
                'window': size,
                'stride': stride,
                'form': 'bf16' if head_dtype is torch.float32 else 'bf16, heads too',
                'new frames/s': f'{stride / step_s:.2f}',
                'whole step [ms]': f'{step_s * 1e3:.1f}',
                'newest frame [ms]': f'{newest_s * 1e3:.1f}',
                'plain form [ms]': f'{plain_s * 1e3:.1f}',
                'ratio': f'{ratio:.2f}',
                **against(upstream, step_s),
                'operations allow': f'{allowed:.2f}',
                'of that': f'{100 * ratio / allowed:.0f} %',
                'aggregator [ms]': f'{1e3 * sum(parts[part] for part in AGGREGATOR):.1f}',
                'aggregator of ceiling': share(operations, parts, ceiling),
                'peak [GB]': f'{peak:.2f}',
                "plain's peak [GB]": f'{plain_peak:.2f}',
                'with weights [GB]': f'{peak + weights_gb(stream.model):.2f}',
                "plain's with weights [GB]": f'{plain_peak + weights_gb(networks.plain):.2f}',
                "upstream's with weights [GB]": f'{upstream.peak_gb + upstream.weights_gb:.2f}' if upstream else '-',
                'pose differs': f'{pose:.1e}',
                'depth differs': f'{depth:.1e}',
                'runs': len(taken),
            }


GRAPH_COLUMNS = (
    'format', 'form', 'first call [s]', 'window [ms]', 'new frames/s', 'plain form [ms]', 'ratio', 'upstream [ms]',
    'times upstream', 'aggregator [ms]', 'aggregator of ceiling', 'pose differs', 'depth differs', 'held for it [GB]',
    'runs',
)  # fmt: skip


@dataclass(frozen=True)
class GraphForm:
    """A way to compute the windows of `graph_rows`.

    Args:
        dtype: of the large matrices.
        head_dtype: of the dense heads.
        compiling_s: what compiling its blocks may take; None: they run as they are.
        channels_last: in the depth head, which then decodes all frames at once.
    """

    dtype: torch.dtype
    head_dtype: torch.dtype = torch.float32
    compiling_s: float | None = None
    channels_last: bool = False

    @property
    def name(self) -> str:
        """Of the number formats."""
        heads = ', heads too' if self.head_dtype is self.dtype else ''
        return str(self.dtype)[6:] + heads + (', channels last' if self.channels_last else '')


GRAPH_FORMS = (
    GraphForm(torch.bfloat16),
    GraphForm(torch.float16),
    GraphForm(torch.bfloat16, compiling_s=25),
    GraphForm(torch.bfloat16, torch.bfloat16, 6),  # its blocks are compiled already
    GraphForm(torch.bfloat16, torch.bfloat16, 6, channels_last=True),
    GraphForm(torch.float16, compiling_s=20),
)


@contextmanager
def laid_out(stream: StreamingVGGT, form: GraphForm, frames: int) -> Iterator[None]:
    """Inside, a stream may be compiled and captured; with channels last its depth head decodes all frames at once."""
    chunk = stream.chunk
    try:
        if form.channels_last:
            stream.chunk = frames
            lay_out(stream.model.depth_head, torch.channels_last)
        yield
    finally:
        stream.uncompile()
        if form.channels_last:
            stream.chunk = chunk
            lay_out(stream.model.depth_head, torch.contiguous_format)


def lay_out(head: nn.Module | None, order: torch.memory_format) -> None:
    """Convolutions' weights in another order in memory; their values stay."""
    assert head is not None
    with torch.inference_mode(False):
        head.to(memory_format=order)  # type: ignore[call-overload]


def replayed_s(call: Callable[[], object], device: torch.device, runs: int) -> float:
    """Median seconds of a call as a CUDA graph of its own, by events in the device's queue."""
    graph, _ = record(call, device)
    marks = []
    for _ in range(2 + runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        marks.append((begin, end))
    synchronise(device)
    return statistics.median(begin.elapsed_time(end) for begin, end in marks[2:]) / 1e3


def is_out_of_time(error: BaseException) -> bool:
    """Whether a part was cut off, rather than that something failed."""
    return isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError)


@torch.inference_mode()
def graph_rows(
    networks: Networks,
    shape: tuple[int, int],
    repeats: int,
    limit_s: float,
    has_time: Callable[[float], bool],
    ceiling: float | None = None,
    backend: str = 'inductor',
    upstream: ReferenceRun | None = None,
) -> Iterator[dict[str, object]]:
    """A window of 8 with stride 4 as it is, as one CUDA graph, with compiled blocks, and with both.

    A graph holds all of it, or what comes behind the patch tokens, as those of a node do, which sees frames one by one.

    New images and kept tokens are on the device already, the four new frames are encoded together. The ratio is to the
    plain form in bfloat16, rerun on the whole window; differences are from the plain form in float32. The aggregator
    has a graph of its own beside that of all: patch tokens of the new frames, and what comes behind up to the heads.

    Args:
        has_time: whether so many seconds are left.
        ceiling: operations a second of the matrix product in bfloat16, if it was measured.
        backend: of torch.compile.
        upstream: upstream's code on such a window.
    """
    device, size, stride = networks.device, 8, 4
    pixels = random_pixels(size, shape, device)
    layers = networks.plain.aggregator(scale_pixels(pixels)[None], keep=networks.plain.layers_read(HEADS))
    exact = networks.plain.read_heads(layers, shape, heads=HEADS)
    del layers
    images = scale_pixels(pixels)
    plain_s = statistics.median(timed(lambda: networks.run_plain(images), device, repeats, limit_s))
    operations = networks.operations(shape, HEADS).of(size, stride)
    done = sum(operations[part] for part in AGGREGATOR)
    for form in GRAPH_FORMS:
        if form.compiling_s is not None and not has_time(form.compiling_s):
            continue
        stream = networks.stream(form.dtype, form.head_dtype)
        kept = stream.encode(pixels[:stride])

        def window(new: Tensor = pixels[stride:], stream: StreamingVGGT = stream, kept: Tensor = kept) -> VGGTOutput:
            tokens = torch.cat((kept, stream.encode(new)))
            return stream.predict(tokens, shape, frames=range(size - stride, size))

        def aggregator(stream: StreamingVGGT = stream, kept: Tensor = kept) -> object:
            tokens = torch.cat((kept, stream.encode(pixels[stride:])))[None]
            with stream._precision(), stream._prepared.form(tokens):  # as StreamingVGGT does before its heads
                return stream.model.aggregator.attend(tokens, shape, stream.model.layers_read(HEADS))

        ways: list[tuple[str, Callable[[], Callable[[], VGGTOutput]]]] = []
        if form.compiling_s is not None:

            def compiled(stream: StreamingVGGT = stream, call: Callable[[], VGGTOutput] = window) -> Any:
                stream.compile(size, shape, images=size - stride, backend=backend)
                return call

            ways.append(('blocks compiled', compiled))
        else:
            ways.append(('as it is', lambda call=window: call))
        whole = f'{ways[0][0]}, one graph'
        if device.type == 'cuda':

            def captured(call: Callable[[Tensor], VGGTOutput] = window) -> Callable[[], VGGTOutput]:
                return partial(CapturedCall(call, pixels[stride:], pixels[:stride]), pixels[stride:])

            def as_a_node_does(stream: StreamingVGGT = stream, call: Callable[[], VGGTOutput] = window) -> Any:
                stream.capture(size, shape, range(size - stride, size))
                return call

            ways += [(whole, captured), (f'{whole} behind patch tokens', as_a_node_does)]
        with laid_out(stream, form, size):
            for name, make in ways:
                try:
                    held = reserved_gb(device)
                    begin = time.perf_counter()
                    call = make()
                    output = call()
                    synchronise(device)
                    made_s = time.perf_counter() - begin
                    pose, depth = differences(exact, output, stride)
                    taken = timed(call, device, repeats, limit_s)
                except Exception as error:  # a capture or a compilation that fails must not end the others
                    if is_out_of_time(error):
                        raise
                    print(f'\n{form.name}, {name}, did not run:\n{traceback.format_exc()}\n', flush=True)
                    continue
                middle, held_gb = statistics.median(taken), reserved_gb(device) - held
                alone = aggregator_cells(aggregator, device, repeats, done, ceiling) if name == whole else {}
                yield {
                    **dict.fromkeys(GRAPH_COLUMNS, '-'),
                    'format': form.name,
                    'form': name,
                    'first call [s]': f'{made_s:.1f}',
                    'window [ms]': f'{middle * 1e3:.1f}',
                    'new frames/s': f'{stride / middle:.2f}',
                    'plain form [ms]': f'{plain_s * 1e3:.1f}',
                    'ratio': f'{plain_s / middle:.2f}',
                    **against(upstream, middle),
                    **alone,
                    'pose differs': f'{pose:.1e}',
                    'depth differs': f'{depth:.1e}',
                    'held for it [GB]': f'{held_gb:.2f}',
                    'runs': len(taken),
                }
                del call, output
    torch.compiler.reset()


def aggregator_cells(
    call: Callable[[], object], device: torch.device, runs: int, operations: int, ceiling: float | None
) -> dict[str, object]:
    """The aggregator alone in a graph of its own; nothing where that fails."""
    try:
        spent = replayed_s(call, device, runs)
    except Exception as error:
        if is_out_of_time(error):
            raise
        print(f'\nthe aggregator alone did not run:\n{traceback.format_exc()}\n', flush=True)
        return {}
    return {'aggregator [ms]': f'{spent * 1e3:.1f}', 'aggregator of ceiling': rate(operations, spent, ceiling)}
