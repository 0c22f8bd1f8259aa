"""The baseline: which heads are sharp, and where their entries are split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from graphattn.analysis.causal_baseline import attention_threshold, otsu_threshold
from graphattn.analysis.maps import AttentionMaps

EPS = np.finfo(np.float64).eps


def softmax(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    A = np.exp(scale * np.random.default_rng(seed).normal(size=shape))
    return A / A.sum(axis=-1, keepdims=True)


def within_variance(values: np.ndarray, threshold: float) -> float:
    groups = values[values <= threshold], values[values > threshold]
    return sum(float(((group - group.mean()) ** 2).sum()) for group in groups if group.size)


@pytest.mark.parametrize("seed", range(10))
def test_the_threshold_leaves_least_variance_within_the_groups(seed: int) -> None:
    values = np.random.default_rng(seed).gamma(1.0, size=40)
    best = min(within_variance(values, threshold) for threshold in values)
    threshold = otsu_threshold(values)
    assert threshold in values
    assert within_variance(values, threshold) == pytest.approx(best, rel=200 * EPS)


def test_the_threshold_of_equal_values_is_their_value() -> None:
    assert otsu_threshold(np.full(5, 0.2)) == 0.2
    assert otsu_threshold(np.array([0.7])) == 0.7
    assert otsu_threshold(np.array([0.0, 0.0, 0.0, 1.0])) == 0.0


def test_heads_are_ranked_by_entropy() -> None:
    A = np.stack([softmax(4, 6, 6, seed=0, scale=0.5), softmax(4, 6, 6, seed=1, scale=3.0)])
    found = attention_threshold(A, top=8)
    expected = {
        (layer, head): 1 - sum(-math.fsum(a * math.log(a) for a in row) for row in A[layer, head]) / 6 / math.log(6)
        for layer in range(2)
        for head in range(4)
    }
    assert found.heads == tuple(sorted(expected, key=lambda name: -expected[name]))
    assert_allclose(found.sharpness, sorted(expected.values(), reverse=True), rtol=0, atol=16 * EPS)
    assert_allclose(found.attention, A.reshape(8, 6, 6).mean(axis=0), rtol=0, atol=4 * EPS)
    assert attention_threshold(A, top=3).heads == found.heads[:3]


def test_uniform_heads_are_not_sharp_and_permutations_are() -> None:
    found = attention_threshold(np.stack([np.full((5, 5), 0.2), np.roll(np.eye(5), 1, axis=0)]), top=2)
    assert found.heads == ((0, 1), (0, 0))
    assert_allclose(found.sharpness, [1, 0], rtol=0, atol=4 * EPS)


def test_edges_are_what_is_above_the_threshold() -> None:
    A = softmax(7, 7, scale=2.0)
    found = attention_threshold(A)
    others = ~np.eye(7, dtype=bool)
    assert found.threshold == otsu_threshold(A[others])
    assert_array_equal(found.adjacency, (found.threshold < A) & others)
    graph = found.to_networkx()
    assert {(j, i) for i, j in np.argwhere(found.adjacency).tolist()} == set(graph.edges)
    assert all(data["weight"] == A[target, source] for source, target, data in graph.edges(data=True))
    assert graph.nodes[3] == {"token": "3"}
    frame = found.as_frame()
    assert [*zip(frame["source"], frame["target"], frame["weight"], strict=True)] == [
        (j, i, A[i, j]) for i, j in np.argwhere(found.adjacency).tolist()
    ]
    assert frame["source_token"].tolist() == [str(source) for source in frame["source"]]


def test_permuting_tokens_permutes_the_graph() -> None:
    A = softmax(3, 6, 6, scale=2.0)
    permutation = np.array([2, 0, 3, 1, 5, 4])
    plain, permuted = attention_threshold(A), attention_threshold(A[:, permutation][:, :, permutation])
    assert_array_equal(permuted.adjacency, plain.adjacency[np.ix_(permutation, permutation)])
    assert permuted.heads == plain.heads


def test_every_form_gives_the_same() -> None:
    A = softmax(2, 5, 5, scale=2.0)
    target, source = np.nonzero(np.ones((5, 5)))
    edges = np.stack([source, target]), A[:, target, source].T
    forms = [A[None], torch.from_numpy(A), AttentionMaps.from_arrays([edges], num_nodes=5)]
    for form in forms:
        assert_array_equal(attention_threshold(form).adjacency, attention_threshold(A).adjacency)


def test_degenerate_attention() -> None:
    assert not attention_threshold(np.full((4, 4), 0.25)).adjacency.any()
    assert not attention_threshold(np.ones((1, 1))).adjacency.any()
    empty = np.array([[0.0, 0.0, 0.0], [0.1, 0.9, 0.0], [0.9, 0.1, 0.0]])
    found = attention_threshold(empty)
    assert np.isfinite(found.sharpness).all()
    assert np.argwhere(found.adjacency).tolist() == [[2, 0]]


def test_large_graphs_are_refused() -> None:
    loops = np.stack([np.arange(10_000)] * 2)
    maps = AttentionMaps.from_arrays([(loops, np.ones((10_000, 3)))], num_nodes=10_000)
    with pytest.raises(ValueError, match=r"3 heads over 10000 nodes, which is 2\.2 GiB as matrices"):
        attention_threshold(maps)


@pytest.mark.parametrize("top", [0, 3])
def test_wrong_numbers_of_heads_are_refused(top: int) -> None:
    with pytest.raises(ValueError, match=f"top is {top} but there are 2 heads; expected a number of 1 to 2"):
        attention_threshold(softmax(2, 3, 3), top=top)
