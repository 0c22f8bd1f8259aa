"""The pictures show the numbers they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.spatial.distance import pdist

from graphattn.analysis.transport import trajectory
from graphattn.analysis.transport_plot import draw_paths, draw_trajectory


def path(features: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(8, features)) + step for step in range(5)]


def test_the_panels_of_a_trajectory(tmp_path: Path) -> None:
    found = trajectory(path(), steps=[0, 2, 4, 6, 9])
    figure = draw_trajectory(found)
    moves, length, optimality, gap = figure.axes
    for line, steps, values in (
        (moves.lines[0], [2, 4, 6, 9], found.wasserstein),
        (length.lines[0], [0, 2, 4, 6, 9], [0, *np.cumsum(found.wasserstein)]),
        (optimality.lines[0], [2, 4, 6, 9], found.optimality),
        (gap.lines[0], [2, 4, 6, 9], found.gap),
    ):
        np.testing.assert_array_equal(line.get_xdata(), steps)
        np.testing.assert_array_equal(line.get_ydata(), values)
    assert length.lines[1].get_ydata()[0] == found.distance
    assert optimality.lines[1].get_ydata()[0] == found.end_optimality
    assert f"{found.efficiency:.3f}" in length.get_title()
    figure.savefig(tmp_path / "trajectory.png")
    assert imread(tmp_path / "trajectory.png").std() > 0.05  # something is drawn


@pytest.mark.parametrize("features", [1, 2])
def test_paths_keep_distances_that_fit_into_the_plane(features: int, tmp_path: Path) -> None:
    steps = path(features)
    figure = draw_paths(steps, y=["a"] * 3 + ["b"] * 5)
    (axes,) = figure.axes
    drawn = np.stack([np.column_stack(line.get_data()) for line in axes.lines], axis=1)
    assert drawn.shape == (5, 8, 2)
    points = np.stack(steps).reshape(-1, features)
    np.testing.assert_allclose(pdist(drawn.reshape(-1, 2)), pdist(points), rtol=1e-12)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    last = axes.collections[1].get_offsets()
    np.testing.assert_array_equal(last, drawn[-1, :3])
    figure.savefig(tmp_path / "paths.png")
    assert imread(tmp_path / "paths.png").std() > 0.05


def test_a_cloud_that_does_not_move() -> None:
    (_, length, optimality, gap) = draw_trajectory(trajectory([np.zeros((3, 2))] * 3)).axes
    assert length.get_title() == "Efficiency 1.000"
    assert optimality.lines[0].get_ydata().tolist() == [1.0, 1.0]
    assert gap.lines[0].get_ydata().tolist() == [0.0, 0.0]


def test_paths_without_classes_have_no_legend() -> None:
    (axes,) = draw_paths(path(4)).axes
    assert axes.get_legend() is None
    assert {line.get_color() for line in axes.lines} == {"C0"}


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"checkpoints have the shapes \[\(2, 2\), \(3, 2\)\]"):
        draw_paths([np.zeros((2, 2)), np.zeros((3, 2))])
    with pytest.raises(ValueError, match=r"checkpoints have the shapes \[\]"):
        draw_paths([])
    with pytest.raises(ValueError, match=r"y has shape \(3,\); expected a class for each of the 2 rows"):
        draw_paths([np.zeros((2, 2))], y=[0, 1, 2])
