"""Similarity of head outputs: identities of the products, and statistics counted pair by pair."""

from __future__ import annotations

import math
import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import ortho_group

from graphattn.analysis.causal_correlation import attention_correlation
from graphattn.analysis.head_similarity import head_similarity, output_similarity
from graphattn.analysis.maps import AttentionMaps

EPS = np.finfo(np.float64).eps
NODES, CHANNELS = 8, 5
IDS = ["cls", "a", "b", "sep", "a", "c", "a", "sep"]


def attention(seed: int = 0) -> np.ndarray:
    A = np.random.default_rng(seed).random((NODES, NODES))
    return A / A.sum(1, keepdims=True)


def values(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(NODES, CHANNELS))


def rounding(O: np.ndarray) -> float:  # noqa: E741 - the name of the outputs
    return 8 * O.shape[-1] * NODES * EPS * float((O**2).sum(-1).max())


def counted(S: np.ndarray, quantile: float) -> tuple[float, ...]:
    """The statistics, pair by pair."""
    pairs = list(combinations(range(len(S)), 2))
    least = np.quantile([S[pair] for pair in pairs], quantile)
    chosen = [pair for pair in pairs if S[pair] >= least]
    segments = [sum(name == "sep" for name in IDS[:i]) for i in range(len(S))]
    share = {name: sum(name in (IDS[i], IDS[j]) for i, j in chosen) / len(chosen) for name in IDS}
    return (
        len(chosen),
        sum(j - i for i, j in chosen) / len(chosen),
        sum(IDS[i] == IDS[j] for i, j in chosen) / len(chosen),
        max(share.values()),
        sum(segments[i] == segments[j] for i, j in chosen) / len(chosen),
    )


@pytest.mark.parametrize("normalize", ["none", "cosine"])
@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.95, 1.0])
def test_the_statistics_are_those_of_the_pairs(quantile: float, normalize: str) -> None:
    layers = [np.random.default_rng(seed).normal(size=(2, NODES, CHANNELS)) for seed in (0, 1)]
    maps = AttentionMaps.from_arrays(np.broadcast_to(attention(), (2, 2, NODES, NODES)).copy(), tokens=IDS)
    found = head_similarity(iter(layers), maps, separators=["sep"], quantile=quantile, normalize=normalize)
    heads = list(zip(found.layer.tolist(), found.head.tolist(), strict=True))
    assert heads == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for place, (layer, head) in enumerate(heads):
        expected = counted(output_similarity(layers[layer][head], normalize=normalize), quantile)
        names = ("n_pairs", "mean_distance", "same_token", "concentration", "within_segment")
        assert_allclose([getattr(found, name)[place] for name in names], expected, rtol=NODES * EPS)
    assert_allclose(found.separator_mass, attention()[:, [3, 7]].sum() / NODES, rtol=NODES * EPS)


def test_products_of_outputs() -> None:
    A, V = attention(), values()
    S = output_similarity(A @ V)
    assert_allclose(S, A @ (V @ V.T) @ A.T, rtol=0, atol=rounding(V))
    white = ortho_group.rvs(NODES, random_state=0)
    assert_allclose(output_similarity(A @ white), A @ A.T, rtol=0, atol=rounding(white))
    assert_array_equal(output_similarity(np.eye(NODES) @ V), V @ V.T)
    rotated = V @ ortho_group.rvs(CHANNELS, random_state=0)
    assert_allclose(output_similarity(A @ rotated), S, rtol=0, atol=rounding(V))


def test_cosine() -> None:
    O = attention() @ values()  # noqa: E741
    S = output_similarity(O, normalize="cosine")
    assert_allclose(S.diagonal(), 1.0, rtol=0, atol=CHANNELS * EPS)
    assert (abs(S) <= 1).all()
    for scale in (1e-200, 1e200):
        assert_allclose(output_similarity(scale * O, normalize="cosine"), S, rtol=0, atol=8 * CHANNELS * EPS)
    O[2] = 0
    S = output_similarity(O, normalize="cosine")
    assert not S[2].any()
    assert not S[:, 2].any()


def test_white_values_have_the_correlations_that_causal_structure_is_read_from() -> None:
    A, white = attention(), ortho_group.rvs(NODES, random_state=0)
    S = output_similarity(A @ white, normalize="cosine")
    assert_allclose(S, attention_correlation(A)[0], rtol=0, atol=8 * NODES * EPS)


def test_equal_rows_of_attention_make_all_pairs_equal() -> None:
    A = np.broadcast_to(attention()[0], (NODES, NODES))
    O = A @ values()  # noqa: E741
    S = output_similarity(O)
    assert_allclose(S, S[0, 0], rtol=0, atol=rounding(values()))
    assert head_similarity([O[None]]).n_pairs.tolist() == [math.comb(NODES, 2)]


@pytest.mark.parametrize("normalize", ["none", "cosine"])
def test_pairs_that_differ_by_rounding_are_alike(normalize: str) -> None:
    """The corners of a simplex, turned in space: all pairs are equally similar."""
    for seed in range(5):
        O = (np.eye(12) + 0.3) @ ortho_group.rvs(12, random_state=seed)  # noqa: E741
        assert head_similarity([O[None]], normalize=normalize).n_pairs.tolist() == [math.comb(12, 2)]


@pytest.mark.parametrize("uniform", [False, True])
def test_attention_inside_segments(uniform: bool) -> None:
    """Values of one segment are orthogonal to those of the other, so that similar pairs lie in one segment."""
    segment = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    A = np.where(segment[:, None] == segment, 1.0 if uniform else attention(), 0.0)
    A /= A.sum(1, keepdims=True)
    V = np.zeros((NODES, 4))
    V[:4, :2], V[4:, 2:] = np.random.default_rng(0).random((2, 4, 2)) + 0.5
    found = head_similarity([(A @ V)[None]], ids=IDS, separators=["sep"])
    assert found.within_segment.tolist() == [1.0]
    assert found.n_pairs[0] >= 1


def test_relabelled_ids_and_tensors_change_nothing() -> None:
    O = np.random.default_rng(0).normal(size=(1, NODES, CHANNELS))  # noqa: E741
    codes = [IDS.index(name) for name in IDS]
    named = head_similarity([O], ids=IDS, separators=["sep"], quantile=0.6)
    numbered = head_similarity([torch.from_numpy(O)], ids=torch.tensor(codes), separators=[3], quantile=0.6)
    for name, column in vars(named).items():
        assert_array_equal(getattr(numbered, name), column)


def test_what_was_not_given_is_not_a_number() -> None:
    O = np.random.default_rng(0).normal(size=(1, NODES, CHANNELS))  # noqa: E741
    found = head_similarity([O])
    assert found.n_pairs.tolist() == [2]  # of 28, at the 0.95 quantile
    assert np.isfinite(found.mean_distance).all()
    for name in ("same_token", "concentration", "within_segment", "separator_mass"):
        assert np.isnan(getattr(found, name)).all()
    assert np.isnan(head_similarity([O], ids=IDS, separators=["sep"]).separator_mass).all()
    assert head_similarity([O], ids=IDS, separators=["none of them"]).within_segment.tolist() == [1.0]


def test_no_tokens_have_no_pair() -> None:
    found = head_similarity([np.ones((2, 0, 3))])
    assert found.n_pairs.tolist() == [0, 0]
    assert np.isnan(found.mean_distance).all()
    assert output_similarity(np.ones((0, 3)), normalize="cosine").shape == (0, 0)


def test_large_graphs_are_refused() -> None:
    outputs = np.broadcast_to(np.float64(1.0), (1, 20_000, 2))
    with pytest.raises(ValueError, match=r"similarity of 20000 tokens in layer 0 is 3\.0 GiB; choose fewer tokens"):
        head_similarity([outputs])


def test_a_single_token_has_no_pair() -> None:
    found = head_similarity([np.ones((2, 1, 3))], ids=["a"], separators=["a"])
    assert found.n_pairs.tolist() == [0, 0]
    assert np.isnan(found.mean_distance).all()
    assert np.isnan(found.concentration).all()


def test_zero_outputs() -> None:
    found = head_similarity([np.zeros((1, 3, 2))], ids=["a", "a", "b"], normalize="cosine")
    assert (found.n_pairs.tolist(), found.same_token.tolist()) == ([3], [1 / 3])


def test_the_frame() -> None:
    O = np.random.default_rng(0).normal(size=(2, NODES, CHANNELS))  # noqa: E741
    frame = head_similarity([O, O[:1]], ids=IDS).as_frame()
    assert list(frame.index) == [(0, 0), (0, 1), (1, 0)]
    assert frame.loc[(0, 0)].equals(frame.loc[(1, 0)])


MAPS = AttentionMaps.from_arrays(np.broadcast_to(attention(), (2, 1, NODES, NODES)).copy(), tokens=IDS)
OUTPUTS = np.ones((1, NODES, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: head_similarity([]), "outputs has 0 layers; expected at least one"),
        (lambda: head_similarity([OUTPUTS], MAPS), "outputs has 1 layers; expected 2"),
        (lambda: head_similarity([OUTPUTS] * 3, MAPS), "outputs has 3 layers; expected 2"),
        (lambda: head_similarity([OUTPUTS[:, :3]] * 2, MAPS), "expected [H, 8, C]"),
        (lambda: head_similarity([OUTPUTS[0]]), "expected [H, N, C]"),
        (lambda: head_similarity([OUTPUTS.repeat(2, 0)] * 2, MAPS, separators=["sep"]), "maps has 1 heads over 8"),
        (lambda: head_similarity([OUTPUTS], separators=["sep"]), "separators are given but no ids"),
        (lambda: head_similarity([OUTPUTS], quantile=1.5), "quantile is 1.5"),
        (lambda: head_similarity([OUTPUTS], normalize="l2"), "normalize is 'l2'; expected one of 'none', 'cosine'"),
        (lambda: head_similarity([np.full((1, 2, 2), np.nan)]), "NaN or infinite"),
        (lambda: output_similarity(np.ones(3)), "outputs have shape (3,); expected vectors [*, N, C]"),
    ],
)
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
