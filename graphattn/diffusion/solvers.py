"""Krylov solvers for (I - F A) X = B that never form a matrix: all columns at once, each with scalars of its own.

Right-hand sides are heads first, ``[G, N, C]``, contiguous. Whatever is one number a column has shape ``[G, 1, C]`` and
is kept in float64. A column that has converged, or cannot go on, gets steps of length 0 from then on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

_CYCLE = 30  # directions of GMRES between two restarts
_BASIS_BYTES = 1 << 28  # what they may occupy: columns beyond it wait for their turn
_STALLED = 20  # BiCGSTAB steps without a better residual after which it is given up


class ConvergenceWarning(UserWarning):
    """Tell that a solver stopped before it reached its tolerance.

    Example:
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", ConvergenceWarning)
        ...     # what is solved here need not converge
    """


class Solution(NamedTuple):
    """What a solver found and how far it came.

    Example:
        >>> Solution(torch.zeros(2), iterations=3, residual=0.0, converged=True).iterations
        3
    """

    value: Tensor
    """The solution."""
    iterations: int
    """Products with the affinity, those that check the residual included."""
    residual: float
    """The largest relative residual of a column, computed from the solution itself."""
    converged: bool
    """Whether it is within the tolerance."""


@dataclass(frozen=True)
class System:
    """The matrix I - F A: A as a product, F as one factor a column ``[G, 1, C]``."""

    product: Product
    factor: Tensor

    def apply(self, x: Tensor, out: Tensor) -> Tensor:
        return torch.addcmul(x, self.product(x), self.factor, value=-1, out=out)

    def columns(self, index: Tensor) -> System:
        return System(self.product, self.factor.index_select(2, index))


@dataclass
class _State:
    """What a method improves in place, the solution and its residual; the norm that the residual has and is to have."""

    x: Tensor
    r: Tensor
    size: Tensor
    target: Tensor


def solve_system(
    system: System, b: Tensor, *, symmetric: bool, tol: float, max_iter: int, strict: bool, name: str
) -> Solution:
    """Solve for every column, and warn or raise where that fails.

    Args:
        system: What to invert.
        b: Right-hand sides, not changed.
        symmetric: Whether the matrix is symmetric and positive definite: conjugate gradients, else BiCGSTAB and, where
            that breaks down or stalls, GMRES.
        tol: Largest residual of a column relative to its right-hand side.
        max_iter: Products at most, without those that check the residual.
        strict: Whether to raise instead of to warn.
        name: What the message calls the system.
    """
    if b.numel() == 0:
        return Solution(b.clone(), 0, 0.0, True)
    b, scale, length = _balanced(b)
    state = _State(torch.zeros_like(b), b.clone(), length, tol * length)
    used, ratio = 0, (length != 0).double()
    for method in (_cg,) if symmetric else (_bicgstab, _gmres):
        before = torch.inf
        while used < max_iter and not bool((ratio <= tol).all()):
            _forget(state, b, length, ratio)
            used += 1 + method(system, state, max_iter - used)
            # What the recurrences call the residual drifts away from it.
            torch.sub(b, system.apply(state.x, out=state.r), out=state.r)
            state.size = _norm(state.r)
            ratio = torch.where(length == 0, 0.0, state.size / length)
            worst = ratio.max().item()
            if not worst < 0.99 * before:  # rounding sets a floor that more steps do not get below
                break
            before = worst
    residual = ratio.max().item()
    found = Solution(state.x if scale is None else state.x.mul_(scale), used, residual, residual <= tol)
    if not found.converged:
        _complain(found, tol, max_iter, strict, name)
    return found


def _balanced(b: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Scale columns if the squares of any would under- or overflow; also return the scale and their norms."""
    length = _norm(b)
    limits = torch.finfo(b.dtype)
    if bool(((length > limits.tiny**0.25) & (length < limits.max**0.25)).all()):
        return b, None, length
    scale = b.abs().amax(dim=1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    b = b / scale
    return b, scale, _norm(b)


def _forget(state: _State, b: Tensor, length: Tensor, ratio: Tensor) -> None:
    """Start over where the guess is worse than none: a large one would only cost digits."""
    worse = ratio > 1
    if bool(worse.any()):
        state.x.masked_fill_(worse, 0.0)
        torch.where(worse, b, state.r, out=state.r)
        state.size = torch.where(worse, length, state.size)


def _complain(found: Solution, tol: float, max_iter: int, strict: bool, name: str) -> None:
    if found.iterations >= max_iter:
        advice = "raise max_iter, lower decay or loosen tol"
    else:
        wider = "" if found.value.dtype == torch.float64 else "pass float64, "
        advice = f"more products do not help: {wider}lower decay, loosen tol, or correct a radius that is too small"
    message = (
        f"{name} did not converge: the relative residual is {found.residual:.1e} after {found.iterations} products, "
        f"above tol={tol:.1e}; {advice}"
    )
    if strict:
        raise RuntimeError(message)
    warnings.warn(message, ConvergenceWarning, stacklevel=5)


def _dot(a: Tensor, b: Tensor, work: Tensor | None = None) -> Tensor:
    # torch adds pairwise, which is exact enough in float32; the few numbers derived from it are kept in float64.
    return torch.mul(a, b, out=work).sum(dim=1, keepdim=True).double()


def _norm(x: Tensor, work: Tensor | None = None) -> Tensor:
    return _dot(x, x, work).sqrt()


def _add(x: Tensor, step: Tensor, direction: Tensor) -> None:
    x.addcmul_(direction, step.to(x.dtype))


def _divide(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """Divide the columns where it says so; 0 elsewhere."""
    return torch.where(where, a / torch.where(where, b, 1.0), 0.0)


def _any(active: Tensor, step: int) -> bool:
    # Reading one bool waits for an accelerator; a few idle steps of converged columns are cheaper than that.
    return (active.device.type != "cpu" and step % 4 != 0) or bool(active.any())


def _cg(system: System, state: _State, limit: int) -> int:
    """Conjugate gradients; return the number of products."""
    x, r, target = state.x, state.r, state.target
    p, q, work = r.clone(), torch.empty_like(r), torch.empty_like(r)
    square = state.size**2
    active = state.size > target
    step = 0
    while step < limit and _any(active, step):
        system.apply(p, out=q)
        curvature = _dot(p, q, work)
        active = active & (curvature > 0)
        alpha = _divide(square, curvature, active)
        _add(x, alpha, p)
        _add(r, -alpha, q)
        after = _dot(r, r, work)
        active = active & (after > target**2)
        p.mul_(_divide(after, square, active).to(p.dtype)).add_(r)
        square = after
        step += 1
    return step


def _bicgstab(system: System, state: _State, limit: int) -> int:
    """Stabilized biconjugate gradients, two products a step; a column that breaks down or stalls is left as it is."""
    x, r, target, size = state.x, state.r, state.target, state.size
    shadow, p = r.clone(), r.clone()
    v, t, work = (torch.empty_like(r) for _ in range(3))
    rho, shadow_size, best, since = size**2, size, size, torch.zeros_like(size)
    eps = torch.finfo(r.dtype).eps
    active = size > target
    step = 0
    while 2 * step + 2 <= limit and _any(active, step):
        system.apply(p, out=v)
        slope = _dot(shadow, v, work)
        active = active & (slope != 0)
        alpha = _divide(rho, slope, active)
        _add(x, alpha, p)
        _add(r, -alpha, v)
        system.apply(r, out=t)
        square = _dot(t, t, work)
        omega = _divide(_dot(t, r, work), square, active & (square > 0))
        _add(x, omega, r)
        _add(r, -omega, t)
        size, after = _norm(r, work), _dot(shadow, r, work)
        since = torch.where(size < 0.9 * best, 0.0, since + 1)
        best = torch.minimum(size, best)
        broken = (after.abs() <= eps * shadow_size * size) | (omega == 0) | (since >= _STALLED)
        active = active & (size > target) & ~broken
        _add(p, -omega, v)
        p.mul_(_divide(after * alpha, rho * omega, active).to(p.dtype)).add_(r)
        rho = after
        step += 1
    return 2 * step


def _gmres(system: System, state: _State, limit: int) -> int:
    """One cycle of GMRES for the columns that have not converged, as many at a time as memory is granted to."""
    wanted = (~(state.size <= state.target)).any(dim=0).squeeze(0).nonzero().squeeze(1)
    basis = (_CYCLE + 1) * state.x.size(0) * state.x.size(1) * state.x.element_size()
    steps = 0
    for some in wanted.split(max(1, _BASIS_BYTES // basis)):
        x, r, size, target = (z.index_select(2, some) for z in (state.x, state.r, state.size, state.target))
        part = _State(x, r, size, target)
        steps = max(steps, _gmres_cycle(system.columns(some), part, min(limit, _CYCLE)))
        state.x.index_copy_(2, some, x)
    return steps


def _gmres_cycle(system: System, state: _State, limit: int) -> int:
    """Minimize the residual over the first powers of the system; Givens rotations keep the small problem triangular."""
    size = state.size
    work = torch.empty_like(state.r)
    basis = [state.r * _divide(torch.ones_like(size), size, size > 0).to(work.dtype)]
    rotations: list[tuple[Tensor, Tensor]] = []
    triangle: list[list[Tensor]] = []
    rest = [size]
    while len(triangle) < limit and _any(rest[-1].abs() > state.target, len(triangle)):
        w = system.apply(basis[-1], out=torch.empty_like(work))
        column = []
        for v in basis:
            column.append(_dot(v, w, work))
            _add(w, -column[-1], v)
        length = _norm(w, work)
        basis.append(w.mul_(_divide(torch.ones_like(length), length, length > 0).to(w.dtype)))
        for i, (cos, sin) in enumerate(rotations):
            column[i], column[i + 1] = cos * column[i] + sin * column[i + 1], cos * column[i + 1] - sin * column[i]
        corner = torch.hypot(column[-1], length)
        cos, sin = _divide(column[-1], corner, corner > 0), _divide(length, corner, corner > 0)
        rotations.append((cos, sin))
        triangle.append([*column[:-1], corner])
        rest[-1:] = [cos * rest[-1], -sin * rest[-1]]
    weights: list[Tensor] = []
    for i in reversed(range(len(triangle))):
        above = rest[i]
        for column, weight in zip(reversed(triangle), weights, strict=False):
            above = above - column[i] * weight
        weights.append(_divide(above, triangle[i][i], triangle[i][i] > 0))
    for weight, v in zip(reversed(weights), basis, strict=False):
        _add(state.x, weight, v)
    return len(triangle)
