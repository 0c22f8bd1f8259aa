"""The picture of the demo's second part: accuracy against the number of pixels, and which pixels are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from graphattn.cli._demo_features import KEPT, METHODS, PIXELS

_COLORS = ("#1b7837", "#2c7fb8", "#e08214", "#777777", "#bbbbbb")


def draw(path: Path, summary: dict[str, Any]) -> None:
    """Draw what :func:`graphattn.cli._demo_features.summary` gathered, and save it as a PNG."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    rows: list[Any] = [["accuracy", *METHODS[:3]], ["accuracy", *METHODS[3:], "mean image"]]
    axes = figure.subplot_mosaic(rows, width_ratios=[2.4, 1, 1, 1])
    _draw_accuracies(axes["accuracy"], summary)
    for name in METHODS:
        kept = np.concatenate([run["pixels"][name] for run in summary["seeds"]])
        share = np.bincount(kept, minlength=PIXELS) / len(summary["seeds"])
        _draw_pixels(axes[name], name, share, "Greens", 1.0)
    _draw_pixels(axes["mean image"], "mean image", load_digits().data.mean(axis=0), "gray_r", 16.0)
    figure.suptitle(
        f"Digits from few pixels, and the {KEPT} pixels that each ranking keeps (darker: in more of the seeds)"
    )
    figure.savefig(path, dpi=120, format="png")


def _draw_accuracies(axes: Axes, summary: dict[str, Any]) -> None:
    for name, color in zip(METHODS, _COLORS, strict=True):
        mean, std = np.array(summary["mean"][name]), np.array(summary["std"][name])
        axes.fill_between(summary["sizes"], mean - std, mean + std, color=color, alpha=0.15, linewidth=0)
        axes.plot(summary["sizes"], mean, "o-", color=color, label=name)
    axes.set_xticks(summary["sizes"])
    axes.set_xlabel("pixels")
    axes.set_ylabel("test accuracy of a linear SVM")
    count = len(summary["seeds"])
    axes.set_title(f"{count} seed{'s' if count > 1 else ''}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_pixels(axes: Axes, name: str, values: np.ndarray, cmap: str, highest: float) -> None:
    axes.imshow(values.reshape(8, 8), cmap=cmap, vmin=0, vmax=highest)
    axes.set_title(name, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
