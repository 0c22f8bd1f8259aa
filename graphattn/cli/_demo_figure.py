"""The picture of the demo's first part: how well each method reads, and whom one digit attends to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from sklearn.datasets import load_digits

from graphattn.cli._demo_attention import METHODS

_BARS = ("#1b7837", "#999999", "#bbbbbb")
_SAME, _OTHER = "#2c7fb8", "#c0392b"


def draw(path: Path, part: dict[str, Any]) -> None:
    """Draw accuracy bars and the learned affinity around one digit, and save them as a PNG."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    bars, graph = figure.subplots(1, 2, width_ratios=[1, 1.6])
    _draw_accuracies(bars, [run["accuracy"] for run in part["seeds"]])
    _draw_neighborhood(graph, part["seeds"][-1])
    figure.savefig(path, dpi=120, format="png")


def _draw_accuracies(axes: Axes, accuracies: list[dict[str, float]]) -> None:
    values = np.array([[accuracy[name] for name in METHODS] for accuracy in accuracies])
    positions, bottom = np.arange(len(METHODS)), values.min() - 0.05
    axes.bar(positions, values.mean(0), yerr=values.std(0), color=_BARS, capsize=4, width=0.6)
    for x, column in zip(positions.tolist(), values.T, strict=True):
        axes.plot(np.full(len(column), x), column, "k.", markersize=4)
        axes.text(x, bottom + 0.004, f"{column.mean():.3f}", ha="center", color="white", weight="bold")
    axes.set_xticks(positions, METHODS)
    axes.set_ylim(bottom, 1.0)
    axes.set_ylabel("test accuracy")
    axes.set_title(f"20 labels a class, {len(values)} seed{'s' if len(values) > 1 else ''}")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_neighborhood(axes: Axes, run: dict[str, Any]) -> None:
    """Draw a digit, its neighbours, and how much it draws on each."""
    images, y = load_digits().images, load_digits().target
    center = run["digit"]
    graph = nx.DiGraph()
    for j, w in zip(run["neighbors"], run["weights"], strict=True):
        graph.add_edge(j, center, weight=w)
    ring = sorted(graph.predecessors(center), key=lambda j: (int(y[j]), j))
    angles = np.linspace(0, 2 * np.pi, len(ring), endpoint=False)
    places = {j: np.array([np.cos(a), np.sin(a)]) for j, a in zip(ring, angles, strict=True)}
    places[center] = np.zeros(2)

    widths = np.array([graph.edges[edge]["weight"] for edge in graph.edges])
    nx.draw_networkx_edges(
        graph,
        places,
        ax=axes,
        width=list(1 + 9 * widths / widths.max()),
        edge_color=[_SAME if y[j] == y[center] else _OTHER for j, _ in graph.edges],
        alpha=0.6,
        node_size=1500,
        arrowsize=14,
    )
    for j, place in places.items():
        image = OffsetImage(images[j], zoom=4.5, cmap="gray_r")
        edge = "black" if j == center else _SAME if y[j] == y[center] else _OTHER
        axes.add_artist(
            AnnotationBbox(image, tuple(place.tolist()), pad=0.15, bboxprops={"edgecolor": edge, "linewidth": 2})
        )
    for (j, _), w in zip(graph.edges, widths, strict=True):
        x, height = (0.56 * places[j]).tolist()
        box = {"color": "white", "pad": 1}
        axes.text(x, height, f"{w:.2f}", ha="center", va="center", fontsize=9, bbox=box)
    axes.set_title(
        f"Learned affinity: what the {int(y[center])} in the middle draws on (blue: same digit, red: another)"
    )
    axes.set_xlim(-1.3, 1.3)
    axes.set_ylim(-1.3, 1.3)
    axes.set_aspect("equal")
    axes.axis("off")
