"""Largest absolute eigenvalue of a sparse matrix, on the host in float64."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, eigs, eigsh

# Up to this size a dense solver is exact and faster than any iteration; up to the second it is the last resort.
_DENSE = 64
_DENSE_AT_MOST = 1024


def spectral_radius(matrix: csr_array, symmetric: bool) -> float:
    """Largest absolute eigenvalue: 0 for a directed acyclic graph, exact where theory or a dense solver gives it.

    Entries on no cycle do not change the spectrum (the matrix is block triangular over strongly connected components)
    but make it ill-conditioned: a path of 100 nodes has radius 0, and a numerical solver finds 0.7. They are left out.
    Row and column sums bound the radius of a non-negative matrix from both sides; where the bounds meet (a cycle, a
    complete graph, a row-stochastic matrix) nothing is iterated, although every eigenvalue may have the same modulus.
    """
    matrix, block = _on_cycles(matrix)
    size = matrix.shape[0]
    if size == 0:
        return 0.0
    positive = bool((matrix.data > 0).all())
    if positive:
        low, high = _perron_bounds(matrix, block)
        if high - low <= 1e-14 * high:
            return high
    return _dense(matrix, symmetric) if size <= _DENSE else _arpack(matrix, symmetric, positive)


def _on_cycles(matrix: csr_array) -> tuple[csr_array, np.ndarray]:
    """The nodes and entries that lie on a cycle, and the strongly connected component of each such node."""
    entries = csr_array(matrix, dtype=np.float64, copy=True)
    entries.sum_duplicates()
    entries.eliminate_zeros()
    _, block = connected_components(entries, directed=True, connection="strong")
    coo = entries.tocoo()
    inside = block[coo.row] == block[coo.col]
    nodes, row = np.unique(coo.row[inside], return_inverse=True)
    col = np.searchsorted(nodes, coo.col[inside])
    return csr_array((coo.data[inside], (row, col)), shape=(nodes.size, nodes.size)), block[nodes]


def _perron_bounds(matrix: csr_array, block: np.ndarray) -> tuple[float, float]:
    lows, highs = [], []
    for axis in (0, 1):
        sums = matrix.sum(axis=axis)
        least = np.full(block.max() + 1, np.inf)
        np.minimum.at(least, block, sums)
        lows.append(least[block].max())
        highs.append(sums.max())
    return float(max(lows)), float(min(highs))


def _dense(matrix: csr_array, symmetric: bool) -> float:
    dense = matrix.toarray()
    values = np.linalg.eigvalsh(dense) if symmetric else np.linalg.eigvals(dense)
    return float(np.abs(values).max())


def _arpack(matrix: csr_array, symmetric: bool, positive: bool) -> float:
    # The Perron root is the rightmost eigenvalue, which no other of the same modulus (a bipartite graph) can tie with.
    if symmetric:
        solve, which = eigsh, "LA" if positive else "LM"
    else:
        solve, which = eigs, "LR" if positive else "LM"
    start = np.random.default_rng(0).uniform(0.5, 1.5, matrix.shape[0])
    for subspace in (32, 128):
        options = {"v0": start, "ncv": min(subspace, matrix.shape[0]), "maxiter": 300, "tol": 1e-10}
        try:
            values = solve(matrix, k=1, which=which, return_eigenvectors=False, **options)
        except ArpackNoConvergence:
            continue
        return float(np.abs(values).max())
    if matrix.shape[0] <= _DENSE_AT_MOST:
        return _dense(matrix, symmetric)
    raise RuntimeError(
        f"the spectral radius of {matrix.shape[0]} nodes and {matrix.nnz} entries did not converge: several "
        "eigenvalues are (nearly) as large; use an upper bound, such as the largest row sum of the absolute weights"
    )
