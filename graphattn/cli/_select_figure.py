"""The picture of a selection: scores in rank order with the cut, and the affinity among the best features."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_NAME_LENGTH = 24
_SELECTED, _REST = "#1b7837", "#bbbbbb"


def draw(method: str, names: list[str], scores: np.ndarray, selected: int, affinity: np.ndarray) -> Figure:
    """Draw a ranking.

    Args:
        method: What the title calls the ranking.
        names: The best features, best first; as many as the affinity has rows.
        scores: Scores of all features, in rank order.
        selected: How many of them are selected.
        affinity: How strongly the best features draw on each other, ``[len(names), len(names)]``.
    """
    figure = Figure(figsize=(13, 6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    _draw_scores(left, method, scores, selected)
    _draw_affinity(right, names, affinity)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Save a PNG; a name in a script that the font lacks is drawn as boxes, which is no reason to stop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, dpi=120, format="png")


def _draw_scores(axes: Axes, method: str, scores: np.ndarray, selected: int) -> None:
    ranks = np.arange(1, len(scores) + 1)
    axes.fill_between(ranks[:selected], scores[:selected], color=_SELECTED, alpha=0.25, linewidth=0)
    axes.plot(ranks, scores, color=_REST, linewidth=1)
    axes.plot(ranks[:selected], scores[:selected], ".-", color=_SELECTED, label=f"selected: {selected}")
    axes.plot(ranks[selected:], scores[selected:], ".", color=_REST, label=f"left out: {len(scores) - selected}")
    axes.axvline(selected + 0.5, color="black", linestyle="--", linewidth=1)
    axes.set_xlabel("rank")
    axes.set_ylabel("score")
    axes.set_title(f"{method}: scores in rank order")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_affinity(axes: Axes, names: list[str], affinity: np.ndarray) -> None:
    image = axes.imshow(affinity, cmap="viridis")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
    short = [name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…" for name in names]
    # A name may hold dollar signs, which would be read as formulas.
    ticks: dict[str, Any] = {"fontsize": max(5, min(9, 260 // len(names))), "parse_math": False}
    axes.set_yticks(range(len(names)), short, **ticks)
    axes.set_xticks(range(len(names)), short, rotation=90, **ticks)
    axes.set_title(f"Affinity among the best {len(names)}: how strongly a row draws on a column")
