"""Classify rows by moving each class onto a Gaussian of its own, and learning where new rows go."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from scipy.linalg import helmert
from scipy.spatial.distance import cdist
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from graphattn.affinity.coupling import check_reg, optimal_coupling
from graphattn.engine import seeded

_EDGE = 6.0  # distance of two centres, in standard deviations of a dummy
_PENALTY = 4.0  # for a dummy of another class, in mean squared distances


class OTClassifier(ClassifierMixin, BaseEstimator):
    r"""Classify rows by the class-specific Gaussian that a perceptron learned to move them to.

    Each class :math:`c` gets dummy points :math:`\mathbf{d}_j \sim \mathcal{N}(\boldsymbol{\mu}_c, \mathbf{I})`. Its
    standardized rows :math:`\mathbf{x}_i` are coupled with them by optimal transport, and a perceptron :math:`g` learns
    the target of each row:

    .. math::
        \mathbf{P} = \arg\min_{\mathbf{P} \in \Pi} \sum_{ij} P_{ij} \lVert \mathbf{x}_i - \mathbf{d}_j \rVert^2, \quad
        \mathbf{t}_i = \frac{\sum_j P_{ij} \mathbf{d}_j}{\sum_j P_{ij}}, \quad
        \min_g \sum_i \lVert g(\mathbf{x}_i) - \mathbf{t}_i \rVert^2

    A row is of the class whose centre is nearest to :math:`g(\mathbf{x})`, with the probabilities
    :math:`\operatorname{softmax}_c(-\lVert g(\mathbf{x}) - \boldsymbol{\mu}_c \rVert^2 / 2)`. The centres are the
    vertices of a regular simplex of edge 6 in the first :math:`K - 1` coordinates; fewer features than that are filled
    up with zeros.

    This is a reconstruction: of the publication only the idea is known, not the geometry or the numbers.

    Args:
        joint: Whether all classes are coupled in a single problem, in which a row may go to a dummy of another class
            for a penalty: this number times the mean squared distance; ``True`` for 4. A larger one keeps all rows in
            their classes, a smaller one mixes classes that lie in another order than the centres.
        reg: Weight of the entropy as a fraction of the mean cost; 0 for exact couplings, which take time
            :math:`O(n_c^3)`. Above some 4000 rows of a class (of all classes with ``joint``) pass such as 0.05, or
            fewer ``dummies``.
        dummies: Dummy points of each class; as many as it has rows by default. Rows then have one dummy each, and
            else the mean of those that they share.
        geometry: ``"simplex"``, or a function that takes the number of classes and of features and returns a centre for
            each class, in as many dimensions as there are features or more.
        pretrain: ``"synthetic"`` trains the perceptron first, as many steps, on as many rows of each class that are
            drawn from a Gaussian with its mean and covariance and coupled in the same way; ``None`` does not.
        hidden: Width of the perceptron's two hidden layers.
        steps: Steps of Adam, each over all rows.
        lr: Its learning rate.
        random_state: Seed of the dummies and of the perceptron.

    Attributes:
        classes_: The classes.
        centers_: Their centres, ``[K, D]``.
        dummies_: Dummy points of all classes, class by class, ``[M, D]``.
        targets_: What each training row is moved to, ``[N, D]``.
        scaler_: What standardizes the features.
        network_: The perceptron, in float64.
        loss_: Mean squared error of the last step.

    Raises:
        ValueError: When fitting: if there is one class only, or an argument is out of range.
        FloatingPointError: When fitting: if the perceptron diverges.
        ImportError: When fitting: if POT is needed, for ``reg > 0`` or ``dummies``, and not installed; the extra
            ``transport`` brings it.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> OTClassifier(steps=200, random_state=0).fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.9
        True

    Reference:
        Quadrio and Candelieri, arXiv 2512.09530.
    """

    def __init__(
        self,
        *,
        joint: bool | float = False,
        reg: float = 0.0,
        dummies: int | None = None,
        geometry: str | Callable[[int, int], Any] = "simplex",
        pretrain: str | None = None,
        hidden: int = 64,
        steps: int = 500,
        lr: float = 1e-3,
        random_state: Any = None,
    ) -> None:
        self.joint = joint
        self.reg = reg
        self.dummies = dummies
        self.geometry = geometry
        self.pretrain = pretrain
        self.hidden = hidden
        self.steps = steps
        self.lr = lr
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> OTClassifier:
        """Move the rows to dummies of their classes, and learn where other rows go.

        Args:
            X: Rows by features.
            y: Class of each row.

        Returns:
            The fitted classifier.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self._check()
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class, {self.classes_.tolist()}; expected at least two to tell apart")
        rng = check_random_state(self.random_state)
        self.scaler_ = StandardScaler().fit(X)
        self.centers_ = self._centers(len(self.classes_), X.shape[1])
        counts = np.bincount(labels) if self.dummies is None else np.full(len(self.classes_), self.dummies)
        owners = np.repeat(np.arange(len(self.classes_)), counts)
        self.dummies_ = self.centers_[owners] + rng.standard_normal((len(owners), self.centers_.shape[1]))
        rows = self.scaler_.transform(X)
        self.targets_ = self._align(rows, labels, owners)
        with seeded(int(rng.randint(2**31))):
            self.network_ = _perceptron(X.shape[1], self.hidden, self.centers_.shape[1])
        if self.pretrain is not None:
            drawn = _draw_rows(rows, labels, rng)
            self._regress(drawn, self._align(drawn, labels, owners))
        self.loss_ = self._regress(rows, self.targets_)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of each row.

        Args:
            X: Rows by features.

        Returns:
            The class with the nearest centre.
        """
        nearest = self._logits(X).argmax(1)
        found: np.ndarray = self.classes_[nearest]
        return found

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class for each row.

        Args:
            X: Rows by features.

        Returns:
            Probabilities ``[N, K]``, in the order of ``classes_``.
        """
        probabilities: np.ndarray = softmax(self._logits(X), axis=1)
        return probabilities

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            moved = self.network_(torch.from_numpy(self.scaler_.transform(X))).numpy()
        logits: np.ndarray = -cdist(moved, self.centers_, "sqeuclidean") / 2
        return logits

    def _align(self, rows: np.ndarray, labels: np.ndarray, owners: np.ndarray) -> np.ndarray:
        """Return what each row is moved to; dummies are owned by classes."""
        cost = _squared_distances(rows, self.dummies_)
        if self.joint is not False:
            penalty = (_PENALTY if self.joint is True else self.joint) * cost.mean() * (labels[:, None] != owners)
            # The dummies of a class weigh as much as its rows, so that a large penalty keeps the classes apart.
            masses = None if self.dummies is None else (np.bincount(labels) / (len(rows) * self.dummies))[owners]
            return _barycenters(cost + penalty, self.dummies_, self.reg, masses)
        targets = np.empty((len(rows), self.dummies_.shape[1]))
        for c in range(len(self.classes_)):
            mine, theirs = labels == c, owners == c
            targets[mine] = _barycenters(cost[np.ix_(mine, theirs)], self.dummies_[theirs], self.reg)
        return targets

    def _regress(self, rows: np.ndarray, targets: np.ndarray) -> float:
        """Train the perceptron to map rows to targets; return the mean squared error of the last step."""
        x, t = torch.from_numpy(rows), torch.from_numpy(targets)
        optimizer = torch.optim.Adam(self.network_.parameters(), lr=self.lr)
        for _ in range(self.steps):
            optimizer.zero_grad()
            loss = (self.network_(x) - t).square().mean()
            loss.backward()
            optimizer.step()
        if not bool(loss.isfinite()):
            raise FloatingPointError(f"the squared error is {loss.item()} after {self.steps} steps; lower lr")
        return loss.item()

    def _centers(self, num_classes: int, num_features: int) -> np.ndarray:
        if self.geometry == "simplex":
            centers = np.zeros((num_classes, max(num_features, num_classes - 1)))
            centers[:, : num_classes - 1] = _EDGE / np.sqrt(2) * helmert(num_classes).T
            return centers
        if not callable(self.geometry):
            raise ValueError(
                f"geometry is {self.geometry!r}; expected 'simplex' or a function that returns the centres"
            )
        centers = np.asarray(self.geometry(num_classes, num_features), dtype=np.float64)
        if centers.ndim != 2 or len(centers) != num_classes or centers.shape[1] < num_features:
            raise ValueError(
                f"geometry returns the shape {centers.shape}; expected {num_classes} centres in at least "
                f"{num_features} dimensions"
            )
        if not np.isfinite(centers).all():
            raise ValueError("geometry returns NaN or inf; expected finite centres")
        return centers

    def _check(self) -> None:
        check_reg(self.reg)
        if not isinstance(self.joint, Real) or not 0 <= self.joint < np.inf:
            raise ValueError(
                f"joint is {self.joint!r}; expected a truth value, or the penalty as a number of at least 0"
            )
        for name, least in (("hidden", 1), ("steps", 1), ("dummies", 1)):
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool) and value >= least
            if not whole and not (name == "dummies" and value is None):
                raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}")
        if not isinstance(self.lr, Real) or not 0 < self.lr < np.inf:
            raise ValueError(f"lr is {self.lr!r}; expected a positive number")
        if self.pretrain not in (None, "synthetic"):
            raise ValueError(f"pretrain is {self.pretrain!r}; expected None or 'synthetic'")


def _squared_distances(rows: np.ndarray, dummies: np.ndarray) -> np.ndarray:
    """Compare rows, whose missing coordinates are 0, with dummies."""
    width = rows.shape[1]
    cost: np.ndarray = cdist(rows, dummies[:, :width], "sqeuclidean") + np.square(dummies[:, width:]).sum(1)
    return cost


def _barycenters(cost: np.ndarray, dummies: np.ndarray, reg: float, masses: np.ndarray | None = None) -> np.ndarray:
    """Return the mean of the dummies that each row is coupled with."""
    plan = optimal_coupling(cost, b=masses, reg=reg)
    means: np.ndarray = (plan @ dummies) / plan.sum(1, keepdims=True)
    return means


def _draw_rows(rows: np.ndarray, labels: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Replace the rows of each class by draws from a Gaussian with their mean and covariance."""
    drawn = np.empty_like(rows)
    for c in range(labels.max() + 1):
        mine = labels == c
        mean = rows[mine].mean(0)
        # A random combination of the deviations has their covariance, whatever its rank.
        weights = rng.standard_normal((mine.sum(), mine.sum())) / np.sqrt(mine.sum())
        drawn[mine] = mean + weights @ (rows[mine] - mean)
    return drawn


def _perceptron(num_features: int, hidden: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_features, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, out_channels),
    ).double()
