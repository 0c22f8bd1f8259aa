"""One query and its documents, which an embedding has made vectors of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn.retrieval.base import Reranker


def check_reranker(reranker: Reranker) -> None:
    """Raise if a re-ranker needs more than the query and its documents."""
    for name, expected in (("scope", "candidates"), ("exclude_self", False)):
        value = getattr(reranker, name)
        if value != expected:
            raise ValueError(
                f"reranker has {name}={value!r}, but there is no gallery here, only texts; pass one with "
                f"{name}={expected!r}"
            )


def rank_documents(reranker: Reranker, query: Any, documents: Any, num_documents: int) -> list[tuple[int, float]]:
    """Return numbers and new scores of documents in their new order, from the vectors ``[1, D]`` and ``[n, D]``."""
    x, items = _matrix("query", query, 1), _matrix("documents", documents, num_documents)
    indices = torch.arange(num_documents, device=x.device).unsqueeze(0)
    lists = reranker.rerank(x, items.to(x.device), indices).numpy()
    kept = lists.indices[0] >= 0
    return list(zip(lists.indices[0][kept].tolist(), lists.scores[0][kept].tolist(), strict=True))


def _matrix(what: str, vectors: Any, rows: int) -> Tensor:
    if not isinstance(vectors, (Tensor, np.ndarray)):
        vectors = np.asarray(vectors, dtype=np.float32)
    matrix = vectors if isinstance(vectors, Tensor) else torch.from_numpy(np.array(vectors))
    if matrix.dim() != 2 or matrix.size(0) != rows:
        raise ValueError(f"the embedding of {rows} {what} has shape {tuple(matrix.shape)}; expected [{rows}, D]")
    return matrix
