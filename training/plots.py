"""Pictures of a run: curves of the losses, and depth beside the truth on a scene that is not trained on.

python -m training.plots runs/nano      # writes curves.png and sample.png there; the training loop does it too
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch

from training.windows import HELD_BACK_SEED, make_window
from vggt import VGGT

_SAMPLE_SEED = 2 * HELD_BACK_SEED  # not one of those that the evaluation uses
_CURVES = (
    'loss', 'rotation', 'translation', 'fov', 'depth_plain', 'depth_gradient',
    'patches_matched', 'matched', 'attention', 'place', 'point', 'norm',
)  # fmt: skip


def plot_curves(run: Path) -> None:
    """Draw every logged quantity over the steps, smoothed over 1 % of them, to curves.png."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot

    lines = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    figure, axes = pyplot.subplots(3, 4, figsize=(16, 9), sharex=True)
    window = max(1, len(lines) // 100)
    for axis, name in zip(axes.flat, _CURVES, strict=True):
        points = np.array([(line['step'], line[name]) for line in lines if name in line]).reshape(-1, 2)
        if len(points) >= window:
            smooth = np.convolve(points[:, 1], np.ones(window) / window, mode='valid')
            axis.plot(points[window - 1 :, 0], smooth, linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(run / 'curves.png', dpi=80)
    pyplot.close(figure)


@torch.no_grad()
def draw_sample(model: VGGT, path: Path, seed: int = _SAMPLE_SEED) -> None:
    """Draw a window's pictures, its true depth, the estimated depth and the confidence, one row each."""
    window = make_window(seed)
    output = model(window.images.float() / 255)
    if output.depth is None or output.depth_confidence is None:
        raise ValueError('a sample picture needs a model with a depth head')
    estimate = output.depth[0] * (window.depth.median() / output.depth[0].median())
    far = float(window.depth.max())
    rows = [
        np.concatenate(list(window.images.permute(0, 2, 3, 1).numpy()), axis=1)[..., ::-1],
        _coloured(window.depth, far),
        _coloured(estimate, far),
        _coloured(output.depth_confidence[0].log(), float(output.depth_confidence.log().max())),
    ]
    cv2.imwrite(str(path), np.concatenate(rows))


def _coloured(values: torch.Tensor, largest: float) -> np.ndarray:
    grey = (values / max(largest, 1e-6)).clamp(0, 1).mul(255).byte().numpy()
    return cv2.applyColorMap(np.concatenate(list(grey), axis=1), cv2.COLORMAP_TURBO)


def main() -> None:
    """Command line; see the head of this file."""
    from training.state import load_average

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', type=Path)
    run = parser.parse_args().run
    plot_curves(run)
    draw_sample(load_average(run)[0], run / 'sample.png')


if __name__ == '__main__':
    main()
