"""The picture of re-ranked lists: what each query gained or lost, or how far its order changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_WON, _LOST, _BEFORE = "#1b7837", "#c0392b", "#bbbbbb"
_ORIGINS = {"1": 1, "2": 2, "3–5": 5, "6–10": 10, "11–100": 100, "> 100": np.inf}


def draw_metrics(method: str, metrics: dict[str, dict[str, Any]], change: np.ndarray) -> Figure:
    """Draw the change of average precision of every query, and the means of all metrics.

    Args:
        method: What the title calls the method.
        metrics: Before, after, wins, ties and losses of each metric, ``map`` among them.
        change: Change of ``map`` of each query.
    """
    figure, left, right = _figure()
    counts = metrics["map"]
    _draw_sorted(left, change)
    left.set_ylabel("change of average precision")
    left.set_title(f"{method}: {counts['wins']} queries won, {counts['ties']} tied, {counts['losses']} lost")

    positions = np.arange(len(metrics))
    for shift, name, color in ((-0.2, "before", _BEFORE), (0.2, "after", _WON)):
        means = [values[name] for values in metrics.values()]
        right.bar(positions + shift, means, width=0.4, color=color, label=name)
        for x, mean in zip(positions + shift, means, strict=True):
            right.text(x, mean, f"{mean:.3f}", ha="center", va="bottom", fontsize=9)
    right.set_xticks(positions, list(metrics))
    right.set_ylim(0, 1.1)
    right.set_title(f"Means over {len(change)} queries")
    right.legend(frameon=False)
    return figure


def draw_order(method: str, correlation: np.ndarray, origin: np.ndarray) -> Figure:
    """Draw how far lists changed where nobody says what is relevant.

    Args:
        method: What the title calls the method.
        correlation: Rank correlation of each list with itself before.
        origin: The rank that the first document of each list had before.
    """
    figure, left, right = _figure()
    _draw_sorted(left, correlation[~np.isnan(correlation)])
    left.set_ylabel("rank correlation with the list before")
    left.set_title(f"{method}: how far the order changed")

    bounds = np.array(list(_ORIGINS.values()))
    shares = np.bincount(np.searchsorted(bounds, origin[~np.isnan(origin)]), minlength=len(bounds))
    right.bar(list(_ORIGINS), shares, color=_WON)
    right.set_xlabel("rank before of the document that is now first")
    right.set_ylabel("queries")
    right.set_title("Where the first documents come from")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Save a PNG, whatever the name of the file."""
    figure.savefig(path, dpi=120, format="png")


def _figure() -> tuple[Figure, Axes, Axes]:
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure, left, right


def _draw_sorted(axes: Axes, values: np.ndarray) -> None:
    """Draw values from the largest to the smallest, those above 0 in another colour than those below."""
    values = np.sort(values)[::-1]
    axes.stairs(values.clip(min=0.0), fill=True, color=_WON)
    axes.stairs(values.clip(max=0.0), fill=True, color=_LOST)
    axes.axhline(0.0, color="black", linewidth=1)
    axes.set_xlabel("queries, sorted")
