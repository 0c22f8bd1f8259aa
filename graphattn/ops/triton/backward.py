"""Gradients of fused attention: sums over rows on the CSR pattern, over columns on its transpose, without atomics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn.ops.inputs import without_autocast
from graphattn.ops.layout import slot_rows
from graphattn.ops.triton.launch import Launch, run_slots
from graphattn.ops.triton.operators import dot_scoring, ready, refuse_double_backward, scoring, wide_dtype

CHUNK_BYTES = 32 << 20  # of gradients that are written and read again: less than an L2 cache holds
_OF_DOTS = {"edge_query", "edge_units", "scale", "additive", "grad_edge_sums"}  # what pairs that are added do without


def _row_sums(edges: Tensor, rowptr: Tensor) -> Tensor:
    return torch.segment_reduce(edges, "sum", offsets=rowptr.long(), axis=0, unsafe=True)


@torch.library.custom_op("graphattn::triton_attention_backward", mutates_args=())
def triton_attention_backward(
    grad_out: Tensor | None,
    grad_edge_sums: Tensor | None,
    grad_weights: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    edge_query: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    out: Tensor,
    edge_sums: Tensor,
    normalizer: Tensor,
    weights: Tensor,
    scale: float,
    slope: float,
    dropout: float,
    edge_grad: bool,
    bias_grad: bool,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor,
    row: Tensor,
    slot: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`triton_attention` with respect to its tensors, in their order."""
    q, k, v = ready(q), ready(k), ready(v)
    heads, wide = v.size(1), wide_dtype(v)
    # Widened by the caller's cast of the values alone: narrowed, they are what they were.
    grad_out = v.new_zeros(out.shape) if grad_out is None else ready(grad_out.to(v.dtype))
    grad_edge_sums = torch.zeros_like(edge_sums) if grad_edge_sums is None else ready(grad_edge_sums)
    delta = normalizer.new_empty(normalizer.shape[:2])
    weight_sums = delta
    if grad_weights is not None:
        grad_weights = grad_weights.contiguous()
        weight_sums = _row_sums(weights.double() * grad_weights, rowptr).to(wide)
    additive, edge_width = int(vector is not None), edge_sums.size(2)
    dq, dk, dv, dquery = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), torch.empty_like(edge_sums)
    dvector = q.new_empty(q.size(0), heads, q.size(2) * additive, dtype=wide)
    dbias = q.new_empty(col.numel() if bias_grad else 0, heads, dtype=wide)
    incoming = {
        "grad_out": grad_out,
        "grad_edge_sums": grad_edge_sums,
        "grad_weights": delta if grad_weights is None else grad_weights,
        "has_grad": int(grad_weights is not None),
        "normalizer": normalizer,
        "delta": delta,
    }
    given = scoring(q, k, v, vector, edge_attr, edge_proj, edge_query, bias, seed, scale, slope, dropout) | incoming
    width = max(q.size(2), v.size(2))
    launch = Launch(rowptr, col, heads)
    part_q, part_query, part_vector = (launch.parts(q, x.size(2)) for x in (dq, dquery, dvector))
    launch.run(
        "backward_rows",
        max(width, v.size(2) + edge_width),
        v.dtype,
        **given,
        has_scores=int(bias_grad),
        out=out,
        edge_sums=edge_sums,
        weight_sums=weight_sums,
        grad_q=dq,
        grad_edge_query=dquery,
        grad_vector=dvector,
        grad_bias=dbias,
        part_q=part_q,
        part_edge_query=part_query,
        part_vector=part_vector,
    )
    launch.combine(part_q, dq)
    launch.combine(part_query, dquery)
    launch.combine(part_vector, dvector)
    launch = Launch(colptr, row, heads)
    part_k, part_v = launch.parts(k, k.size(2)), launch.parts(v, v.size(2))
    launch.run(
        "backward_columns",
        width,
        v.dtype,
        **given,
        slots=slot,
        linear=0,
        grad_k=dk,
        grad_v=dv,
        part_k=part_k,
        part_v=part_v,
    )
    launch.combine(part_k, dk)
    launch.combine(part_v, dv)
    dedge, dproj = v.new_empty(0), v.new_empty(0)
    if edge_attr is not None and edge_proj is None and edge_grad:
        dedge = torch.empty_like(edge_attr)
        Launch(rowptr, col, 1).run(
            "backward_edges",
            v.size(2) + edge_width,
            v.dtype,
            **dot_scoring(q, k, v, edge_attr, edge_query, bias, seed, scale, dropout),
            **incoming,
            value_heads=heads,
            grad_edge_attr=dedge,
        )
    if vector is not None and edge_attr is not None and edge_proj is not None:
        dedge, dproj = _pair_gradients(given, edge_attr, edge_proj, edge_grad, width, rowptr, col)
    return dq, dk, dv, dvector.sum(dim=0), dedge, dproj, dquery, dbias


def _pair_gradients(
    given: dict[str, Any],
    edge_attr: Tensor,
    edge_proj: Tensor,
    edge_grad: bool,
    channels: int,
    rowptr: Tensor,
    col: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of the edges' features and of their projection in additive scores.

    Both are products with the gradients of W e, which have a value for every edge, head and channel. So those are made
    for some edges at a time, and multiplied while they are in the cache.
    """
    num_edges, heads, wide = col.numel(), edge_proj.size(1), wide_dtype(given["v"])
    proj = edge_proj.flatten(1).to(wide)
    step = max(1, CHUNK_BYTES // (proj.size(1) * wide.itemsize))
    dedge = edge_attr.new_empty(edge_attr.shape if edge_grad else 0)
    dproj = torch.zeros_like(proj)
    grad_pairs = proj.new_empty(min(step, num_edges), proj.size(1))
    rows = slot_rows(rowptr, num_edges)
    with without_autocast(col.device):
        for first in range(0, num_edges, step):
            stop = min(first + step, num_edges)
            some = grad_pairs[: stop - first]
            run_slots(
                "backward_pairs",
                stop - first,
                heads,
                channels,
                given["v"].dtype,
                **{name: x for name, x in given.items() if name not in _OF_DOTS},
                rows=rows,
                index=col,
                first=first,
                stop=stop,
                grad_pairs=some,
            )
            dproj.addmm_(edge_attr[first:stop].to(wide).mT, some)
            if edge_grad:
                dedge[first:stop] = some @ proj.mT
    return dedge, dproj.view_as(edge_proj).to(edge_proj.dtype)


@triton_attention_backward.register_fake
def _(grad_out, grad_edge_sums, grad_weights, q, k, v, vector, edge_attr, edge_proj, edge_query, *rest):  # type: ignore[no-untyped-def]
    _, _, _, edge_sums, normalizer, *_, edge_grad, bias_grad, _, col, _, _, _ = rest
    dvector = normalizer.new_empty(v.size(1), 0 if vector is None else q.size(2))
    dbias = normalizer.new_empty(col.size(0) if bias_grad else 0, v.size(1))
    dproj = v.new_empty(0 if edge_proj is None else edge_proj.shape)
    dedge = v.new_empty(edge_attr.shape if edge_attr is not None and edge_grad else 0)
    return *(torch.empty_like(x) for x in (q, k, v)), dvector, dedge, dproj, torch.empty_like(edge_sums), dbias


triton_attention_backward.register_autograd(refuse_double_backward)
