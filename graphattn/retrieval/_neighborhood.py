"""The neighbour lists that some queries touch, as one set of nodes: of their own candidates or of a whole gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphattn.affinity.gallery import GalleryGraph
from graphattn.retrieval.batch import CandidateBatch

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, eq=False)
class Neighborhood:
    r"""Lists of the nearest nodes, the node itself at their front; nodes of different queries never meet.

    Args:
        lists: Nodes, -1 where there is none.
        smallest: Least similarity of each node to any of its query's.
        query: The node of each query.
        candidates: The nodes of its candidates; some node where a candidate is not there.
        products: Similarities of pairs of nodes, ``products(i, j)``.

    Shapes:
        - ``lists`` :math:`(n, 1 + k)`, ``smallest`` :math:`(n,)`, ``query`` :math:`(B,)`, ``candidates`` :math:`(B, K)`
    """

    lists: Tensor
    smallest: Tensor
    query: Tensor
    candidates: Tensor
    products: Callable[[Tensor, Tensor], Tensor]


def of_candidates(batch: CandidateBatch, k: int) -> Neighborhood:
    """Read the lists off the similarities within each set of candidates."""
    index, found = batch.neighbors(k, loops=True)
    num_queries, n = batch.node_mask.shape
    first = n * torch.arange(num_queries, device=index.device)
    present = batch.node_mask.unsqueeze(1)
    return Neighborhood(
        lists=(index + first.view(-1, 1, 1)).masked_fill_(~found, -1).flatten(0, 1),
        smallest=batch.between.masked_fill(~present, torch.inf).amin(2).flatten(),
        query=first,
        candidates=first.unsqueeze(1) + torch.arange(1, 1 + batch.indices.size(1), device=index.device),
        products=lambda i, j: batch.between.view(-1)[i * n + j % n],
    )


def of_gallery(batch: CandidateBatch, graph: GalleryGraph, k: int, reach: Sequence[int]) -> Neighborhood:
    """Join each query to the gallery's graph and read the lists of all that lies around it and its candidates.

    Args:
        batch: Queries and candidates.
        graph: The lists of the gallery, at least as long.
        k: Length of the lists.
        reach: From the queries and candidates on, the number of neighbours through which each further step goes. What
            is farther off is missing from the lists.
    """
    num_items = graph.num_items
    inserted = batch.query_nodes < 0
    own_id = torch.where(inserted, num_items, batch.query_nodes)
    own_ids, _ = batch.gallery.nearest(batch.queries, k, batch.query_nodes)

    # Node id + which * (N + 1) is an item, or the query as item N, as the query number `which` sees it.
    stride = num_items + 1
    first = stride * torch.arange(own_id.size(0), device=own_id.device)
    query_key = first + own_id
    keys = torch.cat([query_key, (batch.indices + first.unsqueeze(1))[batch.mask]]).unique()
    for width in reach:
        which, ids = keys // stride, keys % stride
        near = graph.ids[ids.clamp(max=num_items - 1), :width]
        near = torch.where((ids == num_items).unsqueeze(1), own_ids[which, :width], near)
        keys = torch.cat([keys, query_key, (near + first[which].unsqueeze(1))[near >= 0]]).unique()

    which, ids = keys // stride, keys % stride
    is_new = ids == num_items
    vectors, _ = batch.gallery.take(ids.masked_fill(is_new, -1))
    vectors[is_new] = batch.queries[which[is_new]]
    items = ids.clamp(max=num_items - 1)
    joined = graph.insert(items, torch.linalg.vecdot(vectors, batch.queries[which]).to(graph.similarity.dtype))
    sees_new = inserted[which]
    lists = torch.where(sees_new.unsqueeze(1), joined.ids, graph.ids[items])[:, :k]
    lists[is_new] = own_ids[which[is_new], : lists.size(1)]
    smallest = torch.where(sees_new, joined.smallest, graph.smallest[items])
    smallest[is_new] = _smallest(batch)[which[is_new]].to(smallest.dtype)

    wanted = torch.where(lists >= 0, lists + first[which].unsqueeze(1), -1)
    own = torch.arange(keys.numel(), device=keys.device)

    def products(i: Tensor, j: Tensor) -> Tensor:
        size = max(1, _BLOCK_BYTES // (vectors.size(1) * vectors.element_size()))
        result = vectors.new_empty(i.numel())
        for part, rows, cols in zip(result.split(size), i.split(size), j.split(size), strict=True):
            part.copy_(torch.linalg.vecdot(vectors[rows], vectors[cols]))
        return result

    return Neighborhood(
        lists=torch.cat([own.unsqueeze(1), _positions(keys, wanted)], dim=1),
        smallest=smallest.to(vectors.dtype),
        query=_positions(keys, query_key),
        candidates=_positions(keys, batch.indices + first.unsqueeze(1)).clamp(min=0),
        products=products,
    )


def _smallest(batch: CandidateBatch) -> Tensor:
    """Return the least similarity of each query to the gallery."""
    smallest = batch.queries.new_full(batch.queries.shape[:1], torch.inf)
    for _, rows, there in batch.gallery.blocks():
        if bool(there.any()):
            smallest = torch.minimum(smallest, (batch.queries @ rows[there].t()).amin(1))
    return smallest


def _positions(keys: Tensor, wanted: Tensor) -> Tensor:
    """Return where values stand among sorted keys, -1 for those that do not."""
    place = torch.searchsorted(keys, wanted).clamp_(max=keys.numel() - 1)
    return place.masked_fill_(keys[place] != wanted, -1)
