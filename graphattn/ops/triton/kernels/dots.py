"""Dot products along the edges of a graph."""

# mypy: ignore-errors
# (kernels are written in Triton's language, which has Python's grammar but types of its own)

import triton.language as tl

from graphattn.ops.triton.kernels.tiles import UNIT, kernel, offset, task


@kernel
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
    row, head, start, stop, _, _, has_work = task(
        heads, pointer, segment_row, segment_start, num_rows, num_segments, segment
    )
    if not has_work:
        return
    width = key_units * UNIT
    query = q + offset(row, heads, head) * width
    for begin in range(start, stop, BLOCK_E):
        slot = begin + tl.arange(0, BLOCK_E)
        valid = slot < stop
        column = tl.load(index + slot, mask=valid, other=0)
        key = k + offset(column, key_heads, head % key_heads) * width
        total = tl.zeros([BLOCK_E, BLOCK_C], ACC)
        for chunk in range(0, width, BLOCK_C):
            channel = chunk + tl.arange(0, BLOCK_C)
            inside = channel < width
            of_query = tl.load(query + channel, mask=inside, other=0.0).to(ACC)
            mask = valid[:, None] & inside[None, :]
            of_key = tl.load(key[:, None] + channel[None, :], mask=mask, other=0.0).to(ACC)
            total += of_query[None, :] * of_key
        tl.store(scores + offset(slot, heads, head), tl.sum(total, axis=1), mask=valid)
