"""Graph convolution re-ranking: every vector becomes a weighted mean of its nearest, a few times over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.nn.rerank_conv import RerankConv, candidate_graph
from graphattn.retrieval._options import Options
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
    the score is :math:`\mathbf{x}_q^{\top} \mathbf{x}_i` after the last. Nodes are the query and its candidates, and
    with ``transductive`` the other queries. Time :math:`O(K^2 D)` per round, memory :math:`O(K^2 + K D)` per query.

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

    def _scores(self, batch: CandidateBatch) -> Tensor:
        nodes = batch.nodes
        for _ in range(self.rounds):
            nodes = self._smooth(nodes, batch.node_mask)
        return torch.linalg.vecdot(nodes[:, 1 : 1 + batch.mask.size(1)], nodes[:, :1])

    def _smooth(self, nodes: Tensor, mask: Tensor) -> Tensor:
        similarity = torch.bmm(nodes, nodes.transpose(1, 2))
        edge_index, value, _ = candidate_graph(similarity, self.k - 1, mask, loops=True)
        # A common factor of all weights cancels out; this one keeps them from overflowing.
        weight = torch.exp((value - 1.0) / self.beta)
        if self.mode == "sym":
            edge_index, weight = torch.cat([edge_index, edge_index.flip(0)], dim=1), torch.cat([weight, weight]) / 2
        source, target = edge_index
        degrees = [(ends, weight.new_zeros(mask.numel()).index_add_(0, ends, weight)) for ends in (target, source)]
        for ends, degree in degrees:
            weight = weight * degree.rsqrt().masked_fill_(degree == 0, 0.0)[ends]
        return RerankConv(l2_normalize=True)(nodes.flatten(0, 1), edge_index, weight).view_as(nodes)
