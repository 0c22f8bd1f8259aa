"""Checks of data and arguments that all feature selectors share."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.sparsefuncs import min_max_axis

# Float labels with more distinct whole values than this, and than half of the samples, are taken for a quantity.
_FLOAT_CLASSES = 20


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise unless the argument is one of some names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of " + ", ".join(map(repr, choices)))


def check_number(name: str, value: Any, low: float, high: float, *, exclusive: bool = False) -> None:
    """Raise unless the argument is a number of an interval, whose ends may be excluded."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not (low < value < high if exclusive else low <= value <= high):
        interval = f"({low}, {high})" if exclusive else f"[{low}, {high}]"
        raise ValueError(f"{name} is {value!r}; expected a number in {interval}")


def check_count(name: str, value: Any) -> None:
    """Raise unless the argument is a positive integer."""
    if not _is_integer(value) or value < 1:
        raise ValueError(f"{name} is {value!r}; expected a positive integer")


def check_size(value: Any, n_features: int) -> None:
    """Raise unless ``n_features_to_select`` is None, "auto", an integer up to the number of features or a fraction."""
    if value is None or (isinstance(value, str) and value == "auto"):
        return
    whole = _is_integer(value) and 1 <= value <= n_features
    fraction = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral) and 0 < float(value) <= 1
    if not whole and not fraction:
        raise ValueError(
            f"n_features_to_select is {value!r}; expected None, 'auto', an integer from 1 to {n_features} (the number "
            "of features) or a fraction in (0, 1]"
        )


def check_finite(X: Any, names: np.ndarray | None) -> None:
    """Raise if a value is NaN or infinite, naming the columns."""
    if issparse(X):
        column = np.repeat(np.arange(X.shape[1]), np.diff(X.indptr))
        bad = np.unique(column[~np.isfinite(X.data)])
    else:
        bad = np.flatnonzero(~np.isfinite(X).all(axis=0))
    if bad.size:
        shown = ", ".join(str(i) if names is None else repr(str(names[i])) for i in bad[:10])
        more = f" and {bad.size - 10} more" if bad.size > 10 else ""
        raise ValueError(f"X contains NaN or inf in columns {shown}{more}; impute the values or drop the columns first")


def varies(X: Any) -> np.ndarray:
    """Tell for each feature whether it takes more than one value."""
    low, high = min_max_axis(X, axis=0) if issparse(X) else (X.min(axis=0), X.max(axis=0))
    return low < high


def number_classes(y: np.ndarray) -> np.ndarray:
    """Number the classes from 0 in the order of their labels; raise if there is one only, or labels are a quantity."""
    labels, classes = np.unique(y, return_inverse=True)
    if labels.size < 2:
        raise ValueError(f"y holds a single class, {labels.tolist()}; expected at least two")
    if y.dtype.kind == "f":
        whole = bool((labels == np.round(labels)).all())
        if not whole or labels.size > max(_FLOAT_CLASSES, y.size // 2):
            raise ValueError(
                f"y looks like a regression target ({labels.size} distinct float values); expected classes: bin the "
                "values first, or pass integers if they are labels"
            )
    return classes.astype(np.int64)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
