"""Metrics against plain formulas, and OGB's evaluators against themselves on random predictions."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from graphattn import _optional
from graphattn.datasets.metrics import METRICS, OGBEvaluator, links
from graphattn.datasets.ogb import SETS


def roc_auc(scores: Tensor, truth: Tensor) -> float:
    """Fraction of the pairs of one of each class that are in order; ties count half."""
    positive, negative = scores[truth == 1].double(), scores[truth == 0].double()
    difference = positive[:, None] - negative
    return ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Mean precision at the rank of each positive, without ties."""
    ranked = truth[scores.argsort(descending=True)].double()
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
    return precision[ranked == 1].mean().item()


def test_ranking_metrics() -> None:
    scores, truth = torch.randn(50), (torch.rand(50) < 0.3).long()
    scores[:10] = scores[10:20]  # ties
    assert METRICS["roc_auc"](scores, truth) == pytest.approx(roc_auc(scores, truth), abs=1e-14)
    scores = torch.randn(50)
    assert METRICS["average_precision"](scores, truth) == pytest.approx(average_precision(scores, truth), abs=1e-14)
    both = torch.stack([-scores, scores], dim=1)
    assert METRICS["roc_auc"](both, truth) == METRICS["roc_auc"](scores[:, None], truth)


def test_ranking_metrics_average_over_what_is_labelled() -> None:
    scores, truth = torch.randn(30, 3), (torch.rand(30, 3) < 0.5).float()
    truth[:, 2] = 1.0  # one class only: no part of the mean
    truth[:12, 0] = torch.nan
    expected = (roc_auc(scores[12:, 0], truth[12:, 0]) + roc_auc(scores[:, 1], truth[:, 1])) / 2
    assert METRICS["roc_auc"](scores, truth) == pytest.approx(expected, abs=1e-14)
    with pytest.raises(ValueError, match="roc_auc needs items of both classes"):
        METRICS["roc_auc"](scores, torch.ones(30, 3))
    with pytest.raises(ValueError, match=r"prediction has shape \(30, 3\), the target \(30, 2\)"):
        METRICS["roc_auc"](scores, truth[:, :2])


def test_errors_and_classes() -> None:
    prediction, target = torch.tensor([[1.0], [4.0]]), torch.tensor([3.0, 3.0])
    assert METRICS["mae"](prediction, target) == 1.5
    assert METRICS["rmse"](prediction, target) == pytest.approx(np.sqrt(2.5), abs=1e-15)
    labels, truth = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1])
    assert METRICS["accuracy"](labels, truth) == 0.5
    # Class 0: precision 1/2, recall 1; class 1: precision 1, recall 1/3; class 2 is only predicted.
    assert METRICS["f1_macro"](labels, truth) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3, abs=1e-15)


def test_links_against_the_formula() -> None:
    positive, negative = torch.randn(20), torch.randn(30)
    truth = torch.cat([torch.ones(20), torch.zeros(30)])
    expected = roc_auc(torch.cat([positive, negative]), truth)
    assert links("roc_auc")(positive, negative) == pytest.approx(expected, abs=1e-14)


_LONG = {"ogbg-molchembl", "ogbg-moltoxcast"}  # of 1,310 and 617 targets


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in _LONG else []) for name in SETS]
)
def test_ogb_evaluators(name: str) -> None:
    """Our call gives what OGB's own evaluator gives on the arrays that its documentation asks for."""
    pytest.importorskip("ogb", reason="ogb is not installed")
    ours = OGBEvaluator(name)
    kind = name.split("-")[0]
    package = {"ogbn": "ogb.nodeproppred", "ogbl": "ogb.linkproppred", "ogbg": "ogb.graphproppred"}[kind]
    theirs = importlib.import_module(package).Evaluator(name=name)
    assert {"acc": "accuracy", "rocauc": "roc_auc", "ap": "average_precision"}.get(
        theirs.eval_metric, theirs.eval_metric
    ) == SETS[name].metric
    if kind == "ogbl":
        positive = torch.randn(40)
        negative = torch.randn(40, 7) if SETS[name].metric == "mrr" else torch.randn(200)
        found = theirs.eval({"y_pred_pos": positive, "y_pred_neg": negative})
        value = found["mrr_list"].double().mean() if theirs.eval_metric == "mrr" else found[theirs.eval_metric]
        assert ours(positive, negative) == float(value)
    elif SETS[name].metric == "accuracy":
        scores, target = torch.randn(60, 5), torch.randint(5, (60,))
        expected = theirs.eval({"y_true": target[:, None], "y_pred": scores.argmax(1)[:, None]})
        assert ours(scores, target) == expected["acc"]
        assert ours(scores.argmax(1), target) == expected["acc"]
    else:
        shape = (60, theirs.num_tasks)
        target = torch.randn(shape) if SETS[name].metric == "rmse" else torch.randint(2, shape).float()
        if SETS[name].metric != "rmse" and theirs.num_tasks > 1 and kind == "ogbg":
            target[torch.rand(shape) < 0.1] = torch.nan
        scores = torch.randn(shape)
        (value,) = theirs.eval({"y_true": target, "y_pred": scores}).values()
        assert ours(scores, target) == value


def test_without_ogb_nothing_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ogb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ogb", None)  # what Python takes for a package that is not there
    _optional._attempt.cache_clear()
    try:
        with pytest.raises(ImportError, match=r"pip install 'graphattn\[ogb\]'"):
            OGBEvaluator("ogbg-molbace")(torch.zeros(2, 1), torch.tensor([[0], [1]]))
    finally:
        _optional._attempt.cache_clear()


def test_ogb_is_imported_without_asking_for_its_newest_version() -> None:
    pytest.importorskip("ogb", reason="ogb is not installed")
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "events = []\n"
        "import torch\n"
        "from graphattn.datasets.metrics import OGBEvaluator\n"
        "sys.addaudithook(lambda event, args: events.append(event) if event.startswith('socket.') else None)\n"
        "value = OGBEvaluator('ogbg-molesol')(torch.zeros(2, 1), torch.ones(2, 1))\n"
        "assert value == 1.0, value\n"
        "assert not events, events\n"
        "assert sys.modules.get('outdated', 0) is not None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
