"""Influence over many hops: the inverse, closed forms, and what a layer's graph must not let through."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from graphattn.analysis.influence import influence
from graphattn.analysis.maps import AttentionMaps

_EXACT = {"rtol": 0.0, "atol": 1e-10}  # what the function states


def _random(layers: int, heads: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(size), (layers, heads, size))


def _sparse(A: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    layers = []
    for layer in A:
        target, source = np.nonzero(layer.any(axis=0))
        layers.append((np.stack([source, target]), layer[:, target, source].T))
    return layers


@pytest.mark.parametrize("decay", [0.1, 0.5, 0.9, 0.99])
def test_it_is_the_inverse(decay: float) -> None:
    A = _random(2, 3, 12)
    found = influence(AttentionMaps.from_arrays(A), decay)
    expected = (1 - decay) * np.linalg.inv(np.eye(12) - decay * A.mean(axis=1))
    np.testing.assert_allclose(found.values, expected, **_EXACT)
    np.testing.assert_allclose(found.values.sum(axis=2), 1.0, rtol=0, atol=12e-10)
    np.testing.assert_allclose(found.reach, expected.mean(axis=1), **_EXACT)


def test_one_head() -> None:
    A = _random(2, 3, 8)
    found = influence(AttentionMaps.from_arrays(A), 0.6, head=1)
    np.testing.assert_allclose(found.values, 0.4 * np.linalg.inv(np.eye(8) - 0.6 * A[:, 1]), **_EXACT)


def test_uniform_attention() -> None:
    """Its powers are itself: only the share of paths without a hop stays where it is."""
    found = influence(AttentionMaps.from_arrays(np.full((1, 1, 5, 5), 0.2)), 0.7)
    np.testing.assert_allclose(found.values[0], 0.3 * np.eye(5) + 0.7 / 5, **_EXACT)


def test_attention_to_oneself_influences_nobody_else() -> None:
    found = influence(AttentionMaps.from_arrays(np.eye(4)[None, None]), 0.8)
    np.testing.assert_allclose(found.values[0], np.eye(4), **_EXACT)


def test_a_ring() -> None:
    """Token i draws on i - 1 alone: going t back has the share of t hops, and of as many rounds more."""
    size, decay = 6, 0.9
    ring = np.roll(np.eye(size), -1, axis=1)
    found = influence(AttentionMaps.from_arrays(ring[None, None]), decay).values[0]
    hops = (np.arange(size)[:, None] - np.arange(size)) % size
    np.testing.assert_allclose(found, (1 - decay) * decay**hops / (1 - decay**size), **_EXACT)


def test_causal_attention_has_causal_influence() -> None:
    A = np.tril(_random(1, 1, 9)[0, 0])
    A /= A.sum(axis=1, keepdims=True)
    found = influence(AttentionMaps.from_arrays(A[None, None]), 0.9).values[0]
    np.testing.assert_allclose(np.triu(found, 1), 0.0, atol=1e-10)


def test_a_row_without_attention_keeps_what_takes_no_hop() -> None:
    A = np.array([[0.0, 0.0], [1.0, 0.0]])
    found = influence(AttentionMaps.from_arrays(A[None, None]), 0.75).values[0]
    np.testing.assert_allclose(found, [[0.25, 0.0], [0.1875, 0.25]], **_EXACT)


def test_permuting_tokens_permutes_influence() -> None:
    A, order = _random(1, 2, 7), np.array([1, 2, 0, 4, 5, 6, 3])
    plain = influence(AttentionMaps.from_arrays(A)).values
    moved = influence(AttentionMaps.from_arrays(A[:, :, order][..., order])).values
    np.testing.assert_allclose(moved, plain[:, order][..., order], rtol=0, atol=2e-10)


@pytest.mark.parametrize("options", [{}, {"head": 1}, {"stacked": True}, {"sources": [4, 0]}])
def test_edges_give_what_matrices_give(options: dict[str, object]) -> None:
    A = _random(2, 2, 8) * (np.random.default_rng(1).random((8, 8)) < 0.5)
    A /= np.maximum(A.sum(axis=3, keepdims=True), 1e-300)
    dense = influence(AttentionMaps.from_arrays(A), 0.8, **options)
    edges = influence(AttentionMaps.from_arrays(_sparse(A), num_nodes=8), 0.8, **options)
    np.testing.assert_allclose(edges.values, dense.values, rtol=0, atol=1e-9)


def test_stacked_layers_multiply() -> None:
    A = _random(3, 2, 7)
    maps = AttentionMaps.from_arrays(A)
    single, stacked = influence(maps, 0.5).values, influence(maps, 0.5, stacked=True).values
    product = np.eye(7)
    for layer in range(3):
        product = single[layer] @ product
        np.testing.assert_allclose(stacked[layer], product, rtol=0, atol=1e-9)


def test_chosen_sources_are_columns() -> None:
    maps = AttentionMaps.from_arrays(_random(2, 1, 6))
    chosen = influence(maps, sources=[5, 2])
    np.testing.assert_allclose(chosen.values, influence(maps).values[:, :, [5, 2]], rtol=0, atol=2e-10)
    assert chosen.sources.tolist() == [5, 2]


def test_weights_that_are_no_attention_are_divided_by_their_largest_row() -> None:
    A = np.array([[0.0, 3.0], [1.0, 0.0]])
    maps = AttentionMaps.from_arrays(A[None, None], validate=False)
    np.testing.assert_allclose(influence(maps, 0.5).values[0], 0.5 * np.linalg.inv(np.eye(2) - A / 6), **_EXACT)


def test_the_frame_names_the_sources() -> None:
    A = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    maps = AttentionMaps.from_arrays(A[None, None], tokens=["the", "blue", "whale"])
    frame = influence(maps, 0.5, sources=[0, 2]).as_frame()
    assert frame.index.tolist() == [(0, 0), (0, 2)]
    assert frame["token"].tolist() == ["the", "whale"]
    np.testing.assert_allclose(frame["reach"], [1.75 / 3, 0.5 / 3], **_EXACT)
    np.testing.assert_allclose(frame["largest"], [0.5, 0.0], **_EXACT)


def test_mistakes_are_named() -> None:
    maps = AttentionMaps.from_arrays([_random(1, 2, 3)[0], _random(1, 1, 3)[0]])
    with pytest.raises(ValueError, match=r"decay is 1.0; expected a number in \(0, 1\)"):
        influence(maps, 1.0)
    with pytest.raises(ValueError, match=r"head is 1 but the layers have \(2, 1\) heads"):
        influence(maps, head=1)
    for sources in ([3], [-1], [0.5], [[0]]):
        with pytest.raises(ValueError, match="expected a list of node numbers below 3"):
            influence(maps, sources=sources)
    with pytest.raises(ValueError, match="sources is empty"):
        influence(maps, sources=np.array([], dtype=int))
    negative = AttentionMaps.from_arrays(np.array([[[[2.0, -1.0], [0.0, 1.0]]]]), validate=False)
    with pytest.raises(ValueError, match="layer 0 has negative weights, the lowest -1"):
        influence(negative)


def test_a_result_that_is_too_large_is_refused() -> None:
    size = 20_000
    loops = np.stack([np.arange(size)] * 2), np.ones((size, 1))
    maps = AttentionMaps.from_arrays([loops], num_nodes=size)
    with pytest.raises(ValueError, match=r"20000 sources in 1 layers is 3.0 GiB; choose fewer sources"):
        influence(maps)
    np.testing.assert_allclose(influence(maps, sources=[7]).reach, [[1 / size]], rtol=1e-9)


def test_a_layer_without_edges() -> None:
    maps = AttentionMaps.from_arrays([(np.zeros((2, 0), dtype=int), np.zeros((0, 2)))], num_nodes=3)
    np.testing.assert_allclose(influence(maps, 0.75).values[0], 0.25 * np.eye(3), rtol=1e-14)


def test_a_solver_that_stops_early_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[influence.__module__], "_MAX_ITER", 2)
    with pytest.raises(RuntimeError, match="did not converge"):
        influence(AttentionMaps.from_arrays(_random(1, 1, 20)), 0.99)
