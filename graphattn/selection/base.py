"""What all feature selectors share: check the data, score the features that vary, rank them, choose how many."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from numbers import Integral
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.selection.checks import check_choice, check_finite, check_size, number_classes, varies
from graphattn.selection.energy import Energy
from graphattn.selection.subset_size import AUTO_RULES

Self = TypeVar("Self", bound="FeatureSelector")
Options = dict[str, Any]


class FeatureSelector(SelectorMixin, BaseEstimator):
    """Rank features by an affinity between them and select the best; subclasses say how features are scored.

    A subclass stores its arguments in ``__init__`` under their names, lists in ``_releases`` what each value of
    ``compat`` fixes, checks its own arguments in :meth:`_check`, builds the affinity in :meth:`_affinity` and scores
    features by it in :meth:`_score`.
    """

    _supervised = False
    _releases: ClassVar[dict[str, Options]] = {}

    @abstractmethod
    def _check(self, options: Options, n_features: int, n_classes: int) -> None:
        """Raise for arguments of the subclass that are out of range or contradict each other."""

    @abstractmethod
    def _affinity(self, X: Any, y: Tensor, varying: np.ndarray, options: Options) -> Affinity:
        """Build the affinity between the columns ``varying`` of the data, of which ``X`` has no others."""

    @abstractmethod
    def _score(self, X: Any, y: Tensor, varying: np.ndarray, options: Options) -> Energy:
        """Score at least two features: the columns ``varying`` of the data, of which ``X`` has no others."""

    def fit(self: Self, X: Any, y: Any = None) -> Self:
        """Rank the features of ``X`` and choose how many to select.

        Args:
            X: Samples by features: an array, a data frame or a SciPy sparse matrix. It is not changed.
            y: Classes of the samples; unsupervised methods do not read them.

        Returns:
            The selector itself.

        Raises:
            ValueError: If an argument of the selector is out of range, ``X`` holds NaN or infinity or fewer than two
                samples, or ``y`` does not hold classes.
        """
        X, classes, varying, options = self._prepare(X, y)
        if varying.size == 0:
            warnings.warn("all features are constant; they are ranked by their index", UserWarning, stacklevel=2)
        if varying.size < 2:
            nothing = torch.zeros(varying.size, dtype=torch.float64)
            found = Energy(nothing, nothing, 0.0, True, 0, 0.0)
        else:
            found = self._score(X, classes, varying, options)
        self._rank(found, varying, self.n_features_in_, options)
        return self

    def affinity(self, X: Any, y: Any = None) -> Affinity:
        """Build the affinity between the features by which :meth:`fit` ranks them.

        Args:
            X: Samples by features, as for :meth:`fit`.
            y: Classes of the samples; unsupervised methods do not read them.

        Returns:
            An affinity whose nodes are the features that vary, in the order of the columns, or all features with
            ``constant="keep"``. It is stored only where ``n_neighbors`` or ``store`` says so.

        Raises:
            ValueError: As :meth:`fit`.
        """
        X, classes, varying, options = self._prepare(X, y)
        return self._affinity(X, classes, varying, options)

    def _prepare(self, X: Any, y: Any) -> tuple[Any, Tensor, np.ndarray, Options]:
        """Check data and arguments; the columns that become nodes, the classes, which columns they are, arguments."""
        X, classes = self._validate(X, y)
        n_features = X.shape[1]
        options = self._options()
        check_size(options["n_features_to_select"], n_features)
        check_choice("auto_rule", options["auto_rule"], tuple(AUTO_RULES))
        check_choice("constant", options["constant"], ("last", "keep"))
        self._check(options, n_features, int(classes.max()) + 1 if self._supervised else 0)
        varying = np.flatnonzero(varies(X)) if options["constant"] == "last" else np.arange(n_features)
        return X if varying.size == n_features else X[:, varying], classes, varying, options

    def _rank(self, found: Energy, varying: np.ndarray, n_features: int, options: Options) -> None:
        """Set what is learned; constant features come last, in the order of their index."""
        scores, degrees = found.scores.cpu().numpy(), found.degrees.cpu().numpy()
        ties = np.zeros(varying.size) if found.ties is None else found.ties.cpu().numpy()
        constant = np.setdiff1d(np.arange(n_features), varying)
        # The sorts are stable: what is still equal stays in the order of its index.
        self.order_ = np.concatenate([varying[np.lexsort((ties, -scores))], constant])
        one_hop = np.concatenate([varying[np.argsort(-degrees, kind="stable")], constant])
        self.ranking_ = np.empty(n_features, dtype=np.int64)
        self.ranking_[self.order_] = np.arange(1, n_features + 1)
        self.scores_ = np.zeros(n_features)
        self.scores_[varying] = scores
        self.n_features_selected_ = _size(options, n_features, scores)
        selected, by_degree = self.order_[: self.n_features_selected_], one_hop[: self.n_features_selected_]
        self.support_ = np.zeros(n_features, dtype=bool)
        self.support_[selected] = True
        self.hop_overlap_ = float(self.support_[by_degree].mean())
        self.rho_, self.rho_certified_ = found.radius, found.certified
        self.n_iter_, self.residual_ = found.iterations, found.residual

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = self._supervised
        return tags

    def _validate(self, X: Any, y: Any) -> tuple[Any, Tensor]:
        """Check the data; the features as a matrix and the classes numbered from 0."""
        checks = {
            "accept_sparse": "csc",
            "dtype": [np.float64, np.float32],
            "ensure_all_finite": False,  # checked below, where the columns are named
            "ensure_min_samples": 2,
        }
        if self._supervised:
            X, y = validate_data(self, X, y, **checks)
        else:
            X = validate_data(self, X, **checks)
        check_finite(X, getattr(self, "feature_names_in_", None))
        return X, torch.from_numpy(number_classes(y)) if self._supervised else torch.empty(0, dtype=torch.int64)

    def _options(self) -> Options:
        """The arguments, with those that ``compat`` fixes; raise where one contradicts it."""
        options: Options = self.get_params(deep=False)
        compat = options["compat"]
        if compat is None:
            return options
        if compat not in self._releases:
            raise ValueError(f"compat is {compat!r}; expected None or one of " + ", ".join(map(repr, self._releases)))
        defaults = type(self)().get_params(deep=False)
        for name, value in self._releases[compat].items():
            if options[name] not in (defaults[name], value):
                raise ValueError(
                    f"{name} is {options[name]!r} but compat={compat!r} fixes it to {value!r}; leave {name} as it is "
                    "by default"
                )
            options[name] = value
        return options


def _size(options: Options, n_features: int, scores: np.ndarray) -> int:
    """How many features to select; the rules look at the scores of the features that vary."""
    wanted = options["n_features_to_select"]
    if wanted is None:
        return max(1, n_features // 2)
    if isinstance(wanted, str):
        return max(1, AUTO_RULES[options["auto_rule"]](scores))
    return int(wanted) if isinstance(wanted, Integral) else max(1, int(wanted * n_features))
