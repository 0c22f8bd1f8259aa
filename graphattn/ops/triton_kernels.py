"""The fused kernels of the triton backend: attention over CSR rows, its gradients, and sampled products.

One program serves one head of one row, or of one segment of a row too long for a program. It walks the row's slots in
tiles of ``BLOCK_E`` neighbours by ``BLOCK_C`` channels and sums each tile position by position, so that the tile is
reduced once a row and a warp needs no shared memory. A score is either a dot product or additive,

    s = scale * sum_c q_c k_c + bias      or      s = sum_c vector_c * LeakyReLU(q_c + k_c + (W e)_c) + bias,

with features e of an edge. Of the softmax a row's maximum and sum are kept, from which the backward computes weights
anew; a log-sum-exp in their place would be rounded in proportion to its size, and the weights with it.
Gradients of queries are sums over rows, those of keys and values sums over columns of the transposed pattern: no
atomics, the same bits every time.

Options of a call are run-time numbers, uniform over a program, so that few kernels serve all calls: a kernel is
compiled per dtype and per power of two of channels. Widths come in units of eight channels, which lets every load and
store move 16 bytes.
"""

# mypy: ignore-errors
# (kernels are written in Triton's language, which has Python's grammar but types of its own)

import triton
import triton.language as tl

UNIT = tl.constexpr(8)

# Numbers that must not make a new kernel when they happen to be 1 or a multiple of 16, and arrays that need not start
# at a multiple of 16 bytes.
_NUMBERS = [
    *("num_rows", "num_segments", "segment", "heads", "key_heads", "value_heads", "key_units", "value_units", "units"),
    *("edge_dim", "additive", "linear", "weighted", "has_bias", "has_grad", "has_dropout", "has_scores"),
]
_ARRAYS = [
    *("pointer", "index", "slots", "segment_row", "segment_start", "seed", "edge_attr"),
    *("bias", "scores", "kept", "normalizer", "delta", "grad_weights", "grad_bias"),
]
_jit = triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_ARRAYS)


@triton.jit
def _task(heads, pointer, segment_row, segment_start, num_rows, num_segments, segment):
    """Return row, head, first slot and end of this program, its segment's place, and whether it has work."""
    program = tl.program_id(0)
    unit = program // heads
    head = program - unit * heads
    is_segment = unit < num_segments
    row = tl.load(segment_row + unit, mask=is_segment, other=0)
    row = tl.where(is_segment, row, (unit - num_segments).to(row.dtype))
    inside = row < num_rows
    first = tl.load(pointer + row, mask=inside, other=0)
    stop = tl.load(pointer + row + 1, mask=inside, other=0)
    start = tl.where(is_segment, tl.load(segment_start + unit, mask=is_segment, other=0), first)
    has_work = inside & (is_segment | (stop - first <= segment))
    stop = tl.where(is_segment, tl.minimum(stop, start + segment), stop)
    return row, head, start, stop, unit, is_segment, has_work


@triton.jit
def _row(base, row, heads, head, units, BLOCK_C: tl.constexpr, ACC: tl.constexpr):
    """Load one head of one row, 0 beyond its channels."""
    channel = tl.arange(0, BLOCK_C)
    start = (row.to(tl.int64) * heads + head) * (units * UNIT)
    return tl.load(base + start + channel, mask=channel < units * UNIT, other=0.0).to(ACC)


@triton.jit
def _rows(base, index, valid, heads, head, units, BLOCK_C: tl.constexpr, ACC: tl.constexpr):
    """Load one head of the rows that ``index`` names."""
    channel = tl.arange(0, BLOCK_C)
    start = (index.to(tl.int64) * heads + head) * (units * UNIT)
    mask = valid[:, None] & (channel < units * UNIT)[None, :]
    return tl.load(base + start[:, None] + channel[None, :], mask=mask, other=0.0).to(ACC)


@triton.jit
def _store_row(base, row, heads, head, units, values, BLOCK_C: tl.constexpr):
    channel = tl.arange(0, BLOCK_C)
    start = (row.to(tl.int64) * heads + head) * (units * UNIT)
    tl.store(base + start + channel, values.to(base.dtype.element_ty), mask=channel < units * UNIT)


@triton.jit
def _at(slot, heads, head):
    """Where an array of edges by heads keeps the value of a slot."""
    return slot.to(tl.int64) * heads + head


@triton.jit
def _closed(top, total):
    """Make the maximum and the sum of a finished row safe to use; an empty row's have weights exp(-inf) / 1 = 0."""
    is_empty = total == 0
    return tl.where(is_empty, float("inf"), top), tl.where(is_empty, 1.0, total)


@triton.jit
def _store_normalizer(base, row, heads, head, top, total):
    """Store the maximum and the sum of a row side by side."""
    place = base + 2 * _at(row, heads, head)
    tl.store(place, top)
    tl.store(place + 1, total)


@triton.jit
def _pairs(own, others, edge_attr, edge_proj, slot, valid, heads, head, edge_dim, units, additive, ACC: tl.constexpr):
    """Return what a score reads beside the row's own channels: the others', or q + k + W e if it is additive.

    The terms are added in the same order from both ends of an edge, so that both get the same bits.
    """
    tile = others
    channel = tl.arange(0, tile.shape[1])
    if additive:
        tile += own
    for dim in range(0, edge_dim):
        feature = tl.load(edge_attr + _at(slot, edge_dim, dim), mask=valid, other=0.0).to(ACC)
        weight = edge_proj + (dim * heads + head) * (units * UNIT) + channel
        tile += feature[:, None] * tl.load(weight, mask=channel < units * UNIT, other=0.0).to(ACC)[None, :]
    return tile


@triton.jit
def _score(own, pairs, vector, additive, scale, slope):
    """Score a tile of pairs."""
    if additive:
        score = tl.sum(tl.where(pairs > 0, pairs, pairs * slope) * vector, axis=1)
    else:
        score = tl.sum(own * pairs, axis=1) * scale
    return score


@triton.jit
def _slope(pairs, vector, additive, scale, slope):
    """Differentiate the scores of a tile of pairs by the row's own channels."""
    steep = pairs * scale
    if additive:
        steep = tl.where(pairs > 0, vector, vector * slope)
    return steep


@triton.jit
def _kept(seed, dropout, boost, slot, head):
    """Return 0 for dropped slots and ``boost`` for kept ones: a function of seed, slot and head alone."""
    zero = slot * 0
    bits, _, _, _ = tl.philox(tl.load(seed), slot, zero + head, zero, zero)
    return tl.where(tl.uint_to_uniform_float(bits) >= dropout, boost, 0.0)


@_jit
def forward(
    q,
    k,
    v,
    vector,
    edge_attr,
    edge_proj,
    bias,
    seed,
    out,
    normalizer,
    scores,
    kept,
    part_out,
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
    """Attend from the rows: values [N, H, C], maxima and sums [N, H, 2]; ``linear`` takes the bias as the weights."""
    row, head, start, stop, part, is_segment, has_work = _task(
        heads, pointer, segment_row, segment_start, num_rows, num_segments, segment
    )
    if not has_work:
        return
    query = _row(q, row, heads, head, key_units, BLOCK_C, ACC)[None, :]
    direction = _row(vector, row * 0, heads, head, key_units * additive, BLOCK_C, ACC)[None, :]
    top = tl.full([], float("-inf"), ACC)
    total = tl.full([], 0.0, ACC)
    sums = tl.zeros([BLOCK_E, BLOCK_C], ACC)
    for begin in range(start, stop, BLOCK_E):
        slot = begin + tl.arange(0, BLOCK_E)
        valid = slot < stop
        column = tl.load(index + slot, mask=valid, other=0)
        key = _rows(k, column, valid, heads, head, key_units, BLOCK_C, ACC)
        pairs = _pairs(query, key, edge_attr, edge_proj, slot, valid, heads, head, edge_dim, key_units, additive, ACC)
        score = _score(query, pairs, direction, additive, scale, slope)
        if has_bias:
            score += tl.load(bias + _at(slot, heads, head), mask=valid, other=0.0)
        if has_scores:
            tl.store(scores + _at(slot, heads, head), score, mask=valid)
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
            factor = _kept(seed, dropout, boost, slot, head).to(ACC)
            weight *= factor
            if has_scores:
                tl.store(kept + _at(slot, heads, head), factor, mask=valid)
        sums += weight[:, None] * _rows(v, column, valid, value_heads, head % value_heads, value_units, BLOCK_C, ACC)
    result = tl.sum(sums, axis=0)
    if is_segment:
        _store_row(part_out, part, heads, head, value_units, result, BLOCK_C)
        _store_normalizer(part_normalizer, part, heads, head, top, total)
    else:
        top, total = _closed(top, total)
        _store_row(out, row, heads, head, value_units, result / total, BLOCK_C)
        _store_normalizer(normalizer, row, heads, head, top, total)


@_jit
def backward_rows(
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
    grad_q,
    grad_vector,
    grad_bias,
    part_q,
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
    """Gradients that are sums over a row: of its query, of the vector as a part per row, and of every bias."""
    row, head, start, stop, part, is_segment, has_work = _task(
        heads, pointer, segment_row, segment_start, num_rows, num_segments, segment
    )
    if not has_work:
        return
    query = _row(q, row, heads, head, key_units, BLOCK_C, ACC)[None, :]
    direction = _row(vector, row * 0, heads, head, key_units * additive, BLOCK_C, ACC)[None, :]
    grad = _row(grad_out, row, heads, head, value_units, BLOCK_C, ACC)[None, :]
    ends = normalizer + 2 * _at(row, heads, head)
    top, share = tl.load(ends), 1.0 / tl.load(ends + 1)
    shift = tl.load(delta + _at(row, heads, head))
    query_sums = tl.zeros([BLOCK_E, BLOCK_C], ACC)
    vector_sums = tl.zeros([BLOCK_E, BLOCK_C], ACC)
    for begin in range(start, stop, BLOCK_E):
        slot = begin + tl.arange(0, BLOCK_E)
        valid = slot < stop
        column = tl.load(index + slot, mask=valid, other=0)
        place = _at(slot, heads, head)
        key = _rows(k, column, valid, heads, head, key_units, BLOCK_C, ACC)
        pairs = _pairs(query, key, edge_attr, edge_proj, slot, valid, heads, head, edge_dim, key_units, additive, ACC)
        score = _score(query, pairs, direction, additive, scale, slope)
        if has_bias:
            score += tl.load(bias + place, mask=valid, other=0.0)
        weight = tl.where(valid, tl.exp(score - top) * share, 0.0)
        value = _rows(v, column, valid, heads, head, value_units, BLOCK_C, ACC)
        to_weight = tl.sum(grad * value, axis=1)
        if has_dropout:
            to_weight *= _kept(seed, dropout, boost, slot, head).to(ACC)
        if has_grad:
            to_weight += tl.load(grad_weights + place, mask=valid, other=0.0)
        to_score = weight * (to_weight - shift)
        if has_scores:
            tl.store(grad_bias + place, to_score, mask=valid)
        query_sums += to_score[:, None] * _slope(pairs, direction, additive, scale, slope)
        if additive:
            vector_sums += to_score[:, None] * tl.where(pairs > 0, pairs, pairs * slope)
    if is_segment:
        _store_row(part_q, part, heads, head, key_units, tl.sum(query_sums, axis=0), BLOCK_C)
        _store_row(part_vector, part, heads, head, key_units * additive, tl.sum(vector_sums, axis=0), BLOCK_C)
    else:
        _store_row(grad_q, row, heads, head, key_units, tl.sum(query_sums, axis=0), BLOCK_C)
        _store_row(grad_vector, row, heads, head, key_units * additive, tl.sum(vector_sums, axis=0), BLOCK_C)


@_jit
def backward_columns(
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
    column, head, start, stop, part, is_segment, has_work = _task(
        heads, pointer, segment_row, segment_start, num_rows, num_segments, segment
    )
    if not has_work:
        return
    key = _row(k, column, heads, head, key_units, BLOCK_C, ACC)[None, :]
    value = _row(v, column, heads, head, value_units * (1 - linear), BLOCK_C, ACC)[None, :]
    direction = _row(vector, column * 0, heads, head, key_units * additive, BLOCK_C, ACC)[None, :]
    key_sums = tl.zeros([BLOCK_E, BLOCK_C], ACC)
    value_sums = tl.zeros([BLOCK_E, BLOCK_C], ACC)
    for begin in range(start, stop, BLOCK_E):
        entry = begin + tl.arange(0, BLOCK_E)
        valid = entry < stop
        row = tl.load(index + entry, mask=valid, other=0)
        slot = tl.load(slots + entry, mask=valid, other=0).to(row.dtype)
        place = _at(slot, heads, head)
        query = _rows(q, row, valid, heads, head, key_units, BLOCK_C, ACC)
        pairs = _pairs(key, query, edge_attr, edge_proj, slot, valid, heads, head, edge_dim, key_units, additive, ACC)
        score = _score(key, pairs, direction, additive, scale, slope)
        if has_bias:
            score += tl.load(bias + place, mask=valid, other=0.0)
        grad = _rows(grad_out, row, valid, heads, head, value_units, BLOCK_C, ACC)
        factor = tl.full([BLOCK_E], 1.0, ACC)
        if has_dropout:
            factor = _kept(seed, dropout, boost, slot, head).to(ACC)
        if linear:
            weight = tl.where(valid, score, 0.0)
        else:
            end = _at(row, heads, head)
            top = tl.load(normalizer + 2 * end, mask=valid, other=0.0)
            weight = tl.exp(score - top) / tl.load(normalizer + 2 * end + 1, mask=valid, other=1.0)
            weight = tl.where(valid, weight, 0.0)
            to_weight = tl.sum(grad * value, axis=1) * factor
            if has_grad:
                to_weight += tl.load(grad_weights + place, mask=valid, other=0.0)
            to_score = weight * (to_weight - tl.load(delta + end, mask=valid, other=0.0))
            key_sums += to_score[:, None] * _slope(pairs, direction, additive, scale, slope)
        value_sums += (weight * factor)[:, None] * grad
    if is_segment:
        _store_row(part_k, part, heads, head, key_units, tl.sum(key_sums, axis=0), BLOCK_C)
        _store_row(part_v, part, heads, head, value_units, tl.sum(value_sums, axis=0), BLOCK_C)
    else:
        _store_row(grad_k, column, heads, head, key_units, tl.sum(key_sums, axis=0), BLOCK_C)
        _store_row(grad_v, column, heads, head, value_units, tl.sum(value_sums, axis=0), BLOCK_C)


@_jit
def products(
    q,
    k,
    scores,
    pointer,
    index,
    segment_row,
    segment_start,
    num_rows,
    num_segments,
    segment,
    heads,
    key_heads,
    key_units,
    BLOCK_E: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """Dot product of the two ends of every slot; ``k`` may have one head for all."""
    row, head, start, stop, _, _, has_work = _task(
        heads, pointer, segment_row, segment_start, num_rows, num_segments, segment
    )
    if not has_work:
        return
    width = key_units * UNIT
    query = q + _at(row, heads, head) * width
    for begin in range(start, stop, BLOCK_E):
        slot = begin + tl.arange(0, BLOCK_E)
        valid = slot < stop
        column = tl.load(index + slot, mask=valid, other=0)
        key = k + _at(column, key_heads, head % key_heads) * width
        total = tl.zeros([BLOCK_E, BLOCK_C], ACC)
        for chunk in range(0, width, BLOCK_C):
            channel = chunk + tl.arange(0, BLOCK_C)
            inside = channel < width
            of_query = tl.load(query + channel, mask=inside, other=0.0).to(ACC)
            mask = valid[:, None] & inside[None, :]
            of_key = tl.load(key[:, None] + channel[None, :], mask=mask, other=0.0).to(ACC)
            total += of_query[None, :] * of_key
        tl.store(scores + _at(slot, heads, head), tl.sum(total, axis=1), mask=valid)


@_jit
def combine(
    part,
    part_normalizer,
    out,
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
    at = _at(first, heads, head)
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
    at = _at(row, heads, head)
    if weighted:
        top, total = _closed(top, total)
        sums = sums / total
        if tl.program_id(1) == 0:
            _store_normalizer(normalizer, row, heads, head, top, total)
    tl.store(out + at * (units * UNIT) + channel, sums.to(out.dtype.element_ty), mask=mask)
