"""Which place has been seen before: one descriptor a frame, pooled from the network's own patch tokens, and those
themselves, thinned.

Source of the pooling: measured with nano on five rendered walks of 300 and 400 frames and two camera clips, what share
of the frames that come to a place again have a frame of it as their nearest: mean of all tokens 0.85, their mean and
spread 0.94, means over 3x4 cells 0.87 to 0.90, cells beside the spread 0.95.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

CELLS = (3, 4)  # rows and columns of means: what stands where, coarse enough for a camera that comes back aside
PROJECTED = 64  # of a cell's channels; distances stay to a tenth. Source: Johnson and Lindenstrauss, 1984
COLUMNS = 16  # of the patches kept of a frame; neighbours are averaged
CHANNELS = 32  # of a patch that is kept, random mixtures: shared_view of them and of all 192 correlate by 0.98
SLACK = 1  # patches: depth makes near ones move further than far ones
_SEED = 0


def describe(tokens: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """One descriptor for each frame.

    Args:
        tokens: [S, P, C] patch tokens of S frames, row by row.
        grid: (rows, columns) of patches; their product is P.

    Returns:
        [S, D] float32: means over CELLS of the projected tokens, then the spread of each channel over the frame.
    """
    S, P, C = tokens.shape
    rows, columns = grid
    if rows * columns != P:
        raise ValueError(f'tokens must be {rows} x {columns} a frame, got {P}')
    tokens = tokens.astype(np.float32)
    projection = np.random.default_rng(_SEED).standard_normal((C, PROJECTED)).astype(np.float32) / PROJECTED**0.5
    projected = (tokens @ projection).reshape(S, rows, columns, PROJECTED)
    row_of, column_of = (_bounds(count, cells) for count, cells in zip(grid, CELLS, strict=True))
    cells = [
        projected[:, top:bottom, left:right].mean(axis=(1, 2)) for top, bottom in row_of for left, right in column_of
    ]
    return np.concatenate([*cells, tokens.std(axis=1)], axis=1)


def thin_patches(tokens: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """What is kept of each frame's patches, for shared_view: at 12 x 16 patches 6 kB a frame.

    Args:
        tokens: [S, P, C] as describe takes them.
        grid: (rows, columns) of patches.

    Returns:
        [S, rows, columns, CHANNELS] int8 of at most COLUMNS columns: each channel by how far it is from its mean over
        the frame, in standard deviations, mixed.
    """
    S, _, C = tokens.shape
    tokens = tokens.astype(np.float32)
    tokens = (tokens - tokens.mean(axis=1, keepdims=True)) / (tokens.std(axis=1, keepdims=True) + np.float32(1e-6))
    mixture = np.random.default_rng(_SEED).standard_normal((C, CHANNELS)).astype(np.float32)
    mixed = (tokens @ mixture).reshape(S, *grid, CHANNELS)
    step = -(-grid[1] // COLUMNS)
    for axis, count in ((1, grid[0]), (2, grid[1])):
        mixed = np.add.reduceat(mixed, np.arange(0, count, step), axis=axis)
    largest = np.abs(mixed).max(axis=(1, 2, 3), keepdims=True) + np.float32(1e-6)
    return np.round(127 / largest * mixed).astype(np.int8)


def similarity(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """[N, M] how alike frames are, -1 to 1, against the background of all that was seen so far.

    What all frames have in common tells nothing: every number of a descriptor counts by how far it is from its mean
    over the old frames, in standard deviations. Cells and spread have half of the say each.

    Args:
        new, old: [N, D] and [M, D] descriptors.
    """
    split = CELLS[0] * CELLS[1] * PROJECTED
    old, new = old.astype(np.float32), new.astype(np.float32)
    mean, spread = old.mean(axis=0), old.std(axis=0) + np.float32(1e-6)
    new, old = (new - mean) / spread, (old - mean) / spread
    cells = _cosine(new[:, :split], old[:, :split])
    spreads = _cosine(new[:, split:], old[:, split:])
    return (cells + spreads) / 2


def shared_view(patches: np.ndarray, old: int) -> float:
    """Share of a frame's patches that another visit shows too, all shifted alike: the best quarter of frame pairs.

    Two patches belong together where each is the other's most alike; a place seen again moves them together, a wall of
    the same stuff elsewhere does not. On 71 true and 409 false pairs of places of five rendered walks, the false ones
    chosen to look as alike as can be, nano's patches reach 0.46 for 21 of the true and none of the false. Thin ones
    reach 0.48 for two false pairs of four such walks, of which the depths of both visits then disagree.

    Args:
        patches: [S, rows, columns, C] patches, thin or not, those of the old visit first.
        old: how many frames that visit has.
    """
    S, rows, columns, C = patches.shape
    flat = patches.astype(np.float32).reshape(-1, C)
    flat = (flat - flat.mean(axis=0)) / (flat.std(axis=0) + np.float32(1e-6))
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), np.float32(1e-9))
    frames = flat.reshape(S, rows * columns, C)
    v, u = np.mgrid[:rows, :columns]
    places = np.column_stack([u.ravel(), v.ravel()])
    shares = sorted(_shifted_alike(a, b, places) for a in frames[:old] for b in frames[old:])
    return float(np.mean(shares[-max(1, len(shares) // 4) :])) if shares else float('nan')


def _shifted_alike(a: np.ndarray, b: np.ndarray, places: np.ndarray) -> float:
    """Share of patches of a with a partner in b, all of them shifted by the same, give or take SLACK."""
    alike = a @ b.T
    partner = alike.argmax(axis=1)
    is_mutual = alike.argmax(axis=0)[partner] == np.arange(len(a))
    shift = (places[partner] - places)[is_mutual]
    # of a shift's histogram the fullest neighbourhood: as good as the best centre, and linear in the patches
    span = np.ptp(places, axis=0) + 1
    counts = np.zeros(tuple(2 * span + 1), dtype=int)
    np.add.at(counts, tuple((shift + span).T), 1)
    sums = sum(np.roll(counts, (i, j), axis=(0, 1)) for i in range(-SLACK, SLACK + 1) for j in range(-SLACK, SLACK + 1))
    return float(np.max(sums)) / len(a)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), np.float32(1e-9)) for one in (a, b))
    return a @ b.T


def _bounds(count: int, cells: int) -> list[tuple[int, int]]:
    """Where `count` rows fall apart into cells, at least one row each; with fewer rows than cells some are shared."""
    edges = np.linspace(0, count, cells + 1)
    return [(int(np.floor(a)), max(int(np.floor(a)) + 1, int(np.floor(b)))) for a, b in pairwise(edges)]
