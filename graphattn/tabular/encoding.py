"""Tables of mixed types as numbers: standardized values, codes of categories, NaN for what is missing."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

_SMALLEST_SCALE = 1e-8


class TableEncoder(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Encode the columns of a table, continuous or categorical, with missing values, one by one.

    A continuous column is shifted and scaled to mean 0 and deviation 1 over its known values; one that is constant is
    shifted only, and one that all but is, with a deviation below 1e-8 of its largest value or of 1, is scaled by that.
    A category becomes its place among the sorted categories seen by :meth:`fit`. Missing values (None, NaN,
    ``pandas.NA``) become NaN. A column without any known value says nothing, and stays NaN whatever comes later.

    Args:
        categorical: Which columns hold categories: ``"auto"`` for all that hold strings or booleans or have the
            categorical type of pandas; or their places, their names, or a mask.
        unknown: What becomes of a category that :meth:`fit` has not seen: ``"error"``, or ``"zero"`` for the code -1,
            which a network encodes as zeros.

    Attributes:
        categories_: For each column its sorted categories, or ``None`` if it is continuous.
        num_categories_: For each column the number of categories, 0 if it is continuous.
        mean_: Mean of each continuous column; 0 for others.
        scale_: Deviation of each continuous column; 1 for others, and where it is constant or never known.
        n_features_in_: Number of columns.

    Example:
        >>> table = np.array([[1.0, "red"], [3.0, "blue"], [None, "red"]], dtype=object)
        >>> encoder = TableEncoder().fit(table)
        >>> encoder.transform(table)
        array([[-1.,  1.],
               [ 1.,  0.],
               [nan,  1.]])
        >>> encoder.num_categories_.tolist()
        [0, 2]
    """

    def __init__(self, categorical: Any = "auto", unknown: str = "error") -> None:
        self.categorical = categorical
        self.unknown = unknown

    def fit(self, X: Any, y: Any = None) -> TableEncoder:
        """Learn the types, the categories and the scales of the columns.

        Args:
            X: Rows by columns: an array, a list or a data frame.
            y: Not read.

        Returns:
            The encoder itself.

        Raises:
            ValueError: If an argument is out of range, or a continuous column holds an infinite value.
            TypeError: If a value is neither a number nor a string, or X is sparse.
        """
        if self.unknown not in ("error", "zero"):
            raise ValueError(f"unknown is {self.unknown!r}; expected 'error' or 'zero'")
        typed = _typed_as_category(X)
        X = validate_data(self, _as_array(X), dtype=None, ensure_all_finite=False)
        wanted = self._wanted(typed)
        self.categories_: list[np.ndarray | None] = []
        self.mean_, self.scale_ = np.zeros(X.shape[1]), np.ones(X.shape[1])
        for column in range(X.shape[1]):
            known = _known(X[:, column])
            values = X[known, column]
            if self._is_categorical(column, values, wanted):
                self.categories_.append(_sorted(values, self._name(column)))
                continue
            self.categories_.append(None)
            if values.size:
                values = self._numbers(values, column)
                self.mean_[column], scale = moments(values)
                self.scale_[column] = max(scale, _SMALLEST_SCALE * min(1.0, float(np.abs(values).max())))
        sizes = [0 if labels is None else labels.size for labels in self.categories_]
        self.num_categories_ = np.array(sizes)
        # An array of the columns that fit has known nothing about.
        self.never_known_ = np.array([not _known(X[:, column]).any() for column in range(X.shape[1])])
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Encode a table.

        Args:
            X: Rows by columns, as for :meth:`fit`.

        Returns:
            Standardized values, codes from 0, and NaN; float64, of the same shape.

        Raises:
            ValueError: If a category is not known and ``unknown="error"``, a continuous column holds an infinite value
                or a string, or the number of columns differs.
        """
        check_is_fitted(self)
        X = validate_data(self, _as_array(X), dtype=None, ensure_all_finite=False, reset=False)
        out = np.full(X.shape, np.nan)
        for column, labels in enumerate(self.categories_):
            known = _known(X[:, column])
            if self.never_known_[column] or not known.any():
                continue
            if labels is None:
                values = self._numbers(X[known, column], column)
                out[known, column] = (values - self.mean_[column]) / self.scale_[column]
            else:
                out[known, column] = self._codes(X[known, column], labels, column)
        return out

    def _wanted(self, typed: np.ndarray | None) -> np.ndarray | None:
        """Which columns are said to hold categories; ``None`` if their values decide."""
        if isinstance(self.categorical, str):
            if self.categorical != "auto":
                raise ValueError(
                    f"categorical is {self.categorical!r}; expected 'auto', or a list of columns or a mask"
                )
            return None if typed is None else np.array([True if kind else None for kind in typed], dtype=object)
        chosen = np.asarray(self.categorical)
        mask = np.zeros(self.n_features_in_, dtype=bool)
        if chosen.dtype == bool:
            if chosen.shape != mask.shape:
                raise ValueError(f"categorical is a mask of {chosen.size} columns, but X has {mask.size}")
            return chosen
        for item in chosen.tolist():
            names = getattr(self, "feature_names_in_", np.array([])).tolist()
            if isinstance(item, str) and item in names:
                mask[names.index(item)] = True
            elif isinstance(item, int) and 0 <= item < mask.size:
                mask[item] = True
            else:
                raise ValueError(f"categorical names the column {item!r}, which X does not have")
        return mask

    def _is_categorical(self, column: int, values: np.ndarray, wanted: np.ndarray | None) -> bool:
        if not values.size:
            return False
        if wanted is not None and wanted[column] is not None:
            return bool(wanted[column])
        if values.dtype != object:
            return values.dtype.kind in "bUS"
        for value in values:
            if not isinstance(value, (numbers.Real, str, np.bool_)):
                raise TypeError(
                    f"{self._name(column)} holds a {type(value).__name__}; argument must be a string or a number"
                )
        return any(isinstance(value, (str, bool, np.bool_)) for value in values)

    def _numbers(self, values: np.ndarray, column: int) -> np.ndarray:
        """The known values of a continuous column as float64."""
        try:
            if values.dtype.kind not in "biufOUS":
                raise TypeError  # dates, which NumPy would convert
            found = values.astype(np.float64)
        except (TypeError, ValueError):
            wrong = next((value for value in values.tolist() if isinstance(value, str)), values[0])
            raise ValueError(
                f"{self._name(column)} holds {wrong!r} but is continuous; expected numbers, or list it in categorical"
            ) from None
        if not np.isfinite(found).all():
            raise ValueError(
                f"{self._name(column)} contains infinity; expected finite numbers, or NaN for missing ones"
            )
        return found

    def _codes(self, values: np.ndarray, labels: np.ndarray, column: int) -> np.ndarray:
        place = {label: code for code, label in enumerate(labels.tolist())}
        codes = np.array([place.get(value, -1) for value in values.tolist()])
        if self.unknown == "error" and (codes < 0).any():
            wrong = values[codes < 0][0]
            raise ValueError(
                f"{self._name(column)} holds the category {wrong!r}, which fit has not seen; "
                "pass unknown='zero' to treat it as none of the known ones"
            )
        return codes

    def _name(self, column: int) -> str:
        names = getattr(self, "feature_names_in_", None)
        return f"column {column}" if names is None else f"column {str(names[column])!r}"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags


def _as_array(X: Any) -> Any:
    """Keep the types of a list's values, which NumPy would turn into strings if one of them is one."""
    return np.array(X, dtype=object) if isinstance(X, (list, tuple)) else X


def _typed_as_category(X: Any) -> np.ndarray | None:
    """Which columns of a data frame have the categorical type; ``None`` for what is no data frame."""
    types = getattr(X, "dtypes", None)
    if not isinstance(types, Iterable):
        return None
    return np.array([str(kind).lower().startswith(("category", "categorical", "enum")) for kind in types])


def _known(values: np.ndarray) -> np.ndarray:
    """Which values are not missing."""
    if values.dtype != object:
        return ~np.isnan(values) if values.dtype.kind == "f" else np.ones(values.shape, dtype=bool)
    return np.array([not _is_missing(value) for value in values], dtype=bool)


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, numbers.Real) and value != value


def _sorted(values: np.ndarray, name: str) -> np.ndarray:
    try:
        return np.array(sorted(set(values.tolist())), dtype=values.dtype)
    except TypeError:
        raise TypeError(
            f"{name} holds categories of different types; argument must be all strings or all numbers"
        ) from None


def moments(values: np.ndarray) -> tuple[float, float]:
    """Return mean and deviation; of a constant column its value, which leaves exact zeros, and 1."""
    if values.min() == values.max():
        return float(values[0]), 1.0
    unit = 2.0 ** (np.frexp(np.abs(values).max())[1] - 1)  # of which the squares neither overflow nor vanish
    return float((values / unit).mean() * unit), float((values / unit).std() * unit)
