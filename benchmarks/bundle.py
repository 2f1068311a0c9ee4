"""What bundle adjustment makes of nano's answer, beside what matching without a network gives, and what it costs.

    python -m benchmarks.bundle                    # 20 held-back scenes
    python -m benchmarks.bundle --scenes 40 --scenery home

Method: windows of 8 at the size nano was trained on, true depth and poses. `network`: its answer. `one pass` and
`adjusted`: after one and after both passes of the adjustment. `flow without the network`: the same solver, but frames
matched as they are instead of laid upon each other (as for a camera that stands: DIS has to find all of the shift).
`essential matrix`: no network at all, and the true K: SIFT, ratio test, RANSAC (OpenCV) for each pair of frames by
itself; pairs with fewer than eight matches count as no motion. Errors as training.evaluate has them. Milliseconds a
window, wall time of one thread, median and the range of the middle half; the ratio is to the network's own time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import commit, cpu_name
from training.evaluate import adjusted, estimate, pixels_of
from training.metrics import Cameras, WindowErrors, summarise, window_errors
from training.windows import SCENERY, make_window
from vggt.weights import load_vggt
from vggt_ros.core.bundle import adjustment

FIRST_SCENE = 2_000_000
RATIO = 0.8  # of Lowe's test


def one_pass(images: Tensor, said: Cameras) -> Cameras:
    """The adjustment without its second pass."""
    passes, adjustment.PASSES = adjustment.PASSES, 1
    try:
        return adjusted(images, said)
    finally:
        adjustment.PASSES = passes


def flow_alone(images: Tensor, said: Cameras) -> Cameras:
    """The solver on matches of the frames as they are."""
    match_frames = adjustment.match_frames

    def match_as_they_are(image: np.ndarray, poses: np.ndarray, K: np.ndarray, depth: np.ndarray) -> object:
        return match_frames(image, np.tile(np.eye(4), (len(poses), 1, 1)), K, np.ones_like(depth))

    adjustment.match_frames = match_as_they_are  # type: ignore[assignment]
    try:
        return one_pass(images, said)
    finally:
        adjustment.match_frames = match_frames


def essential_pairs(images: Tensor, truth: Cameras) -> list[np.ndarray]:
    """[4, 4] second_from_first of every pair of frames by their essential matrix, shifts of unit length."""
    sift, matcher = cv2.SIFT.create(), cv2.BFMatcher()
    grey = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in pixels_of(images)]
    seen = [sift.detectAndCompute(one, np.full_like(one, 255)) for one in grey]
    K = truth.K[0].double().numpy()
    poses = []
    for first, second in combinations(range(len(grey)), 2):
        pose = np.eye(4)
        (here, a), (there, b) = seen[first], seen[second]
        pairs = matcher.knnMatch(a, b, k=2) if a is not None and b is not None else []
        good = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < RATIO * pair[1].distance]
        if len(good) >= 8:
            p, q = np.array([here[m.queryIdx].pt for m in good]), np.array([there[m.trainIdx].pt for m in good])
            essential, inliers = cv2.findEssentialMat(p, q, K, cv2.RANSAC, 0.999, 1.0)
            if essential is not None and essential.shape == (3, 3):
                _, pose[:3, :3], shift, _ = cv2.recoverPose(essential, p, q, K, mask=inliers)
                pose[:3, 3] = shift[:, 0]
        poses.append(pose)
    return poses


def pair_errors(poses: list[np.ndarray], truth: Cameras) -> WindowErrors:
    """Errors of second_from_first of every pair, each judged as a window of two."""
    mean_depth = float(truth.depth.mean()) if truth.depth is not None else None
    rotation, direction = [], []
    for pose, pair in zip(poses, combinations(range(len(truth.K)), 2), strict=True):
        index = list(pair)
        both = torch.from_numpy(np.stack([np.eye(4), pose])[:, :3]).float()
        true = Cameras(truth.cam_from_world[index], truth.K[index], None)
        errors = window_errors(Cameras(both, truth.K[index], None), true, mean_depth)
        rotation.append(errors.rotation_deg)
        direction.append(errors.direction_deg)
    nan = float('nan')
    return WindowErrors(nan, nan, np.concatenate(rotation), np.concatenate(direction), np.full(len(truth.K), nan))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--scenes', type=int, default=20)
    parser.add_argument('--scenery', choices=SCENERY, default='furnished')
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    model = load_vggt('nano')
    ways: dict[str, Callable[[Tensor, Cameras], Cameras]] = {
        'flow without the network': flow_alone,
        'one pass': one_pass,
        'adjusted': adjusted,
    }
    errors: dict[str, list[WindowErrors]] = {name: [] for name in ('essential matrix', 'network', *ways)}
    taken: dict[str, list[float]] = {name: [] for name in errors}
    for seed in range(FIRST_SCENE, FIRST_SCENE + arguments.scenes):
        window = make_window(seed, scenery=arguments.scenery)
        truth, images = Cameras(window.cam_from_world, window.K, window.depth), window.images.float() / 255
        with _clock(taken['network']):
            said = estimate(model, images)
        errors['network'].append(window_errors(said, truth))
        with _clock(taken['essential matrix']):
            pairs = essential_pairs(images, truth)
        errors['essential matrix'].append(pair_errors(pairs, truth))
        for name, way in ways.items():
            with _clock(taken[name]):
                mended = way(images, said)
            errors[name].append(window_errors(mended, truth))
    windows = f'{arguments.scenes} held-back windows of 8 ({arguments.scenery})'
    print(f'{windows}, {cpu_name()}, one thread, commit {commit()}')
    print('| | AbsRel | rotation | direction | AUC 5 | AUC 30 | focal | ms a window | of the network |')
    print('|---|---|---|---|---|---|---|---|---|')
    network_s = float(np.median(taken['network']))
    for name, of_windows in errors.items():
        score, (low, middle, high) = summarise(of_windows), np.percentile(taken[name], (25, 50, 75))
        depth, focal = ('-' if np.isnan(value) else f'{value:.3f}' for value in (score.abs_rel, score.focal_error))
        cells = (
            name,
            depth,
            f'{score.rotation_median_deg:.2f}',
            f'{score.direction_median_deg:.2f}',
            f'{score.auc5:.3f}',
            f'{score.auc30:.3f}',
            focal,
            f'{1e3 * middle:.0f} ({1e3 * low:.0f} to {1e3 * high:.0f})',
            f'{middle / network_s:.2f}',
        )
        print(f'| {" | ".join(cells)} |')
    return 0


@contextmanager
def _clock(taken: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    taken.append(time.perf_counter() - start)


if __name__ == '__main__':
    sys.exit(main())
