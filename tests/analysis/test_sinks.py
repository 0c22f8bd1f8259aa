"""Sinks and entropy: closed forms of simple attention, the sparse form, and the mask that keeps the sinks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import entropy

from graphattn.analysis.maps import AttentionMaps
from graphattn.analysis.sinks import sink_mask, sink_rate, sinks

EPS = np.finfo(np.float64).eps
NODES = 64
TIGHT = 4 * NODES * EPS


def uniform_causal(size: int = NODES) -> np.ndarray:
    return np.tril(np.ones((size, size))) / np.arange(1, size + 1)[:, None]


def maps_of(*heads: np.ndarray, causal: bool | None = None) -> AttentionMaps:
    return AttentionMaps.from_arrays(np.stack(heads)[None], causal=causal)


def random_maps(causal: bool, size: int = 9) -> AttentionMaps:
    A = np.random.default_rng(0).random((2, 3, size, size)) ** 4
    A = np.tril(A) if causal else A
    return AttentionMaps.from_arrays(A / A.sum(-1, keepdims=True))


def test_all_attention_on_the_first_token() -> None:
    A = np.zeros((NODES, NODES))
    A[:, 0] = 1
    found = sinks(maps_of(A))
    assert found.strength[0][0].tolist() == [1.0] + [0.0] * (NODES - 1)
    assert found.found.tolist() == [[0, 0, 0]]
    assert found.first_token_mass[0].tolist() == [1.0]
    assert not found.entropy[0].any()
    assert sink_rate([maps_of(A)]).rates.tolist() == [1.0]
    assert sink_rate([maps_of(A)], as_percent=True).rates.tolist() == [100.0]


def test_uniform_causal_attention() -> None:
    found = sinks(maps_of(uniform_causal()))
    harmonic = np.cumsum(1 / np.arange(1, NODES + 1))
    for k in range(NODES):
        tail = harmonic[-1] - (harmonic[k - 1] if k else 0.0)
        assert found.strength[0][0, k] == pytest.approx(tail / (NODES - k), abs=TIGHT)
    assert found.strength[0][0, 0] == pytest.approx(0.074, abs=5e-4)  # as the paper's definition gives for 64 tokens
    assert_allclose(found.entropy[0][0], np.log(np.arange(1, NODES + 1)), rtol=0, atol=TIGHT)
    assert found.first_token_mass[0][0] == pytest.approx((harmonic[-1] - 1) / (NODES - 1), abs=TIGHT)
    assert sink_rate([maps_of(uniform_causal())]).rates.tolist() == [0.0]


def test_attention_to_oneself() -> None:
    found = sinks(maps_of(np.eye(NODES)))
    assert_allclose(found.strength[0][0], 1 / np.arange(NODES, 0, -1), rtol=EPS)
    assert_allclose(sinks(maps_of(np.eye(NODES), causal=False)).strength[0][0], 1 / NODES, rtol=EPS)


@pytest.mark.parametrize("causal", [False, True])
def test_strengths_are_means_over_those_who_may_see(causal: bool) -> None:
    maps = random_maps(causal)
    found = sinks(maps)
    for layer in range(2):
        A = maps.dense(layer)
        for k in range(9):
            rows = range(k if causal else 0, 9)
            expected = sum(A[:, i, k] for i in rows) / len(rows)
            assert_allclose(found.strength[layer][:, k], expected, rtol=TIGHT)
        assert ((found.strength[layer] >= 0) & (found.strength[layer] <= 1 + TIGHT)).all()
        assert_allclose(found.entropy[layer], entropy(A, axis=-1), rtol=0, atol=TIGHT)
        assert_allclose(found.first_token_mass[layer], A[:, 1:, 0].mean(1), rtol=TIGHT)


@pytest.mark.parametrize("causal", [False, True])
def test_edges_give_the_same(causal: bool) -> None:
    maps = random_maps(causal)
    layers = []
    for layer in range(2):
        edge_index, weights = maps.edges(layer)
        halves = np.concatenate([0.25 * weights, 0.75 * weights])  # parallel edges add up before the entropy
        layers.append((np.concatenate([edge_index, edge_index], axis=1), halves))
    dense, sparse = sinks(maps), sinks(AttentionMaps.from_arrays(layers, num_nodes=9))
    for name in ("strength", "entropy", "first_token_mass"):
        for ours, theirs in zip(getattr(sparse, name), getattr(dense, name), strict=True):
            assert_allclose(ours, theirs, rtol=0, atol=TIGHT)


def test_in_a_graph_only_neighbours_may_see_a_node() -> None:
    star = np.array([[0, 0, 0, 1], [0, 1, 2, 3]]), np.array([[1.0], [1.0], [1.0], [1.0]])
    found = sinks(AttentionMaps.from_arrays([star], num_nodes=5))  # node 4 is isolated
    assert found.strength[0].tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0]]
    assert found.entropy[0].tolist() == [[0.0] * 5]
    assert found.first_token_mass[0].tolist() == [0.5]


def test_a_graph_of_ten_thousand_nodes() -> None:
    size = 10_000
    star = np.stack([np.zeros(size, dtype=np.int64), np.arange(size)])
    found = sinks(AttentionMaps.from_arrays([(star, np.ones((size, 1)))], num_nodes=size))
    assert found.found.tolist() == [[0, 0, 0]]
    assert found.strength[0][0, 0] == 1.0


def test_the_rate_falls_with_eps() -> None:
    maps = random_maps(causal=True)
    rates = [sink_rate([maps], eps).rates[0] for eps in np.linspace(0, 1, 21)]
    assert rates[0] == 1.0
    assert rates[-1] == 0.0
    assert (np.diff(rates) <= 0).all()


def test_samples_are_grouped_by_length() -> None:
    first = np.zeros((4, 4))
    first[:, 0] = 1
    short, long = maps_of(first, first[::-1].copy()), maps_of(uniform_causal(6), uniform_causal(6))
    found = sink_rate(iter([long, short, maps_of(np.eye(4), causal=False)]), eps=0.3)
    assert found.lengths.tolist() == [4, 6]
    assert found.counts.tolist() == [3, 2]
    assert found.rates.tolist() == [2 / 3, 1.0]  # uniform attention over six tokens still has 0.41 on the first
    later = sink_rate([long, short], eps=0.3, position=5)
    assert later.lengths.tolist() == [6]
    assert later.rates.tolist() == [0.0]


def test_all_sinks_are_listed() -> None:
    A = np.zeros((2, 2, 3, 3))
    A[..., 1] = 1
    A[1, 0] = np.eye(3)
    found = sinks(AttentionMaps.from_arrays(A, causal=False), eps=0.5)
    assert found.found.tolist() == [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
    frame = found.as_frame()
    assert frame["n_sinks"].tolist() == [1, 1, 0, 1]
    assert frame["strongest"].tolist() == [1, 1, 0, 1]
    assert frame.loc[(1, 0), "strength"] == 1 / 3
    assert frame.loc[(1, 0), "entropy"] == 0.0


def test_one_token() -> None:
    found = sinks(maps_of(np.ones((1, 1))))
    assert found.strength[0].tolist() == [[1.0]]
    assert np.isnan(found.first_token_mass[0]).all()


def test_masked_tokens_count_nowhere() -> None:
    maps = random_maps(causal=True)
    padded = np.zeros((2, 3, 12, 12))
    padded[..., :9, :9] = np.stack([maps.dense(layer) for layer in range(2)])
    padded[..., 9:, 0] = 1
    found, expected = sinks(AttentionMaps.from_arrays(padded, mask=np.arange(12) < 9)), sinks(maps)
    for name in ("strength", "entropy", "first_token_mass"):
        assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=TIGHT)


@pytest.mark.parametrize("start", [0, 1, 4])
@pytest.mark.parametrize("window", [1, 3, 20])
def test_the_mask_keeps_first_and_recent_tokens(start: int, window: int) -> None:
    mask = sink_mask(12, start, window)
    assert mask.dtype == torch.bool
    for i in range(12):
        for j in range(12):
            assert mask[i, j] == (j <= i and (j < start or i - j < window))
    assert mask.diagonal().all()


def test_the_mask_has_a_bounded_number_of_tokens_a_row() -> None:
    mask = sink_mask(600)
    assert mask.sum(1).tolist() == [min(i + 1, 516) for i in range(600)]
    assert sink_mask(0).shape == (0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sinks(maps_of(np.eye(2)), eps=1.5), "eps is 1.5"),
        (lambda: sink_rate([]), "no sample has position 0"),
        (lambda: sink_rate([maps_of(np.eye(2))], position=2), "pass maps of more than 2 nodes"),
        (lambda: sink_rate([maps_of(np.eye(2))], position=-1), "position is -1"),
        (lambda: sink_mask(-1), "num_nodes is -1; expected an integer of at least 0"),
        (lambda: sink_mask(4, start=-1), "start is -1"),
        (lambda: sink_mask(4, window=0), "window is 0; expected an integer of at least 1"),
        (
            lambda: sinks(AttentionMaps.from_arrays(np.array([[[[-1.0, 2.0], [0.0, 1.0]]]]), validate=False)),
            "layer 0 has negative weights, the lowest -1",
        ),
    ],
)
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_frame_of_rates() -> None:
    found = sink_rate([maps_of(np.eye(4)), maps_of(np.eye(3))])
    assert found.as_frame()["counts"].to_dict() == {3: 1, 4: 1}
