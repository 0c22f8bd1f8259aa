"""Singular values: NumPy's and SciPy's, closed forms, the ranks of efficient attentions, and the randomized form."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.testing import assert_allclose
from scipy.stats import entropy, ortho_group

from graphattn import Affinity
from graphattn.analysis.maps import AttentionMaps
from graphattn.analysis.spectrum import explained_curves, spectrum
from graphattn.nn.global_attention.linear import LinearAttention
from graphattn.nn.global_attention.primal import PrimalAttention

EPS = np.finfo(np.float64).eps
NODES = 16
TIGHT = 8 * NODES * EPS


def attention(heads: int = 2, seed: int = 0, size: int = NODES) -> np.ndarray:
    A = np.random.default_rng(seed).random((heads, size, size)) ** 6
    return A / A.sum(-1, keepdims=True)


def low_rank(rank: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(NODES, rank)) @ rng.normal(size=(rank, NODES))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_they_are_those_of_numpy_and_scipy(p: float) -> None:
    layers = [attention(seed=0), attention(heads=3, seed=1)]
    found = spectrum(layers, p=p)
    assert found.sizes == (NODES, NODES)
    for layer, heads in enumerate(layers):
        for head, A in enumerate(heads):
            values = scipy.linalg.svdvals(A)
            scale = values[0]
            assert_allclose(found.values[layer][head], values, rtol=0, atol=TIGHT * scale)
            assert_allclose(found.values[layer][head], np.linalg.svd(A)[1], rtol=0, atol=TIGHT * scale)
            explained = np.cumsum(values**p) / np.sum(values**p)
            assert_allclose(found.explained[layer][head], explained, rtol=0, atol=p * TIGHT)
            assert found.stable_rank[layer][head] == pytest.approx((A**2).sum() / scale**2, rel=TIGHT)
            share = values**2 / np.sum(values**2)
            assert found.effective_rank[layer][head] == pytest.approx(np.exp(entropy(share)), rel=4 * TIGHT)
            assert found.rank_at(0.9)[layer][head] == np.flatnonzero(explained >= 0.9)[0] + 1
            assert found.error[layer][head] == 0


def test_what_is_explained_grows_to_everything() -> None:
    found = spectrum(attention())
    assert (np.diff(found.explained[0]) >= 0).all()
    assert found.explained[0][:, -1].tolist() == [1.0, 1.0]
    assert (found.values[0][:, 0] >= 1 - TIGHT).all()  # rows that sum to 1
    assert_allclose((found.values[0] ** 2).sum(1), (attention() ** 2).sum((1, 2)), rtol=TIGHT)


@pytest.mark.parametrize("rank", [1, 3, NODES])
def test_a_matrix_of_low_rank(rank: int) -> None:
    found = spectrum(low_rank(rank))
    assert found.explained[0][0, rank - 1] == pytest.approx(1.0, abs=TIGHT)
    assert found.rank_at(1.0)[0].tolist() == [rank]
    assert found.stable_rank[0][0] <= rank + TIGHT


def test_a_permutation() -> None:
    found = spectrum(np.eye(NODES)[np.random.default_rng(0).permutation(NODES)])
    assert_allclose(found.explained[0][0], np.arange(1, NODES + 1) / NODES, rtol=0, atol=TIGHT)
    assert found.stable_rank[0][0] == pytest.approx(NODES, rel=TIGHT)
    assert found.effective_rank[0][0] == pytest.approx(NODES, rel=TIGHT)
    assert found.rank_at(0.5)[0].tolist() == [NODES / 2]


def test_uniform_attention() -> None:
    found = spectrum(AttentionMaps.from_arrays(np.full((1, 1, NODES, NODES), 1 / NODES)))
    assert found.explained[0][0, 0] == pytest.approx(1.0, abs=TIGHT)
    assert found.effective_rank[0][0] == pytest.approx(1.0, abs=TIGHT)
    assert found.rank_at(0.9)[0].tolist() == [1.0]


def test_transposition_and_orthogonal_factors_change_nothing() -> None:
    A = attention(heads=1)[0]
    U, V = (ortho_group.rvs(NODES, random_state=seed) for seed in (0, 1))
    values = spectrum(A).values[0]
    for same in (A.T, U @ A, A @ V, U @ A @ V.T):
        assert_allclose(spectrum(same).values[0], values, rtol=0, atol=4 * TIGHT * values.max())


def test_scale_changes_values_only() -> None:
    A = attention(heads=1)
    found = spectrum(A)
    for scale in (1e-160, 1e160):
        scaled = spectrum(scale * A)
        for name in ("explained", "stable_rank", "effective_rank"):
            assert_allclose(getattr(scaled, name)[0], getattr(found, name)[0], rtol=TIGHT)


def test_infinite_self_attention_has_norm_one() -> None:
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(2, NODES, NODES)))
    found = spectrum(Affinity.from_dense(scores).normalize("relu_frobenius"))
    assert_allclose((found.values[0] ** 2).sum(1), 1.0, rtol=0, atol=1e-6)  # the norm is divided by has 1e-6 added


def test_the_kernel_of_primal_attention_has_few_values() -> None:
    """With n rows and heads of p channels the kernel between scores has rank min(n, p)."""
    torch.manual_seed(0)
    x = torch.randn(NODES, 8, dtype=torch.float64)
    for rows, rank in ((2, 2), (12, 4)):
        attend = PrimalAttention(8, heads=2, low_rank=2, rows=rows).double()
        q, k = attend.qk(x).detach().unflatten(-1, (2, 2, -1)).permute(1, 2, 0, 3)
        f = x[torch.linspace(0, NODES - 1, rows).long()].unflatten(-1, (2, -1)).transpose(0, 1)  # [H, n, p]
        left, right = (torch.nn.functional.normalize(y, dim=-1) @ f.mT for y in (q, k))
        assert spectrum(left @ right.mT).rank_at(1.0)[0].max() == rank


def test_linear_attention_has_rank_of_its_features() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 2, NODES, 3, dtype=torch.float64)
    attend = LinearAttention(6, heads=2).double()
    implied = attend.attend(q, k, torch.eye(NODES, dtype=torch.float64).expand(1, 2, -1, -1), None, None)[0]
    assert_allclose(implied.sum(-1), 1.0, atol=1e-5)
    assert spectrum(implied).rank_at(1.0)[0].tolist() == [3.0, 3.0]


def test_fused_heads_and_other_forms() -> None:
    A = attention()
    maps = AttentionMaps.from_arrays(A[None])
    edges = AttentionMaps.from_arrays([maps.edges(0)], num_nodes=NODES)
    expected = spectrum(A).values[0]
    forms = (torch.from_numpy(A), Affinity.from_dense(torch.from_numpy(A)), maps, edges, maps.affinity(0).to_sparse())
    for form in forms:
        assert_allclose(spectrum(form).values[0], expected, rtol=0, atol=TIGHT)
        fused = spectrum(form, fuse_heads=True).values[0]
        assert_allclose(fused, scipy.linalg.svdvals(A.mean(0))[None], rtol=0, atol=TIGHT)
    wide = spectrum(A[:, :5])
    assert wide.sizes == (5,)
    assert wide.values[0].shape == (2, 5)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_largest_values_alone(sparse: bool) -> None:
    rng = np.random.default_rng(0)
    size, k = 60, 6
    A = np.where(rng.random((2, size, size)) < 0.2, rng.random((2, size, size)), 0.0) + np.eye(size)
    A[:, :, 3] += 2.0
    A /= A.sum(-1, keepdims=True)
    maps = AttentionMaps.from_arrays(A[None])
    if sparse:
        maps = AttentionMaps.from_arrays([maps.edges(0)], num_nodes=size)
    full, part = spectrum(maps), spectrum(maps, k=k)
    assert part.values[0].shape == (2, k)
    for head in range(2):
        truth, values, error = full.values[0][head], part.values[0][head], part.error[0][head]
        rounding = 8 * size * EPS * truth[0]
        assert (values <= truth[:k] + rounding).all()  # a projection has no larger values
        assert (np.abs(truth[:, None] - values).min(axis=0) <= error + rounding).all()
        assert values[0] == pytest.approx(truth[0], abs=error + rounding)
    assert_allclose(part.stable_rank[0], full.stable_rank[0], rtol=1e-6)
    assert (part.explained[0] <= full.explained[0][:, :k] + TIGHT).all()
    assert np.isnan(part.effective_rank[0]).all()
    assert np.isnan(part.rank_at(0.999)[0]).all()
    again = spectrum(maps, k=k)
    assert again.values[0].tolist() == part.values[0].tolist()


def test_the_randomized_form_is_exact_where_the_rank_is_low() -> None:
    A = low_rank(3)
    found = spectrum(A, k=5)
    assert_allclose(found.values[0][0, :3], scipy.linalg.svdvals(A)[:3], rtol=TIGHT)
    assert found.error[0][0] <= TIGHT * found.values[0][0, 0]
    assert found.rank_at(1.0)[0].tolist() == [3.0]
    assert spectrum(A, k=NODES + 5).values[0].shape == (1, NODES)


def test_a_graph_of_ten_thousand_nodes() -> None:
    """A star: all draw on the first node, so that one singular value explains everything."""
    size = 10_000
    star = np.stack([np.zeros(size, dtype=np.int64), np.arange(size)])
    found = spectrum(AttentionMaps.from_arrays([(star, np.ones((size, 1)))], num_nodes=size), k=2)
    assert found.values[0][0, 0] == pytest.approx(np.sqrt(size), rel=size * EPS)
    assert found.rank_at(0.9)[0].tolist() == [1.0]
    assert found.stable_rank[0][0] == pytest.approx(1.0, rel=size * EPS)


def test_zeros_have_no_rank() -> None:
    for k in (None, 2):
        found = spectrum(np.zeros((1, 4, 4)), k=k)
        assert not found.values[0].any()
        assert found.stable_rank[0].tolist() == [0.0]
        assert found.rank_at(0.9)[0].tolist() == [0.0]
        assert (found.explained[0] == 1).all()
    assert spectrum(np.zeros((1, 4, 4))).effective_rank[0].tolist() == [0.0]


def test_curves_over_samples() -> None:
    samples = [spectrum([attention(seed=0, size=size), attention(seed=1, size=size)]) for size in (5, 8, 13)]
    grid = np.linspace(0, 1, 7)
    curves = explained_curves(iter(samples), grid)
    single = []
    for sample, size in zip(samples, (5, 8, 13), strict=True):
        known = [np.concatenate([[0], explained.mean(0)]) for explained in sample.explained]
        single.append([[np.interp(x, np.arange(size + 1) / size, values) for x in grid] for values in known])
    assert_allclose(curves.mean, np.mean(single, axis=0), rtol=0, atol=TIGHT)
    assert_allclose(curves.std, np.std(single, axis=0), rtol=0, atol=TIGHT)
    assert curves.mean[:, 0].tolist() == [0.0, 0.0]
    assert_allclose(curves.mean[:, -1], 1.0, rtol=0, atol=TIGHT)
    assert curves.as_frame().loc[(1, grid[3]), "mean"] == curves.mean[1, 3]
    assert explained_curves(samples).grid.shape == (101,)


def test_the_frame() -> None:
    found = spectrum([attention(), attention(heads=1)])
    frame = found.as_frame()
    assert list(frame.index) == [(0, 0), (0, 1), (1, 0)]
    assert frame.loc[(0, 1), "effective_rank"] == found.effective_rank[0][1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectrum(np.eye(2), p=0), "p is 0; expected a positive number"),
        (lambda: spectrum(np.eye(2), k=0), "k is 0; expected a number of singular values"),
        (lambda: spectrum(np.eye(2), k=1, p=1.0), "k is 1 but p is 1.0"),
        (lambda: spectrum([]), "matrices holds no layer"),
        (lambda: spectrum(np.ones(3)), "layer 0 has shape (3,); expected [N, M] or [H, N, M]"),
        (lambda: spectrum(np.ones((0, 2, 2))), "layer 0 has no entries"),
        (lambda: spectrum([np.eye(2), np.full((2, 2), np.nan)]), "layer 1 has entries that are NaN"),
        (
            lambda: spectrum(Affinity.from_edge_index(torch.tensor([[0], [1]]), torch.tensor([torch.inf]))),
            "layer 0 has entries that are NaN or infinite",
        ),
        (lambda: spectrum(np.eye(2)).rank_at(0.0), "tau is 0.0"),
        (lambda: explained_curves([]), "spectra is empty"),
        (lambda: explained_curves([spectrum(np.eye(2))], grid=[2.0]), "grid is [2.0]"),
        (lambda: explained_curves([spectrum(np.eye(4), k=2)]), "sample 0 has 2 of 4 values in layer 0; omit k"),
        (
            lambda: explained_curves([spectrum(np.eye(2)), spectrum([np.eye(2), np.eye(2)])]),
            "sample 1 has 2 layers but the first has 1",
        ),
    ],
)
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
