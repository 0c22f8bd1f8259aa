"""Rows go to the dummies that optimal transport gives them, and new rows follow."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist, pdist
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_circles
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from graphattn.tabular.transport import OTClassifier

EPS = np.finfo(np.float64).eps


# All checks pass; fewer steps of a larger size keep them short.
@parametrize_with_checks([OTClassifier(steps=60, lr=0.01)])
def test_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def fitted(X: np.ndarray, y: np.ndarray, **options: Any) -> OTClassifier:
    """A classifier whose perceptron is hardly trained, for what comes before it."""
    return OTClassifier(**{"steps": 1, "random_state": 0, **options}).fit(X, y)


def blobs(n: int = 30, classes: int = 3, features: int = 2) -> tuple[np.ndarray, np.ndarray]:
    return make_blobs(n, centers=classes, n_features=features, cluster_std=1.0, random_state=1)


def class_of_dummies(model: OTClassifier, counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize(("classes", "features"), [(2, 1), (2, 4), (3, 2), (5, 3), (4, 1)])
def test_centers_are_a_regular_simplex(classes: int, features: int) -> None:
    X, y = blobs(20, classes, features)
    model = fitted(X, y)
    assert model.centers_.shape == (classes, max(features, classes - 1))
    assert_allclose(pdist(model.centers_), 6.0, rtol=4 * classes * EPS)
    assert_allclose(model.centers_.sum(0), 0, atol=20 * classes * EPS)
    assert not model.centers_[:, classes - 1 :].any()
    assert model.predict_proba(X).shape == (20, classes)


def test_the_perceptron_is_the_one_described() -> None:
    model = OTClassifier(steps=1, random_state=0).fit(*blobs(20))
    layers = [layer for layer in model.network_ if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(2, 64), (64, 64), (64, 2)]
    defaults = OTClassifier().get_params()
    assert (defaults["steps"], defaults["lr"], defaults["reg"], defaults["joint"]) == (500, 1e-3, 0.0, False)


def test_dummies_are_gaussian() -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    model = fitted(*blobs(40), dummies=4000)
    around = model.dummies_ - np.repeat(model.centers_, 4000, axis=0)
    error = 4 / np.sqrt(len(around))  # four standard errors of a mean of unit variance
    assert_allclose(around.mean(0), 0, atol=error)
    assert_allclose(np.cov(around.T), np.eye(2), atol=np.sqrt(2) * error)


@pytest.mark.parametrize("features", [1, 3])
def test_targets_are_the_dummies_of_the_cheapest_assignment(features: int) -> None:
    X, y = blobs(30, 3, features)
    model = fitted(X, y)
    counts = np.bincount(y).tolist()
    owners = class_of_dummies(model, counts)
    rows = np.zeros((30, model.dummies_.shape[1]))
    rows[:, :features] = StandardScaler().fit_transform(X)
    for c in range(3):
        cost = cdist(rows[y == c], model.dummies_[owners == c], "sqeuclidean")
        least = cost[linear_sum_assignment(cost)].sum()
        paid = np.square(rows[y == c] - model.targets_[y == c]).sum()
        assert paid == pytest.approx(least, rel=len(cost) * 8 * EPS)
        matched = cdist(model.targets_[y == c], model.dummies_[owners == c]).argmin(1)
        assert sorted(matched) == list(range(counts[c]))


def test_parity_with_pot() -> None:
    ot = pytest.importorskip("ot", reason="POT is not installed")
    X, y = blobs(30)
    rows, sizes = StandardScaler().fit_transform(X), np.bincount(y).tolist()
    for options, counts, p in (({}, sizes, None), ({"dummies": 7}, [7] * 3, None), ({"reg": 0.2}, sizes, 0.2)):
        model = fitted(X, y, **options)
        owners = class_of_dummies(model, counts)
        for c in range(3):
            dummies = model.dummies_[owners == c]
            cost = ot.dist(rows[y == c], dummies)
            if p is None:
                plan = ot.emd([], [], cost)
            else:
                plan = ot.sinkhorn([], [], cost / cost.mean(), p, stopThr=1e-12, numItermax=10_000)
            # Both couplings of Sinkhorn are off by at most 1e-8 in their masses.
            atol = 1e-12 if p is None else 1e-6
            assert_allclose(model.targets_[y == c], plan @ dummies / plan.sum(1, keepdims=True), atol=atol)


def test_moving_the_dummies_of_a_class_changes_no_assignment() -> None:
    X, y = blobs(24)
    near, far = fitted(X, y), fitted(X, y, geometry=lambda k, d: 50 * np.arange(k * d).reshape(k, d))
    assert_allclose(near.targets_ - near.centers_[y], far.targets_ - far.centers_[y], atol=100 * 8 * EPS)


def test_targets_follow_their_rows() -> None:
    X, y = blobs(24)
    order = np.random.default_rng(2).permutation(24)
    for options in ({}, {"joint": 1.5}):
        expected = fitted(X, y, **options).targets_[order]
        # The means that standardize are summed in another order.
        assert_allclose(fitted(X[order], y[order], **options).targets_, expected, atol=100 * EPS)


def test_a_class_with_one_row_has_one_dummy() -> None:
    X, y = blobs(21)
    y = np.where(np.arange(21) == 5, 9, y)
    model = fitted(X, y)
    assert_array_equal(model.classes_, [0, 1, 2, 9])
    assert_allclose(model.targets_[5], model.dummies_[-1], rtol=2 * EPS)
    assert fitted(X, y, pretrain="synthetic").targets_.shape == (21, 3)


def test_a_large_penalty_keeps_classes_apart() -> None:
    X, y = blobs(30)
    apart = fitted(X, y)
    assert_allclose(fitted(X, y, joint=1e3).targets_, apart.targets_, atol=100 * EPS)


def test_a_large_penalty_keeps_classes_apart_where_dummies_are_shared() -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    X, y = blobs(21)  # classes of other sizes than one another
    y = np.where(np.arange(21) % 3 == 0, 0, y)
    apart = fitted(X, y, dummies=5)
    assert_allclose(fitted(X, y, dummies=5, joint=1e3).targets_, apart.targets_, atol=1e-9)


def test_without_penalty_labels_do_not_count() -> None:
    X, y = blobs(30)
    model = fitted(X, y, joint=0.0)
    cost = cdist(StandardScaler().fit_transform(X), model.dummies_, "sqeuclidean")
    expected = model.dummies_[linear_sum_assignment(cost)[1]]
    assert_allclose(model.targets_, expected, rtol=4 * EPS)
    between = np.square(fitted(X, y, joint=True).targets_ - StandardScaler().fit_transform(X)).sum()
    assert cost[linear_sum_assignment(cost)].sum() <= between * (1 + 30 * EPS)


@pytest.mark.parametrize("options", [{}, {"joint": True}, {"pretrain": "synthetic"}, {"reg": 0.1}, {"dummies": 10}])
def test_separated_gaussians_are_told_apart(options: dict[str, Any]) -> None:
    if options.keys() & {"reg", "dummies"}:
        pytest.importorskip("ot", reason="POT is not installed")
    X, y = make_blobs([120, 160, 120], centers=[[0, 0], [8, 0], [0, 8]], random_state=0)
    model = OTClassifier(random_state=0, **options).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.97


def test_synthetic_rows_help_a_short_training() -> None:
    X, y = blobs(60)
    options = {"steps": 40, "lr": 1e-3}
    assert fitted(X, y, pretrain="synthetic", **options).loss_ < fitted(X, y, **options).loss_


def test_it_learns_what_no_line_divides() -> None:
    X, y = make_circles(300, noise=0.1, factor=0.5, random_state=0)
    linear = LogisticRegression().fit(X[::2], y[::2]).score(X[1::2], y[1::2])
    found = OTClassifier(random_state=0).fit(X[::2], y[::2]).score(X[1::2], y[1::2])
    # Five standard errors of the difference of two shares of 150 rows at most.
    assert found > linear + 5 * np.sqrt(0.5 / 150)


def test_probabilities_are_those_of_the_gaussians() -> None:
    X, y = blobs(24)
    names = np.array(["ash", "birch", "cedar"])[y]
    model = OTClassifier(steps=50, random_state=0).fit(X, names)
    moved = model.network_(torch.from_numpy(model.scaler_.transform(X))).detach().numpy()
    density = np.exp(-(cdist(moved, model.centers_) ** 2) / 2)
    probabilities = model.predict_proba(X)
    assert_allclose(probabilities, density / density.sum(1, keepdims=True), rtol=1e-12)
    assert_array_equal(model.predict(X), model.classes_[probabilities.argmax(1)])
    assert_array_equal(model.predict(X), model.classes_[cdist(moved, model.centers_).argmin(1)])


def test_far_rows_have_probabilities() -> None:
    X, y = blobs(24)
    probabilities = fitted(X, y).predict_proba(1e6 * np.ones((1, 2)))
    assert np.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1.0, abs=4 * EPS)


def test_a_seed_is_a_result_and_leaves_the_generators_alone() -> None:
    X, y = blobs(24)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = OTClassifier(steps=5, random_state=3, pretrain="synthetic").fit(X, y)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert_array_equal(np.random.get_state()[1], state[1])
    same = clone(one).fit(X, y)
    assert_array_equal(one.predict_proba(X), same.predict_proba(X))
    other = clone(one).set_params(random_state=4).fit(X, y)
    assert np.abs(one.predict_proba(X) - other.predict_proba(X)).max() > 1e-3
    assert_array_equal(pickle.loads(pickle.dumps(one)).predict_proba(X), one.predict_proba(X))


def test_constant_columns_and_data_frames() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = blobs(24)
    frame = pandas.DataFrame({"a": X[:, 0], "same": 7.0, "b": X[:, 1]})
    model = OTClassifier(steps=300, random_state=0).fit(frame, y)
    assert_array_equal(model.feature_names_in_, ["a", "same", "b"])
    assert model.score(frame, y) > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reg": -0.1}, r"reg is -0\.1"),
        ({"joint": -1.0}, r"joint is -1\.0; expected a truth value, or the penalty"),
        ({"joint": "yes"}, "joint is 'yes'"),
        ({"joint": np.nan}, "joint is nan"),
        ({"hidden": 0}, "hidden is 0; expected an integer of at least 1"),
        ({"steps": 1.5}, r"steps is 1\.5"),
        ({"dummies": 0}, "dummies is 0"),
        ({"dummies": True}, "dummies is True"),
        ({"lr": 0.0}, r"lr is 0\.0; expected a positive number"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"pretrain": "real"}, "pretrain is 'real'; expected None or 'synthetic'"),
        ({"geometry": "cube"}, "geometry is 'cube'; expected 'simplex' or a function"),
        ({"geometry": lambda k, d: np.zeros((k, d - 1))}, r"geometry returns the shape \(3, 1\); expected 3 centres"),
        ({"geometry": lambda k, d: np.zeros((2, d))}, r"geometry returns the shape \(2, 2\)"),
        ({"geometry": lambda k, d: np.full((k, d), np.nan)}, "geometry returns NaN or inf"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    X, y = blobs(12)
    with pytest.raises(ValueError, match=message):
        OTClassifier(**options).fit(X, y)


def test_one_class_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"y holds one class, \[4\]; expected at least two"):
        OTClassifier().fit(np.random.default_rng(0).normal(size=(5, 2)), [4] * 5)


def test_a_perceptron_that_diverges_is_an_error() -> None:
    X, y = blobs(12)
    with pytest.raises(FloatingPointError, match="after 20 steps; lower lr"):
        OTClassifier(steps=20, lr=1e200).fit(X, y)
