"""k-reciprocal encoding and GNN re-ranking as they were published: in float32, with the matrix of all pairs.

Steps, and what stays in memory beside them, are those of the released code; of the GNN, which has CUDA kernels for its
steps, the same in NumPy.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

# Bytes for each pair of nodes at the peak.
K_RECIPROCAL_BYTES, GNN_BYTES = 20, 16


def k_reciprocal(queries: Array, gallery: Array, k1: int = 20, k2: int = 6, blend: float = 0.3) -> Array:
    """Return scores ``[Q, N]``, larger is better, with the queries as nodes in front of the gallery."""
    queries, gallery = _unit(queries.astype(np.float32)), _unit(gallery.astype(np.float32))
    # The caller has the products of both with both, and holds them.
    among, across, within = queries @ queries.T, queries @ gallery.T, gallery @ gallery.T
    distance = np.block([[among, across], [across.T, within]])
    np.maximum(2 - 2 * distance, 0, out=distance)
    np.fill_diagonal(distance, 0)
    distance /= distance.max(axis=1, keepdims=True)
    rank = np.argsort(distance, axis=1, kind="stable").astype(np.int32)
    n, half = len(rank), int(np.around(k1 / 2))

    encoding = np.zeros_like(distance)
    for i in range(n):
        near = _reciprocal(rank, i, k1)
        members = [near]
        for candidate in near:
            theirs = _reciprocal(rank, candidate, half)
            if 3 * len(np.intersect1d(theirs, near, assume_unique=True)) > 2 * len(theirs):
                members.append(theirs)
        index = np.unique(np.concatenate(members))
        weight = np.exp(-distance[i, index])
        encoding[i, index] = weight / weight.sum()
    if k2 != 1:
        averaged = np.zeros_like(encoding)
        for i in range(n):
            averaged[i] = encoding[rank[i, :k2]].mean(axis=0)
        encoding = averaged

    inverse = [np.flatnonzero(encoding[:, g]) for g in range(n)]
    jaccard = np.zeros((len(queries), n), np.float32)
    for q in range(len(queries)):
        common = np.zeros(n, np.float32)
        for g in np.flatnonzero(encoding[q]):
            common[inverse[g]] += np.minimum(encoding[q, g], encoding[inverse[g], g])
        jaccard[q] = 1 - common / (2 - common)
    return -((1 - blend) * jaccard + blend * distance[: len(queries)])[:, len(queries) :]


def _reciprocal(rank: Array, node: int, k: int) -> Array:
    forward = rank[node, : k + 1]
    return forward[(rank[forward, : k + 1] == node).any(axis=1)]


def gnn(queries: Array, gallery: Array, k1: int = 26, k2: int = 7, alpha: float = 2.0, blend: float = 0.3) -> Array:
    """Return scores ``[Q, N]``, larger is better, with the queries as nodes in front of the gallery."""
    x = _unit(np.concatenate([queries, gallery]).astype(np.float32))
    similarity = x @ x.T
    np.fill_diagonal(similarity, np.inf)
    near = np.argsort(-similarity, axis=1, kind="stable")[:, : max(k1, k2)].copy()
    np.fill_diagonal(similarity, 1)
    weight = np.maximum(np.take_along_axis(similarity, near[:, :k2], axis=1), 0) ** alpha
    adjacency = np.zeros_like(similarity)
    np.put_along_axis(adjacency, near[:, :k1], 1, axis=1)
    if k2 != 1:
        for _ in range(2):
            adjacency = adjacency + adjacency.T
            summed = np.zeros_like(adjacency)
            for i in range(len(near)):
                summed[i] = weight[i] @ adjacency[near[i, :k2]]
            adjacency = _unit(summed)
    shared = adjacency[: len(queries)] @ adjacency.T
    return ((1 - blend) * shared + blend * similarity[: len(queries)])[:, len(queries) :]


def _unit(x: Array) -> Array:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length == 0, 1, length)
