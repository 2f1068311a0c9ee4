"""How good nano is on scenes and sequences that it was never trained on.

    python -m training.evaluate --seed 1000000 --scenes 200          # tables
    python -m training.evaluate --seed 1000000 --scenes 200 --json   # one JSON object, procedural scenes only
    python -m training.evaluate --scenes 100 --scenery home          # rooms of another kind
    python -m training.evaluate --scenes 0 --sequences ../shared/data

Depth is scaled by the medians of each window; angles are those of all pairs of frames. 'adjusted' is the same answer
after bundle adjustment, as the pipeline does it with the first window of a camera without calibration.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.metrics import Cameras, Score, WindowErrors, summarise, table, trivial_estimate, window_errors
from training.sequences import load_windows
from training.state import load_average
from training.windows import HELD_BACK_SEED, IMAGE_SIZE, SCENERY, make_window
from vggt import VGGT
from vggt.pose_encoding import decode_pose_encoding
from vggt.weights import load_vggt
from vggt_ros.core.bundle.adjustment import Geometry, adjust

# Frames between those that are used: about as much motion as a robot's keyframes have.
SEQUENCES = {'redkitchen_clip': 4, 'redwood_micro': 1, 'strecha_fountain_p11': 1, 'tum_fr3_cabinet': 1}
NO_DEPTH_SCENE_M = {'strecha_fountain_p11': 8.0}  # about how far the fountain is from the cameras


@torch.inference_mode()
def estimate(model: VGGT, images: Tensor) -> Cameras:
    """Run the model on one window [S, 3, H, W] in [0, 1]."""
    output = model(images)
    cam_from_world, K = decode_pose_encoding(output.pose_encoding[0], (images.shape[-2], images.shape[-1]))
    return Cameras(cam_from_world, K, output.depth[0])


def pixels_of(images: Tensor) -> np.ndarray:
    """[S, 3, H, W] in [0, 1] -> [S, H, W, 3] uint8."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def adjusted(images: Tensor, said: Cameras) -> Cameras:
    """What bundle adjustment makes of an answer to one window [S, 3, H, W] in [0, 1] with one K for all frames."""
    assert said.depth is not None
    cam_from_world = np.tile(np.eye(4), (len(images), 1, 1))
    cam_from_world[:, :3] = said.cam_from_world.numpy()
    K = np.tile(np.median(said.K.double().numpy(), axis=0), (len(images), 1, 1))
    mended = adjust(pixels_of(images), Geometry(cam_from_world, K, said.depth.numpy()), is_focal_known=False)
    if mended is None:
        return said
    geometry = mended.geometry
    poses, intrinsics = (torch.from_numpy(one).float() for one in (geometry.cam_from_window[:, :3], geometry.K))
    return Cameras(poses, intrinsics, torch.from_numpy(geometry.depth))


def evaluate_scenes(
    model: VGGT,
    seeds: Iterable[int],
    frames: int = 8,
    image_size: tuple[int, int] = IMAGE_SIZE,
    scenery: str = 'furnished',
) -> dict[str, Score]:
    """Scores of the model ('nano'), of it 'adjusted', and of the trivial answer ('baseline') on procedural scenes."""
    errors: dict[str, list[WindowErrors]] = {'nano': [], 'adjusted': [], 'baseline': []}
    for seed in seeds:
        window = make_window(seed, frames, image_size, scenery=scenery)
        truth = Cameras(window.cam_from_world, window.K, window.depth)
        images = window.images.float() / 255
        said = estimate(model, images)
        errors['nano'].append(window_errors(said, truth))
        errors['adjusted'].append(window_errors(adjusted(images, said), truth))
        errors['baseline'].append(window_errors(trivial_estimate(truth, image_size), truth))
    return {name: summarise(found) for name, found in errors.items()}


def evaluate_sequence(model: VGGT, folder: Path) -> dict[str, Score]:
    """The same on one real sequence."""
    errors: dict[str, list[WindowErrors]] = {'nano': [], 'adjusted': [], 'baseline': []}
    width, patch_size = model.config.image_size, model.config.patch_size
    for window in load_windows(folder, width, patch_size, gap=SEQUENCES.get(folder.name, 1)):
        far = NO_DEPTH_SCENE_M.get(folder.name)
        said = estimate(model, window.images)
        errors['nano'].append(window_errors(said, window.truth, far))
        errors['adjusted'].append(window_errors(adjusted(window.images, said), window.truth, far))
        trivial = trivial_estimate(window.truth, (window.images.shape[-2], window.images.shape[-1]))
        errors['baseline'].append(window_errors(trivial, window.truth, far))
    return {name: summarise(found) for name, found in errors.items()}


def main() -> None:
    """Command line; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=HELD_BACK_SEED, help='first scene')
    parser.add_argument('--scenes', type=int, default=200)
    parser.add_argument('--scenery', choices=SCENERY, default='furnished', help='of the scenes')
    parser.add_argument('--json', action='store_true', help='print one object and nothing else')
    parser.add_argument('--weights', default='nano', help='shipped name or file, as load_vggt takes it')
    parser.add_argument('--run', type=Path, help='evaluate the averaged weights of this training run instead')
    parser.add_argument('--sequences', type=Path, help='folder of real ones; default: ../shared/data')
    parser.add_argument('--threads', type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.run:
        model, step = load_average(arguments.run)
        print(f'{arguments.run}, step {step}', file=sys.stderr)
    else:
        model = load_vggt(arguments.weights)
    seeds = range(arguments.seed, arguments.seed + arguments.scenes)
    if arguments.json:
        scores = evaluate_scenes(model, seeds, scenery=arguments.scenery)
        print(json.dumps({name: asdict(score) for name, score in scores.items()}))
        return
    if arguments.scenes:
        print(f'{arguments.scenes} procedural scenes ({arguments.scenery}) from seed {arguments.seed}, windows of 8')
        print(table(evaluate_scenes(model, seeds, scenery=arguments.scenery)), flush=True)
    sequences = arguments.sequences or Path(__file__).parents[1] / '../shared/data'
    for folder in sorted(sequences.glob('*/camera.json')):
        print(f'\n{folder.parent.name}')
        print(table(evaluate_sequence(model, folder.parent)), flush=True)


if __name__ == '__main__':
    main()
