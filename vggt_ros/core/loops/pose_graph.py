"""PoseGraph: windows as nodes in Sim(3), seams and closed loops as edges, solved by Gauss-Newton on sparse matrices.

The first node stays: it holds the place, the turn and the scale of the map. A loop is believed as far as the others and
the seams allow: its residual enters under a Geman-McClure kernel that begins wide and narrows while the graph settles,
so that a false loop among true ones loses its say and leaves no mark.

In a graph at rest a new loop moves what is near its ends, and little else: after hundreds of loops, the few windows
since the last one. settle() solves that part with all others held, looks how hard those are pulled, and takes a larger
part where it is too hard; a first loop that bends the whole way still solves the whole graph.

Source: Grisetti et al., A Tutorial on Graph-Based SLAM, 2010 (edges, sparse normal equations); Strasdat et al., Scale
    Drift-Aware Large Scale Monocular SLAM, RSS 2010 (similarities as nodes); Yang et al., Graduated Non-Convexity for
    Robust Spatial Perception, RA-L 2020 (the narrowing kernel); Kaess et al., iSAM2, IJRR 2012 (what changes little is
    left as it is).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.core.geometry import Sim3, cross_matrix, rotation_from_vector, vector_from_rotation

DOF = 7  # of a node: shift in units of its window, turn, log of the scale
KERNEL = 3.0  # standard deviations at which a loop begins to lose its say, once the graph has settled
NARROWING = 4.0  # factor between two widths of the kernel, on their squares
MAX_STEPS = 60  # of Gauss-Newton at all widths together; a graph of 2500 windows with 10 loops takes 13
SMALL_STEP = 1e-6  # of radians, logs and window units: nothing moves any more
PART = 64  # windows around a new loop that are solved first
WIDER = 4  # times as many where those beyond are pulled too hard
PULL = 0.2  # standard deviations by which a window that is held would move by itself, at most; at 0.5 errors add up


@dataclass(frozen=True, eq=False)
class Edge:
    """What was measured between two windows.

    Args:
        i, j: numbers of the windows.
        i_from_j: the similarity measured.
        sigma: [7] standard deviations of its shift (units of window i), its turn (radians) and the log of its scale.
        is_loop: whether it may be false.
    """

    i: int
    j: int
    i_from_j: Sim3
    sigma: np.ndarray
    is_loop: bool = False


@dataclass(frozen=True, eq=False)
class Solution:
    """The graph at rest.

    Args:
        map_from_windows: the nodes that were solved, by number; others stay.
        loop_weights: 0 to 1 for each loop edge between those, by its ends: how far it is believed.
        steps: of Gauss-Newton.
    """

    map_from_windows: dict[int, Sim3]
    loop_weights: dict[tuple[int, int], float]
    steps: int


@dataclass
class _Nodes:
    """N similarities as arrays: s [N], R [N, 3, 3], t [N, 3]."""

    s: np.ndarray
    R: np.ndarray
    t: np.ndarray

    def take(self, index: np.ndarray) -> _Nodes:
        return _Nodes(self.s[index], self.R[index], self.t[index])

    def moved(self, step: np.ndarray) -> _Nodes:
        """Each node by its own [N, 7] step: x <- x @ (shift, exp(turn), exp(growth))."""
        R = self.R @ rotation_from_vector(step[:, 3:6])
        t = self.t + self.s[:, None] * np.einsum('nij,nj->ni', self.R, step[:, :3])
        return _Nodes(self.s * np.exp(step[:, 6]), R, t)


class PoseGraph:
    """Windows and what was measured between them. solve() changes nothing here and may run on another thread's copy."""

    def __init__(self) -> None:
        self.nodes: dict[int, Sim3] = {}
        self.edges: list[Edge] = []

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def loops(self) -> list[Edge]:
        """The edges that may be false."""
        return [edge for edge in self.edges if edge.is_loop]

    def add(self, index: int, map_from_window: Sim3, *edges: Edge) -> None:
        """A new window with its seams."""
        self.nodes[index] = map_from_window
        self.edges += edges

    def connect(self, edge: Edge) -> None:
        """Another edge between windows that are known."""
        if not {edge.i, edge.j} <= self.nodes.keys():
            raise KeyError(f'an edge needs windows of the graph, got {edge.i} and {edge.j}')
        self.edges.append(edge)

    def forget(self, index: int) -> None:
        """Drop a window and its edges."""
        del self.nodes[index]
        self.edges = [edge for edge in self.edges if index not in (edge.i, edge.j)]

    def copy(self) -> PoseGraph:
        """One that goes on by itself; nodes and edges are never changed in place."""
        other = PoseGraph()
        other.nodes, other.edges = dict(self.nodes), list(self.edges)
        return other

    def solve(self) -> Solution:
        """The nodes at which the edges disagree least; the first node of each connected part stays."""
        if not self.edges:
            return Solution(dict(self.nodes), {}, 0)
        problem = _Problem(self.nodes, self.edges)
        steps = problem.solve()
        return problem.solution(list(self.nodes), self.edges, steps)

    def settle(self, new: Sequence[int]) -> Solution:
        """The same after new loops in a graph that was at rest: of as much of it as they change.

        Args:
            new: windows at the ends of the new loops.
        """
        edges_of: dict[int, list[Edge]] = {}
        for edge in self.edges:
            edges_of.setdefault(edge.i, []).append(edge)
            edges_of.setdefault(edge.j, []).append(edge)
        count = PART
        while count < len(self.nodes):
            near = _nearest(edges_of, new, count)
            # what hangs on nothing before it stays, as in solve()
            part = {node for node in near if any(min(edge.i, edge.j) < node for edge in edges_of.get(node, ()))}
            shore = _ends(edges_of, part) - part
            if not shore:
                break
            beyond = _ends(edges_of, shore) - part - shore
            edges = list(dict.fromkeys(edge for node in (*part, *shore) for edge in edges_of[node]))
            indices = [*part, *shore, *beyond]
            problem = _Problem({index: self.nodes[index] for index in indices}, edges, len(part))
            steps = problem.solve()
            if problem.pull(slice(len(part), len(part) + len(shore))) <= PULL:
                return problem.solution(indices, edges, steps)
            count *= WIDER
        return self.solve()


class _Problem:
    """The arrays of one solve.

    Args:
        nodes, edges: of the graph, or of a part of it.
        free: how many nodes, from the front, may move; None frees all but the first of each connected part.
    """

    def __init__(self, nodes: dict[int, Sim3], edges: Sequence[Edge], free: int | None = None) -> None:
        row = {index: i for i, index in enumerate(nodes)}
        self.x = _stack(list(nodes.values()))
        self.z = _stack([edge.i_from_j for edge in edges])
        self.i = np.array([row[edge.i] for edge in edges])
        self.j = np.array([row[edge.j] for edge in edges])
        self.precision = np.stack([edge.sigma for edge in edges]) ** -2.0  # (E, 7)
        self.is_loop = np.array([edge.is_loop for edge in edges])
        self.weight = np.ones(len(edges))
        self._held_apart = free
        if free is None:
            self._is_free = ~_first_of_each_part(len(nodes), self.i, self.j)
        else:
            self._is_free = np.arange(len(nodes)) < free

    def solve(self) -> int:
        """Gauss-Newton at a kernel that narrows; the number of steps taken."""
        width = self._widest()
        for count in range(1, MAX_STEPS + 1):
            r, J_i, J_j = self._linearise()
            self._weigh(r, width)
            step = self._step(r, J_i, J_j)
            self.x = self.x.moved(step)
            is_narrow = width <= KERNEL**2
            width = max(width / NARROWING, KERNEL**2)
            if is_narrow and np.abs(step).max() < SMALL_STEP:
                return count
        return MAX_STEPS

    def pull(self, held: slice) -> float:
        """Most standard deviations by which one of these nodes, all others where they are, would move by itself."""
        count = len(self._is_free)
        r, J_i, J_j = self._linearise()
        W = (self.precision * self.weight[:, None])[:, :, None]
        H, gradient = np.zeros((count, DOF, DOF)), np.zeros((count, DOF))
        for end, J in ((self.i, J_i), (self.j, J_j)):
            np.add.at(H, end, np.swapaxes(J, 1, 2) @ (W * J))
            np.add.at(gradient, end, np.einsum('eij,ei->ej', W * J, r))
        steps = np.linalg.solve(H[held], gradient[held][:, :, None])[:, :, 0]
        return math.sqrt(float(np.einsum('ni,ni->n', steps, gradient[held]).max(initial=0.0)))

    def solution(self, indices: Sequence[int], edges: Sequence[Edge], steps: int) -> Solution:
        """The nodes that were free, and the first of each part, at rest."""
        moved = zip(indices, self.x.s, self.x.R, self.x.t, strict=True)
        solved = indices if self._held_apart is None else indices[: self._held_apart]
        places = {index: Sim3(float(s), R, t) for index, s, R, t in moved}
        weights = zip(edges, self.weight, strict=True)
        return Solution(
            {index: places[index] for index in solved},
            {(edge.i, edge.j): float(weight) for edge, weight in weights if edge.is_loop},
            steps,
        )

    def _widest(self) -> float:
        """Square of the kernel at which every loop still has its say."""
        loops = self._chi2(self._linearise()[0])[self.is_loop]
        return max(2 * float(loops.max(initial=0.0)), KERNEL**2)

    def _chi2(self, r: np.ndarray) -> np.ndarray:
        """[E] mean squared standard deviations of an edge's seven residuals."""
        return (r * r * self.precision).mean(axis=1)

    def _weigh(self, r: np.ndarray, width: float) -> None:
        """Source: Geman-McClure's weight, Yang et al., eq. 12."""
        self.weight = np.where(self.is_loop, (width / (width + self._chi2(r))) ** 2, 1.0)

    def _linearise(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Residuals [E, 7] and their derivatives [E, 7, 7] by the steps of either end."""
        a, b = self.x.take(self.i), self.x.take(self.j)
        a_R_t = np.swapaxes(a.R, 1, 2)
        s, R = b.s / a.s, a_R_t @ b.R
        t = np.einsum('eij,ej->ei', a_R_t, b.t - a.t) / a.s[:, None]
        turn = vector_from_rotation(np.swapaxes(self.z.R, 1, 2) @ R)
        r = np.concatenate([t - self.z.t, turn, np.log(s / self.z.s)[:, None]], axis=1)
        bend = _right_jacobian_inverse(turn)
        J_i, J_j = np.zeros((2, len(r), DOF, DOF))
        J_i[:, :3, :3] = -np.eye(3)
        J_i[:, :3, 3:6] = _cross_matrices(t)
        J_i[:, :3, 6] = -t
        J_i[:, 3:6, 3:6] = -bend @ np.swapaxes(R, 1, 2)
        J_i[:, 6, 6] = -1.0
        J_j[:, :3, :3] = s[:, None, None] * R
        J_j[:, 3:6, 3:6] = bend
        J_j[:, 6, 6] = 1.0
        return r, J_i, J_j

    def _step(self, r: np.ndarray, J_i: np.ndarray, J_j: np.ndarray) -> np.ndarray:
        """[N, 7] from the sparse normal equations of the nodes that are free."""
        from scipy.sparse import csc_matrix  # where it is used: a stream without loops never loads it
        from scipy.sparse.linalg import splu

        W = (self.precision * self.weight[:, None])[:, :, None]
        WJ_i, WJ_j = W * J_i, W * J_j
        blocks = {
            (0, 0): np.swapaxes(J_i, 1, 2) @ WJ_i,
            (0, 1): np.swapaxes(J_i, 1, 2) @ WJ_j,
            (1, 0): np.swapaxes(J_j, 1, 2) @ WJ_i,
            (1, 1): np.swapaxes(J_j, 1, 2) @ WJ_j,
        }
        ends, count = (self.i, self.j), len(self._is_free)
        rows, columns, values = [], [], []
        for (p, q), block in blocks.items():
            at = np.broadcast_to(DOF * ends[p][:, None, None] + np.arange(DOF)[:, None], block.shape)
            rows.append(at.ravel())
            at = np.broadcast_to(DOF * ends[q][:, None, None] + np.arange(DOF)[None, :], block.shape)
            columns.append(at.ravel())
            values.append(block.ravel())
        gradient = np.zeros((count, DOF))
        for end, WJ in zip(ends, (WJ_i, WJ_j), strict=True):
            np.add.at(gradient, end, np.einsum('eij,ei->ej', WJ, r))
        size = DOF * count
        H = csc_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(size, size))
        free = np.flatnonzero(np.repeat(self._is_free, DOF))
        step = np.zeros(size)
        if len(free):
            # symmetric and positive: no pivoting, and an order made for symmetric matrices
            factor = splu(
                H[free][:, free], permc_spec='MMD_AT_PLUS_A', diag_pivot_thresh=0.0, options={'SymmetricMode': True}
            )
            step[free] = -factor.solve(gradient.ravel()[free])
        return step.reshape(count, DOF)


def chain_covariance(nodes: Sequence[Sim3], sigmas: np.ndarray) -> np.ndarray:
    """How far the last window of a chain may be off as the first sees it, by what its seams may be off.

    Args:
        nodes: N similarities map_from_window along the chain.
        sigmas: [N - 1, 7] of the seams, as in Edge; the shift in units of the window it starts from.

    Returns:
        [7, 7] of shift and turn in the axes and unit of the map, and of the log of the scale.

    Source: first order of (1 + growth) exp(turn) @ arm, as in covariance.move_covariance.
    """
    end, places = nodes[-1].t, np.stack([node.t for node in nodes[1:]])
    scales = np.array([node.scale for node in nodes[:-1]])
    arms = end - places  # (N - 1, 3)
    J = np.tile(np.eye(DOF), (len(arms), 1, 1))
    J[:, :3, 3:6] = -_cross_matrices(arms)
    J[:, :3, 6] = arms
    variances = sigmas**2
    variances[:, :3] *= scales[:, None] ** 2
    return np.einsum('nij,nj,nkj->ik', J, variances, J)


def difference(measured: Sim3, predicted: Sim3) -> np.ndarray:
    """[7] shift and turn of one similarity against another in the axes of the target, and the log of their scales."""
    turn = vector_from_rotation(measured.R @ predicted.R.T)
    return np.concatenate([measured.t - predicted.t, turn, [np.log(measured.scale / predicted.scale)]])


def _nearest(edges_of: dict[int, list[Edge]], start: Sequence[int], count: int) -> set[int]:
    """About `count` nodes, breadth first from some."""
    found, ring = set(start), set(start)
    while ring and len(found) < count:
        ring = _ends(edges_of, ring) - found
        found |= ring
    return found


def _ends(edges_of: dict[int, list[Edge]], nodes: set[int]) -> set[int]:
    """Of all edges at some nodes."""
    return {end for node in nodes for edge in edges_of.get(node, ()) for end in (edge.i, edge.j)}


def _stack(similarities: Sequence[Sim3]) -> _Nodes:
    return _Nodes(
        np.array([one.scale for one in similarities]),
        np.stack([one.R for one in similarities]),
        np.stack([one.t for one in similarities]),
    )


def _first_of_each_part(count: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """[N] whether a node is the first of those that edges connect it with."""
    from scipy.sparse import csc_matrix
    from scipy.sparse.csgraph import connected_components

    graph = csc_matrix((np.ones(len(i)), (i, j)), shape=(count, count))
    _, part = connected_components(graph, directed=False)
    is_first = np.zeros(count, dtype=bool)
    is_first[np.unique(part, return_index=True)[1]] = True
    return is_first


def _cross_matrices(vectors: np.ndarray) -> np.ndarray:
    """[E, 3] -> [E, 3, 3], as geometry.cross_matrix."""
    return np.einsum('ek,kij->eij', vectors, np.stack([cross_matrix(axis) for axis in np.eye(3)]))


def _right_jacobian_inverse(turn: np.ndarray) -> np.ndarray:
    """[E, 3] rotation vectors -> [E, 3, 3].

    Source: Sola et al., A Micro Lie Theory for State Estimation in Robotics, 2018, eq. 144.
    """
    angle = np.linalg.norm(turn, axis=1)
    small = angle < 1e-4
    safe = np.where(small, 1.0, angle)
    factor = np.where(small, 1 / 12, 1 / safe**2 - (1 + np.cos(safe)) / (2 * safe * np.sin(safe) + 1e-300))
    K = _cross_matrices(turn)
    return np.eye(3) + K / 2 + factor[:, None, None] * (K @ K)
