"""Symmetry and directionality: identities, a direct formula, random weights, and what the released code computes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.linalg import circulant
from scipy.sparse import csr_array
from scipy.stats import ortho_group

from graphattn import Affinity
from graphattn.analysis.symmetry import directionality, query_key_symmetry, symmetry

EPS = np.finfo(np.float64).eps
SIZE = 12
TIGHT = 8 * SIZE * EPS  # of scores, which are sums of SIZE ** 2 terms around 1


def matrix(seed: int = 0, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(size, size))


def columns(size: int = SIZE) -> np.ndarray:
    """Random weights with one column and one weaker row that stand out."""
    M = matrix(size=size)
    M[:, 3] *= 9
    M[5] *= 5
    return M


def direct(M: np.ndarray, gamma: float = 2.0) -> tuple[float, float]:
    """The definitions, term by term."""
    symmetric, skew = (M + M.T) / 2, (M - M.T) / 2
    excess = []
    for axis in (1, 0):
        norms = [np.sqrt(sum(x * x for x in line)) for line in (M if axis == 1 else M.T)]
        mean = sum(norms) / len(norms)
        threshold = mean + gamma * np.sqrt(sum((x - mean) ** 2 for x in norms) / (len(norms) - 1))
        excess.append(sum(x - threshold for x in norms if x > threshold))
    R, C = excess
    s = ((symmetric**2).sum() - (skew**2).sum()) / (M**2).sum()
    return s, (R - C) / (R + C) if R + C else 0.0


def loose(M: np.ndarray, gamma: float = 2.0) -> float:
    """What a directionality may be off by: an excess is a difference of norms, off by roundings of the largest."""
    norms = np.stack([np.linalg.norm(M, axis=axis) for axis in (0, 1)])
    excess = (norms - norms.mean(1, keepdims=True) - gamma * norms.std(1, ddof=1, keepdims=True)).clip(0).sum()
    return 8 * M.size * EPS * norms.max() / excess if excess else 0.0


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("make", [matrix, columns])
def test_they_are_their_definitions(make: Any, gamma: float) -> None:
    M = make()
    s, d = direct(M, gamma)
    assert symmetry(M) == pytest.approx(s, abs=TIGHT)
    assert directionality(M, gamma=gamma) == pytest.approx(d, abs=loose(M, gamma))


def test_the_unit_scale() -> None:
    M = matrix()
    assert symmetry(M) == pytest.approx(2 * symmetry(M, scale="unit") - 1, abs=TIGHT)


def test_what_leaves_them_unchanged() -> None:
    M, U = columns(), ortho_group.rvs(SIZE, random_state=0)
    order = np.random.default_rng(1).permutation(SIZE)
    s, d = symmetry(M), directionality(M)
    assert 0 < abs(d) < 1
    assert symmetry(M.T) == pytest.approx(s, abs=TIGHT)
    assert symmetry(U @ M @ U.T) == pytest.approx(s, abs=4 * TIGHT)
    assert directionality(M.T) == pytest.approx(-d, abs=loose(M))
    assert directionality(M[order][:, order]) == pytest.approx(d, abs=loose(M))
    for scale in (-3.0, 1e-200, 1e200):
        assert symmetry(scale * M) == pytest.approx(s, abs=TIGHT)
        assert directionality(scale * M) == pytest.approx(d, abs=loose(M))


def test_the_ends_of_the_scale() -> None:
    M = matrix()
    assert symmetry(M + M.T) == pytest.approx(1.0, abs=TIGHT)
    assert symmetry(M - M.T) == pytest.approx(-1.0, abs=TIGHT)
    M = columns() + columns().T
    assert directionality(M, gamma=1.0) == pytest.approx(0.0, abs=loose(M, 1.0))
    found = query_key_symmetry([(M[:, :4], M[:, :4])], heads=2, per_head=True)
    assert_allclose(found.symmetry, [[1.0, 1.0]], atol=TIGHT)


@pytest.mark.parametrize("width", [4, 32])
def test_random_weights_are_near_one_over_their_size(width: int) -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(32, width)), rng.normal(size=(32, width))) for _ in range(400)]
    scores = query_key_symmetry(pairs).symmetry
    assert abs(scores.mean() - 1 / 32) < 4 * scores.std() / np.sqrt(len(scores)) + 0.1 / 32


def test_random_matrices_are_near_one_over_their_size() -> None:
    """Of normal entries each square has the same expected share, and the D that pair with themselves count."""
    scores = symmetry(np.random.default_rng(0).normal(size=(400, 32, 32)))
    assert abs(scores.mean() - 1 / 32) < 4 * scores.std() / np.sqrt(len(scores))


def test_an_inflated_column_dominates() -> None:
    M = np.random.default_rng(0).normal(size=(64, 64))
    M[:, 7] *= 10
    assert directionality(M) < -0.5
    assert directionality(M.T) > 0.5


def test_a_rotation_changes_the_direction() -> None:
    """Rows and columns that stand out belong to a basis, unlike symmetry."""
    M, U = columns(), ortho_group.rvs(SIZE, random_state=0)
    assert abs(directionality(U @ M @ U.T, gamma=1.0) - directionality(M, gamma=1.0)) > 0.1


@pytest.mark.parametrize("size", [2, 3, 7, 50])
@pytest.mark.parametrize("value", [1.0, 0.1, -3.7])
def test_a_constant_matrix_has_no_direction(size: int, value: float) -> None:
    assert directionality(np.full((size, size), value)) == 0.0
    # The same from factors, whose products round differently in each entry.
    W = np.full((size, 3), value)
    found = query_key_symmetry([(W, W / 3)])
    assert found.directionality.tolist() == [0.0]
    assert found.symmetry[0] == pytest.approx(1.0, abs=8 * size * EPS)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_norms_that_differ_by_rounding_do_not_stand_out(gamma: float) -> None:
    """The rows of a circulant matrix hold the same entries in another order, and so do its columns."""
    for seed in range(20):
        M = circulant(np.random.default_rng(seed).normal(size=40))
        assert directionality(M, gamma=gamma) == 0.0


def test_zeros_and_single_entries() -> None:
    zeros = np.zeros((3, 3))
    for empty in (zeros, csr_array(zeros), Affinity.from_scipy(csr_array(zeros))):
        assert symmetry(empty) == symmetry(empty, scale="unit") == directionality(empty) == 0.0
    disjoint = np.eye(4)[:, :2], np.eye(4)[:, 2:]
    orthogonal = disjoint[0], np.zeros((4, 2))
    found = query_key_symmetry([disjoint, orthogonal], heads=2, per_head=True)
    assert found.defined.tolist() == [[True, True], [False, False]]
    assert found.symmetry[1].tolist() == found.directionality[1].tolist() == [0.0, 0.0]
    assert symmetry(np.array([[-2.0]])) == 1.0
    assert directionality(np.array([[-2.0]])) == 0.0


def test_the_fast_form_is_the_direct_one() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(SIZE, 8)), rng.normal(size=(SIZE, 8)) * np.arange(1, 9)) for _ in range(3)]
    whole = query_key_symmetry(pairs, heads=2, gamma=1.0)
    single = query_key_symmetry(pairs, heads=2, per_head=True, gamma=1.0)
    for layer, (W_q, W_k) in enumerate(pairs):
        for M, s, d in [
            (W_q @ W_k.T, whole.symmetry[layer], whole.directionality[layer]),
            (W_q[:, :4] @ W_k[:, :4].T, single.symmetry[layer, 0], single.directionality[layer, 0]),
            (W_q[:, 4:] @ W_k[:, 4:].T, single.symmetry[layer, 1], single.directionality[layer, 1]),
        ]:
            # Products of the factors are larger than their sums, which cancel.
            factors = (np.linalg.norm(W_q) * np.linalg.norm(W_k) / np.linalg.norm(M)) ** 2
            assert s == pytest.approx(symmetry(M), abs=factors * TIGHT)
            assert d == pytest.approx(directionality(M, gamma=1.0), abs=factors * loose(M, 1.0))
    assert whole.defined.all()
    assert single.defined.all()


def test_the_product_of_the_factors_is_never_formed() -> None:
    """It would take 80 GB here."""
    W = np.random.default_rng(0).normal(size=(100_000, 2))
    found = query_key_symmetry([(W, W), (W, W[:, ::-1] * [1, -1])])
    assert_allclose(found.symmetry, [1.0, -1.0], rtol=0, atol=len(W) * EPS)


def test_heads_add_up() -> None:
    W_q, W_k = np.random.default_rng(0).normal(size=(2, SIZE, 8))
    summed = sum(W_q[:, head : head + 2] @ W_k[:, head : head + 2].T for head in (0, 2, 4, 6))
    found = query_key_symmetry([(W_q, W_k)], heads=4, gamma=1.0)
    assert found.symmetry[0] == pytest.approx(symmetry(summed), abs=SIZE * TIGHT)
    assert found.directionality[0] == pytest.approx(directionality(summed, gamma=1.0), abs=SIZE * loose(summed, 1.0))


def test_the_scale_of_the_factors_does_not_matter() -> None:
    W_q, W_k = np.random.default_rng(0).normal(size=(2, SIZE, 4))
    expected = query_key_symmetry([(W_q, W_k)])
    for scale in (1e-200, 1e200):
        found = query_key_symmetry([(scale * W_q, W_k / 3)])
        assert found.symmetry[0] == pytest.approx(expected.symmetry[0], abs=SIZE * TIGHT)
        assert found.defined.all()


def test_keys_of_a_group_are_repeated() -> None:
    rng = np.random.default_rng(0)
    W_q, W_k = rng.normal(size=(SIZE, 8)), rng.normal(size=(SIZE, 4))  # 4 heads, 2 groups of 2
    repeated = np.concatenate([W_k[:, :2], W_k[:, :2], W_k[:, 2:], W_k[:, 2:]], axis=1)
    for per_head in (False, True):
        grouped = query_key_symmetry([(W_q, W_k)], heads=4, per_head=per_head, gamma=1.0)
        expected = query_key_symmetry([(W_q, repeated)], heads=4, per_head=per_head, gamma=1.0)
        assert grouped.symmetry.tolist() == expected.symmetry.tolist()
        assert grouped.directionality.tolist() == expected.directionality.tolist()


def test_the_released_conventions() -> None:
    """The unit scale, and the excess of columns minus that of rows, with torch's norms and deviations."""
    M = torch.from_numpy(columns())
    rows, cols = M.norm(dim=1), M.norm(dim=0)
    over = [torch.relu(x - (x.mean() + 2 * x.std())).sum() for x in (rows, cols)]
    theirs = ((over[1] - over[0]) / (over[0] + over[1])).item()
    part = ((0.5 * (M + M.T)) ** 2).sum().item() / (M**2).sum().item()
    assert symmetry(M, compat="attention-geometry") == pytest.approx(part, abs=TIGHT)
    assert directionality(M, compat="attention-geometry") == pytest.approx(theirs, abs=loose(M.numpy()))
    W = np.eye(SIZE)
    found = query_key_symmetry([(M, W)], compat="attention-geometry")
    assert found.symmetry[0] == pytest.approx(part, abs=SIZE * TIGHT)
    assert found.directionality[0] == pytest.approx(theirs, abs=SIZE * loose(M.numpy()))


def test_every_form_of_a_matrix_gives_the_same() -> None:
    rng = np.random.default_rng(0)
    M = rng.random((2, SIZE, SIZE)) * (rng.random((SIZE, SIZE)) < 0.4)
    M[:, :, 2] += 1
    dense = Affinity.from_dense(torch.from_numpy(M))
    expected = symmetry(M), directionality(M, gamma=1.0)
    for form in (torch.from_numpy(M), dense, dense.to_sparse()):
        assert_allclose(symmetry(form), expected[0], atol=TIGHT)
        assert_allclose(directionality(form, gamma=1.0), expected[1], atol=max(loose(head, 1.0) for head in M))
    for form in (csr_array(M[0]), Affinity.from_scipy(csr_array(M[0])), M[0]):
        assert symmetry(form) == pytest.approx(expected[0][0], abs=TIGHT)
        assert directionality(form, gamma=1.0) == pytest.approx(expected[1][0], abs=loose(M[0], 1.0))


def test_parallel_edges_add_up() -> None:
    edges = torch.tensor([[0, 0, 1], [1, 1, 0]])
    A = Affinity.from_edge_index(edges, torch.tensor([1.0, 2.0, 3.0]))
    assert symmetry(A) == 1.0


def test_the_frame() -> None:
    W_q, W_k = np.random.default_rng(0).normal(size=(2, 6, 4))
    whole = query_key_symmetry([(W_q, W_k), (W_k, W_k)])
    assert whole.as_frame()["symmetry"].tolist() == whole.symmetry.tolist()
    frame = query_key_symmetry([(W_q, W_k), (W_k, W_k)], heads=2, per_head=True).as_frame()
    assert frame.index.names == ["layer", "head"]
    assert frame.loc[(1, 0), "symmetry"] == pytest.approx(1.0, abs=TIGHT)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symmetry(np.ones((2, 3))), r"shape \(2, 3\); expected square"),
        (lambda: symmetry(csr_array(np.ones((2, 3)))), r"shape \(2, 3\); expected a square"),
        (lambda: symmetry(np.array([[np.nan]])), "NaN or infinite"),
        (lambda: directionality(csr_array(np.array([[np.inf]]))), "NaN or infinite"),
        (lambda: symmetry(np.eye(2), scale="both"), "scale is 'both'; expected one of 'signed', 'unit'"),
        (lambda: symmetry(np.eye(2), compat="theirs"), "compat is 'theirs'; expected 'attention-geometry'"),
        (lambda: directionality(np.eye(2), compat="theirs"), "compat is 'theirs'"),
        (lambda: symmetry(np.eye(2), scale="signed", compat="attention-geometry"), "pass one of the two"),
        (lambda: directionality(np.eye(2), gamma=-1.0), "gamma is -1.0"),
        (lambda: query_key_symmetry([]), "layers is empty"),
        (lambda: query_key_symmetry([(np.eye(2), np.eye(2))], compat="theirs"), "compat is 'theirs'"),
        (lambda: query_key_symmetry([(np.ones((3, 2)), np.ones((4, 2)))]), "expected [features, channels]"),
        (lambda: query_key_symmetry([(np.ones((3, 4)), np.ones((3, 4)))], heads=3), "heads is 3"),
        (lambda: query_key_symmetry([(np.ones((3, 4)), np.ones((3, 3)))], heads=2), "each of 2 heads"),
        (lambda: query_key_symmetry([(np.ones((3, 8)), np.ones((3, 2)))], heads=2), "the 4 channels of each of 2"),
        (lambda: query_key_symmetry([(np.ones((3, 6)), np.ones((3, 4)))], heads=3), "or of equal groups"),
        (lambda: query_key_symmetry([(np.ones((3, 2)), np.full((3, 2), np.nan))]), "layer 0 has entries that are NaN"),
    ],
)
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message if "\\" in message else re.escape(message)):
        call()


def test_other_than_real_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="expected real numbers"):
        symmetry(np.array([["a"]]))
