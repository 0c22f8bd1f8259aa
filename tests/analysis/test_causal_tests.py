"""Tests of partial correlations: hand formulas, and what causal-learn computes on data."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.special import log_ndtr
from scipy.stats import norm, pearsonr

from graphattn.analysis.causal_correlation import attention_correlation, surrogate_data
from graphattn.analysis.causal_tests import PartialCorrelationTest
from tests.analysis.structural_models import correlation_of, random_attention, random_weights, residual_correlation

EPS = np.finfo(np.float64).eps


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
