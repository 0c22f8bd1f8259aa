"""Segment reductions of torch-scatter over sorted edges: deterministic on CUDA, optional everywhere.

Values are gathered edge by edge, so memory grows with E x H x C. Inside, edges are in slot order and rows are
segments of ``layout.rowptr``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphattn._optional import require
from graphattn.ops.layout import Layout


def _segment():  # type: ignore[no-untyped-def]
    scatter = require("torch_scatter", "scatter")
    return scatter.segment_csr, scatter.gather_csr


def _sorted(values: Tensor, layout: Layout) -> Tensor:
    _, _, perm = layout.csr()
    return values if perm is None else values.index_select(0, perm)


def _pattern(layout: Layout) -> tuple[Tensor, Tensor]:
    rowptr, col, _ = layout.csr()
    return rowptr.long(), col.long()


def _softmax(scores: Tensor, rowptr: Tensor) -> Tensor:
    segment_csr, gather_csr = _segment()
    top = segment_csr(scores.detach(), rowptr, reduce="max")
    # An empty segment's maximum is 0 here; only rows of -inf alone must be made finite.
    top = top.masked_fill(top == -torch.inf, 0.0)
    exp = (scores - gather_csr(top, rowptr)).exp()
    total = segment_csr(exp, rowptr, reduce="sum")
    return exp / gather_csr(total.masked_fill(total == 0, 1.0), rowptr)


def sddmm(q: Tensor, k: Tensor, layout: Layout) -> Tensor:
    _, gather_csr = _segment()
    rowptr, col = _pattern(layout)
    return layout.to_edges((gather_csr(q, rowptr) * k.index_select(0, col)).sum(dim=-1).t())


def spmm(weights: Tensor, x: Tensor, layout: Layout) -> Tensor:
    segment_csr, _ = _segment()
    rowptr, col = _pattern(layout)
    return segment_csr(_sorted(weights, layout).unsqueeze(-1) * x.index_select(0, col), rowptr, reduce="sum")


def edge_softmax(scores: Tensor, layout: Layout) -> Tensor:
    rowptr, _ = _pattern(layout)
    return layout.to_edges(_softmax(_sorted(scores, layout), rowptr).t())


def aggregate(
    scores: Tensor,
    v: Tensor,
    layout: Layout,
    keep: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    segment_csr, _ = _segment()
    rowptr, col = _pattern(layout)
    weights = _softmax(_sorted(scores, layout), rowptr)
    kept = weights if keep is None else weights * _sorted(keep, layout)
    messages = kept.unsqueeze(-1) * _add_edges(v.index_select(0, col), edge_attr, edge_proj, layout)
    out = segment_csr(messages, rowptr, reduce="sum")
    return out, layout.to_edges(weights.t()) if return_weights else None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float,
    bias: Tensor | None,
    keep: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    _, gather_csr = _segment()
    rowptr, col = _pattern(layout)
    key = _add_edges(k.index_select(0, col), edge_attr, edge_proj, layout)
    scores = layout.to_edges((scale * (gather_csr(q, rowptr) * key).sum(dim=-1)).t())
    if bias is not None:
        scores = scores + bias
    return aggregate(scores, v, layout, keep, edge_attr, edge_proj, return_weights)


def _add_edges(gathered: Tensor, edge_attr: Tensor | None, edge_proj: Tensor | None, layout: Layout) -> Tensor:
    if edge_attr is None or edge_proj is None:
        return gathered
    return gathered + torch.einsum("ed,hcd->ehc", _sorted(edge_attr, layout), edge_proj)
