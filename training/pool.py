"""Rendered windows on disk: producers fill slots in the background, the training loop draws from those that are ready.

Slot i holds the window of seed i, so a pool is a cache and never a source of truth: delete it and it comes back.

    python -m training.pool runs/pool --windows 12000 --worker 0/2 &
    python -m training.pool runs/pool --windows 12000 --worker 1/2 &
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from training.windows import HELD_BACK_SEED, IMAGE_SIZE, SCENERY, Window, make_window

FRAMES = 8


class Pool:
    """A folder of memory-mapped arrays with one slot per seed.

    Args:
        path: folder; made when `windows` is given and it does not exist.
        windows: number of slots; None opens an existing pool.
        image_size: (H, W) of a new pool.

    Raises:
        ValueError: the slots would reach into the held-back seeds.
    """

    def __init__(self, path: Path, windows: int | None = None, image_size: tuple[int, int] = IMAGE_SIZE) -> None:
        if windows is not None and windows > HELD_BACK_SEED:
            raise ValueError(f'a pool holds seeds below {HELD_BACK_SEED}, got {windows} windows')
        path.mkdir(parents=True, exist_ok=True)
        if windows is not None and not (path / 'ready.npy').exists():
            H, W = image_size
            for name, dtype, shape in (
                ('images', np.uint8, (3, H, W)),
                ('depth', np.float16, (H, W)),
                ('cam_from_world', np.float32, (3, 4)),
                ('K', np.float32, (3, 3)),
            ):
                np.lib.format.open_memmap(path / f'{name}.npy', 'w+', dtype, (windows, FRAMES, *shape)).flush()
            np.lib.format.open_memmap(path / 'ready.npy', 'w+', np.uint8, (windows,)).flush()  # last: it marks the rest
        self._arrays = {name: np.load(path / f'{name}.npy', mmap_mode='r+') for name in _NAMES}
        self._ready = np.load(path / 'ready.npy', mmap_mode='r+')

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of every picture in the pool."""
        return self._arrays['images'].shape[-2:]

    def ready(self) -> np.ndarray:
        """Slots that can be read now, ascending."""
        return np.flatnonzero(np.array(self._ready))  # a copy: producers go on marking slots meanwhile

    def turn(self, slots: np.ndarray) -> np.ndarray:
        """[N] angle in radians between the first and the last optical axis of windows."""
        axes = self._arrays['cam_from_world'][slots][:, (0, -1), 2, :3]
        return np.arccos((axes[:, 0] * axes[:, 1]).sum(-1).clip(-1, 1))

    def write(self, slot: int, window: Window) -> None:
        """Fill a slot; only then mark it ready."""
        for name in _NAMES:
            self._arrays[name][slot] = getattr(window, name).numpy()
        self._ready[slot] = 1

    def read(self, slots: np.ndarray, frames: np.ndarray, device: torch.device | str = 'cpu') -> Window:
        """Gather frames of several windows.

        Args:
            slots: [B] slots that are ready.
            frames: [B, S] which frames of each.
            device: where they go, before depth gets wider.

        Returns:
            A window whose tensors have a batch axis: images [B, S, 3, H, W] uint8 and so on; depth is float32.
        """
        gathered = {name: torch.from_numpy(self._arrays[name][slots[:, None], frames]).to(device) for name in _NAMES}
        gathered['depth'] = gathered['depth'].float()
        return Window(**gathered)


_NAMES = ('images', 'depth', 'cam_from_world', 'K')


def main() -> None:
    """Fill the slots of one worker, in order, skipping those that are ready."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('path', type=Path)
    parser.add_argument('--windows', type=int, default=12_000, help='slots of a new pool, 0.55 MB each')
    parser.add_argument('--begin', type=int, default=0, help='first slot to fill, to train on windows not seen before')
    parser.add_argument('--worker', default='0/1', help='this worker and the number of workers, such as 0/2')
    parser.add_argument('--scenery', nargs='+', choices=SCENERY, default=['furnished'], help='of the slots, by lot')
    parser.add_argument('--device', default='cpu')
    arguments = parser.parse_args()
    worker, workers = (int(part) for part in arguments.worker.split('/'))
    torch.set_num_threads(1)
    pool = Pool(arguments.path, arguments.windows)
    done = set(pool.ready().tolist())
    for slot in range(arguments.begin + worker, arguments.windows, workers):
        if slot not in done:
            # By lot: in turns, the workers would each get kinds of their own, and the slow kinds fall behind.
            scenery = arguments.scenery[np.random.default_rng([slot, 1]).integers(len(arguments.scenery))]
            pool.write(slot, make_window(slot, FRAMES, pool.image_size, arguments.device, scenery))


if __name__ == '__main__':
    main()
