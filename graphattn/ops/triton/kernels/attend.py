"""Attention of the rows by online softmax, and the joining of rows that were split."""

# mypy: ignore-errors
# (kernels are written in Triton's language, which has Python's grammar but types of its own)

import triton.language as tl

from graphattn.ops.triton.kernels.tiles import (
    UNIT,
    closed,
    keep_factor,
    kernel,
    load_ends,
    load_row,
    offset,
    pair_tile,
    score_pairs,
    store_normalizer,
    store_row,
    task,
)


@kernel
def forward(
    q,
    k,
    v,
    vector,
    edge_attr,
    edge_proj,
    edge_query,
    bias,
    seed,
    out,
    edge_sums,
    normalizer,
    scores,
    part_out,
    part_edge_sums,
    part_normalizer,
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
    edge_dim,
    edge_units,
    scale,
    slope,
    dropout,
    boost,
    additive,
    linear,
    has_bias,
    has_dropout,
    has_scores,
    BLOCK_E: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """Attend from the rows: values [N, H, C], edge sums [N, H, D], maxima and sums [N, H, 2].

    ``linear`` takes the bias as the weights.
    """
    row, head, start, stop, part, is_segment, has_work = task(
        heads, pointer, segment_row, segment_start, num_rows, num_segments, segment
    )
    if not has_work:
        return
    query = load_row(q, row, heads, head, 0, key_units, BLOCK_C, ACC)[None, :]
    query += load_row(edge_query, row, heads, head, value_units, edge_units, BLOCK_C, ACC)[None, :]
    direction = load_row(vector, row * 0, heads, head, 0, key_units * additive, BLOCK_C, ACC)[None, :]
    top = tl.full([], float("-inf"), ACC)
    total = tl.full([], 0.0, ACC)
    sums = tl.zeros([BLOCK_E, BLOCK_C], ACC)
    for begin in range(start, stop, BLOCK_E):
        slot = begin + tl.arange(0, BLOCK_E)
        valid = slot < stop
        column = tl.load(index + slot, mask=valid, other=0)
        key = load_ends(
            k, edge_attr, column, slot, valid, heads, head, key_units, value_units, edge_units, BLOCK_C, ACC
        )
        pairs = pair_tile(
            query, key, edge_attr, edge_proj, slot, valid, heads, head, edge_dim, key_units, additive, ACC
        )
        score = score_pairs(query, pairs, direction, 0.0, edge_units, additive, scale, slope, ACC)
        if has_bias:
            score += tl.load(bias + offset(slot, heads, head), mask=valid, other=0.0)
        if has_scores:
            tl.store(scores + offset(slot, heads, head), score, mask=valid)
        if linear:
            weight = tl.where(valid, score, 0.0)
        else:
            score = tl.where(valid, score, float("-inf"))
            new_top = tl.maximum(top, tl.max(score, axis=0))
            # Finite before the subtraction: -inf - (-inf) is NaN.
            shift = tl.where(new_top == float("-inf"), 0.0, new_top)
            weight = tl.exp(score - shift)
            fade = tl.exp(top - shift)
            total = total * fade + tl.sum(weight, axis=0)
            sums *= fade
            top = new_top
        if has_dropout:
            weight *= keep_factor(seed, dropout, boost, slot, head).to(ACC)
        of_head = head % value_heads
        sums += weight[:, None] * load_ends(
            v, edge_attr, column, slot, valid, value_heads, of_head, value_units, value_units, edge_units, BLOCK_C, ACC
        )
    result = tl.sum(sums, axis=0)
    if is_segment:
        store_row(part_out, part, heads, head, 0, value_units, result, BLOCK_C)
        store_row(part_edge_sums, part, heads, head, value_units, edge_units, result, BLOCK_C)
        store_normalizer(part_normalizer, part, heads, head, top, total)
    else:
        top, total = closed(top, total)
        store_row(out, row, heads, head, 0, value_units, result / total, BLOCK_C)
        store_row(edge_sums, row, heads, head, value_units, edge_units, result / total, BLOCK_C)
        store_normalizer(normalizer, row, heads, head, top, total)


@kernel
def combine(
    part,
    part_normalizer,
    joined,
    normalizer,
    pointer,
    segment_row,
    num_rows,
    segment,
    heads,
    units,
    weighted,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """Add up the segments of a long row in their order; ``weighted`` joins softmaxes by maxima and sums."""
    program = tl.program_id(0)
    first = program // heads
    head = program - first * heads
    row = tl.load(segment_row + first)
    before = tl.load(segment_row + first - 1, mask=first > 0, other=-1)
    if (row >= num_rows) | (row == before):
        return
    count = tl.cdiv(tl.load(pointer + row + 1) - tl.load(pointer + row), segment)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = channel < units * UNIT
    top = tl.full([], float("-inf"), ACC)
    total = tl.full([], 0.0, ACC)
    sums = tl.zeros([BLOCK_C], ACC)
    at = offset(first, heads, head)
    for _ in range(0, count):
        values = tl.load(part + at * (units * UNIT) + channel, mask=mask, other=0.0)
        if weighted:
            part_top = tl.load(part_normalizer + 2 * at)
            new_top = tl.maximum(top, part_top)
            shift = tl.where(new_top == float("-inf"), 0.0, new_top)
            share = tl.exp(part_top - shift)
            fade = tl.exp(top - shift)
            total = total * fade + tl.load(part_normalizer + 2 * at + 1) * share
            sums = sums * fade + values * share
            top = new_top
        else:
            sums += values
        at += heads
    at = offset(row, heads, head)
    if weighted:
        top, total = closed(top, total)
        sums = sums / total
        if tl.program_id(1) == 0:
            store_normalizer(normalizer, row, heads, head, top, total)
    tl.store(joined + at * (units * UNIT) + channel, sums.to(joined.dtype.element_ty), mask=mask)
