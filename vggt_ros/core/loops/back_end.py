"""BackEnd: the pose graph beside the stream. Loops are looked for window by window; what they change comes later.

Solving and moving the cloud run on a thread of their own. What they find is taken over at windows that are fixed
beforehand, not when the thread happens to be done, so that the same frames give the same updates on every machine; the
stream waits only where the thread has not kept up by then.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from vggt_ros.core.config import Config
from vggt_ros.core.errors import VggtRosError
from vggt_ros.core.geometry import Sim3, rotation_angle
from vggt_ros.core.loops.loop_closure import Candidate, LoopCloser
from vggt_ros.core.loops.loop_report import LoopReport
from vggt_ros.core.loops.pose_graph import Edge, PoseGraph, Solution, chain_covariance, difference
from vggt_ros.core.placement import SeamStatus
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.submap import Map, Submap
from vggt_ros.core.voxels import VoxelMap
from vggt_ros.core.window import Window

log = logging.getLogger(__name__)

DRIFT = 4.0  # standard deviations by which a loop may differ from what the seams allow
# Errors that neighbouring windows share do not show at their seams. What a network may do over a whole way, assumed:
SHARED_TURN, SHARED_SHIFT, SHARED_GROWTH = 0.05, 0.05, 0.3  # of the turns and of the way; of the log of the scale
SEAM_GROWTH = 0.01  # its part at one seam
BELIEVED = 0.5  # weight of a loop, 0 to 1, from which on poses count as known by it
SPREAD_SHARE = 0.3  # of the points' distance: pixels of a frame err by more than its camera does
POINTS_A_WINDOW = 200_000  # points of the cloud that are moved in the time of a window, with much to spare
FEW_POINTS = 20_000  # are moved at once: 20 ms


@dataclass(frozen=True, eq=False)
class Correction:
    """What a solved graph changed: the newest pose before it, and where that is now."""

    old_map_from_cam: np.ndarray
    new_map_from_cam: np.ndarray
    last_stamp_ns: int


class BackEnd:
    """Holds the graph of a map, closes loops, and moves the map when that is solved.

    Args:
        config: all settings.
        map: what is moved.
        predict_apart: see LoopCloser.
    """

    def __init__(self, config: Config, map: Map, predict_apart: Callable[[Window], Prediction]) -> None:
        self.config, self._map = config, map
        self.loops = LoopCloser(config.loop, config.alignment, predict_apart)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='vggt_graph') if config.loop.closure else None
        self._solving: Future[Solution] | None = None
        self._moving: Future[VoxelMap] | None = None
        self.reset()

    def reset(self) -> None:
        """A new map; what is being solved for the old one comes to nothing."""
        self.loops.reset()
        self.graph = PoseGraph()
        self._seams: deque[np.ndarray] = deque([np.full(7, 0.02)], maxlen=8)  # [7] deviations of the last ones
        self._solving = self._moving = None
        self._new: list[Candidate] = []  # closed, and not solved yet
        self._solved: list[Candidate] = []  # being solved
        self._is_at_rest = True  # the whole graph, not only what the last loops changed most
        self._moves: dict[int, Sim3] = {}  # of windows whose points are yet to follow
        self._moved_until, self._moved_at = 0, 0  # number of the newest point that is being moved; window to take it at
        self._windows = 0

    def add(self, submap: Submap) -> LoopReport | None:
        """Take an inserted window into the graph, and look whether it closes a loop."""
        self._windows += 1
        if self._pool is None or not submap.prediction.is_posed.any():
            return None
        self._connect(submap)
        try:
            candidate = self.loops.visit(submap.index, submap.prediction, submap.shared)
        except VggtRosError as error:  # for want of memory, say: the stream goes on without this loop
            log.warning('a place seen before could not be looked at: %s', error)
            return None
        if candidate is None:
            return None
        report = self._judge(candidate)
        if report.is_closed:
            self._start_solving()
        return report

    def withdraw(self, index: int) -> None:
        """A window was outvoted."""
        self.loops.forget(index)
        if index in self.graph.nodes:
            self.graph.forget(index)

    def take_over(self, *, all_of_it: bool = False) -> Correction | None:
        """Move the map by what was solved since the last window, where it is time.

        Args:
            all_of_it: now, whatever is still under way.

        Returns:
            How the newest pose moved; None where nothing did.
        """
        correction = None
        if self._solving is not None:
            correction = self._take_solution(self._solving)
        if all_of_it and not self._is_at_rest:
            assert self._pool is not None
            last = self._take_solution(self._pool.submit(self.graph.copy().solve))
            if correction is not None and last is not None:
                last = replace(last, old_map_from_cam=correction.old_map_from_cam)
            correction = last or correction
        if all_of_it and self._moves:
            self._take_points()
            self._start_moving(self._moves)
            self._moves = {}
        if self._moving is not None and (all_of_it or self._windows >= self._moved_at):
            self._take_points()
        return correction

    def close(self) -> None:
        """End the thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _connect(self, submap: Submap) -> None:
        """A node, and the seam to the window that it was placed on."""
        sigma, place = self._map.joint_deviations(), submap.placement.map_from_window
        before = next(reversed(self.graph.nodes), None)
        if before is None or sigma is None or submap.placement.seam.status is SeamStatus.FIRST:
            self.graph.add(submap.index, place)
        else:
            map_from_before = self.graph.nodes[before]
            sigma = sigma / np.array([map_from_before.scale] * 3 + [1.0] * 4)
            self._seams.append(sigma)
            before_from_window = map_from_before.inverse() @ place
            sigma = np.hypot(sigma, _shared(before_from_window))
            self.graph.add(submap.index, place, Edge(before, submap.index, before_from_window, sigma))
        while len(self.graph) > self.config.loop.max_windows:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest = next(iter(self.graph.nodes))
        self.graph.forget(oldest)
        self.loops.forget(oldest)

    def _judge(self, candidate: Candidate) -> LoopReport:
        """Believe a loop that the network confirms and the seams allow."""
        old, new = candidate.old, candidate.new
        drift, is_closed = math.nan, False
        if candidate.old_from_new is not None and {old.index, new.index} <= self.graph.nodes.keys():
            edge = self._edge(candidate, candidate.old_from_new)
            drift = self._drift(edge)
            is_closed = drift < DRIFT
            if is_closed:
                self.graph.connect(edge)
                self._new.append(candidate)
                log.info('loop closed: window %d is back at window %d', new.index, old.index)
        return LoopReport(
            new.index, old.index, new.sketch.stamps_ns[-1], old.sketch.stamps_ns[-1], candidate.evidence, drift,
            is_closed,
        )  # fmt: skip

    def _edge(self, candidate: Candidate, old_from_new: Sim3) -> Edge:
        """A loop errs as two seams do, and by what the points of both visits lie apart."""
        old, new = candidate.old.index, candidate.new.index
        sigma = math.sqrt(2) * np.median(self._seams, axis=0)
        depth = candidate.old.sketch.depth
        apart = SPREAD_SHARE * candidate.spread * float(np.median(depth[np.isfinite(depth)]))
        sigma[:3] = np.maximum(sigma[:3], apart)
        return Edge(old, new, old_from_new, sigma, is_loop=True)

    def _drift(self, loop: Edge) -> float:
        """How far a loop is from what the seams between its ends say, in standard deviations of all they may err by."""
        chain = [index for index in self.graph.nodes if loop.i <= index <= loop.j]
        sigma_to = {edge.j: edge.sigma for edge in self.graph.edges if not edge.is_loop}
        places = [self.graph.nodes[index] for index in chain]
        sigmas = np.stack([sigma_to.get(index, np.full(7, 10.0)) for index in chain[1:]])
        covariance = chain_covariance(places, sigmas)
        turns = rotation_angle(np.stack([a.R.T @ b.R for a, b in pairwise(places)])).sum()
        way = sum(float(np.linalg.norm(b.t - a.t)) for a, b in pairwise(places))
        shared_turn = min(SHARED_TURN * turns, math.pi)
        reach = float(np.linalg.norm(np.ptp([place.t for place in places], axis=0)))
        shift = SHARED_SHIFT * way + (shared_turn + SHARED_GROWTH) * reach
        shared = np.array([shift] * 3 + [shared_turn] * 3 + [SHARED_GROWTH])
        own = loop.sigma * np.array([places[0].scale] * 3 + [1.0] * 4)
        apart = difference(places[0] @ loop.i_from_j, places[-1])
        covariance = covariance + np.diag(shared**2 + own**2)
        return math.sqrt(float(apart @ np.linalg.solve(covariance, apart)) / len(apart))

    def _start_solving(self) -> None:
        assert self._pool is not None
        if self._solving is None:
            self._solved, self._new = self._new, []
            ends = [place.index for loop in self._solved for place in (loop.old, loop.new)]
            ends = [index for index in ends if index in self.graph.nodes]
            self._solving = self._pool.submit(self.graph.copy().settle, ends)

    def _take_solution(self, solving: Future[Solution]) -> Correction | None:
        self._solving = None
        try:
            solution = solving.result()
        except Exception:
            log.exception('the pose graph could not be solved: the map stays as it is')
            return None
        self._take_points()  # of the correction before
        stamp, before = self._map.newest
        self._is_at_rest = len(solution.map_from_windows) == len(self.graph)
        self.graph.nodes.update(solution.map_from_windows)
        for index, move in self._map.move(solution.map_from_windows).items():
            self._moves[index] = move @ self._moves[index] if index in self._moves else move
        self._learn_loops(solution)
        self._move_points()
        return Correction(before, self._map.newest[1], stamp)

    def _learn_loops(self, solution: Solution) -> None:
        """The newest window is known as well as its loop says, as far as that is believed."""
        for loop in self._solved:
            weight = solution.loop_weights.get((loop.old.index, loop.new.index), 0.0)
            if weight > BELIEVED and loop.drift is not None:
                self._map.learn_loop(loop.old.index, loop.new.index, loop.drift)
        self._solved = []

    def _move_points(self) -> None:
        """Of the windows that have moved by half a voxel: at once where they are few, else beside the stream."""
        # a window that has left the map moves no more, and so far it has moved by less than that
        self._moves = {index: move for index, move in self._moves.items() if index in self._map.trail.map_from_windows}
        visible = self._visible_moves()
        if visible and not self._map.voxels.move(visible, FEW_POINTS):
            self._start_moving(visible)
        self._moves = {index: move for index, move in self._moves.items() if index not in visible}

    def _visible_moves(self) -> dict[int, Sim3]:
        """Of windows that have moved, or whose points have, by half a voxel: the cloud shows nothing of the others."""
        latest = self._map.latest
        assert latest is not None
        depth = latest.prediction.depth[:, ::8, ::8]
        reach = latest.placement.map_from_window.scale * float(np.nanmedian(depth))
        places, moves = self._map.trail.map_from_windows, self._moves
        if not moves:
            return {}
        scale = np.array([move.scale for move in moves.values()])
        trace = np.array([np.trace(move.R) for move in moves.values()])
        # spectral norm of scale * R - 1: in the plane that the turn turns
        bend = np.sqrt(np.maximum(scale**2 + 1 - scale * (trace - 1), 0.0))
        shift = [places[index].t - move.inverse().transform_points(places[index].t) for index, move in moves.items()]
        apart = np.linalg.norm(shift, axis=1) + reach * bend
        return {
            index: move
            for (index, move), far in zip(moves.items(), apart, strict=True)
            if far > self._map.voxels.voxel_size / 2
        }

    def _start_moving(self, moves: dict[int, Sim3]) -> None:
        assert self._pool is not None
        voxels = self._map.voxels
        self._moved_until = voxels.count
        self._moved_at = self._windows + len(voxels) // POINTS_A_WINDOW
        self._moving = self._pool.submit(voxels.snapshot(), moves)

    def _take_points(self) -> None:
        if self._moving is not None:
            self._map.take_points(self._moving.result(), self._moved_until)
            self._moving = None


def _shared(before_from_window: Sim3) -> np.ndarray:
    """[7] what a seam may be off by without a trace at the seam: a share of the motion."""
    shift = SHARED_SHIFT * float(np.linalg.norm(before_from_window.t))
    turn = SHARED_TURN * float(rotation_angle(before_from_window.R))
    return np.array([shift] * 3 + [turn] * 3 + [SEAM_GROWTH])
