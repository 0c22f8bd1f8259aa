"""What ``tabular.py`` predicts, and by what: tables, their splits, and every method behind one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _tabular_lookup import PAIRS, QUICK_PAIRS, Split, TaughtLookup
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_iris, make_circles, make_moons
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from graphattn.tabular import NPTClassifier, NPTRegressor, OTClassifier

OURS = "NPT"
VOTERS = 3
VOTED = f"NPT, mean of {VOTERS} networks"
TAUGHT = "NPT, taught on other tables"
TRANSPORT = "optimal transport"
TEACHING_STEPS, QUICK_TEACHING_STEPS = 1500, 5
FOLDS, QUICK_FOLDS = 10, 2
SPLITS, QUICK_SPLITS = 5, 1
REGRESSION = {"concrete": "concrete", "yacht": "yacht", "boston": "bostonHousing", "energy": "energy"}
LARGE, QUICK_LARGE = (50_000, 20), (300, 5)

_QUICK: dict[str, Any] = {"channels": 8, "depth": 2, "heads": 2, "max_iter": 10}
_OPTIONS: dict[str, Any] = {"abd": "full", "channels": 8, "learning_rate": 3e-3, "max_minutes": 9.0}
# Chosen by the log-loss of three folds of the training rows of the first fold, among ten settings.
_CLASS_OPTIONS: dict[str, Any] = {**_OPTIONS, "learning_rate": 1e-3, "dropout": 0.3}
# A target can be looked up only where its duplicate is not hidden as well, hence a small part of hidden ones.
_LOOKUP_OPTIONS: dict[str, Any] = {
    **_OPTIONS,
    "depth": 2,
    "heads": 2,
    "p_target": 0.25,
    "max_iter": 4000,
    "n_iter_no_change": 4000,
}
_LARGE_OPTIONS: dict[str, Any] = {"channels": 16, "depth": 4, "heads": 4, "max_iter": 100, "early_stopping": False}

Fit = Callable[[np.ndarray, np.ndarray], BaseEstimator]


def breast_cancer(quick: bool) -> list[Split]:
    """Return the folds of the Wisconsin diagnostic set."""
    X, y = load_breast_cancer(return_X_y=True)
    if quick:
        X, y = X[::6, :4], y[::6]
    return _folds(X, y, quick)


def shapes(quick: bool) -> dict[str, list[Split]]:
    """Return the folds of two sets of points that no line divides, and of the irises."""
    rows = 40 if quick else 500
    sets = {
        "moons": make_moons(rows, noise=0.3, random_state=0),
        "circles": make_circles(rows, noise=0.2, factor=0.5, random_state=0),
        "iris": load_iris(return_X_y=True),
    }
    return {name: _folds(X, y, quick) for name, (X, y) in sets.items()}


def regression(folder: Path, number: int) -> Split:
    """Return one of the standard splits of a regression set: what is not in its test file is for training."""
    table = np.loadtxt(folder / "data.txt")
    columns = [np.loadtxt(folder / f"index_{name}.txt", dtype=int, ndmin=1) for name in ("features", "target")]
    test = np.loadtxt(folder / f"index_test_{number}.txt", dtype=int)
    X, y = table[:, columns[0]], table[:, columns[1][0]]
    return Split(np.delete(X, test, axis=0), np.delete(y, test), X[test], y[test])


def large(quick: bool, seed: int = 0) -> Split:
    """Return a table of many rows, with a target that is a smooth function of its columns."""
    rows, columns = QUICK_LARGE if quick else LARGE
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows + 100, columns - 1))
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=len(X))
    return Split(X[:rows], y[:rows], X[rows:], y[rows:])


def classifiers(quick: bool, seed: int) -> dict[str, BaseEstimator]:
    """Return the methods for classes, each as it comes but for the scaling that it needs."""
    options = _QUICK if quick else _CLASS_OPTIONS
    # Seeds that no fold has: each network holds out rows of its own.
    voters = [
        (str(number), NPTClassifier(**options, random_state=100 * number + seed)) for number in range(1, VOTERS + 1)
    ]
    return {
        OURS: NPTClassifier(**options, random_state=seed),
        VOTED: VotingClassifier(voters, voting="soft"),
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "gradient boosting": HistGradientBoostingClassifier(random_state=seed),
        TRANSPORT: OTClassifier(random_state=seed),
    }


def shape_classifiers(quick: bool, seed: int) -> dict[str, BaseEstimator]:
    """Return the classifier by optimal transport and what scikit-learn has for such sets, each as it comes."""
    mlp = MLPClassifier(max_iter=50 if quick else 2000, random_state=seed)
    return {
        TRANSPORT: OTClassifier(steps=50 if quick else 500, random_state=seed),
        "SVM": make_pipeline(StandardScaler(), SVC()),
        "MLP": make_pipeline(StandardScaler(), mlp),
    }


def regressors(quick: bool, seed: int) -> dict[str, BaseEstimator]:
    """Return the methods for numbers, each as it comes but for the scaling that it needs."""
    mlp = make_pipeline(StandardScaler(), MLPRegressor(max_iter=50 if quick else 2000, tol=1e-5, random_state=seed))
    return {
        OURS: NPTRegressor(**(_QUICK if quick else _OPTIONS | {"max_iter": 2000}), random_state=seed),
        "gradient boosting": HistGradientBoostingRegressor(random_state=seed),
        "MLP": TransformedTargetRegressor(mlp, transformer=StandardScaler()),
        "k-NN": make_pipeline(StandardScaler(), KNeighborsRegressor()),
    }


def lookup_regressors(kind: str, quick: bool, seed: int) -> dict[str, BaseEstimator]:
    """Return the methods for the lookup task, where one neighbour is what k-NN should find."""
    methods = regressors(quick, seed)
    steps, pairs = (QUICK_TEACHING_STEPS, QUICK_PAIRS) if quick else (TEACHING_STEPS, PAIRS)
    return {
        TAUGHT: TaughtLookup(kind, steps, pairs),
        OURS: NPTRegressor(**(_QUICK if quick else _LOOKUP_OPTIONS), random_state=seed),
        "MLP": methods["MLP"],
        "k-NN": make_pipeline(StandardScaler(), KNeighborsRegressor(1)),
    }


def large_regressor(kind: str, quick: bool) -> NPTRegressor:
    """Return the method for the large table, whose rows attend to their nearest or to those of a chunk."""
    options = _QUICK | {"chunk_size": 64} if quick else _LARGE_OPTIONS
    return NPTRegressor(
        **options, n_neighbors=16 if kind == "nearest rows" else None, random_state=0, progress=not quick
    )


def classify(model: BaseEstimator, split: Split, seed: int) -> dict[str, float]:
    """Fit and score a classifier of two classes."""
    start = time.perf_counter()
    model.fit(split.X, split.y)
    seconds = time.perf_counter() - start
    scores = _class_scores(model, split)
    if isinstance(model, NPTClassifier):
        scores |= {f"corrupted {name}": value for name, value in _class_scores(corrupted(model, seed), split).items()}
        scores["steps"] = model.n_iter_
    return {"seconds": seconds, **scores}


def count_right(model: BaseEstimator, split: Split, seed: int) -> dict[str, float]:
    """Fit a classifier of any number of classes, and score what it says the class is."""
    start = time.perf_counter()
    model.fit(split.X, split.y)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "accuracy": float(accuracy_score(split.y_test, model.predict(split.X_test)))}


def regress(model: BaseEstimator, split: Split, seed: int) -> dict[str, float]:
    """Fit and score a regressor."""
    start = time.perf_counter()
    model.fit(split.X, split.y)
    seconds = time.perf_counter() - start
    scores = _number_scores(model, split)
    if isinstance(model, (NPTRegressor, TaughtLookup)):
        scores |= {f"corrupted {name}": value for name, value in _number_scores(corrupted(model, seed), split).items()}
        scores["steps"] = model.n_iter_
    return {"seconds": seconds, **scores}


def corrupted(model: Any, seed: int) -> Any:
    """Shuffle every column of the rows that predictions look at, each on its own, so that they say nothing any more."""
    model.table_ = np.random.default_rng(seed).permuted(model.table_, axis=0)
    return model


def _folds(X: np.ndarray, y: np.ndarray, quick: bool) -> list[Split]:
    folds = StratifiedKFold(QUICK_FOLDS if quick else FOLDS, shuffle=True, random_state=0).split(X, y)
    return [Split(X[train], y[train], X[test], y[test]) for train, test in folds]


def _class_scores(model: BaseEstimator, split: Split) -> dict[str, float]:
    probability = model.predict_proba(split.X_test)
    return {
        "auroc": float(roc_auc_score(split.y_test, probability[:, 1])),
        "log_loss": float(log_loss(split.y_test, probability)),
        "accuracy": float(accuracy_score(split.y_test, model.predict(split.X_test))),
    }


def _number_scores(model: BaseEstimator, split: Split) -> dict[str, float]:
    predicted = model.predict(split.X_test)
    spread = predicted.std() > 0
    return {
        "rmse": float(np.sqrt(np.mean((predicted - split.y_test) ** 2))),
        "r": float(np.corrcoef(predicted, split.y_test)[0, 1]) if spread else 0.0,
    }
