"""Attention as a graph: NetworkX and SciPy on the same graph, shapes with known answers, what must not change them."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest

from graphattn.analysis.maps import AttentionMaps
from graphattn.analysis.structure import MEASURES, attention_graph, centrality, communities


def _random(size: int, heads: int = 2, seed: int = 0, kept: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    A = rng.dirichlet(np.ones(size), (heads, size)) * (rng.random((size, size)) < kept)
    return A / np.maximum(A.sum(axis=2, keepdims=True), 1e-300)


def _maps(A: np.ndarray, **options: object) -> AttentionMaps:
    return AttentionMaps.from_arrays(A if A.ndim == 4 else A.reshape(1, -1, *A.shape[-2:]), **options)


def _as_edges(A: np.ndarray) -> AttentionMaps:
    target, source = np.nonzero(A.any(axis=0))
    return AttentionMaps.from_arrays([(np.stack([source, target]), A[:, target, source].T)], num_nodes=A.shape[1])


def _ring(size: int) -> np.ndarray:
    return np.roll(np.eye(size), -1, axis=1)


def test_the_graph_holds_the_attention() -> None:
    A = _random(6, heads=3)
    graph = attention_graph(_maps(A, tokens=list("abcdef")))
    assert [graph.nodes[number]["token"] for number in range(6)] == list("abcdef")
    np.testing.assert_allclose(nx.to_numpy_array(graph, nodelist=range(6)).T, A.mean(axis=0), rtol=1e-15)
    one = nx.to_numpy_array(attention_graph(_maps(A), head=1), nodelist=range(6)).T
    np.testing.assert_array_equal(one, A[1])
    strong = nx.to_numpy_array(attention_graph(_maps(A), least=0.2, loops=False), nodelist=range(6)).T
    mean = A.mean(axis=0) * ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(strong, np.where(mean > 0.2, mean, 0.0), rtol=1e-15)


def test_parallel_edges_add_up() -> None:
    edges = np.array([[1, 1, 0], [0, 0, 1]]), np.array([[0.25], [0.75], [1.0]])
    graph = attention_graph(AttentionMaps.from_arrays([edges], num_nodes=2))
    assert graph.edges[1, 0]["weight"] == 1.0


def test_layers_are_counted_from_both_ends() -> None:
    maps = AttentionMaps.from_arrays(np.stack([_ring(4)[None], np.eye(4)[None]]))
    assert set(attention_graph(maps, 0).edges) == {(0, 1), (1, 2), (2, 3), (3, 0)}
    assert set(attention_graph(maps).edges) == set(attention_graph(maps, 1).edges) == {(i, i) for i in range(4)}


def test_measures_are_those_of_networkx() -> None:
    A = _random(9, seed=3)
    found = centrality(_maps(A)).values
    graph = attention_graph(_maps(A), loops=False)
    for *_, data in graph.edges(data=True):
        data["length"] = 1 / data["weight"]
    whole = attention_graph(_maps(A))
    expected = {
        "received": {j: d / 8 for j, d in graph.out_degree(weight="weight")},
        "pagerank": nx.pagerank(whole.reverse(), tol=1e-15),
        "closeness": nx.closeness_centrality(graph.reverse(), distance="length"),
        "betweenness": nx.betweenness_centrality(graph, weight="length"),
    }
    assert tuple(found) == MEASURES == tuple(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], [values[j] for j in range(9)], rtol=1e-10, err_msg=name)


def test_pagerank_solves_its_equation() -> None:
    A = _random(8, heads=1, seed=1)
    A[0, 2] = 0.0  # draws on none: leads anywhere
    walk = A[0].copy()
    walk[2] = 1 / 8
    expected = np.linalg.solve(np.eye(8) - 0.6 * walk.T, np.full(8, 0.4 / 8))
    np.testing.assert_allclose(centrality(_maps(A), damping=0.6).values["pagerank"], expected, rtol=1e-10)


def test_a_ring_has_no_centre() -> None:
    found = centrality(_maps(_ring(6))).values
    np.testing.assert_allclose(found["received"], 1 / 5, rtol=1e-14)
    np.testing.assert_allclose(found["pagerank"], 1 / 6, rtol=1e-12)
    np.testing.assert_allclose(found["closeness"], 5 / 15, rtol=1e-14)
    np.testing.assert_allclose(found["betweenness"], 10 / 20, rtol=1e-14)


def test_the_middle_of_a_star_is_its_centre() -> None:
    """The middle draws on all equally, all draw on the middle alone."""
    size = 6
    star = np.zeros((size, size))
    star[1:, 0] = 1.0
    star[0, 1:] = 1 / (size - 1)
    found = centrality(_maps(star)).values
    assert found["received"][0] == 1.0
    assert found["betweenness"].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert found["closeness"][0] == 1.0
    # p_0 = 0.15 / N + 0.85 (1 - p_0)
    assert found["pagerank"][0] == pytest.approx((0.15 / size + 0.85) / 1.85, rel=1e-10)


def test_betweenness_counts_the_shortest_paths() -> None:
    A = _random(6, heads=1, seed=5, kept=0.6)
    lengths = np.where(A[0] > 0, 1 / np.where(A[0] > 0, A[0], 1.0), np.inf)
    through = np.zeros(6)
    for start, end in itertools.permutations(range(6), 2):
        between = set(range(6)) - {start, end}
        paths = [
            (start, *middle, end) for count in range(5) for middle in itertools.permutations(sorted(between), count)
        ]
        length = [sum(lengths[i, j] for j, i in itertools.pairwise(path)) for path in paths]
        if np.isfinite(min(length)):
            through[list(paths[int(np.argmin(length))][1:-1])] += 1
    found = centrality(_maps(A), measures=["betweenness"]).values
    assert list(found) == ["betweenness"]
    np.testing.assert_allclose(found["betweenness"], through / 20, rtol=1e-14)


def test_permuting_tokens_permutes_centrality() -> None:
    A, order = _random(7, seed=2), np.array([1, 2, 0, 4, 5, 6, 3])
    plain, moved = centrality(_maps(A)), centrality(_maps(A[:, order][:, :, order]))
    for name, values in plain.values.items():
        np.testing.assert_allclose(moved.values[name], values[order], rtol=1e-10)


def test_edges_give_what_matrices_give() -> None:
    A = _random(8, seed=4)
    dense, edges = _maps(A), _as_edges(A)
    for name, values in centrality(dense, head=1).values.items():
        np.testing.assert_allclose(centrality(edges, head=1).values[name], values, rtol=1e-12)
    assert communities(edges).member.tolist() == communities(dense).member.tolist()


def test_tokens_that_draw_on_none_but_themselves() -> None:
    found = centrality(_maps(np.eye(4))).values
    for name in ("received", "closeness", "betweenness"):
        assert found[name].tolist() == [0.0] * 4
    np.testing.assert_allclose(found["pagerank"], 0.25, rtol=1e-12)
    groups = communities(_maps(np.eye(4)))
    assert groups.member.tolist() == groups.components.tolist() == [0, 1, 2, 3]
    assert groups.modularity == 0.0


def test_one_token() -> None:
    found = centrality(_maps(np.ones((1, 1)))).values
    assert {name: values.tolist() for name, values in found.items()} == {
        "received": [0.0],
        "pagerank": [1.0],
        "closeness": [0.0],
        "betweenness": [0.0],
    }
    assert communities(_maps(np.ones((1, 1)))).member.tolist() == [0]


def test_blocks_are_communities() -> None:
    sizes, rng = [3, 5, 4], np.random.default_rng(0)
    group = np.repeat([0, 1, 2], sizes)
    A = np.where(group[:, None] == group, 1.0, 0.02) * rng.uniform(0.8, 1.2, (12, 12))
    A /= A.sum(axis=1, keepdims=True)
    order = rng.permutation(12)
    found = communities(_maps(A[order][:, order]))
    sizes_found = np.bincount(found.member)
    assert sizes_found.tolist() == [5, 4, 3]
    for label, members in enumerate([1, 2, 0]):
        assert set(np.flatnonzero(found.member == label)) == set(np.flatnonzero(group[order] == members))
    W = A[order][:, order] * ~np.eye(12, dtype=bool)
    W = W + W.T
    same = found.member[:, None] == found.member
    k, total = W.sum(axis=1), W.sum()
    assert found.modularity == pytest.approx(((W - np.outer(k, k) / total) * same).sum() / total, rel=1e-12)
    assert found.components.tolist() == [0] * 12


def test_blocks_that_are_apart_are_components() -> None:
    A = np.kron(np.eye(2), np.full((3, 3), 1 / 3))
    found = communities(_maps(A))
    assert found.member.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.components[0] != found.components[3]
    causal = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
    assert len(set(communities(_maps(causal)).components.tolist())) == 4


def test_a_seed_repeats_the_search() -> None:
    maps = _maps(_random(30, heads=1, seed=7, kept=0.2))
    assert communities(maps, random_state=3).member.tolist() == communities(maps, random_state=3).member.tolist()
    fine, coarse = communities(maps, resolution=4.0), communities(maps, resolution=0.2)
    assert fine.member.max() > coarse.member.max()


def test_a_large_graph() -> None:
    """A ring of 10,000 tokens that draw on themselves and on the one before."""
    size = 10_000
    number = np.arange(size)
    edges = np.stack([np.concatenate([number, number - 1]) % size, np.concatenate([number, number])])
    maps = AttentionMaps.from_arrays([(edges, np.full((2 * size, 1), 0.5))], num_nodes=size)
    found = centrality(maps, measures=["received", "pagerank"]).values
    np.testing.assert_allclose(found["received"], 0.5 / (size - 1), rtol=1e-12)
    np.testing.assert_allclose(found["pagerank"], 1 / size, rtol=1e-9)
    assert attention_graph(maps, loops=False).number_of_edges() == size


def test_equal_moves_do_not_go_in_circles() -> None:
    """In a ring all moves to either side gain the same; between them the search ends in arcs."""
    size = 5_000
    edges = np.stack([np.roll(np.arange(size), 1), np.arange(size)])
    maps = AttentionMaps.from_arrays([(edges, np.ones((size, 1)))], num_nodes=size)
    found = communities(maps)
    borders = np.count_nonzero(found.member != np.roll(found.member, 1))
    assert borders == found.member.max() + 1
    # Of arcs, modularity is what the edges keep, less what they would by strength alone.
    share = np.bincount(found.member) / size
    assert found.modularity == pytest.approx(1 - borders / size - (share**2).sum(), rel=1e-12)
    assert found.modularity > 0.97


def test_closeness_of_more_tokens_than_are_searched_from_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = _maps(_random(11))
    whole = centrality(maps, measures=["closeness"]).values["closeness"]
    monkeypatch.setattr("graphattn.analysis.structure._ROWS", 4)
    np.testing.assert_array_equal(centrality(maps, measures=["closeness"]).values["closeness"], whole)


def test_frames_name_the_tokens() -> None:
    maps = _maps(_ring(3), tokens=["a", "b", "c"])
    frame = centrality(maps, measures=["received"]).as_frame()
    assert frame.columns.tolist() == ["token", "received"]
    assert frame["token"].tolist() == ["a", "b", "c"]
    groups = communities(maps).as_frame()
    assert groups["component"].tolist() == [0, 0, 0]
    assert groups["community"].tolist() == [0, 0, 0]


def test_mistakes_are_named() -> None:
    maps = _maps(_random(4))
    with pytest.raises(ValueError, match="layer is 1 but there are 1 layers; expected a number of -1 to 0"):
        attention_graph(maps, 1)
    with pytest.raises(ValueError, match="head is 2 but layer -1 has 2 heads; expected one of 0 to 1"):
        centrality(maps, head=2)
    with pytest.raises(ValueError, match=r"least is -0\.5"):
        communities(maps, least=-0.5)
    with pytest.raises(ValueError, match=r"measures is \['degree'\]; expected some of 'received'"):
        centrality(maps, measures=["degree"])
    with pytest.raises(ValueError, match=r"measures is \[\]"):
        centrality(maps, measures=[])
    with pytest.raises(ValueError, match=r"damping is 1; expected a number in \[0, 1\)"):
        centrality(maps, damping=1)
    with pytest.raises(ValueError, match="resolution is 0; expected a positive number"):
        communities(maps, resolution=0)
    negative = AttentionMaps.from_arrays(np.array([[[[2.0, -1.0], [0.0, 1.0]]]]), validate=False)
    with pytest.raises(ValueError, match="layer -1 has negative weights, the lowest -1"):
        attention_graph(negative)
