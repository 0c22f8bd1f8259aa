"""A re-ranker as the nearest-neighbour function of pytorch-metric-learning."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor

from graphattn.affinity._vectors import Vectors
from graphattn.retrieval.base import Reranker

KnnFunc = Callable[..., tuple[Tensor, Tensor]]


def as_knn_func(reranker: Reranker) -> KnnFunc:
    """Search and re-rank as the ``knn_func`` of pytorch-metric-learning.

    The function finds the nearest references of each query exactly, by inner products, and re-ranks them: as many as
    are asked for, or ``reranker.top_k`` if that is more. It serves ``AccuracyCalculator(knn_func=...)`` and is called
    as ``knn_func(query, k, reference, ref_includes_query=False)``.

    Args:
        reranker: A re-ranker. With ``scope="gallery"`` it is fitted to the references of each call. Its
            ``exclude_self`` is replaced by ``ref_includes_query``.

    Shapes:
        - **input:** ``query`` :math:`(Q, D)`, ``reference`` :math:`(N, D)`
        - **output:** distances and indices :math:`(Q, k)`

    Returns:
        A function that returns distances, ascending (scores with the sign changed), and numbers of the references. With
        ``ref_includes_query`` the first references are the queries, and none finds itself.

    Raises:
        ValueError: By the function, if there are fewer than ``k`` references to return, or the re-ranker drops some.

    Example:
        >>> from graphattn.retrieval import QueryExpansion
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> knn_func = as_knn_func(QueryExpansion(k=1))
        >>> knn_func(x, 1, x, ref_includes_query=True)[1]
        tensor([[1],
                [0],
                [1]])
    """

    def knn_func(query: Tensor, k: int, reference: Tensor, ref_includes_query: bool = False) -> tuple[Tensor, Tensor]:
        method = copy(reranker)
        method.exclude_self = ref_includes_query
        own = torch.arange(len(query), device=query.device) if ref_includes_query else None
        available = len(reference) - int(ref_includes_query)
        if not 1 <= k <= available:
            raise ValueError(f"k is {k}; expected 1 to {available}, the references that a query can find")
        depth = min(available, max(k, method.top_k or k))
        options: dict[str, Any] = {"normalize": method.normalize, "nan_policy": method.nan_policy}
        x, _ = Vectors(query, name="query", **options).all()
        indices, scores = Vectors(reference, like=x, name="reference", **options).nearest(x, depth, own)
        if method.scope == "gallery":
            method.fit(reference)
        lists = method.rerank(query, reference, indices, scores, own)
        found, distances = torch.as_tensor(lists.indices)[:, :k], -torch.as_tensor(lists.scores)[:, :k]
        if bool((found < 0).any()):
            short = int((found >= 0).sum(1).min())
            raise ValueError(
                f"{method!r} left {short} of {k} references; expected one with tail='keep' and finite vectors"
            )
        return distances, found

    return knn_func
