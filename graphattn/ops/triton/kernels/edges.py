"""Gradients of the edges' features in dot products, and of what additive scores add up at an edge."""

# mypy: ignore-errors
# (kernels are written in Triton's language, which has Python's grammar but types of its own)

import triton.language as tl

from graphattn.ops.triton.kernels.tiles import (
    keep_factor,
    kernel,
    load_row,
    load_rows,
    offset,
    pair_tile,
    score_pairs,
    slope_of_scores,
    softmax_slopes,
    store_rows,
    task,
)


@kernel
def backward_edges(
    q,
    k,
    v,
    edge_attr,
    edge_query,
    bias,
    seed,
    grad_out,
    grad_edge_sums,
    grad_weights,
    normalizer,
    delta,
    grad_edge_attr,
    pointer,
    index,
    segment_row,
    segment_start,
    num_rows,
    num_segments,
    segment,
    heads,
    value_heads,
    key_units,
    value_units,
    edge_units,
    scale,
    dropout,
    boost,
    has_bias,
    has_grad,
    has_dropout,
    BLOCK_E: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients of edges' features in dot products and values, for which the pattern has one head."""
    row, _, start, stop, _, _, has_work = task(
        heads, pointer, segment_row, segment_start, num_rows, num_segments, segment
    )
    if not has_work:
        return
    for begin in range(start, stop, BLOCK_E):
        slot = begin + tl.arange(0, BLOCK_E)
        valid = slot < stop
        column = tl.load(index + slot, mask=valid, other=0)
        feature = load_rows(edge_attr, slot, valid, 1, 0, value_units, edge_units, BLOCK_C, ACC)
        sums = tl.zeros([BLOCK_E, BLOCK_C], ACC)
        for head in range(0, value_heads):
            at = offset(row, value_heads, head)
            place = offset(slot, value_heads, head)
            query = load_row(q, row, value_heads, head, 0, key_units, BLOCK_C, ACC)[None, :]
            query += load_row(edge_query, row, value_heads, head, value_units, edge_units, BLOCK_C, ACC)[None, :]
            key = load_rows(k, column, valid, value_heads, head, 0, key_units, BLOCK_C, ACC) + feature
            score = score_pairs(query, key, query, 0.0, edge_units, 0, scale, 0.0, ACC)
            if has_bias:
                score += tl.load(bias + place, mask=valid, other=0.0)
            grad = load_row(grad_out, row, value_heads, head, 0, value_units, BLOCK_C, ACC)[None, :]
            grad += load_row(grad_edge_sums, row, value_heads, head, value_units, edge_units, BLOCK_C, ACC)[None, :]
            value = load_rows(v, column, valid, value_heads, head, 0, value_units, BLOCK_C, ACC) + feature
            factor = tl.full([BLOCK_E], 1.0, ACC)
            if has_dropout:
                factor = keep_factor(seed, dropout, boost, slot, head).to(ACC)
            to_weight = tl.sum(grad * value, axis=1) * factor
            top, total = tl.load(normalizer + 2 * at), tl.load(normalizer + 2 * at + 1)
            shift = tl.load(delta + at)
            weight, to_score = softmax_slopes(score, top, total, to_weight, shift, grad_weights, place, valid, has_grad)
            sums += (to_score * scale)[:, None] * query + (weight * factor)[:, None] * grad
        store_rows(grad_edge_attr, slot, valid, value_units, edge_units, sums, BLOCK_C)


@kernel
def backward_pairs(
    q,
    k,
    v,
    vector,
    edge_attr,
    edge_proj,
    bias,
    seed,
    grad_out,
    grad_weights,
    normalizer,
    delta,
    grad_pairs,
    rows,
    index,
    first,
    stop,
    heads,
    key_units,
    value_units,
    edge_dim,
    slope,
    dropout,
    boost,
    has_bias,
    has_grad,
    has_dropout,
    BLOCK_E: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients of what additive scores add up, q + k + W e, for the slots from ``first`` on: one program a head."""
    program = tl.program_id(0)
    tile = program // heads
    head = program - tile * heads
    place = tile * BLOCK_E + tl.arange(0, BLOCK_E)
    slot = place.to(index.dtype.element_ty) + first
    valid = slot < stop
    row = tl.load(rows + slot, mask=valid, other=0)
    column = tl.load(index + slot, mask=valid, other=0)
    value = load_rows(v, column, valid, heads, head, 0, value_units, BLOCK_C, ACC)
    grad = load_rows(grad_out, row, valid, heads, head, 0, value_units, BLOCK_C, ACC)
    to_weight = tl.sum(grad * value, axis=1)
    if has_dropout:
        to_weight *= keep_factor(seed, dropout, boost, slot, head).to(ACC)
    direction = load_row(vector, program * 0, heads, head, 0, key_units, BLOCK_C, ACC)[None, :]
    query = load_rows(q, row, valid, heads, head, 0, key_units, BLOCK_C, ACC)
    key = load_rows(k, column, valid, heads, head, 0, key_units, BLOCK_C, ACC)
    pairs = pair_tile(query, key, edge_attr, edge_proj, slot, valid, heads, head, edge_dim, key_units, 1, ACC)
    score = score_pairs(query, pairs, direction, 0.0, 0, 1, 0.0, slope, ACC)
    of_slot, of_row = offset(slot, heads, head), offset(row, heads, head)
    if has_bias:
        score += tl.load(bias + of_slot, mask=valid, other=0.0)
    top = tl.load(normalizer + 2 * of_row, mask=valid, other=0.0)
    total = tl.load(normalizer + 2 * of_row + 1, mask=valid, other=1.0)
    shift = tl.load(delta + of_row, mask=valid, other=0.0)
    _, to_score = softmax_slopes(score, top, total, to_weight, shift, grad_weights, of_slot, valid, has_grad)
    steep = to_score[:, None] * slope_of_scores(pairs, direction, 1, 0.0, slope)
    store_rows(grad_pairs, place.to(tl.int64) * heads + head, valid, 0, key_units, steep, BLOCK_C)
