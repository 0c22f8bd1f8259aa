"""The picture of results: for each set the models, the score of every seed, and mean and standard deviation."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from graphattn.cli._bench_results import Table
from graphattn.training.networks import OURS

_OURS, _PEER = "#1b7837", "#555555"
_COLUMNS = 3


def draw(tables: list[Table]) -> Figure:
    """Draw a panel for each table, the best model on top; the models of this library are green."""
    columns = min(_COLUMNS, len(tables))
    lines = -(-len(tables) // columns)
    tallest = max(len(table.rows) for table in tables)
    figure = Figure(figsize=(4.6 * columns, lines * (1.2 + 0.27 * tallest)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, table in enumerate(tables, start=1):
        _draw_table(figure.add_subplot(lines, columns, number), table)
    return figure


def _draw_table(axes: Axes, table: Table) -> None:
    scale = 100.0 if table.higher_is_better else 1.0
    rows = [row for row in table.rows if row.runs]
    for height, row in enumerate(rows):
        color = _OURS if row.model in OURS else _PEER
        scores = [scale * score for score in row.tests().values()]
        axes.plot(scores, [height + 0.25] * len(scores), "o", color=color, alpha=0.5, markersize=4, markeredgewidth=0)
        mean, std = row.mean("test") or 0.0, row.std("test") or 0.0
        axes.errorbar(scale * mean, height, xerr=scale * std, fmt="|", color=color, capsize=3, markersize=11)
    axes.set_yticks(range(len(rows)), [row.model for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(_OURS if row.model in OURS else _PEER)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(table.dataset)
    unit = "%" if table.higher_is_better else "lower is better"
    axes.set_xlabel(f"{table.metric} ({unit}), split {table.split}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)


def save(figure: Figure, path: Path) -> None:
    """Save a PNG, whatever the name of the file."""
    figure.savefig(path, dpi=120, format="png")
