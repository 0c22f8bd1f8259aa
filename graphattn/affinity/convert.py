"""Affinities from and to what other libraries hold: PyG, networkx, SciPy, torch sparse and NumPy.

The methods of :class:`~graphattn.affinity.Affinity` document these functions; here is only how it is done.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import networkx as nx
import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from graphattn.affinity.checks import check_weights
from graphattn.affinity.dense import DenseAffinity
from graphattn.affinity.sparse import SparseAffinity
from graphattn.ops.layout import check_edge_index, check_range

_COMPRESSED = {torch.sparse_csr, torch.sparse_csc}


def _check_nan(name: str, values: Tensor) -> None:
    """Raise on NaN where values may be read: CPU tensors in eager mode."""
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        nan = torch.isnan(values.detach())
        if bool(nan.any()):
            where = tuple(nan.nonzero()[0].tolist())
            raise ValueError(f"{name} contains {int(nan.sum())} NaN, the first at {where}; expected none")


# In ###################################################################################################################


def from_edge_index(
    edge_index: Tensor,
    weight: Tensor | None = None,
    num_nodes: int | tuple[int, int] | None = None,
    *,
    symmetric: bool = False,
    labels: Sequence[Hashable] | None = None,
) -> SparseAffinity:
    check_edge_index(edge_index)
    m, n = _sizes(edge_index, num_nodes)
    if edge_index.device.type == "cpu" and not torch.compiler.is_compiling():
        check_range(edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index, n, m)
    if weight is not None:
        check_weights("weight", weight)
        _check_nan("weight", weight)
    return SparseAffinity(edge_index, weight, (n, m), symmetric=symmetric, labels=labels)


def _sizes(edge_index: Tensor, num_nodes: Any) -> tuple[int, int]:
    """Number of sources and of targets."""
    if num_nodes is None:
        known = edge_index.sparse_size() if isinstance(edge_index, EdgeIndex) else (None, None)
        if known[0] is not None and known[1] is not None:
            return known[0], known[1]
        num_nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
    sizes = num_nodes if isinstance(num_nodes, (tuple, list, torch.Size)) else (num_nodes, num_nodes)
    if len(sizes) != 2 or not all(isinstance(size, (int, torch.SymInt)) and size >= 0 for size in sizes):
        raise ValueError(f"num_nodes is {num_nodes!r}; expected an integer or (num_sources, num_targets), at least 0")
    return sizes[0], sizes[1]


def from_dense(matrix: Tensor, *, symmetric: bool = False) -> DenseAffinity:
    affinity = DenseAffinity(matrix, symmetric=symmetric)
    _check_nan("matrix", matrix)
    return affinity


def from_numpy(array: np.ndarray, *, symmetric: bool = False) -> DenseAffinity:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"array is a {type(array).__name__}; expected a NumPy array")
    return from_dense(_floating(torch.tensor(array)), symmetric=symmetric)


def _floating(values: Tensor) -> Tensor:
    return values if values.is_floating_point() or values.is_complex() else values.to(torch.get_default_dtype())


def from_networkx(graph: nx.Graph, weight: str | None = "weight") -> SparseAffinity:
    number = {node: i for i, node in enumerate(graph)}
    ends, values = [], []
    for u, v, attributes in graph.edges(data=True):
        value = 1 if weight is None else attributes.get(weight, 1)
        try:
            value = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"edge ({u!r}, {v!r}) has {weight} {value!r}; expected a number") from error
        directions = [(u, v)] if graph.is_directed() or u == v else [(u, v), (v, u)]
        ends += [(number[source], number[target]) for source, target in directions]
        values += [value] * len(directions)
    return from_edge_index(
        torch.tensor(ends, dtype=torch.int64).view(-1, 2).t().contiguous(),
        None if weight is None else torch.tensor(values, dtype=torch.get_default_dtype()),
        len(number),
        symmetric=not graph.is_directed(),
        labels=list(number),
    )


def from_scipy(matrix: Any, transpose: bool = False, *, symmetric: bool = False) -> SparseAffinity:
    if not scipy.sparse.issparse(matrix):
        raise TypeError(f"matrix is a {type(matrix).__name__}; expected a SciPy sparse matrix or array")
    if len(matrix.shape) != 2:
        raise ValueError(f"matrix has shape {matrix.shape}; expected [N, M]")
    entries = (matrix.T if transpose else matrix).tocoo()
    n, m = entries.shape
    edge_index = torch.stack([torch.tensor(entries.col), torch.tensor(entries.row)]).long()
    return from_edge_index(edge_index, _floating(torch.tensor(entries.data)), (m, n), symmetric=symmetric)


def from_torch_sparse(matrix: Tensor, transpose: bool = False, *, symmetric: bool = False) -> SparseAffinity:
    if not isinstance(matrix, Tensor):
        raise TypeError(f"matrix is a {type(matrix).__name__}; expected a torch sparse tensor")
    if matrix.layout == torch.sparse_coo:
        if matrix.sparse_dim() != 2:
            raise ValueError(f"matrix has {matrix.sparse_dim()} sparse dimensions; expected 2, rows and columns")
        matrix = matrix.coalesce()
        row, col = matrix.indices()
    elif matrix.layout in _COMPRESSED:
        csr = matrix.layout == torch.sparse_csr
        pointer, minor = (
            (matrix.crow_indices(), matrix.col_indices()) if csr else (matrix.ccol_indices(), matrix.row_indices())
        )
        if pointer.dim() != 1:
            raise ValueError(f"matrix has shape {tuple(matrix.shape)}; expected no batch dimension")
        major = torch.arange(pointer.numel() - 1, device=pointer.device).repeat_interleave(pointer.diff().long())
        row, col = (major, minor.long()) if csr else (minor.long(), major)
    else:
        raise TypeError(f"matrix is a {matrix.layout} tensor; expected COO, CSR or CSC (from_dense takes dense ones)")
    if matrix.dense_dim() > 1:
        raise ValueError(f"matrix has {matrix.dense_dim()} dense dimensions; expected at most one, the heads")
    n, m = matrix.shape[:2]
    ends, sizes = ([row, col], (n, m)) if transpose else ([col, row], (m, n))
    return from_edge_index(torch.stack(ends), _floating(matrix.values()), sizes, symmetric=symmetric)


def from_data(data: Data, weight: str = "edge_weight", *, symmetric: bool = False) -> SparseAffinity:
    edge_index = getattr(data, "edge_index", None)
    if edge_index is None:
        raise ValueError(f"data has no edge_index: {data}")
    return from_edge_index(edge_index, getattr(data, weight, None), data.num_nodes, symmetric=symmetric)


# Out ##################################################################################################################


def _check_square(affinity: SparseAffinity, what: str) -> None:
    n, m = affinity.shape
    if n != m:
        raise ValueError(f"the affinity is {n} x {m}; {what} needs a square one")


def _check_one_head(affinity: SparseAffinity, what: str) -> None:
    if affinity.num_heads != 1:
        raise ValueError(f"the affinity has {affinity.num_heads} heads; {what} holds one")


def to_networkx(affinity: SparseAffinity, weight: str = "weight", multigraph: bool = False) -> nx.Graph:
    _check_square(affinity, "a networkx graph")
    _check_one_head(affinity, "a networkx graph")
    unweighted = affinity.weight is None
    if not multigraph:
        merged = affinity.coalesce()
        unweighted, affinity = unweighted and merged.num_edges == affinity.num_edges, merged
    kinds = {(False, False): nx.DiGraph, (False, True): nx.MultiDiGraph}
    kinds |= {(True, False): nx.Graph, (True, True): nx.MultiGraph}
    graph = kinds[affinity.symmetric, multigraph]()
    labels = range(affinity.shape[0]) if affinity.labels is None else affinity.labels
    graph.add_nodes_from(labels)
    values = affinity.weights().flatten().tolist()
    for source, target, value in zip(*affinity.edge_index.tolist(), values, strict=True):
        # An undirected edge stands twice in a symmetric affinity.
        if not affinity.symmetric or source <= target:
            graph.add_edge(labels[source], labels[target], **({} if unweighted else {weight: value}))
    return graph


def to_scipy(affinity: SparseAffinity) -> scipy.sparse.csr_array:
    _check_one_head(affinity, "a SciPy matrix")
    source, target = affinity.edge_index.cpu().numpy()
    return scipy.sparse.csr_array((_host(affinity.weights().flatten()), (target, source)), shape=affinity.shape)


def _host(values: Tensor) -> np.ndarray:
    # NumPy has no bfloat16 and SciPy no float16.
    return values.detach().to("cpu", torch.promote_types(values.dtype, torch.float32)).numpy()


def to_torch_sparse(affinity: SparseAffinity, layout: torch.layout = torch.sparse_csr) -> Tensor:
    if layout != torch.sparse_coo and layout not in _COMPRESSED:
        raise ValueError(f"layout is {layout}; expected torch.sparse_coo, torch.sparse_csr or torch.sparse_csc")
    affinity = affinity.coalesce()
    (col, row), values = affinity.edge_index, affinity.weights()
    size = (*affinity.shape, *values.shape[1:])
    if layout == torch.sparse_coo:
        return torch.sparse_coo_tensor(torch.stack([row, col]), values, size, is_coalesced=True, check_invariants=False)
    if layout == torch.sparse_csr:
        pointer, minor, _ = affinity.layout.csr()
    else:
        pointer, minor, slot = affinity.layout.csc()
        values = values.index_select(0, slot)
    return torch.sparse_compressed_tensor(
        pointer.long(), minor.long(), values, size, layout=layout, check_invariants=False
    )


def to_data(affinity: SparseAffinity) -> Data:
    _check_square(affinity, "a PyG graph")
    attributes = {"edge_weight": affinity.weight, "edge_type": affinity.edge_type}
    attributes = {name: values for name, values in attributes.items() if values is not None}
    return Data(edge_index=affinity.edge_index, num_nodes=affinity.shape[0], **attributes)


def to_numpy(affinity: DenseAffinity) -> np.ndarray:
    # A copy: the array may be edited, the affinity must not.
    matrix = affinity.matrix.detach().cpu()
    return (matrix.float() if matrix.dtype == torch.bfloat16 else matrix).numpy().copy()
