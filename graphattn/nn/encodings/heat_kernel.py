"""How much heat stays where it was put."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.sparse import csr_array, diags_array
from scipy.special import ive
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.nn.encodings.inputs import component_blocks, read_graph, undirected, unit_blocks

_DENSE = 2000  # nodes up to which all eigenvectors are computed
_NEGLIGIBLE = 1e-16


@torch.no_grad()
def heat_kernel_encoding(
    A: Any,
    times: Sequence[float] = tuple(range(1, 17)),
    *,
    edge_weight: Tensor | None = None,
    num_nodes: int | None = None,
) -> Tensor:
    r"""Encode every node by the diagonal of the heat kernel, the constant part left out.

    .. math:: \mathrm{PE}_i = \Big(\sum_{\lambda_m > 0} e^{-t \lambda_m}\,u_{im}^2\Big)_t
        = \Big(\exp(-t \mathbf{L})_{ii} - \frac{1}{n_i}\Big)_t, \quad \mathbf{L} = \mathbf{D} - \mathbf{W}

    with the symmetrized weights :math:`\mathbf{W}` without loops, their row sums :math:`\mathbf{D}` and the
    :math:`n_i` nodes of the component of node :math:`i`. An isolated node gets 0. Components do not meet, so that a
    batch of graphs is one graph of many components.

    A component of up to 2,000 nodes is decomposed by a dense solver on the host. Of a larger one the exponential is
    expanded in Chebyshev polynomials, whose diagonals are computed from unit vectors in blocks, in :math:`O(n)` memory
    for each vector and time :math:`O(\sqrt{t\,d_{\max}}\,E\,n)` for all durations up to :math:`t` together, with the
    largest degree :math:`d_{\max}`.

    Args:
        A: An affinity, a torch sparse matrix (row = target), or ``edge_index`` :math:`(2, E)`.
        times: Durations :math:`t`, positive; 1 to 16 by default, as in GraphGPS.
        edge_weight: Weights of an ``edge_index``, ones by default.
        num_nodes: Number of nodes of an ``edge_index``, by default the largest index plus one.

    Returns:
        Encodings :math:`(N, T)` in the dtype of the weights, at least float32, computed in float64, without gradient.

    Raises:
        ValueError: If an argument is out of range, or a shape or a weight does not fit.
        TypeError: If a dtype does not fit.

    Example:
        >>> heat_kernel_encoding(torch.tensor([[0, 1], [1, 0]]), [0.5, 1.0])  # exp(-2 t) / 2
        tensor([[0.1839, 0.0677],
                [0.1839, 0.0677]])

    Reference:
        Kreuzer et al., "Rethinking Graph Transformers with Spectral Attention", 2021; Rampášek et al., "Recipe for a
        General, Powerful, Scalable Graph Transformer", 2022.
    """
    times = [float(time) for time in times]
    if not times or not all(0 < time < math.inf for time in times):
        raise ValueError(f"times is {times}; expected at least one number, all positive and finite")
    graph = read_graph(A, edge_weight, num_nodes)
    out = torch.zeros(graph.shape[0], len(times), dtype=torch.float64, device=graph.device)
    for nodes, W in component_blocks(undirected(graph)):
        if nodes.size > 1:
            diagonals = _by_eigenvectors if nodes.size <= _DENSE else _by_polynomials
            out[torch.from_numpy(nodes)] = diagonals(W, np.asarray(times), graph.device)
    return out.to(torch.promote_types(graph.dtype, torch.float32))


def _by_eigenvectors(W: csr_array, times: np.ndarray, device: torch.device) -> Tensor:
    """Diagonals for a connected graph, term by term."""
    degree = np.asarray(W.sum(axis=1)).reshape(-1)
    # The constant vector is moved above all others, whose eigenvalues are at most twice the largest degree.
    values, vectors = eigh(np.diag(degree) - W.toarray() + 3.0 * degree.max() / degree.size)
    return torch.from_numpy(np.square(vectors[:, :-1]) @ np.exp(-np.outer(values[:-1], times))).to(device)


def _by_polynomials(W: csr_array, times: np.ndarray, device: torch.device) -> Tensor:
    """Diagonals for a connected graph, less the constant part."""
    degree = np.asarray(W.sum(axis=1)).reshape(-1)
    pace = degree.max()
    # L has eigenvalues in [0, 2 d_max], so those of I - L / d_max lie in [-1, 1].
    B = Affinity.from_scipy(csr_array(diags_array(1.0 - degree / pace) + W / pace), symmetric=True).to(device)
    weights = torch.from_numpy(_chebyshev_weights(pace * times)).to(device)
    out = torch.zeros(degree.size, times.size, dtype=torch.float64, device=device)
    for nodes, column, unit in unit_blocks(torch.arange(degree.size, device=device), torch.float64):
        before, now = B.matmul(unit), unit
        for weight in weights:
            out[nodes] += weight * now[nodes, column].unsqueeze(1)
            before, now = now, 2.0 * B.matmul(now) - before
    return (out - 1.0 / degree.size).clamp(min=0.0)


def _chebyshev_weights(times: np.ndarray) -> np.ndarray:
    """Weights of the polynomials, one row each, in exp(-t (1 - x)) for x in [-1, 1]."""
    orders = np.arange(int(times.max()) + 64)
    weights = 2.0 * ive(orders[:, None], times)
    weights[0] /= 2.0
    rest = weights[::-1].cumsum(axis=0)[::-1].max(axis=1)
    return weights[rest > _NEGLIGIBLE]
