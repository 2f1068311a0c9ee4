"""What bfloat16 and float16 weights cost in accuracy: the inference form against the plain one in float32.

    python -m benchmarks.precision                  # shipped weights on a folder of pictures
    python -m benchmarks.precision --model 1b       # released architecture, random weights

Depth is compared as a share of the exact depth, rotations as an angle, translations as a share of the window's extent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.forms import fill
from vggt import VGGT, StreamingVGGT, VGGTConfig, VGGTOutput, load_vggt
from vggt.preprocessing import resize_keeping_aspect, stack_window

PICTURES = Path(__file__).resolve().parents[1] / 'vggt_ros' / 'data' / 'cabinet' / 'rgb'


def main() -> None:
    """Print one row for each number format."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--model', default='nano', help="'1b' with random weights, or what load_vggt takes")
    parser.add_argument('--pictures', type=Path, default=PICTURES, help='folder of pictures of one size')
    parser.add_argument('--frames', type=int, default=8, help='frames of a window')
    parser.add_argument('--every', type=int, default=3, help='pictures from one frame to the next')
    parser.add_argument('--width', type=int, help='of the network; by default the one it was made for')
    arguments = parser.parse_args()
    exact_model = make_model(arguments.model)
    config = exact_model.config
    images = read_window(arguments, config)
    with torch.inference_mode():
        exact = exact_model(images)
    del exact_model
    print(f'{arguments.model}, S={len(images)}, H={images.shape[2]} W={images.shape[3]}\n')
    print('| weights | depth, median | depth, 99th percentile | rotation [deg] | translation |\n|---|---|---|---|---|')
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        stream = StreamingVGGT(make_model(arguments.model), dtype=dtype)
        output = stream.predict(stream.encode(images), (images.shape[2], images.shape[3]))
        cells = ' | '.join(f'{value:.1e}' for value in errors(output, exact))
        print(f'| {str(dtype).removeprefix("torch.")} | {cells} |', flush=True)


def make_model(name: str) -> VGGT:
    """Camera and depth heads only."""
    if name != '1b':
        return load_vggt(name, heads=('camera', 'depth'))
    with torch.device('meta'):
        model = VGGT(VGGTConfig().with_heads(('camera', 'depth')))
    filled: VGGT = fill(model.to_empty(device='cpu')).eval()
    return filled


def read_window(arguments: argparse.Namespace, config: VGGTConfig) -> Tensor:
    """[S, 3, H, W] from the pictures, in the order of their names."""
    from PIL import Image

    width = (arguments.width or config.image_size) // config.patch_size * config.patch_size
    paths = sorted(path for path in arguments.pictures.iterdir() if path.suffix in ('.jpg', '.png'))
    chosen = paths[:: arguments.every][: arguments.frames]
    pictures = [np.asarray(Image.open(path).convert('RGB')) for path in chosen]
    return stack_window([resize_keeping_aspect(picture, width, config.patch_size) for picture in pictures])


def errors(output: VGGTOutput, exact: VGGTOutput) -> list[float]:
    """Median and 99th percentile of depth, largest rotation in degrees, largest translation."""
    assert output.depth is not None
    assert exact.depth is not None
    relative = ((output.depth - exact.depth).abs() / exact.depth).flatten()
    (ours, _), (theirs, _) = output.cameras(), exact.cameras()
    between = ours[..., :3].double() @ theirs[..., :3].double().transpose(-1, -2)
    # The sine stays exact for small angles, where the cosine has no digits left.
    skew = (between - between.transpose(-1, -2)).flatten(-2).norm(dim=-1) / 8**0.5
    angle = torch.rad2deg(torch.asin(skew.clamp(max=1))).max().item()
    extent = theirs[..., 3].norm(dim=-1).max()
    translation = ((ours[..., 3] - theirs[..., 3]).norm(dim=-1) / extent).max().item()
    return [relative.median().item(), relative.quantile(0.99).item(), angle, translation]


if __name__ == '__main__':
    main()
