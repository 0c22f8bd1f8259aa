"""One call of a re-ranker: its arguments, checked and converted, and the vectors of one chunk of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphattn.affinity._vectors import Vectors
from graphattn.affinity.gallery import GalleryGraph
from graphattn.retrieval._first_stage import FirstStage
from graphattn.retrieval.batch import CandidateBatch


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of :meth:`Reranker.rerank`, in terms of tensors.

    Args:
        x: The queries ``[Q, D]``, scaled.
        there: Which of them are finite ``[Q]``.
        own: Which item of the gallery each of them is ``[Q]``; -1 for none.
        indices: The lists ``[Q, K]``.
        scores: Their scores ``[Q, K]``.
        vectors: The gallery.
        graph: Its neighbour lists, if the scope asks for them.
        query_nodes: Which item of the graph each query is ``[Q]``; -1 if it has to be inserted.
    """

    x: Tensor
    there: Tensor
    own: Tensor
    indices: Tensor
    scores: Tensor | None
    vectors: Vectors
    graph: GalleryGraph | None
    query_nodes: Tensor

    def gather(self, rows: slice, first: FirstStage, head: int, *, peers: bool) -> CandidateBatch:
        """Fetch the vectors of some queries: their own, those of their heads, and the other queries as peers."""
        num_peers = max(0, self.x.size(0) - 1) if peers else 0
        indices = first.indices[:, :head]
        # One gather fills all nodes; the places of the queries, which are not in the gallery, are filled afterwards.
        slots = torch.full((rows.stop - rows.start, 1 + head + num_peers), -1, device=indices.device)
        slots[:, 1 : 1 + head] = indices.masked_fill(~first.usable[:, :head], -1)
        nodes, node_mask = self.vectors.take(slots)
        nodes[:, 0], node_mask[:, 0] = self.x[rows], self.there[rows]
        if num_peers:
            row = torch.arange(rows.start, rows.stop, device=indices.device).unsqueeze(1)
            others = torch.arange(num_peers, device=indices.device)
            others = others + (others >= row)
            nodes[:, 1 + head :], node_mask[:, 1 + head :] = self.x[others], self.there[others]
        return CandidateBatch(
            nodes=nodes,
            node_mask=node_mask,
            indices=indices,
            first_stage=None if first.scores is None else first.scores[:, :head].to(self.x.dtype),
            gallery=self.vectors,
            graph=self.graph,
            query_nodes=self.query_nodes[rows],
        )
