"""Data at the edge: what happens, and what the errors say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from graphattn.selection import ECFS, ILFS, DispersionCollapsedWarning, InfFS, InfFSSupervised
from tests.selection import reference

SELECTORS = [InfFS, InfFSSupervised, ILFS, ECFS]
SUPERVISED = SELECTORS[1:]
every = pytest.mark.parametrize("selector", SELECTORS)


@every
def test_one_sample(selector: Any) -> None:
    with pytest.raises(ValueError, match=r"1 sample.* while a minimum of 2 is required"):
        selector().fit(np.ones((1, 3)), [0])


@every
def test_one_feature(selector: Any) -> None:
    found = selector().fit(np.arange(6.0)[:, None], [0, 0, 0, 1, 1, 1])
    assert_array_equal(found.scores_, [0.0])
    assert_array_equal(found.ranking_, [1])
    assert_array_equal(found.support_, [True])
    assert (found.rho_, found.n_iter_, found.hop_overlap_) == (0.0, 0, 1.0)


@every
def test_all_features_constant(selector: Any) -> None:
    with pytest.warns(UserWarning, match="all features are constant; they are ranked by their index"):
        found = selector(2).fit(np.ones((6, 5)) * np.arange(5), [0, 0, 0, 1, 1, 1])
    assert_array_equal(found.scores_, np.zeros(5))
    assert_array_equal(found.order_, np.arange(5))
    assert_array_equal(found.get_support(indices=True), [0, 1])


@every
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
def test_constant_features_come_last(selector: Any, kind: Any) -> None:
    X, y = reference.example()
    options = {"mi": np.linspace(0, 1, 30)} if selector in (InfFSSupervised, ECFS) else {}
    expected = selector(**options).fit(X, y)
    wide = np.insert(X, [0, 7, 30], [0.0, 3.0, -1.0], axis=1)
    if options:
        options["mi"] = np.insert(options["mi"], [0, 7, 30], 9.0)
    found = selector(**options).fit(kind(wide), y)
    varying = np.setdiff1d(np.arange(33), [0, 8, 32])
    assert_allclose(found.scores_[varying], expected.scores_, rtol=1e-9)
    assert_array_equal(found.scores_[[0, 8, 32]], np.zeros(3))
    assert_array_equal(found.order_[30:], [0, 8, 32])
    assert_array_equal(found.order_[:30], varying[expected.order_])


def test_kept_constant_features_are_correlated_with_nothing() -> None:
    X, _ = reference.example()
    X[:, 5] = 2.0
    found = InfFS(constant="keep", tol=1e-13, rho_tol=1e-12).fit(X)
    assert_allclose(found.scores_, reference.katz(reference.affinity_u(X, 0.5), 0.9), rtol=1e-9)
    assert found.ranking_[5] < 30
    # The release ranks it first where dispersion does not outweigh that.
    assert InfFS(alpha=0.1, compat="matlab-2020").fit(X).ranking_[5] == 1


def test_an_affinity_of_zeros() -> None:
    column = np.random.default_rng(0).normal(size=(40, 1))
    X = np.hstack([column, np.exp(column), -(column**3), column + 5])
    for options in ({}, {"tol": 1e-10}, {"store": "blocked"}, {"n_neighbors": 2}):
        found = InfFS(2, alpha=0, **options).fit(X)
        assert_array_equal(found.scores_, np.zeros(4))
        assert_array_equal(found.order_, np.arange(4))
        assert (found.rho_, found.n_iter_) == (0.0, 0)
    y = np.arange(40) % 2
    same = np.hstack([column] * 3)  # equal deviations, equal relevance
    with pytest.warns(DispersionCollapsedWarning):
        found = ECFS().fit(same, y)
    assert_allclose(found.scores_, 3**-0.5)
    for formula in ("2020", "2015"):
        with pytest.warns(DispersionCollapsedWarning):
            found = InfFSSupervised(formula=formula).fit(same, y)
        assert_array_equal(found.scores_, np.zeros(3))
        assert_array_equal(found.order_, np.arange(3))


@pytest.mark.parametrize("selector", [InfFS, InfFSSupervised, ECFS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardised_data(selector: Any, dtype: Any) -> None:
    X, y = reference.example(samples=50)
    Z = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(dtype)
    with pytest.warns(DispersionCollapsedWarning, match="equal standard deviations"):
        found = selector().fit(Z, y)
    if selector is InfFS:
        assert_allclose(found.scores_, reference.katz(0.5 * reference.redundancy(X), 0.9), rtol=1e-3)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_repeated_columns(selector: Any, dtype: Any) -> None:
    X, y = reference.example(features=40)
    X = np.repeat(X.astype(dtype), 2, axis=1)
    found = selector().fit(X, y)
    assert_allclose(found.scores_[::2], found.scores_[1::2], rtol=1e-6)
    if selector is not InfFS:  # sums in the same order: not even the last bit differs
        assert_array_equal(found.scores_[::2], found.scores_[1::2])
        assert (found.ranking_[::2] < found.ranking_[1::2]).all()


@every
def test_undefined_values(selector: Any) -> None:
    X, y = reference.example()
    X[3, 4], X[7, 9], X[8, 9] = np.nan, np.inf, -np.inf
    for kind in (np.asarray, sparse.csr_array, sparse.csc_matrix):
        with pytest.raises(ValueError, match="X contains NaN or inf in columns 4, 9; impute"):
            selector().fit(kind(X), y)
    X[0] = np.nan
    with pytest.raises(ValueError, match="columns 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more"):
        selector().fit(X, y)


@pytest.mark.parametrize("selector", SUPERVISED)
def test_classes(selector: Any) -> None:
    X, y = reference.example()
    with pytest.raises(ValueError, match=r"y holds a single class, \[1\]; expected at least two"):
        selector().fit(X, np.ones(20, dtype=int))
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        selector().fit(X)
    with pytest.raises(ValueError, match=r"y looks like a regression target \(20 distinct float values\)"):
        selector().fit(X, X[:, 1])
    with pytest.raises(ValueError, match="regression target"):
        selector().fit(np.repeat(X, 3, axis=0), np.arange(60.0))
    assert_array_equal(selector().fit(X, y.astype(float)).scores_, selector().fit(X, y).scores_)
    assert_array_equal(selector().fit(X, y == 1).scores_, selector().fit(X, y).scores_)


def test_unsupervised_does_not_read_classes() -> None:
    X, _ = reference.example()
    assert_array_equal(InfFS().fit(X, "anything").scores_, InfFS().fit(X).scores_)


@pytest.mark.parametrize("selector", SELECTORS)
def test_half_precision(selector: Any) -> None:
    X, y = reference.example()
    half = X.astype(np.float16)
    assert_array_equal(selector().fit(half, y).order_, selector().fit(half.astype(np.float64), y).order_)


@pytest.mark.filterwarnings("ignore:the objective still changes")
def test_more_than_a_hundred_classes() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(101), 2)
    X = rng.normal(size=(202, 8)) + y[:, None] * np.r_[1, np.zeros(7)]
    for selector in SUPERVISED:
        assert selector().fit(X, y).ranking_[0] == 1


@pytest.mark.parametrize(
    ("selector", "options", "message"),
    [
        (InfFS, {"alpha": 1.2}, r"alpha is 1.2; expected a number in \[0, 1\]"),
        (InfFS, {"alpha": "half"}, "alpha is 'half'"),
        (InfFS, {"alpha": True}, "alpha is True"),
        (InfFS, {"decay": 0}, r"decay is 0; expected a number in \(0, 1\)"),
        (InfFS, {"decay": 1.0}, "decay is 1.0"),
        (InfFS, {"hops": 0}, "hops is 0; expected a positive integer"),
        (InfFS, {"hops": 2.5}, "hops is 2.5"),
        (InfFS, {"formula": 2015}, "formula is 2015; expected one of '2020', '2015'"),
        (InfFS, {"n_neighbors": 0}, "n_neighbors is 0"),
        (InfFS, {"constant": "first"}, "constant is 'first'; expected one of 'last', 'keep'"),
        (InfFS, {"store": "disk"}, "store is 'disk'"),
        (InfFS, {"tol": 0.0}, "tol is 0.0"),
        (InfFS, {"rho_tol": 2}, "rho_tol is 2"),
        (InfFS, {"max_iter": 0}, "max_iter is 0"),
        (InfFSSupervised, {"decay": -0.1}, "decay is -0.1"),
        (InfFSSupervised, {"alpha": 0.5}, "alpha is 0.5; expected three weights"),
        (InfFSSupervised, {"alpha": (1, 1)}, r"alpha is \(1, 1\); expected three weights"),
        (InfFSSupervised, {"alpha": (0, 0, 0)}, "not all 0"),
        (InfFSSupervised, {"alpha": (1, -1, 1)}, "not negative"),
        (InfFSSupervised, {"alpha": (1, np.nan, 1)}, "expected three weights"),
        (InfFSSupervised, {"formula": "2015", "alpha": (1, 1, 1)}, r"alpha is \(1, 1, 1\); expected a number"),
        (InfFSSupervised, {"formula": "2015", "mi": "knn"}, "has no mutual information and is symmetric"),
        (InfFSSupervised, {"formula": "2015", "symmetrize": False}, "leave mi and symmetrize"),
        (InfFSSupervised, {"fisher": "ratio"}, "fisher is 'ratio'; expected one of 'pairwise', 'classical'"),
        (InfFSSupervised, {"mi": "exact"}, "mi is 'exact'; expected one of 'binned', 'knn'"),
        (InfFSSupervised, {"mi": np.ones(3)}, r"mi has shape \(3,\) .* each of the 30 features"),
        (ECFS, {"mi": np.full(30, np.nan)}, "expected 'binned', 'knn' or a finite number"),
        (ECFS, {"alpha": -1}, "alpha is -1"),
        (ECFS, {"tol": 1}, "tol is 1"),
        (ILFS, {"n_tokens": 0}, "n_tokens is 0"),
        (ILFS, {"decay": 1}, "decay is 1"),
        (ILFS, {"tol": -1}, "tol is -1"),
        (ILFS, {"max_iter": 1.5}, "max_iter is 1.5"),
    ],
)
def test_errors_name_the_argument(selector: Any, options: dict[str, Any], message: str) -> None:
    X, y = reference.example()
    with pytest.raises(ValueError, match=message):
        selector(**options).fit(X, y)


def test_nearest_neighbour_information_needs_dense_data() -> None:
    X, y = reference.example()
    with pytest.raises(ValueError, match="mi is 'knn', which needs dense data, but X is sparse"):
        ECFS(mi="knn").fit(sparse.csr_array(X), y)


@every
def test_devices(selector: Any) -> None:
    X, y = reference.example()
    assert_array_equal(selector(device="cpu").fit(X, y).scores_, selector().fit(X, y).scores_)
    with pytest.raises(RuntimeError, match="nowhere"):
        selector(device="nowhere").fit(X, y)
