"""How well a linear SVM does on the features that a method selects inside each training fold."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import loadmat
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import f_classif, mutual_info_classif
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from graphattn.selection import ECFS, ILFS, InfFS, InfFSSupervised

COUNTS = (10, 50, 100, 200)
QUICK_COUNTS = (5, 10)
FOLDS = 5
ALL = "all features"
RELIEF = "ReliefF"
RELIEF_SAMPLES = 300  # its time grows with the square of the samples
SETS = ("colon", "lung_small", "madelon", "Isolet", "ORL", "warpAR10P", "TOX-171", "Prostate-GE")

Ranker = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Table:
    """One data set."""

    name: str
    X: np.ndarray
    y: np.ndarray


def load_set(name: str, folder: Path) -> Table:
    """Read ``X`` and ``Y`` of a ``.mat`` file."""
    content = loadmat(folder / f"{name}.mat")
    return Table(name, content["X"].astype(np.float64), content["Y"].ravel())


def quick_set() -> Table:
    """Return a small table, for ``--quick``."""
    X, y = make_classification(80, 40, n_informative=8, n_redundant=10, n_classes=2, random_state=0)
    return Table("synthetic", X, y)


def _by_score(score: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Ranker:
    """Rank by a score; features without one (a constant has no F value) come last."""
    return lambda X, y: np.argsort(-np.nan_to_num(score(X, y), nan=-np.inf), kind="stable")


def _fitted_order(make: Callable[[], Any]) -> Ranker:
    return lambda X, y: make().fit(X, y).order_


def _relief_scores(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    from skrebate import ReliefF

    # Evenly spaced in the order of the labels, so that every class keeps its share.
    rows = np.argsort(y, kind="stable")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), RELIEF_SAMPLES)).astype(int)]
    return ReliefF(n_features_to_select=1).fit(X[rows], y[rows]).feature_importances_


def _mutual_information(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    return mutual_info_classif(X, y, random_state=0, n_jobs=torch.get_num_threads())


RANKERS: dict[str, Ranker] = {
    "InfFS": _fitted_order(InfFS),
    "InfFS, 10 neighbors": _fitted_order(partial(InfFS, n_neighbors=10)),
    "InfFSSupervised": _fitted_order(InfFSSupervised),
    "ILFS": _fitted_order(ILFS),
    "ECFS": _fitted_order(ECFS),
    "F value": _by_score(lambda X, y: f_classif(X, y)[0]),
    "mutual information": _by_score(_mutual_information),
    "variance": _by_score(lambda X, y: X.var(axis=0)),
    RELIEF: _by_score(_relief_scores),
    ALL: lambda X, y: np.arange(X.shape[1]),
}


def folds(table: Table, repeats: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, training rows and test rows of every fold; the same for all methods."""
    for repeat in range(repeats):
        splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=repeat)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class in y has only")
            splits = list(splitter.split(table.X, table.y))
        for fold, (train, test) in enumerate(splits):
            yield f"{repeat}/{fold}", train, test


def evaluate(table: Table, method: str, train: np.ndarray, test: np.ndarray, counts: tuple[int, ...]) -> dict[str, Any]:
    """Select on the training rows, train a linear SVM on what is kept, and test it on the others."""
    X, y = table.X[train], table.y[train]
    start = time.perf_counter()
    with warnings.catch_warnings():
        # Constant columns of a fold: the F value divides by their zero variance.
        warnings.filterwarnings("ignore", module="sklearn.feature_selection")
        order = RANKERS[method](X, y)
    took = time.perf_counter() - start
    accuracy: dict[str, float] = {}
    unconverged = 0
    for count in (X.shape[1],) if method == ALL else counts:
        kept = order[:count]
        # The same solution from both: the primal solver crawls where many features separate the samples.
        dual = True if 4 * count > len(y) else "auto"
        model = make_pipeline(StandardScaler(), LinearSVC(dual=dual, random_state=0, max_iter=5000))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(X[:, kept], y)
        unconverged += any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        accuracy[str(count)] = float(model.score(table.X[np.ix_(test, kept)], table.y[test]))
    return {"accuracy": accuracy, "selection_seconds": took, "unconverged": unconverged}
