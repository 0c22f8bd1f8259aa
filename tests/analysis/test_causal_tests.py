"""Correlations of tokens and tests of their partial ones: hand formulas, and what causal-learn computes on data."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import log_ndtr
from scipy.stats import norm, pearsonr

from graphattn.analysis.causal_tests import (
    PartialCorrelationTest,
    attention_correlation,
    partial_correlation,
    surrogate_data,
)
from tests.analysis.structural_models import attention_of, correlation_of, random_weights

EPS = np.finfo(np.float64).eps


def random_attention(size: int, seed: int = 0) -> np.ndarray:
    A = np.random.default_rng(seed).random((size, size))
    return A / A.sum(axis=1, keepdims=True)


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


def residual_correlation(R: np.ndarray) -> float:
    """The correlation of what is left of two variables once the others are regressed out."""
    given = R[2:, 2:]
    rest = R[:2, :2] - R[:2, 2:] @ np.linalg.solve(given, R[2:, :2])
    return float(rest[0, 1] / math.sqrt(rest[0, 0] * rest[1, 1]))


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


# Tests


def test_p_values_are_the_formula() -> None:
    R, n = correlation_of(random_weights(np.random.default_rng(3), size=4, probability=0.9)), 60
    test = PartialCorrelationTest(R, n)
    for given in [(), (2,), (2, 3)]:
        index = [0, 1, *given]
        rho = residual_correlation(R[np.ix_(index, index)]) if given else R[0, 1]
        statistic = math.sqrt(n - len(given) - 3) * abs(0.5 * math.log((1 + rho) / (1 - rho)))
        result = test.test(0, 1, given)
        assert result.correlation == pytest.approx(rho, rel=1e-12)
        assert result.p_value == pytest.approx(2 * norm.sf(statistic), rel=1e-10)
        assert result.confidence == pytest.approx(-math.log10(2 * norm.sf(statistic)), rel=1e-10)
        assert test.degrees_of_freedom(len(given)) == n - len(given) - 2


@pytest.mark.parametrize("n", [40, 768])
def test_p_values_are_those_of_causal_learn_on_data(n: int) -> None:
    cit = pytest.importorskip("causallearn.utils.cit")
    R = correlation_of(random_weights(np.random.default_rng(1), size=6))
    test, fisher = PartialCorrelationTest(R, n), cit.CIT(surrogate_data(R, n), "fisherz")
    for x, y in combinations(range(6), 2):
        others = [node for node in range(6) if node not in (x, y)]
        for size in range(5):
            for given in combinations(others, size):
                # A p-value moves by less than half a unit for a unit of the statistic, which is off by roundings of
                # the correlations times the condition of their inverse and the root of n.
                tolerance = 64 * EPS * np.linalg.cond(R) * math.sqrt(n)
                assert test(x, y, given) == pytest.approx(fisher(x, y, given), abs=tolerance)


def test_the_marginal_test_agrees_with_fishers_interval() -> None:
    """SciPy inverts the same test: the interval at the level of the p-value ends at 0."""
    X = surrogate_data([[1.0, 0.2], [0.2, 1.0]], 50)
    p_value = PartialCorrelationTest([[1.0, 0.2], [0.2, 1.0]], 50)(0, 1)
    interval = pearsonr(X[:, 0], X[:, 1]).confidence_interval(1 - p_value)
    assert interval.low == pytest.approx(0, abs=1e-12)


def test_confidence_does_not_underflow() -> None:
    result = PartialCorrelationTest([[1.0, 0.9], [0.9, 1.0]], 10**6).test(0, 1)
    assert result.p_value == 0
    statistic = math.sqrt(10**6 - 3) * math.atanh(0.9)
    assert result.confidence == pytest.approx(-(math.log(2) + log_ndtr(-statistic)) / math.log(10), rel=1e-12)
    assert 4e5 < result.confidence < 5e5


def test_a_correlation_of_one_is_never_independent() -> None:
    test = PartialCorrelationTest(np.ones((2, 2)), 4, alpha=1e-300)
    assert test(0, 1) == 0
    assert test.test(0, 1).confidence == math.inf
    assert not test.independent(0, 1)
    assert PartialCorrelationTest([[1.0, -1.0], [-1.0, 1.0]], 10).test(0, 1).correlation == -1


def test_independent_means_above_alpha() -> None:
    R = [[1.0, 0.3], [0.3, 1.0]]
    p_value = PartialCorrelationTest(R, 50)(0, 1)
    assert not PartialCorrelationTest(R, 50, alpha=p_value).independent(0, 1)
    assert PartialCorrelationTest(R, 50, alpha=p_value * (1 - 4 * EPS)).independent(0, 1)


def test_each_test_is_made_once() -> None:
    test = PartialCorrelationTest(correlation_of(random_weights(np.random.default_rng(0))), 100)
    first = test.test(4, 1, [5, 0])
    assert test.test(1, 4, (0, 5)) is first
    assert (first.x, first.y, first.given) == (1, 4, (0, 5))
    assert test.n_tests == 1
    test(1, 4)
    assert test.n_tests == 2
    assert test.results(4, 1) == [first, test.test(1, 4)] == list(test)
    assert test.results(0, 1) == []


def test_nodes_have_names() -> None:
    R = correlation_of(random_weights(np.random.default_rng(2)))
    named, plain = PartialCorrelationTest(R, 100, nodes=[9, 7, 5, 3, 1, 0]), PartialCorrelationTest(R, 100)
    assert named(9, 3, [5]) == plain(0, 3, [2])


def test_nothing_is_tested_without_degrees_of_freedom() -> None:
    R = correlation_of(random_weights(np.random.default_rng(0)))
    test = PartialCorrelationTest(R, 6)
    assert test.max_cond == 2
    assert 0 <= test(0, 1, [2, 3]) <= 1
    with pytest.raises(ValueError, match=r"given holds 3 nodes but at most 2 .* 6 samples allow up to 2"):
        test(0, 1, [2, 3, 4])
    assert PartialCorrelationTest(R, 100, max_cond=1).max_cond == 1


def test_singular_tests_are_flagged() -> None:
    A = random_attention(5)
    A[3] = A[4]
    test = PartialCorrelationTest(attention_correlation(A)[0], 100)
    test(0, 1, [3])
    assert not any(result.singular for result in test)
    assert 0 <= test(0, 1, [3, 4]) <= 1
    assert [result.given for result in test if result.singular] == [(3, 4)]


@pytest.mark.parametrize(
    ("correlation", "options", "message"),
    [
        (np.eye(2), {"n_samples": 3}, "n_samples is 3; expected a whole number of at least 4"),
        (np.eye(2), {"n_samples": 7.5}, r"n_samples is 7\.5"),
        (np.eye(2), {"n_samples": True}, "n_samples is True"),
        (np.eye(2), {"alpha": 0}, "alpha is 0"),
        (np.eye(2), {"alpha": 1.0}, r"alpha is 1\.0"),
        (np.eye(2), {"max_cond": -1}, "max_cond is -1"),
        (np.eye(2), {"nodes": [0]}, r"nodes is \[0\]; expected 2"),
        (np.eye(2), {"nodes": [1, 1]}, "different numbers"),
        (np.ones((2, 3)), {}, r"correlation has shape \(2, 3\)"),
        ([[1.0, 0.5], [0.4, 1.0]], {}, "no matrix of correlations"),
        ([[2.0, 0.5], [0.5, 2.0]], {}, "no matrix of correlations"),
        ([[1.0, 1.5], [1.5, 1.0]], {}, "no matrix of correlations"),
        ([[1.0, np.nan], [np.nan, 1.0]], {}, "no matrix of correlations"),
    ],
)
def test_wrong_settings_are_refused(correlation: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartialCorrelationTest(correlation, **{"n_samples": 100, **options})


@pytest.mark.parametrize(
    ("x", "y", "given", "message"),
    [(0, 0, [], "named twice"), (0, 1, [1], "named twice"), (0, 7, [], r"\[7\] are none")],
)
def test_wrong_questions_are_refused(x: int, y: int, given: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartialCorrelationTest(np.eye(3), 100)(x, y, given)


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
