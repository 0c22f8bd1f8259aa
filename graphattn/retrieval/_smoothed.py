"""A gallery smoothed by graph convolution, and what a query becomes beside it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.affinity import SparseAffinity
from graphattn.affinity._vectors import Vectors, stable_top_k
from graphattn.affinity.gallery import GalleryGraph
from graphattn.nn.rerank_conv import RerankConv


def weights(similarity: Tensor, beta: float) -> Tensor:
    """Return the weights of neighbours, up to a common factor, which cancels out and would let them overflow."""
    return torch.exp((similarity - 1.0) / beta)


def propagation(edge_index: Tensor, weight: Tensor, num_nodes: int, mode: str) -> SparseAffinity:
    """Divide the weight of each edge by the root of the row sum and the column sum."""
    if mode == "sym":
        edge_index, weight = torch.cat([edge_index, edge_index.flip(0)], dim=1), torch.cat([weight, weight]) / 2
    source, target = edge_index
    degrees = [(ends, weight.new_zeros(num_nodes).index_add_(0, ends, weight)) for ends in (target, source)]
    for ends, degree in degrees:
        weight = weight * _inverse_root(degree)[ends]
    return SparseAffinity(edge_index, weight, (num_nodes, num_nodes))


class SmoothedGallery(GalleryGraph):
    """The vectors of a gallery after some rounds of graph convolution, and the neighbours among them.

    Args:
        ids: Neighbours, as the next two in :class:`~graphattn.affinity.gallery.GalleryGraph`.
        similarity: Their similarities.
        smallest: The least similarity of each item.
        vectors: The smoothed vectors, zero where one is not finite.
        there: Which of them are finite.
        column_sums: Sum of the weights with which others, and the item itself, draw on each item.
        row_sums: Sum of the weights with which each draws on others and itself.

    Shapes:
        - ``ids`` and ``similarity`` :math:`(N, k - 1)`, ``vectors`` :math:`(N, D)`, the others :math:`(N,)`
    """

    _fields = ("ids", "similarity", "smallest", "vectors", "there", "column_sums", "row_sums")

    def __init__(
        self,
        ids: Tensor,
        similarity: Tensor,
        smallest: Tensor,
        vectors: Tensor,
        there: Tensor,
        column_sums: Tensor,
        row_sums: Tensor,
    ) -> None:
        super().__init__(ids, similarity, smallest)
        self.vectors = vectors
        self.there = there
        self.column_sums = column_sums
        self.row_sums = row_sums

    @staticmethod
    def smooth(
        gallery: Tensor | np.ndarray, k: int, beta: float, rounds: int, mode: str, *, normalize: bool, nan_policy: str
    ) -> SmoothedGallery:
        """Replace all vectors ``rounds`` times; ``k`` counts the item itself and is at least 2."""
        x, there = Vectors(gallery, normalize=normalize, nan_policy=nan_policy).all()
        own = torch.arange(x.size(0), device=x.device).masked_fill_(~there, -1).unsqueeze(1)

        def joined(x: Tensor) -> tuple[GalleryGraph, Tensor, Tensor]:
            """Find the neighbours; return them, and the edges from them and from each item to itself with weights."""
            known = x.masked_fill(~there.unsqueeze(1), torch.nan)
            graph = GalleryGraph.build(known, k - 1, normalize=False, nan_policy=nan_policy)
            ids = torch.cat([own, graph.ids], dim=1)
            target, slot = (ids >= 0).nonzero(as_tuple=True)
            similarity = torch.cat([torch.linalg.vecdot(x, x).unsqueeze(1), graph.similarity], dim=1)
            edge_index = torch.stack([ids[target, slot], target])
            return graph, edge_index, weights(similarity[target, slot], beta)

        for _ in range(rounds):
            _, edge_index, weight = joined(x)
            x = RerankConv(l2_normalize=True)(x, propagation(edge_index, weight, x.size(0), mode))
        graph, edge_index, weight = joined(x)
        columns, rows = (weight.new_zeros(x.size(0)).index_add_(0, ends, weight) for ends in edge_index)
        return SmoothedGallery(graph.ids, graph.similarity, graph.smallest, x, there, columns, rows)

    def beside(self, query: Tensor, beta: float, mode: str) -> Tensor:
        """Smooth a vector once that is a further node beside the smoothed gallery."""
        similarity = (self.vectors @ query).masked_fill_(~self.there, -torch.inf)
        value, place = stable_top_k(similarity, min(self.k, self.num_items))
        listed, own = weights(value, beta), weights(query.dot(query), beta)

        # Lists that the query enters lose their last entry.
        entered = (self.there & (similarity >= self.similarity[:, -1])).nonzero().squeeze(1)
        entering, dropped = weights(similarity[entered], beta), weights(self.similarity[entered, -1], beta)
        full = self.ids[entered, -1] >= 0
        columns = self.column_sums.index_add(0, self.ids[entered, -1][full], -dropped[full])
        columns = columns.index_add(0, place, listed)
        degree, own_degree = columns, own + entering.sum()
        row = torch.zeros_like(columns).index_add_(0, place, listed)
        if mode == "sym":
            rows = self.row_sums.index_add(0, entered, entering - dropped)
            degree, own_degree = (rows + columns) / 2, (own_degree + own + listed.sum()) / 2
            row = row.index_add_(0, entered, entering) / 2
        near = row.nonzero().squeeze(1)
        mean = (row[near] * _inverse_root(degree[near])) @ self.vectors[near]
        return F.normalize(mean + own * _inverse_root(own_degree) * query, dim=0)


def _inverse_root(degree: Tensor) -> Tensor:
    return degree.rsqrt().masked_fill_(degree <= 0, 0.0)
