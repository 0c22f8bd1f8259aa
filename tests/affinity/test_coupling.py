"""Optimal couplings are feasible, cost what other solvers find, and say so when they are not found."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

import graphattn._optional
from graphattn.affinity import coupling
from graphattn.affinity.coupling import optimal_coupling

EPS = np.finfo(np.float64).eps


def masses(rng: np.random.Generator, size: int) -> np.ndarray:
    weights = rng.uniform(0.1, 1, size)
    return weights / weights.sum()


def least_cost(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """The linear program itself."""
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    found = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]), method="highs")
    return float(found.fun)


def test_equal_sizes_are_an_assignment() -> None:
    cost = np.random.default_rng(0).uniform(size=(9, 9))
    plan = optimal_coupling(cost)
    assert sorted(plan[plan > 0]) == [1 / 9] * 9
    assert (plan * cost).sum() == pytest.approx(cost[linear_sum_assignment(cost)].mean(), rel=9 * EPS)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 7), (7, 4), (1, 3), (3, 1)])
def test_weighted_points_cost_what_the_linear_program_says(n: int, m: int) -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    rng = np.random.default_rng(n)
    cost, a, b = rng.uniform(size=(n, m)), masses(rng, n), masses(rng, m)
    for left, right in ((a, b), (None, b), (a, None), (None, None)):
        plan = optimal_coupling(cost, left, right)
        left = np.full(n, 1 / n) if left is None else left
        right = np.full(m, 1 / m) if right is None else right
        np.testing.assert_allclose(plan.sum(1), left, rtol=n * m * EPS)
        np.testing.assert_allclose(plan.sum(0), right, rtol=n * m * EPS)
        # Feasibility of the linear program's own solution is checked to 1e-7.
        assert (plan * cost).sum() == pytest.approx(least_cost(cost, left, right), abs=1e-7)


@pytest.mark.parametrize("reg", [0.0, 0.5])
def test_points_without_mass_are_left_alone(reg: float) -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    cost = np.random.default_rng(1).uniform(size=(3, 4))
    a, b = np.array([0.5, 0.0, 0.5]), np.array([0.25, 0.5, 0.0, 0.25])
    plan = optimal_coupling(cost, a, b, reg)
    assert (plan[1] == 0).all()
    assert (plan[:, 2] == 0).all()
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-8)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-8)


@pytest.mark.parametrize("reg", [1.0, 0.1, 0.03])
def test_sinkhorn_is_the_matrix_scaling_of_the_kernel(reg: float) -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    rng = np.random.default_rng(2)
    cost, a, b = rng.uniform(size=(6, 5)), masses(rng, 6), masses(rng, 5)
    plan = optimal_coupling(cost, a, b, reg)
    kernel = np.exp(-cost / (reg * cost.mean()))
    u, v = np.ones(6), np.ones(5)
    for _ in range(20_000):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    truth = u[:, None] * kernel * v
    # The plan solves the same problem for column masses that are off by what is left of its error, 1e-8.
    np.testing.assert_allclose(plan / plan.sum(0), truth / truth.sum(0), atol=1e-6)
    np.testing.assert_allclose(plan.sum(1), a, rtol=1e-12)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-8)


def test_sinkhorn_does_not_depend_on_the_scale_of_the_cost() -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    cost = np.random.default_rng(3).uniform(size=(5, 5))
    expected = optimal_coupling(cost, reg=0.2)
    for scale in (2.0**-600, 2.0**500):
        np.testing.assert_array_equal(optimal_coupling(scale * cost, reg=0.2), expected)
    np.testing.assert_allclose(optimal_coupling(np.zeros((2, 4)), reg=0.2), np.full((2, 4), 1 / 8), rtol=EPS)


def test_sinkhorn_that_does_not_converge_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    monkeypatch.setattr(coupling, "_SINKHORN_ITERATIONS", 20)
    cost = np.random.default_rng(4).uniform(size=(20, 20))
    with pytest.raises(RuntimeError, match=r"off by .* after 20 iterations; raise reg, which is 0\.001"):
        optimal_coupling(cost, reg=1e-3)


def test_a_simplex_without_optimum_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ot = pytest.importorskip("ot", reason="POT is not installed")

    def unsolved(a: np.ndarray, b: np.ndarray, cost: np.ndarray, **options: object) -> tuple[np.ndarray, dict]:
        return np.outer(a, b), {"warning": "numItermax reached before optimality"}

    monkeypatch.setattr(ot, "emd", unsolved)
    with pytest.raises(RuntimeError, match="found no optimum: numItermax reached"):
        optimal_coupling(np.ones((2, 3)))


def test_what_needs_pot_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    graphattn._optional._attempt.cache_clear()
    try:
        assert optimal_coupling(np.eye(2)).tolist() == [[0.0, 0.5], [0.5, 0.0]]
        for options in ({"reg": 0.1}, {"a": [0.5, 0.5]}):
            with pytest.raises(ImportError, match=r"pip install 'graphattn\[transport\]'"):
                optimal_coupling(np.eye(2), **options)
    finally:
        graphattn._optional._attempt.cache_clear()


@pytest.mark.parametrize(
    ("cost", "options", "message"),
    [
        (np.ones(3), {}, r"cost has shape \(3,\)"),
        (np.ones((0, 3)), {}, "rows and columns"),
        (np.array([[math.nan]]), {}, "finite"),
        (np.ones((2, 2)), {"a": [1.0]}, r"a has shape \(1,\); expected one weight for each of the 2 points"),
        (np.ones((2, 2)), {"a": [1.5, -0.5]}, "a sums to 1; expected weights of at least 0"),
        (np.ones((2, 2)), {"b": [1.0, 1.0]}, "b sums to 2"),
        (np.ones((2, 2)), {"b": [math.nan, 1.0]}, "b sums to nan"),
        (np.ones((2, 2)), {"reg": -1}, "reg is -1; expected a number of at least 0"),
        (np.ones((2, 2)), {"reg": math.inf}, "reg is inf"),
        (np.ones((2, 2)), {"reg": True}, "reg is True"),
    ],
)
def test_errors(cost: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimal_coupling(cost, **options)
