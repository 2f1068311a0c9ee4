"""What each approximation and number format costs in accuracy and saves in time, on windows that were never trained on.

    python -m benchmarks.approximations                    # nano, 40 held-back windows of 8
    python -m benchmarks.approximations --scenes 10 --only "bf16" "1 round of the camera head"

Method: every form sees the same rendered windows, all frames encoded and decoded. AbsRel (depth scaled by the medians)
and the median angle between true and estimated relative rotations are against the truth; the changes are against the
exact float32 form: depth, median over pixels of the relative change after scaling by the medians; rotation, median over
pairs. The forms take turns window by window; time is processor time, the ratio that of the sums.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import commit, cpu_name
from training.metrics import Cameras, WindowErrors, summarise, window_errors
from training.windows import HELD_BACK_SEED, make_window
from vggt import VGGT, StreamingVGGT, load_vggt
from vggt.approximation import EXACT, Approximation
from vggt.pose_encoding import decode_pose_encoding

BFLOAT16 = torch.bfloat16


@dataclass(frozen=True)
class Form:
    """One way to compute the network."""

    dtype: torch.dtype = torch.float32
    head_dtype: torch.dtype = torch.float32
    approximation: Approximation = EXACT
    is_int8: bool = False

    def build(self, model: VGGT) -> StreamingVGGT:
        """Take a fresh model over."""
        if self.is_int8:
            model.aggregator = torch.ao.quantization.quantize_dynamic(model.aggregator, {nn.Linear}, torch.qint8)
        return StreamingVGGT(model, 'cpu', self.dtype, approximation=self.approximation, head_dtype=self.head_dtype)


FORMS = {
    'exact': Form(),
    'bf16': Form(BFLOAT16),
    'fp16': Form(torch.float16),
    'bf16, dense head too': Form(BFLOAT16, BFLOAT16),
    'int8 weights, dynamic': Form(is_int8=True),
    '1 round of the camera head': Form(approximation=Approximation(camera_iterations=1)),
    '2 rounds of the camera head': Form(approximation=Approximation(camera_iterations=2)),
    'every 2nd key': Form(approximation=Approximation(key_stride=2)),
    'every 4th key': Form(approximation=Approximation(key_stride=4)),
    '1 global block local': Form(approximation=Approximation(local_blocks=1)),
    '2 global blocks local': Form(approximation=Approximation(local_blocks=2)),
    'bf16, every 2nd key': Form(BFLOAT16, approximation=Approximation(key_stride=2)),
}


@dataclass
class Tally:
    """What one form did so far."""

    seconds: float = 0.0
    errors: list[WindowErrors] = field(default_factory=list)
    depth_change: list[float] = field(default_factory=list)
    rotation_change: list[np.ndarray] = field(default_factory=list)


def run(form: StreamingVGGT, images: Tensor) -> tuple[Cameras, float]:
    """Estimate of a window, and processor seconds."""
    begin = time.thread_time()
    output = form.predict(form.encode(images), (images.shape[-2], images.shape[-1]))
    seconds = time.thread_time() - begin
    assert output.pose_encoding is not None
    assert output.depth is not None
    cam_from_world, K = decode_pose_encoding(output.pose_encoding[0].clone(), (images.shape[-2], images.shape[-1]))
    return Cameras(cam_from_world, K, output.depth[0].clone()), seconds


def compare(tally: Tally, found: Cameras, truth: Cameras, exact: Cameras) -> None:
    """Note the errors of one window."""
    tally.errors.append(window_errors(found, truth))
    changed = window_errors(found, exact)
    assert found.depth is not None
    assert exact.depth is not None
    scale = exact.depth.median() / found.depth.median()
    tally.depth_change.append(float(((found.depth * scale - exact.depth).abs() / exact.depth).median()))
    tally.rotation_change.append(changed.rotation_deg)


def table(tallies: dict[str, Tally]) -> str:
    """One row a form."""
    names = ('form', 'time', 'AbsRel', 'rotation [deg]', 'depth changes by', 'rotation changes by [deg]')
    rows = [f'| {" | ".join(names)} |', '|---' * len(names) + '|']
    for name, one in tallies.items():
        score = summarise(one.errors)
        cells = (
            name,
            f'{one.seconds / tallies["exact"].seconds:.2f}',
            f'{score.abs_rel:.4f}',
            f'{score.rotation_median_deg:.3f}',
            f'{np.median(one.depth_change):.1e}',
            f'{np.median(np.concatenate(one.rotation_change)):.1e}',
        )
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows)


def main() -> None:
    """Measure every form, and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--model', default='nano')
    parser.add_argument('--scenes', type=int, default=40)
    parser.add_argument('--frames', type=int, default=8)
    parser.add_argument('--only', nargs='+', choices=list(FORMS), default=list(FORMS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = {name: FORMS[name] for name in FORMS if name in arguments.only or name == 'exact'}
    built = {name: form.build(load_vggt(arguments.model, heads=('camera', 'depth'))) for name, form in wanted.items()}
    tallies = {name: Tally() for name in built}
    for seed in range(HELD_BACK_SEED, HELD_BACK_SEED + arguments.scenes):
        window = make_window(seed, arguments.frames)
        images, truth = window.images.float() / 255, Cameras(window.cam_from_world, window.K, window.depth)
        found = {name: run(form, images) for name, form in built.items()}
        for name, (cameras, seconds) in found.items():
            tallies[name].seconds += seconds
            compare(tallies[name], cameras, truth, found['exact'][0])
    print(
        f'{arguments.model}, {arguments.scenes} held-back windows of {arguments.frames}, {cpu_name()}, 1 thread, '
        f'torch {torch.__version__}, commit {commit()}\n\n{table(tallies)}'
    )


if __name__ == '__main__':
    main()
