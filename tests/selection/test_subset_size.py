"""How many features the rules choose."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans

from graphattn.selection import ECFS, ILFS, InfFS, InfFSSupervised
from graphattn.selection.subset_size import histogram, path_degree, two_means
from tests.selection import reference


@pytest.mark.parametrize("seed", range(8))
def test_two_means_is_the_best_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.r_[rng.normal(size=rng.integers(2, 30)), rng.normal(3, 0.5, rng.integers(1, 20)), 2.0, 2.0]
    best = -np.sort(-scores)
    n = len(best)
    gains = [k * (n - k) / n**2 * (best[:k].mean() - best[k:].mean()) ** 2 for k in range(1, n)]
    assert two_means(rng.permutation(scores)) == np.argmax(gains) + 1
    assert two_means(1e-9 * scores + 1e3) == np.argmax(gains) + 1
    fitted = KMeans(2, n_init=20, random_state=0).fit(scores[:, None])
    size = (fitted.labels_ == fitted.cluster_centers_.argmax()).sum()
    assert gains[two_means(scores) - 1] >= gains[size - 1] * (1 - 1e-12)


def test_two_means_of_equal_scores() -> None:
    with pytest.warns(UserWarning, match="all scores are equal, so that all features are selected"):
        assert two_means(np.full(5, 0.3)) == 5
    assert two_means(np.array([1.0, 0.0])) == 1
    assert two_means(np.array([4.0])) == 1


def test_histogram_counts_full_bins() -> None:
    # Five bins of width 2, closed on the right: counts 3, 1, 1, 1, 4, and a mean of 2.
    scores = np.array([0, 1, 2, 3, 6, 7, 8.5, 9, 9.5, 10.0])
    assert histogram(scores) == 2
    assert histogram(scores[::-1].copy()) == 2
    assert histogram(np.array([1.0, 2.0, 5.0])) == two_means(np.array([1.0, 2.0, 5.0]))
    rng = np.random.default_rng(0)
    for n in (4, 5, 40, 41):
        scores = rng.normal(size=n)
        count = np.histogram(scores, n // 2)[0]
        assert histogram(scores) == (count > n / (n // 2)).sum()
    with pytest.warns(UserWarning, match="all scores are equal"):
        assert histogram(np.ones(8)) == 8


@pytest.mark.parametrize("scale", [1.0, 1e-3, 70.0])
def test_path_degree_is_the_largest_row_sum(scale: float) -> None:
    z = np.random.default_rng(1).uniform(0.1, 1, 40)
    scaled = reference.minmax(np.outer(z, z))
    assert path_degree(scale * z) == np.ceil(scaled.sum(axis=1).max())
    assert path_degree(np.array([3.0, 3.0])) == 2
    assert path_degree(np.array([1.0, 0.0, 0.0])) == 1
    assert path_degree(np.array([5.0])) == 1


@pytest.mark.parametrize("selector", [InfFS, InfFSSupervised, ILFS, ECFS])
def test_the_size_follows_the_argument(selector: Any) -> None:
    X, y = reference.example(features=31)
    for wanted, size in ((None, 15), (1, 1), (31, 31), (0.1, 3), (1.0, 31), (1e-9, 1), (np.int64(4), 4)):
        assert selector(wanted).fit(X, y).n_features_selected_ == size
    for rule, function in (("two_means", two_means), ("histogram", histogram), ("ilfs", path_degree)):
        found = selector("auto", auto_rule=rule).fit(X, y)
        assert found.n_features_selected_ == max(1, function(found.scores_)) == found.support_.sum()
    for wanted in (0, 32, -1, 0.0, 1.5, True, "all", [3], float("nan")):
        with pytest.raises(
            ValueError, match=r"n_features_to_select is .*; expected None, 'auto', an integer from 1 to 31"
        ):
            selector(wanted).fit(X, y)
    with pytest.raises(ValueError, match="auto_rule is 'elbow'; expected one of 'two_means', 'histogram', 'ilfs'"):
        selector("auto", auto_rule="elbow").fit(X, y)


def test_rules_do_not_see_constant_features() -> None:
    X, _ = reference.example()
    expected = InfFS("auto").fit(X).n_features_selected_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert InfFS("auto").fit(np.hstack([np.ones((20, 40)), X])).n_features_selected_ == expected
