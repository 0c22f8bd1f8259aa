"""What the kernels share: their work, tiles of neighbours, scores of pairs and the softmax's sums."""

# mypy: ignore-errors
# (kernels are written in Triton's language, which has Python's grammar but types of its own)

import triton
import triton.language as tl

UNIT = tl.constexpr(8)

# Numbers that must not make a new kernel when they happen to be 1 or a multiple of 16, and arrays that need not start
# at a multiple of 16 bytes.
_NUMBERS = [
    *("num_rows", "num_segments", "first", "stop", "segment", "heads", "key_heads", "value_heads"),
    *("key_units", "value_units", "units", "edge_dim", "edge_units"),
    *("additive", "linear", "weighted", "has_bias", "has_grad", "has_dropout", "has_scores"),
]
_ARRAYS = [
    *("pointer", "index", "rows", "slots", "segment_row", "segment_start", "seed"),
    *("bias", "scores", "normalizer", "weight_sums", "delta", "grad_weights", "grad_bias"),
]
kernel = triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_ARRAYS)


@triton.jit
def task(heads, pointer, segment_row, segment_start, num_rows, num_segments, segment):
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
def load_row(base, row, heads, head, first, units, BLOCK_C: tl.constexpr, ACC: tl.constexpr):
    """Load one head of one row into the channels from unit ``first`` on, 0 elsewhere."""
    channel = tl.arange(0, BLOCK_C) - first * UNIT
    start = (row.to(tl.int64) * heads + head) * (units * UNIT)
    inside = (channel >= 0) & (channel < units * UNIT)
    return tl.load(base + start + channel, mask=inside, other=0.0).to(ACC)


@triton.jit
def load_rows(base, index, valid, heads, head, first, units, BLOCK_C: tl.constexpr, ACC: tl.constexpr):
    """Load one head of the rows that ``index`` names."""
    channel = tl.arange(0, BLOCK_C) - first * UNIT
    start = (index.to(tl.int64) * heads + head) * (units * UNIT)
    mask = valid[:, None] & ((channel >= 0) & (channel < units * UNIT))[None, :]
    return tl.load(base + start[:, None] + channel[None, :], mask=mask, other=0.0).to(ACC)


@triton.jit
def load_ends(
    base, edge_attr, index, slot, valid, heads, head, units, first, edge_units, BLOCK_C: tl.constexpr, ACC: tl.constexpr
):
    """Load one head of the rows that ``index`` names and, from unit ``first`` on, the features of their edges."""
    tile = load_rows(base, index, valid, heads, head, 0, units, BLOCK_C, ACC)
    if edge_units:
        tile += load_rows(edge_attr, slot, valid, 1, 0, first, edge_units, BLOCK_C, ACC)
    return tile


@triton.jit
def store_row(base, row, heads, head, first, units, values, BLOCK_C: tl.constexpr):
    """Store the channels from unit ``first`` on as one head of one row."""
    channel = tl.arange(0, BLOCK_C) - first * UNIT
    start = (row.to(tl.int64) * heads + head) * (units * UNIT)
    inside = (channel >= 0) & (channel < units * UNIT)
    tl.store(base + start + channel, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def store_rows(base, index, valid, first, units, values, BLOCK_C: tl.constexpr):
    """Store the channels from unit ``first`` on as the rows that ``index`` names."""
    channel = tl.arange(0, BLOCK_C) - first * UNIT
    start = index.to(tl.int64) * (units * UNIT)
    mask = valid[:, None] & ((channel >= 0) & (channel < units * UNIT))[None, :]
    tl.store(base + start[:, None] + channel[None, :], values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def offset(slot, heads, head):
    """Where an array of edges by heads keeps the value of a slot."""
    return slot.to(tl.int64) * heads + head


@triton.jit
def closed(top, total):
    """Make the maximum and the sum of a finished row safe to use; an empty row's have weights exp(-inf) / 1 = 0."""
    is_empty = total == 0
    return tl.where(is_empty, float("inf"), top), tl.where(is_empty, 1.0, total)


@triton.jit
def store_normalizer(base, row, heads, head, top, total):
    """Store the maximum and the sum of a row side by side."""
    place = base + 2 * offset(row, heads, head)
    tl.store(place, top)
    tl.store(place + 1, total)


@triton.jit
def pair_tile(
    own, others, edge_attr, edge_proj, slot, valid, heads, head, edge_dim, units, additive, ACC: tl.constexpr
):
    """Return what a score reads beside the row's own channels: the others', or q + k + W e if it is additive.

    The terms are added in the same order from both ends of an edge, so that both get the same bits.
    """
    tile = others
    channel = tl.arange(0, tile.shape[1])
    if additive:
        tile += own
    for dim in range(0, edge_dim):
        feature = tl.load(edge_attr + offset(slot, edge_dim, dim), mask=valid, other=0.0).to(ACC)
        weight = edge_proj + (dim * heads + head) * (units * UNIT) + channel
        tile += feature[:, None] * tl.load(weight, mask=channel < units * UNIT, other=0.0).to(ACC)[None, :]
    return tile


@triton.jit
def score_pairs(own, pairs, vector, edge_score, edge_units, additive, scale, slope, ACC: tl.constexpr):
    """Score a tile of pairs, with what a dot product has besides from the features of edges.

    Products with features are summed in float64: the kernels sum them in different orders, and weights that are
    computed anew from a score of other bits no longer sum to 1.
    """
    if additive:
        score = tl.sum(tl.where(pairs > 0, pairs, pairs * slope) * vector, axis=1)
    elif edge_units:
        score = (edge_score + tl.sum((own * pairs).to(tl.float64), axis=1)).to(ACC) * scale
    else:
        score = tl.sum(own * pairs, axis=1) * scale
    return score


@triton.jit
def slope_of_scores(pairs, vector, additive, scale, slope):
    """Differentiate the scores of a tile of pairs by the row's own channels."""
    steep = pairs * scale
    if additive:
        steep = tl.where(pairs > 0, vector, vector * slope)
    return steep


@triton.jit
def softmax_slopes(score, top, total, to_weight, shift, grad_weights, place, valid, has_grad):
    """Compute weights anew, and the gradient of their scores from that of the weights.

    A neighbour that is alone in its row has the weight 1 whatever its score, whose gradient is then no difference of
    two roundings, but 0.
    """
    weight = tl.where(valid, tl.exp(score - top) / total, 0.0)
    if has_grad:
        to_weight += tl.load(grad_weights + place, mask=valid, other=0.0)
    alone = tl.where(total == 1.0, 0.5, 2.0)  # a weight above this is
    return weight, tl.where(weight > alone, 0.0, weight * (to_weight - shift))


@triton.jit
def keep_factor(seed, dropout, boost, slot, head):
    """Return 0 for dropped slots and ``boost`` for kept ones: a function of seed, slot and head alone."""
    zero = slot * 0
    bits, _, _, _ = tl.philox(tl.load(seed), slot, zero + head, zero, zero)
    return tl.where(tl.uint_to_uniform_float(bits) >= dropout, boost, 0.0)
