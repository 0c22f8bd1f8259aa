"""k-reciprocal encoding: compare the query and its candidates by the neighbours they agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.affinity.gallery import GalleryGraph
from graphattn.affinity.neighbors import _expanded
from graphattn.retrieval._encodings import gallery_encodings, reciprocal
from graphattn.retrieval._neighborhood import Neighborhood, of_candidates, of_gallery
from graphattn.retrieval._options import Options
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack

_COMPAT = (None, "torchreid")


class KReciprocal(Reranker):
    r"""Score candidates by the Jaccard similarity of their k-reciprocal neighbours with those of the query.

    With :math:`D_{ij} = d_{ij}^2 / \max_l d_{il}^2`, :math:`d_{ij}^2 = 2 - 2 s_{ij}`, and :math:`R^*(i)` the expanded
    k-reciprocal set of node :math:`i`, which :func:`graphattn.affinity.neighbors.k_reciprocal` defines,

    .. math::
        V_{ij} \propto [j \in R^*(i)]\, e^{-D_{ij}}, \quad \textstyle\sum_j V_{ij} = 1, \quad
        \bar{\mathbf{V}}_i = \operatorname{mean}\{\mathbf{V}_j : j \in \text{first } k_2 \text{ of } i\text{'s list}\}

    .. math::
        m_{qi} = \textstyle\sum_g \min(\bar V_{qg}, \bar V_{ig}), \quad
        score_i = -(1 - \lambda) \Bigl(1 - \frac{m_{qi}}{2 - m_{qi}}\Bigr) - \lambda D_{qi}

    where :math:`\lambda` is ``blend``, 0.3 by default. Only the query's row is compared. ``"candidates"`` takes
    :math:`O(K^2 D + K k_1^2)` time and :math:`O(K^2)` memory per query. ``"gallery"`` reads the lists around the
    candidates, at most :math:`K k_2 k_1^2 / 2`, and gives the scores that the matrix of this query and the whole
    gallery would. The published protocol is ``scope="gallery", transductive=True``.

    Args:
        k1: Neighbours :math:`k_1` that a node proposes, itself not counted; half of them, rounded to even, in the sets
            of its neighbours.
        k2: Nodes :math:`k_2` whose encodings are averaged, the node itself counted; 1 leaves them as they are.
        compat: ``"torchreid"`` takes the square of :math:`d^2` wherever :math:`d^2` stands, as callers of that library
            do who hand in squared distances.
        **options: As in :class:`~graphattn.retrieval.Reranker`. ``normalize`` cannot be False: distances are those of
            unit vectors. ``min_support`` counts :math:`R(q, k_1)` without the query.

    Raises:
        ValueError: If an option is out of range or not supported.

    Example:
        >>> gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, -0.8]])
        >>> KReciprocal(k1=1, k2=1).rerank(torch.tensor([[0.8, 0.5]]), gallery).indices
        tensor([[1, 0, 2, 3]])

    Reference:
        Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017.
    """

    scopes = ("candidates", "gallery")
    can_be_transductive = True
    reports_support = True
    published_blend = 0.3

    def __init__(self, k1: int = 20, k2: int = 6, *, compat: str | None = None, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        for name, value in (("k1", k1), ("k2", k2)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected an integer, at least 1")
        if compat not in _COMPAT:
            raise ValueError(f"compat is {compat!r}; expected one of {', '.join(map(repr, _COMPAT))}")
        if not self.normalize:
            raise ValueError("normalize is False, but KReciprocal needs distances of unit vectors; leave it True")
        self.k1 = k1
        self.k2 = k2
        self.compat = compat

    def _graph_width(self) -> int:
        return max(self.k1, self.k2 - 1)

    def _bytes_per_query(self, num_nodes: int, width: int) -> int:
        if self.scope == "candidates":
            return super()._bytes_per_query(num_nodes, width)
        # Neighbourhoods overlap, so that far fewer nodes are reached than there are paths to follow.
        return 8 * self.k2 * num_nodes * (2 * 4 * width + 6 * 8 * self.k1)

    def _scores(self, batch: CandidateBatch) -> Tensor:
        graph = batch.graph
        if graph is not None and bool((batch.query_nodes >= 0).all()):
            common, own, smallest = self._common_of_items(batch, graph)
        else:
            common, own, smallest = self._common_around(batch)
        jaccard = 1.0 - common / (2.0 - common)
        distance = self._distance(batch.similarity, smallest.unsqueeze(1), own)
        return -(1.0 - self.blend) * jaccard - self.blend * distance

    def _common_of_items(self, batch: CandidateBatch, graph: GalleryGraph) -> tuple[Tensor, Tensor, Tensor]:
        """Return what :meth:`_common_around` does for queries that are items: the encodings of all items serve all."""

        def weigh(similarity: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return torch.exp(-self._distance(similarity, graph.smallest[i].to(similarity.dtype), i == j))

        settings = (self.k1, self.k2, self.compat)
        encodings = gallery_encodings(graph, batch.gallery, self.k1, self.k2, weigh, settings)
        nodes = batch.query_nodes
        batch.report(support=encodings.support[nodes])
        common = encodings.common(nodes, batch.indices.clamp(min=0))
        return common, batch.indices == nodes.unsqueeze(1), graph.smallest[nodes].to(common.dtype)

    def _common_around(self, batch: CandidateBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return :math:`m_{qi}`, which candidates are the query itself, and the least similarity of each query."""
        half = round(self.k1 / 2)
        if batch.graph is None:
            around = of_candidates(batch, self._graph_width())
        else:
            # The nodes whose encodings are averaged, the members of their sets, and the nodes that confirm members.
            around = of_gallery(batch, batch.graph, self._graph_width(), (self.k2 - 1, self.k1, half))
        near = reciprocal(around.lists[:, : self.k1 + 1])
        batch.report(support=(near[around.query, 1:] >= 0).sum(1))

        averaged = around.lists[torch.cat([around.query, around.candidates.flatten()]), : self.k2]
        encoded = averaged[averaged >= 0].unique()
        row, col = _expanded(near[encoded], reciprocal(around.lists[:, : half + 1]))
        node = encoded[row]
        weight = torch.exp(-self._distance(around.products(node, col), around.smallest[node], node == col))
        weight /= weight.new_zeros(encoded.numel()).index_add_(0, row, weight)[row]
        common = _common(around, encoded, row, col, weight, averaged)
        return common, around.candidates == around.query.unsqueeze(1), around.smallest[around.query]

    def _distance(self, similarity: Tensor, smallest: Tensor, same: Tensor) -> Tensor:
        """Return :math:`D_{ij}` of pairs, given the least similarity of each i and where j is i."""
        distance = (2.0 - 2.0 * similarity).clamp(min=0.0).masked_fill_(same, 0.0)
        largest = (2.0 - 2.0 * smallest).clamp(min=0.0)
        ratio = distance / largest.masked_fill_(largest == 0, 1.0)
        return ratio.square() if self.compat == "torchreid" else ratio


def _common(
    around: Neighborhood, encoded: Tensor, row: Tensor, col: Tensor, weight: Tensor, averaged: Tensor
) -> Tensor:
    """Average encodings, given by the entries of the rows ``encoded``, and sum the smaller of query and candidate."""
    num_queries = around.query.numel()
    nowhere = encoded.numel()
    row_of = torch.full_like(around.lists[:, 0], nowhere)
    row_of[encoded] = torch.arange(nowhere, device=row.device)
    rows = torch.where(averaged >= 0, row_of[averaged], nowhere)

    # Only nodes in the query's encoding count; those of each query get the columns of a table of their own.
    owner = torch.full((nowhere + 1,), -1, device=row.device)
    owner[rows[:num_queries]] = torch.arange(num_queries, device=row.device).unsqueeze(1)
    owner[nowhere] = -1
    in_query = owner[row] >= 0
    support, place = col[in_query].unique(return_inverse=True)
    owner = torch.empty_like(support).index_copy_(0, place, owner[row[in_query]])
    column = torch.arange(support.numel(), device=row.device) - torch.searchsorted(owner, owner)
    column_of = torch.full_like(around.lists[:, 0], -1)
    column_of[support] = column

    width = int(column.max()) + 1 if column.numel() else 0
    table = weight.new_zeros(nowhere + 1, width)
    kept = column_of[col] >= 0
    table[row[kept], column_of[col[kept]]] = weight[kept]
    mean = table[rows[:, 0]]
    for slot in range(1, rows.size(1)):
        mean += table[rows[:, slot]]
    mean /= (averaged >= 0).sum(1, keepdim=True).clamp(min=1)
    of_query, of_candidates = mean[:num_queries].unsqueeze(1), mean[num_queries:].unflatten(0, (num_queries, -1))
    return torch.minimum(of_query, of_candidates).sum(2)
