"""Known results: numbers of the released Inf-FS_U on public data, and the releases' steps written out literally."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from graphattn.selection import ECFS, ILFS, InfFS, InfFSSupervised
from tests.selection import reference

# Released InfFS_U, alpha = 0.5, run on GNU Octave: 1-based top five, size of the selection; then, of the correct
# default, the size by two means, the spectral radius and the range of the scores.
RELEASED = {
    "lung_small": ([255, 57, 234, 49, 307], 53, 113, 227.7849, 7.6194, 11.2749),
    "madelon": ([106, 494, 454, 337, 154], 47, 11, 309.0507, 8.4168, 14.2246),
    "Isolet": ([580, 577, 428, 578, 427], 77, 61, 396.4657, 8.1070, 13.2340),
    "colon": ([66, 286, 1668, 1561, 800], 338, 675, 1479.1839, 7.9048, 10.7059),
    "warpAR10P": ([2398, 2399, 2397, 2396, 2400], 392, 917, 1665.1531, 7.8304, 11.6606),
}


@pytest.mark.parametrize("name", RELEASED)
def test_inf_fs_on_public_data(name: str) -> None:
    X, _ = reference.load(name)
    top, bins, size, rho, low, high = RELEASED[name]
    released = InfFS("auto", compat="matlab-2020").fit(X)
    assert (released.order_[:5] + 1).tolist() == top
    assert released.n_features_selected_ == bins
    default = InfFS("auto").fit(X)
    assert (default.order_[:5] + 1).tolist() == top
    assert default.n_features_selected_ == size
    close = InfFS("auto", tol=1e-10, rho_tol=1e-8).fit(X)
    assert_allclose(close.rho_, rho, rtol=0, atol=1e-4)
    assert_allclose([close.scores_.min(), close.scores_.max()], [low, high], rtol=0, atol=1e-4)


def check_released_weights(name: str) -> None:
    """Scores of compat="matlab-2020" are the released weights, and so is the order wherever weights differ."""
    X, _ = reference.load(name)
    weight = reference.released_2020(reference.affinity_u(X, 0.5))
    found = InfFS(compat="matlab-2020").fit(X).scores_
    assert_allclose(found, weight, rtol=0, atol=1e-9)
    assert reference.inverted_pairs(found, weight, 1e-12) == 0


@pytest.mark.parametrize("name", ["lung_small", "colon"])
def test_released_weights(name: str) -> None:
    check_released_weights(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["madelon", "Isolet", "ORL", "warpAR10P"])
def test_all_released_weights(name: str) -> None:
    check_released_weights(name)


def test_matlab_2020_supervised() -> None:
    X, y = reference.example()
    X[:, 4] = np.where(y == 1, 3.0, 1.0)  # a denominator of 0
    X[:, 5] = 2.0  # constant, and kept
    mi = np.random.default_rng(0).uniform(size=30)
    G = reference.affinity_s(X, reference.fisher(X, y, zero=10000.0), mi)
    expected = reference.released_2020(G)
    with pytest.warns(UserWarning, match="does not affect the ranking"):
        found = InfFSSupervised("auto", compat="matlab-2020", mi=mi).fit(X, 2 * y - 1)
    assert_allclose(found.scores_, expected, rtol=1e-13)
    assert_allclose(found.rho_, G.sum(axis=1).max(), rtol=1e-13)
    assert not found.rho_certified_
    assert reference.inverted_pairs(found.scores_, expected, 1e-12) == 0


@pytest.mark.parametrize("selector", [InfFS, InfFSSupervised])
def test_matlab_2016(selector: Any) -> None:
    X, y = reference.example()
    X[:, 4] = np.where(y == 1, 3.0, 1.0)
    X[:, 5] = 2.0
    if selector is InfFS:
        A = 0.3 * reference.redundancy(X) + 0.7 * reference.sigma(X)
    else:
        A = reference.affinity_ec(X, reference.fisher(X, y, zero=10000.0), 0.3)
    found = selector(alpha=0.3, compat="matlab-2016").fit(X, y)
    assert_allclose(found.scores_, reference.katz(A, 0.99), rtol=1e-9)
    assert (found.scores_ > 0).all()  # constant features take part
    explicit = selector(alpha=0.3, compat="matlab-2016", formula="2015", decay=0.99, constant="keep").fit(X, y)
    assert_array_equal(explicit.scores_, found.scores_)


@pytest.mark.parametrize("n_tokens", [None, 6, 10])
def test_matlab_2017(n_tokens: int | None) -> None:
    X, y = reference.example(samples=40)
    X[:, 4] += 1000 * y  # separates perfectly
    z, scores, size = reference.released_2017(X, y, n_tokens or 4)
    found = ILFS("auto", n_tokens=n_tokens, auto_rule="ilfs", compat="matlab-2017").fit(X, y)
    assert_allclose(found.rho_, (z**2).sum(), rtol=1e-9)
    assert_allclose(found.scores_, scores, rtol=1e-8)
    assert found.n_features_selected_ == size
    assert z[4] == found.scores_[4] == 0
    assert found.ranking_[4] > 25  # with the others that saturate at 0
    assert ILFS().fit(X, y).ranking_[4] == 1


def test_matlab_2017_where_the_release_has_no_number() -> None:
    X, y = reference.example(samples=40)
    X[:, 5] = 2.0  # 0 / 0 in the release
    found = ILFS(compat="matlab-2017").fit(X, y)
    assert np.isfinite(found.scores_).all()
    assert found.scores_[5] == 0
    # All saturated: the factor of the release is 1, its system singular.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 10))
    found = ILFS(compat="matlab-2017").fit(X, rng.integers(0, 2, 200))
    assert math.ceil(found.rho_) == 10
    assert_allclose(found.scores_, 99, rtol=1e-3)


def test_fslib() -> None:
    X, y = reference.example()
    X[:, 4] = np.where(y == 1, 3.0, 1.0)
    X[:, 5] = 2.0
    mi = np.random.default_rng(0).uniform(-0.1, 1, size=30)
    v = np.abs(reference.fisher(X, y, zero=10000.0) + mi) / 2
    values, vectors = np.linalg.eigh(reference.affinity_ec(X, v, 0.5))
    found = ECFS(compat="fslib", mi=mi).fit(X, y)
    assert_allclose(found.scores_, np.abs(vectors[:, -1]), rtol=1e-11)
    assert_allclose(found.rho_, values[-1], rtol=1e-13)


@pytest.mark.parametrize(
    ("selector", "options", "message"),
    [
        (InfFS, {"compat": "matlab"}, "compat is 'matlab'; expected None or one of 'matlab-2020', 'matlab-2016'"),
        (InfFS, {"compat": "matlab-2020", "decay": 0.5}, "decay is 0.5 but compat='matlab-2020' fixes it to 0.9"),
        (InfFS, {"compat": "matlab-2020", "formula": "2015"}, "formula is '2015' but"),
        (InfFS, {"compat": "matlab-2020", "n_neighbors": 3}, "n_neighbors is 3 but"),
        (InfFS, {"compat": "matlab-2016", "hops": 3}, "hops is 3 but"),
        (InfFSSupervised, {"compat": "matlab-2020", "fisher": "classical"}, "fisher is 'classical' but"),
        (ILFS, {"compat": "matlab-2017", "max_iter": 5}, "max_iter is 5 but"),
        (ILFS, {"compat": "matlab-2017", "n_tokens": 2}, "needs at least 3"),
        (ECFS, {"compat": "fslib", "normalize_relevance": True}, "normalize_relevance is True but"),
        (ECFS, {"compat": "matlab-2020"}, "expected None or one of 'fslib'"),
    ],
)
def test_releases_refuse_what_they_do_not_have(selector: Any, options: dict[str, Any], message: str) -> None:
    X, y = reference.example()
    with pytest.raises(ValueError, match=message):
        selector(**options).fit(X, y)


@pytest.mark.parametrize(
    "selector",
    [
        InfFSSupervised(compat="matlab-2020"),
        InfFSSupervised(compat="matlab-2016"),
        ILFS(compat="matlab-2017"),
        ECFS(compat="fslib"),
    ],
)
def test_releases_know_two_classes(selector: Any) -> None:
    X, y = reference.example(classes=3)
    with pytest.raises(ValueError, match=f"{selector.compat}', which is for two classes, but y holds 3"):
        selector.fit(X, y)


def test_the_release_of_2020_has_limits() -> None:
    with pytest.raises(ValueError, match="negative from 200000 features on, but X has 200000"):
        InfFS(compat="matlab-2020").fit(np.zeros((2, 200_000)))
    column = np.arange(5.0)[:, None]
    almost = np.hstack([column, np.array([0.0, 4.0, 2.0, 6.0, 8.0])[:, None]])
    with pytest.raises(ValueError, match="no row of the affinity sums up to 1"):
        InfFS(alpha=0, compat="matlab-2020").fit(almost)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = InfFS(alpha=0, compat="matlab-2020").fit(np.hstack([column, column]))
    assert_allclose(same.scores_, 0, atol=1e-12)
