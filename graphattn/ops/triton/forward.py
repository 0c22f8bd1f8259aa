"""Fused attention as an operator with gradients: online softmax, scored anew by the backward."""

from __future__ import annotations

import torch
from torch import Tensor

from graphattn.ops.layout import known_csc, slot_rows
from graphattn.ops.triton.backward import triton_attention_backward
from graphattn.ops.triton.launch import Launch
from graphattn.ops.triton.operators import UNIT, boost_of, no_seed, ready, wide_dtype


@torch.library.custom_op("graphattn::triton_attention", mutates_args=())
def triton_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
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
    """Attended values, maxima and sums of the rows and, if asked for, weights before dropout and what dropout did."""
    q, k, v = ready(q), ready(k), ready(v)
    heads, wide = v.size(1), wide_dtype(v)
    launch = Launch(rowptr, col, heads)
    out = v.new_empty(q.size(0), heads, v.size(2))
    normalizer = v.new_empty(q.size(0), heads, 2, dtype=wide)
    edges = v.new_empty(col.numel() if with_weights else 0, heads, dtype=wide)
    kept = torch.empty_like(edges) if seed is not None else edges.new_empty(0, heads)
    part_out, part_normalizer = launch.parts(v, v.size(2)), launch.parts(v, 2)
    launch.run(
        "forward",
        q,
        k,
        v,
        normalizer if vector is None else ready(vector),
        v if edge_attr is None else edge_attr.contiguous(),
        v if edge_proj is None else ready(edge_proj),
        normalizer if bias is None else bias.contiguous(),
        no_seed(v) if seed is None else seed,
        out,
        normalizer,
        edges,
        kept,
        part_out,
        part_normalizer,
        rowptr,
        col,
        channels=max(q.size(2), v.size(2)),
        dtype=v.dtype,
        value_heads=heads,
        key_units=q.size(2) // UNIT,
        value_units=v.size(2) // UNIT,
        edge_dim=0 if edge_attr is None else edge_attr.size(1),
        scale=scale,
        slope=slope,
        dropout=dropout,
        boost=boost_of(dropout),
        additive=int(vector is not None),
        linear=0,
        has_bias=int(bias is not None),
        has_dropout=int(seed is not None),
        has_scores=int(with_weights),
    )
    launch.combine(part_out, out, part_normalizer, normalizer)
    if with_weights:
        rows = slot_rows(rowptr, col.numel())
        top, total = normalizer.index_select(0, rows).unbind(2)
        edges.sub_(top).exp_().div_(total)
    return out, normalizer, edges, kept


@triton_attention.register_fake
def _(q, k, v, vector, edge_attr, edge_proj, bias, seed, scale, slope, dropout, with_weights, rowptr, col, *csc):  # type: ignore[no-untyped-def]
    heads, wide = v.size(1), wide_dtype(v)
    edges = v.new_empty(col.size(0) if with_weights else 0, heads, dtype=wide)
    kept = torch.empty_like(edges) if seed is not None else edges.new_empty(0, heads)
    return v.new_empty(q.size(0), heads, v.size(2)), v.new_empty(q.size(0), heads, 2, dtype=wide), edges, kept


def _attention_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.scale, ctx.slope, ctx.dropout, _, rowptr, col, colptr, row, slot = inputs
    out, normalizer, weights, kept = output
    ctx.mark_non_differentiable(normalizer, kept)
    ctx.save_for_backward(*tensors, out, normalizer, weights, rowptr, col, colptr, row, slot)
    # An unused output then arrives as None instead of as an E x H tensor of zeros.
    ctx.set_materialize_grads(False)


def _attention_autograd(ctx, grad_out, grad_normalizer, grad_weights, grad_kept):  # type: ignore[no-untyped-def]
    q, k, v, vector, edge_attr, edge_proj, bias, seed, out, normalizer, weights, rowptr, col, *csc = ctx.saved_tensors
    dq, dk, dv, dvector, dedge, dproj, dbias = triton_attention_backward(
        grad_out,
        grad_weights,
        q,
        k,
        v,
        vector,
        edge_attr,
        edge_proj,
        bias,
        seed,
        out,
        normalizer,
        weights,
        ctx.scale,
        ctx.slope,
        ctx.dropout,
        ctx.needs_input_grad[6],
        rowptr,
        col,
        *known_csc(rowptr, col, csc, k.size(0)),
    )
    dvector = None if vector is None else dvector.to(vector.dtype)
    if edge_attr is None:
        dedge = dproj = None
    return dq, dk, dv, dvector, dedge, dproj, dbias if ctx.needs_input_grad[6] else None, *[None] * 10


triton_attention.register_autograd(_attention_autograd, setup_context=_attention_setup)
