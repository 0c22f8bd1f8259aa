"""The sum over every hop, by solving a linear system; its gradient solves the transposed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphattn.affinity import Affinity, DenseAffinity, SparseAffinity
from graphattn.diffusion.inputs import Radius, finish, hop_factor, prepare
from graphattn.diffusion.operators import (
    refuse_double_backward,
    solve_columns,
    stored_product,
    stored_resolvent,
    stored_tensors,
)
from graphattn.diffusion.solvers import Product, Solution


def resolvent(
    A: Affinity,
    x: Tensor,
    decay: float | Tensor = 0.9,
    *,
    radius: Radius = None,
    tol: float = 1e-6,
    max_iter: int = 200,
    strict: bool = False,
) -> Tensor:
    r"""Sum features over walks of every length.

    .. math:: \mathbf{Y} = \sum_{t=0}^{\infty} (c\,\mathbf{A}/\rho)^{t}\,\mathbf{X}
        = (\mathbf{I} - c\,\mathbf{A}/\rho)^{-1}\,\mathbf{X}

    The inverse is never formed. A symmetric affinity is solved by conjugate gradients: no eigenvalue of
    :math:`c\mathbf{A}/\rho` exceeds :math:`c < 1` in size, so that the system is positive definite even where
    :math:`\mathbf{A}` is not. Others are solved by BiCGSTAB and, where that breaks down or stalls, by GMRES restarted
    every 30 products. Each column stops on its own. The solver waits for the device to ask whether it is done.

    The gradient is implicit: with the incoming gradient :math:`\mathbf{G}` it solves
    :math:`(\mathbf{I} - c\,\mathbf{A}^{\top}/\rho)\,\mathbf{U} = \mathbf{G}` to the same tolerance; then
    :math:`\partial\mathbf{X} = \mathbf{U}`, :math:`\partial A_{ij} = (c/\rho)\,\mathbf{u}_i^{\top}\mathbf{y}_j` on the
    edges, and :math:`\partial(c/\rho) = \langle\mathbf{U}, \mathbf{A}\mathbf{Y}\rangle`. Its memory does not grow with
    the number of hops. It cannot be differentiated again.

    Args:
        A: A square affinity. One that is applied and not stored gives gradients to the tensors that its functions read;
            it serves in eager mode only.
        x: Node features.
        decay: Fraction :math:`c` of the largest convergent factor, in (0, 1); one for all or one for each head.
        radius: As in :func:`neumann`. Given a number, nothing is estimated, as ``torch.compile`` needs it. The estimate
            is good to seven digits at least, so that the sum converges for every ``decay`` below 0.999999.
        tol: Largest residual of a column, relative to the column of ``x``. In float32 the rounding of the result alone
            leaves about 1e-7 / (1 - decay).
        max_iter: Products with :math:`\mathbf{A}` at most, in the forward and again in the backward; checking the
            residual takes one more.
        strict: Whether to raise instead of to warn where the tolerance is not reached.

    Shapes:
        - **input:** ``x`` :math:`(N,)`, :math:`(N, C)` or :math:`(N, H, C)`
        - **output:** that of ``A @ x``

    Returns:
        The sums, in the dtype of ``A @ x``, computed in at least float32. Nodes without edges keep their features.

    Raises:
        ValueError: If a shape or a device does not fit, or a number is out of range; or if a gradient is asked for
            through an implicit affinity that has no transpose.
        TypeError: If ``A`` is not an affinity or ``x`` not a floating-point tensor.
        RuntimeError: If ``strict`` and the solver does not converge; on double backward.

    Warns:
        ConvergenceWarning: If the solver does not converge.

    Example:
        >>> ring = Affinity.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]))
        >>> resolvent(ring, torch.ones(3), decay=0.5)
        tensor([2., 2., 2.])

    Reference:
        Katz, "A new status index derived from sociometric analysis", 1953; Roffo et al., "Infinite Feature
        Selection: A Graph-based Feature Filtering Approach", 2020.
    """
    _check_options(tol, max_iter)
    wide, start, dtype = prepare(A, x)
    b, factor = _columns(wide, start, hop_factor(A, start, decay, radius))
    options = A.symmetric, float(tol), max_iter, strict
    if isinstance(wide, (SparseAffinity, DenseAffinity)):
        y = stored_resolvent(*stored_tensors(wide, (x, factor)), b, factor, *options)
    else:
        y = _applied(wide, b, factor, *options)
    return finish(_rows(y, start), x, dtype)


def solve(
    A: Affinity,
    x: Tensor,
    decay: float | Tensor = 0.9,
    *,
    radius: Radius = None,
    tol: float = 1e-6,
    max_iter: int = 200,
    strict: bool = False,
) -> Solution:
    r"""Sum features over walks of every length, and tell how far the solver came.

    .. math:: (\mathbf{I} - c\,\mathbf{A}/\rho)\,\mathbf{Y} = \mathbf{X}

    The same numbers as :func:`resolvent`, without gradients and in eager mode only.

    Args:
        A: As in :func:`resolvent`.
        x: As in :func:`resolvent`.
        decay: As in :func:`resolvent`.
        radius: As in :func:`resolvent`.
        tol: As in :func:`resolvent`.
        max_iter: As in :func:`resolvent`.
        strict: As in :func:`resolvent`.

    Shapes:
        - **input:** ``x`` :math:`(N,)`, :math:`(N, C)` or :math:`(N, H, C)`
        - **output:** that of ``A @ x``

    Returns:
        The solution, the number of products, the largest relative residual and whether it is within ``tol``.

    Raises:
        ValueError: If a shape or a device does not fit, or a number is out of range.
        TypeError: If ``A`` is not an affinity or ``x`` not a floating-point tensor.
        RuntimeError: If ``strict`` and the solver does not converge.

    Warns:
        ConvergenceWarning: If the solver does not converge.

    Example:
        >>> star = Affinity.from_dense(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), symmetric=True)
        >>> found = solve(star, torch.ones(2), decay=0.5)
        >>> found.value, found.iterations, found.converged
        (tensor([2., 2.]), 2, True)

    Reference:
        Roffo et al., "Infinite Feature Selection", 2015.
    """
    _check_options(tol, max_iter)
    with torch.no_grad():
        wide, start, dtype = prepare(A, x)
        b, factor = _columns(wide, start, hop_factor(A, start, decay, radius))
        found = solve_columns(_any_product(wide), b, factor, A.symmetric, tol, max_iter, strict, "solve")
        return found._replace(value=finish(_rows(found.value, start), x, dtype))


def _check_options(tol: float, max_iter: int) -> None:
    if not tol > 0:
        raise ValueError(f"tol is {tol}; expected a positive number")
    if max_iter < 1:
        raise ValueError(f"max_iter is {max_iter}; expected at least 1")


# Heads first: [G, N, C], where one head serves all columns (G = 1) or every head has its own ##########################


def _columns(A: Affinity, start: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Bring the features to right-hand sides ``[G, N, C]``, and the factor of a hop to one a column ``[G, C]``."""
    heads = start.size(1) if start.dim() == 3 else 1
    factor = factor.reshape(-1, 1).expand(heads, start.size(-1)).reshape(A.num_heads, -1)
    b = start.flatten(1).unsqueeze(0) if A.num_heads == 1 else start.transpose(0, 1)
    return b.contiguous(), factor


def _rows(y: Tensor, start: Tensor) -> Tensor:
    """Undo :func:`_columns`."""
    return y.reshape(start.shape) if y.size(0) == 1 else y.transpose(0, 1)


# Affinities that are only applied #####################################################################################


def _any_product(A: Affinity) -> Product:
    return stored_product(*stored_tensors(A, ())) if isinstance(A, (SparseAffinity, DenseAffinity)) else _applier(A)


def _applier(A: Affinity) -> Product:
    return lambda x: A.matmul(x.transpose(0, 1)).transpose(0, 1).to(x.dtype)


def _applied(
    A: Affinity, b: Tensor, factor: Tensor, symmetric: bool, tol: float, max_iter: int, strict: bool
) -> Tensor:
    """Solve without autograd, then apply A once more with it: one step of the iteration at its fixed point.

    The step reads all that the functions of A read, and its gradient is theirs once the incoming one is replaced by
    the solution of the transposed system.
    """
    constant = factor.detach()
    options = symmetric, tol, max_iter, strict
    y = solve_columns(_applier(A), b.detach(), constant, *options, "resolvent").value
    if not torch.is_grad_enabled():
        return y
    step = b + factor.unsqueeze(1) * _applier(A)(y)
    if not step.requires_grad:
        return y
    product = _applier(A.T)  # raises now, and not in the backward, where there is no transpose
    return _ReplaceGradient.apply(
        step, y, lambda grad: solve_columns(product, grad, constant, *options, "the gradient of resolvent").value
    )


class _ReplaceGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Tensor, y: Tensor, solve_transposed: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve_transposed = solve_transposed
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        u = ctx.solve_transposed(grad)
        return _RefuseGradient.apply(u.requires_grad_()) if torch.is_grad_enabled() else u, None, None


class _RefuseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        return u.view_as(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        refuse_double_backward(ctx, grad)
