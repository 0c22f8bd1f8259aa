"""SuperGlobal re-ranking: refine candidates by their neighbours, and the query by the best of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.affinity import SparseAffinity
from graphattn.affinity._vectors import stable_top_k
from graphattn.nn.rerank_conv import candidate_graph
from graphattn.retrieval._options import Options
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SuperGlobal(Reranker):
    r"""Score refined candidates by their similarity to the query and to the largest components of the best of them.

    .. math::
        \mathbf{x}'_i = \frac{\mathbf{x}_i + \beta \sum_j s_{ij} \mathbf{x}_j}{1 + \beta \sum_j s_{ij}}, \quad
        \mathbf{q}'_d = \max_{i \in T} x'_{id}, \quad
        s'_i = \tfrac{1}{2} (\mathbf{q} + \mathbf{q}')^{\top} \mathbf{x}'_i

    with :math:`j` the :math:`k` candidates nearest to candidate :math:`i`, and :math:`T` the :math:`k + 1` candidates
    with the largest :math:`\mathbf{q}^{\top} \mathbf{x}'_i`. Refined vectors are not scaled to unit length again. A
    negative :math:`s_{ij}` counts as 0, which the released code does not see to. :math:`O(K^2 D)` time per query.

    The maximum is taken of each coordinate, so that unlike other methods this one depends on the basis: a rotation of
    all vectors, by a PCA say, changes the ranking. It expects vectors as the network gives them.

    Args:
        k: Neighbours :math:`k` of a candidate, itself not counted.
        beta: Weight :math:`\beta` of neighbours.
        **options: As in :class:`~graphattn.retrieval.Reranker`; ``top_k`` is 400 unless given.

    Raises:
        ValueError: If an option is out of range or not supported.

    Example:
        >>> gallery = torch.tensor([[0.8, 0.6], [0.8, -0.6], [0.0, 1.0], [0.6, 0.8]])
        >>> lists = SuperGlobal(k=1).rerank(torch.tensor([[1.0, 0.0]]), gallery, torch.tensor([[1, 0, 3, 2]]))
        >>> lists.indices
        tensor([[0, 3, 1, 2]])

    Reference:
        Shao et al., "Global Features are All You Need for Image Retrieval and Reranking", 2023.
    """

    published_top_k = 400

    def __init__(self, k: int = 9, *, beta: float = 0.15, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        if not isinstance(k, int) or isinstance(k, bool) or k < 0:
            raise ValueError(f"k is {k!r}; expected an integer, at least 0")
        if not beta >= 0:
            raise ValueError(f"beta is {beta}; expected a weight of at least 0")
        self.k = k
        self.beta = beta

    def _scores(self, batch: CandidateBatch) -> Tensor:
        refined = self._refine(batch.candidates, batch.mask)
        direct = torch.linalg.vecdot(refined, batch.queries.unsqueeze(1))
        value, best = stable_top_k(direct.masked_fill(~batch.mask, -torch.inf), min(self.k + 1, batch.mask.size(1)))
        vectors = refined.gather(1, best.unsqueeze(2).expand(-1, -1, refined.size(2)))
        query = vectors.masked_fill((value == -torch.inf).unsqueeze(2), -torch.inf).amax(1)
        query = query.masked_fill(query == -torch.inf, 0.0)
        return (direct + torch.linalg.vecdot(refined, query.unsqueeze(1))) / 2

    def _refine(self, candidates: Tensor, mask: Tensor) -> Tensor:
        """Return the candidates ``[B, K, D]``, each mixed with its neighbours."""
        similarity = torch.bmm(candidates, candidates.transpose(1, 2))
        edge_index, weight, _ = candidate_graph(similarity, self.k, mask)
        x = candidates.flatten(0, 1)
        neighbors = SparseAffinity(edge_index, self.beta * weight.clamp(min=0), (x.size(0), x.size(0)))
        mixed = (x + neighbors @ x) / (1 + neighbors.row_sums()).unsqueeze(1)
        return mixed.view_as(candidates)
