"""Estimators around the non-parametric transformer: predictions that look at the rows of the training table."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.tabular._npt_base import NPTBase
from graphattn.tabular._npt_task import temperature
from graphattn.tabular.encoding import moments

_ARGUMENTS = r"""
    Args:
        channels: Width :math:`e` of a cell.
        depth: Layers, an even number: half of them between datapoints.
        heads: Attention heads; they divide ``channels``.
        abd: ``"shared"`` or ``"full"``: attention between datapoints within every column, by weights of width
            :math:`e`, or between whole rows, of width :math:`d e`, as published.
        dropout: Probability of dropping a hidden value in training.
        attention_dropout: Probability of dropping an attention weight in training; on a CPU the attention is then not
            fused.
        p_feature: Probability that a feature is hidden in training and has to be predicted.
        p_target: Probability that the target of a row is hidden in training. Below 1 rows see the targets of others;
            with 1 they see their features alone.
        feature_weight: Weight of the hidden features in the loss at the start; it falls to 0 as a cosine.
        n_neighbors: Let every row attend to so many nearest rows, and itself, instead of all.
        chunk_size: Rows of a training step and of a step of the prediction, which bound the memory. A table with more
            rows is split into chunks at random, of neighbourhoods with ``n_neighbors`` or ``rows``; without these a
            random chunk of the table is what predictions look at.
        semi_supervised: Whether the rows to predict attend to one another, and the training rows to them. By default
            each attends to the training rows and itself, and its prediction does not depend on the others.
        categorical: As in :class:`TableEncoder`.
        unknown: As in :class:`TableEncoder`.
        max_iter: Training steps, rounded up to whole rounds of 10, or of a pass through a table of more chunks.
        learning_rate: Largest learning rate of AdamW, after a short warm-up; it falls to 0 as a cosine.
        weight_decay: Weight decay of AdamW.
        early_stopping: Whether part of the rows is held out, and the weights that predict them best are kept, as
            is seen after every round; probabilities of classes are calibrated on them, too, by a temperature.
            Predictions look at these rows as well.
        validation_fraction: That part; where it is less than a row, as in tiny tables, nothing is held out.
        n_iter_no_change: Steps without a better score after which training ends.
        max_minutes: Time after which training ends.
        compat: ``"npt"`` for layers and masks as in the authors' code, ``"saint"`` for the layers of SAINT.
        device: Where to compute, a torch device or its name; the CPU if ``None``.
        random_state: Seed of the weights, the masks, the chunks and the rows held out.
        progress: Whether a progress bar is shown.

    Attributes:
        model_: The trained :class:`~graphattn.models.NonParametricTransformer`.
        encoder_: The :class:`TableEncoder` of the features.
        table_: Encoded rows that predictions look at, targets behind the features.
        log_: What the training has seen, a :class:`~graphattn.engine.TrainingLog`.
        n_iter_: Steps of the training.
        n_features_in_: Number of features.
"""


class NPTClassifier(ClassifierMixin, NPTBase):
    __doc__ = rf"""Classify rows of a table by a transformer that attends to the rows of the training table.

    The table, features and class, is one :class:`~graphattn.models.NonParametricTransformer`'s input. In training part
    of its cells is hidden and predicted from all others; a prediction appends rows whose class is hidden. Features may
    be of mixed types and missing, and are standardized here.
    {_ARGUMENTS}        classes_: The classes.
        temperature_: What logits are divided by, found on the rows held out; 1 if there were none.

    Example:
        >>> X = np.array([[0.0, "a"], [0.2, "a"], [0.9, "b"], [1.1, None]] * 5, dtype=object)
        >>> y = np.array(["low", "low", "high", "high"] * 5)
        >>> model = NPTClassifier(channels=8, depth=2, heads=2, max_iter=60, learning_rate=1e-2, random_state=0)
        >>> model.fit(X, y).predict(X[:4]).tolist()
        ['low', 'low', 'high', 'high']

    Reference:
        Kossen et al., "Self-Attention Between Datapoints: Going Beyond Individual Input-Output Pairs in Deep Learning",
        2021; Guo et al., "On Calibration of Modern Neural Networks", 2017, of the temperature.
    """

    classes_: np.ndarray

    def fit(self, X: Any, y: Any, *, rows: Affinity | None = None) -> NPTClassifier:
        """Train on a table and keep it.

        Args:
            X: Features: an array, a list or a data frame, of numbers and strings.
            y: Class of each row.
            rows: Which rows attend to which, ``n x n``, instead of all or the nearest; weights multiply the
                exponentials of the scores. Every row attends to itself besides. Predictions then need ``rows`` too.

        Returns:
            The estimator itself.

        Raises:
            ValueError: If an argument is out of range, the data does not fit, or ``y`` holds one class only.
            TypeError: If a feature is neither a number nor a string.
        """
        validate_data(self, X, y, skip_check_array=True)
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if self.classes_.size < 2:
            raise ValueError(f"y holds one class, {self.classes_.tolist()}; expected at least two")
        self.temperature_ = 1.0
        self._fit(X, codes.reshape(-1, 1).astype(np.float64), [self.classes_.size], rows)
        return self

    def predict_proba(self, X: Any, *, rows: Affinity | None = None) -> np.ndarray:
        """Return the probability of each class.

        Args:
            X: Features of the rows to predict.
            rows: Which training rows they attend to, ``q x n``, if :meth:`fit` got ``rows``.

        Shapes:
            - **output:** :math:`(q, C)`

        Returns:
            Probabilities, in the order of ``classes_``.

        Raises:
            ValueError: If the data does not fit that of :meth:`fit`.
        """
        (logits,) = self._predict(X, rows)
        return (logits / self.temperature_).softmax(1).numpy()

    def predict(self, X: Any, *, rows: Affinity | None = None) -> np.ndarray:
        """Return the most probable class; arguments as of :meth:`predict_proba`."""
        probabilities = self.predict_proba(X, rows=rows)
        return self.classes_[probabilities.argmax(1)]

    def _calibrate(self, outputs: list[Tensor], held_out: Tensor) -> None:
        self.temperature_ = temperature(outputs[0].double(), held_out[:, -1].long())


class NPTRegressor(RegressorMixin, NPTBase):
    __doc__ = rf"""Predict numbers for rows of a table by a transformer that attends to the rows of the training table.

    As :class:`NPTClassifier`, with one or several targets, which are standardized here.
    {_ARGUMENTS}        y_mean_: Mean of each target.
        y_scale_: Deviation of each target.

    Example:
        >>> X = np.linspace(0, 1, 40).reshape(-1, 1)
        >>> model = NPTRegressor(channels=8, depth=2, heads=2, max_iter=200, learning_rate=1e-2, random_state=0)
        >>> bool(model.fit(X, 3 * X[:, 0]).score(X, 3 * X[:, 0]) > 0.9)
        True

    Reference:
        Kossen et al., "Self-Attention Between Datapoints: Going Beyond Individual Input-Output Pairs in Deep Learning",
        2021.
    """

    y_mean_: np.ndarray
    y_scale_: np.ndarray

    def fit(self, X: Any, y: Any, *, rows: Affinity | None = None) -> NPTRegressor:
        """Train on a table and keep it.

        Args:
            X: Features: an array, a list or a data frame, of numbers and strings.
            y: Target of each row, or a column for each of several targets.
            rows: As in :meth:`NPTClassifier.fit`.

        Returns:
            The estimator itself.

        Raises:
            ValueError: If an argument is out of range or the data does not fit.
            TypeError: If a feature is neither a number nor a string.
        """
        validate_data(self, X, y, skip_check_array=True)
        y = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
        self._single_target = y.ndim == 1
        y = y.reshape(len(y), -1)
        self.y_mean_, self.y_scale_ = np.array([moments(column) for column in y.T]).T
        self._fit(X, (y - self.y_mean_) / self.y_scale_, [0] * y.shape[1], rows)
        return self

    def predict(self, X: Any, *, rows: Affinity | None = None) -> np.ndarray:
        """Return the predicted targets; arguments as of :meth:`NPTClassifier.predict_proba`.

        Shapes:
            - **output:** :math:`(q,)`, or :math:`(q, t)` for several targets
        """
        predicted = torch.cat(self._predict(X, rows), dim=1).numpy() * self.y_scale_ + self.y_mean_
        return predicted[:, 0] if self._single_target else predicted

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags
