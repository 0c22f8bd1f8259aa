"""Pictures of a trajectory: the length of each move, the path beside the straight line, and the rows on their way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from graphattn.analysis.transport import Trajectory

_MOVE, _OPTIMAL, _GAP, _STRAIGHT = "#2c7fb8", "#1b7837", "#c0392b", "#999999"


def draw_trajectory(trajectory: Trajectory) -> Figure:
    """Draw the length of each move, the path they add up to, and how close to optimal they are.

    Args:
        trajectory: What :func:`~graphattn.analysis.transport.trajectory` has measured.

    Returns:
        A figure of three panels; ``savefig`` writes it.

    Example:
        >>> from graphattn.analysis.transport import trajectory
        >>> X = np.random.default_rng(0).normal(size=(10, 2))
        >>> figure = draw_trajectory(trajectory([X, X + 1, 2 * X]))
        >>> [axes.get_ylabel() for axes in figure.axes[:3]]
        ['Wasserstein distance', 'path length', 'optimality']
    """
    figure = _figure(13, 4)
    moves, path, optimality = figure.subplots(1, 3)
    steps = trajectory.steps
    _draw_moves(moves, trajectory)
    path.plot(steps, np.concatenate([[0.0], np.cumsum(trajectory.wasserstein)]), ".-", color=_MOVE, label="path")
    path.axhline(trajectory.distance, color=_STRAIGHT, linestyle="--", label="from the first checkpoint to the last")
    path.set_ylim(bottom=0)
    path.set_ylabel("path length")
    path.set_title(f"Efficiency {trajectory.efficiency:.3f}")
    path.legend(loc="lower right")
    _draw_optimality(optimality, trajectory)
    for axes in (moves, path, optimality):
        axes.set_xlabel("checkpoint")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines["top"].set_visible(False)
    return figure


def draw_paths(checkpoints: Sequence[Any], y: Any = None) -> Figure:
    """Draw the way of every row, in the plane in which the rows of all checkpoints vary most.

    Args:
        checkpoints: The rows at each time, such as :attr:`ProjectionRecorder.checkpoints`.
        y: Class of each row, which colours it; one colour by default.

    Shapes:
        - **input:** each of ``checkpoints`` :math:`(N, C)`, ``y`` :math:`(N)`

    Returns:
        A figure; rings are the first checkpoint, dots the last.

    Raises:
        ValueError: If there are no checkpoints, they are not of one shape, or ``y`` has not a class for each row.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(10, 4))
        >>> len(draw_paths([X, X + 1, 2 * X], y=[0] * 5 + [1] * 5).axes[0].lines)
        10
    """
    shapes = {np.shape(X) for X in checkpoints}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"checkpoints have the shapes {sorted(shapes)}; expected [points, features], the same for all")
    points = np.stack([np.asarray(X, dtype=np.float64) for X in checkpoints])
    classes = np.zeros(points.shape[1], dtype=np.int64) if y is None else np.asarray(y)
    if classes.shape != points.shape[1:2]:
        raise ValueError(f"y has shape {classes.shape}; expected a class for each of the {points.shape[1]} rows")
    labels, numbers = np.unique(classes, return_inverse=True)
    plane = _plane(points)
    figure = _figure(6, 5.5)
    axes = figure.subplots()
    for row, number in enumerate(numbers):
        axes.plot(*plane[:, row].T, color=f"C{number % 10}", alpha=0.4, linewidth=0.8)
    for number, label in enumerate(labels):
        chosen, color = plane[:, numbers == number], f"C{number % 10}"
        axes.scatter(chosen[0, :, 0], chosen[0, :, 1], facecolors="none", edgecolors=color, s=18)
        axes.scatter(chosen[-1, :, 0], chosen[-1, :, 1], color=color, s=18, label=str(label))
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second principal component")
    axes.set_title("Rows from the first checkpoint (rings) to the last (dots)")
    axes.spines[["top", "right"]].set_visible(False)
    if y is not None:
        axes.legend(title="class", frameon=False)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_moves(axes: Axes, trajectory: Trajectory) -> None:
    axes.plot(trajectory.steps[1:], trajectory.wasserstein, ".-", color=_MOVE)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Wasserstein distance")
    axes.set_title("Length of each move")


def _draw_optimality(axes: Axes, trajectory: Trajectory) -> None:
    steps = trajectory.steps[1:]
    axes.plot(steps, trajectory.optimality, ".-", color=_OPTIMAL, label="optimality")
    axes.axhline(trajectory.end_optimality, color=_STRAIGHT, linestyle="--", label="optimality from end to end")
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("optimality")
    axes.set_title(f"Optimality from end to end {trajectory.end_optimality:.3f}")
    gap = axes.twinx()
    gap.plot(steps, trajectory.gap, ".:", color=_GAP, label="Monge gap")
    mean_cost = trajectory.gap + trajectory.wasserstein**trajectory.p
    gap.set_ylim(0, 1.05 * mean_cost.max() or 1.0)
    gap.set_ylabel("Monge gap")
    gap.spines["top"].set_visible(False)
    axes.legend(handles=[*axes.lines, *gap.lines], loc="center right")


def _plane(points: np.ndarray) -> np.ndarray:
    """Project points ``[T, N, C]`` on their first two principal components; a missing second one is 0."""
    flat = points.reshape(-1, points.shape[2])
    flat = flat - flat.mean(0)
    components = np.linalg.svd(flat, full_matrices=False)[2][:2]
    plane = np.zeros((len(flat), 2))
    plane[:, : len(components)] = flat @ components.T
    return plane.reshape(*points.shape[:2], 2)
