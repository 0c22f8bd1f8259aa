"""Wasserstein distance, Monge gap, optimality and efficiency: their identities, and what other libraries compute."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from graphattn.affinity.coupling import optimal_coupling
from graphattn.analysis import transport
from graphattn.analysis.transport import efficiency, monge_gap, optimality, trajectory, wasserstein

EPS = np.finfo(np.float64).eps
COSTS = [("euclidean", 1.0), ("sqeuclidean", 2.0)]


def clouds(*sizes: int, features: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(size, features)) + 0.5 * i for i, size in enumerate(sizes)]


def rounding(*points: np.ndarray, p: float = 1.0) -> float:
    """What a mean of distances to the power of p may be off by: a few roundings of its largest term, for each term."""
    stacked = np.vstack(points)
    return len(stacked) * (stacked.shape[1] + 4) * EPS * float(2 * np.abs(stacked).max() + 1) ** p


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_it_is_a_metric(p: float) -> None:
    X, Y, Z = clouds(12, 12, 12)
    tolerance = rounding(X, Y, Z, p=p)
    assert wasserstein(X, X, p) == 0.0
    assert wasserstein(X, X[::-1], p) == 0.0
    assert wasserstein(X, Y, p) == pytest.approx(wasserstein(Y, X, p), abs=tolerance)
    assert wasserstein(X, Z, p) <= wasserstein(X, Y, p) + wasserstein(Y, Z, p) + tolerance
    assert 0 < wasserstein(X, Y, 1.0) <= wasserstein(X, Y, p) + tolerance  # by Jensen's inequality


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_a_translation_is_as_long_as_its_vector(p: float) -> None:
    (X,) = clouds(15)
    shift = np.array([1.0, -2.0, 2.0])
    assert wasserstein(X, X + shift, p) == pytest.approx(3.0, abs=rounding(X, X + shift, p=p))


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_on_a_line_the_sorted_points_are_matched(p: float) -> None:
    X, Y = clouds(25, 25, features=1)
    expected = np.mean(np.abs(np.sort(X, axis=0) - np.sort(Y, axis=0)) ** p) ** (1 / p)
    assert wasserstein(X, Y, p) == pytest.approx(expected, abs=rounding(X, Y, p=p))


def test_weighted_points_on_a_line() -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    X, Y = clouds(6, 9, features=1)
    rng = np.random.default_rng(1)
    a, b = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(9))
    expected = wasserstein_distance(X[:, 0], Y[:, 0], a, b)
    assert wasserstein(X, Y, a=a, b=torch.from_numpy(b)) == pytest.approx(expected, abs=rounding(X, Y))


@pytest.mark.parametrize(("cost", "p"), COSTS)
def test_the_order_of_rows_counts_for_the_gap_alone(cost: str, p: float) -> None:
    X, Y = clouds(14, 14)
    shuffled = Y[np.random.default_rng(2).permutation(14)]
    assert wasserstein(X, shuffled, p) == pytest.approx(wasserstein(X, Y, p), abs=rounding(X, Y, p=p))
    assert abs(monge_gap(X, shuffled, cost) - monge_gap(X, Y, cost)) > 0.01
    together = np.random.default_rng(3).permutation(14)
    assert monge_gap(X[together], Y[together], cost) == pytest.approx(monge_gap(X, Y, cost), abs=rounding(X, Y, p=p))


@pytest.mark.parametrize(("cost", "p"), COSTS)
def test_gap_of_known_maps(cost: str, p: float) -> None:
    (X,) = clouds(20)
    shift = np.array([3.0, -1.0, 2.0])
    root = np.random.default_rng(4).normal(size=(3, 3))
    positive = X @ (root @ root.T)  # the gradient of a convex function
    assert monge_gap(X, X + shift, cost) <= rounding(X, X + shift, p=p)
    if cost == "sqeuclidean":
        assert monge_gap(X, positive, cost) <= rounding(X, positive, p=p)
    assert monge_gap(X, -X, cost) > 0.1
    near = X + 1e-3 * np.random.default_rng(5).normal(size=X.shape)  # whose best pairs are the same rows
    assert monge_gap(X, near, cost) == 0.0
    assert monge_gap(X, X, cost) == 0.0
    assert monge_gap(X[:1], -X[:1], cost) == 0.0


@pytest.mark.parametrize(("cost", "p"), COSTS)
def test_gap_and_optimality_say_the_same(cost: str, p: float) -> None:
    X, Y = clouds(16, 16)
    for after in (Y, -X, X[::-1], X + 1):
        mean = np.mean(np.linalg.norm(X - after, axis=1) ** p)
        gap, share = monge_gap(X, after, cost), optimality(X, after, cost)
        assert gap >= 0
        assert 0 <= share <= 1
        assert gap == pytest.approx(mean * (1 - share), abs=rounding(X, after, p=p))
        assert mean - gap == pytest.approx(wasserstein(X, after, p) ** p, abs=rounding(X, after, p=p))
    assert optimality(X, X[::-1], cost) == 0.0
    assert optimality(X, X, cost) == 1.0
    assert optimality(X[:1], Y[:1], cost) == 1.0


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_paths(p: float) -> None:
    X, Y = clouds(10, 10)
    steps = [X + t * np.array([0.5, -1.0, 2.0]) for t in range(5)]
    assert efficiency(steps, p) == pytest.approx(1.0, abs=rounding(*steps))
    assert efficiency([X, Y, X], p) == 0.0
    assert efficiency([X, X, X], p) == 1.0
    assert efficiency([X, Y], p) == 1.0
    bent = [X, X + np.array([0.0, 3.0, 0.0]), X + np.array([4.0, 3.0, 0.0])]
    assert efficiency(bent, p) == pytest.approx(5 / 7, abs=rounding(*bent))
    assert 0 <= efficiency([X, Y, -X, 2 * Y], p) <= 1


@pytest.mark.parametrize(("cost", "p"), COSTS)
def test_trajectory_is_its_parts(cost: str, p: float) -> None:
    path = clouds(9, 9, 9, 9)
    found = trajectory(path, p, steps=[0, 5, 10, 20])
    pairs = list(pairwise(path))
    assert_allclose(found.wasserstein, [wasserstein(X, Y, p) for X, Y in pairs], rtol=4 * EPS)
    assert_allclose(found.gap, [monge_gap(X, Y, cost) for X, Y in pairs], rtol=4 * EPS)
    assert_allclose(found.optimality, [optimality(X, Y, cost) for X, Y in pairs], rtol=4 * EPS)
    assert found.path_length == pytest.approx(found.wasserstein.sum(), rel=4 * EPS)
    assert found.distance == wasserstein(path[0], path[-1], p)
    assert found.end_gap == monge_gap(path[0], path[-1], cost)
    assert found.end_optimality == optimality(path[0], path[-1], cost)
    assert found.efficiency == found.distance / found.path_length == efficiency(path, p)
    assert found.steps.tolist() == [0, 5, 10, 20]
    assert repr(found).startswith("Trajectory(3 moves: distance ")


def test_a_trajectory_takes_a_solution_a_move_and_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[int] = []

    def counted(*arguments: Any, **options: Any) -> np.ndarray:
        solved.append(1)
        return optimal_coupling(*arguments, **options)

    monkeypatch.setattr(transport, "optimal_coupling", counted)
    trajectory(clouds(6, 6, 6, 6, 6))
    assert len(solved) == 4 + 1


def test_frame() -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    found = trajectory(clouds(6, 6, 6), steps=[2, 3, 7])
    frame = found.as_frame()
    assert frame.index.tolist() == [3, 7]
    assert frame.index.name == "step"
    for column in ("wasserstein", "gap", "optimality"):
        assert_allclose(frame[column], getattr(found, column), rtol=0)
    assert frame["path_length"].iloc[-1] == pytest.approx(found.path_length, rel=4 * EPS)


@pytest.mark.parametrize(("cost", "p"), COSTS)
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_scale(cost: str, p: float, scale: float) -> None:
    X, Y, Z = clouds(11, 11, 11)
    assert wasserstein(scale * X, scale * Y, p) == pytest.approx(scale * wasserstein(X, Y, p), rel=4 * EPS)
    assert monge_gap(scale * X, scale * Y, cost) == pytest.approx(scale**p * monge_gap(X, Y, cost), rel=4 * EPS)
    assert optimality(scale * X, scale * Y, cost) == pytest.approx(optimality(X, Y, cost), rel=4 * EPS)
    assert efficiency([scale * X, scale * Y, scale * Z], p) == pytest.approx(efficiency([X, Y, Z], p), rel=4 * EPS)


def test_points_that_are_there_twice() -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    X, Y = clouds(8, 8)
    expected, tolerance = wasserstein(X, Y), rounding(X, X, Y, Y)
    assert wasserstein(np.repeat(X, 2, axis=0), np.repeat(Y, 2, axis=0)) == pytest.approx(expected, abs=tolerance)
    assert wasserstein(np.repeat(X, 3, axis=0), Y) == pytest.approx(expected, abs=tolerance)
    assert wasserstein(np.repeat(X, 2, axis=0), Y, a=np.full(16, 1 / 16)) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("cost", "p"), COSTS)
def test_sinkhorn_comes_down_to_the_exact_cost(cost: str, p: float) -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    X, Y = clouds(12, 12)
    mean, exact, gap = (cdist(X, Y) ** p).mean(), wasserstein(X, Y, p) ** p, monge_gap(X, Y, cost)
    slack = math.sqrt(12) * 1e-8 * (cdist(X, Y) ** p).max()  # masses are met to 1e-8
    costs = [wasserstein(X, Y, p, reg=reg) ** p for reg in (0.5, 0.1, 0.05)]
    gaps = [monge_gap(X, Y, cost, reg=reg) for reg in (0.5, 0.1, 0.05)]
    for reg, entropic, value in zip((0.5, 0.1, 0.05), costs, gaps, strict=True):
        weight = reg * mean * math.log(12)
        assert exact - slack <= entropic <= exact + weight + slack
        # The entropy of a coupling lies between that of a pairing and twice as much.
        assert gap + weight - slack <= value <= gap + 2 * weight + slack
        assert value >= weight
    assert costs[0] > costs[1] > costs[2]
    assert gaps[0] > gaps[1] > gaps[2]


@pytest.mark.parametrize("sizes", [(13, 13), (9, 14)])
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_parity_with_pot(sizes: tuple[int, int], p: float) -> None:
    ot = pytest.importorskip("ot", reason="POT is not installed")
    X, Y = clouds(*sizes)
    cost = ot.dist(X, Y, "euclidean") ** p
    assert wasserstein(X, Y, p) ** p == pytest.approx(ot.emd2([], [], cost), abs=rounding(X, Y, p=p))
    rng = np.random.default_rng(5)
    a, b = rng.dirichlet(np.ones(sizes[0])), rng.dirichlet(np.ones(sizes[1]))
    assert wasserstein(X, Y, p, a, b) ** p == pytest.approx(ot.emd2(a, b, cost), abs=rounding(X, Y, p=p))
    entropic = ot.sinkhorn2(a, b, cost / cost.mean(), 0.2, stopThr=1e-12, numItermax=10_000) * cost.mean()
    tolerance = math.sqrt(len(X)) * 1e-8 * cost.max()
    assert wasserstein(X, Y, p, a, b, reg=0.2) ** p == pytest.approx(entropic, abs=tolerance)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parity_with_geomloss() -> None:
    geomloss = pytest.importorskip("geomloss", reason="geomloss is not installed")
    X, Y = clouds(12, 12)
    blur = 0.05
    loss = geomloss.SamplesLoss("sinkhorn", p=1, blur=blur, scaling=0.99, debias=False, backend="tensorized")
    found = loss(torch.from_numpy(X), torch.from_numpy(Y)).item()
    exact = wasserstein(X, Y)
    # Its cost has the divergence from independent masses, which for the optimal pairing is log N.
    assert exact <= found <= exact + blur * math.log(12)


@pytest.mark.filterwarnings("ignore")  # of what it imports
@pytest.mark.parametrize("reg", [0.05, 0.2])
@pytest.mark.parametrize(("cost", "p"), COSTS)
def test_parity_with_ott(cost: str, p: float, reg: float) -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    jax = pytest.importorskip("jax", reason="ott-jax is not installed")
    theirs = pytest.importorskip("ott.neural.methods.monge_gap", reason="ott-jax[neural] is not installed")
    costs = {"euclidean": theirs.costs.Euclidean(), "sqeuclidean": theirs.costs.SqEuclidean()}
    options = {"relative_epsilon": "mean", "threshold": 1e-10, "max_iterations": 10_000}
    X, Y = clouds(12, 12)
    jax.config.update("jax_enable_x64", True)
    try:
        x, y = (jax.numpy.asarray(cloud) for cloud in (X, Y))
        expected = float(theirs.monge_gap_from_samples(x, y, costs[cost], reg, **options))
    finally:
        jax.config.update("jax_enable_x64", False)
    slack = math.sqrt(12) * 1e-8 * (cdist(X, Y) ** p).max()  # masses are met to 1e-8
    assert monge_gap(X, Y, cost, reg=reg) == pytest.approx(expected, abs=slack)


def test_tensors_of_any_kind() -> None:
    X, Y = (torch.from_numpy(cloud).float() for cloud in clouds(7, 7))
    expected = wasserstein(X.double().numpy(), Y.double().numpy())
    assert wasserstein(X, Y.requires_grad_()) == expected
    assert wasserstein(X.bfloat16(), Y) == wasserstein(X.bfloat16().double(), Y)
    assert wasserstein(X.numpy().astype(np.float32), Y.tolist()) == expected
    before = X.clone()
    trajectory([X, Y, X])
    assert torch.equal(X, before)


X = np.zeros((3, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wasserstein(X[0], X), r"X has shape \(2,\); expected \[points, features\]"),
        (lambda: wasserstein(X, X[:0]), r"Y has shape \(0, 2\)"),
        (lambda: wasserstein(X, X[:, :1]), "X has 2 columns but Y has 1"),
        (lambda: wasserstein(X, X, p=0.5), r"p is 0\.5; expected a number of at least 1"),
        (lambda: wasserstein(X, X, p=math.inf), "p is inf"),
        (lambda: wasserstein(X, X, reg=-1), "reg is -1"),
        (lambda: wasserstein(X, X, a=[1.0, 0.0]), r"a has shape \(2,\)"),
        (lambda: wasserstein(X, X + 1e300, p=2), "overflow to the power of 2; scale the points down"),
        (lambda: monge_gap(X, X[:2]), "X has 3 rows but Y has 2; expected the same points"),
        (lambda: optimality(X, X[:2]), "X has 3 rows but Y has 2"),
        (lambda: monge_gap(X, X, cost="l1"), "cost is 'l1'; expected 'euclidean' or 'sqeuclidean'"),
        (lambda: optimality(X, X, cost="l1"), "cost is 'l1'"),
        (lambda: monge_gap(X, X, reg=math.nan), "reg is nan"),
        (lambda: trajectory([X]), "checkpoints holds 1; expected at least two"),
        (lambda: trajectory([X, X[:2]]), r"checkpoints\[1\] has shape \(2, 2\) but checkpoints\[0\] has \(3, 2\)"),
        (lambda: trajectory([X, X + math.nan]), r"checkpoints\[1\] contains NaN or inf in rows 0, 1, 2; drop"),
        (lambda: trajectory([X, X], steps=[1, 1]), r"steps is \[1, 1\]; expected 2 increasing numbers"),
        (lambda: trajectory([X, X], steps=[1]), r"steps is \[1\]"),
        (lambda: efficiency([X, X], p=0), "p is 0"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_many_broken_rows_are_counted() -> None:
    broken = np.full((13, 2), math.inf)
    with pytest.raises(ValueError, match=r"X contains NaN or inf in rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more"):
        wasserstein(broken, np.zeros((13, 2)))
