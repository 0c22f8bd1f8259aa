"""Depth against width: published shapes, the equations they solve, and the network that the theory analyses."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from graphattn.analysis.depth_width import (
    INTERCEPT,
    SLOPE,
    count_parameters,
    depth_threshold,
    fitted_depth,
    fitted_width,
    optimal_shape,
    regime,
    width_error,
)

# GPT-3's shapes as trained, and the best for as many parameters: depth and width.
GPT3 = [
    ((12, 768), (23.0, 554)),
    ((24, 1024), (31.6, 892)),
    ((24, 1536), (37.4, 1230)),
    ((24, 2048), (41.6, 1555)),
    ((32, 2560), (47.1, 2110)),
    ((32, 4096), (54.3, 3144)),
    ((40, 5140), (59.6, 4212)),
    ((96, 12288), (80.5, 13422)),
]


@pytest.mark.parametrize(("trained", "best"), [*GPT3, (None, (94.7, 29657))])
def test_published_sizes(trained: tuple[int, int] | None, best: tuple[float, float]) -> None:
    shape = optimal_shape(1e12 if trained is None else count_parameters(*trained))
    assert shape.depth == pytest.approx(best[0], abs=0.1)
    assert shape.width == pytest.approx(best[1], abs=1.0)
    assert shape.extrapolated == (best[0] > 48)


def test_the_largest_model_was_too_deep() -> None:
    found = [regime(*trained) for trained, _ in GPT3]
    assert found == ["depth-efficient"] * 7 + ["depth-inefficient"]


@pytest.mark.parametrize("parameters", [4e5, 1e7, 8.49e7, 3.5e8, 1e12, 1e15])
def test_the_shape_has_the_parameters_and_solves_the_equation(parameters: float) -> None:
    shape = optimal_shape(parameters)
    assert count_parameters(shape.depth, shape.width) == pytest.approx(parameters, rel=1e-9)
    assert shape.parameters == pytest.approx(parameters, rel=1e-9)
    root = brentq(
        lambda depth: math.log(12 * depth) + 2 * (INTERCEPT + SLOPE * depth) - math.log(parameters),
        1e-9,
        1000,
        xtol=1e-13,
        rtol=8.9e-16,
    )
    assert shape.depth == pytest.approx(root, rel=1e-10)
    assert shape.width == pytest.approx(fitted_width(root), rel=1e-10)


def test_more_parameters_are_deeper_and_wider() -> None:
    shapes = [optimal_shape(parameters) for parameters in np.geomspace(1e6, 1e14, 40)]
    assert np.all(np.diff([shape.depth for shape in shapes]) > 0)
    assert np.all(np.diff([shape.width for shape in shapes]) > 0)


def test_depth_of_the_width_of_a_depth() -> None:
    for depth in (1.0, 6.0, 23.5, 48.0, 96.0):
        assert fitted_depth(fitted_width(depth)) == pytest.approx(depth, rel=1e-12)


def test_the_threshold_is_asymptotic() -> None:
    assert depth_threshold(3**7) == pytest.approx(7.0, rel=1e-14)
    assert depth_threshold(768) == pytest.approx(6.05, abs=0.005)


def test_errors_add_up_as_squares() -> None:
    assert width_error(40) == pytest.approx(math.sqrt(0.030**2 + (0.0013 * 40) ** 2), rel=1e-14)


@pytest.mark.parametrize("depth", [6, 24, 48])
def test_regimes_meet_at_the_error_of_the_fit(depth: int) -> None:
    width, factor = fitted_width(depth), math.exp(width_error(depth))
    assert regime(depth, width) == "balanced"
    assert regime(depth, width * factor * 0.999) == regime(depth, width / factor * 1.001) == "balanced"
    assert regime(depth, width * factor * 1.001) == "depth-efficient"
    assert regime(depth, width / factor * 0.999) == "depth-inefficient"


def test_rounded_shapes_are_whole() -> None:
    for parameters, heads, multiple in ((3.5e8, 16, 64), (1.3e9, 12, 8), (1e7, 4, 1)):
        shape = optimal_shape(parameters, round_to=(heads, multiple))
        assert isinstance(shape.depth, int)
        assert isinstance(shape.width, int)
        assert shape.width % heads == shape.width % multiple == 0
        assert shape.parameters == 12 * shape.depth * shape.width**2
        exact, step = optimal_shape(parameters), math.lcm(heads, multiple)
        assert abs(shape.depth - exact.depth) <= 0.5
        assert abs(shape.width - math.sqrt(parameters / (12 * shape.depth))) <= step / 2


def test_what_the_fit_has_seen_is_not_extrapolated() -> None:
    edges = [count_parameters(depth, fitted_width(depth)) for depth in (6, 48)]
    assert [optimal_shape(edges[0] * factor).extrapolated for factor in (0.99, 1.01)] == [True, False]
    assert [optimal_shape(edges[1] * factor).extrapolated for factor in (0.99, 1.01)] == [False, True]


def test_small_networks_have_one_layer() -> None:
    one = count_parameters(1, fitted_width(1))
    with pytest.warns(UserWarning, match="the shape has one layer"):
        shape = optimal_shape(one / 2)
    assert shape.depth == 1.0
    assert shape.extrapolated
    assert count_parameters(shape.depth, shape.width) == pytest.approx(one / 2, rel=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert optimal_shape(one * 1.01).depth > 1


def test_the_frame_has_one_row() -> None:
    frame = optimal_shape(3.5e8, round_to=(16, 64)).as_frame()
    assert frame.columns.tolist() == ["depth", "width", "parameters", "extrapolated"]
    assert frame.loc[0, "depth"] == 33


@pytest.mark.parametrize("value", [0, -3.0, math.inf, math.nan])
def test_numbers_must_be_positive(value: float) -> None:
    for name, function in (("width", fitted_depth), ("depth", fitted_width), ("parameters", optimal_shape)):
        with pytest.raises(ValueError, match=f"{name} is {value}; expected a positive number"):
            function(value)
    with pytest.raises(ValueError, match="width is"):
        regime(12, value)


def test_other_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="parameters is 11; one layer of one feature has 12"):
        optimal_shape(11)
    with pytest.raises(ValueError, match=r"round_to is \(0, 64\); expected positive numbers"):
        optimal_shape(1e9, round_to=(0, 64))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_analysed_network_has_degree_three_to_the_depth(depth: int) -> None:
    """Without softmax a layer is cubic in its input: f(x)_i = sum_h O_h sum_j <Q_h x_i, K_h x_j> V_h x_j."""
    generator = torch.Generator().manual_seed(depth)
    tokens, width, heads, inner = 4, 6, 2, 3
    x = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    layers = [
        (
            torch.randn(3, heads, inner, width, generator=generator, dtype=torch.float64) / width,
            torch.randn(heads, width, inner, generator=generator, dtype=torch.float64) / width,
        )
        for _ in range(depth)
    ]

    def network(x: torch.Tensor) -> torch.Tensor:
        for (Q, K, V), output in layers:
            scores = torch.einsum("hdi,ni,hdj,mj->hnm", Q, x, K, x)
            x = torch.einsum("hid,hnm,hdj,mj->ni", output, scores, V, x)
        return x

    torch.testing.assert_close(network(1.1 * x), 1.1 ** (3**depth) * network(x), rtol=1e-11, atol=0.0)


def test_a_depth_without_a_width_is_refused() -> None:
    assert math.isfinite(fitted_width(10_000))
    with pytest.raises(ValueError, match="depth is 10001; expected at most 10000 layers"):
        regime(10_001, 768)
