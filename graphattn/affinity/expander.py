"""Expander graphs: few random edges over which any node soon hears of any other."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from graphattn.affinity._graphs import Graphs, Sizes, check_integer
from graphattn.affinity.patterns import EdgeType
from graphattn.affinity.sparse import SparseAffinity

__all__ = ["expander"]

_ALGORITHMS = ("permutation", "shuffle", "hamiltonian")
_DRAWS = 100
_COMPLETE = 10  # so few nodes are joined to all others
_DENSE = 200  # so few nodes have their eigenvalues computed by a dense solver


def expander(
    num_nodes: Sizes = None,
    degree: int = 5,
    *,
    algorithm: str = "permutation",
    generator: torch.Generator | None = None,
    compat: str | None = None,
    batch: Tensor | None = None,
    ptr: Tensor | None = None,
) -> SparseAffinity:
    r"""Join the nodes of a graph at random so that every node has few neighbours and no part is cut off from the rest.

    A draw joins every node :math:`i` with :math:`\pi_1(i), \dots, \pi_d(i)`, both ways: each node has :math:`2 d`
    edges. It is taken if its Laplacian has a second eigenvalue near the largest that such graphs can have in the limit,

    .. math:: \lambda_2 \ge 2 d - 2 \sqrt{2 d - 1} - 0.1,

    else the best of 100 draws is. Loops and parallel edges are removed then. Graphs of up to 10 nodes are complete.

    Args:
        num_nodes: Number of nodes, or one number per graph.
        degree: Number :math:`d` of draws; nodes - 1 at most.
        algorithm: What :math:`\pi` are: ``"permutation"``, random permutations; ``"hamiltonian"``, random cycles
            through all nodes, so that the graph is connected whatever is drawn; or ``"shuffle"``, one permutation of
            the list that has every node ``degree`` times.
        generator: Source of the random numbers.
        compat: ``"exphormer"`` keeps loops and parallel edges, as the released code does.
        batch: Graph of each node, in any order, instead of ``num_nodes``.
        ptr: Bounds of the graphs, instead of ``num_nodes``.

    Shapes:
        - **input:** ``batch`` :math:`(N,)`, ``ptr`` :math:`(B + 1,)`
        - **output:** an affinity :math:`N \times N`

    Returns:
        A symmetric affinity of ones.

    Raises:
        ValueError: If not exactly one of ``num_nodes``, ``batch`` and ``ptr`` is given, or an argument is out of range.
        TypeError: If ``num_nodes``, ``batch`` or ``ptr`` does not hold integers.

    Example:
        >>> A = expander(100, degree=3, generator=torch.Generator().manual_seed(0))
        >>> A.symmetric, A.num_edges <= 100 * 6
        (True, True)

    Reference:
        Shirzad et al., "Exphormer: Sparse Transformers for Graphs", ICML 2023; Friedman, "A proof of Alon's second
        eigenvalue conjecture", 2003.
    """
    check_integer("degree", degree, 1)
    if algorithm not in _ALGORITHMS:
        raise ValueError(f"algorithm is {algorithm!r}; expected one of {', '.join(map(repr, _ALGORITHMS))}")
    if compat not in (None, "exphormer"):
        raise ValueError(f"compat is {compat!r}; expected None or 'exphormer'")
    graphs = Graphs(num_nodes, batch, ptr)
    parts = [torch.empty(2, 0, dtype=torch.long)]
    first = 0
    for size in graphs.sizes.tolist():
        parts.append(first + _edges(size, degree, algorithm, generator))
        first += size
    target, source = torch.cat(parts, dim=1).to(graphs.device)
    if compat is None:
        joins_two = target != source
        target, source = target[joins_two], source[joins_two]
    key = (target * graphs.num_nodes + source).sort().values
    if compat is None:
        key = key.unique_consecutive()
    n = max(graphs.num_nodes, 1)
    target, source = key // n, key % n
    return graphs.affinity(target, source, EdgeType.EXPANDER, symmetric=True)


def _edges(size: int, degree: int, algorithm: str, generator: torch.Generator | None) -> Tensor:
    """Edges of one graph, both ways: those of the first draw with the gap asked for, or of the draw with the widest."""
    if size <= _COMPLETE:
        return (1 - torch.eye(size)).nonzero().t()
    degree = min(degree, size - 1)
    wanted = max(0.0, 2 * degree - 2 * math.sqrt(2 * degree - 1) - 0.1)
    widest, best = -math.inf, None
    for _ in range(_DRAWS):
        node = torch.arange(size).repeat(degree)
        image = _images(size, degree, algorithm, generator)
        gap = _spectral_gap(node, image, size, degree)
        if gap > widest:
            widest, best = gap, torch.stack([torch.cat([node, image]), torch.cat([image, node])])
        if gap >= wanted:
            break
    assert best is not None, "the first draw is better than none"
    return best


def _images(size: int, degree: int, algorithm: str, generator: torch.Generator | None) -> Tensor:
    """Draw where the nodes 0 .. size - 1 go, ``degree`` times over."""
    where = None if generator is None else generator.device
    if algorithm == "shuffle":
        return torch.randperm(size * degree, generator=generator, device=where).cpu() % size
    images = []
    for _ in range(degree):
        order = torch.randperm(size, generator=generator, device=where).cpu()
        if algorithm == "hamiltonian":  # each node of the random order goes to the one after it
            order = torch.empty_like(order).scatter(0, order, order.roll(-1))
        images.append(order)
    return torch.cat(images)


def _spectral_gap(node: Tensor, image: Tensor, size: int, degree: int) -> float:
    """Second eigenvalue of the Laplacian, parallel edges counted apart; loops make no difference to it."""
    half = csr_array((np.ones(node.numel()), (node.numpy(), image.numpy())), shape=(size, size))
    adjacency = half + half.T
    if size <= _DENSE:
        return 2 * degree - float(np.linalg.eigvalsh(adjacency.toarray())[-2])
    # All rows sum to 2 d: without the constant vector, which has that eigenvalue, the second one is the largest.
    without = LinearOperator(
        (size, size), matvec=lambda x: adjacency @ x - 2 * degree * x.mean(), dtype=np.dtype(np.float64)
    )
    start = np.random.default_rng(0).standard_normal(size)
    return 2 * degree - float(eigsh(without, k=1, which="LA", v0=start, tol=1e-4, return_eigenvectors=False)[0])
