"""Loop closure: sees that the camera is back at a place, makes sure of it, and measures how the two visits lie.

A place is a few frames of a window: what they look like (retrieval.py), a thin grid of their depth, and their pictures,
compressed. When the newest place looks like an old one, the network sees the frames of both visits in one window. That
answer must fit the old place and the new one as a seam must; and within it, points of the old frames must lie where the
new frames see them, with the same depth and the same grey. Rooms that only look alike fail there, however sure the
network is: their walls stand elsewhere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from vggt_ros.core.alignment import AGREE, MIN_POINTS, join
from vggt_ros.core.config import AlignmentConfig, LoopConfig
from vggt_ros.core.covariance import Drift, loop_drift
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import Sim3, move_points, unproject_pixels
from vggt_ros.core.loops.loop_report import Evidence
from vggt_ros.core.loops.retrieval import shared_view, similarity
from vggt_ros.core.placement import Placement
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.submap import Submap
from vggt_ros.core.window import Window

FRAMES = 4  # of a place: with as many of another they fill a window of 8, the size that VGGT was trained at
GRID = 32  # columns at most of the depth that is kept of a place; 768 pixels of a 4:3 picture
JPEG_QUALITY = 95  # at 128x96 some 8 kB a frame, at 518x392 some 90 kB
# Points that lie and look the same so well need no patches beside them; of 409 false pairs of places in the rooms of
# retrieval.shared_view none does, though nano takes many of them for one place.
SURE_AGREEMENT, SURE_CORRELATION = 0.75, 0.8
SHORTLIST = 8  # places most alike as a whole, whose patches are compared; 5 ms each
WORTH_A_PASS = 0.35  # of the network: shared view of the best of those; below it, of 28 pairs looked at none was closed
EASING = 0.9  # of the bar that a rejected candidate has raised, a window later: from 0.75 to 0.5 in four windows


@dataclass(frozen=True, eq=False)
class Place:
    """What is remembered of a window.

    Args:
        index: number of the window.
        keyframe: number of its newest keyframe, counted over the whole map.
        sketch: its frames with depth on a thin grid, and poses in the window.
        descriptors: [F, D] float16 of those.
        patches: [F, rows, columns, C] int8 (retrieval.thin_patches); None where the network gives none.
        pictures: as many JPEG files, on the network's grid.
        K: [F, 3, 3] intrinsics of those.
    """

    index: int
    keyframe: int
    sketch: Prediction
    descriptors: np.ndarray
    patches: np.ndarray | None
    pictures: tuple[bytes, ...]
    K: np.ndarray

    @cached_property
    def look(self) -> np.ndarray:
        """[D] mean of its descriptors."""
        return self.descriptors.mean(axis=0, dtype=np.float32)

    def frames(self) -> list[Frame]:
        """The frames as the network takes them."""
        pictures = map(_picture, self.pictures)
        named = zip(self.sketch.stamps_ns, pictures, self.sketch.frame_ids, self.K, strict=True)
        return [Frame(stamp, picture, frame_id, K) for stamp, picture, frame_id, K in named]


@dataclass(frozen=True, eq=False)
class Candidate:
    """Two places that look alike, and what came of it.

    Args:
        old, new: the places.
        evidence: for it.
        old_from_new: how the windows lie, measured; None where it is no loop.
        spread: relative depth at which points of both visits agree, as far as measured.
        drift: what old_from_new errs by, in the frame of the old window.
    """

    old: Place
    new: Place
    evidence: Evidence
    old_from_new: Sim3 | None = None
    spread: float = float('nan')
    drift: Drift | None = None


class LoopCloser:
    """Remembers places and finds those that the camera comes back to.

    Args:
        config: bounds.
        alignment: how seams are measured.
        predict_apart: the network on a window that is no part of the stream (Predictor.predict_apart).
    """

    def __init__(
        self, config: LoopConfig, alignment: AlignmentConfig, predict_apart: Callable[[Window], Prediction]
    ) -> None:
        self.config, self.alignment, self._predict_apart = config, alignment, predict_apart
        self.reset()

    def reset(self) -> None:
        """Forget all places."""
        self.places: list[Place] = []
        self._keyframes = 0
        self._last_place = -math.inf  # keyframe
        self._last_closed = -math.inf  # keyframe
        self._bar = -1.0

    def visit(self, index: int, prediction: Prediction, shared: int) -> Candidate | None:
        """Remember a window, and look whether it comes back to a place.

        Args:
            index: its number.
            prediction: what the network said; without descriptors nothing is remembered.
            shared: how many of its frames an earlier window holds too.

        Returns:
            What was looked at closely, closed or not; None where nothing looked like a place seen before.
        """
        self._keyframes += len(prediction.stamps_ns) - shared
        self._bar *= EASING
        if prediction.descriptors is None or self._keyframes - self._last_place < FRAMES:
            return None
        place = make_place(index, self._keyframes, prediction)
        if place is None:
            return None
        self._last_place = self._keyframes
        candidate = self._look(place)
        self.places.append(place)
        self._thin_out()
        return candidate

    def forget(self, index: int) -> None:
        """A window is not trusted after all, or has left the map."""
        self.places = [place for place in self.places if place.index != index]

    def _look(self, new: Place) -> Candidate | None:
        """The most alike place that lies far enough back, looked at closely where it is worth a pass."""
        old = [place for place in self.places if new.keyframe - place.keyframe >= self.config.min_gap]
        if not old or self._keyframes - self._last_closed < self.config.min_gap / 2:
            return None
        scores = look_alike(new, old)
        shortlist = np.argsort(-scores)[:SHORTLIST]
        shortlist = shortlist[scores[shortlist] >= self.config.min_similarity]
        if not len(shortlist):
            return None
        views = [place_view(old[k], new) for k in shortlist]
        first = int(np.argmax(np.nan_to_num(views, nan=-1.0)))  # without patches the most alike
        best, view = int(shortlist[first]), views[first]
        score = float(scores[best]) if math.isnan(view) else view
        if view < WORTH_A_PASS or score < self._bar:
            return None
        candidate = self.verify(old[best], new, float(scores[best]), view)
        if candidate.old_from_new is None:
            self._bar = score
        else:
            self._last_closed = self._keyframes
        return candidate

    def verify(self, old: Place, new: Place, score: float, view: float) -> Candidate:
        """Let the network see both visits at once, and judge its answer by the points.

        Args:
            old, new: the visits.
            score: how alike they look as a whole.
            view: see place_view.
        """
        window = Window((*old.frames(), *new.frames()), 0)
        together = thinned(self._predict_apart(window))
        old_join, new_join = (join(place.sketch, together, self.alignment) for place in (old, new))
        if old_join is None or new_join is None or min(len(old_join.matches), len(new_join.matches)) < MIN_POINTS:
            return Candidate(old, new, Evidence(score, shared_view=view))
        count = len(old.pictures)
        evidence, spread = compare_visits(together, count)
        evidence = dataclasses.replace(
            evidence,
            similarity=score,
            inliers_old=old_join.seam.inlier_ratio,
            inliers_new=new_join.seam.inlier_ratio,
            shared_view=view,
        )
        if not self._convinces(evidence):
            return Candidate(old, new, evidence)
        old_from_together, new_from_together = old_join.before_from_window, new_join.before_from_window
        old_from_new = old_from_together @ new_from_together.inverse()
        placed = (
            Submap(old.sketch, Placement(Sim3.identity(), old_join.seam)),
            Submap(together, Placement(old_from_together, old_join.seam)),
            Submap(new.sketch, Placement(old_from_new, new_join.seam)),
        )
        drift = loop_drift(*placed, self.alignment.max_frames)
        return Candidate(old, new, evidence, old_from_new, spread, drift)

    def _convinces(self, evidence: Evidence) -> bool:
        config = self.config
        looks_the_same = (
            not evidence.shared_view < config.min_shared_view  # NaN: the network has no say
            or (evidence.agreement >= SURE_AGREEMENT and evidence.correlation >= SURE_CORRELATION)
        )
        return (
            looks_the_same
            and min(evidence.inliers_old, evidence.inliers_new) >= config.min_inlier_ratio
            and evidence.overlap >= config.min_overlap
            and evidence.agreement >= config.min_agreement
            and evidence.correlation >= config.min_correlation
        )

    def _thin_out(self) -> None:
        """Beyond max_places the one goes that is most like the one remembered before it: that place stays known."""
        if len(self.places) <= self.config.max_places:
            return
        described = np.stack([place.look for place in self.places])
        steps = np.linalg.norm(np.diff(described, axis=0), axis=1)
        older = steps[: max(1, len(steps) // 2)]  # of the newer half it is not known yet what will come of them
        del self.places[int(older.argmin()) + 1]


def make_place(index: int, keyframe: int, prediction: Prediction) -> Place | None:
    """What to remember of a window: FRAMES of those with pose and depth, evenly spread; None where there are none."""
    is_known = prediction.is_posed & np.isfinite(prediction.depth).any(axis=(1, 2))
    rows = np.flatnonzero(is_known)
    if len(rows) == 0 or prediction.descriptors is None:
        return None
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, FRAMES).round().astype(int))]
    sketch = thinned(_take(prediction, rows))
    pictures = tuple(_jpeg(prediction.image[row]) for row in rows)
    descriptors = prediction.descriptors[rows].astype(np.float16)
    patches = None if prediction.patches is None else prediction.patches[rows]
    return Place(index, keyframe, sketch, descriptors, patches, pictures, prediction.K[rows])


def look_alike(new: Place, old: list[Place]) -> np.ndarray:
    """[len(old)] how alike places are: for each frame of the new one its most alike in the old one, and their mean."""
    counts = [len(place.sketch.stamps_ns) for place in old]
    scores = similarity(new.descriptors, np.concatenate([place.descriptors for place in old]))
    starts = np.cumsum([0, *counts[:-1]])
    return np.maximum.reduceat(scores, starts, axis=1).mean(axis=0)


def place_view(old: Place, new: Place) -> float:
    """Share of patches that both visits show, all shifted alike; NaN without patches, or of frames of another size."""
    if old.patches is None or new.patches is None or old.patches.shape[1:] != new.patches.shape[1:]:
        return math.nan
    return shared_view(np.concatenate([old.patches, new.patches]), len(old.patches))


def thinned(prediction: Prediction) -> Prediction:
    """The same on every n-th pixel, of which at most GRID go across; poses as they are."""
    width = prediction.depth.shape[2]
    step = -(-width // GRID)
    first = step // 2
    pixels = (slice(None), slice(first, None, step), slice(first, None, step))
    K = prediction.K.copy()
    K[:, :2, 2] -= first
    K[:, :2] /= step
    return Prediction(
        stamps_ns=prediction.stamps_ns,
        frame_ids=prediction.frame_ids,
        image=prediction.image[pixels].copy(),
        cam_from_window=prediction.cam_from_window,
        K=K,
        K_network=K,
        depth=prediction.depth[pixels].copy(),
        confidence=prediction.confidence[pixels].copy(),
    )


def compare_visits(together: Prediction, old: int) -> tuple[Evidence, float]:
    """Within one answer of the network, points of the old frames as the new frames see them.

    Args:
        together: thin; the frames of the old visit come first.
        old: how many they are.

    Returns:
        Evidence of the pair of frames that overlap most, and the median relative distance of what agrees.
    """
    count = len(together.stamps_ns)
    found = (_reproject(together, i, j) for i in range(old) for j in range(old, count))
    pairs = [pair for pair in found if pair is not None]
    if not pairs:
        return Evidence(float('nan')), float('nan')
    pairs.sort(key=lambda pair: -pair[0])
    best = pairs[: max(1, len(pairs) // 4)]
    overlap = float(np.mean([pair[0] for pair in best]))
    ratio, grey_old, grey_new = (np.concatenate(columns) for columns in list(zip(*best, strict=True))[1:])
    if len(ratio) < MIN_POINTS:
        return Evidence(float('nan'), overlap=overlap), float('nan')
    agrees = np.abs(ratio) < AGREE
    # colours are compared wherever a point falls, also where depth disagrees: noise has no say in which ones count
    correlation = _correlation(grey_old, grey_new)
    spread = float(np.median(np.abs(ratio[agrees]))) if agrees.any() else float('nan')
    return Evidence(float('nan'), 0.0, 0.0, overlap, float(agrees.mean()), correlation), spread


def _reproject(together: Prediction, i: int, j: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray] | None:
    """Points of frame i in frame j: share that falls into it, log depth ratios, and the grey of both."""
    depth = together.depth[i]
    v, u = np.nonzero(np.isfinite(depth) & (depth > 0))
    if len(u) < MIN_POINTS or not together.is_posed[[i, j]].all():
        return None
    points = unproject_pixels(u, v, depth[v, u].astype(np.float64), together.K[i])
    j_from_i = together.cam_from_window[j] @ together.window_from_cam[i]
    x, y, z = move_points(j_from_i, points).T
    with np.errstate(divide='ignore', invalid='ignore'):
        u_j = together.K[j, 0, 0] * x / z + together.K[j, 0, 2]
        v_j = together.K[j, 1, 1] * y / z + together.K[j, 1, 2]
    height, width = depth.shape
    inside = (z > 0) & (u_j > -0.5) & (u_j < width - 0.5) & (v_j > -0.5) & (v_j < height - 0.5)
    if not inside.any():
        return 0.0, np.zeros(0), np.zeros(0), np.zeros(0)
    column, row = np.round(u_j[inside]).astype(int), np.round(v_j[inside]).astype(int)
    seen = together.depth[j, row, column]
    known = np.isfinite(seen) & (seen > 0)
    ratio = np.log(z[inside][known] / seen[known])
    grey = together.image.mean(axis=-1)
    return float(inside.mean()), ratio, grey[i, v, u][inside][known], grey[j, row, column][known]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two rows of numbers, -1 to 1; 0 where one of them does not vary."""
    if len(a) < 2 or a.std() < 1e-6 or b.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _take(prediction: Prediction, rows: np.ndarray) -> Prediction:
    """Some frames of a window; the frame of the window stays."""
    return Prediction(
        stamps_ns=tuple(prediction.stamps_ns[row] for row in rows),
        frame_ids=tuple(prediction.frame_ids[row] for row in rows),
        image=prediction.image[rows],
        cam_from_window=prediction.cam_from_window[rows],
        K=prediction.K[rows],
        K_network=prediction.K_network[rows],
        depth=prediction.depth[rows],
        confidence=prediction.confidence[rows],
    )


def _picture(jpeg: bytes) -> np.ndarray:
    """[h, w, 3] uint8 RGB."""
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None  # _jpeg made it
    return np.ascontiguousarray(decoded[..., ::-1])


def _jpeg(image: np.ndarray) -> bytes:
    _, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()
