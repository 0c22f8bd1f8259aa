"""torch's own sparse kernels on a CSR pattern, made safe for every graph and cheap for small ones. CPU only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from graphattn.ops.layout import slot_rows

with warnings.catch_warnings():
    # torch announces the beta state of its CSR layout once per process; our users cannot act on it.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (0, 0))

_HAS_MKL = torch.backends.mkl.is_available()

# Heads of a small graph are laid side by side as blocks of one matrix, so that a call costs little more for eight heads
# than for one. A large graph goes head by head, and its temporaries stay one head large.
_GROUPED_SLOTS = 1 << 20


class Pattern:
    """Where the slots of a CSR matrix stand; ``slot`` says where each of them finds its value, if not in place.

    The pattern of a group of heads knows that of a single head, its ``block``.
    """

    def __init__(
        self, rowptr: Tensor, col: Tensor, num_cols: int, slot: Tensor | None = None, block: Pattern | None = None
    ) -> None:
        self.rowptr = rowptr
        self.col = col
        self.num_cols = num_cols
        self.slot = slot
        self.block = block or self

    @cached_property
    def row(self) -> Tensor:
        return slot_rows(self.rowptr, self.col.numel())

    def spread(self, values: Tensor) -> Tensor:
        """Give every slot the value of its row."""
        block = self.block
        blocks = values.view(-1, block.rowptr.numel() - 1)  # as many as there are heads in the group
        return blocks.index_select(1, block.row).flatten()

    def matrix(self, values: Tensor) -> Tensor:
        size = (self.rowptr.numel() - 1, self.num_cols)
        return torch.sparse_csr_tensor(self.rowptr, self.col, values, size, check_invariants=False)


def blocks(pattern: Pattern, count: int) -> Pattern:
    """Lay the patterns of some heads along the diagonal: each has rows and columns of its own."""
    heads = _heads(pattern, count).unsqueeze(1)
    slot = None if pattern.slot is None else (pattern.slot + heads * pattern.col.numel()).flatten()
    col = (pattern.col + heads * pattern.num_cols).flatten()
    return Pattern(_stacked_rows(pattern, heads), col, count * pattern.num_cols, slot, pattern)


def sharing(pattern: Pattern, count: int) -> Pattern:
    """Lay the patterns of some heads below one another: the columns are the same for all."""
    rowptr = _stacked_rows(pattern, _heads(pattern, count).unsqueeze(1))
    return Pattern(rowptr, pattern.col.repeat(count), pattern.num_cols, None, pattern)


def beside(pattern: Pattern, count: int) -> Pattern:
    """Lay the patterns of some heads beside one another: a product then sums over the heads."""
    heads = _heads(pattern, count)
    slot = None if pattern.slot is None else (pattern.slot.unsqueeze(1) + heads * pattern.col.numel()).flatten()
    col = (pattern.col.unsqueeze(1) + heads * pattern.num_cols).flatten()
    return Pattern(pattern.rowptr * count, col, count * pattern.num_cols, slot, pattern)


def by_heads(
    pattern: Pattern, num_heads: int, tile: Callable[[Pattern, int], Pattern] = blocks
) -> Iterator[tuple[slice, Pattern]]:
    """Yield groups of heads with the pattern of each."""
    num_rows, num_slots = pattern.rowptr.numel() - 1, pattern.col.numel()
    fitting = min(_GROUPED_SLOTS // max(num_slots, 1), (2**31 - 1) // max(num_rows, pattern.num_cols, 1))
    step = max(1, min(num_heads, fitting))
    tiled: dict[int, Pattern] = {1: pattern}
    for start in range(0, num_heads, step):
        heads = slice(start, min(start + step, num_heads))
        count = heads.stop - start
        if count not in tiled:
            tiled[count] = tile(pattern, count)
        yield heads, tiled[count]


def _heads(pattern: Pattern, count: int) -> Tensor:
    return torch.arange(count, device=pattern.col.device, dtype=pattern.col.dtype)


def _stacked_rows(pattern: Pattern, heads: Tensor) -> Tensor:
    num_slots = pattern.col.numel()
    rowptr = (pattern.rowptr[:-1] + heads * num_slots).flatten()
    return torch.cat([rowptr, rowptr.new_full((1,), heads.numel() * num_slots)])


def add_products_(values: Tensor, a: Tensor, b: Tensor, pattern: Pattern, scale: float = 1.0) -> None:
    """Add ``scale * a[row] . b[col]`` to the values of every slot, in place."""
    if values.numel() > a.size(0) * b.size(0):
        # torch's kernel takes a matrix to store no more values than it has entries and corrupts memory where parallel
        # edges make it more. The dense product is the smaller one then. As in product, ``out`` keeps autocast away.
        dense = torch.mm(a, b.t(), out=a.new_empty(a.size(0), b.size(0)))
        values.add_(dense[pattern.row, pattern.col.long()], alpha=scale)
    elif values.numel():
        matrix = pattern.matrix(values)
        torch.sparse.sampled_addmm(matrix, a, b.t(), beta=1.0, alpha=scale, out=matrix)


def product(values: Tensor, x: Tensor, pattern: Pattern, out: Tensor) -> Tensor:
    """Sum ``values * x[col]`` over the slots of each row, into ``out``."""
    if values.numel() == 0:
        return out.zero_()
    matrix = pattern.matrix(values if pattern.slot is None else values.index_select(0, pattern.slot))
    # Only MKL builds multiply a CPU CSR matrix; the reduction kernel is torch's own and always there. With ``out``,
    # addmm keeps its dtype in a backward under autocast, which otherwise asks MKL for bfloat16 kernels that do not
    # exist. It adds nothing here, and mm would first make zeros of the size of the result and copy them.
    return torch.addmm(out, matrix, x, beta=0.0, out=out) if _HAS_MKL else out.copy_(torch.sparse.mm(matrix, x, "sum"))


def sum_over_heads(values: Tensor, x: Tensor, csc: tuple[Tensor, ...]) -> Tensor:
    """Sum ``values[h] * x[h, row]`` over heads and the entries of each column.

    The product itself adds up the heads: columns may be as many as edges, and a result per head would be E x H x C.
    """
    colptr, row, slot = csc
    parts = (
        product(values[heads].flatten(), x[heads].flatten(0, 1), pattern, x.new_empty(colptr.numel() - 1, x.size(2)))
        for heads, pattern in by_heads(Pattern(colptr, row, x.size(1), slot), x.size(0), beside)
    )
    total = next(parts)
    for part in parts:
        total += part
    return total


def row_sums(values: Tensor, pattern: Pattern) -> Tensor:
    ones = values.new_ones(pattern.num_cols, 1)
    return product(values, ones, pattern, values.new_empty(pattern.rowptr.numel() - 1, 1)).squeeze(1)


def softmax_(scores: Tensor, pattern: Pattern) -> None:
    """Replace the scores by their softmax over each row; rows without finite scores become 0."""
    if scores.numel() == 0:
        return
    top = torch.segment_reduce(scores, "max", offsets=pattern.rowptr, axis=0, unsafe=True, initial=-torch.inf)
    top.masked_fill_(top == -torch.inf, 0.0)
    scores.sub_(pattern.spread(top)).exp_()
    total = row_sums(scores, pattern)
    total.masked_fill_(total == 0, 1.0)
    scores.div_(pattern.spread(total))


def softmax_backward_(grad: Tensor, weights: Tensor, pattern: Pattern) -> None:
    """Turn the gradient of the weights into that of their scores, in place."""
    if grad.numel() == 0:
        return
    shift = row_sums(weights * grad, pattern)
    grad.sub_(pattern.spread(shift)).mul_(weights)
