"""Plain torch on any device and dtype, differentiable twice: what every other backend must agree with.

Values are gathered edge by edge, so memory grows with E x H x C. Edges stay in the caller's order; ``q [N, H, C]``,
``k, v [M, H, C]``, edge values ``[E, H]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphattn.ops.layout import Layout


def _ends(layout: Layout) -> tuple[Tensor, Tensor]:
    source, target = layout.edge_index.long()
    return target, source


def sddmm(q: Tensor, k: Tensor, layout: Layout) -> Tensor:
    row, col = _ends(layout)
    return (q.index_select(0, row) * k.index_select(0, col)).sum(dim=-1)


def spmm(weights: Tensor, x: Tensor, layout: Layout) -> Tensor:
    row, col = _ends(layout)
    messages = weights.unsqueeze(-1) * x.index_select(0, col)
    return messages.new_zeros(layout.num_rows, *messages.shape[1:]).index_add_(0, row, messages)


def edge_softmax(scores: Tensor, layout: Layout) -> Tensor:
    row, _ = _ends(layout)
    top = scores.new_full((layout.num_rows, scores.size(1)), -torch.inf)
    top.scatter_reduce_(0, row.unsqueeze(1).expand_as(scores), scores.detach(), "amax")
    # Finite before the subtraction: -inf - (-inf) is NaN, and no later mask can take it out of the gradient.
    top.masked_fill_(top == -torch.inf, 0.0)
    exp = (scores - top.index_select(0, row)).exp()
    total = torch.zeros_like(top).index_add_(0, row, exp)
    return exp / total.masked_fill(total == 0, 1.0).index_select(0, row)


def aggregate(
    scores: Tensor,
    v: Tensor,
    layout: Layout,
    keep: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    row, col = _ends(layout)
    weights = edge_softmax(scores, layout)
    kept = weights if keep is None else weights * keep
    messages = kept.unsqueeze(-1) * _add_edges(v.index_select(0, col), edge_attr, edge_proj)
    out = messages.new_zeros(layout.num_rows, *messages.shape[1:]).index_add_(0, row, messages)
    return out, weights if return_weights else None


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
    row, col = _ends(layout)
    key = _add_edges(k.index_select(0, col), edge_attr, edge_proj)
    scores = scale * (q.index_select(0, row) * key).sum(dim=-1)
    if bias is not None:
        scores = scores + bias
    edges = (edge_attr, edge_proj) if edge_values else (None, None)
    return aggregate(scores, v, layout, keep, *edges, return_weights)


def _add_edges(gathered: Tensor, edge_attr: Tensor | None, edge_proj: Tensor | None) -> Tensor:
    if edge_attr is None or edge_proj is None:
        return gathered
    return gathered + torch.einsum("ed,hcd->ehc", edge_attr, edge_proj)
