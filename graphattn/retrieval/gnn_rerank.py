"""GNN re-ranking: neighbour sets as features, spread over the graph of the nearest neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.affinity.gallery import GalleryGraph
from graphattn.nn.rerank_conv import RerankConv, candidate_graph
from graphattn.retrieval._neighbor_sets import NeighborSets, first_row_products, gallery_sets
from graphattn.retrieval._options import Options
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack

_LAYERS = 2
# k1, k2 and blend, as published.
_PUBLISHED = {"official": (26, 7, 0.3), "residual": (40, 10, 0.0)}


class GNNRerank(Reranker):
    r"""Score candidates by the neighbours of their neighbours that they share with the query.

    The feature of node :math:`i` is its row of :math:`\mathbf{A}`, :math:`A_{ij} = 1` if :math:`j` is one of the
    :math:`k_1` nodes nearest to :math:`i`. Two layers of sum aggregation follow:

    .. math::
        \mathbf{A} \leftarrow \mathbf{A} + \mathbf{A}^{\top}, \quad
        \mathbf{A}_i \leftarrow \operatorname{norm}\Bigl(
        \textstyle\sum_{j \in \text{top-}k_2(i)} \max(s_{ij}, 0)^{\alpha} \mathbf{A}_j\Bigr)

    .. math:: score_i = (1 - \lambda)\, \mathbf{A}_q^{\top} \mathbf{A}_i + \lambda\, s_{qi}

    where :math:`\lambda` is ``blend``. The node itself counts as its nearest in :math:`k_1` and :math:`k_2`. Nodes are
    the query and its candidates, or in ``"gallery"`` the query and all items; with ``transductive`` the other queries,
    too. Time :math:`O(K^2 (D + k_2))` and memory :math:`O(K^2)` per query, or :math:`O(N (D + k_1 k_2))` and
    :math:`O(N k_1 k_2)`: a query changes features far from it. The published protocol is ``scope="gallery",
    transductive=True``.

    Args:
        k1: Nodes :math:`k_1` of a neighbour set, by default as published, 26 or 40.
        k2: Nodes :math:`k_2` that are summed, by default as published, 7 or 10; 1 leaves the layers out.
        alpha: Exponent :math:`\alpha` of the similarities.
        variant: ``"official"``, or ``"residual"``, in which :math:`\mathbf{A}_i` is added to the sum once more. The
            default :math:`\lambda` is 0.3 or 0.
        **options: As in :class:`~graphattn.retrieval.Reranker`.

    Raises:
        ValueError: If an option is out of range or not supported.

    Example:
        >>> gallery = torch.tensor([[1.0, 0.0], [0.9, 0.5], [0.8, 0.7], [0.0, 1.0]])
        >>> GNNRerank(k1=3, k2=2).rerank(torch.tensor([[0.7, 0.7]]), gallery).indices
        tensor([[2, 1, 3, 0]])

    Reference:
        Zhang et al., "Understanding Image Retrieval Re-Ranking: A Graph Neural Network Perspective", 2020.
    """

    scopes = ("candidates", "gallery")
    can_be_transductive = True
    published_blend = 0.3

    def __init__(
        self,
        k1: int | None = None,
        k2: int | None = None,
        *,
        alpha: float = 2.0,
        variant: str = "official",
        **options: Unpack[Options],
    ) -> None:
        if variant not in _PUBLISHED:
            raise ValueError(f"variant is {variant!r}; expected one of {', '.join(map(repr, _PUBLISHED))}")
        published_k1, published_k2, published_blend = _PUBLISHED[variant]
        if options.get("blend") is None:
            options["blend"] = published_blend
        super().__init__(**options)
        self.k1 = published_k1 if k1 is None else k1
        self.k2 = published_k2 if k2 is None else k2
        for name in ("k1", "k2"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected an integer, at least 1, or None")
        if alpha < 0:
            raise ValueError(f"alpha is {alpha}; expected an exponent of at least 0")
        self.alpha = alpha
        self.variant = variant

    def _graph_width(self) -> int:
        return max(self.k1, self.k2, 2) - 1

    def _scores(self, batch: CandidateBatch) -> Tensor:
        shared = self._shared(batch) if batch.graph is None else self._shared_in_gallery(batch, batch.graph)
        return (1.0 - self.blend) * shared + self.blend * batch.similarity

    def _shared(self, batch: CandidateBatch) -> Tensor:
        """Compare features over the nodes of each list."""
        sets, found = batch.neighbors(self.k1 - 1, loops=True)
        features = torch.zeros_like(batch.between).scatter_add_(2, sets, found.to(batch.between.dtype))
        if self.k2 > 1:
            edge_index, similarity, _ = candidate_graph(batch.between, self.k2 - 1, batch.node_mask, loops=True)
            weight = self._weight(similarity, edge_index[0] == edge_index[1])
            conv = RerankConv(l2_normalize=True)
            for _ in range(_LAYERS):
                features = features + features.transpose(1, 2)
                features = conv(features.flatten(0, 1), edge_index, weight).view_as(features)
        return torch.linalg.vecdot(features[:, 1 : 1 + batch.mask.size(1)], features[:, :1])

    def _shared_in_gallery(self, batch: CandidateBatch, graph: GalleryGraph) -> Tensor:
        """Compare features over the whole gallery, of which the last layer makes only the rows asked for."""
        shared = torch.zeros_like(batch.similarity)
        known: tuple[NeighborSets, Tensor] | None = None
        for which, node in enumerate(batch.query_nodes.tolist()):
            query = node if node >= 0 else graph.num_items
            asked = torch.cat([batch.indices.new_tensor([query]), batch.indices[which].clamp(min=0)])
            if node < 0:
                sets, features = self._gallery_features(batch, graph, which)
            else:
                # Queries that are items of the graph change nothing in it.
                known = known or self._gallery_features(batch, graph, which)
                sets, features = known
            rows = features.index_select(0, asked) if self.k2 == 1 else sets.sums(asked, self.k2, features)
            shared[which] = first_row_products(rows)[1:]
        return shared

    def _gallery_features(self, batch: CandidateBatch, graph: GalleryGraph, which: int) -> tuple[NeighborSets, Tensor]:
        """Return the lists with their weights, and the features that go into the last layer."""
        sets = gallery_sets(batch, graph, which, self._graph_width())
        own = torch.zeros_like(sets.lists, dtype=torch.bool)
        own[:, 0] = True
        sets = replace(sets, weight=self._weight(sets.weight, own))
        features = sets.features(self.k1)
        if self.k2 > 1:
            nodes = torch.arange(sets.lists.size(0), device=sets.lists.device)
            features = (features + features.t()).coalesce()
            for _ in range(_LAYERS - 1):
                features = sets.sums(nodes, self.k2, features)
                features = (features + features.t()).coalesce()
        return sets, features

    def _weight(self, similarity: Tensor, own: Tensor) -> Tensor:
        """Return with which weights a node draws on others and on its own."""
        weight = similarity.clamp(min=0.0) ** self.alpha
        return weight + own.to(weight.dtype) if self.variant == "residual" else weight
