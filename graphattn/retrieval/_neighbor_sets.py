"""Neighbour sets of a whole gallery as sparse features, and sums of them over neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphattn.affinity.gallery import GalleryGraph
from graphattn.retrieval.batch import CandidateBatch


@dataclass(frozen=True, eq=False)
class NeighborSets:
    r"""The nodes nearest to each node, itself at the front.

    Args:
        lists: Nodes, -1 where there is none.
        weight: With which weight a node draws on each.

    Shapes:
        - ``lists`` and ``weight`` :math:`(n, 1 + k)`
    """

    lists: Tensor
    weight: Tensor

    def features(self, k: int) -> Tensor:
        """Return the sparse matrix that is 1 where the column is among the first ``k`` of the row's list."""
        return _sparse(self.lists[:, :k], torch.ones_like(self.weight[:, :k]), self.lists.size(0))

    def sums(self, nodes: Tensor, k: int, features: Tensor) -> Tensor:
        """Sum rows of sparse features over the first ``k`` of the lists of some nodes, and scale to unit length."""
        weight = _sparse(self.lists[nodes, :k], self.weight[nodes, :k], self.lists.size(0))
        out = torch.sparse.mm(weight, features).coalesce()
        row, value = out.indices()[0], out.values()
        length = value.new_zeros(nodes.numel()).index_add_(0, row, value.square()).sqrt_()
        return torch.sparse_coo_tensor(out.indices(), value / length.masked_fill_(length == 0, 1.0)[row], out.shape)


def gallery_sets(batch: CandidateBatch, graph: GalleryGraph, which: int, k: int) -> NeighborSets:
    """Return the similarities to the ``k`` nearest of all items, and of query ``which`` if it is none of them.

    The query is then the last node.
    """
    query = batch.queries[which]
    blocks = [
        (torch.linalg.vecdot(rows, rows), torch.linalg.vecdot(rows, query).masked_fill_(~there, -torch.inf), there)
        for _, rows, there in batch.gallery.blocks()
    ]
    own, to_query, there = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    nodes = torch.arange(graph.num_items, device=query.device)
    ids, similarity = graph.ids, graph.similarity
    if int(batch.query_nodes[which]) < 0:
        joined = graph.insert(nodes, to_query.to(similarity.dtype))
        found = batch.gallery.nearest(query.unsqueeze(0), graph.k)
        ids, similarity = torch.cat([joined.ids, found[0]]), torch.cat([joined.similarity, found[1].to(similarity)])
        nodes = torch.cat([nodes, nodes.new_tensor([graph.num_items])])
        own, there = torch.cat([own, query.dot(query).view(1)]), torch.cat([there, there.new_ones(1)])
    lists = torch.cat([nodes.masked_fill(~there, -1).unsqueeze(1), ids[:, :k]], dim=1)
    similarity = torch.cat([own.unsqueeze(1), similarity[:, :k].to(own)], dim=1)
    missing = (lists < 0) | (similarity == -torch.inf)
    return NeighborSets(lists.masked_fill_(missing, -1), similarity.masked_fill_(missing, 0.0))


def first_row_products(features: Tensor) -> Tensor:
    """Return the inner products of the rows of sparse features with their first row."""
    features = features.coalesce()
    (row, col), value = features.indices(), features.values()
    first = value.new_zeros(features.size(1)).index_add_(0, col[row == 0], value[row == 0])
    return value.new_zeros(features.size(0)).index_add_(0, row, value * first[col])


def _sparse(lists: Tensor, weight: Tensor, size: int) -> Tensor:
    row, slot = (lists >= 0).nonzero(as_tuple=True)
    index = torch.stack([row, lists[row, slot]])
    return torch.sparse_coo_tensor(index, weight[row, slot], (lists.size(0), size)).coalesce()
