"""Fused attention as an operator with gradients: online softmax, scored anew by the backward."""

from __future__ import annotations

import torch
from torch import Tensor

from graphattn.ops.layout import known_csc, slot_rows
from graphattn.ops.triton.backward import triton_attention_backward
from graphattn.ops.triton.launch import Launch
from graphattn.ops.triton.operators import ready, scoring, wide_dtype


@torch.library.custom_op("graphattn::triton_attention", mutates_args=())
def triton_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    edge_query: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    scale: float,
    slope: float,
    dropout: float,
    with_weights: bool,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    slot: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attended values, attended edge features, maxima and sums of the rows and, if asked for, weights before dropout.

    Edges are projected by ``edge_proj`` inside an additive score, or scored as they are by ``edge_query``, one of each
    row and head, and then attended like values.
    """
    q, k, v = ready(q), ready(k), ready(v)
    launch = Launch(rowptr, col, v.size(1))
    rows, wide = (q.size(0), launch.heads), wide_dtype(v)
    edge_width = 0 if edge_query is None else edge_query.size(2)
    out = v.new_empty(*rows, v.size(2), dtype=wide)
    edge_sums = v.new_empty(*rows, edge_width, dtype=wide)
    normalizer = v.new_empty(*rows, 2, dtype=wide)
    weights = v.new_empty(col.numel() if with_weights else 0, launch.heads, dtype=wide)
    part_out, part_edge_sums, part_normalizer = (launch.parts(v, width) for width in (v.size(2), edge_width, 2))
    launch.run(
        "forward",
        max(q.size(2), v.size(2) + edge_width),
        v.dtype,
        **scoring(q, k, v, vector, edge_attr, edge_proj, edge_query, bias, seed, scale, slope, dropout),
        value_heads=launch.heads,
        linear=0,
        has_scores=int(with_weights),
        out=out,
        edge_sums=edge_sums,
        normalizer=normalizer,
        scores=weights,
        part_out=part_out,
        part_edge_sums=part_edge_sums,
        part_normalizer=part_normalizer,
    )
    launch.combine(part_out, out, part_normalizer, normalizer)
    if edge_width:
        launch.combine(part_edge_sums, edge_sums, part_normalizer, normalizer)
    if with_weights:
        top, total = normalizer.index_select(0, slot_rows(rowptr, col.numel())).unbind(2)
        weights.sub_(top).exp_().div_(total)
    return out, edge_sums, normalizer, weights


@triton_attention.register_fake
def _(q, k, v, vector, edge_attr, edge_proj, edge_query, bias, seed, scale, slope, dropout, with_weights, *pattern):  # type: ignore[no-untyped-def]
    rows, wide = (q.size(0), v.size(1)), wide_dtype(v)
    weights = v.new_empty(pattern[1].size(0) if with_weights else 0, v.size(1), dtype=wide)
    edge_sums = v.new_empty(*rows, 0 if edge_query is None else edge_query.size(2), dtype=wide)
    out, normalizer = v.new_empty(*rows, v.size(2), dtype=wide), v.new_empty(*rows, 2, dtype=wide)
    return out, edge_sums, normalizer, weights


def _attention_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.scale, ctx.slope, ctx.dropout, _, rowptr, col, colptr, row, slot = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, *output, rowptr, col, colptr, row, slot)
    # An unused output then arrives as None instead of as an E x H tensor of zeros.
    ctx.set_materialize_grads(False)


def _attention_autograd(ctx, grad_out, grad_edge_sums, grad_normalizer, grad_weights):  # type: ignore[no-untyped-def]
    *given, rowptr, col, colptr, row, slot = ctx.saved_tensors
    _, k, _, vector, _, edge_proj, edge_query, *_ = given
    to_edges, to_bias = ctx.needs_input_grad[4], ctx.needs_input_grad[7]
    dq, dk, dv, dvector, dedge, dproj, dquery, dbias = triton_attention_backward(
        grad_out,
        grad_edge_sums,
        grad_weights,
        *given,
        ctx.scale,
        ctx.slope,
        ctx.dropout,
        to_edges,
        to_bias,
        rowptr,
        col,
        *known_csc(rowptr, col, (colptr, row, slot), k.size(0)),
    )
    dvector = None if vector is None else dvector.to(vector.dtype)
    optional = [
        dvector,
        dedge if to_edges else None,
        None if edge_proj is None else dproj,
        None if edge_query is None else dquery.to(edge_query.dtype),
        dbias if to_bias else None,
    ]
    return dq, dk, dv, *optional, *[None] * 10


triton_attention.register_autograd(_attention_autograd, setup_context=_attention_setup)
