"""Depth of a result bag against 16-bit depth images of the same camera."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vggt_ros.core.errors import SourceError
from vggt_ros.decode import decode_picture, stamp_ns
from vggt_ros.decode_sensors import decode_depth
from vggt_ros.recorded.bag import open_recording
from vggt_ros.recorded.images import seconds_to_ns

DELTA = 1.25  # Source: Eigen et al., Depth Map Prediction from a Single Image, NIPS 2014, sec. 4.3


@dataclass(frozen=True)
class DepthScore:
    """Means over frames, each frame counted alike.

    Args:
        abs_rel: mean of |depth - truth| / truth.
        within_delta: share of pixels where the larger is less than 1.25 times the smaller.
    """

    abs_rel: float
    within_delta: float


@dataclass(frozen=True)
class DepthError:
    """How far published depth is from measured depth.

    Args:
        frames: compared.
        coverage: of the pixels with a measured depth, the share that have a published one, mean over frames.
        published: taken as metres.
        trajectory_scaled: times one factor for all, the scale of the trajectory; None where there is none.
        median_scaled: each frame times the factor that makes its median right.
        flat: what one depth for the whole frame, its true median, would get: a floor that shape must beat.
    """

    frames: int
    coverage: float
    published: DepthScore
    trajectory_scaled: DepthScore | None
    median_scaled: DepthScore
    flat: DepthScore


class DepthFolder:
    """Measured depth of a folder: camera.json, frames.txt (stamp, image, depth image), 16-bit PNG, 0 where unknown.

    Args:
        path: the folder.

    Raises:
        SourceError: another layout, or no depth.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        camera_file, list_file = self.path / 'camera.json', self.path / 'frames.txt'
        try:
            camera = json.loads(camera_file.read_text())
            self.K = np.array([[camera['fx'], 0, camera['cx']], [0, camera['fy'], camera['cy']], [0, 0, 1]], float)
            self._metres = 1 / float(camera['depth_scale'])
            rows = [line.split() for line in list_file.read_text().splitlines() if line.strip() and line[0] != '#']
            files = {seconds_to_ns(stamp): depth for stamp, _, depth in rows if depth != '-'}
            self.stamps_ns = np.array(sorted(files), np.int64)
            if not np.isfinite(self.K).all() or min(self.K[0, 0], self.K[1, 1]) <= 0 or not 0 < self._metres < np.inf:
                raise ValueError('focal lengths and depth_scale must be above 0')
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
            raise SourceError(
                f'{self.path} is no folder of depth images: it needs camera.json with fx, fy, cx, cy and depth_scale '
                f'(units of a metre), and frames.txt with lines "stamp image depth": {error}'
            ) from error
        if not files:
            raise SourceError(f'{list_file} lists no depth images')
        self._files = [self.path / files[int(stamp)] for stamp in self.stamps_ns]

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Stamp in ns, [H, W] float32 metres, NaN where unknown, and K of each depth image, in order of stamps."""
        for i, stamp in enumerate(self.stamps_ns):
            stored = self._stored(i)
            yield int(stamp), np.where(stored > 0, stored * np.float32(self._metres), np.float32('nan')), self.K

    def _stored(self, i: int) -> np.ndarray:
        try:
            stored = decode_picture(np.frombuffer(self._files[i].read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        except (OSError, ValueError) as error:
            raise SourceError(f'cannot read the depth image {self._files[i]}: {error}') from error
        if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
            raise SourceError(f'{self._files[i]} must be a 16-bit depth image of one channel')
        return stored

    def sample(self, stamp: int, tolerance_ns: int, K: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
        """What the depth camera measured where the pixels of another image look.

        Args:
            stamp: of that image, ns.
            tolerance_ns: how far the depth image's stamp may be from it.
            K: [3, 3] intrinsics of that image; it looks from the same place in the same direction.
            size: (h, w) of that image.

        Returns:
            [h, w] metres of the nearest pixel, NaN where unknown; None where no depth image is near in time.
        """
        nearest = int(np.abs(self.stamps_ns - stamp).argmin())
        if abs(int(self.stamps_ns[nearest]) - stamp) > tolerance_ns:
            return None
        stored = self._stored(nearest)
        u = np.round((np.arange(size[1]) - K[0, 2]) / K[0, 0] * self.K[0, 0] + self.K[0, 2]).astype(int)
        v = np.round((np.arange(size[0]) - K[1, 2]) / K[1, 1] * self.K[1, 1] + self.K[1, 2]).astype(int)
        inside = ((v >= 0) & (v < stored.shape[0]))[:, None] & ((u >= 0) & (u < stored.shape[1]))
        raw = stored[np.ix_(v.clip(0, stored.shape[0] - 1), u.clip(0, stored.shape[1] - 1))]
        return np.where(inside & (raw > 0), raw * self._metres, np.nan)


def measure_depth(bag: Path, folder: DepthFolder, tolerance_ns: int, scale: float | None) -> DepthError:
    """Compare every depth image of a result bag that has a measured partner.

    Args:
        bag: result.mcap.
        folder: measured depth of the camera whose images were given to the network.
        tolerance_ns: how far stamps may be apart.
        scale: metres per unit of the trajectory; None where it is not known.

    Raises:
        SourceError: no depth in the bag, or none that has a partner.
    """
    scores: dict[str, list[DepthScore]] = {name: [] for name in ('published', 'trajectory', 'median', 'flat')}
    coverage, seen = [], 0
    for stamp, depth, K in _published_depth(bag):
        seen += 1
        truth = folder.sample(stamp, tolerance_ns, K, depth.shape)
        if truth is None or not np.isfinite(truth).any():
            continue
        both = np.isfinite(depth) & np.isfinite(truth)
        coverage.append(float(both.sum() / np.isfinite(truth).sum()))
        if not both.any():
            continue
        d, t = depth[both].astype(np.float64), truth[both]
        scores['published'].append(score(d, t))
        scores['trajectory'].append(score(d * (1.0 if scale is None else scale), t))
        # Source: Zhou et al., Unsupervised Learning of Depth and Ego-Motion from Video, CVPR 2017, sec. 4.1
        scores['median'].append(score(d * (np.median(t) / np.median(d)), t))
        scores['flat'].append(score(np.full_like(t, np.median(t)), t))
    if not scores['published']:
        raise SourceError(
            f'of {seen} depth images in {bag} none can be compared with the {len(folder.stamps_ns)} of {folder.path}: '
            f'no stamps within {tolerance_ns / 1e9:g} s, or no common pixels'
        )
    return DepthError(
        frames=len(scores['published']),
        coverage=float(np.mean(coverage)),
        published=_mean(scores['published']),
        trajectory_scaled=None if scale is None else _mean(scores['trajectory']),
        median_scaled=_mean(scores['median']),
        flat=_mean(scores['flat']),
    )


def score(depth: np.ndarray, truth: np.ndarray) -> DepthScore:
    """The two figures of one frame, of [N] depths and [N] true ones.

    Source: Eigen et al., Depth Map Prediction from a Single Image, NIPS 2014, sec. 4.3.
    """
    ratio = np.maximum(depth / truth, truth / depth)
    return DepthScore(float(np.mean(np.abs(depth - truth) / truth)), float(np.mean(ratio < DELTA)))


def _mean(scores: list[DepthScore]) -> DepthScore:
    return DepthScore(
        float(np.mean([one.abs_rel for one in scores])), float(np.mean([one.within_delta for one in scores]))
    )


def _published_depth(bag: Path) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Stamp in ns, depth [h, w] float32 and K [3, 3] of every depth image of a result bag."""
    recording = open_recording(bag)
    try:
        topic = next((name for name in recording.topics if name.endswith('/depth/image_rect')), None)
        if topic is None:
            raise SourceError(f'{bag} has no depth images; was it written with --only?')
        info_topic = topic.removesuffix('image_rect') + 'camera_info'
        intrinsics = {}
        for recorded in recording.messages([info_topic]) if info_topic in recording.topics else ():
            info = recording.deserialize(recorded)
            intrinsics[stamp_ns(info.header.stamp)] = np.reshape(info.k, (3, 3))
        for recorded in recording.messages([topic]):
            message: Any = recording.deserialize(recorded)
            stamp = stamp_ns(message.header.stamp)
            if stamp not in intrinsics:
                raise SourceError(f'{bag} has a depth image of stamp {stamp} without its {info_topic}')
            yield stamp, decode_depth(message), intrinsics[stamp]
    finally:
        recording.close()
