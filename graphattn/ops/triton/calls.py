"""What :mod:`graphattn.ops` calls: edge values into slot order, channels filled up, the operators, and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from graphattn.ops.layout import Layout
from graphattn.ops.triton.forward import triton_attention
from graphattn.ops.triton.operators import UNIT, wide_dtype
from graphattn.ops.triton.products import triton_sddmm, triton_spmm


def _padded(x: Tensor) -> Tensor:
    """Fill the channels up to a whole number of units."""
    return pad(x, (0, -x.size(-1) % UNIT)) if x.size(-1) % UNIT else x


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
    slots = _to_slots(scores, layout)
    return _attend(q, k, v, None, None, None, slots, layout, 0.0, 0.0, dropout, edge_attr, edge_proj, return_weights)


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
) -> tuple[Tensor, Tensor | None]:
    slots = None if bias is None else _to_slots(bias, layout).to(wide_dtype(v))
    if edge_attr is not None and edge_proj is not None:
        # q . (W e) = (W^T q) . e: only the raw features are read, as the columns of the target-by-edge pattern.
        rows = _padded(torch.einsum("nhc,hcd->nhd", q.to(wide_dtype(q)), edge_proj.to(wide_dtype(q))))
        features = _padded(edge_attr.to(wide_dtype(q))).unsqueeze(1)
        term = scale * triton_sddmm(rows, features, *layout.incidence().pattern(features))
        slots = term if slots is None else slots + term
    return _attend(q, k, v, None, None, None, slots, layout, scale, 0.0, dropout, edge_attr, edge_proj, return_weights)


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
    slots = None if bias is None else _to_slots(bias, layout)
    features = proj = None
    if edge_attr is not None and edge_proj is not None:
        features, proj = _to_slots(edge_attr, layout), _padded(edge_proj.permute(2, 0, 1).contiguous())
    return _attend(q, k, v, vector, features, proj, slots, layout, 0.0, slope, dropout, None, None, return_weights)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor | None,
    score_attr: Tensor | None,
    score_proj: Tensor | None,
    bias: Tensor | None,
    layout: Layout,
    scale: float,
    slope: float,
    dropout: float,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attend with edge values in slot order, then add what the edges' features contribute to the values."""
    seed = None
    if dropout > 0:
        seed = torch.randint(2**63 - 1, (1,), device=v.device)
    has_edges = edge_attr is not None and edge_proj is not None
    differentiated = next((x for x in (k, v, q) if x.requires_grad), k)
    out, _, weights, kept = triton_attention(
        _padded(q),
        _padded(k),
        _padded(v),
        None if vector is None else _padded(vector).to(wide_dtype(v)),
        score_attr,
        score_proj,
        None if bias is None else bias.to(wide_dtype(v)),
        seed,
        scale,
        slope,
        dropout,
        return_weights or has_edges,
        *layout.pattern(differentiated),
    )
    out = out[..., : v.size(2)]
    if edge_attr is not None and edge_proj is not None:
        # sum P (W e) = W (sum P e), the other half of the same linearity.
        features = _padded(edge_attr.to(wide_dtype(v))).unsqueeze(1)
        scaled = weights if seed is None else weights * kept
        sums = triton_spmm(scaled, features, *layout.incidence().pattern(features))[..., : edge_attr.size(1)]
        out = out + torch.einsum("nhd,hcd->nhc", sums, edge_proj.to(wide_dtype(v)))
    return out, _to_edges(weights, layout) if return_weights else None
