"""The estimators keep scikit-learn's contract and work in its tools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from graphattn.tabular import NPTClassifier, NPTRegressor, TableEncoder

# As small as the checks allow that ask for a score.
SMALL: dict[str, Any] = {"channels": 8, "depth": 2, "heads": 2, "max_iter": 60, "learning_rate": 1e-2}


# Predictions are float32: their rounding depends on which rows are computed together, and is beyond the 1e-7 of these
# checks. ``test_npt.py`` has the same tests at the precision of float32.
ROUNDING = "predictions are rounded to float32"
EXCEPTIONS = {"check_methods_subset_invariance": ROUNDING, "check_methods_sample_order_invariance": ROUNDING}


@parametrize_with_checks(
    [NPTClassifier(**SMALL), NPTRegressor(**SMALL)], expected_failed_checks=lambda estimator: EXCEPTIONS
)
def test_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_pipelines_and_searches() -> None:
    X, y = load_iris(return_X_y=True)
    model = make_pipeline(StandardScaler(), NPTClassifier(**{**SMALL, "max_iter": 300}, random_state=0))
    assert cross_val_score(model, X[::2], y[::2], cv=2).mean() > 0.7
    search = GridSearchCV(NPTRegressor(**SMALL, random_state=0), {"p_target": [0.5, 1.0]}, cv=2)
    search.fit(X[::3, :3], X[::3, 3])
    assert search.best_params_["p_target"] in (0.5, 1.0)


def test_data_frames_of_steps_before_are_read() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = load_iris(return_X_y=True, as_frame=True)
    model = make_pipeline(StandardScaler(), NPTClassifier(**SMALL, random_state=0))
    plain = clone(model).fit(X[::3], y[::3])
    framed = clone(model).set_output(transform="pandas").fit(X[::3], y[::3])
    assert framed[-1].feature_names_in_.tolist() == X.columns.tolist()
    expected = plain.predict_proba(X[1::3])
    np.testing.assert_array_equal(framed.predict_proba(X[1::3]), expected)
    with config_context(transform_output="pandas"):
        inside = clone(model).fit(X[::3], y[::3])
        np.testing.assert_array_equal(inside.predict_proba(X[1::3]), expected)
        assert isinstance(TableEncoder().fit_transform(X), pandas.DataFrame)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, object])
def test_the_data_is_not_changed_whatever_its_type(kind: Any) -> None:
    X, y = load_iris(return_X_y=True)
    X = np.asfortranarray(X[::5].round().astype(kind))
    before = X.copy()
    X.flags.writeable = False
    NPTClassifier(**{**SMALL, "max_iter": 5}).fit(X, y[::5]).predict(X)
    np.testing.assert_array_equal(X, before)
