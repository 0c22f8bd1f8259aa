"""Segment reductions of torch-scatter over sorted edges: deterministic on CUDA, optional everywhere.

Values are gathered edge by edge, so memory grows with E x H x C. Inside, edges are in slot order and rows are
segments of ``layout.rowptr``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn._optional import is_available, require
from graphattn.ops.layout import Layout


def serves_cuda() -> bool:
    """Tell whether torch-scatter is installed and was built with its CUDA kernels."""
    return is_available("torch_scatter") and torch.ops.torch_scatter.cuda_version() != -1


# torch-scatter's own backward is invisible to autograd, so that differentiating twice would give wrong numbers without
# a word. Each of these two is the other's adjoint, which makes them right to any order.


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rowptr: Tensor) -> Tensor:
        ctx.save_for_backward(rowptr)
        return require("torch_scatter", "scatter").segment_csr(values, rowptr, reduce="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(grad, *ctx.saved_tensors), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, rowptr: Tensor) -> Tensor:
        ctx.save_for_backward(rowptr)
        return require("torch_scatter", "scatter").gather_csr(rows, rowptr)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _SegmentSum.apply(grad, *ctx.saved_tensors), None


def _segment_max(values: Tensor, rowptr: Tensor) -> Tensor:
    return require("torch_scatter", "scatter").segment_csr(values.detach(), rowptr, reduce="max")


def _sorted(values: Tensor, layout: Layout) -> Tensor:
    _, _, perm = layout.csr()
    return values if perm is None else values.index_select(0, perm)


def _pattern(layout: Layout) -> tuple[Tensor, Tensor]:
    rowptr, col, _ = layout.csr()
    return rowptr.long(), col.long()


def _softmax(scores: Tensor, rowptr: Tensor) -> Tensor:
    top = _segment_max(scores, rowptr)
    # An empty segment's maximum is 0 here; only rows of -inf alone must be made finite.
    top = top.masked_fill(top == -torch.inf, 0.0)
    exp = (scores - _Gather.apply(top, rowptr)).exp()
    total = _SegmentSum.apply(exp, rowptr)
    return exp / _Gather.apply(total.masked_fill(total == 0, 1.0), rowptr)


def sddmm(q: Tensor, k: Tensor, layout: Layout) -> Tensor:
    rowptr, col = _pattern(layout)
    return layout.to_edges((_Gather.apply(q, rowptr) * k.index_select(0, col)).sum(dim=-1).t())


def spmm(weights: Tensor, x: Tensor, layout: Layout) -> Tensor:
    rowptr, col = _pattern(layout)
    return _SegmentSum.apply(_sorted(weights, layout).unsqueeze(-1) * x.index_select(0, col), rowptr)


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
    rowptr, col = _pattern(layout)
    weights = _softmax(_sorted(scores, layout), rowptr)
    kept = weights if keep is None else weights * _sorted(keep, layout)
    messages = kept.unsqueeze(-1) * _add_edges(v.index_select(0, col), edge_attr, edge_proj, layout)
    out = _SegmentSum.apply(messages, rowptr)
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
    edge_values: bool = True,
) -> tuple[Tensor, Tensor | None]:
    rowptr, col = _pattern(layout)
    key = _add_edges(k.index_select(0, col), edge_attr, edge_proj, layout)
    scores = layout.to_edges((scale * (_Gather.apply(q, rowptr) * key).sum(dim=-1)).t())
    if bias is not None:
        scores = scores + bias
    edges = (edge_attr, edge_proj) if edge_values else (None, None)
    return aggregate(scores, v, layout, keep, *edges, return_weights)


def _add_edges(gathered: Tensor, edge_attr: Tensor | None, edge_proj: Tensor | None, layout: Layout) -> Tensor:
    if edge_attr is None or edge_proj is None:
        return gathered
    return gathered + torch.einsum("ed,hcd->ehc", _sorted(edge_attr, layout), edge_proj)
