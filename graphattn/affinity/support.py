"""Where the entries of an affinity stand, as edges or in a matrix: what a normalization needs to know of its storage.

Every reduction comes back spread over the entries, in their shape, so that one formula serves both storages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from graphattn import ops
from graphattn.ops import Layout

_INF = float("inf")


class Support(ABC):
    """Where the entries of an affinity stand; every reduction comes back in the shape of the entries."""

    @abstractmethod
    def row_sum(self, x: Tensor) -> Tensor:
        """Sum over the entries of the same row (target)."""

    @abstractmethod
    def col_sum(self, x: Tensor) -> Tensor:
        """Sum over the entries of the same column (source)."""

    @abstractmethod
    def row_max(self, x: Tensor) -> Tensor:
        """Largest entry of the same row, without gradient."""

    @abstractmethod
    def col_max(self, x: Tensor) -> Tensor:
        """Largest entry of the same column, without gradient."""

    @abstractmethod
    def total(self, x: Tensor) -> Tensor:
        """Sum over all entries of the same graph and head."""

    @abstractmethod
    def degrees(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Row sum of each entry's target, and row sum (square) or column sum (rectangular) of its source."""

    @abstractmethod
    def softmax(self, x: Tensor) -> Tensor:
        """Softmax over the entries of each row."""

    @abstractmethod
    def zero_outside(self, x: Tensor, value: float = 0.0) -> Tensor:
        """Replace what a storage holds outside the support by ``value``."""

    @abstractmethod
    def check(self, name: str, x: Tensor) -> None:
        """Raise if ``x`` does not fit the entries."""


class EdgeSupport(Support):
    r"""Entries are edges: values :math:`(E, H)` in the caller's edge order.

    Args:
        layout: The edges.
        batch: Graph of each target node, in any order; by default all edges belong to one graph.

    Shapes:
        - **input:** ``batch`` :math:`(N,)`, an integer tensor

    Raises:
        ValueError: If ``batch`` does not name one graph per target.

    Example:
        >>> edges = Layout(torch.tensor([[0, 1, 2], [0, 0, 2]]), 3, 3)
        >>> EdgeSupport(edges).row_sum(torch.tensor([[1.0], [2.0], [4.0]])).flatten().tolist()
        [3.0, 3.0, 4.0]
        >>> EdgeSupport(edges, torch.tensor([0, 0, 1])).total(torch.ones(3, 1)).flatten().tolist()
        [2.0, 2.0, 1.0]
    """

    def __init__(self, layout: Layout, batch: Tensor | None = None) -> None:
        self.layout = layout
        self._source, self._target = layout.edge_index.long()
        self._graph: Tensor | None = None
        if batch is not None:
            if batch.dim() != 1 or batch.numel() != layout.num_rows or batch.is_floating_point():
                raise ValueError(
                    f"batch has shape {tuple(batch.shape)} and dtype {batch.dtype}; "
                    f"expected ({layout.num_rows},) integers: one graph per target"
                )
            # A graph is named by how many nodes have a smaller id: always below N, even where ids skip empty graphs.
            self._graph = torch.searchsorted(batch.sort().values, batch).index_select(0, self._target)

    def _sum(self, x: Tensor, index: Tensor, size: int) -> Tensor:
        return x.new_zeros(size, x.size(1)).index_add(0, index, x)

    def _max(self, x: Tensor, index: Tensor, size: int) -> Tensor:
        x = x.detach()
        top = x.new_full((size, x.size(1)), -_INF)
        return top.scatter_reduce(0, index.unsqueeze(1).expand_as(x), x, "amax").index_select(0, index)

    def row_sum(self, x: Tensor) -> Tensor:
        return self._sum(x, self._target, self.layout.num_rows).index_select(0, self._target)

    def col_sum(self, x: Tensor) -> Tensor:
        return self._sum(x, self._source, self.layout.num_cols).index_select(0, self._source)

    def row_max(self, x: Tensor) -> Tensor:
        return self._max(x, self._target, self.layout.num_rows)

    def col_max(self, x: Tensor) -> Tensor:
        return self._max(x, self._source, self.layout.num_cols)

    def total(self, x: Tensor) -> Tensor:
        if self._graph is None:
            return x.sum(dim=0, keepdim=True).expand_as(x)
        return self._sum(x, self._graph, self.layout.num_rows).index_select(0, self._graph)

    def degrees(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._sum(x, self._target, self.layout.num_rows)
        square = self.layout.num_rows == self.layout.num_cols
        cols = rows if square else self._sum(x, self._source, self.layout.num_cols)
        return rows.index_select(0, self._target), cols.index_select(0, self._source)

    def softmax(self, x: Tensor) -> Tensor:
        return ops.edge_softmax(x, self.layout)

    def zero_outside(self, x: Tensor, value: float = 0.0) -> Tensor:
        return x

    def check(self, name: str, x: Tensor) -> None:
        if x.dim() != 2 or x.size(0) != self.layout.num_edges:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; expected [{self.layout.num_edges}, heads]: one value per edge"
            )


class DenseSupport(Support):
    r"""Entries are those of a matrix where a mask is true: values :math:`(..., N, M)`, anything outside is ignored.

    Args:
        mask: True where there is an edge; leading dimensions are heads or graphs.

    Shapes:
        - **input:** ``mask`` :math:`(..., N, M)`, bool

    Raises:
        TypeError: If ``mask`` is not a bool tensor.

    Example:
        >>> support = DenseSupport(torch.tensor([[True, True], [False, False]]))
        >>> support.row_sum(torch.tensor([[1.0, 2.0], [4.0, 8.0]])).tolist()
        [[3.0, 3.0], [0.0, 0.0]]
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.dtype != torch.bool:
            raise TypeError(f"mask has dtype {mask.dtype}; expected torch.bool")
        self.mask = mask
        self._outside = ~mask

    def _max(self, x: Tensor, dim: int) -> Tensor:
        x = self.zero_outside(x.detach(), -_INF)
        return x.amax(dim, keepdim=True).expand_as(x) if x.size(dim) else x

    def row_sum(self, x: Tensor) -> Tensor:
        return self.zero_outside(x).sum(-1, keepdim=True).expand_as(x)

    def col_sum(self, x: Tensor) -> Tensor:
        return self.zero_outside(x).sum(-2, keepdim=True).expand_as(x)

    def row_max(self, x: Tensor) -> Tensor:
        return self._max(x, -1)

    def col_max(self, x: Tensor) -> Tensor:
        return self._max(x, -2)

    def total(self, x: Tensor) -> Tensor:
        return self.zero_outside(x).sum((-2, -1), keepdim=True).expand_as(x)

    def degrees(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.row_sum(x)
        return rows, rows.transpose(-2, -1) if x.size(-2) == x.size(-1) else self.col_sum(x)

    def softmax(self, x: Tensor) -> Tensor:
        x = self.zero_outside(x, -_INF)
        top = self.row_max(x)
        return divide((x - top.masked_fill(top == -_INF, 0.0)).exp(), self.row_sum)

    def zero_outside(self, x: Tensor, value: float = 0.0) -> Tensor:
        return x.masked_fill(self._outside, value)

    def check(self, name: str, x: Tensor) -> None:
        if not broadcasts(self.mask, x) or x.shape[-2:] != self.mask.shape[-2:]:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected (..., {tuple(self.mask.shape)}) as the mask")


def broadcasts(x: Tensor, to: Tensor) -> bool:
    """Whether ``x`` has no more dimensions than ``to``, and in each the same size or 1."""
    pairs = zip(reversed(x.shape), reversed(to.shape), strict=False)
    return x.dim() <= to.dim() and all(size in (1, wanted) for size, wanted in pairs)


def divide(x: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Divide by a sum over the entries, leaving 0 where it is 0."""
    total = reduce(x)
    return x / total.masked_fill(total == 0, 1.0)
