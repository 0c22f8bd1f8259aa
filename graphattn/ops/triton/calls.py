"""What :mod:`graphattn.ops` calls: edge values into slot order, channels filled up, the operators, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from graphattn.ops.layout import Layout
from graphattn.ops.triton.forward import triton_attention
from graphattn.ops.triton.operators import UNIT, wide_dtype
from graphattn.ops.triton.products import triton_sddmm, triton_spmm

_GROUP = 1024  # rows


def _padded(x: Tensor) -> Tensor:
    """Fill the channels up to a whole number of units."""
    return pad(x, (0, -x.size(-1) % UNIT)) if x.size(-1) % UNIT else x


def _by_heads(x: Tensor, proj: Tensor) -> Tensor:
    """Multiply every head of the rows with its matrix [heads, channels, width].

    In groups of rows: the gradient of a matrix is a sum over all rows, for which a GPU would have one block a head.
    """
    groups = pad(x, (0, 0, 0, 0, 0, -x.size(0) % _GROUP)).unflatten(0, (-1, _GROUP))
    out = torch.einsum("gnhc,ghcd->gnhd", groups, proj.expand(groups.size(0), -1, -1, -1))
    return out.flatten(0, 1)[: x.size(0)]


def _to_slots(values: Tensor, layout: Layout) -> Tensor:
    _, _, perm = layout.csr()
    return values if perm is None else values.index_select(0, perm)


def _to_edges(slots: Tensor, layout: Layout) -> Tensor:
    _, _, perm = layout.csr()
    return slots if perm is None else torch.zeros_like(slots).index_copy(0, perm, slots)


def sddmm(q: Tensor, k: Tensor, layout: Layout) -> Tensor:
    return _to_edges(triton_sddmm(_padded(q), _padded(k), *layout.pattern(k)), layout)


def spmm(weights: Tensor, x: Tensor, layout: Layout) -> Tensor:
    slots = _to_slots(weights, layout).to(wide_dtype(x))
    return triton_spmm(slots, _padded(x), *layout.pattern(x))[..., : x.size(2)]


def edge_softmax(scores: Tensor, layout: Layout) -> Tensor:
    nothing = scores.new_empty(layout.num_cols, scores.size(1), 0)
    _, weights = aggregate(scores, nothing, layout, 0.0, None, None, True)
    assert weights is not None, "the weights were asked for"
    return weights


def aggregate(
    scores: Tensor,
    v: Tensor,
    layout: Layout,
    dropout: float,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    q, k = v.new_empty(layout.num_rows, v.size(1), 0), v.new_empty(layout.num_cols, v.size(1), 0)
    return attention(q, k, v, layout, 0.0, scores, dropout, edge_attr, edge_proj, return_weights)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float,
    bias: Tensor | None,
    dropout: float,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    return_weights: bool,
    edge_values: bool = True,
) -> tuple[Tensor, Tensor | None]:
    if edge_attr is None or edge_proj is None:
        out, _, weights = _attend(q, k, v, layout, bias, dropout, return_weights, scale=scale)
        return out, weights
    # q . (W e) = (W^T q) . e and sum P (W e) = W (sum P e): the kernels read the edges as they are.
    proj = edge_proj.to(wide_dtype(v))
    edges: dict[str, Any] = {
        "edge_attr": _padded(_to_slots(edge_attr, layout)),
        "edge_query": _padded(_by_heads(q.to(proj.dtype), proj[:, : q.size(2)])),
    }
    out, sums, weights = _attend(q, k, v, layout, bias, dropout, return_weights, scale=scale, **edges)
    if edge_values:
        out = out + _by_heads(sums[..., : edge_attr.size(1)], proj.mT)
    return out, weights


def additive_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor,
    layout: Layout,
    slope: float,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    bias: Tensor | None,
    dropout: float,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    options: dict[str, Any] = {"vector": _padded(vector).to(wide_dtype(v)), "slope": slope}
    if edge_attr is not None and edge_proj is not None:
        proj = _padded(edge_proj.permute(2, 0, 1).contiguous())
        options |= {"edge_attr": _to_slots(edge_attr, layout), "edge_proj": proj}
    out, _, weights = _attend(q, k, v, layout, bias, dropout, return_weights, **options)
    return out, weights


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    bias: Tensor | None,
    dropout: float,
    return_weights: bool,
    vector: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    edge_query: Tensor | None = None,
    scale: float = 0.0,
    slope: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Attend with channels filled up and the bias in slot order; edges come in slot order."""
    differentiated = next((x for x in (k, v, q) if x.requires_grad), k)
    out, edge_sums, _, weights = triton_attention(
        _padded(q),
        _padded(k),
        _padded(v),
        vector,
        edge_attr,
        edge_proj,
        edge_query,
        None if bias is None else _to_slots(bias, layout).to(wide_dtype(v)),
        torch.randint(2**63 - 1, (1,), device=v.device) if dropout > 0 else None,
        scale,
        slope,
        dropout,
        return_weights,
        *layout.pattern(differentiated),
    )
    return out[..., : v.size(2)], edge_sums, _to_edges(weights, layout) if return_weights else None
