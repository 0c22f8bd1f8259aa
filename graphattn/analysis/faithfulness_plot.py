"""A picture of deletion and insertion curves beside those of random orders."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from graphattn.analysis.faithfulness import Faithfulness


def draw_faithfulness(result: Faithfulness) -> Figure:
    """Draw both curves above those of the random orders.

    Args:
        result: What :func:`~graphattn.analysis.faithfulness` has measured.

    Returns:
        A figure of two panels; ``savefig`` writes it.

    Example:
        >>> import torch
        >>> from graphattn.analysis.faithfulness import faithfulness
        >>> worth = torch.rand(8)
        >>> figure = draw_faithfulness(faithfulness(lambda kept: kept.float() @ worth, worth))
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['fraction removed', 'fraction inserted']
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    removed, inserted = figure.subplots(1, 2, sharey=True)
    for axes, curve, random, area, p, verb in (
        (removed, result.deletion, result.random, result.deletion_area, result.deletion_p, "removed"),
        (inserted, result.insertion, result.random[:, ::-1], result.insertion_area, result.insertion_p, "inserted"),
    ):
        axes.plot(result.fractions, random.T, color="0.85", linewidth=0.8)
        axes.plot(result.fractions, random.mean(axis=0), color="0.4", linestyle="--", label="random orders")
        axes.plot(result.fractions, curve, ".-", color="#2c7fb8", label="by attribution")
        axes.set_xlabel(f"fraction {verb}")
        axes.set_title(f"Area {area:.3g}, p = {p:.3g}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend()
    removed.set_ylabel("score")
    return figure
