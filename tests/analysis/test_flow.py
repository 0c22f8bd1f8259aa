"""Attention flow: bounds, closed forms, and the maximum flow of networkx."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
from networkx.algorithms.flow import edmonds_karp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from graphattn.analysis.flow import _BACKENDS, flow
from graphattn.analysis.maps import AttentionMaps
from graphattn.analysis.rollout import mixed_layer, rollout

EPS = np.finfo(np.float64).eps
NODES, LAYERS = 5, 3
UNIT = 2.0**-20
ROUNDED = UNIT / 2 * NODES**2  # half a unit for each edge of a cut, which has at most those between two layers
EXACT = 8 * LAYERS * NODES**2 * EPS


def random_maps(layers: int = LAYERS, nodes: int = NODES, causal: bool = False, seed: int = 0) -> AttentionMaps:
    A = np.random.default_rng(seed).random((layers, 2, nodes, nodes)) ** 2
    A = np.tril(A) if causal else A
    return AttentionMaps.from_arrays(A / A.sum(-1, keepdims=True))


def capacities(maps: AttentionMaps) -> np.ndarray:
    return np.stack([mixed_layer(maps, layer, "mean", True) for layer in range(maps.num_layers)])


def by_networkx(A: np.ndarray) -> np.ndarray:
    """The flow from the last layer, with nodes named by layer and number."""
    graph = nx.DiGraph()
    for layer, matrix in enumerate(A, start=1):
        for i, j in np.argwhere(matrix):
            graph.add_edge((layer, i), (layer - 1, j), capacity=matrix[i, j])
    size = A.shape[1]
    graph.add_nodes_from((layer, i) for layer in (0, len(A)) for i in range(size))
    pairs = [[((len(A), i), (0, j)) for j in range(size)] for i in range(size)]
    return np.array([[nx.maximum_flow_value(graph, *pair, flow_func=edmonds_karp) for pair in row] for row in pairs])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layers", [2, 3])
def test_both_backends_are_networkx(layers: int, causal: bool) -> None:
    maps = random_maps(layers, causal=causal)
    truth = by_networkx(capacities(maps))
    for backend, tolerance in (("scipy", ROUNDED), ("networkx", EXACT)):
        found = flow(maps, normalize=False, backend=backend).flow
        assert_allclose(found, truth[None], rtol=0, atol=tolerance)
    shares = flow(maps).flow[0]
    assert_allclose(shares, truth / truth.sum(1, keepdims=True), rtol=0, atol=1e-5)
    assert_allclose(shares.sum(1), 1.0, rtol=0, atol=NODES * EPS)


@pytest.mark.parametrize("part", [0.3, 0.7])
def test_capacities_are_rounded_to_the_nearest_unit(part: float) -> None:
    """A cut of a single edge is off by at most half a unit."""
    capacity = (1000 + part) * UNIT
    layers = [np.array([[1.0, 0.0], [capacity, 1 - capacity]]), np.eye(2)]
    found = flow(AttentionMaps.from_arrays(layers), residual=False, normalize=False).flow[0]
    assert abs(found[1, 0] - capacity) <= UNIT / 2


@pytest.mark.parametrize("backend", ["scipy", "networkx"])
def test_one_layer_is_its_capacities(backend: str) -> None:
    maps = random_maps(layers=1)
    assert_array_equal(flow(maps, normalize=False, backend=backend).flow, capacities(maps))


def test_it_lies_between_the_rollout_and_what_enters_the_input() -> None:
    for seed in range(5):
        maps = random_maps(seed=seed)
        found = flow(maps, normalize=False).flow[0]
        most = np.minimum(1, capacities(maps)[0].sum(0))
        assert (rollout(maps).relevance[-1] <= found + ROUNDED).all()
        assert (found <= most + ROUNDED).all()


def test_attention_to_oneself() -> None:
    maps = AttentionMaps.from_arrays(np.broadcast_to(np.eye(NODES), (LAYERS, 1, NODES, NODES)).copy())
    for normalize in (False, True):
        assert_array_equal(flow(maps, normalize=normalize).flow[0], np.eye(NODES))


def test_nothing_flows_from_later_tokens_in_causal_maps() -> None:
    assert not np.triu(flow(random_maps(causal=True)).flow[0], 1).any()


@pytest.mark.parametrize("backend", _BACKENDS)
def test_a_larger_capacity_lets_no_less_through(backend: str) -> None:
    """Entries grow one by one, and rows are not brought back to sum 1."""

    def flows(A: np.ndarray) -> np.ndarray:
        largest = _BACKENDS[backend]([csr_array(layer) for layer in A])
        return np.array([[largest(len(A) * NODES + i, j) for j in range(NODES)] for i in range(NODES)])

    A = capacities(random_maps())
    before = flows(A)
    rng = np.random.default_rng(1)
    for _ in range(4):
        A[tuple(rng.integers(size) for size in A.shape)] += 0.5
        after = flows(A)
        assert (after >= before - (EXACT if backend == "networkx" else 0.0)).all()
        before = after


def test_a_node_without_attention_keeps_to_itself() -> None:
    A = capacities(random_maps())
    A[:, 2] = 0
    maps = AttentionMaps.from_arrays(list(A))
    for residual in (True, False):
        found = flow(maps, residual=residual).flow[0]
        assert found[2].tolist() == np.eye(NODES)[2].tolist()
        assert np.isfinite(found).all()


def test_edges_give_the_same() -> None:
    rng = np.random.default_rng(0)
    A = rng.random((LAYERS, 2, NODES, NODES)) * (rng.random((LAYERS, 1, NODES, NODES)) < 0.5) + np.eye(NODES)
    maps = AttentionMaps.from_arrays(A / A.sum(-1, keepdims=True))
    edges = AttentionMaps.from_arrays([maps.edges(layer) for layer in range(LAYERS)], num_nodes=NODES)
    found, truth = (flow(given, normalize=False).flow for given in (edges, maps))
    assert_allclose(found, truth, rtol=0, atol=2 * ROUNDED)


def test_some_targets_and_all_layers() -> None:
    maps = random_maps()
    whole = flow(maps, layers="all", normalize=False)
    assert whole.layers.tolist() == [0, 1, 2]
    for layers in (1, 2, 3):
        part = AttentionMaps.from_arrays(list(maps.layers[:layers]))
        assert_array_equal(whole.flow[layers - 1], flow(part, normalize=False).flow[0])
    some = flow(maps, targets=[3, 0], normalize=False)
    assert some.targets.tolist() == [3, 0]
    assert_array_equal(some.flow[0], whole.flow[-1][[3, 0]])


def test_a_large_sparse_graph() -> None:
    """All draw on themselves and on the one before, so that few inputs are within reach of a target."""
    size, layers = 10_000, 3
    number = np.arange(size)
    ring = np.stack([np.roll(number, 1), number])
    maps = AttentionMaps.from_arrays([(ring, np.ones((size, 1)))] * layers, num_nodes=size)
    found = flow(maps, targets=[10, 0], normalize=False).flow[0]
    # From 10 to 7 one path, to 8 and 9 three with 2 x 1/2 at either end, to 10 one.
    assert found[0, [10, 9, 8, 7]].tolist() == [0.5, 1.0, 1.0, 0.5]
    assert found[1, [0, -1, -2, -3]].tolist() == [0.5, 1.0, 1.0, 0.5]
    assert np.count_nonzero(found) == 8
    with pytest.raises(ValueError, match=r"flow to 10000 targets in 3 layers is 2\.2 GiB; choose fewer targets"):
        flow(maps, layers="all")


def test_permuted_tokens() -> None:
    maps, order = random_maps(), np.roll(np.arange(NODES), 2)
    A = np.stack([maps.dense(layer) for layer in range(LAYERS)])
    found = flow(AttentionMaps.from_arrays(A[:, :, order][..., order]), normalize=False).flow[0]
    assert_allclose(found, flow(maps, normalize=False).flow[0][order][:, order], rtol=0, atol=2 * ROUNDED)


def test_the_frame() -> None:
    found = flow(random_maps(), layers="all")
    assert found.as_frame().loc[(1, 4), 2] == found.flow[1, 4, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "first"}, "layers is 'first'; expected 'last' or 'all'"),
        ({"backend": "igraph"}, "backend is 'igraph'; expected one of 'scipy', 'networkx'"),
        ({"targets": [NODES]}, "there are 5 nodes"),
        ({"fusion": "sum"}, "fusion is 'sum'"),
        ({"residual": 2.0}, "residual is 2.0"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flow(random_maps(), **options)
