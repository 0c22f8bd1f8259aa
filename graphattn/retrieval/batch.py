"""CandidateBatch: some queries with their candidates, as a re-ranking method sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from graphattn.affinity import DenseAffinity
from graphattn.affinity._vectors import Vectors
from graphattn.affinity.gallery import GalleryGraph, list_neighbors


@dataclass(frozen=True, eq=False)
class CandidateBatch:
    r"""One chunk of queries: for each a set of nodes, which are the query, its candidates and any peers.

    Node 0 is the query, nodes 1 to K are its candidates in the order of the first stage, the :math:`P` nodes behind
    them are the other queries if ``transductive``. What is not there is a zero vector with ``node_mask`` False: it is
    similar to nothing. Vectors have unit length (unless ``normalize=False``) and at least float32.

    Args:
        nodes: Vectors of the nodes.
        node_mask: Which nodes are there.
        indices: Ids of the candidates; may be other than -1 where the mask is False.
        first_stage: Scores that came with the lists, if any.
        gallery: The vectors of the gallery, ``gallery.take(ids)``.
        graph: The gallery's neighbour lists, if ``scope="gallery"``.
        query_nodes: Which item of ``graph`` each query is; -1 if it has to be inserted. If ``transductive``, the
            queries are items of ``gallery`` and ``graph`` behind all others.

    Shapes:
        - ``nodes`` :math:`(B, n, D)`, ``node_mask`` :math:`(B, n)`, ``indices`` and ``first_stage``
          :math:`(B, K)`, ``query_nodes`` :math:`(B,)`, with :math:`n = 1 + K + P`

    Example:
        >>> from graphattn.retrieval import Reranker
        >>> class Center(Reranker):
        ...     def _scores(self, batch: CandidateBatch) -> Tensor:
        ...         return batch.products(batch.candidates.mean(1))
        >>> gallery = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> Center().rerank(torch.tensor([[1.0, 0.0]]), gallery).indices
        tensor([[1, 2, 0]])
    """

    nodes: Tensor
    node_mask: Tensor
    indices: Tensor
    first_stage: Tensor | None
    gallery: Vectors
    graph: GalleryGraph | None
    query_nodes: Tensor
    reports: dict[str, Tensor] = field(default_factory=dict)

    @property
    def queries(self) -> Tensor:
        """The queries ``[B, D]``."""
        return self.nodes[:, 0]

    @property
    def candidates(self) -> Tensor:
        """The candidates ``[B, K, D]``."""
        return self.nodes[:, 1 : 1 + self.indices.size(1)]

    @property
    def mask(self) -> Tensor:
        """Which candidates are there, ``[B, K]``."""
        return self.node_mask[:, 1 : 1 + self.indices.size(1)]

    @cached_property
    def similarity(self) -> Tensor:
        """Inner products of query and candidates, ``[B, K]``."""
        return self.products(self.queries)

    def products(self, x: Tensor) -> Tensor:
        """Return the inner products ``[B, K]`` of the candidates with one vector per query, ``x [B, D]``."""
        # Unlike a matrix product, this rounds each pair alike wherever it stands: copies get equal products.
        return torch.linalg.vecdot(self.candidates, x.unsqueeze(1))

    @property
    def scores(self) -> Tensor:
        """What the first stage gave, ``[B, K]``, larger is better; the similarity if it gave nothing."""
        return self.similarity if self.first_stage is None else self.first_stage

    @cached_property
    def between(self) -> Tensor:
        """Inner products of all nodes, ``[B, n, n]``; 0 where a node is not there."""
        return torch.bmm(self.nodes, self.nodes.transpose(1, 2))

    @cached_property
    def affinity(self) -> DenseAffinity:
        """:attr:`between` as an affinity with one head per query."""
        return DenseAffinity(self.between, symmetric=True)

    def neighbors(self, k: int, *, loops: bool = False) -> tuple[Tensor, Tensor]:
        """Find the nearest other nodes of every node, see :func:`~graphattn.affinity.gallery.list_neighbors`."""
        return list_neighbors(self.between, k, self.node_mask, loops=loops)

    def report(self, **values: Tensor) -> None:
        """Hand values ``[B]`` to the diagnostics, ``support=`` (size of the query's reciprocal set) among them."""
        self.reports.update(values)
