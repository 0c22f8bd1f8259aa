"""The lowest eigenvectors of the Laplacian, the coordinates of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh, splu
from torch import Tensor

from graphattn.nn.encodings.inputs import component_blocks, read_graph, undirected

_DENSE = 500  # nodes up to which a dense solver is faster and exact
# How many of the lowest pairs are left out; None stands for the whole null space.
_DROPPED = {None: None, "pyg": 1, "graphgps": 0}


class _Pair(NamedTuple):
    value: float
    nodes: np.ndarray
    vector: np.ndarray


@torch.no_grad()
def laplacian_encoding(
    A: Any,
    k: int = 8,
    *,
    edge_weight: Tensor | None = None,
    num_nodes: int | None = None,
    batch: Tensor | None = None,
    compat: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Encode the nodes by the ``k`` lowest eigenvectors of the Laplacian above its null space.

    .. math:: \mathbf{L} = \mathbf{I} - \mathbf{D}^{-1/2} \mathbf{W} \mathbf{D}^{-1/2}, \quad
        \mathbf{L}\,\mathbf{u}_m = \lambda_m \mathbf{u}_m, \quad 0 < \lambda_1 \le \lambda_2 \le \dots

    with the symmetrized weights :math:`\mathbf{W}` without loops and their row sums :math:`\mathbf{D}`. The null space
    has one vector for each connected component, isolated nodes included; it tells no more than the degrees and is left
    out whole. Missing vectors are zeros, with zeros for their values. Vectors have length 1 and are fixed up to sign;
    here the largest entry is positive, the first of equals. Of a repeated eigenvalue the eigenspace alone is fixed.

    Every component is decomposed by itself, in float64 on the host: by a dense solver up to 500 nodes, above by Lanczos
    iteration, and by Lanczos iteration on a factorization where the eigenvalues lie too close together for that.

    Args:
        A: An affinity, a torch sparse matrix (row = target), or ``edge_index`` :math:`(2, E)`.
        k: Number of vectors.
        edge_weight: Weights of an ``edge_index``, ones by default.
        num_nodes: Number of nodes of an ``edge_index``, by default the length of ``batch`` or the largest index plus
            one.
        batch: Graph of each node, in any order, for a batch of graphs that are encoded each by itself.
        compat: ``"pyg"`` for PyG's ``AddLaplacianEigenvectorPE(k, is_undirected=True)``, which leaves out one vector,
            whatever the components, and gives isolated nodes the eigenvalue 1; ``"graphgps"`` for GraphGPS, which
            ignores weights, keeps the null space, fills up with NaN and gives isolated nodes the eigenvalue 1. Both up
            to signs, which they draw or leave to the solver.

    Returns:
        The vectors :math:`(N, k)` and their values :math:`(k,)`, or :math:`(B, k)` with ``batch``, in the dtype of the
        weights, at least float32, without gradient.

    Raises:
        ValueError: If an argument is out of range, a shape or a weight does not fit, or an edge joins two graphs.
        TypeError: If a dtype does not fit.
        RuntimeError: If the iteration does not converge.

    Example:
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> vectors, values = laplacian_encoding(path, 3)
        >>> values.tolist()  # the third is not there
        [1.0, 2.0, 0.0]
        >>> vectors[[0, 2], 0]
        tensor([ 0.7071, -0.7071])

    Reference:
        Dwivedi & Bresson, "A Generalization of Transformer Networks to Graphs", 2021; Dwivedi et al., "Benchmarking
        Graph Neural Networks", 2023.
    """
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k!r}; expected an integer of at least 1")
    if compat not in _DROPPED:
        raise ValueError(f"compat is {compat!r}; expected one of {', '.join(map(repr, _DROPPED))}")
    if batch is not None and num_nodes is None and isinstance(A, Tensor) and A.layout == torch.strided:
        num_nodes = batch.numel()
    graph = read_graph(A, edge_weight, num_nodes)
    n = graph.shape[0]
    of_node, num_graphs = _graphs(batch, n)
    matrix = undirected(graph)
    if compat == "graphgps":
        matrix.data[:] = 1.0

    pairs: list[list[_Pair]] = [[] for _ in range(num_graphs)]
    for nodes, block in component_blocks(matrix):
        if (of_node[nodes] != of_node[nodes[0]]).any():
            raise ValueError("A has an edge between two graphs of batch; expected edges within graphs alone")
        if nodes.size > 1:
            found = _lowest(block, k, null=compat is not None)
        else:
            found = [] if compat is None else [(1.0, np.ones(1))]
        pairs[of_node[nodes[0]]] += [_Pair(value, nodes, vector) for value, vector in found]

    vectors, values = np.zeros((n, k)), np.zeros((num_graphs, k))
    found_in = np.zeros((num_graphs, 1), dtype=np.int64)
    for g, of_graph in enumerate(pairs):
        kept = sorted(of_graph, key=lambda pair: pair.value)[_DROPPED[compat] or 0 :][:k]
        found_in[g] = len(kept)
        for m, pair in enumerate(kept):
            values[g, m] = pair.value
            vectors[pair.nodes, m] = pair.vector * _sign(pair.vector)
    if compat == "graphgps":
        missing = np.arange(k) >= found_in
        values[missing] = vectors[missing[of_node]] = np.nan
    if batch is None:
        values = values[0]
    dtype = torch.promote_types(graph.dtype, torch.float32)
    return torch.from_numpy(vectors).to(graph.device, dtype), torch.from_numpy(values).to(graph.device, dtype)


def _graphs(batch: Tensor | None, num_nodes: int) -> tuple[np.ndarray, int]:
    """The graph of every node, and their number."""
    if batch is None:
        return np.zeros(num_nodes, dtype=np.int64), 1
    if batch.dtype not in (torch.int64, torch.int32) or tuple(batch.shape) != (num_nodes,):
        raise ValueError(
            f"batch has shape {tuple(batch.shape)} and dtype {batch.dtype}; expected [{num_nodes}] integers, the graph "
            "of each node"
        )
    of_node = batch.cpu().long().numpy()
    if num_nodes and of_node.min() < 0:
        raise ValueError(f"batch contains {of_node.min()}; expected graphs counted from 0")
    return of_node, int(of_node.max(initial=-1)) + 1


def _lowest(W: csr_array, k: int, null: bool) -> list[tuple[float, np.ndarray]]:
    """The k lowest pairs of a connected graph above its null vector, and on request that one before them."""
    n = W.shape[0]
    root = np.sqrt(np.asarray(W.sum(axis=1)).reshape(-1))
    scale = diags_array(1.0 / root)
    L = csr_array(eye_array(n) - scale @ W @ scale)
    lowest = root / np.linalg.norm(root)
    count = min(k, n - 1)
    if n <= max(_DENSE, 4 * count):
        # Eigenvalues lie in [0, 2]; the null vector is moved above them instead of being told from its neighbours.
        _, vectors = eigh(L.toarray() + 3.0 * np.outer(lowest, lowest), subset_by_index=[0, count - 1])
    else:
        vectors = _iterate(L, lowest[:, None], count)
    values = _rayleigh(L, vectors)
    pairs = [(0.0, lowest)] if null else []
    return pairs + [(float(value), vector) for value, vector in zip(values, vectors.T, strict=True)]


def _iterate(L: csr_array, null: np.ndarray, k: int) -> np.ndarray:
    """The k lowest eigenvectors beside the null vector: of 2 I - L, or of the inverse where that one takes too long."""
    try:
        return _beside(lambda x: 2.0 * x - L @ x, L, null, k)
    except ArpackNoConvergence:
        return _beside(splu((L + 1e-3 * eye_array(L.shape[0])).tocsc()).solve, L, null, k)


def _beside(apply: Callable[[np.ndarray], np.ndarray], L: csr_array, null: np.ndarray, k: int) -> np.ndarray:
    """Lanczos iteration, and again beside what was found: it may miss copies of a repeated eigenvalue."""
    vectors = _strongest(apply, null, k)
    while True:
        more = _strongest(apply, np.hstack([null, vectors]), 1)
        values = _rayleigh(L, vectors)
        if _rayleigh(L, more)[0] >= values.max() - 1e-9:
            return vectors[:, np.argsort(values, kind="stable")]
        vectors = np.delete(np.hstack([vectors, more]), values.argmax(), axis=1)


def _strongest(apply: Callable[[np.ndarray], np.ndarray], known: np.ndarray, k: int) -> np.ndarray:
    """The k eigenvectors of the largest eigenvalues of a positive operator, those aside that are known."""
    n = known.shape[0]

    def project(x: np.ndarray) -> np.ndarray:
        x = x.reshape(-1)
        return x - known @ (known.T @ x)

    operator = LinearOperator((n, n), matvec=lambda x: project(apply(project(x))), dtype=np.float64)
    start = project(np.random.default_rng(0).standard_normal((n,)))
    options = {"v0": start, "ncv": min(max(4 * k, 40), n - 1), "maxiter": 200, "tol": 1e-12}
    return eigsh(operator, k, which="LA", **options)[1]


def _rayleigh(L: csr_array, vectors: np.ndarray) -> np.ndarray:
    return np.einsum("nk,nk->k", vectors, L @ vectors)


def _sign(vector: np.ndarray) -> float:
    """The sign that makes the largest entry positive; of entries that differ by rounding the first."""
    size = np.abs(vector)
    return float(np.sign(vector[np.argmax(size >= (1 - 1e-6) * size.max())]))
