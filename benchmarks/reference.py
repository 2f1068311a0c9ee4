"""Upstream's network, used as its README says, on windows of a few sizes; for the part `reference` of benchmarks.gpu.

    python -m benchmarks.reference ~/src/vggt runs/reference --device cuda

Weights in float32, torch.no_grad, autocast in bfloat16; camera, depth and point heads on every frame, images in float32
on the device. It is a process of its own, since upstream's package is called vggt as ours is; so nothing here imports
that. Into the folder go runs.json, after every window, and of each window the outputs, for others to compare with. The
first window runs in float32 without TF32 as well, once.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.forms import Workload, build_reference
from benchmarks.timing import exact_products, peak_gb, timed, weights_gb

RUNS = 'runs.json'


@dataclass(frozen=True)
class ReferenceRun:
    """What a window cost; see benchmarks.timing for how it is measured.

    Args:
        frames: of the window.
        dtype: of the large products.
        seconds: of each run; none where only the outputs were asked for.
        peak_gb: above the weights; nan where torch does not count it.
        weights_gb: of all parameters.
    """

    frames: int
    dtype: str
    seconds: list[float]
    peak_gb: float
    weights_gb: float

    @property
    def middle_s(self) -> float:
        """The median."""
        return statistics.median(self.seconds)


def read_runs(folder: Path) -> list[ReferenceRun]:
    """Those that came to their end."""
    path = folder / RUNS
    return [ReferenceRun(**one) for one in json.loads(path.read_text())] if path.is_file() else []


def read_outputs(folder: Path, run: ReferenceRun, device: torch.device) -> dict[str, Tensor]:
    """'pose_encoding' [B, S, 9] and 'depth' [B, S, H, W]."""
    outputs: dict[str, Tensor] = torch.load(_outputs(folder, run), map_location=device, weights_only=True)
    return outputs


def _outputs(folder: Path, run: ReferenceRun) -> Path:
    return folder / f'{run.frames}_{run.dtype}.pt'


@torch.no_grad()
def main() -> None:
    """Measure every window."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('reference', type=Path, help='a checkout of facebookresearch/vggt')
    parser.add_argument('folder', type=Path, help='for what is found')
    parser.add_argument('--frames', type=int, nargs='+', default=[8, 16])
    parser.add_argument('--height', type=int, default=392)
    parser.add_argument('--width', type=int, default=518)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--blocks', type=int, default=0, help='so many of its 24 of each kind')
    parser.add_argument('--repeats', type=int, default=20)
    parser.add_argument('--seconds', type=float, default=2.0, help='of a window, its warm-up apart')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.folder.mkdir(parents=True, exist_ok=True)
    sizes = (given.height, given.width, given.frames[0], given.frames[0])
    workload = Workload(*sizes, 'bfloat16', given.device, '1b', given.blocks)
    model, _ = build_reference(workload, given.reference)
    device, runs = torch.device(given.device), []
    for frames, dtype in (*((frames, 'bfloat16') for frames in given.frames), (given.frames[0], 'float32')):
        window = replace(workload, frames=frames, stride=frames, dtype=dtype)
        images = window.images()

        def call(window: Workload = window, images: Tensor = images) -> dict[str, Tensor]:
            with window.autocast():
                return model(images)

        if dtype == 'float32':
            with exact_products():
                output, taken, peak = call(), [], float('nan')
        else:
            taken, peak, output = timed(call, device, given.repeats, given.seconds), peak_gb(call, device), call()
        run = ReferenceRun(frames, dtype, taken, peak, weights_gb(model))
        kept = {'pose_encoding': output['pose_enc'], 'depth': output['depth'].squeeze(-1)}
        torch.save({name: value.float().cpu() for name, value in kept.items()}, _outputs(given.folder, run))
        del output, kept
        runs.append(run)
        (given.folder / RUNS).write_text(json.dumps([asdict(one) for one in runs]))


if __name__ == '__main__':
    main()
