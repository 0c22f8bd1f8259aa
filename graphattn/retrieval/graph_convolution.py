"""Graph convolution re-ranking: every vector becomes a weighted mean of its nearest, a few times over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from graphattn.affinity.gallery import GalleryGraph
from graphattn.nn.rerank_conv import RerankConv, candidate_graph
from graphattn.retrieval._options import Options
from graphattn.retrieval._smoothed import SmoothedGallery, propagation, weights
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack

_MODES = ("directed", "sym")


class GraphConvolution(Reranker):
    r"""Score candidates by inner products after the vectors have been smoothed over their nearest neighbours.

    .. math::
        S_{ij} = e^{s_{ij}/\beta} \; [j \in \text{top-}k(i)], \quad
        \mathbf{L} = \operatorname{diag}(\mathbf{S} \mathbf{1})^{-1/2}\, \mathbf{S}\,
        \operatorname{diag}(\mathbf{S}^{\top} \mathbf{1})^{-1/2}, \quad
        \mathbf{X} \leftarrow \operatorname{norm}(\mathbf{L} \mathbf{X})

    :math:`\mathbf{S}` has rows of its own: it is not symmetric. Neighbours and weights are found anew in each round;
    the score is :math:`\mathbf{x}_q^{\top} \mathbf{x}_i` after the last.

    With ``scope="candidates"``, nodes are the query and its candidates, and with ``transductive`` the other queries.
    Time is :math:`O(K^2 D)` per round, memory :math:`O(K^2 + K D)` per query. With ``scope="gallery"``, :meth:`fit`
    smooths the gallery, in :math:`O(N^2 D)` per round, and keeps the smoothed vectors; a query then gets its row of
    :math:`\mathbf{L}` beside them, once, in :math:`O(N D)`. Queries that are items, known by ``query_ids``, have been
    smoothed with the others. The published protocol is ``scope="gallery", transductive=True``.

    Args:
        k: Nodes :math:`k` that are averaged, the node itself counted; 1 changes nothing.
        beta: Width :math:`\beta` of the weights; the larger, the more alike they are.
        rounds: How often the vectors are replaced.
        mode: ``"directed"``, or ``"sym"``: :math:`(\mathbf{S} + \mathbf{S}^{\top})/2` takes the place of
            :math:`\mathbf{S}`.
        **options: As in :class:`~graphattn.retrieval.Reranker`. ``normalize`` cannot be False: the rounds bring vectors
            to unit length.

    Raises:
        ValueError: If an option is out of range or not supported.

    Example:
        >>> gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, -0.8]])
        >>> GraphConvolution(k=2, rounds=1).rerank(torch.tensor([[1.0, 0.2]]), gallery).indices
        tensor([[0, 1, 3, 2]])

    Reference:
        Zhang et al., "Graph Convolution Based Efficient Re-Ranking for Visual Retrieval", 2023, without its branch for
        camera labels.
    """

    scopes = ("candidates", "gallery")
    can_be_transductive = True

    def __init__(
        self, k: int = 15, *, beta: float = 0.2, rounds: int = 3, mode: str = "directed", **options: Unpack[Options]
    ) -> None:
        super().__init__(**options)
        for name, value, least in (("k", k, 1), ("rounds", rounds, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; expected an integer, at least {least}")
        if not beta > 0:
            raise ValueError(f"beta is {beta}; expected a number above 0")
        if mode not in _MODES:
            raise ValueError(f"mode is {mode!r}; expected one of {', '.join(map(repr, _MODES))}")
        if not self.normalize:
            raise ValueError("normalize is False, but GraphConvolution makes unit vectors; leave it True")
        self.k = k
        self.beta = beta
        self.rounds = rounds
        self.mode = mode

    def _build_graph(self, gallery: Tensor | np.ndarray, **options: Any) -> GalleryGraph:
        rounds = 0 if self.k == 1 else self.rounds
        return SmoothedGallery.smooth(gallery, max(2, self.k), self.beta, rounds, self.mode, **options)

    def _scores(self, batch: CandidateBatch) -> Tensor:
        if batch.graph is not None:
            return self._in_gallery(batch, cast(SmoothedGallery, batch.graph))
        nodes, conv = batch.nodes, RerankConv(l2_normalize=True)
        for _ in range(self.rounds):
            similarity = torch.bmm(nodes, nodes.transpose(1, 2))
            edge_index, value, _ = candidate_graph(similarity, self.k - 1, batch.node_mask, loops=True)
            A = propagation(edge_index, weights(value, self.beta), batch.node_mask.numel(), self.mode)
            nodes = conv(nodes.flatten(0, 1), A).view_as(nodes)
        return torch.linalg.vecdot(nodes[:, 1 : 1 + batch.mask.size(1)], nodes[:, :1])

    def _in_gallery(self, batch: CandidateBatch, gallery: SmoothedGallery) -> Tensor:
        """Compare queries with smoothed candidates; those that are items are smoothed already."""
        scores = torch.zeros_like(batch.similarity)
        queries = batch.queries.to(gallery.vectors.dtype)
        for row, node in enumerate(batch.query_nodes.tolist()):
            query = queries[row] if node < 0 else gallery.vectors[node]
            if node < 0 and self.rounds > 0 and self.k > 1:
                query = gallery.beside(query, self.beta, self.mode)
            scores[row] = torch.linalg.vecdot(gallery.vectors[batch.indices[row].clamp(min=0)], query)
        return scores
