"""The picture of a plan: depth against width, with the fit, sizes, and models that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from graphattn.analysis.depth_width import FITTED_DEPTHS, INTERCEPT, INTERCEPT_ERROR, SLOPE, SLOPE_ERROR

# Depth and width of the models of Brown et al., "Language Models are Few-Shot Learners", 2020.
GPT3 = {
    "Small": (12, 768),
    "Medium": (24, 1024),
    "Large": (24, 1536),
    "XL": (24, 2048),
    "2.7B": (32, 2560),
    "6.7B": (32, 4096),
    "13B": (40, 5140),
    "175B": (96, 12288),
}
_FIT, _MODEL, _SIZE, _OWN = "#2c7fb8", "#777777", "#cccccc", "#c0392b"
_SIZES = {"1M": 1e6, "10M": 1e7, "100M": 1e8, "1B": 1e9, "10B": 1e10, "100B": 1e11, "1T": 1e12}


def draw(path: Path, depth: float, width: float, label: str) -> None:
    """Draw where a shape stands, and save it as a PNG."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    last = max(110.0, 1.15 * depth)
    depths = np.linspace(1, last, 400)
    fit = INTERCEPT + SLOPE * depths
    error = np.hypot(INTERCEPT_ERROR, SLOPE_ERROR * depths)
    low, high = min(100.0, 0.7 * width), max(30_000.0, 1.5 * width)
    axes.fill_between(depths, np.exp(fit - error), np.exp(fit + error), color=_FIT, alpha=0.2, linewidth=0)
    seen = (depths >= FITTED_DEPTHS[0]) & (depths <= FITTED_DEPTHS[1])
    axes.plot(depths, np.exp(fit), ":", color=_FIT, label="fit, extrapolated")
    axes.plot(depths[seen], np.exp(fit[seen]), color=_FIT, linewidth=2, label="fit: as deep as its width allows")
    for name, size in _SIZES.items():
        widths = np.sqrt(size / (12 * depths))
        axes.plot(depths, widths, color=_SIZE, linewidth=0.8, zorder=0)
        if low < widths[-1] < high:
            axes.text(last, widths[-1], f" {name}", color=_MODEL, va="center", fontsize=8)
    known = np.array(list(GPT3.values()))
    axes.scatter(known[:, 0], known[:, 1], color=_MODEL, s=22, label="GPT-3, as trained", zorder=3)
    for name, place in GPT3.items():
        axes.annotate(name, place, (5, 3), textcoords="offset points", color=_MODEL, fontsize=8)
    axes.scatter([depth], [width], color=_OWN, marker="*", s=160, label=label, zorder=4)
    axes.set_yscale("log")
    axes.set_xlim(0, last)
    axes.set_ylim(low, high)
    axes.set_xlabel("depth: layers")
    axes.set_ylabel("width: features of a token")
    axes.set_title("Left of the line, depth is the better use of parameters; right of it, width\n(grey: equal size)")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, format="png")
