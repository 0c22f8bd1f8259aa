"""The sorted view of an edge list that every sparse kernel reads: CSR, its transpose, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

_INT32 = 2**31


@torch.library.custom_op("graphattn::csr_layout", mutates_args=())
def csr_layout(edge_index: Tensor, num_rows: int, num_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort edges by (target, source), ties in the caller's order: row pointer, columns, sorted slot -> edge.

    An unchecked column makes torch's sparse kernels read foreign memory, so on the CPU the range is checked here, where
    compiled code passes too.
    """
    if edge_index.device.type == "cpu":
        check_range(edge_index, num_rows, num_cols)
    if num_rows * num_cols >= 2**63:
        raise ValueError(f"a graph of {num_rows} x {num_cols} nodes has more entries than int64 can number")
    index = index_dtype(edge_index, num_rows, num_cols)
    key = edge_index[1].long() * num_cols + edge_index[0]
    key, perm = _sort(key, num_rows * num_cols)
    starts = torch.arange(num_rows + 1, device=key.device) * num_cols
    rowptr = torch.searchsorted(key, starts, out_int32=index == torch.int32)
    col = key.remainder_(max(num_cols, 1)).to(index)
    return rowptr, col, perm


@csr_layout.register_fake
def _(edge_index: Tensor, num_rows: int, num_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    index = index_dtype(edge_index, num_rows, num_cols)
    num_edges = edge_index.size(1)
    return (
        edge_index.new_empty(num_rows + 1, dtype=index),
        edge_index.new_empty(num_edges, dtype=index),
        edge_index.new_empty(num_edges, dtype=torch.int64),
    )


@torch.library.custom_op("graphattn::csc_layout", mutates_args=())
def csc_layout(rowptr: Tensor, col: Tensor, num_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Transpose a CSR pattern: column pointer, row of each entry, and the CSR slot it came from."""
    col_sorted, slot = _sort(col.long(), num_cols)
    row = slot_rows(rowptr, col.numel()).index_select(0, slot)
    starts = torch.arange(num_cols + 1, device=col.device)
    colptr = torch.searchsorted(col_sorted, starts, out_int32=col.dtype == torch.int32)
    return colptr, row.to(col.dtype), slot


@csc_layout.register_fake
def _(rowptr: Tensor, col: Tensor, num_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    return col.new_empty(num_cols + 1), torch.empty_like(col), torch.empty_like(col, dtype=torch.int64)


def _sort(key: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """Sort int64 numbers from 0 up to a bound, ties in their order: the numbers, and the place of each before.

    On the CPU a number and its place are packed into one integer, of which NumPy sorts 5,000 7 times and a million
    twice as fast as torch sorts the numbers.
    """
    bits = max(key.numel() - 1, 1).bit_length()
    if key.device.type != "cpu" or bound.bit_length() + bits > 63:
        return torch.sort(key, stable=True)
    packed = (key << bits).bitwise_or_(torch.arange(key.numel()))
    packed.numpy().sort()
    return packed >> bits, packed.bitwise_and_((1 << bits) - 1)


def known_csc(rowptr: Tensor, col: Tensor, csc: Sequence[Tensor | None], num_cols: int) -> tuple[Tensor, ...]:
    """Return the transposed pattern of a call: the caller's cached one, else built now."""
    colptr, row, slot = csc
    if colptr is None or row is None or slot is None:
        return csc_layout(rowptr, col, num_cols)
    return colptr, row, slot


def slot_rows(rowptr: Tensor, num_edges: int) -> Tensor:
    """Expand a row pointer to the int64 row of every slot."""
    rows = torch.arange(rowptr.numel() - 1, device=rowptr.device)
    return rows.repeat_interleave(rowptr.diff().long(), output_size=num_edges)


def check_range(edge_index: Tensor, num_rows: int, num_cols: int) -> None:
    """Raise if an edge names a source or a target that does not exist (reads values: CPU only)."""
    if edge_index.numel() == 0:
        return
    low, high = (values.tolist() for values in torch.aminmax(edge_index, dim=1))
    for side, name, bound in ((0, "source", num_cols), (1, "target", num_rows)):
        if low[side] < 0 or high[side] >= bound:
            wrong = low[side] if low[side] < 0 else high[side]
            raise ValueError(
                f"edge_index[{side}] contains {wrong}, but there are {bound} {name} nodes; "
                f"expected values in [0, {bound})"
            )


def check_edge_index(edge_index: Any) -> None:
    """Raise if ``edge_index`` is not an integer tensor of shape [2, E] (reads no values)."""
    if not isinstance(edge_index, Tensor):
        raise TypeError(
            f"edge_index is a {type(edge_index).__name__}; expected an integer Tensor of shape [2, E], "
            "an EdgeIndex or an Affinity"
        )
    if edge_index.layout != torch.strided:
        raise TypeError(
            f"edge_index is a {edge_index.layout} tensor; pass Affinity.from_torch_sparse(edge_index) instead"
        )
    if edge_index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"edge_index has dtype {edge_index.dtype}; expected int64 or int32")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(f"edge_index has shape {tuple(edge_index.shape)}; expected [2, E]")


def index_dtype(edge_index: Tensor, num_rows: int, num_cols: int) -> torch.dtype:
    # MKL reads int32; int64 costs a conversion per call and twice the memory.
    fits = num_rows < _INT32 and num_cols < _INT32 and edge_index.size(1) < _INT32
    return torch.int32 if fits else torch.int64


class Layout:
    """The edges of one graph and, from first use on, the sorted views of them that the kernels read.

    Kernels work on *slots*: edges sorted by (row, column). ``perm`` maps a slot to the caller's edge and is ``None``
    where the two orders are the same. Rows are targets, columns are sources.

    Args:
        edge_index: The caller's edges, source row first, shape :math:`(2, E)`. The pointers that a sorted
            ``EdgeIndex`` has cached are borrowed.
        num_rows: Number of targets :math:`N`.
        num_cols: Number of sources :math:`M`.
        csr: Row pointer, columns and permutation, if already known.
        csc: Column pointer, rows and slots of the transpose, if already known.
        reused: Whether the layout outlives the call it was made for, so that sorting a small graph pays.

    Example:
        >>> layout = Layout(torch.tensor([[0, 2, 1], [1, 0, 0]]), num_rows=2, num_cols=3)
        >>> [x.tolist() for x in layout.csr()]
        [[0, 2, 3], [1, 2, 0], [2, 1, 0]]
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_rows: int,
        num_cols: int,
        csr: tuple[Tensor, Tensor, Tensor | None] | None = None,
        csc: tuple[Tensor, Tensor, Tensor] | None = None,
        reused: bool = True,
    ) -> None:
        self.reused = reused
        self.num_rows = num_rows
        self.num_cols = num_cols
        self._csr = csr
        self._csc = csc
        self._looped: tuple[Layout, Tensor] | None = None
        self._sorted: Layout | None = None
        self._lender: EdgeIndex | None = None
        self.edge_index = edge_index
        if num_rows < 0 or num_cols < 0:
            raise ValueError(f"num_rows is {num_rows} and num_cols is {num_cols}; expected at least 0")
        if isinstance(edge_index, EdgeIndex):
            self.edge_index = edge_index.as_tensor()
            if edge_index.is_sorted_by_col and edge_index.get_sparse_size() == (num_cols, num_rows):
                self._borrow(edge_index)

    def _borrow(self, edges: EdgeIndex) -> None:
        """Take the pointers that PyG has cached: its CSC of a (source, target) matrix is our CSR by target."""
        if self.edge_index.device.type == "cpu":
            check_range(self.edge_index, self.num_rows, self.num_cols)
        (rowptr, source), _ = edges.get_csc()
        index = index_dtype(self.edge_index, self.num_rows, self.num_cols)
        self._csr = rowptr.to(index), source.to(index), None
        self._lender = edges

    @property
    def num_edges(self) -> int:
        return self.edge_index.size(1)

    def csr(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return row pointer (N + 1), source of each slot (E) and the caller's edge of each slot (E)."""
        if self._csr is None:
            self._csr = csr_layout(self.edge_index, self.num_rows, self.num_cols)
        return self._csr

    def csc(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the transposed pattern: column pointer (M + 1), target (E) and slot (E) of each of its entries."""
        if self._csc is None:
            rowptr, col, _ = self.csr()
            if self._lender is None:
                self._csc = csc_layout(rowptr, col, self.num_cols)
            else:
                (colptr, target), slot = self._lender.get_csr()
                self._csc = colptr.to(col.dtype), target.to(col.dtype), slot.long()
        return self._csc

    def pattern(self, dense: Tensor) -> tuple[Tensor | None, ...]:
        """Return what a product with a dense operand reads: CSR, and its transpose if that will need a gradient."""
        rowptr, col, _ = self.csr()
        needs_transpose = torch.is_grad_enabled() and dense.requires_grad
        return rowptr, col, *(self.csc() if needs_transpose else (None, None, None))

    def transpose(self) -> Layout:
        """Return the graph with every edge reversed; its two sorted views are this one's, the other way round."""
        rowptr, col, perm = self.csr()
        colptr, row, slot = self.csc()
        back = torch.empty_like(slot).index_copy(0, slot, torch.arange(slot.numel(), device=slot.device))
        csr = colptr, row, slot if perm is None else perm.index_select(0, slot)
        return Layout(self.edge_index.flip(0), self.num_cols, self.num_rows, csr, (rowptr, col, back))

    def incidence(self) -> Layout:
        """Return the target-by-edge pattern: row i holds the edges that end in i, named in the caller's order.

        With it the two kernels also serve edge features, which stay [E, D] and are never copied per head.
        """
        rowptr, col, perm = self.csr()
        edges, target = torch.arange(self.num_edges + 1, device=col.device), self.edge_index[1]
        colptr, edges = edges.to(col.dtype), edges[:-1]
        # A column has one entry, so that the transpose needs no sorting.
        slot = edges if perm is None else torch.empty_like(perm).index_copy_(0, perm, edges)
        csr = rowptr, (edges if perm is None else perm).to(col.dtype), perm
        csc = colptr, target.to(col.dtype), slot
        return Layout(torch.stack([edges, target.long()]), self.num_rows, self.num_edges, csr, csc)

    def with_self_loops(self) -> tuple[Layout, Tensor]:
        """Return the graph with one loop per node appended, and which of all its edges count; computed once.

        The caller's edges keep their places. A node has one loop: the caller's first, else the appended one; the
        others are marked as not counting. There are min(N, M) loops, and no shape depends on data.
        """
        if self._looped is None:
            source, target = self.edge_index.long()
            slot = torch.arange(self.num_edges, device=source.device)
            num_edges = torch.full_like(slot[:1], self.num_edges) if self.num_edges else slot.new_zeros(1)
            candidates = torch.where(source == target, slot, num_edges)
            first = num_edges.expand(self.num_rows).scatter_reduce(0, target, candidates, "amin")
            loops = torch.arange(min(self.num_rows, self.num_cols), device=source.device)
            counts = torch.cat(
                [(source != target) | (first.index_select(0, target) == slot), first[: loops.numel()] == num_edges]
            )
            edge_index = torch.cat([self.edge_index, torch.stack([loops, loops]).to(self.edge_index.dtype)], dim=1)
            self._looped = Layout(edge_index, self.num_rows, self.num_cols, reused=self.reused), counts
        return self._looped

    def sorted(self) -> tuple[Layout, Tensor | None]:
        """Return the graph with its edges in slot order, computed once, and the caller's edge of each of them.

        Where nobody asks for single edges, their values then need not be brought to slots and back.
        """
        rowptr, col, perm = self.csr()
        if perm is None:
            return self, None
        if self._sorted is None:
            edge_index, csr = self.edge_index.index_select(1, perm), (rowptr, col, None)
            self._sorted = Layout(edge_index, self.num_rows, self.num_cols, csr, self._csc, self.reused)
        return self._sorted, perm

    def to_slots(self, values: Tensor) -> Tensor:
        """Bring edge values [E, H] from the caller's order to heads-first slots [H, E], contiguous."""
        _, _, perm = self.csr()
        return (values if perm is None else values.index_select(0, perm)).t().contiguous()

    def to_edges(self, slots: Tensor) -> Tensor:
        """Bring heads-first slot values [H, E] back to edge values [E, H] in the caller's order."""
        _, _, perm = self.csr()
        return slots.t() if perm is None else slots.t().new_zeros(slots.t().shape).index_copy(0, perm, slots.t())

    def __repr__(self) -> str:
        return f"Layout(rows={self.num_rows}, cols={self.num_cols}, edges={self.num_edges})"
