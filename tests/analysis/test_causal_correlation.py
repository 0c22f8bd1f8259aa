"""Correlations of tokens: cosines of rows, what is left of them given others, and data that have them."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from graphattn.analysis.causal_correlation import attention_correlation, partial_correlation, surrogate_data
from tests.analysis.structural_models import (
    attention_of,
    correlation_of,
    random_attention,
    random_weights,
    residual_correlation,
)

EPS = np.finfo(np.float64).eps


# Correlations


def test_correlations_are_the_cosines_of_rows() -> None:
    A = random_attention(7)
    R, nodes = attention_correlation(A, nodes=[5, 0, 3])
    assert nodes == (5, 0, 3)
    for i, j in combinations(range(3), 2):
        a, b = A[nodes[i]], A[nodes[j]]
        assert R[i, j] == pytest.approx(math.fsum(a * b) / math.sqrt(math.fsum(a * a) * math.fsum(b * b)), abs=8 * EPS)
    assert_array_equal(R, R.T)
    assert_array_equal(R.diagonal(), 1)


def test_they_are_those_of_a_structural_model() -> None:
    G = random_weights(np.random.default_rng(0))
    assert_allclose(attention_correlation(attention_of(G))[0], correlation_of(G), rtol=0, atol=40 * EPS)


@pytest.mark.parametrize("seed", range(10))
def test_scaling_rows_changes_nothing(seed: int) -> None:
    A = random_attention(6, seed)
    scale = 10 ** np.random.default_rng(seed).uniform(-150, 150, (6, 1))  # whose squares would overflow
    assert_allclose(attention_correlation(scale * A)[0], attention_correlation(A)[0], rtol=0, atol=16 * EPS)


@pytest.mark.parametrize("form", ["tensor", "float32 tensor with gradient", "csr", "coo"])
def test_every_form_gives_the_same(form: str) -> None:
    A = random_attention(5).astype(np.float32).astype(np.float64)
    given: Any = {
        "tensor": torch.from_numpy(A),
        "float32 tensor with gradient": torch.from_numpy(A).float().requires_grad_(),
        "csr": sparse.csr_array(A),
        "coo": sparse.coo_matrix(A),
    }[form]
    R, nodes = attention_correlation(given, nodes=[1, 4, 2])
    expected, expected_nodes = attention_correlation(A, nodes=[1, 4, 2])
    assert nodes == expected_nodes
    assert_allclose(R, expected, rtol=0, atol=4 * EPS)


def test_marginalising_leaves_other_correlations_as_they_are() -> None:
    A = random_attention(6)
    whole, part = attention_correlation(A)[0], attention_correlation(A, nodes=[1, 3, 4])[0]
    assert_allclose(part, whole[np.ix_([1, 3, 4], [1, 3, 4])], rtol=0, atol=4 * EPS)


def test_rows_of_zeros_are_named_or_dropped() -> None:
    A = random_attention(5)
    A[[1, 3]] = 0
    with pytest.raises(ValueError, match=r"tokens \[1, 3\] attend to nothing"):
        attention_correlation(A)
    R, nodes = attention_correlation(A, on_zero="drop")
    assert nodes == (0, 2, 4)
    assert_array_equal(R, attention_correlation(A, nodes=[0, 2, 4])[0])
    assert attention_correlation(np.zeros((2, 2)), on_zero="drop")[1] == ()


def test_the_input_is_not_edited() -> None:
    A = random_attention(4)
    before = A.copy()
    attention_correlation(A)
    assert_array_equal(A, before)


@pytest.mark.parametrize(
    ("attention", "options", "message"),
    [
        (np.ones((2, 3)), {}, r"shape \(2, 3\)"),
        (np.ones((1, 2, 2)), {}, r"shape \(1, 2, 2\)"),
        (np.ones((0, 0)), {}, r"shape \(0, 0\)"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), {}, "NaN or infinite"),
        (np.array([[1.0, np.inf], [0.0, 1.0]]), {}, "NaN or infinite"),
        (np.eye(2), {"nodes": []}, r"nodes is \[\]"),
        (np.eye(2), {"nodes": [0, 0]}, "different numbers of tokens"),
        (np.eye(2), {"nodes": [0, 2]}, "of 0 to 1"),
        (np.eye(2), {"nodes": [-1]}, "of 0 to 1"),
        (np.eye(2), {"on_zero": "ignore"}, "on_zero is 'ignore'"),
    ],
)
def test_wrong_attention_is_refused(attention: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_correlation(attention, **options)


# Partial correlations


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_partial_correlations_are_those_of_residuals(size: int) -> None:
    for seed in range(20):
        R = attention_correlation(random_attention(size, seed))[0]
        rho, singular = partial_correlation(R)
        assert not singular
        assert rho == pytest.approx(residual_correlation(R), abs=64 * EPS * np.linalg.cond(R))


def test_the_closed_form_is_the_form_by_matrices() -> None:
    for seed in range(30):
        R = attention_correlation(random_attention(3, seed))[0]
        P = -np.linalg.inv(R)
        by_matrix = P[0, 1] / math.sqrt(abs(P[0, 0] * P[1, 1]))
        assert partial_correlation(R)[0] == pytest.approx(by_matrix, abs=16 * EPS * np.linalg.cond(R))


@pytest.mark.parametrize("size", [3, 4, 5])
def test_a_copy_of_what_is_held_fixed_is_singular(size: int) -> None:
    A = random_attention(size)
    A[0] = A[2]  # x and z are the same token
    rho, singular = partial_correlation(attention_correlation(A)[0])
    assert singular
    assert -1 <= rho <= 1


# Surrogate data


@pytest.mark.parametrize("n", [7, 100])
def test_surrogate_data_have_these_correlations(n: int) -> None:
    R = correlation_of(random_weights(np.random.default_rng(5)))
    X = surrogate_data(R, n)
    assert X.shape == (n, 6)
    assert_allclose(np.corrcoef(X.T), R, rtol=0, atol=64 * EPS)
    assert_allclose(X.mean(axis=0), 0, atol=16 * EPS)
    assert_allclose(X.T @ X / n, R, rtol=0, atol=64 * EPS)


def test_surrogate_data_of_singular_correlations() -> None:
    assert_allclose(np.corrcoef(surrogate_data(np.ones((3, 3)), 10).T), 1, rtol=0, atol=16 * EPS)


def test_surrogate_data_follow_the_seed() -> None:
    assert_array_equal(surrogate_data(np.eye(2), 9, 1), surrogate_data(np.eye(2), 9, 1))
    assert (surrogate_data(np.eye(2), 9, 1) != surrogate_data(np.eye(2), 9, 2)).any()


def test_surrogate_data_are_refused() -> None:
    with pytest.raises(ValueError, match="n_samples is 3; expected more than 3"):
        surrogate_data(np.eye(3), 3)
    impossible = np.full((3, 3), -0.9) + 1.9 * np.eye(3)
    with pytest.raises(ValueError, match="expected none below 0"):
        surrogate_data(impossible, 10)
