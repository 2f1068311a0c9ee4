"""Scale error of each source of metres on a rendered walk, with the shipped network or a simulated one.

    python -m benchmarks.rendered_scale --seed 3                       # 300 pictures round a room, nano
    python -m benchmarks.rendered_scale --seed 3 --network simulated   # a network that errs as a good one does
    python -m benchmarks.rendered_scale --seed 3 --json                # one JSON object

Method: the walk of benchmarks.rendered_loop, loop closure off, every picture a keyframe, true K; the other sensors are
those of benchmarks.metric, the depth camera seeing the true depth with 1 % of noise. The network is asked once, all
sources judge the same answers. Scale error: of the way as known in the end, against the truth; where the scale is not
locked, there are no metres to be judged, and the row says why.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.loops import RenderedWalk
from benchmarks.metric import SOURCES, run_with
from benchmarks.rendered_loop import Remembering
from benchmarks.simulated import Errors, SimulatedPredictor
from vggt_ros.core.config import Config
from vggt_ros.core.predictor import Predictor, make_predictor
from vggt_ros.results.evaluate import evaluate

CONFIG = Config().with_values({'loop_closure': False, 'voxel_size': 0.2, 'cloud_stride': 4, 'path_max_size': 1})


def measure(walk: RenderedWalk, predictor: Predictor, seed: int) -> dict[str, Any]:
    """State, scale error and ATE by source."""
    remembering = Remembering(predictor)
    row: dict[str, Any] = {'walk': walk.name, 'frames': len(walk), 'way': walk.reference.path_length}
    for method, source in SOURCES.items():
        found = run_with(walk, remembering, seed, CONFIG, method)
        assert found is not None
        way, report = found
        result = evaluate(way, walk.reference, tolerance_ns=0)
        row[source] = {
            'state': report.state.value,
            'scale_error': abs(1 / result.scale - 1) if report.is_metric else None,
            'ate_se3': result.ate_se3 if report.is_metric else None,
            'ate_sim3': result.ate_sim3,
            'agreeing': report.agreeing,
            'windows': report.observations,
            'silent': report.silent,
            'says': report.describe(),
        }
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--frames', type=int, default=300)
    parser.add_argument('--network', default='nano', help='simulated, or what model_id takes')
    parser.add_argument('--json', action='store_true', help='one JSON object, and nothing else')
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    walk = RenderedWalk(arguments.seed, arguments.frames)
    row = measure(walk, _predictor(arguments.network, walk, arguments.seed), arguments.seed)
    print(json.dumps(row) if arguments.json else table(row))
    return 0


def table(row: dict[str, Any]) -> str:
    """One line a source."""
    lines = [
        '| source | windows that agree | scale error | SE(3) ATE [m] | Sim(3) ATE [m] | |',
        '|---|---|---|---|---|---|',
    ]
    for source in SOURCES.values():
        one = row[source]
        error, se3 = one['scale_error'], one['ate_se3']
        cells = (
            source,
            f'{one["agreeing"]} of {one["windows"]}, {one["silent"]} silent',
            '-' if error is None else f'{100 * error:.1f} %',
            '-' if se3 is None else f'{se3:.3f}',
            f'{one["ate_sim3"]:.3f}',
            one['says'],
        )
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _predictor(network: str, walk: RenderedWalk, seed: int) -> Predictor:
    if network == 'simulated':
        return SimulatedPredictor(walk, seed, Errors())
    return make_predictor(Config().with_values({'model_id': network, 'device': 'cpu'}))


if __name__ == '__main__':
    sys.exit(main())
