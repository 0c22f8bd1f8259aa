"""What the encodings of a node's place in its graph read: one graph or many at once, and its components."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from graphattn.affinity import Affinity, SparseAffinity

_BLOCK_BYTES = 8 << 20


def read_graph(A: Any, edge_weight: Tensor | None, num_nodes: int | None) -> SparseAffinity:
    """Read a square affinity with weights of at least 0 from whatever holds it."""
    if isinstance(A, Tensor) and A.layout != torch.strided:
        A = Affinity.from_torch_sparse(A)
    if isinstance(A, Affinity):
        for name, value in (("edge_weight", edge_weight), ("num_nodes", num_nodes)):
            if value is not None:
                raise ValueError(f"{name} is given, but A has its own; pass it with an edge_index only")
        graph = A.to_sparse()
    else:
        graph = Affinity.from_edge_index(A, edge_weight, num_nodes)
    if graph.shape[0] != graph.shape[1]:
        raise ValueError(f"A is {graph.shape[0]} x {graph.shape[1]}; expected a square affinity")
    if graph.num_heads > 1:
        raise ValueError(f"A has weights for {graph.num_heads} heads; expected one weight per edge")
    readable = graph.device.type == "cpu" and not torch.compiler.is_compiling()
    if graph.weight is not None and readable and bool((graph.weight < 0).any()):
        raise ValueError(f"A contains the weight {graph.weight.min():.4g}; expected no negative weights")
    return graph


def undirected(graph: SparseAffinity) -> csr_array:
    """The mean of both directions without loops, as a SciPy matrix of float64."""
    matrix = csr_array(graph.to_scipy(), dtype=np.float64)
    matrix = (matrix + matrix.T) / 2
    matrix = csr_array(matrix - diags_array(matrix.diagonal()))
    matrix.eliminate_zeros()
    return matrix


def components(matrix: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """The component of every node, whatever the direction of the edges, and its number within that component."""
    if matrix.shape[0] == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    _, component = connected_components(matrix, directed=False)
    order = np.argsort(component, kind="stable")
    first = np.searchsorted(component[order], component)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return component, rank - first


def component_blocks(matrix: csr_array) -> Iterator[tuple[np.ndarray, csr_array]]:
    """The nodes of every connected component, and its own matrix."""
    component, _ = components(matrix)
    order = np.argsort(component, kind="stable")
    inside = csr_array(matrix[order][:, order])
    start, alone = 0, csr_array((1, 1))
    for size in np.bincount(component):
        part = slice(start, start + size)
        yield order[part], inside[part, part] if size > 1 else alone
        start += size


def unit_blocks(rank: Tensor, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Unit vectors of all nodes as the columns of narrow matrices: nodes, the column of each, the matrix.

    Components do not meet, so that one column serves a node of each: a thousand small graphs take as many columns as
    the largest of them has nodes.
    """
    n = rank.numel()
    size = max(1, _BLOCK_BYTES // (max(n, 1) * dtype.itemsize))
    for start in range(0, int(rank.max()) + 1 if n else 0, size):
        nodes = ((rank >= start) & (rank < start + size)).nonzero().squeeze(1)
        column = rank[nodes] - start
        unit = torch.zeros(n, int(column.max()) + 1, dtype=dtype, device=rank.device)
        unit[nodes, column] = 1.0
        yield nodes, column, unit
