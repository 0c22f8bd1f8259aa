"""Linear structural models whose causes are known, for the tests of causal structure."""

from __future__ import annotations

import math
from itertools import combinations

import networkx as nx
import numpy as np


def random_weights(rng: np.random.Generator, size: int = 6, probability: float = 0.4) -> np.ndarray:
    """Weights G of x = Gx + u, strictly lower-triangular, between 0.3 and 0.9 where there is an edge."""
    present = np.tril(rng.random((size, size)) < probability, -1)
    return np.where(present, rng.uniform(0.3, 0.9, (size, size)), 0.0)


def random_attention(size: int, seed: int = 0) -> np.ndarray:
    """Attention without any structure."""
    A = np.random.default_rng(seed).random((size, size))
    return A / A.sum(axis=1, keepdims=True)


def attention_of(weights: np.ndarray) -> np.ndarray:
    """The attention that such a model has: how much each variable draws on the noise of each, in rows that sum to 1."""
    total = np.linalg.inv(np.eye(len(weights)) - weights)
    return total / total.sum(axis=1, keepdims=True)


def correlation_of(weights: np.ndarray) -> np.ndarray:
    """The exact correlations of the variables."""
    total = np.linalg.inv(np.eye(len(weights)) - weights)
    covariance = total @ total.T
    scale = np.sqrt(covariance.diagonal())
    return covariance / np.outer(scale, scale)


def residual_correlation(R: np.ndarray) -> float:
    """The correlation of what is left of two variables once the others are regressed out."""
    given = R[2:, 2:]
    rest = R[:2, :2] - R[:2, 2:] @ np.linalg.solve(given, R[2:, :2])
    return float(rest[0, 1] / math.sqrt(rest[0, 0] * rest[1, 1]))


def skeleton_of(weights: np.ndarray) -> set[tuple[int, int]]:
    """Pairs that no set of other variables d-separates, tried one by one."""
    graph = nx.DiGraph([(int(j), int(i)) for i, j in np.argwhere(weights)])
    graph.add_nodes_from(range(len(weights)))
    kept = set()
    for x, y in combinations(range(len(weights)), 2):
        others = [node for node in graph if node not in (x, y)]
        subsets = (set(given) for size in range(len(others) + 1) for given in combinations(others, size))
        if not any(nx.is_d_separator(graph, {x}, {y}, given) for given in subsets):
            kept.add((x, y))
    return kept
