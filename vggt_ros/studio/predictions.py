"""Predictions: what the network said of all frames of an upload, in the frame of the first camera; npz and back."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vggt_ros.core.errors import SourceError
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, unproject_depth

EXCESS = 'depth_conf_minus_1'


@dataclass(frozen=True, eq=False)
class Predictions:
    """S frames on one pixel grid [H, W]. The world is the optical frame of the first camera.

    Args:
        names: S short names of the frames, for people.
        stamps_ns: [S] int64 stamps.
        images: [S, H, W, 3] uint8 RGB.
        depth: [S, H, W] float32 along the optical axis, world units; NaN where unknown.
        confidence: [S, H, W] float32, at least 1; NaN where unknown.
        cam_from_world: [S, 4, 4] rigid.
        K: [S, 3, 3] intrinsics of this grid, pixel centres at integers.
        world_points, world_points_confidence: [S, H, W, 3] and [S, H, W] of the point head; None where the model has
            none.
        map_from_world: [4, 4] rigid: the world in the map of the node (x forward, z up).
        unit: name of the length unit: 'm', or 'units' where metres are not known.
    """

    names: tuple[str, ...]
    stamps_ns: np.ndarray
    images: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    cam_from_world: np.ndarray
    K: np.ndarray
    world_points: np.ndarray | None = None
    world_points_confidence: np.ndarray | None = None
    map_from_world: np.ndarray = field(default_factory=BODY_FROM_OPTICAL.copy)
    unit: str = 'units'

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_points(self) -> bool:
        """Whether the model has a point head."""
        return self.world_points is not None

    def points_from_depth(self, frame: int) -> np.ndarray:
        """[H, W, 3] float64 points of a frame in the world: depth lifted through its camera."""
        R, t = self.cam_from_world[frame, :3, :3], self.cam_from_world[frame, :3, 3]
        in_camera = unproject_depth(self.depth[frame].astype(np.float64), self.K[frame])
        return (in_camera - t) @ R  # R^-1 (p - t), row by row

    def to_npz(self, *, compact: bool = False) -> bytes:
        """The file that the original demo calls predictions.npz, with names, stamps and unit beside it.

        Where nothing is known depth is 0 and its confidence 0, which every reader's threshold drops.

        Args:
            compact: a fifth of the size, for read_predictions alone: 8-bit images, half precision, no points.

        Source: docs/network_facts.md, sec. 10; there `pose_enc_list` is a pickled object, which we leave out.
        """
        unknown = ~np.isfinite(self.depth)
        arrays: dict[str, np.ndarray] = {
            'images': self.images,
            'depth': np.where(unknown, 0, self.depth)[..., None].astype(np.float16 if compact else np.float32),
            'depth_conf': np.where(unknown, 0, self.confidence).astype(np.float32),
            'extrinsic': self.cam_from_world[:, :3].astype(np.float32),
            'intrinsic': self.K.astype(np.float32),
            'names': np.array(self.names),
            'stamps_ns': self.stamps_ns,
            'map_from_world': self.map_from_world,
            'unit': np.array(self.unit),
        }
        if compact:
            # What is above the least confidence of 1, which is little: half precision beside 1 would lose it.
            arrays[EXCESS] = np.where(unknown, -1, arrays.pop('depth_conf') - 1).astype(np.float16)
        else:
            arrays |= self._large(unknown)
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()

    def _large(self, unknown: np.ndarray) -> dict[str, np.ndarray]:
        """Images in the network's form, and the points."""
        points = np.stack([self.points_from_depth(i) for i in range(len(self))])
        arrays: dict[str, np.ndarray] = {
            'images': np.moveaxis(self.images, -1, 1).astype(np.float32) / 255,
            'world_points_from_depth': np.where(unknown[..., None], 0, points).astype(np.float32),
        }
        if self.world_points is not None and self.world_points_confidence is not None:
            arrays['world_points'] = self.world_points.astype(np.float32)
            arrays['world_points_conf'] = self.world_points_confidence.astype(np.float32)
        return arrays


def read_predictions(path: Path) -> Predictions:
    """Read what `to_npz` wrote; nothing is unpickled.

    Raises:
        SourceError: another file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        conf = arrays[EXCESS].astype(np.float32) + 1 if EXCESS in arrays else arrays['depth_conf']
        images = arrays['images']
        if images.dtype != np.uint8:
            images = np.moveaxis((images * 255).round().astype(np.uint8), 1, -1)
        unknown = conf <= 0
        cam_from_world = np.tile(np.eye(4), (len(conf), 1, 1))
        cam_from_world[:, :3] = arrays['extrinsic']
        return Predictions(
            names=tuple(str(name) for name in arrays['names']),
            stamps_ns=arrays['stamps_ns'],
            images=images,
            depth=np.where(unknown, np.float32('nan'), arrays['depth'][..., 0].astype(np.float32)),
            confidence=np.where(unknown, np.float32('nan'), conf),
            cam_from_world=cam_from_world,
            K=arrays['intrinsic'].astype(np.float64),
            world_points=arrays.get('world_points'),
            world_points_confidence=arrays.get('world_points_conf'),
            map_from_world=arrays['map_from_world'],
            unit=str(arrays['unit']),
        )
    except Exception as error:  # of zipfile, zlib and numpy
        raise SourceError(f'{path.name} is no predictions.npz of this program: {error}') from error
