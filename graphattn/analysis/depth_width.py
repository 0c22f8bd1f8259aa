"""Depth against width of a transformer: how deep a width should be, how wide a depth, and the best shape of a size."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

from scipy.special import lambertw

from graphattn._optional import require

# ln(width) = a + b depth where depth and width serve equally well, fitted to networks of 6 to 48 layers.
INTERCEPT, SLOPE = 5.039, 0.0555
INTERCEPT_ERROR, SLOPE_ERROR = 0.030, 0.0013
FITTED_DEPTHS = (6, 48)

_DEEPEST = 10_000  # the width that goes with more layers is soon no number any more


@dataclass(frozen=True)
class Shape:
    """Hold the depth and width of a transformer.

    Args:
        depth: Number of layers.
        width: Number of features of a token.
        parameters: Number of parameters, embeddings left out.
        extrapolated: Whether the depth is outside of what the fit has seen.
    """

    depth: float
    width: float
    parameters: float
    extrapolated: bool

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row.

        Example:
            >>> optimal_shape(8.49e7).as_frame().round(1).loc[0, ["depth", "width"]].tolist()
            [23.0, 554.2]
        """
        pandas = require("pandas", "analysis")
        return pandas.DataFrame([vars(self)])


def count_parameters(depth: float, width: float) -> float:
    r"""Count the parameters of a transformer, embeddings left out.

    .. math:: N = 12\,L\,d^2

    Args:
        depth: Number of layers :math:`L`.
        width: Number of features :math:`d`.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> count_parameters(12, 768)
        84934656.0
    """
    _check_positive(depth=depth, width=width)
    return 12.0 * depth * width**2


def depth_threshold(width: float) -> float:
    r"""Compute the depth up to which the theory lets another layer gain more than more width.

    .. math:: L^* = \log_3 d

    Below it, what a network can tell apart grows double-exponentially with depth; above it, depth and width trade
    evenly. It is asymptotic, without constants: networks that have been measured go by :func:`fitted_depth`.

    Args:
        width: Number of features :math:`d`.

    Raises:
        ValueError: If the width is not positive.

    Example:
        >>> round(depth_threshold(768), 2)
        6.05

    Reference:
        Levine et al., "The Depth-to-Width Interplay in Self-Attention", NeurIPS 2020.
    """
    _check_positive(width=width)
    return math.log(width, 3)


def fitted_depth(width: float) -> float:
    r"""Compute the depth beyond which more width serves a network of this width better, as measured.

    .. math:: L = (\ln d - a) / b, \qquad a = 5.039,\ b = 0.0555

    Args:
        width: Number of features :math:`d`. Below 154 the fit has no depth, and the result is negative.

    Raises:
        ValueError: If the width is not positive.

    Example:
        >>> round(fitted_depth(768), 1)
        28.9

    Reference:
        Levine et al., 2020, see :func:`depth_threshold`.
    """
    _check_positive(width=width)
    return (math.log(width) - INTERCEPT) / SLOPE


def fitted_width(depth: float) -> float:
    r"""Compute the width that a network of this depth needs to be as good as a shallower one of its size, as measured.

    .. math:: d = e^{a + b L}, \qquad a = 5.039,\ b = 0.0555

    Args:
        depth: Number of layers :math:`L`.

    Raises:
        ValueError: If the depth is not positive, or above 10,000.

    Example:
        >>> round(fitted_width(24))
        585

    Reference:
        Levine et al., 2020, see :func:`depth_threshold`.
    """
    _check_positive(depth=depth)
    if depth > _DEEPEST:
        raise ValueError(f"depth is {depth}; expected at most {_DEEPEST} layers")
    return math.exp(INTERCEPT + SLOPE * depth)


def width_error(depth: float) -> float:
    r"""Compute the standard error of the logarithm of :func:`fitted_width`.

    .. math:: \sqrt{0.030^2 + (0.0013\,L)^2}

    Args:
        depth: Number of layers :math:`L`.

    Raises:
        ValueError: If the depth is not positive.

    Example:
        >>> round(width_error(24), 4)
        0.0433
    """
    _check_positive(depth=depth)
    return math.hypot(INTERCEPT_ERROR, SLOPE_ERROR * depth)


def optimal_shape(parameters: float, *, round_to: tuple[int, int] | None = None) -> Shape:
    r"""Find the depth and width that serve a number of parameters best.

    .. math:: N = 12\,L\,e^{2 (a + b L)} \quad\Rightarrow\quad L = \frac{1}{2b}\,W\Bigl(\frac{b\,N}{6}\,e^{-2a}\Bigr)

    with W the Lambert function, and :math:`d = e^{a + b L}`.

    Args:
        parameters: Number of parameters :math:`N`, embeddings left out.
        round_to: Number of heads and multiple of the width: makes the depth whole, and the width the multiple of both
            that comes closest to the number of parameters.

    Returns:
        The shape, with the number of parameters that it has. Where the best depth is below one layer, it is one.

    Raises:
        ValueError: If a number is not positive, or too small for one layer of one feature.

    Warns:
        UserWarning: If the best depth is below one layer.

    Example:
        >>> optimal_shape(1.74e11, round_to=(96, 128))
        Shape(depth=80, width=13440, parameters=173408256000, extrapolated=True)

    Reference:
        Levine et al., 2020, see :func:`depth_threshold`.
    """
    _check_positive(parameters=parameters)
    if parameters < 12:
        raise ValueError(f"parameters is {parameters}; one layer of one feature has 12, expected at least that")
    depth = float(lambertw(SLOPE * parameters * math.exp(-2 * INTERCEPT) / 6).real) / (2 * SLOPE)
    width = math.exp(INTERCEPT + SLOPE * depth)
    if depth < 1:
        warnings.warn(
            f"{parameters:.3g} parameters are best in {depth:.2g} layers; the shape has one layer", stacklevel=2
        )
        depth, width = 1.0, math.sqrt(parameters / 12)
    if round_to is None:
        return Shape(depth, width, count_parameters(depth, width), _outside(depth))
    heads, multiple = round_to
    if min(heads, multiple) < 1:
        raise ValueError(f"round_to is {round_to}; expected positive numbers of heads and of the multiple")
    step = math.lcm(heads, multiple)
    layers = round(depth)
    wide = max(1, round(math.sqrt(parameters / (12 * layers)) / step)) * step
    return Shape(layers, wide, 12 * layers * wide**2, _outside(layers))


def regime(depth: float, width: float) -> str:
    r"""Tell on which side of the fit a network is.

    Args:
        depth: Number of layers :math:`L`.
        width: Number of features :math:`d`.

    Returns:
        ``"depth-efficient"``: wider than the fit, so that depth is the better use of more parameters;
        ``"balanced"``: within :func:`width_error` of it; ``"depth-inefficient"``: too deep for its width, so that a
        shallower and wider network of its size serves better.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> regime(12, 768), regime(96, 12288)
        ('depth-efficient', 'depth-inefficient')
    """
    _check_positive(width=width)
    away = math.log(width) - math.log(fitted_width(depth))
    if abs(away) <= width_error(depth):
        return "balanced"
    return "depth-efficient" if away > 0 else "depth-inefficient"


def _outside(depth: float) -> bool:
    return not FITTED_DEPTHS[0] <= depth <= FITTED_DEPTHS[1]


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; expected a positive number")
