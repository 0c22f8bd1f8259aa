"""The k-reciprocal encodings of a whole gallery, for queries that are items of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from graphattn.affinity._vectors import Vectors
from graphattn.affinity.gallery import GalleryGraph
from graphattn.affinity.neighbors import _expanded

Weigh = Callable[[Tensor, Tensor, Tensor], Tensor]

_BLOCK_NUMBERS, _BLOCK_BYTES = 1 << 20, 1 << 22
_MIN_ROWS = 1 << 10


@dataclass(frozen=True, eq=False)
class Encodings:
    r"""Encodings :math:`\bar{\mathbf{V}}` of all items, row i from entry ``start[i]`` to ``start[i + 1]``.

    Args:
        start: Where the rows begin.
        col: Items that an encoding is about.
        value: How much.
        support: Size of the reciprocal set of each item, itself not counted.

    Shapes:
        - ``start`` :math:`(N + 1,)`, ``col`` and ``value`` :math:`(E,)`, ``support`` :math:`(N,)`
    """

    start: Tensor
    col: Tensor
    value: Tensor
    support: Tensor

    def common(self, query: Tensor, candidates: Tensor) -> Tensor:
        """Sum the smaller of the encodings of each query ``[B]`` and of its candidates ``[B, K]``."""
        result = self.value.new_zeros(candidates.shape)
        of_query = self.value.new_zeros(self.support.numel())
        for row, (node, items) in enumerate(zip(query.tolist(), candidates, strict=True)):
            own = slice(int(self.start[node]), int(self.start[node + 1]))
            of_query[self.col[own]] = self.value[own]
            length = self.start[items + 1] - self.start[items]
            which = torch.arange(items.numel(), device=items.device).repeat_interleave(length)
            first = self.start[items] - (length.cumsum(0) - length)
            entry = torch.arange(which.numel(), device=items.device) + first[which]
            result[row].index_add_(0, which, torch.minimum(self.value[entry], of_query[self.col[entry]]))
            of_query[self.col[own]] = 0.0
        return result


_KNOWN: WeakKeyDictionary[GalleryGraph, dict[tuple[object, ...], Encodings]] = WeakKeyDictionary()


def gallery_encodings(
    graph: GalleryGraph, vectors: Vectors, k1: int, k2: int, weigh: Weigh, settings: tuple[object, ...]
) -> Encodings:
    """Return the encodings of all items, computed once for each graph and ``settings``, and kept as long as the graph.

    Args:
        graph: Neighbours of the items, at least ``max(k1, k2 - 1)``.
        vectors: The items.
        k1: As in :class:`~graphattn.retrieval.KReciprocal`.
        k2: Likewise.
        weigh: How items i weigh items j, given their similarities, i and j.
        settings: What the result depends on besides the graph.
    """
    known = _KNOWN.setdefault(graph, {})
    if settings not in known:
        known[settings] = _encode(graph, vectors, k1, k2, weigh)
    return known[settings]


def _encode(graph: GalleryGraph, vectors: Vectors, k1: int, k2: int, weigh: Weigh) -> Encodings:
    nodes = torch.arange(graph.num_items, device=graph.ids.device)
    lists = torch.cat([nodes.unsqueeze(1), graph.ids], dim=1)
    near, half = reciprocal(lists[:, : k1 + 1]), reciprocal(lists[:, : round(k1 / 2) + 1])
    rows, cols, values = [], [], []
    for block in nodes.split(_MIN_ROWS):
        row, col = _expanded(near[block], half)
        weight = weigh(_products(vectors, block, row, col), block[row], col)
        rows.append(block[row].int())
        cols.append(col.int())
        values.append(weight / weight.new_zeros(block.numel()).index_add_(0, row, weight)[row])
    entries = torch.stack([torch.cat(rows), torch.cat(cols)]), torch.cat(values)
    length = torch.bincount(entries[0][0], minlength=nodes.numel())
    if k2 > 1 and nodes.numel():
        encoded = torch.sparse_coo_tensor(*entries, (nodes.numel(), nodes.numel()), is_coalesced=True)
        parts = [_mean(lists[block, :k2], encoded) for block in nodes.split(max(_MIN_ROWS, nodes.numel() // 16))]
        length, col, value = (torch.cat(columns) for columns in zip(*parts, strict=True))
    else:
        col, value = entries[0][1], entries[1]
    start = torch.cat([length.new_zeros(1), length.cumsum(0)])
    return Encodings(start, col, value, (near[:, 1:] >= 0).sum(1))


def _products(vectors: Vectors, block: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Return the similarities of items ``block[row]`` and ``col``."""
    own, _ = vectors.take(block)
    size = max(1, _BLOCK_BYTES // (own.size(1) * own.element_size()))
    result = own.new_empty(row.numel())
    for part, i, j in zip(result.split(size), row.split(size), col.split(size), strict=True):
        part.copy_(torch.linalg.vecdot(own[i], vectors.take(j)[0]))
    return result


def _mean(lists: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Average sparse rows over lists; return the lengths of the resulting rows, their columns and values."""
    row, slot = (lists >= 0).nonzero(as_tuple=True)
    count = (lists >= 0).sum(1).to(encoded.dtype)
    index = torch.stack([row, lists[row, slot]])
    weight = torch.sparse_coo_tensor(index, 1.0 / count[row], (lists.size(0), encoded.size(0)))
    mean = torch.sparse.mm(weight, encoded).coalesce()
    row, col = mean.indices()
    return torch.bincount(row, minlength=lists.size(0)), col.int(), mean.values()


def reciprocal(lists: Tensor) -> Tensor:
    """Return the lists of all nodes with the neighbours that do not list the node replaced by -1."""
    mutual = torch.empty_like(lists, dtype=torch.bool)
    for nodes in torch.arange(lists.size(0), device=lists.device).split(max(1, _BLOCK_NUMBERS // lists.size(1) ** 2)):
        mutual[nodes] = (lists[lists[nodes].clamp(min=0)] == nodes.view(-1, 1, 1)).any(2)
    return lists.masked_fill(~mutual, -1)
