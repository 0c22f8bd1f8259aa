"""The resolvent of a stored affinity as one operator that torch.compile does not look into, and its gradient.

Columns are heads first, ``[G, N, C]``: one head serves all of them (G = 1), or every head has its own. Weights are
``[G, E]`` in slot order on a CSR pattern (see :mod:`graphattn.ops.layout`), or a matrix ``[G, N, N]`` without one.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from graphattn import ops
from graphattn.affinity import DenseAffinity, SparseAffinity
from graphattn.diffusion.solvers import Product, Solution, System, solve_system
from graphattn.ops import Layout
from graphattn.ops.inputs import without_autocast
from graphattn.ops.layout import csc_layout, slot_rows

Stored = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def stored_tensors(A: SparseAffinity | DenseAffinity, differentiated: tuple[Tensor, ...]) -> Stored:
    """The weights, heads first, and the pattern they stand on: CSR, and its transpose where a gradient will need it."""
    if isinstance(A, DenseAffinity):
        return A.matrix.reshape(A.num_heads, *A.shape), None, None, None, None, None
    weights = A.weights()
    values = A.layout.to_slots(weights if A.has_heads else weights.unsqueeze(1))
    rowptr, col, _ = A.layout.csr()
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (weights, *differentiated))
    csc = A.layout.csc() if needs_gradient and not A.symmetric else (None, None, None)
    return values, rowptr, col, *csc


def _layout(rowptr: Tensor, col: Tensor) -> Layout:
    size = rowptr.numel() - 1
    edge_index = torch.stack([col.long(), slot_rows(rowptr, col.numel())])
    return Layout(edge_index, size, size, (rowptr, col, None))


def stored_product(values: Tensor, rowptr: Tensor | None, col: Tensor | None, *transpose: Tensor | None) -> Product:
    """Return the product of a stored affinity with columns ``[G, N, C]``; the transposed pattern is not needed."""
    if rowptr is None or col is None:
        return partial(torch.bmm, values)
    layout, weights = _layout(rowptr, col), values.t()
    return lambda x: ops.spmm(weights, x.transpose(0, 1), layout).transpose(0, 1)


def _transposed_product(
    values: Tensor,
    rowptr: Tensor | None,
    col: Tensor | None,
    colptr: Tensor | None,
    row: Tensor | None,
    slot: Tensor | None,
    symmetric: bool,
) -> Product:
    if rowptr is None or col is None:
        return partial(torch.bmm, values.transpose(1, 2))
    if symmetric:
        return stored_product(values, rowptr, col)
    if colptr is None or row is None or slot is None:
        colptr, row, slot = csc_layout(rowptr, col, rowptr.numel() - 1)
    return stored_product(values.index_select(1, slot), colptr, row)


def solve_columns(
    product: Product, b: Tensor, factor: Tensor, symmetric: bool, tol: float, max_iter: int, strict: bool, name: str
) -> Solution:
    with torch.no_grad(), without_autocast(b.device):
        system = System(product, factor.unsqueeze(1))
        return solve_system(system, b, symmetric=symmetric, tol=tol, max_iter=max_iter, strict=strict, name=name)


# Stored affinities: one operator that torch.compile does not look into ################################################


@torch.library.custom_op("graphattn_diffusion::resolvent", mutates_args=())
def stored_resolvent(
    values: Tensor,
    rowptr: Tensor | None,
    col: Tensor | None,
    colptr: Tensor | None,
    row: Tensor | None,
    slot: Tensor | None,
    b: Tensor,
    factor: Tensor,
    symmetric: bool,
    tol: float,
    max_iter: int,
    strict: bool,
) -> Tensor:
    product = stored_product(values.detach(), rowptr, col)
    return solve_columns(product, b.detach(), factor.detach(), symmetric, tol, max_iter, strict, "resolvent").value


@stored_resolvent.register_fake
def _(values, rowptr, col, colptr, row, slot, b, factor, symmetric, tol, max_iter, strict):  # type: ignore[no-untyped-def]
    return b.new_empty(b.shape)


@torch.library.custom_op("graphattn_diffusion::resolvent_backward", mutates_args=())
def _resolvent_backward(
    values: Tensor,
    rowptr: Tensor | None,
    col: Tensor | None,
    colptr: Tensor | None,
    row: Tensor | None,
    slot: Tensor | None,
    grad: Tensor,
    y: Tensor,
    factor: Tensor,
    symmetric: bool,
    tol: float,
    max_iter: int,
    strict: bool,
    values_grad: bool,
    factor_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to the weights, the right-hand sides and the factors; empty unless asked for."""
    with torch.no_grad(), without_autocast(y.device):
        product = _transposed_product(values, rowptr, col, colptr, row, slot, symmetric)
        u = solve_columns(product, grad, factor, symmetric, tol, max_iter, strict, "the gradient of resolvent").value
        dvalues, dfactor = values.new_empty(0), factor.new_empty(0)
        if values_grad:
            scaled = u * factor.unsqueeze(1)
            if rowptr is None or col is None:
                dvalues = torch.bmm(scaled, y.transpose(1, 2))
            else:
                edges = ops.sddmm(scaled.transpose(0, 1), y.transpose(0, 1), _layout(rowptr, col))
                dvalues = edges.t().contiguous()
        if factor_grad:
            dfactor = (u * stored_product(values, rowptr, col)(y)).sum(dim=1)
        return dvalues, u, dfactor


@_resolvent_backward.register_fake
def _(  # type: ignore[no-untyped-def]
    values, rowptr, col, colptr, row, slot, grad, y, factor, symmetric, tol, max_iter, strict, values_grad, factor_grad
):
    dvalues = values.new_empty(values.shape if values_grad else 0)
    return dvalues, grad.new_empty(grad.shape), factor.new_empty(factor.shape if factor_grad else 0)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    values, rowptr, col, colptr, row, slot, _, factor, *ctx.options = inputs
    ctx.save_for_backward(values, rowptr, col, colptr, row, slot, output, factor)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    values, rowptr, col, colptr, row, slot, y, factor = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dvalues, db, dfactor = _resolvent_backward(
        values, rowptr, col, colptr, row, slot, grad.contiguous(), y, factor, *ctx.options, needs[0], needs[7]
    )
    return dvalues if needs[0] else None, *[None] * 5, db, dfactor if needs[7] else None, *[None] * 4


def refuse_double_backward(ctx, *grads):  # type: ignore[no-untyped-def]
    raise RuntimeError(
        "resolvent has no double backward; neumann(A, x, decay, hops) over a dense affinity can be differentiated twice"
    )


stored_resolvent.register_autograd(_backward, setup_context=_setup)
_resolvent_backward.register_autograd(refuse_double_backward)
