"""The graphs of these tests, as edges, and their dense matrices."""

from __future__ import annotations

import networkx as nx
import torch
from torch import Tensor

# A square with a roof (0 to 4, whose Laplacian has five different eigenvalues), a pair, and an isolated node.
_UNDIRECTED = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (1, 4), (5, 6)]
HOUSE = torch.tensor([*_UNDIRECTED, *[(b, a) for a, b in _UNDIRECTED]]).T
HOUSE_NODES = 8
ROOF_EDGES = HOUSE[:, (HOUSE < 5).all(0)]


def edges(graph: nx.Graph) -> Tensor:
    """Both directions of every edge; nodes are numbered in the order of the graph."""
    number = {node: i for i, node in enumerate(graph)}
    pairs = [(number[a], number[b]) for a, b in graph.edges]
    return torch.tensor([*pairs, *[(b, a) for a, b in pairs]]).T.reshape(2, -1)


def weighted(num_nodes: int, num_edges: int) -> tuple[Tensor, Tensor]:
    """Random directed edges, with parallel ones and loops, and positive weights in float64."""
    return torch.randint(num_nodes, (2, num_edges)), torch.rand(num_edges, dtype=torch.float64) + 0.1


def dense(edge_index: Tensor, weight: Tensor | None, num_nodes: int) -> Tensor:
    """A[i, j], the row of the target."""
    matrix = torch.zeros(num_nodes, num_nodes, dtype=torch.float64)
    values = torch.ones(edge_index.size(1)).double() if weight is None else weight.double()
    return matrix.index_put((edge_index[1], edge_index[0]), values, accumulate=True)


def disjoint(parts: list[tuple[Tensor, int]], order: Tensor) -> tuple[Tensor, Tensor]:
    """Edges and batch of several graphs (edges, nodes) whose nodes stand in the given order: node i at order[i]."""
    starts = torch.tensor([0, *[n for _, n in parts]]).cumsum(0)
    edge_index = torch.cat([e + start for (e, _), start in zip(parts, starts[:-1], strict=True)], dim=1)
    batch = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([n for _, n in parts]))
    placed = torch.empty_like(batch)
    placed[order] = batch
    return order[edge_index], placed
