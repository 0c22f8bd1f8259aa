"""What every propagation rule does with its arguments: check them, widen them, and find the factor of one hop."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from graphattn.affinity import Affinity, DenseAffinity, SparseAffinity

Radius = float | Tensor | str | None


def prepare(A: Any, x: Any) -> tuple[Affinity, Tensor, torch.dtype]:
    """Check and widen both operands.

    Returns:
        The affinity and the features in the dtype to compute in, at least float32, the features in the result's shape
        (:math:`[N, C]`, or :math:`[N, H, C]` where there are heads), and the dtype that the result is to have.
    """
    if not isinstance(A, Affinity):
        raise TypeError(
            f"A is a {type(A).__name__}; expected an Affinity: make one with Affinity.from_edge_index(edge_index, "
            "weight), Affinity.from_dense(matrix) or another of its constructors"
        )
    n, m = A.shape
    if n != m:
        raise ValueError(f"A is {n} x {m}; only a square affinity can be applied more than once")
    if not isinstance(x, Tensor) or not x.is_floating_point():
        what = f"has dtype {x.dtype}" if isinstance(x, Tensor) else f"is a {type(x).__name__}"
        raise TypeError(f"x {what}; expected a floating-point Tensor")
    if x.device != A.device:
        raise ValueError(f"x is on {x.device} but A is on {A.device}; move one of them")
    heads_fit = x.dim() < 3 or A.num_heads in (1, x.size(1))
    if not 1 <= x.dim() <= 3 or x.size(0) != n or not heads_fit:
        heads = A.num_heads if A.num_heads > 1 else "H"
        raise ValueError(f"x has shape {tuple(x.shape)}; expected [{n}], [{n}, C] or [{n}, {heads}, C]")
    if 0 in x.shape[1:]:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected at least one channel and, with heads, one head")

    # Ones have the dtype of what they multiply.
    ones = isinstance(A, SparseAffinity) and A.weight is None
    dtype = x.dtype if ones else torch.promote_types(A.dtype, x.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    start = x.to(wide)
    if isinstance(A, SparseAffinity) and ones:
        A = A.with_weight(start.new_ones(A.num_edges), symmetric=A.symmetric)
    elif isinstance(A, (SparseAffinity, DenseAffinity)) and A.dtype != wide:
        A = A.to(wide)
    if x.dim() == 1:
        start = start.unsqueeze(1)
    if x.dim() < 3 and A.has_heads:
        start = start.unsqueeze(1).expand(-1, A.num_heads, -1)
    return A, start, dtype


def finish(y: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Give a result, shaped like the prepared features, the shape and dtype that the caller expects."""
    return (y.squeeze(-1) if x.dim() == 1 else y).to(dtype)


def check_fraction(name: str, value: Any, start: Tensor) -> None:
    """Raise unless ``value`` is in (0, 1): a number, or a tensor for all or one for each head."""
    _check_scalar(name, value, start, "a number in (0, 1)")
    if not _all_within(value, 0.0, 1.0):
        shown = value.tolist() if isinstance(value, Tensor) else value
        raise ValueError(f"{name} is {shown}; expected a number in (0, 1)")


def hop_factor(A: Affinity, start: Tensor, decay: float | Tensor, radius: Radius) -> Tensor:
    """Return the factor of one hop, decay / radius: a scalar, or one for each head."""
    check_fraction("decay", decay, start)
    return as_tensor(decay, start) / find_radius(A, start, radius)


def find_radius(A: Affinity, start: Tensor, radius: Radius) -> Tensor:
    """Return what the affinity is divided by, a constant: a scalar, or one for each head; 1 where the radius is 0."""
    if isinstance(radius, str) and radius != "estimate":
        raise ValueError(f"radius is {radius!r}; expected None, 'estimate', a positive number or a Tensor")
    if radius is None or isinstance(radius, str):
        with torch.no_grad():
            exact = A.symmetric or radius == "estimate"
            found = as_tensor(A.spectral_radius() if exact else A.norm_bound(), start)
            return torch.where(found == 0, torch.ones_like(found), found)
    _check_scalar("radius", radius, start, "None, 'estimate' or a positive number")
    if not _all_within(radius, 0.0, math.inf):
        shown = radius.tolist() if isinstance(radius, Tensor) else radius
        raise ValueError(f"radius is {shown}; expected a positive number")
    return as_tensor(radius, start).detach()


def as_tensor(value: float | Tensor, start: Tensor) -> Tensor:
    """Bring a number to dtype and device of the features."""
    if isinstance(value, Tensor):
        return value.to(start)
    return torch.full((), value, dtype=start.dtype, device=start.device)


def spread(factor: Tensor) -> Tensor:
    """Bring a factor for each head into the shape that multiplies features ``[N, H, C]``."""
    return factor.unsqueeze(1) if factor.dim() == 1 else factor


def _check_scalar(name: str, value: Any, start: Tensor, expected: str) -> None:
    if not isinstance(value, Tensor):
        if not isinstance(value, (int, float)):
            raise TypeError(f"{name} is a {type(value).__name__}; expected {expected}, or a Tensor of such")
        return
    heads = start.size(1) if start.dim() == 3 else None
    if value.dim() != 0 and tuple(value.shape) != (heads,):
        shapes = "a scalar" if heads is None else f"a scalar or [{heads}], one value a head"
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {shapes}")
    if value.dim() != 0 and value.device != start.device:
        raise ValueError(f"{name} is on {value.device} but x is on {start.device}; move one of them")


def _all_within(value: float | Tensor, low: float, high: float) -> bool:
    """Whether all values lie strictly between two bounds; only CPU tensors in eager mode are read."""
    if not isinstance(value, Tensor):
        return low < value < high
    if value.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    return bool(((value > low) & (value < high)).all())
