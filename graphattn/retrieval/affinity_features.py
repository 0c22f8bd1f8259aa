"""Raw affinity features: candidates that are similar to the same anchors as the query come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.retrieval._anchors import anchor_similarity
from graphattn.retrieval._options import Options
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AffinityFeatures(Reranker):
    r"""Score candidates by how alike their similarities to some anchors are to those of the query.

    .. math::
        \mathbf{F} = \mathbf{C} \mathbf{R}^{\top}, \quad
        s'_i = \frac{\mathbf{f}_0^{\top} \mathbf{f}_i}{\lVert\mathbf{f}_0\rVert \lVert\mathbf{f}_i\rVert}

    with the query and its candidates as rows of :math:`\mathbf{C}`, and the first :math:`L` of them, the query ahead,
    as anchors :math:`\mathbf{R}`. This is the input of the learned re-ranker of the same paper, which defines no score
    of its own for it: the cosine is our choice. Similarities keep their sign. Without training, and
    :math:`O(K L D)` time per query.

    Args:
        num_anchors: Anchors :math:`L`; shorter lists have fewer. The published number is 512, of 1024 candidates.
        exclude_self_columns: Whether a candidate is compared with the query without the two columns in which one of
            them meets itself.
        **options: As in :class:`~graphattn.retrieval.Reranker`; ``top_k`` is 1024 unless given.

    Raises:
        ValueError: If an option is out of range or not supported.

    Example:
        >>> gallery = torch.tensor([[0.8, -0.6], [0.6, 0.8], [0.7, 0.7], [0.5, 0.9]])
        >>> lists = AffinityFeatures().rerank(torch.tensor([[1.0, 0.0]]), gallery, torch.tensor([[0, 2, 1, 3]]))
        >>> lists.indices
        tensor([[2, 1, 0, 3]])

    Reference:
        Ouyang et al., "Contextual Similarity Aggregation with Self-attention for Visual Re-ranking", 2021.
    """

    published_top_k = 1024

    def __init__(
        self, num_anchors: int = 512, *, exclude_self_columns: bool = False, **options: Unpack[Options]
    ) -> None:
        super().__init__(**options)
        if not isinstance(num_anchors, int) or isinstance(num_anchors, bool) or num_anchors < 1:
            raise ValueError(f"num_anchors is {num_anchors!r}; expected an integer, at least 1")
        self.num_anchors = num_anchors
        self.exclude_self_columns = exclude_self_columns

    def _scores(self, batch: CandidateBatch) -> Tensor:
        affinity, anchor = anchor_similarity(batch.nodes, batch.node_mask, self.num_anchors)
        query, candidates = affinity[:, :1], affinity[:, 1:]
        if self.exclude_self_columns:
            own = torch.arange(1, affinity.size(1), device=anchor.device).view(1, -1, 1)
            itself = (anchor.unsqueeze(1) == own) | (anchor.unsqueeze(1) == 0)
            query = query.expand_as(candidates).masked_fill(itself, 0.0)
            candidates = candidates.masked_fill(itself, 0.0)
        return torch.linalg.vecdot(_unit(candidates), _unit(query))

    def _bytes_per_query(self, num_nodes: int, width: int) -> int:
        anchors = min(self.num_anchors, num_nodes)
        matrices = 5 if self.exclude_self_columns else 3
        return 4 * (matrices * num_nodes * anchors + 3 * num_nodes * width)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=2, eps=torch.finfo(x.dtype).tiny)
