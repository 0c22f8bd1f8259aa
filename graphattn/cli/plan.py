"""Plan the depth and width of a transformer, or see where one stands.

Given one of --width, --params and --depth, it prints the shape that goes with it; given two, it prints where that model
stands. Parameters are those of the layers, 12 x depth x width^2, embeddings left out. The depth threshold, log_3 of the
width, is theory and asymptotic: below it, another layer gains more than more width. What is fitted comes from language
models of 6 to 48 layers (Levine et al., NeurIPS 2020); beyond them it is marked as extrapolated.

examples:
  graphattn plan --width 1024
  graphattn plan --params 350M --heads 16 --plot plan.png
  graphattn plan --depth 24 --width 1024
"""

from __future__ import annotations

import argparse
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from graphattn.analysis.depth_width import (
    FITTED_DEPTHS,
    SLOPE,
    Shape,
    count_parameters,
    depth_threshold,
    fitted_depth,
    fitted_width,
    optimal_shape,
    regime,
    width_error,
)
from graphattn.cli._checks import UserError
from graphattn.cli._files import whole

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_ADVICE = {
    "depth-efficient": "wide for its depth: more layers are the better use of more parameters",
    "balanced": "as deep as it should be for its width, within the error of the fit",
    "depth-inefficient": "too deep for its width: fewer and wider layers serve better",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``graphattn plan``."""
    parser.add_argument("--width", type=_positive("--width"), metavar="D", help="features of a token")
    parser.add_argument("--params", type=_positive("--params"), metavar="N", help="parameters, such as 350M or 1.3B")
    parser.add_argument("--depth", type=_positive("--depth"), metavar="L", help="number of layers")
    parser.add_argument("--heads", type=int, default=1, help="whole shapes have widths these divide (%(default)s)")
    parser.add_argument("--multiple", type=int, default=64, help="and that are a multiple of this (%(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the plan as a PNG")


def run(args: argparse.Namespace) -> int:
    """Print the plan and return the exit status."""
    given = [name for name in ("width", "params", "depth") if getattr(args, name) is not None]
    if len(given) not in (1, 2):
        asked = "nothing to plan" if not given else "width, params and depth say one thing too many"
        raise UserError(f"{asked}; pass one of --width, --params and --depth, or two for a model to judge")
    if min(args.heads, args.multiple) < 1:
        raise UserError(f"--heads is {args.heads} and --multiple {args.multiple}; expected at least 1")
    try:
        depth, width = _complete(args)
        lines = _plan(depth, width, given, args)
    except ValueError as error:
        raise UserError(str(error)) from error
    if args.plot is not None and depth < 1 and given == ["width"]:
        raise UserError(f"--plot: the fit has no depth for width {width:,.0f}; pass --depth too to draw a model")
    print("\n".join(lines))
    if args.plot is not None:
        from graphattn.cli._plan_figure import draw  # matplotlib takes a second to import; only the picture needs it

        with whole(args.plot) as part:
            draw(part, depth, width, lines[0].split(":")[0])
        print(f"\nwrote {args.plot}")
    return 0


def _positive(option: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        found = re.fullmatch(r"(\d+\.?\d*(?:e\+?\d+)?)([KMBT]?)", text.strip().replace(",", ""), re.IGNORECASE)
        value = float(found[1]) * _UNITS[found[2].upper()] if found else 0.0
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(
                f"{option} is {text!r}; expected a positive number such as 24, 350M or 1e9"
            )
        return value

    return read


def _complete(args: argparse.Namespace) -> tuple[float, float]:
    """Return depth and width: as given, or what goes with what is given."""
    depth, width, params = args.depth, args.width, args.params
    if params is not None and depth is None and width is None:
        best = _best(params)
        return best.depth, best.width
    if depth is None:
        return (fitted_depth(width) if params is None else params / (12 * width**2)), width
    return depth, (width or (fitted_width(depth) if params is None else math.sqrt(params / (12 * depth))))


def _plan(depth: float, width: float, given: list[str], args: argparse.Namespace) -> list[str]:
    if len(given) == 2:
        return _judge(depth, width, args)
    if given == ["params"]:
        return _plan_params(args)
    return _plan_width(width, depth) if given == ["width"] else _plan_depth(depth, width)


def _plan_width(width: float, depth: float) -> list[str]:
    lines = [
        f"width {width:,.0f}",
        f"  depth threshold    {depth_threshold(width):.2f} layers, by theory: log_3 of the width",
    ]
    if depth < 1:
        return [*lines, "  efficient depth    below 1 layer: the fit has no depth for so narrow a network"]
    error = width_error(depth) / SLOPE
    return [
        *lines,
        f"  efficient depth    up to {depth:.1f} ± {error:.1f} layers, fitted{_extrapolated(depth)}",
        f"  parameters         {_count(count_parameters(depth, width))} at that depth",
    ]


def _plan_depth(depth: float, width: float) -> list[str]:
    low, high = (width * math.exp(sign * width_error(depth)) for sign in (-1, 1))
    return [
        f"depth {depth:.4g}",
        f"  efficient width    at least {width:,.0f} ({low:,.0f} to {high:,.0f}), fitted{_extrapolated(depth)}",
        f"  depth threshold    {depth_threshold(width):.2f} layers, by theory: log_3 of that width",
        f"  parameters         {_count(count_parameters(depth, width))} at that width",
    ]


def _plan_params(args: argparse.Namespace) -> list[str]:
    best = _best(args.params)
    return [
        f"{_count(args.params)} parameters",
        f"  best shape         {best.depth:.1f} layers of width {best.width:,.0f}, fitted{_extrapolated(best.depth)}",
        _whole_line(args.params, args),
        f"  depth threshold    {depth_threshold(best.width):.2f} layers, by theory: log_3 of the best width",
    ]


def _judge(depth: float, width: float, args: argparse.Namespace) -> list[str]:
    params = count_parameters(depth, width)
    best, found = _best(params), regime(depth, width)
    lines = [
        f"{depth:.4g} layers of width {width:,.0f}: {_count(params)} parameters",
        f"  this model         {found}{_extrapolated(depth)}: {_ADVICE[found]}",
        f"  depth threshold    {depth_threshold(width):.2f} layers, by theory: log_3 of the width",
        f"  efficient width    at least {fitted_width(depth):,.0f} for {depth:.4g} layers, fitted",
        f"  best shape         {best.depth:.1f} layers of width {best.width:,.0f} for as many parameters"
        f"{_extrapolated(best.depth)}",
        _whole_line(params, args),
    ]
    if fitted_depth(width) >= 1:
        lines.insert(4, f"  efficient depth    up to {fitted_depth(width):.1f} layers for width {width:,.0f}, fitted")
    return lines


def _best(params: float) -> Shape:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one layer for tiny networks: marked as extrapolated
        return optimal_shape(params)


def _whole_line(params: float, args: argparse.Namespace) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # as above
        shape = optimal_shape(params, round_to=(args.heads, args.multiple))
    layers = "1 layer" if shape.depth == 1 else f"{shape.depth} layers"
    return f"  in whole numbers   {layers} of width {shape.width:,}: {_count(shape.parameters)} parameters"


def _extrapolated(depth: float) -> str:
    low, high = FITTED_DEPTHS
    return "" if low <= depth <= high else f" (extrapolated: the fit covers {low} to {high} layers)"


def _count(number: float) -> str:
    """Write a number of parameters in three digits and a unit."""
    for unit, size in reversed(_UNITS.items()):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
