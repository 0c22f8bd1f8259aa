"""Re-ranking of the hits that sentence-transformers returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn.retrieval.base import Reranker


def rerank_hits(
    reranker: Reranker,
    query_embeddings: Tensor | np.ndarray,
    corpus_embeddings: Tensor | np.ndarray,
    hits: Sequence[Sequence[Mapping[str, Any]]],
    query_ids: Tensor | np.ndarray | None = None,
) -> list[list[dict[str, Any]]]:
    """Re-rank what ``sentence_transformers.util.semantic_search`` returned, all queries at once.

    Args:
        reranker: A re-ranker; with ``scope="gallery"`` one that is fitted to the corpus.
        query_embeddings: Vectors of the queries, or the vector of one.
        corpus_embeddings: Vectors of the corpus.
        hits: For each query, dicts with ``"corpus_id"`` and ``"score"``; lists may be of different length.
        query_ids: Which text of the corpus each query is, as in :meth:`~graphattn.retrieval.Reranker.rerank`.

    Shapes:
        - **input:** ``query_embeddings`` :math:`(Q, D)` or :math:`(D,)`, ``corpus_embeddings`` :math:`(N, D)`,
          ``query_ids`` :math:`(Q,)`

    Returns:
        Copies of the hits in the new order, with the new scores; what else a hit holds stays with it.

    Raises:
        ValueError: If there is not one list per query, or a hit has no ``"corpus_id"`` or ``"score"``.

    Example:
        >>> from graphattn.retrieval import QueryExpansion
        >>> corpus = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, -0.8]])
        >>> hits = [[{"corpus_id": 0, "score": 0.98}, {"corpus_id": 3, "score": 0.43}, {"corpus_id": 2, "score": 0.2}]]
        >>> found = rerank_hits(QueryExpansion(k=2), torch.tensor([1.0, 0.2]), corpus, hits)
        >>> [hit["corpus_id"] for hit in found[0]]
        [0, 3, 2]
    """
    queries = query_embeddings if isinstance(query_embeddings, Tensor) else torch.from_numpy(np.array(query_embeddings))
    queries = queries.unsqueeze(0) if queries.dim() == 1 else queries
    if len(hits) != len(queries):
        raise ValueError(f"hits has {len(hits)} lists; expected {len(queries)}, one per query")
    shape = (len(hits), max(map(len, hits), default=0))
    indices, scores = torch.full(shape, -1), torch.zeros(shape, dtype=torch.float64)
    for row, found in enumerate(hits):
        for name, target in (("corpus_id", indices), ("score", scores)):
            if any(name not in hit for hit in found):
                raise ValueError(f"hits of query {row} lack {name!r}; expected dicts with 'corpus_id' and 'score'")
            target[row, : len(found)] = torch.tensor([hit[name] for hit in found], dtype=target.dtype)
    device = queries.device
    lists = reranker.rerank(queries, corpus_embeddings, indices.to(device), scores.to(device), query_ids).numpy()
    return [
        [
            {**found[place], "score": score}
            for place, score, item in zip(order.tolist(), values.tolist(), items.tolist(), strict=True)
            if item >= 0
        ]
        for found, order, values, items in zip(hits, lists.order, lists.scores, lists.indices, strict=True)
    ]
