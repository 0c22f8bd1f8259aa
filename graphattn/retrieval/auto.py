"""The default without training: walks over the graph of a list, trusted as far as that graph has structure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.affinity import DenseAffinity
from graphattn.diffusion import pagerank
from graphattn.retrieval._first_stage import unit_range
from graphattn.retrieval._options import Options
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack

_TELEPORT, _HOPS = 0.1, 10  # as published for personalized PageRank
_DECAY = 5.0  # over the k ranks a weight falls to exp(-5), after which more neighbours hardly count
_FULL = 0.5  # mean clustering from which the graph is trusted alone


class Auto(Reranker):
    r"""Score candidates by how likely walks from them and from the query meet, if the list is clustered at all.

    With :math:`r_{ij} = 1, \dots, k` the rank of node :math:`j` among the neighbours of :math:`i`, nodes that are each
    among the :math:`k` nearest of the other are joined by :math:`w_{ij}`. Walks of personalized PageRank
    (:func:`~graphattn.diffusion.pagerank`: 10 hops, share 0.1 of the start) on
    :math:`\mathbf{P} = \mathbf{D}^{-1} \mathbf{W}` end at node :math:`j` with probability :math:`F_{ij}`:

    .. math::
        w_{ij} = e^{-5\, (r_{ij} + r_{ji} - 2) / k}, \quad
        m_i = \sum_j F_{qj} F_{ij}, \quad
        s'_i = c\, \sqrt{m_i} + (1 - c)\, s_i

    with :math:`\sqrt{m}` and the scores :math:`s` of the first stage scaled to [0, 1] over the list. The confidence
    :math:`c` of each query is read off its list: the clustering coefficient :math:`C` around it, as far as it exceeds
    the mean weight :math:`\rho` of all pairs of nodes, to which it falls in a graph without structure:

    .. math::
        C_i = \frac{\sum_{j \neq l} w_{ij} w_{jl} w_{li}}{\sum_{j \neq l} w_{ij} w_{il}}, \quad
        \kappa_i = \max\Bigl(0, \frac{C_i - \rho}{1 - \rho}\Bigr), \quad
        c = \min\Bigl(1, 2 \sum_j F_{qj} \kappa_j\Bigr)

    Two candidates keep their order if their scaled :math:`s` differ by more than :math:`c / (1 - c)`, and all keep it
    where :math:`c = 0` or the query has no reciprocal neighbour. The diagnostics give the ``"confidence"`` and the
    ``"support"``, the number of reciprocal neighbours. Nodes are the query and its candidates; nothing else is looked
    at. :math:`O(K^2 (D + K))` time and :math:`O(K^2)` memory per query.

    The weights, their scale, ``k`` and the factor of the confidence are our choice, made once on images, speech and
    texts. The confidence tells that a list is clustered, not by what: where neighbours share the light instead of the
    face, it is as high.

    Args:
        k: Neighbours :math:`k` of a node, itself not counted; in shorter lists all others.
        fallback: Whether the first stage takes part as above. Without it :math:`c = 1` for all queries with a
            reciprocal neighbour; the diagnostics stay the same.
        **options: As in :class:`~graphattn.retrieval.Reranker`; ``top_k`` is 1000 unless given. ``blend`` mixes in the
            first stage once more.

    Raises:
        ValueError: If an option is out of range or not supported.
        TypeError: If ``fallback`` is not a bool.

    Example:
        >>> clusters = 3 * torch.eye(6).repeat_interleave(10, dim=0)
        >>> x = clusters + 1.5 * torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
        >>> before = torch.nn.functional.normalize(x, dim=1).matmul(x[0]).topk(10).indices
        >>> lists = Auto(k=10).rerank(x[:1], x)
        >>> int((before < 10).sum()), int((lists.indices[0, :10] < 10).sum())
        (5, 7)
        >>> bool(0.4 < lists.diagnostics["confidence"] < 0.6)
        True

    Reference:
        Gasteiger et al., "Predict then Propagate: Graph Neural Networks meet Personalized PageRank", 2019 (walks);
        Zhang and Horvath, "A General Framework for Weighted Gene Co-Expression Network Analysis", 2005 (weighted
        clustering coefficient).
    """

    reports_support = True
    reports_confidence = True
    published_top_k = 1000

    def __init__(self, k: int = 40, *, fallback: bool = True, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k is {k!r}; expected an integer, at least 1")
        if not isinstance(fallback, bool):
            raise TypeError(f"fallback is {fallback!r}; expected True or False")
        self.k = k
        self.fallback = fallback

    def _scores(self, batch: CandidateBatch) -> Tensor:
        graph = self._graph(batch)
        from_query, meeting = _walks(graph)
        clustering = _clustering(graph, batch.node_mask.sum(1))
        confidence = (torch.linalg.vecdot(from_query, clustering) / _FULL).clamp(max=1.0)
        batch.report(confidence=confidence, support=(graph.matrix[:, 0] > 0).sum(1))
        met = meeting[:, 1 : 1 + batch.mask.size(1)].sqrt()
        if not self.fallback:
            return met
        c = confidence.unsqueeze(1)
        return c * unit_range(met, batch.mask) + (1 - c) * unit_range(batch.scores, batch.mask)

    def _graph(self, batch: CandidateBatch) -> DenseAffinity:
        """Join reciprocal neighbours, by the more the earlier they stand in the lists of one another."""
        near, found = batch.neighbors(self.k)
        before = torch.arange(near.size(2), device=near.device, dtype=batch.nodes.dtype)
        k = (batch.node_mask.sum(1) - 1).clamp(min=1, max=self.k).view(-1, 1, 1)
        one_sided = torch.zeros_like(batch.between).scatter_(2, near, torch.exp(-_DECAY * before / k) * found)
        return DenseAffinity(one_sided * one_sided.transpose(1, 2), symmetric=True)

    def _bytes_per_query(self, num_nodes: int, width: int) -> int:
        return 4 * (8 * num_nodes * num_nodes + 3 * num_nodes * width) + 16 * self.k * num_nodes


def _walks(graph: DenseAffinity) -> tuple[Tensor, Tensor]:
    """Return where walks from the query end, and how likely one from each node ends at the same place, ``[B, n]``."""
    step, degree = graph.normalize("row"), graph.row_sums()
    # Walks on a symmetric graph are reversible: those from the query are those to it, up to the degrees.
    query = torch.zeros_like(degree)
    query[0] = 1 / degree[0].masked_fill(degree[0] == 0, 1.0)
    from_query = degree * pagerank(step, query.unsqueeze(2), _TELEPORT, _HOPS).squeeze(2)
    meeting = pagerank(step, from_query.unsqueeze(2), _TELEPORT, _HOPS).squeeze(2)
    return from_query.t(), meeting.t()


def _clustering(graph: DenseAffinity, num_nodes: Tensor) -> Tensor:
    """Return the weighted clustering coefficient of each node, corrected for chance, ``[B, n]``."""
    weight = graph.matrix
    closed = (torch.bmm(weight, weight) * weight).sum(2)
    pairs = (weight * (weight.sum(2, keepdim=True) - weight)).sum(2)
    chance = weight.sum((1, 2)) / (num_nodes * (num_nodes - 1)).clamp(min=1)
    excess = closed / pairs.masked_fill(pairs == 0, 1.0) - chance.unsqueeze(1)
    return (excess / (1 - chance).masked_fill(chance == 1, 1.0).unsqueeze(1)).clamp(min=0.0)
