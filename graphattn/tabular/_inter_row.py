"""Which rows of a table attend to which: all, the nearest, or those of a given affinity; and parts of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.affinity import SparseAffinity, knn


def coordinates(table: Tensor, categories: Sequence[int]) -> Tensor:
    """Return features ``[n, D]`` whose distances compare rows: standardized numbers, and one-hot categories.

    Two different categories are as far apart as numbers that differ by 1; what is missing counts as the mean.

    Args:
        table: Encoded features ``[n, d]``, NaN where they are missing.
        categories: For each column its number of categories, 0 for a continuous one.
    """
    parts = []
    for column, number in enumerate(categories):
        values = table[:, column]
        if number:
            known = ~values.isnan() & (values >= 0)
            codes = torch.where(known, values, 0.0).long()
            parts.append(F.one_hot(codes, number).to(table.dtype) * known.unsqueeze(1) * 0.5**0.5)
        else:
            parts.append(values.nan_to_num(nan=0.0).unsqueeze(1))
    return torch.cat(parts, dim=1)


def nearest_rows(points: Tensor, k: int) -> SparseAffinity:
    """Let each row draw on itself and on its nearest others."""
    n = points.size(0)
    edges = torch.arange(n, device=points.device).expand(2, -1)
    if n > 1:
        edges = torch.cat([knn(points, k).edge_index, edges], dim=1)
    return SparseAffinity(edges, None, (n, n))


def with_queries(context: SparseAffinity, queries: SparseAffinity) -> SparseAffinity:
    """Append rows that draw on context rows and on themselves to rows that do not draw on them.

    Args:
        context: Which of the ``m`` context rows draw on which, ``m x m``.
        queries: Which context rows the ``q`` appended rows draw on, ``q x m``.
    """
    (q, m), n = queries.shape, sum(queries.shape)
    source, target = queries.edge_index.long()
    loops = torch.arange(m, n, device=source.device).expand(2, -1)
    edges = torch.cat([context.edge_index.long(), torch.stack([source, target + m]), loops], dim=1)
    if context.weight is None and queries.weight is None:
        return SparseAffinity(edges, None, (n, n))
    inner, outer = context.weights(), queries.weights()
    return SparseAffinity(edges, torch.cat([inner, outer.to(inner.dtype), inner.new_ones(q)]), (n, n))


def with_loops(rows: SparseAffinity) -> SparseAffinity:
    """Let every row draw on itself too, with weight 1, unless it does already."""
    source, target = rows.edge_index.long()
    missing = torch.ones(rows.shape[0], dtype=torch.bool, device=source.device)
    missing[target[source == target]] = False
    loops = missing.nonzero().flatten().expand(2, -1)
    weight = None if rows.weight is None else torch.cat([rows.weight, rows.weight.new_ones(loops.size(1))])
    return SparseAffinity(torch.cat([rows.edge_index.long(), loops], dim=1), weight, rows.shape)


def part(rows: SparseAffinity, targets: Tensor, sources: Tensor) -> SparseAffinity:
    """Return how some rows draw on some rows, in the orders given."""
    slot, target = _slots(rows, targets)
    _, col, perm = rows.layout.csr()
    place = torch.full((rows.shape[1],), -1, dtype=torch.int64, device=targets.device)
    place[sources] = torch.arange(sources.numel(), device=targets.device)
    source = place[col[slot].long()]
    inside = source >= 0
    edges = slot if perm is None else perm[slot]
    weight = None if rows.weight is None else rows.weight[edges[inside]]
    shape = targets.numel(), sources.numel()
    return SparseAffinity(torch.stack([source[inside], target[inside]]), weight, shape)


def num_chunks(num_rows: int, size: int, rows: SparseAffinity | None) -> int:
    """Return how many chunks it takes until every row was in one, or with an affinity until it was a seed of one."""
    if num_rows <= size:
        return 1
    drawn = num_rows if rows is None else max(num_rows, rows.layout.num_edges)
    return min(num_rows, -(-drawn // size))


def row_chunks(num_rows: int, size: int, rows: SparseAffinity | None, device: torch.device) -> Iterator[Tensor]:
    """Yield parts of all rows for ever, each of at most ``size`` and in random order, all rows where they fit in one.

    With an affinity a part is some rows and those they draw on, up to the size, so that of these rows little is missing
    that they draw on; every row is one of them once before any is again.
    """
    if num_rows <= size:
        while True:
            yield torch.arange(num_rows, device=device)
    while True:
        order = torch.randperm(num_rows).to(device)
        for seeds in order.tensor_split(num_chunks(num_rows, size, rows)):
            yield seeds if rows is None else _neighborhood(seeds, size, rows)


def _neighborhood(seeds: Tensor, size: int, rows: SparseAffinity) -> Tensor:
    """The rows and, as far as there is room, those they draw on."""
    slot, _ = _slots(rows, seeds)
    is_new = torch.zeros(rows.shape[0], dtype=torch.bool, device=seeds.device)
    is_new[rows.layout.csr()[1][slot].long()] = True
    is_new[seeds] = False
    others = is_new.nonzero().flatten()
    others = others[torch.randperm(others.numel()).to(others.device)]
    return torch.cat([seeds, others])[:size]


def _slots(rows: SparseAffinity, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The slots of the edges into some rows, and the number among them of the row that each ends in."""
    rowptr = rows.layout.csr()[0].long()
    degree = rowptr.diff()[targets]
    number = torch.arange(targets.numel(), device=targets.device).repeat_interleave(degree)
    start = rowptr[:-1][targets] - (degree.cumsum(0) - degree)
    return torch.arange(number.numel(), device=targets.device) + start[number], number
