"""The CPU default: SDDMM -> segment softmax -> SpMM on torch's own sparse kernels, with a hand-written backward.

Everything here is heads-first and in slot order (see :mod:`graphattn.ops.layout`): ``q [H, N, C]``, ``k, v [H, M, C]``,
edge values ``[H, E]``. Heads are visited one at a time, so every temporary is E long and nothing is ever E x H x C.
torch's own autograd of these kernels is far slower than their forward and fails on duplicate edges; here

    S = scale Q K^T + bias,  P = softmax(S),  O = P V
    dV = P^T dO,  dP = dO V^T,  dS = P * (dP - rowsum(P * dP)),  dQ = scale dS K,  dK = scale dS^T Q

and each line is again one of the same kernels, on the CSR pattern or on its transpose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphattn.ops.kernels import (
    Pattern,
    add_products_,
    blocks,
    by_heads,
    product,
    sharing,
    softmax_,
    softmax_backward_,
    sum_over_heads,
)
from graphattn.ops.layout import Layout, known_csc


def _flat(heads: Tensor) -> Tensor:
    """Lay the heads of a group one after the other."""
    return heads.flatten(0, 1)


# Differentiable operators ############################################################################################


@torch.library.custom_op("graphattn::csr_sddmm", mutates_args=())
def csr_sddmm(
    a: Tensor, b: Tensor, rowptr: Tensor, col: Tensor, colptr: Tensor | None, row: Tensor | None, slot: Tensor | None
) -> Tensor:
    """Dot products ``a[h, row] . b[h, col]`` of every slot; ``b`` may have one head for all."""
    out = a.new_zeros(a.size(0), col.numel())
    shared = b.size(0) == 1
    for heads, pattern in by_heads(Pattern(rowptr, col, b.size(1)), a.size(0), sharing if shared else blocks):
        add_products_(_flat(out[heads]), _flat(a[heads]), b[0] if shared else _flat(b[heads]), pattern)
    return out


@csr_sddmm.register_fake
def _(a, b, rowptr, col, colptr, row, slot):  # type: ignore[no-untyped-def]
    return a.new_empty(a.size(0), col.size(0))


@torch.library.custom_op("graphattn::csr_spmm", mutates_args=())
def csr_spmm(
    weights: Tensor,
    x: Tensor,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    slot: Tensor | None,
) -> Tensor:
    """Weighted sums ``sum_col weights[h, slot] * x[h, col]`` of every row; ``x`` may have one head for all."""
    out = x.new_empty(weights.size(0), rowptr.numel() - 1, x.size(2))
    shared = x.size(0) == 1
    for heads, pattern in by_heads(Pattern(rowptr, col, x.size(1)), weights.size(0), sharing if shared else blocks):
        product(_flat(weights[heads]), x[0] if shared else _flat(x[heads]), pattern, _flat(out[heads]))
    return out


@csr_spmm.register_fake
def _(weights, x, rowptr, col, colptr, row, slot):  # type: ignore[no-untyped-def]
    return x.new_empty(weights.size(0), rowptr.size(0) - 1, x.size(2))


@torch.library.custom_op("graphattn::csr_spmm_transposed", mutates_args=())
def csr_spmm_transposed(
    weights: Tensor, x: Tensor, colptr: Tensor, row: Tensor, slot: Tensor, sum_heads: bool
) -> Tensor:
    """Weighted sums over the transposed pattern, ``sum_row weights[h, slot] * x[h, row]``, one head or their sum."""
    if sum_heads:
        return sum_over_heads(weights, x, (colptr, row, slot)).unsqueeze(0)
    out = x.new_empty(x.size(0), colptr.numel() - 1, x.size(2))
    for heads, pattern in by_heads(Pattern(colptr, row, x.size(1), slot), x.size(0)):
        product(_flat(weights[heads]), _flat(x[heads]), pattern, _flat(out[heads]))
    return out


@csr_spmm_transposed.register_fake
def _(weights, x, colptr, row, slot, sum_heads):  # type: ignore[no-untyped-def]
    return x.new_empty(1 if sum_heads else x.size(0), colptr.size(0) - 1, x.size(2))


@torch.library.custom_op("graphattn::csr_softmax", mutates_args=())
def csr_softmax(scores: Tensor, rowptr: Tensor, col: Tensor, num_cols: int) -> Tensor:
    """Softmax of every head's scores over the slots of each row."""
    weights = scores.clone(memory_format=torch.contiguous_format)
    for heads, pattern in by_heads(Pattern(rowptr, col, num_cols), scores.size(0)):
        softmax_(_flat(weights[heads]), pattern)
    return weights


@csr_softmax.register_fake
def _(scores, rowptr, col, num_cols):  # type: ignore[no-untyped-def]
    return scores.new_empty(scores.shape)


@torch.library.custom_op("graphattn::csr_softmax_backward", mutates_args=())
def csr_softmax_backward(grad: Tensor, weights: Tensor, rowptr: Tensor, col: Tensor, num_cols: int) -> Tensor:
    """Gradient of :func:`csr_softmax` with respect to its scores."""
    out = grad.clone(memory_format=torch.contiguous_format)
    for heads, pattern in by_heads(Pattern(rowptr, col, num_cols), grad.size(0)):
        softmax_backward_(_flat(out[heads]), _flat(weights[heads]), pattern)
    return out


@csr_softmax_backward.register_fake
def _(grad, weights, rowptr, col, num_cols):  # type: ignore[no-untyped-def]
    return grad.new_empty(grad.shape)


@torch.library.custom_op("graphattn::csr_attention", mutates_args=())
def csr_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    keep: Tensor | None,
    scale: float,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    slot: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention over the slots: the aggregated values [H, N, C] and the weights [H, E] before dropout."""
    shape = q.size(0), col.numel()
    weights = q.new_zeros(shape) if bias is None else bias.clone(memory_format=torch.contiguous_format)
    out = q.new_empty(q.size(0), q.size(1), v.size(2))
    for heads, pattern in by_heads(Pattern(rowptr, col, k.size(1)), q.size(0)):
        p = _flat(weights[heads])
        add_products_(p, _flat(q[heads]), _flat(k[heads]), pattern, scale)
        softmax_(p, pattern)
        kept = p if keep is None else p * _flat(keep[heads])
        product(kept, _flat(v[heads]), pattern, _flat(out[heads]))
    return out, weights


@csr_attention.register_fake
def _(q, k, v, bias, keep, scale, rowptr, col, colptr, row, slot):  # type: ignore[no-untyped-def]
    return q.new_empty(q.size(0), q.size(1), v.size(2)), q.new_empty(q.size(0), col.size(0))


@torch.library.custom_op("graphattn::csr_attention_backward", mutates_args=())
def csr_attention_backward(
    grad_out: Tensor | None,
    grad_weights: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
    keep: Tensor | None,
    scale: float,
    bias_grad: bool,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor,
    row: Tensor,
    slot: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`csr_attention` with respect to q, k, v and the bias (empty unless asked for)."""
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.zeros_like(v)
    dbias = torch.empty_like(weights) if bias_grad else weights.new_empty(0)
    groups = by_heads(Pattern(rowptr, col, k.size(1)), q.size(0))
    transposed_groups = by_heads(Pattern(colptr, row, q.size(1), slot), q.size(0))
    for (heads, pattern), (_, transposed) in zip(groups, transposed_groups, strict=True):
        p = _flat(weights[heads])
        ds = torch.zeros_like(p)
        if grad_out is not None:
            do = _flat(grad_out[heads])
            add_products_(ds, do, _flat(v[heads]), pattern)
            kept = p
            if keep is not None:
                ds *= _flat(keep[heads])
                kept = p * _flat(keep[heads])
            product(kept, do, transposed, _flat(dv[heads]))
        if grad_weights is not None:
            ds += _flat(grad_weights[heads])
        softmax_backward_(ds, p, pattern)
        if bias_grad:
            _flat(dbias[heads]).copy_(ds)
        ds *= scale
        product(ds, _flat(k[heads]), pattern, _flat(dq[heads]))
        product(ds, _flat(q[heads]), transposed, _flat(dk[heads]))
    return dq, dk, dv, dbias


@csr_attention_backward.register_fake
def _(grad_out, grad_weights, q, k, v, weights, keep, scale, bias_grad, rowptr, col, colptr, row, slot):  # type: ignore[no-untyped-def]
    dbias = torch.empty_like(weights) if bias_grad else weights.new_empty(0)
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), dbias


# Autograd ############################################################################################################


def _sddmm_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _sddmm_backward(ctx, grad):  # type: ignore[no-untyped-def]
    a, b, rowptr, col, *csc = ctx.saved_tensors
    da = db = None
    if ctx.needs_input_grad[0]:
        da = csr_spmm(grad, b, rowptr, col, *csc)
    if ctx.needs_input_grad[1]:
        transpose = known_csc(rowptr, col, csc, b.size(1))
        db = csr_spmm_transposed(grad, a, *transpose, b.size(0) == 1 < a.size(0))
    return da, db, None, None, None, None, None


def _spmm_backward(ctx, grad):  # type: ignore[no-untyped-def]
    weights, x, rowptr, col, *csc = ctx.saved_tensors
    grad = grad.contiguous()
    dweights = dx = None
    if ctx.needs_input_grad[0]:
        dweights = csr_sddmm(grad, x, rowptr, col, *csc)
    if ctx.needs_input_grad[1]:
        transpose = known_csc(rowptr, col, csc, x.size(1))
        dx = csr_spmm_transposed(weights, grad, *transpose, x.size(0) == 1 < weights.size(0))
    return dweights, dx, None, None, None, None, None


def _softmax_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, rowptr, col, ctx.num_cols = inputs
    ctx.save_for_backward(output, rowptr, col)


def _softmax_autograd(ctx, grad):  # type: ignore[no-untyped-def]
    weights, rowptr, col = ctx.saved_tensors
    return csr_softmax_backward(grad, weights, rowptr, col, ctx.num_cols), None, None, None


def _attention_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, _, keep, ctx.scale, *pattern = inputs
    ctx.save_for_backward(q, k, v, output[1], keep, *pattern)
    # An unused output then arrives as None instead of as an E x H tensor of zeros.
    ctx.set_materialize_grads(False)


def _attention_autograd(ctx, grad_out, grad_weights):  # type: ignore[no-untyped-def]
    q, k, v, weights, keep, rowptr, col, *csc = ctx.saved_tensors
    dq, dk, dv, dbias = csr_attention_backward(
        None if grad_out is None else grad_out.contiguous(),
        grad_weights,
        q,
        k,
        v,
        weights,
        keep,
        ctx.scale,
        ctx.needs_input_grad[3],
        rowptr,
        col,
        *known_csc(rowptr, col, csc, k.size(1)),
    )
    return dq, dk, dv, dbias if ctx.needs_input_grad[3] else None, *[None] * 7


def refuse_double_backward(ctx, *grads):  # type: ignore[no-untyped-def]
    raise RuntimeError("backend 'csr' has no double backward; pass backend='reference' to differentiate twice")


csr_sddmm.register_autograd(_sddmm_backward, setup_context=_sddmm_setup)
csr_spmm.register_autograd(_spmm_backward, setup_context=_sddmm_setup)
csr_softmax.register_autograd(_softmax_autograd, setup_context=_softmax_setup)
csr_attention.register_autograd(_attention_autograd, setup_context=_attention_setup)
for _op in (csr_spmm_transposed, csr_softmax_backward, csr_attention_backward):
    _op.register_autograd(refuse_double_backward)


# What ops/attention.py calls #########################################################################################


def _heads_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous()


def sddmm(q: Tensor, k: Tensor, layout: Layout) -> Tensor:
    return layout.to_edges(csr_sddmm(_heads_first(q), _heads_first(k), *layout.pattern(k)))


def spmm(weights: Tensor, x: Tensor, layout: Layout) -> Tensor:
    return csr_spmm(layout.to_slots(weights), _heads_first(x), *layout.pattern(x)).transpose(0, 1)


def edge_softmax(scores: Tensor, layout: Layout) -> Tensor:
    rowptr, col, _ = layout.csr()
    return layout.to_edges(csr_softmax(layout.to_slots(scores), rowptr, col, layout.num_cols))


def aggregate(
    scores: Tensor,
    v: Tensor,
    layout: Layout,
    keep: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    rowptr, col, _ = layout.csr()
    weights = csr_softmax(layout.to_slots(scores), rowptr, col, layout.num_cols)
    kept = weights if keep is None else weights * layout.to_slots(keep)
    v = _heads_first(v)
    out = csr_spmm(kept, v, *layout.pattern(v))
    if edge_attr is not None and edge_proj is not None:
        out = out + _edge_values(kept, edge_attr, edge_proj, layout)
    return out.transpose(0, 1), layout.to_edges(weights) if return_weights else None


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
    q, k, v = _heads_first(q), _heads_first(k), _heads_first(v)
    bias = None if bias is None else layout.to_slots(bias)
    keep = None if keep is None else layout.to_slots(keep)
    if edge_attr is not None and edge_proj is not None:
        term = scale * _edge_scores(q, edge_attr, edge_proj, layout)
        bias = term if bias is None else bias + term
    differentiated = next((x for x in (k, v, q) if x.requires_grad), k)
    out, weights = csr_attention(q, k, v, bias, keep, scale, *layout.pattern(differentiated))
    if edge_values and edge_attr is not None and edge_proj is not None:
        out = out + _edge_values(weights if keep is None else weights * keep, edge_attr, edge_proj, layout)
    return out.transpose(0, 1), layout.to_edges(weights) if return_weights else None


# Edge features by linearity: q . (W e) = (W^T q) . e and sum P (W e) = W (sum P e), so that only the raw features are
# read, as the columns of the target-by-edge pattern, and nothing is E x H x C.


def _edge_scores(q: Tensor, edge_attr: Tensor, edge_proj: Tensor, layout: Layout) -> Tensor:
    features = edge_attr.unsqueeze(0)
    return csr_sddmm(torch.bmm(q, edge_proj), features, *layout.incidence().pattern(features))


def _edge_values(weights: Tensor, edge_attr: Tensor, edge_proj: Tensor, layout: Layout) -> Tensor:
    features = edge_attr.unsqueeze(0)
    sums = csr_spmm(weights, features, *layout.incidence().pattern(features))
    return torch.bmm(sums, edge_proj.transpose(1, 2))
