"""What mask_moving leaves out, on real RGB-D sequences under a simulated network: of the room, and of who walks by.

    python -m benchmarks.moving SEQUENCE...

SEQUENCE is a folder as benchmarks.trajectory takes it.

Method: windows of 8 frames, stride 4, true depth and poses spoilt as in benchmarks.simulated, no outliers. `of the
room` is the share of known pixels of new frames that are taken for moving though nothing moves. `of a passer-by`: the
same windows with an upright board put in at 0.6 of the median depth, a sixth of the picture wide, that crosses the
picture by the given share of its own width a frame; the share of its pixels that are found.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.simulated import Errors, RgbdSequence, SimulatedPredictor
from benchmarks.trajectory import load
from vggt_ros.core.errors import VggtRosError
from vggt_ros.core.motion import moving_pixels
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.window import Window

SIZE, STRIDE = 8, 4
BOARD, NEARER = 1 / 6, 0.6  # width as a share of the picture's, depth as a share of the median
SPEEDS = (0.25, 0.5, 1.0)  # widths a frame
TIMES = (1.0, 2.0)  # of the errors of the simulated network


def row(sequence: RgbdSequence, times: float) -> str:
    """A line of the table."""
    plain = Errors()
    errors = dataclasses.replace(
        plain,
        depth=times * plain.depth,
        rotation_deg=times * plain.rotation_deg,
        translation=times * plain.translation,
        outliers=0.0,
    )
    room, seconds = [], 0.0
    board: dict[float, list[float]] = {speed: [] for speed in SPEEDS}
    for start in range(0, len(sequence) - SIZE, STRIDE):
        window = Window(tuple(sequence.frames[start : start + SIZE]), STRIDE)
        prediction = SimulatedPredictor(sequence, start, errors).predict(window)
        before = time.process_time()
        found = moving_pixels(prediction, STRIDE)
        seconds += time.process_time() - before
        room.append(found[np.isfinite(prediction.depth[STRIDE:])].mean())
        for speed in SPEEDS:
            crossed, is_board = with_board(prediction, speed)
            board[speed].append(moving_pixels(crossed, STRIDE)[is_board[STRIDE:]].mean())
    cells = [sequence.name, f'{times:g}', f'{100 * np.mean(room):.2f} %', f'{100 * max(room):.1f} %']
    cells += [f'{100 * np.mean(board[speed]):.0f} %' for speed in SPEEDS]
    return f'| {" | ".join([*cells, f"{1000 * seconds / len(room):.1f}"])} |'


def with_board(prediction: Prediction, speed: float) -> tuple[Prediction, np.ndarray]:
    """A window with a board that crosses it, and [S, h, w] where it is."""
    count, height, width = prediction.depth.shape
    wide = round(BOARD * width)
    is_board = np.zeros(prediction.depth.shape, bool)
    for i in range(count):
        left = round((width - wide) / 2 + (i - count / 2) * speed * wide)
        is_board[i, height // 6 :, max(0, left) : max(0, left + wide)] = True
    depth = np.where(is_board, np.float32(NEARER * np.nanmedian(prediction.depth)), prediction.depth)
    return dataclasses.replace(prediction, depth=depth), is_board


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; 2 where a folder cannot be used."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('sequences', nargs='+', type=Path, metavar='SEQUENCE')
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.CRITICAL)
    torch.set_num_threads(1)
    speeds = [f'of a passer-by, {speed:g} widths a frame' for speed in SPEEDS]
    header = ('sequence', 'errors times', 'of the room', 'worst window', *speeds, 'ms a window')
    print(f'| {" | ".join(header)} |\n{"|---" * len(header)}|')
    try:
        for folder in arguments.sequences:
            sequence = load(folder)
            for times in TIMES:
                print(row(sequence, times), flush=True)
    except VggtRosError as error:
        print(f'benchmarks.moving: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
