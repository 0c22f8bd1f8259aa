"""Largest absolute eigenvalue: of a stored matrix exactly, on the host; of one that is only applied, a safe bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, eigs, eigsh
from torch import Tensor

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


class PerronBound(NamedTuple):
    """An upper bound of the largest eigenvalue of a non-negative matrix, and how it was found."""

    upper: float
    certified: bool  # whether a lower bound lies within the tolerance
    products: int


@torch.no_grad()
def perron_bound(
    apply: Callable[[Tensor], Tensor],
    size: int,
    symmetric: bool,
    *,
    tol: float = 1e-4,
    max_iter: int = 200,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> PerronBound:
    r"""Bound the largest eigenvalue of a non-negative matrix from above by power iteration.

    .. math:: \rho(A) \le \max_i \frac{(A v)_i}{v_i} \quad \text{for every } v > 0

    holds at every step (Collatz and Wielandt), so that a stop at any time is safe, up to the rounding of the products.
    The lower end is :math:`\|Av\| / \|v\|` of a symmetric matrix, which also serves disconnected graphs, and
    :math:`\min_i (Av)_i / v_i` otherwise, which stays apart from the upper one if not every node reaches every other.

    Args:
        apply: The product :math:`A v` of a vector ``[N]``.
        size: Number of nodes :math:`N`.
        symmetric: Whether :math:`A = A^{\top}`.
        tol: Stop when the two ends are this close, relative to the upper one.
        max_iter: Products at most; then the bound holds but is not certified to be close. It is never above the
            largest row sum, which is the first product.
        dtype: Dtype of the vectors.
        device: Device of the vectors.

    Returns:
        The upper end, whether it is certified, and the number of products.

    Raises:
        ValueError: If a product shows a negative or undefined weight, or ``tol`` or ``max_iter`` is not positive.

    Example:
        >>> A = torch.tensor([[0.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
        >>> perron_bound(lambda v: A @ v, 2, symmetric=True)
        PerronBound(upper=2.0, certified=True, products=1)
    """
    if not tol > 0 or max_iter < 1:
        raise ValueError(f"tol is {tol} and max_iter is {max_iter}; expected a positive number and at least 1")
    if size == 0:
        return PerronBound(0.0, True, 0)
    v = torch.ones(size, dtype=dtype, device=device)
    upper, lower, width, shifted = float("inf"), 0.0, float("inf"), False
    for product in range(1, max_iter + 1):
        image = apply(v)
        if not bool(((image >= 0) & image.isfinite()).all()):
            raise ValueError("the affinity has negative or undefined weights; pass radius= instead of estimating it")
        largest = image.max()
        if largest == 0:
            return PerronBound(0.0, True, product)
        ratio = image / v
        growth = (largest * ((image / largest).norm() / v.norm())).item()  # scaled, so that squares do not underflow
        upper = min(upper, ratio.max().item())
        lower = max(lower, growth if symmetric else ratio.min().item())
        if upper - lower <= tol * upper:
            return PerronBound(upper, True, product)
        # A shift of the spectrum keeps v positive and ends the oscillation of bipartite graphs, but slows down the
        # others: it is added once the two ends stop approaching each other.
        shifted = shifted or upper - lower > 0.7 * width or bool((image == 0).any())
        width = upper - lower
        v = image + growth / 2 * v if shifted else image
        v = (v / v.max()).clamp_min(torch.finfo(dtype).tiny)
    return PerronBound(upper, False, max_iter)
