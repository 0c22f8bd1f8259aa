"""Gradients of fused attention: sums over rows on the CSR pattern, over columns on its transpose, without atomics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn.ops.layout import slot_rows
from graphattn.ops.triton.launch import Launch
from graphattn.ops.triton.operators import UNIT, boost_of, no_seed, ready, refuse_double_backward, wide_dtype

_BLOCK_BYTES = 64 << 20  # of each array of edges by channels that the gradients of edge features pass through


def _row_sums(edges: Tensor, rowptr: Tensor) -> Tensor:
    return torch.segment_reduce(edges, "sum", offsets=rowptr.long(), axis=0, unsafe=True)


@torch.library.custom_op("graphattn::triton_attention_backward", mutates_args=())
def triton_attention_backward(
    grad_out: Tensor | None,
    grad_weights: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    out: Tensor,
    normalizer: Tensor,
    weights: Tensor,
    scale: float,
    slope: float,
    dropout: float,
    bias_grad: bool,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor,
    row: Tensor,
    slot: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`triton_attention` with respect to q, k, v, the vector, the edges and the bias."""
    q, k, v = ready(q), ready(k), ready(v)
    heads, wide = v.size(1), wide_dtype(v)
    grad_out = torch.zeros_like(out) if grad_out is None else ready(grad_out)
    delta = (grad_out.to(wide) * out).sum(dim=2)
    if grad_weights is not None:
        grad_weights = grad_weights.contiguous()
        delta += _row_sums(weights * grad_weights, rowptr)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    additive = int(vector is not None)
    dvector = q.new_empty(q.size(0), heads, q.size(2) * additive, dtype=wide)
    to_scores = bias_grad or edge_attr is not None
    dscores = q.new_empty(col.numel() if to_scores else 0, heads, dtype=wide)
    given = (
        q,
        k,
        v,
        normalizer if vector is None else ready(vector),
        v if edge_attr is None else edge_attr.contiguous(),
        v if edge_proj is None else ready(edge_proj),
        normalizer if bias is None else bias.contiguous(),
        no_seed(v) if seed is None else seed,
        grad_out,
        delta if grad_weights is None else grad_weights,
        normalizer,
        delta,
    )
    options: dict[str, Any] = {
        "channels": max(q.size(2), v.size(2)),
        "dtype": v.dtype,
        "key_units": q.size(2) // UNIT,
        "value_units": v.size(2) // UNIT,
        "edge_dim": 0 if edge_attr is None else edge_attr.size(1),
        "scale": scale,
        "slope": slope,
        "dropout": dropout,
        "boost": boost_of(dropout),
        "additive": additive,
        "has_bias": int(bias is not None),
        "has_grad": int(grad_weights is not None),
        "has_dropout": int(seed is not None),
    }
    launch = Launch(rowptr, col, heads)
    part_q, part_vector = launch.parts(q, q.size(2)), launch.parts(q, q.size(2) * additive)
    results = dq, dvector, dscores, part_q, part_vector
    launch.run("backward_rows", *given, *results, rowptr, col, **options, has_scores=int(to_scores))
    launch.combine(part_q, dq)
    launch.combine(part_vector, dvector)
    launch = Launch(colptr, row, heads)
    part_k, part_v = launch.parts(k, k.size(2)), launch.parts(v, v.size(2))
    launch.run("backward_columns", *given, dk, dv, part_k, part_v, colptr, row, slot, **options, linear=0)
    launch.combine(part_k, dk)
    launch.combine(part_v, dv)
    dedge, dproj = v.new_empty(0), v.new_empty(0)
    if vector is not None and edge_attr is not None and edge_proj is not None:
        dedge, dproj = _edge_gradients(dscores, q, k, vector, edge_attr, edge_proj, slope, rowptr, col)
    return dq, dk, dv, dvector.sum(dim=0), dedge, dproj, dscores if bias_grad else dscores[:0].clone()


def _edge_gradients(
    dscores: Tensor,
    q: Tensor,
    k: Tensor,
    vector: Tensor,
    edge_attr: Tensor,
    edge_proj: Tensor,
    slope: float,
    rowptr: Tensor,
    col: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of the edges' features and their projection: matrix products over blocks of slots."""
    wide = dscores.dtype
    rows, proj = slot_rows(rowptr, col.numel()), edge_proj.to(wide)
    dedge, dproj = edge_attr.new_empty(edge_attr.shape), proj.new_zeros(proj.shape)
    size = max(1, _BLOCK_BYTES // (q.size(1) * q.size(2) * wide.itemsize))
    for start in range(0, col.numel(), size):
        block = slice(start, start + size)
        features = edge_attr[block].to(wide)
        total = q.index_select(0, rows[block]).to(wide) + k.index_select(0, col[block]).to(wide)
        total += torch.einsum("ed,dhc->ehc", features, proj)
        steep = torch.where(total > 0, vector, vector * slope) * dscores[block].unsqueeze(2)
        dedge[block] = torch.einsum("ehc,dhc->ed", steep, proj).to(edge_attr.dtype)
        dproj += torch.einsum("ehc,ed->dhc", steep, features)
    return dedge, dproj.to(edge_proj.dtype)


@triton_attention_backward.register_fake
def _(grad_out, grad_weights, q, k, v, vector, edge_attr, edge_proj, bias, seed, out, normalizer, *rest):  # type: ignore[no-untyped-def]
    _, _, _, _, bias_grad, _, col, *_ = rest
    dvector = normalizer.new_empty(v.size(1), 0 if vector is None else q.size(2))
    dbias = normalizer.new_empty(col.size(0) if bias_grad else 0, v.size(1))
    dedge, dproj = (v.new_empty(0) if x is None else x.new_empty(x.shape) for x in (edge_attr, edge_proj))
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dvector, dedge, dproj, dbias


triton_attention_backward.register_autograd(refuse_double_backward)
