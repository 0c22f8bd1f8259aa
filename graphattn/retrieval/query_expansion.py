"""Query expansion: search again with the mean of the query and its best candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.affinity._vectors import stable_top_k
from graphattn.retrieval._options import Options
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Neighbours that each kind takes in its publication.
PUBLISHED_K = {"average": 4, "weighted": 8, "alpha": 48}


class QueryExpansion(Reranker):
    r"""Score candidates by their similarity to the query plus its best candidates.

    .. math::
        \mathbf{q}' = \operatorname{norm}\Bigl(\mathbf{q} + \sum_{j=1}^{k} w_j \mathbf{z}_j\Bigr), \quad
        s'_i = \mathbf{q}'^{\top} \mathbf{x}_i

    with :math:`\mathbf{z}_1, \mathbf{z}_2, \ldots` the candidates by similarity to the query. :func:`expand_query`
    gives :math:`\mathbf{q}'` itself, for a second search in any index. Time :math:`O(K D)` per query.

    Args:
        kind: ``"average"``, :math:`w_j = 1`; ``"weighted"``, :math:`w_j = (k + 1 - j)/(k + 1)`; or ``"alpha"``,
            :math:`w_j = \max(s_j, 0)^{\alpha}`.
        k: Candidates :math:`k` that are added; by default the published number, 4, 8 or 48.
        alpha: Exponent :math:`\alpha` of ``"alpha"``.
        times: How often the query is expanded, each time by the candidates that are then the most similar.
        **options: As in :class:`~graphattn.retrieval.Reranker`.

    Raises:
        ValueError: If an option is out of range or not supported.

    Example:
        >>> gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, -0.8]])
        >>> lists = QueryExpansion(kind="average", k=1).rerank(torch.tensor([[1.0, 0.2]]), gallery)
        >>> lists.indices
        tensor([[0, 1, 3, 2]])

    Reference:
        Chum et al., "Total Recall", 2007 (average); Radenović et al., "Fine-tuning CNN Image Retrieval with No Human
        Annotation", 2019 (alpha).
    """

    def __init__(
        self,
        kind: str = "alpha",
        k: int | None = None,
        *,
        alpha: float = 3.0,
        times: int = 1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.kind = kind
        self.k = check_expansion(kind, k, alpha)
        self.alpha = alpha
        self.times = times
        if not isinstance(times, int) or isinstance(times, bool) or times < 1:
            raise ValueError(f"times is {times!r}; expected an integer, at least 1")

    def _scores(self, batch: CandidateBatch) -> Tensor:
        query = batch.queries
        for _ in range(self.times):
            query = _expand(query, batch.candidates, batch.mask, self.kind, self.k, self.alpha, self.normalize)
        return batch.products(query)

    def _bytes_per_query(self, num_nodes: int, width: int) -> int:
        return 4 * 3 * num_nodes * width


def expand_query(
    queries: Tensor,
    candidates: Tensor,
    mask: Tensor | None = None,
    *,
    kind: str = "alpha",
    k: int | None = None,
    alpha: float = 3.0,
) -> Tensor:
    r"""Add the best candidates of each query to it, as :class:`QueryExpansion` does.

    Args:
        queries: Vectors of the queries.
        candidates: Vectors of the candidates of each.
        mask: Which candidates are there; all by default.
        kind: ``"average"``, ``"weighted"`` or ``"alpha"``.
        k: Candidates that are added; the published number by default.
        alpha: Exponent of ``"alpha"``.

    Shapes:
        - **input:** ``queries`` :math:`(Q, D)`, ``candidates`` :math:`(Q, K, D)`, ``mask`` :math:`(Q, K)`
        - **output:** :math:`(Q, D)`

    Returns:
        The expanded queries, of unit length, in the dtype of ``queries``; all vectors are brought to unit length first.

    Raises:
        ValueError: If a shape does not fit or an option is out of range.
        TypeError: If ``queries`` or ``candidates`` is not a floating-point tensor.

    Example:
        >>> query, found = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 1.0], [0.6, 0.8]]])
        >>> expand_query(query, found, kind="average", k=1)
        tensor([[0.8944, 0.4472]])
    """
    k = check_expansion(kind, k, alpha)
    for name, x, dim in (("queries", queries, 2), ("candidates", candidates, 3)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            what = f"of dtype {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise TypeError(f"{name} is {what}; expected a floating-point Tensor")
        if x.dim() != dim:
            expected = "[Q, D]" if dim == 2 else "[Q, K, D]"
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {expected}")
    if candidates.size(0) != queries.size(0) or candidates.size(2) != queries.size(1):
        expected = f"[{queries.size(0)}, K, {queries.size(1)}]"
        raise ValueError(f"candidates has shape {tuple(candidates.shape)}; expected {expected}")
    if mask is None:
        mask = torch.ones(candidates.shape[:2], dtype=torch.bool, device=candidates.device)
    elif mask.shape != candidates.shape[:2] or mask.dtype != torch.bool:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; expected {tuple(candidates.shape[:2])}, bool"
        )
    wide = torch.promote_types(queries.dtype, torch.float32)
    unit = [F.normalize(x.to(wide), dim=-1) for x in (queries, candidates)]
    return _expand(unit[0], unit[1], mask, kind, k, alpha, True).to(queries.dtype)


def check_expansion(kind: str, k: int | None, alpha: float) -> int:
    """Return how many neighbours are added, or raise."""
    if kind not in PUBLISHED_K:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(map(repr, PUBLISHED_K))}")
    if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 0):
        raise ValueError(f"k is {k!r}; expected an integer, at least 0, or None")
    if alpha < 0:
        raise ValueError(f"alpha is {alpha}; expected an exponent of at least 0")
    return PUBLISHED_K[kind] if k is None else k


def neighbor_weights(kind: str, similarity: Tensor, found: Tensor, alpha: float) -> Tensor:
    """Weigh neighbours ``[..., k]`` that are sorted by similarity; what is not found weighs 0."""
    if kind == "average":
        weight = torch.ones_like(similarity)
    elif kind == "weighted":
        count = found.sum(-1, keepdim=True)
        rank = torch.arange(1, similarity.size(-1) + 1, device=similarity.device)
        weight = (count + 1 - rank) / (count + 1).to(similarity.dtype)
    else:
        weight = similarity.masked_fill(~found, 0.0).clamp(min=0.0) ** alpha
    return weight.masked_fill(~found, 0.0)


def _expand(
    query: Tensor, candidates: Tensor, mask: Tensor, kind: str, k: int, alpha: float, normalize: bool
) -> Tensor:
    similarity = torch.linalg.vecdot(candidates, query.unsqueeze(1)).masked_fill(~mask, -torch.inf)
    similarity, place = stable_top_k(similarity, min(k, similarity.size(1)))
    nearest = candidates.gather(1, place.unsqueeze(2).expand(-1, -1, candidates.size(2)))
    weight = neighbor_weights(kind, similarity, similarity > -torch.inf, alpha)
    expanded = query + torch.bmm(weight.unsqueeze(1), nearest).squeeze(1)
    return F.normalize(expanded, dim=1) if normalize else expanded
