"""The pose graph against graphs whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vggt_ros.core.geometry import Sim3, rotation_angle
from vggt_ros.core.loops.pose_graph import Edge, PoseGraph, chain_covariance, difference

SIGMA = np.array([0.02] * 3 + [0.005] * 3 + [0.01])  # of a seam at unit scale: metres, radians, log


def round_a_circle(count: int, per_lap: int, seed: int = 0) -> list[Sim3]:
    """map_from_window of windows along laps of a circle of 5 m, each in a unit of its own."""
    rng = np.random.default_rng(seed)
    angles = 2 * np.pi * np.arange(count) / per_lap
    return [
        Sim3(
            float(3 ** rng.uniform(-1, 1)),
            Rotation.from_euler('zx', [a + np.pi / 2, 0.3 * np.sin(2 * a)]).as_matrix(),
            np.array([5 * np.cos(a), 5 * np.sin(a), 0.4 * np.sin(3 * a)]),
        )
        for a in angles
    ]


def measured(truth: list[Sim3], i: int, j: int, rng: np.random.Generator | None, is_loop: bool = False) -> Edge:
    """The edge between two windows, with noise of SIGMA where there is a source of it."""
    i_from_j = truth[i].inverse() @ truth[j]
    sigma = SIGMA / np.array([truth[i].scale] * 3 + [1.0] * 4)
    if rng is not None:
        e = rng.normal(size=7) * sigma
        turn = Rotation.from_rotvec(e[3:6]).as_matrix()
        i_from_j = Sim3(i_from_j.scale * math.exp(e[6]), i_from_j.R @ turn, i_from_j.t + e[:3])
    return Edge(i, j, i_from_j, sigma, is_loop)


def chained(truth: list[Sim3], rng: np.random.Generator | None, start: Sim3 | None = None) -> PoseGraph:
    """Windows one after the other by their seams, as the stream places them."""
    graph, place = PoseGraph(), start or truth[0]
    graph.add(0, place)
    for k in range(1, len(truth)):
        edge = measured(truth, k - 1, k, rng)
        place = place @ edge.i_from_j
        graph.add(k, place, edge)
    return graph


def error(places: dict[int, Sim3], truth: list[Sim3]) -> float:
    """Metres, rms."""
    return math.sqrt(np.mean([np.sum((places[k].t - truth[k].t) ** 2) for k in places]))


@pytest.mark.parametrize('seed', range(3))
def test_without_noise_the_truth_comes_back_from_anywhere(seed: int):
    rng = np.random.default_rng(seed)
    truth = round_a_circle(40, 30, seed)
    graph = chained(truth, None)
    graph.connect(measured(truth, 2, 33, None))
    for k in range(1, 40):  # as wrong as a map may be: a metre, 20 degrees, a third
        e = rng.normal(size=7) * np.array([1.0] * 3 + [0.35] * 3 + [0.3]) / 2
        turn = Rotation.from_rotvec(e[3:6]).as_matrix()
        graph.nodes[k] = Sim3(truth[k].scale * math.exp(e[6]), truth[k].R @ turn, truth[k].t + e[:3])
    solved = graph.solve().map_from_windows
    for k in range(40):
        assert np.linalg.norm(solved[k].t - truth[k].t) < 1e-6
        assert rotation_angle(solved[k].R.T @ truth[k].R) < 1e-7
        assert abs(math.log(solved[k].scale / truth[k].scale)) < 1e-7


def test_the_first_window_stays_where_it_is():
    truth = round_a_circle(30, 30)
    graph = chained(truth, np.random.default_rng(0), start=Sim3(0.7, np.eye(3), np.array([1.0, 2.0, 3.0])))
    graph.connect(measured(truth, 0, 29, None, True))
    first = graph.solve().map_from_windows[0]
    assert first.scale == 0.7
    np.testing.assert_array_equal(first.t, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(first.R, np.eye(3))


def test_a_loop_spreads_the_drift_over_the_way():
    before, after = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        truth = round_a_circle(120, 100, seed)
        graph = chained(truth, rng)
        before.append(error(graph.nodes, truth))
        for j in (101, 108, 115):
            graph.connect(measured(truth, j - 100, j, rng, True))
        solution = graph.solve()
        after.append(error(solution.map_from_windows, truth))
        assert min(solution.loop_weights.values()) > 0.5
        gap = solution.map_from_windows[0].inverse() @ solution.map_from_windows[100]
        true_gap = truth[0].inverse() @ truth[100]
        assert np.linalg.norm(gap.t - true_gap.t) * truth[0].scale < 6 * 0.02  # closed to the noise of a seam or two
        steps = [np.linalg.norm(difference(solution.map_from_windows[k], graph.nodes[k])[:3]) for k in range(120)]
        assert np.abs(np.diff(steps)).max() < 0.25 * max(steps)  # and not by one jump
    assert np.median(after) < np.median(before) / 3  # measured: a fifth


@pytest.mark.parametrize('seed', range(4))
def test_one_false_loop_among_true_ones_loses_its_say(seed: int):
    rng = np.random.default_rng(seed)
    truth = round_a_circle(120, 100, seed)
    graph = chained(truth, rng)
    for j in (101, 106, 111, 116):
        graph.connect(measured(truth, j - 100, j, rng, True))
    without = graph.copy().solve().map_from_windows
    false = Edge(30, 104, Sim3(truth[104].scale / truth[30].scale, np.eye(3), np.zeros(3)), graph.edges[-1].sigma, True)
    graph.connect(false)  # 30 and 104 are 8 m apart
    solution = graph.solve()
    *true, false = solution.loop_weights.values()
    assert false < 1e-3
    assert min(true) > 0.5
    moved = max(np.linalg.norm(solution.map_from_windows[k].t - without[k].t) for k in without)
    assert moved < 0.01  # metres: nothing to be seen in a map


def test_the_same_graph_gives_the_same_numbers():
    def once():
        rng = np.random.default_rng(5)
        truth = round_a_circle(60, 50)
        graph = chained(truth, rng)
        graph.connect(measured(truth, 3, 55, rng, True))
        return graph.solve()

    one, other = once(), once()
    for a, b in zip(one.map_from_windows.values(), other.map_from_windows.values(), strict=True):
        np.testing.assert_array_equal(a.t, b.t)
        np.testing.assert_array_equal(a.R, b.R)


def test_solving_leaves_the_graph_alone_and_parts_stay_apart():
    truth = round_a_circle(20, 20)
    graph = chained(truth[:10], np.random.default_rng(0))
    graph.add(10, Sim3(2.0, np.eye(3), np.full(3, 7.0)))  # after a gap: nothing joins it
    graph.connect(measured(truth, 0, 9, None, True))
    nodes = dict(graph.nodes)
    solution = graph.solve()
    assert graph.nodes == nodes
    np.testing.assert_array_equal(solution.map_from_windows[10].t, np.full(3, 7.0))
    graph.forget(9)
    assert all(9 not in (edge.i, edge.j) for edge in graph.edges)
    with pytest.raises(KeyError, match='windows of the graph'):
        graph.connect(measured(truth, 0, 9, None, True))


def test_chain_covariance_is_that_of_many_chains():
    truth = round_a_circle(15, 100)
    sigmas = np.stack([SIGMA / np.array([one.scale] * 3 + [1.0] * 4) for one in truth[:-1]])
    expected = chain_covariance(truth, sigmas)
    ends = np.stack(
        [difference(chained(truth, np.random.default_rng(seed)).nodes[14], truth[14]) for seed in range(150)]
    )
    found = np.cov(ends.T)
    # 150 draws tell a variance to 12 %: three of those; first order is good to some per cent here
    np.testing.assert_allclose(np.diag(found), np.diag(expected), rtol=0.4)


def rounds(count: int, lap: int, every: int, settle: str) -> tuple[PoseGraph, list[int]]:
    """Round and round, a loop each so many windows from the second lap on; how many windows each solve moved."""
    rng, truth = np.random.default_rng(3), round_a_circle(count, lap, 3)
    graph, moved = PoseGraph(), []
    graph.add(0, truth[0])
    for k in range(1, count):
        edge = measured(truth, k - 1, k, rng)
        graph.add(k, graph.nodes[k - 1] @ edge.i_from_j, edge)
        if k >= lap and k % every == 0:
            graph.connect(measured(truth, k - lap, k, rng, True))
            solution = graph.settle([k - lap, k]) if settle == 'part' else graph.solve()
            graph.nodes.update(solution.map_from_windows)
            moved.append(len(solution.map_from_windows))
    return graph, moved


def test_late_loops_solve_a_part_and_lead_where_the_whole_would():
    part, moved = rounds(280, 60, 5, 'part')
    whole, _ = rounds(280, 60, 5, 'whole')
    assert moved[0] > 55  # the first loop bends the whole way so far
    assert np.median(moved[-20:]) < 140  # of up to 280
    apart = [np.linalg.norm(part.nodes[k].t - whole.nodes[k].t) for k in part.nodes]
    truth = round_a_circle(280, 60, 3)
    assert max(apart) < error(whole.nodes, truth) / 2
    assert error(part.nodes, truth) < 1.1 * error(whole.nodes, truth)


@pytest.mark.parametrize('new', [[], [69], [5, 65]])
def test_a_graph_in_two_parts_settles_as_it_solves(new: list[int]):
    """After a gap nothing joins the windows from 70 on; loops whose ends were withdrawn ask for nothing."""
    truth = round_a_circle(90, 60)
    graph = chained(truth[:70], np.random.default_rng(0))
    graph.add(70, Sim3(2.0, np.eye(3), np.full(3, 7.0)))
    graph.connect(measured(truth, 5, 65, None, True))
    settled, solved = graph.settle(new).map_from_windows, graph.solve().map_from_windows
    for index in solved:
        np.testing.assert_allclose(settled.get(index, graph.nodes[index]).t, solved[index].t, atol=1e-9)


def test_a_part_that_drifted_for_long_is_solved_whole():
    rng = np.random.default_rng(0)
    truth = round_a_circle(300, 280)
    graph = chained(truth, rng)
    graph.connect(measured(truth, 5, 285, rng, True))
    settled, solved = graph.settle([5, 285]).map_from_windows, graph.solve().map_from_windows
    assert len(settled) == 300
    np.testing.assert_allclose(settled[150].t, solved[150].t, atol=1e-9)
