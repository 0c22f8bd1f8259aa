"""Sampled products and weighted sums as operators, each the gradient of the other: hops along stored weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn.ops.layout import known_csc
from graphattn.ops.triton.launch import MAX_PROGRAMS, Launch
from graphattn.ops.triton.operators import UNIT, ready, refuse_double_backward, scoring, wide_dtype


@torch.library.custom_op("graphattn::triton_sddmm", mutates_args=())
def triton_sddmm(
    a: Tensor, b: Tensor, rowptr: Tensor, col: Tensor, colptr: Tensor | None, row: Tensor | None, slot: Tensor | None
) -> Tensor:
    """Dot products ``a[row, h] . b[col, h]`` of every slot; ``b`` may have one head for all."""
    a, b = ready(a), ready(b)
    out = a.new_empty(col.numel(), a.size(1), dtype=wide_dtype(a))
    Launch(rowptr, col, a.size(1)).run(
        "products", a.size(2), a.dtype, q=a, k=b, scores=out, key_heads=b.size(1), key_units=a.size(2) // UNIT
    )
    return out


@triton_sddmm.register_fake
def _(a, b, rowptr, col, colptr, row, slot):  # type: ignore[no-untyped-def]
    return a.new_empty(col.size(0), a.size(1), dtype=wide_dtype(a))


@torch.library.custom_op("graphattn::triton_spmm", mutates_args=())
def triton_spmm(
    weights: Tensor,
    x: Tensor,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    slot: Tensor | None,
) -> Tensor:
    """Weighted sums ``sum_col weights[slot, h] * x[col, h]`` of every row; ``x`` may have one head for all."""
    x = ready(x)
    launch = Launch(rowptr, col, weights.size(1))
    out = x.new_empty(rowptr.numel() - 1, launch.heads, x.size(2), dtype=wide_dtype(x))
    unused = torch.empty_like(out[..., :2])
    part_out, part_normalizer = launch.parts(x, x.size(2)), launch.parts(x, 2)
    launch.run(
        "forward",
        x.size(2),
        x.dtype,
        **_linear(x, weights),
        value_heads=x.size(1),
        has_scores=0,
        out=out,
        edge_sums=unused,
        normalizer=unused,
        scores=unused,
        part_out=part_out,
        part_edge_sums=part_out,
        part_normalizer=part_normalizer,
    )
    launch.combine(part_out, out)
    return out.to(x.dtype)


@triton_spmm.register_fake
def _(weights, x, rowptr, col, colptr, row, slot):  # type: ignore[no-untyped-def]
    return x.new_empty(rowptr.size(0) - 1, weights.size(1), x.size(2))


@torch.library.custom_op("graphattn::triton_spmm_transposed", mutates_args=())
def triton_spmm_transposed(
    weights: Tensor, x: Tensor, colptr: Tensor, row: Tensor, slot: Tensor, sum_heads: bool
) -> Tensor:
    """Weighted sums over the transposed pattern, ``sum_row weights[slot, h] * x[row, h]``, one head or their sum."""
    x, heads = ready(x), x.size(1)
    if sum_heads:
        # Every head of a row is a row of its own, so that one head of the pattern sums them all.
        fits = max(x.size(0), row.numel()) * heads < MAX_PROGRAMS
        colptr, row = (at if fits else at.long() for at in (colptr, row))
        head = torch.arange(heads, device=row.device, dtype=row.dtype)
        row, slot = ((at.unsqueeze(1) * heads + head).flatten() for at in (row, slot))
        colptr, heads = colptr * heads, 1
    launch = Launch(colptr, row, heads)
    out = x.new_empty(colptr.numel() - 1, heads, x.size(2))
    part_k, part_v = launch.parts(x, 0), launch.parts(x, x.size(2))
    launch.run(
        "backward_columns",
        x.size(2),
        x.dtype,
        **_linear(x, weights),
        slots=slot,
        has_grad=0,
        grad_out=x,
        grad_edge_sums=weights,
        grad_weights=weights,
        normalizer=weights,
        delta=weights,
        grad_k=x,
        grad_v=out,
        part_k=part_k,
        part_v=part_v,
    )
    launch.combine(part_v, out)
    return out


@triton_spmm_transposed.register_fake
def _(weights, x, colptr, row, slot, sum_heads):  # type: ignore[no-untyped-def]
    return x.new_empty(colptr.size(0) - 1, 1 if sum_heads else x.size(1), x.size(2))


def _linear(x: Tensor, weights: Tensor) -> dict[str, Any]:
    """Arguments of a kernel whose weights are given: there is no score, and the bias is the weight."""
    return {**scoring(x, x, x, bias=weights), "key_units": 0, "linear": 1}


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _sddmm_backward(ctx, grad):  # type: ignore[no-untyped-def]
    a, b, rowptr, col, *csc = ctx.saved_tensors
    da = db = None
    if ctx.needs_input_grad[0]:
        da = triton_spmm(grad, b, rowptr, col, *csc)
    if ctx.needs_input_grad[1]:
        transpose = known_csc(rowptr, col, csc, b.size(0))
        db = triton_spmm_transposed(grad, a, *transpose, b.size(1) == 1 < a.size(1))
    return da, db, None, None, None, None, None


def _spmm_backward(ctx, grad):  # type: ignore[no-untyped-def]
    weights, x, rowptr, col, *csc = ctx.saved_tensors
    dweights = dx = None
    if ctx.needs_input_grad[0]:
        dweights = triton_sddmm(grad, x, rowptr, col, *csc)
    if ctx.needs_input_grad[1]:
        transpose = known_csc(rowptr, col, csc, x.size(0))
        dx = triton_spmm_transposed(weights, grad, *transpose, x.size(1) == 1 < weights.size(1))
    return dweights, dx, None, None, None, None, None


triton_sddmm.register_autograd(_sddmm_backward, setup_context=_save)
triton_spmm.register_autograd(_spmm_backward, setup_context=_save)
triton_spmm_transposed.register_autograd(refuse_double_backward)
