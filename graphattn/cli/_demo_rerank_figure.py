"""The picture of the demo's third part: the change of every query, and three lists before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from graphattn.cli._demo_rerank import METHODS, SHOWN, changes

_BETTER, _WORSE = "#1b7837", "#c0392b"


def draw(path: Path, summary: dict[str, Any]) -> None:
    """Draw what :func:`graphattn.cli._demo_rerank.summary` gathered, and save it as a PNG."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 2, width_ratios=[1, 1.7])
    left, right = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    bars, curve = left.subplots(2, 1)
    _draw_means(bars, summary)
    _draw_changes(curve, summary)
    run = summary["seeds"][0]
    order = np.argsort(changes(run), kind="stable")
    examples = {"most gained": order[-1], "median": order[len(order) // 2], "most lost": order[0]}
    panels = right.subplots(2 * len(examples), 1 + SHOWN)
    for row, (title, query) in enumerate(examples.items()):
        _draw_lists(panels[2 * row : 2 * row + 2], title, run, int(query))
    right.suptitle(f"First {SHOWN} before and after Auto (green: same digit, red: another); seed {run['seed']}")
    figure.savefig(path, dpi=120, format="png")


def _draw_means(axes: Axes, summary: dict[str, Any]) -> None:
    values = [summary["mean"][name] for name in METHODS]
    bars = axes.barh(METHODS, values, xerr=[summary["std"][name] for name in METHODS], color="#2c7fb8")
    axes.bar_label(bars, [f"{value:.3f}" for value in values], label_type="center", color="white", weight="bold")
    axes.set_xlim(min(values) - 0.1, 1.0)
    axes.invert_yaxis()
    count = len(summary["seeds"])
    axes.set_title(f"mean average precision, {count} seed{'s' if count > 1 else ''}")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_changes(axes: Axes, summary: dict[str, Any]) -> None:
    change = np.sort(np.concatenate([changes(run) for run in summary["seeds"]]))
    axes.fill_between(np.arange(len(change)), change, where=change >= 0, color=_BETTER)
    axes.fill_between(np.arange(len(change)), change, where=change <= 0, color=_WORSE)
    axes.set_title(f"Auto: {summary['better']} queries better, {summary['worse']} worse")
    axes.set_xlabel("queries, sorted")
    axes.set_ylabel("change of AP")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_lists(panels: np.ndarray, title: str, run: dict[str, Any], query: int) -> None:
    digits = load_digits()
    image = run["queries"][query]
    for row, (name, when) in zip(panels, (("cosine", "before"), ("Auto", "after")), strict=True):
        _draw_image(row[0], digits.images[image], "black")
        precision = run["average_precision"][name][query]
        row[0].set_ylabel(f"{when}\nAP {precision:.2f}", rotation=0, ha="right", va="center")
        for axes, item in zip(row[1:], run["lists"][name][query], strict=True):
            _draw_image(axes, digits.images[item], _BETTER if digits.target[item] == digits.target[image] else _WORSE)
    panels[0][0].set_title(title, fontsize=10, loc="left")


def _draw_image(axes: Axes, image: np.ndarray, color: str) -> None:
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=16)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(edgecolor=color, linewidth=2.5)
