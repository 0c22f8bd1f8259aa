"""Published re-ranking algorithms as dense NumPy: whole matrices over queries and gallery, one row after another."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def ranks(similarity: Array) -> Array:
    """Nodes from the most similar on, each at the front of its own list, ties by number."""
    similarity = similarity.copy()
    np.fill_diagonal(similarity, np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")


def unit(x: Array) -> Array:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length == 0, 1, length)


def k_reciprocal(
    queries: Array, gallery: Array, k1: int = 20, k2: int = 6, blend: float = 0.3, power: float = 1.0
) -> Array:
    """Distances ``[Q, N]`` of k-reciprocal encoding; the queries are nodes beside the gallery."""
    x = unit(np.concatenate([queries, gallery]))
    n, num_queries = len(x), len(queries)
    similarity = x @ x.T
    np.fill_diagonal(similarity, 1.0)
    distance = np.maximum(2 - 2 * similarity, 0) ** power
    distance /= distance.max(axis=1, keepdims=True)
    rank = ranks(similarity)

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in rank[i, : k + 1].tolist() if i in rank[j, : k + 1]}

    near = [reciprocal(i, k1) for i in range(n)]
    half = [reciprocal(i, int(np.around(k1 / 2))) for i in range(n)]
    encoding = np.zeros_like(distance)
    for i in range(n):
        members = set(near[i])
        for c in near[i]:
            if 3 * len(half[c] & near[i]) > 2 * len(half[c]):
                members |= half[c]
        index = sorted(members)
        weight = np.exp(-distance[i, index])
        encoding[i, index] = weight / weight.sum()
    if k2 != 1:
        encoding = np.stack([encoding[rank[i, :k2]].mean(axis=0) for i in range(n)])

    rows_of = [np.flatnonzero(encoding[:, g]) for g in range(n)]
    common = np.zeros((num_queries, n), distance.dtype)
    for q in range(num_queries):
        for g in np.flatnonzero(encoding[q]):
            common[q, rows_of[g]] += np.minimum(encoding[q, g], encoding[rows_of[g], g])
    result = (1 - blend) * (1 - common / (2 - common)) + blend * distance[:num_queries]
    return result[:, num_queries:]


def gnn(
    queries: Array,
    gallery: Array,
    k1: int = 26,
    k2: int = 7,
    alpha: float = 2.0,
    blend: float = 0.3,
    residual: bool = False,
) -> Array:
    """Scores ``[Q, N]`` of GNN re-ranking; the queries are nodes beside the gallery."""
    x = unit(np.concatenate([queries, gallery]))
    n, num_queries = len(x), len(queries)
    similarity = x @ x.T
    rank = ranks(similarity)
    adjacency = np.zeros_like(similarity)
    for i in range(n):
        adjacency[i, rank[i, :k1]] = 1.0
    if k2 != 1:
        for _ in range(2):
            adjacency = adjacency + adjacency.T
            if residual:
                adjacency = adjacency / 2
            new = adjacency.copy() if residual else np.zeros_like(adjacency)
            for i in range(n):
                for j in rank[i, :k2]:
                    new[i] += max(similarity[i, j], 0.0) ** alpha * adjacency[j]
            adjacency = unit(new)
    score = (1 - blend) * adjacency @ adjacency.T + blend * similarity
    return score[:num_queries, num_queries:]


def graph_convolution(
    queries: Array, gallery: Array, k: int = 15, beta: float = 0.2, rounds: int = 3, symmetric: bool = False
) -> Array:
    """Scores ``[Q, N]`` of graph convolution re-ranking; the queries are nodes beside the gallery."""
    x = unit(np.concatenate([queries, gallery]))
    for _ in range(rounds):
        x = convolved(x, k, beta, symmetric)
    return x[: len(queries)] @ x[len(queries) :].T


def convolved(x: Array, k: int, beta: float, symmetric: bool) -> Array:
    """Replace all unit vectors by weighted means of their nearest."""
    similarity = x @ x.T
    rank = ranks(similarity)
    weight = np.zeros_like(similarity)
    for i in range(len(x)):
        weight[i, rank[i, :k]] = np.exp(similarity[i, rank[i, :k]] / beta)
    if symmetric:
        weight = (weight + weight.T) / 2
    return unit(weight / np.sqrt(np.outer(weight.sum(axis=1), weight.sum(axis=0))) @ x)
