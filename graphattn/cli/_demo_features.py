"""The second part of the demo: which pixels does each ranking keep, and how well can a digit be read from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.feature_selection import f_classif
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from graphattn.selection import InfFS, InfFSSupervised

NAME = "features"
PICTURE = "features.png"
PIXELS = 64
SIZES = (4, 8, 12, 16, 24, 32)
KEPT = 16
METHODS = ("Inf-FS", "Inf-FS supervised", "ANOVA F", "variance", "random")


def heading() -> str:
    """Say what this part does."""
    return f"the same images from few of their {PIXELS} pixels, chosen on half of the images"


def rank(x: np.ndarray, y: np.ndarray, seed: int, device: torch.device) -> dict[str, np.ndarray]:
    """Order the pixels by every method, best first; those that never change in these images are left out."""
    varying = np.flatnonzero(np.ptp(x, axis=0))
    x = x[:, varying]
    orders = {
        "Inf-FS": InfFS(device=str(device)).fit(x).order_,
        "Inf-FS supervised": InfFSSupervised(device=str(device), random_state=seed).fit(x, y).order_,
        "ANOVA F": np.argsort(-f_classif(x, y)[0], kind="stable"),
        "variance": np.argsort(-x.var(axis=0), kind="stable"),
        "random": np.random.default_rng(seed).permutation(x.shape[1]),
    }
    return {name: varying[order] for name, order in orders.items()}


def run_seed(seed: int, device: torch.device) -> dict[str, Any]:
    """Rank on one half of the images and read the other; returns the accuracy at every size and the pixels kept."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.5, stratify=y, random_state=seed)
    orders = rank(x_train, y_train, seed, device)
    accuracy: dict[str, list[float]] = {}
    for name, order in orders.items():
        accuracy[name] = []
        for size in SIZES:
            model = make_pipeline(StandardScaler(), LinearSVC(dual=False)).fit(x_train[:, order[:size]], y_train)
            accuracy[name].append(float(model.score(x_test[:, order[:size]], y_test)))
    return {"seed": seed, "accuracy": accuracy, "pixels": {name: orders[name][:KEPT].tolist() for name in METHODS}}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Gather the seeds for the results file."""
    table = {name: np.array([run["accuracy"][name] for run in runs]) for name in METHODS}
    return {
        "task": "digits from few pixels: ranked on one half of the images, read from the other by a linear SVM",
        "sizes": list(SIZES),
        "seeds": runs,
        "mean": {name: values.mean(axis=0).tolist() for name, values in table.items()},
        "std": {name: values.std(axis=0).tolist() for name, values in table.items()},
    }


def findings(summary: dict[str, Any]) -> dict[str, str]:
    """Say what each ranking came to."""
    column, mean, std = SIZES.index(KEPT), summary["mean"], summary["std"]
    return {
        name: f"{mean[name][column]:.3f} ± {std[name][column]:.3f} test accuracy from {KEPT} pixels" for name in METHODS
    }


def draw(path: Path, summary: dict[str, Any]) -> None:
    """Draw the accuracies at every size and the pixels that are kept."""
    from graphattn.cli import _demo_features_figure  # matplotlib takes a second to import; only the pictures need it

    _demo_features_figure.draw(path, summary)
