"""Gradients of attention, with weights and dropout computed anew: sums over rows, and over columns."""

# mypy: ignore-errors
# (kernels are written in Triton's language, which has Python's grammar but types of its own)

import triton.language as tl

from graphattn.ops.triton.kernels.tiles import (
    UNIT,
    keep_factor,
    kernel,
    load_ends,
    load_row,
    load_rows,
    offset,
    pair_tile,
    score_pairs,
    slope_of_scores,
    softmax_slopes,
    store_row,
    task,
)


@kernel
def backward_rows(
    q,
    k,
    v,
    vector,
    edge_attr,
    edge_proj,
    edge_query,
    bias,
    seed,
    grad_out,
    grad_edge_sums,
    grad_weights,
    normalizer,
    out,
    edge_sums,
    weight_sums,
    delta,
    grad_q,
    grad_edge_query,
    grad_vector,
    grad_bias,
    part_q,
    part_edge_query,
    part_vector,
    pointer,
    index,
    segment_row,
    segment_start,
    num_rows,
    num_segments,
    segment,
    heads,
    key_units,
    value_units,
    edge_dim,
    edge_units,
    scale,
    slope,
    dropout,
    boost,
    additive,
    has_bias,
    has_grad,
    has_dropout,
    has_scores,
    BLOCK_E: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients that are sums over a row: of its queries, of the vector as a part per row, and of every bias.

    Writes ``delta`` for the kernels after it: the sum of the row's weights times their gradients.
    """
    row, head, start, stop, part, is_segment, has_work = task(
        heads, pointer, segment_row, segment_start, num_rows, num_segments, segment
    )
    if not has_work:
        return
    query = load_row(q, row, heads, head, 0, key_units, BLOCK_C, ACC)[None, :]
    query += load_row(edge_query, row, heads, head, value_units, edge_units, BLOCK_C, ACC)[None, :]
    grad = load_row(grad_out, row, heads, head, 0, value_units, BLOCK_C, ACC)[None, :]
    grad += load_row(grad_edge_sums, row, heads, head, value_units, edge_units, BLOCK_C, ACC)[None, :]
    ends = normalizer + 2 * offset(row, heads, head)
    top, total = tl.load(ends), tl.load(ends + 1)
    result = load_row(out, row, heads, head, 0, value_units, BLOCK_C, ACC)[None, :]
    result += load_row(edge_sums, row, heads, head, value_units, edge_units, BLOCK_C, ACC)[None, :]
    # The gradient of every score is a difference from this sum, whose rounding no further sum evens out.
    shift = tl.sum(tl.sum(grad.to(tl.float64) * result.to(tl.float64), axis=1), axis=0).to(ACC)
    if has_grad:
        shift += tl.load(weight_sums + offset(row, heads, head))
    tl.store(delta + offset(row, heads, head), shift)
    query_sums = tl.zeros([BLOCK_E, BLOCK_C], ACC)
    vector_sums = tl.zeros([BLOCK_E, BLOCK_C], ACC)
    for begin in range(start, stop, BLOCK_E):
        slot = begin + tl.arange(0, BLOCK_E)
        valid = slot < stop
        column = tl.load(index + slot, mask=valid, other=0)
        place = offset(slot, heads, head)
        value = load_rows(v, column, valid, heads, head, 0, value_units, BLOCK_C, ACC)
        to_weight = tl.sum(grad * value, axis=1)
        if edge_units:
            feature = load_rows(edge_attr, slot, valid, 1, 0, value_units, edge_units, BLOCK_C, ACC)
            to_weight += tl.sum(grad * feature, axis=1)
        if has_dropout:
            to_weight *= keep_factor(seed, dropout, boost, slot, head).to(ACC)
        # Loaded where it is used: kept beside the other rows, it would be spilled.
        direction = load_row(vector, row * 0, heads, head, 0, key_units * additive, BLOCK_C, ACC)[None, :]
        key = load_ends(
            k, edge_attr, column, slot, valid, heads, head, key_units, value_units, edge_units, BLOCK_C, ACC
        )
        pairs = pair_tile(
            query, key, edge_attr, edge_proj, slot, valid, heads, head, edge_dim, key_units, additive, ACC
        )
        score = score_pairs(query, pairs, direction, 0.0, edge_units, additive, scale, slope, ACC)
        if has_bias:
            score += tl.load(bias + place, mask=valid, other=0.0)
        _, to_score = softmax_slopes(score, top, total, to_weight, shift, grad_weights, place, valid, has_grad)
        if has_scores:
            tl.store(grad_bias + place, to_score, mask=valid)
        query_sums += to_score[:, None] * slope_of_scores(pairs, direction, additive, scale, slope)
        if additive:
            vector_sums += to_score[:, None] * tl.where(pairs > 0, pairs, pairs * slope)
    to_query, to_vector = tl.sum(query_sums, axis=0), tl.sum(vector_sums, axis=0)
    if is_segment:
        store_row(part_q, part, heads, head, 0, key_units, to_query, BLOCK_C)
        store_row(part_edge_query, part, heads, head, value_units, edge_units, to_query, BLOCK_C)
        store_row(part_vector, part, heads, head, 0, key_units * additive, to_vector, BLOCK_C)
    else:
        store_row(grad_q, row, heads, head, 0, key_units, to_query, BLOCK_C)
        store_row(grad_edge_query, row, heads, head, value_units, edge_units, to_query, BLOCK_C)
        store_row(grad_vector, row, heads, head, 0, key_units * additive, to_vector, BLOCK_C)


@kernel
def backward_columns(
    q,
    k,
    v,
    vector,
    edge_attr,
    edge_proj,
    edge_query,
    bias,
    seed,
    grad_out,
    grad_edge_sums,
    grad_weights,
    normalizer,
    delta,
    grad_k,
    grad_v,
    part_k,
    part_v,
    pointer,
    index,
    slots,
    segment_row,
    segment_start,
    num_rows,
    num_segments,
    segment,
    heads,
    key_units,
    value_units,
    edge_dim,
    edge_units,
    scale,
    slope,
    dropout,
    boost,
    additive,
    linear,
    has_bias,
    has_grad,
    has_dropout,
    BLOCK_E: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients that are sums over a column, of its key and its value; the pattern is the transposed one."""
    column, head, start, stop, part, is_segment, has_work = task(
        heads, pointer, segment_row, segment_start, num_rows, num_segments, segment
    )
    if not has_work:
        return
    key = load_row(k, column, heads, head, 0, key_units, BLOCK_C, ACC)[None, :]
    value = load_row(v, column, heads, head, 0, value_units * (1 - linear), BLOCK_C, ACC)[None, :]
    direction = load_row(vector, column * 0, heads, head, 0, key_units * additive, BLOCK_C, ACC)[None, :]
    HALF: tl.constexpr = BLOCK_C // 2 if BLOCK_C > UNIT else BLOCK_C
    key_sums = tl.zeros([BLOCK_E, BLOCK_C], ACC)
    value_sums = tl.zeros([BLOCK_E, BLOCK_C], ACC)
    for begin in range(start, stop, BLOCK_E):
        entry = begin + tl.arange(0, BLOCK_E)
        valid = entry < stop
        row = tl.load(index + entry, mask=valid, other=0)
        slot = tl.load(slots + entry, mask=valid, other=0).to(row.dtype)
        place = offset(slot, heads, head)
        edge_score, edge_weight = tl.zeros([BLOCK_E], tl.float64), tl.zeros([BLOCK_E], ACC)
        for done in range(0, edge_units, HALF // UNIT):
            feature = load_rows(edge_attr, slot, valid, 1, 0, -done, edge_units, HALF, ACC)
            of_row = load_rows(edge_query, row, valid, heads, head, -done, edge_units, HALF, ACC)
            edge_score += tl.sum((feature * of_row).to(tl.float64), axis=1)
            of_row = load_rows(grad_edge_sums, row, valid, heads, head, -done, edge_units, HALF, ACC)
            edge_weight += tl.sum(feature * of_row, axis=1)
        query = load_rows(q, row, valid, heads, head, 0, key_units, BLOCK_C, ACC)
        pairs = pair_tile(
            key, query, edge_attr, edge_proj, slot, valid, heads, head, edge_dim, key_units, additive, ACC
        )
        score = score_pairs(key, pairs, direction, edge_score, edge_units, additive, scale, slope, ACC)
        if has_bias:
            score += tl.load(bias + place, mask=valid, other=0.0)
        grad = load_rows(grad_out, row, valid, heads, head, 0, value_units, BLOCK_C, ACC)
        factor = tl.full([BLOCK_E], 1.0, ACC)
        if has_dropout:
            factor = keep_factor(seed, dropout, boost, slot, head).to(ACC)
        if linear:
            weight = tl.where(valid, score, 0.0)
        else:
            to_weight = edge_weight + tl.sum(grad * value, axis=1)
            end = offset(row, heads, head)
            top = tl.load(normalizer + 2 * end, mask=valid, other=0.0)
            total = tl.load(normalizer + 2 * end + 1, mask=valid, other=1.0)
            shift = tl.load(delta + end, mask=valid, other=0.0)
            weight, to_score = softmax_slopes(
                score, top, total, to_weight * factor, shift, grad_weights, place, valid, has_grad
            )
            key_sums += to_score[:, None] * slope_of_scores(pairs, direction, additive, scale, slope)
        value_sums += (weight * factor)[:, None] * grad
    if is_segment:
        store_row(part_k, part, heads, head, 0, key_units, tl.sum(key_sums, axis=0), BLOCK_C)
        store_row(part_v, part, heads, head, 0, value_units, tl.sum(value_sums, axis=0), BLOCK_C)
    else:
        store_row(grad_k, column, heads, head, 0, key_units, tl.sum(key_sums, axis=0), BLOCK_C)
        store_row(grad_v, column, heads, head, 0, value_units, tl.sum(value_sums, axis=0), BLOCK_C)
