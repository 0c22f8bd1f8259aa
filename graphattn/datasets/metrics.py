"""Metrics by name: plain functions of scores and targets, and OGB's own evaluator for its sets."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    mean_absolute_error,
    roc_auc_score,
    root_mean_squared_error,
)
from torch import Tensor

from graphattn._optional import require

LOWER_IS_BETTER = frozenset({"mae", "rmse"})
_PACKAGES = {"ogbn": "ogb.nodeproppred", "ogbl": "ogb.linkproppred", "ogbg": "ogb.graphproppred"}


def classes(prediction: Tensor) -> Tensor:
    """Return the class of each row: the largest of its scores, or the label that is given as an integer.

    Args:
        prediction: Scores ``[n, C]``, or integer labels ``[n]`` or ``[n, 1]``.

    Returns:
        Labels ``[n]``.

    Raises:
        ValueError: If there is one score per row, which names no class.

    Example:
        >>> classes(torch.tensor([[0.1, 0.9], [2.0, 1.0]])).tolist()
        [1, 0]
    """
    if not prediction.is_floating_point():
        return prediction.reshape(-1)
    if prediction.dim() != 2 or prediction.size(1) < 2:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and dtype {prediction.dtype}; "
            "expected scores [n, C] of at least 2 classes, or integer labels [n]"
        )
    return prediction.argmax(dim=1)


def _accuracy(prediction: Tensor, target: Tensor) -> float:
    return (classes(prediction) == target.reshape(-1)).double().mean().item()


def _f1_macro(prediction: Tensor, target: Tensor) -> float:
    return float(f1_score(target.reshape(-1), classes(prediction), average="macro", zero_division=0))


def _columns(prediction: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and targets as ``[n, T]``; two scores of a binary class become their difference."""
    target = target.reshape(len(target), -1)
    scores = prediction.reshape(len(prediction), -1)
    if target.size(1) == 1 and scores.size(1) == 2:
        scores = scores[:, 1:] - scores[:, :1]  # increases with the softmax of the second
    if scores.shape != target.shape:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}, the target {tuple(target.shape)}")
    return scores.double().numpy(), target.double().numpy()


def _ranked(name: str, score: Callable[..., float]) -> Callable[[Tensor, Tensor], float]:
    """Average a ranking metric over the targets that have both classes; NaN marks what is not labelled."""

    def evaluate(prediction: Tensor, target: Tensor) -> float:
        scores, truth = _columns(prediction, target)
        found = []
        for column, known in zip(scores.T, truth.T, strict=True):
            labelled = ~np.isnan(known)
            if len(np.unique(known[labelled])) == 2:
                found.append(score(known[labelled], column[labelled]))
        if not found:
            raise ValueError(f"{name} needs items of both classes, but the targets are all of one")
        return float(np.mean(found))

    return evaluate


def _error(score: Callable[..., float]) -> Callable[[Tensor, Tensor], float]:
    def evaluate(prediction: Tensor, target: Tensor) -> float:
        scores, truth = _columns(prediction, target)
        return float(score(truth, scores))

    return evaluate


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "accuracy": _accuracy,
    "average_precision": _ranked("average_precision", average_precision_score),
    "f1_macro": _f1_macro,
    "mae": _error(mean_absolute_error),
    "rmse": _error(root_mean_squared_error),
    "roc_auc": _ranked("roc_auc", roc_auc_score),
}


def links(metric: str) -> Callable[[Tensor, Tensor], float]:
    """Return a metric as a function of the scores of true links and of the scores of others."""

    def evaluate(positive: Tensor, negative: Tensor) -> float:
        scores = torch.cat([positive.reshape(-1), negative.reshape(-1)])
        truth = torch.cat([torch.ones(positive.numel()), torch.zeros(negative.numel())])
        return METRICS[metric](scores, truth)

    return evaluate


@dataclass(frozen=True)
class OGBEvaluator:
    """Score predictions by the ``Evaluator`` of the package ogb, which is imported when it is first needed.

    Args:
        dataset: OGB's name of the set, such as ``"ogbg-molbace"``.

    Example:
        >>> OGBEvaluator("ogbg-molbace").dataset
        'ogbg-molbace'
    """

    dataset: str

    def __call__(self, first: Tensor, second: Tensor) -> float:
        """Return the metric of ``(prediction, target)``, or of ``(positive, negative)`` scores of links.

        Args:
            first: Predictions, or the scores of the true links.
            second: Targets, or the scores of the others.

        Raises:
            ImportError: If ogb is not installed; the extra ``ogb`` brings it.
        """
        kind = self.dataset.split("-")[0]
        evaluator = _import_ogb(_PACKAGES[kind]).Evaluator(name=self.dataset)
        if kind == "ogbl":
            found = evaluator.eval({"y_pred_pos": first.reshape(-1), "y_pred_neg": second})
        else:
            target = second.reshape(len(second), -1)
            prediction = classes(first) if evaluator.eval_metric == "acc" else first
            found = evaluator.eval({"y_true": target, "y_pred": prediction.reshape(len(prediction), -1)})
        if evaluator.eval_metric == "mrr":  # which OGB gives for each link
            return torch.as_tensor(found["mrr_list"]).double().mean().item()
        return float(found[evaluator.eval_metric])


def _import_ogb(module: str) -> ModuleType:
    """Import a module of ogb without the thread in which ogb asks PyPI for its newest version."""
    if "ogb" in sys.modules:
        return require(module, "ogb")
    hidden = sys.modules.get("outdated")
    sys.modules["outdated"] = None  # type: ignore[assignment] # ogb does without it
    try:
        return require(module, "ogb")
    finally:
        del sys.modules["outdated"]
        if hidden is not None:
            sys.modules["outdated"] = hidden
        importlib.invalidate_caches()
