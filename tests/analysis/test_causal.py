"""The causal graph of tokens, from the attention of one head to what is said of each pair."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from graphattn.analysis.causal import CausalGraph, causal_graph
from graphattn.analysis.causal_correlation import attention_correlation
from graphattn.analysis.causal_learners import learn_pag
from graphattn.analysis.causal_pag import Pag
from graphattn.analysis.causal_tests import PartialCorrelationTest
from graphattn.analysis.maps import AttentionMaps
from tests.analysis.structural_models import attention_of, correlation_of, random_weights

EPS = np.finfo(np.float64).eps


def attention(seed: int = 0, size: int = 6) -> np.ndarray:
    return attention_of(random_weights(np.random.default_rng(seed), size))


def skeleton(A: Any, n_samples: int | str = 768, **options: Any) -> CausalGraph:
    return causal_graph(A, n_samples, learner="skeleton", **options)


# Reading attention


def test_the_graph_is_what_the_learner_finds_on_exact_correlations() -> None:
    for seed in range(20):
        G = random_weights(np.random.default_rng(seed))
        pag = learn_pag(PartialCorrelationTest(correlation_of(G), 768), "skeleton")
        assert_array_equal(skeleton(attention_of(G)).pag.marks, pag.marks)


def test_fci_is_the_default() -> None:
    pytest.importorskip("causallearn")
    A = attention(1)
    test = PartialCorrelationTest(attention_correlation(A)[0], 768)
    assert_array_equal(causal_graph(A, 768).pag.marks, learn_pag(test, "fci").marks)


def edges_of(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    target, source = np.nonzero((A != 0).any(axis=0))
    return np.stack([source, target]), A[:, target, source].T


@pytest.mark.parametrize("form", ["array", "tensor", "maps", "edges"])
def test_every_form_gives_the_same_graph(form: str) -> None:
    A = np.stack([attention(2), attention(3)])
    given: Any = {
        "array": A,
        "tensor": torch.from_numpy(A).requires_grad_(),
        "maps": AttentionMaps.from_arrays([np.eye(6)[None], A]),
        "edges": AttentionMaps.from_arrays([edges_of(A)], num_nodes=6),
    }[form]
    for head in (0, 1):
        graph = skeleton(given, head=head)
        assert_array_equal(graph.pag.marks, skeleton(A[head]).pag.marks)
        assert_allclose(graph.test.correlation, attention_correlation(A[head])[0], rtol=0, atol=4 * EPS)


def test_the_layer_is_chosen() -> None:
    maps = AttentionMaps.from_arrays([attention(0)[None], attention(1)[None], np.eye(6)[None]])
    assert skeleton(maps).pag.edges() == []
    assert_array_equal(skeleton(maps, layer=1).pag.marks, skeleton(attention(1)).pag.marks)
    assert_array_equal(skeleton(maps, layer=-3).pag.marks, skeleton(attention(0)).pag.marks)


def test_masked_tokens_are_gone() -> None:
    A = np.zeros((8, 8))
    A[:6, :6] = attention(4)
    A[6:] = 1 / 8
    maps = AttentionMaps.from_arrays(A[None, None], mask=np.arange(8) < 6, tokens=list("abcdefgh"))
    graph = skeleton(maps)
    assert_array_equal(graph.pag.marks, skeleton(A[:6, :6]).pag.marks)
    assert graph.tokens == tuple("abcdef")


def test_nodes_keep_the_numbers_of_their_tokens() -> None:
    A = attention(5, 7)
    graph = skeleton(A, nodes=[6, 2, 4])
    assert graph.pag.nodes == (6, 2, 4)
    R = attention_correlation(A)[0]
    assert graph.test.test(2, 6).correlation == pytest.approx(R[2, 6], abs=4 * EPS)


def test_tokens_that_attend_to_nothing() -> None:
    A = attention(6)
    A[2] = 0
    with pytest.raises(ValueError, match=r"tokens \[2\] attend to nothing"):
        skeleton(A)
    graph = skeleton(A, on_zero="drop")
    assert graph.pag.nodes == (0, 1, 3, 4, 5)
    assert_array_equal(graph.pag.marks, skeleton(A, nodes=[0, 1, 3, 4, 5]).pag.marks)
    with pytest.raises(ValueError, match="no node is left"):
        skeleton(np.zeros((2, 2)), on_zero="drop")


def test_equal_rows_are_dependent() -> None:
    graph = skeleton(np.full((4, 4), 0.25))
    assert len(graph.pag.edges()) == 6
    assert all(graph.confidence(i, j) > 2 for i, j in combinations(range(4), 2))


def test_one_token() -> None:
    graph = causal_graph(np.ones((1, 1)), 768)
    assert graph.pag.edges() == []
    assert graph.explain(0).found == ()
    assert repr(graph) == "CausalGraph(1 of 1 tokens, 0 edges, 0 tests)"


def test_the_number_of_samples_has_names() -> None:
    A = np.stack([attention(seed) for seed in range(4)])
    assert skeleton(A, "hidden", head=1, width=768).test.n_samples == 768
    assert skeleton(A, "head", head=1, width=768).test.n_samples == 192
    maps = AttentionMaps.from_arrays([A])
    assert skeleton(maps, "head", head=1, width=768).test.n_samples == 192
    more, fewer = (len(skeleton(A, name, head=0, width=256).pag.edges()) for name in ("hidden", "head"))
    assert fewer <= more


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 3}, "n_samples is 3"),
        ({"n_samples": "width"}, "n_samples is 'width'; expected a whole number, 'hidden' or 'head'"),
        ({"n_samples": "hidden"}, "n_samples is 'hidden' but width is None"),
        ({"n_samples": 768, "width": 768}, "width is 768 but n_samples is 768"),
        ({"n_samples": "head", "width": 7}, "width 7 is not a multiple of 2 heads"),
        ({"head": None}, "head is None but there are 2"),
        ({"head": 2}, "head is 2 but there are 2; expected a number of 0 to 1"),
        ({"head": -1}, "head is -1"),
        ({"layer": 1}, "layer is 1 but there are 1"),
        ({"nodes": [0, 6]}, "different numbers of tokens, of 0 to 5"),
        ({"nodes": []}, r"nodes is \[\]"),
        ({"alpha": 1}, "alpha is 1"),
        ({"max_cond": -1}, "max_cond is -1"),
        ({"on_zero": "keep"}, "on_zero is 'keep'"),
        ({"learner": "icd"}, "learner is 'icd'"),
        ({"order": [0]}, "order misses the nodes"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    A = np.stack([attention(0), attention(1)])
    with pytest.raises(ValueError, match=message):
        causal_graph(A, **{"n_samples": 768, "head": 0, "learner": "skeleton", **options})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.array([[0.5, np.nan], [0.5, 0.5]]), "NaN or infinite"),
        (np.array([[0.5, 0.2], [0.5, 0.5]]), "sums to 0.7"),
        (np.array([[1.5, -0.5], [0.5, 0.5]]), "negative weights"),
        (np.ones((2, 3)), "has shape"),
    ],
)
def test_wrong_attention_is_refused(wrong: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        skeleton(wrong)


def test_one_matrix_does_not_tell_the_heads() -> None:
    with pytest.raises(ValueError, match="one matrix does not tell the number of heads"):
        skeleton(attention(), "head", width=768)
    assert skeleton(attention(), "hidden", width=768).test.n_samples == 768


def test_large_graphs_need_a_choice_of_nodes() -> None:
    loops = np.stack([np.arange(10_000)] * 2)
    maps = AttentionMaps.from_arrays([(loops, np.ones((10_000, 1)))], num_nodes=10_000)
    with pytest.raises(ValueError, match="there are 10000 nodes; choose at most 500"):
        skeleton(maps)
    assert skeleton(maps, nodes=[3, 9_999]).pag.edges() == []


# What is said of each pair


@pytest.mark.parametrize("learner", ["fci", "pc", "skeleton"])
def test_confidence_is_that_of_the_test_nearest_to_removing_the_edge(learner: str) -> None:
    pytest.importorskip("causallearn")
    graph = causal_graph(attention(7), 300, learner=learner)
    for i, _, j in graph.pag.edges():
        p_values = [result.p_value for result in graph.test.results(i, j)]
        assert graph.confidence(i, j) == pytest.approx(-math.log10(max(p_values)), rel=1e-9)
        assert graph.confidence(i, j) == graph.confidence(j, i) >= -math.log10(graph.test.alpha)


def test_separations_are_independent_of_the_order_of_tokens() -> None:
    for seed in range(10):
        A = attention(seed)
        permutation = np.random.default_rng(seed).permutation(6)
        place = np.argsort(permutation)
        plain, permuted = skeleton(A), skeleton(A[np.ix_(permutation, permutation)])
        for i, j in combinations(range(6), 2):
            if not plain.pag.adjacent(i, j):
                given = {int(place[node]) for node in plain.separation(i, j).given}
                assert set(permuted.separation(int(place[i]), int(place[j])).given) == given


def test_separations_separate() -> None:
    graph = skeleton(attention(8, 9))
    several = 0
    for i, j in combinations(range(9), 2):
        if graph.pag.adjacent(i, j):
            with pytest.raises(ValueError, match="have an edge"):
                graph.separation(i, j)
        else:
            result = graph.separation(i, j)
            assert result.p_value > 0.01
            removing = [each for each in graph.test.results(i, j) if each.p_value > 0.01]
            smallest = min(len(each.given) for each in removing)
            assert len(result.given) == smallest
            assert result.p_value == max(each.p_value for each in removing if len(each.given) == smallest)
            several += sum(len(each.given) == smallest for each in removing) > 1
            with pytest.raises(ValueError, match="have no edge"):
                graph.confidence(i, j)
    assert several > 0, "no pair has a choice of sets; take another model"


def test_a_learner_that_tests_nothing() -> None:
    graph = causal_graph(np.eye(3), 768, learner=lambda test, nodes: Pag.from_edges(nodes, [(0, "-->", 1)]))
    assert math.isnan(graph.confidence(0, 1))
    with pytest.raises(ValueError, match="no test separated 0 and 2"):
        graph.separation(0, 2)
    pytest.importorskip("pandas")
    assert graph.as_frame()["p_value"].isna().all()


def test_every_pair_is_in_the_table() -> None:
    pytest.importorskip("pandas")
    maps = AttentionMaps.from_arrays(attention(9)[None, None], tokens=list("abcdef"))
    graph = skeleton(maps, order=range(6))
    frame = graph.as_frame()
    assert len(frame) == 15
    assert {(row.source, row.kind, row.target) for row in frame.itertuples() if row.kind} == set(graph.pag.edges())
    for row in frame.itertuples():
        assert row.source_token == "abcdef"[row.source]
        assert row.degrees_of_freedom == 768 - len(row.given) - 2
        if row.kind:
            assert row.confidence == graph.confidence(row.source, row.target)
            assert row.p_value <= 0.01
        else:
            assert row.given == graph.separation(row.source, row.target).given
            assert row.p_value > 0.01
    assert len(skeleton(np.eye(1)).as_frame()) == 0


def test_networkx_has_names_and_confidences() -> None:
    maps = AttentionMaps.from_arrays(attention(9)[None, None], tokens=list("abcdef"))
    graph = skeleton(maps)
    drawn = graph.to_networkx()
    assert nx.get_node_attributes(drawn, "token") == dict(enumerate("abcdef"))
    assert {edge: graph.confidence(*edge) for edge in drawn.edges} == nx.get_edge_attributes(drawn, "confidence")


def test_singular_tests_are_told() -> None:
    A = np.vstack([attention(0, 4), attention(0, 4)[[3, 3]]])
    A = np.hstack([A, np.zeros((6, 2))])
    assert "of them singular" in repr(skeleton(A))
    assert "singular" not in repr(skeleton(attention(0)))


def test_explanations_have_the_names_of_tokens() -> None:
    A = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]])
    graph = skeleton(AttentionMaps.from_arrays(A[None, None], tokens=["big", "blue", "whale"]), order=range(3))
    found = graph.explain(2, lambda subset, target: 1 in subset)
    assert found.found == ((1,),)
    assert repr(found) == "Explanations(of whale: {blue}; 2 sets tried)"
    assert graph.explain(0, max_range=1).candidates == {2: 1}
    assert graph.explain(0).candidates == {2: 1, 1: 2}  # through the collider
