"""Attention to shared features on torch's own sparse kernels, in one operator with a hand-written backward. CPU only.

Edge values are heads-first and in slot order ``[H, E]`` and queries ``q [H, N, C + D]``, as in
:mod:`graphattn.ops.csr`; all heads share ``x [M, C]`` and ``edge_attr [E, D]``. With Z the features of a source beside
those of an edge, which is never made,

    P = softmax(Q Z^T + bias),  O = P Z
    dP = dO Z^T,  dS = P * (dP - rowsum(P * dP)),  dQ = dS Z,  dZ = sum over heads of P^T dO + dS^T Q

where each product is one with ``x`` and one with ``edge_attr``, each on columns of its own of the dense operand. Both
terms of dZ are one product: it reads the 2 H entries of a column one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from graphattn.ops.csr import refuse_double_backward
from graphattn.ops.kernels import (
    Pattern,
    add_products_,
    by_heads,
    product,
    sharing,
    softmax_,
    softmax_backward_,
    sum_over_heads,
)
from graphattn.ops.layout import Layout, known_csc


@torch.library.custom_op("graphattn::csr_shared_attention", mutates_args=())
def csr_shared_attention(
    q: Tensor | None,
    x: Tensor,
    edge_attr: Tensor,
    bias: Tensor | None,
    keep: Tensor | None,
    num_heads: int,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    slot: Tensor | None,
    edge: Tensor,
    edge_colptr: Tensor | None,
    edge_row: Tensor | None,
    edge_slot: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The weighted sums [H, N, C + D] and the weights [H, E] before dropout; without queries the bias is the score."""
    weights = (
        x.new_zeros(num_heads, edge.numel()) if bias is None else bias.clone(memory_format=torch.contiguous_format)
    )
    sums = x.new_empty(num_heads, rowptr.numel() - 1, x.size(1) + edge_attr.size(1))
    for heads, sources, edges in _groups(rowptr, col, edge, x.size(0), num_heads):
        p = weights[heads].flatten()
        if q is not None:
            _add_scores_(p, q[heads], x, edge_attr, sources, edges)
        softmax_(p, sources)
        _sum_features(p if keep is None else p * keep[heads].flatten(), x, edge_attr, sources, edges, sums[heads])
    return sums, weights


@csr_shared_attention.register_fake
def _(q, x, edge_attr, bias, keep, num_heads, rowptr, col, colptr, row, slot, edge, *edge_csc):  # type: ignore[no-untyped-def]
    sums = x.new_empty(num_heads, rowptr.size(0) - 1, x.size(1) + edge_attr.size(1))
    return sums, x.new_empty(num_heads, edge.size(0))


@torch.library.custom_op("graphattn::csr_shared_attention_backward", mutates_args=())
def csr_shared_attention_backward(
    grad_sums: Tensor,
    grad_weights: Tensor,
    q: Tensor | None,
    x: Tensor,
    edge_attr: Tensor,
    weights: Tensor,
    keep: Tensor | None,
    of_x: bool,
    of_edges: bool,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    slot: Tensor | None,
    edge: Tensor,
    edge_colptr: Tensor | None,
    edge_row: Tensor | None,
    edge_slot: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`csr_shared_attention` by q, x and edge_attr (empty where not asked for) and the scores."""
    dq = x.new_empty(0) if q is None else torch.empty_like(q)
    ds = torch.zeros_like(weights)
    for heads, sources, edges in _groups(rowptr, col, edge, x.size(0), weights.size(0)):
        part = ds[heads].flatten()
        _add_scores_(part, grad_sums[heads], x, edge_attr, sources, edges)
        if keep is not None:
            part *= keep[heads].flatten()
        part += grad_weights[heads].flatten()
        softmax_backward_(part, weights[heads].flatten(), sources)
        if q is not None:
            _sum_features(part, x, edge_attr, sources, edges, dq[heads])
    values, dense = weights if keep is None else weights * keep, grad_sums
    if q is not None:
        values, dense = torch.cat([values, ds]), torch.cat([dense, q])
    dx, dedge_attr = x.new_empty(0), x.new_empty(0)
    if of_x:
        csc = known_csc(rowptr, col, (colptr, row, slot), x.size(0))
        dx = sum_over_heads(values, dense[..., : x.size(1)], csc)
    if of_edges:
        csc = known_csc(rowptr, edge, (edge_colptr, edge_row, edge_slot), edge.numel())
        dedge_attr = sum_over_heads(values, dense[..., x.size(1) :], csc)
    return dq, dx, dedge_attr, ds


@csr_shared_attention_backward.register_fake
def _(grad_sums, grad_weights, q, x, edge_attr, weights, keep, of_x, of_edges, *pattern):  # type: ignore[no-untyped-def]
    wanted = ((q, q is not None), (x, of_x), (edge_attr, of_edges), (weights, True))
    return tuple(torch.empty_like(of) if by else x.new_empty(0) for of, by in wanted)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, x, edge_attr, _, keep, _, *pattern = inputs
    ctx.save_for_backward(q, x, edge_attr, output[1], keep, *pattern)


def _autograd(ctx, grad_sums, grad_weights):  # type: ignore[no-untyped-def]
    of_q, of_x, of_edges, of_bias, *others = ctx.needs_input_grad
    q, x, edge_attr, weights, keep, *pattern = ctx.saved_tensors
    dq, dx, dedge_attr, ds = csr_shared_attention_backward(
        grad_sums.contiguous(), grad_weights, q, x, edge_attr, weights, keep, of_x, of_edges, *pattern
    )
    found = (dq if of_q else None, dx if of_x else None, dedge_attr if of_edges else None, ds if of_bias else None)
    return *found, *[None] * len(others)


csr_shared_attention.register_autograd(_autograd, setup_context=_setup)
csr_shared_attention_backward.register_autograd(refuse_double_backward)


def _groups(
    rowptr: Tensor, col: Tensor, edge: Tensor, num_sources: int, num_heads: int
) -> Iterator[tuple[slice, Pattern, Pattern]]:
    """Yield groups of heads with the patterns of sources and of edges of each, whose rows are the same."""
    for heads, sources in by_heads(Pattern(rowptr, col, num_sources), num_heads, sharing):
        yield heads, sources, Pattern(sources.rowptr, edge.repeat(heads.stop - heads.start), edge.numel())


def _add_scores_(scores: Tensor, q: Tensor, x: Tensor, edge_attr: Tensor, sources: Pattern, edges: Pattern) -> None:
    of_source, of_edge = q.flatten(0, 1).split([x.size(1), edge_attr.size(1)], dim=1)
    add_products_(scores, of_source, x, sources)
    add_products_(scores, of_edge, edge_attr, edges)


def _sum_features(weights: Tensor, x: Tensor, edge_attr: Tensor, sources: Pattern, edges: Pattern, out: Tensor) -> None:
    of_sources, of_edges = out.flatten(0, 1).split([x.size(1), edge_attr.size(1)], dim=1)
    product(weights, x, sources, of_sources)
    product(weights, edge_attr, edges, of_edges)


def shared_attention(
    q: Tensor | None, x: Tensor, edge_attr: Tensor, layout: Layout, bias: Tensor | None, keep: Tensor | None, heads: int
) -> tuple[Tensor, Tensor]:
    q = None if q is None else q.transpose(0, 1).contiguous()
    bias, keep = (values if values is None else layout.to_slots(values) for values in (bias, keep))
    _, *edges = layout.incidence().pattern(edge_attr)
    sums, weights = csr_shared_attention(q, x, edge_attr, bias, keep, heads, *layout.pattern(x), *edges)
    return sums.transpose(0, 1), layout.to_edges(weights)
