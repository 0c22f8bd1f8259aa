"""The third part of the demo: which digits resemble this one, before and after re-ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import normalize

from graphattn.retrieval import Auto, KReciprocal, QueryExpansion

NAME = "reranking"
PICTURE = "reranking.png"
QUERIES = 200
LENGTH = 200
SHOWN = 10
RERANKERS = {
    "Auto": Auto(top_k=LENGTH),
    "k-reciprocal": KReciprocal(top_k=LENGTH),
    "query expansion": QueryExpansion(top_k=LENGTH),
}
METHODS = ("cosine", *RERANKERS)


def heading() -> str:
    """Say what this part does."""
    return f"the {LENGTH} images most like each of {QUERIES}, re-ranked without training"


def run_seed(seed: int, device: torch.device) -> dict[str, Any]:
    """Search for some images among the others and re-rank what is found; returns average precisions and lists."""
    x, y = load_digits(return_X_y=True)
    chosen, others = train_test_split(np.arange(len(y)), train_size=QUERIES, stratify=y, random_state=seed)
    queries, gallery = (torch.from_numpy(normalize(x[rows])).float().to(device) for rows in (chosen, others))
    scores, indices = (queries @ gallery.T).sort(dim=1, descending=True, stable=True)
    indices, scores = indices[:, :LENGTH], scores[:, :LENGTH]
    found: dict[str, Any] = {"cosine": indices}
    for name, method in RERANKERS.items():
        found[name] = method.rerank(queries, gallery, indices, scores).indices
    lists = {name: others[head.cpu().numpy()] for name, head in found.items()}
    return {
        "seed": seed,
        "average_precision": {name: _average_precision(y[chosen], y[rows]) for name, rows in lists.items()},
        "queries": chosen.tolist(),
        "lists": {name: rows[:, :SHOWN].tolist() for name, rows in lists.items()},
    }


def _average_precision(target: np.ndarray, classes: np.ndarray) -> list[float]:
    """Average precision of each list among its own candidates, whose order alone can change."""
    falling = -np.arange(classes.shape[1])
    return [float(average_precision_score(row == c, falling)) for c, row in zip(target, classes, strict=True)]


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Gather the seeds for the results file."""
    table = {name: np.array([np.mean(run["average_precision"][name]) for run in runs]) for name in METHODS}
    change = np.concatenate([changes(run) for run in runs])
    return {
        "task": f"the {LENGTH} digits most like each of {QUERIES}, by the cosine of their pixels, put into a new order",
        "seeds": runs,
        "mean": {name: float(values.mean()) for name, values in table.items()},
        "std": {name: float(values.std()) for name, values in table.items()},
        "better": int((change > 0).sum()),
        "worse": int((change < 0).sum()),
        "same": int((change == 0).sum()),
    }


def changes(run: dict[str, Any]) -> np.ndarray:
    """By how much ``Auto`` changed the average precision of each query."""
    return np.array(run["average_precision"]["Auto"]) - np.array(run["average_precision"]["cosine"])


def findings(summary: dict[str, Any]) -> dict[str, str]:
    """Say what each method came to, and for how many queries ``Auto`` helped."""
    mean, std = summary["mean"], summary["std"]
    found = {name: f"{mean[name]:.3f} ± {std[name]:.3f} mean average precision" for name in METHODS}
    counts = f"{summary['better']} queries better, {summary['worse']} worse, {summary['same']} the same"
    return {**found, "Auto": f"{found['Auto']}, {counts}"}


def draw(path: Path, summary: dict[str, Any]) -> None:
    """Draw the precisions, what changed, and the lists that changed most."""
    from graphattn.cli import _demo_rerank_figure  # matplotlib takes a second to import; only the pictures need it

    _demo_rerank_figure.draw(path, summary)
