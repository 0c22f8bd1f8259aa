"""The selectors keep scikit-learn's contract and work in its tools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from graphattn.selection import ECFS, ILFS, InfFS, InfFSSupervised

SELECTORS = [InfFS, InfFSSupervised, ILFS, ECFS]


def data() -> tuple[np.ndarray, np.ndarray]:
    return load_breast_cancer(return_X_y=True)


# Some checks standardise their data, and say so by this warning.
@pytest.mark.filterwarnings("ignore::graphattn.selection.DispersionCollapsedWarning")
@pytest.mark.filterwarnings("ignore:all features are constant:UserWarning")
@parametrize_with_checks([selector() for selector in SELECTORS])
def test_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("selector", SELECTORS)
def test_data_frames_name_the_features(selector: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = data()
    names = [f"f{i}" for i in range(X.shape[1])]
    frame = pandas.DataFrame(X, columns=names)
    fitted = selector(5).fit(frame, y)
    best = sorted(fitted.order_[:5])
    assert_array_equal(fitted.feature_names_in_, names)
    assert_array_equal(fitted.get_feature_names_out(), [names[i] for i in best])
    selected = fitted.set_output(transform="pandas").transform(frame)
    assert list(selected.columns) == [names[i] for i in best]
    assert_array_equal(selected.to_numpy(), X[:, best])
    frame.iloc[3, 7] = np.nan
    with pytest.raises(ValueError, match="columns 'f7'"):
        selector().fit(frame, y)


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("kind", [sparse.csc_array, sparse.csr_array, sparse.coo_array, sparse.csr_matrix])
def test_sparse_equals_dense(selector: Any, kind: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 40)) * rng.uniform(1, 3, 40) * (rng.uniform(size=(30, 40)) < 0.4)
    y = rng.integers(0, 2, 30)
    stored = kind(X)
    options = {"tol": 1e-12} if selector is not ILFS else {}
    expected, found = selector(**options).fit(X, y), selector(**options).fit(stored, y)
    np.testing.assert_allclose(found.scores_, expected.scores_, rtol=1e-9)
    assert_array_equal(found.order_, expected.order_)
    assert_array_equal(found.transform(stored).toarray(), expected.transform(X))
    assert_array_equal(stored.toarray(), X)  # the data is as it was


@pytest.mark.parametrize("selector", SELECTORS)
def test_pipelines_and_searches(selector: Any) -> None:
    X, y = data()
    X, y = X[::6], y[::6]
    model = make_pipeline(selector(0.5), StandardScaler(), LogisticRegression())
    assert cross_val_score(model, X, y, cv=3).mean() > 0.8
    name = f"{selector.__name__.lower()}__n_features_to_select"
    search = GridSearchCV(model, {name: [3, "auto"]}, cv=2).fit(X, y)
    assert search.best_params_[name] in (3, "auto")
    columns = ColumnTransformer([("some", selector(2), list(range(10))), ("rest", "passthrough", [20])])
    assert_array_equal(columns.fit_transform(X, y)[:, 2], X[:, 20])


@pytest.mark.parametrize("selector", SELECTORS)
def test_learned_attributes_agree(selector: Any) -> None:
    X, y = data()
    fitted = clone(selector(7)).fit(X, y)
    n = X.shape[1]
    assert_array_equal(fitted.ranking_[fitted.order_], np.arange(1, n + 1))
    assert_array_equal(np.flatnonzero(fitted.support_), np.sort(fitted.order_[:7]))
    assert (np.diff(fitted.scores_[fitted.order_]) <= 0).all()
    assert_array_equal(fitted.get_support(), fitted.support_)
    restored = fitted.inverse_transform(fitted.transform(X))
    assert_array_equal(restored, np.where(fitted.support_, X, 0))
    assert fitted.n_features_selected_ == 7
    assert fitted.n_features_in_ == n
    assert 0 <= fitted.hop_overlap_ <= 1
    assert type(fitted.rho_) is float
    assert type(fitted.rho_certified_) is bool
    assert type(fitted.n_iter_) is int
    assert type(fitted.residual_) is float


@pytest.mark.parametrize("selector", SELECTORS)
def test_the_data_is_not_changed_whatever_its_layout(selector: Any) -> None:
    X, y = data()
    X = X[:50, :12]
    expected = selector().fit(X, y[:50]).scores_
    for other in (np.asfortranarray(X), X[:, ::-1].copy()[:, ::-1], np.repeat(X, 2, axis=1)[:, ::2]):
        before = other.copy()
        other.flags.writeable = False
        np.testing.assert_array_equal(selector().fit(other, y[:50]).scores_, expected)
        assert_array_equal(other, before)
