"""The score of a feature: its energy, the weight of all paths that start at it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.affinity.spectrum import perron_bound
from graphattn.diffusion import neumann, solve


class Energy(NamedTuple):
    """Scores and how they were found."""

    scores: Tensor
    degrees: Tensor
    """Row sums of the affinity: the order of one hop."""
    radius: float
    certified: bool
    """Whether the radius, an upper bound, is known to be within its tolerance."""
    iterations: int
    residual: float
    ties: Tensor | None = None
    """What orders equal scores, smaller first; by default their index."""


def path_energy(
    A: Affinity,
    decay: float,
    hops: float = math.inf,
    *,
    tol: float = 1e-6,
    rho_tol: float = 1e-4,
    max_iter: int = 200,
    precision: torch.dtype = torch.float64,
) -> Energy:
    r"""Sum the weights of all paths from each node.

    .. math:: \mathbf{s} = \sum_{l=1}^{L} (r \mathbf{A})^l \mathbf{1}, \quad r = c / \rho(\mathbf{A})

    For unbounded :math:`L` it solves :math:`(\mathbf{I} - r\mathbf{A})\,\mathbf{s} = r\mathbf{A}\mathbf{1}`, whose
    right-hand side keeps the digits that solving for :math:`\mathbf{s} + \mathbf{1}` would lose.

    Args:
        A: A square affinity with non-negative weights.
        decay: Fraction :math:`c` of the largest convergent factor.
        hops: Longest path :math:`L`, or ``math.inf``.
        tol: Relative residual of the solution.
        rho_tol: Relative gap between the bounds of the spectral radius; the upper one is used, so that the sum
            converges.
        max_iter: Products of each of the two iterations at most.
        precision: Precision of the weights; a radius that their rounding explains counts as 0.

    Shapes:
        - **input:** ``A`` :math:`(N, N)`
        - **output:** scores and degrees :math:`(N,)`

    Returns:
        The scores and how they were found; zeros where there is no path.

    Example:
        >>> path_energy(Affinity.from_dense(torch.ones(2, 2), symmetric=True), decay=0.5).scores
        tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    size = A.shape[0]
    ones = torch.ones(size, dtype=torch.float64, device=A.device)
    degrees = A @ ones

    def product(v: Tensor) -> Tensor:
        # The bound starts from ones, whose product may be the most expensive step so far.
        return degrees if bool((v == 1).all()) else A @ v

    bound = perron_bound(product, size, A.symmetric, tol=rho_tol, max_iter=max_iter, device=A.device)
    if bound.upper <= 16 * size * torch.finfo(precision).eps:
        return Energy(torch.zeros_like(degrees), degrees, 0.0, bound.certified, 0, 0.0)
    source = degrees * (decay / bound.upper)
    if hops == math.inf:
        found = solve(A, source, decay, radius=bound.upper, tol=tol, max_iter=max_iter)
        return Energy(found.value, degrees, bound.upper, bound.certified, found.iterations, found.residual)
    scores = neumann(A, source, decay, hops=int(hops) - 1, radius=bound.upper)
    return Energy(scores, degrees, bound.upper, bound.certified, int(hops), 0.0)


def released_energy(A: Affinity, *, tol: float, max_iter: int) -> Energy:
    r"""Compute the weights of the release of 2020, which scales the affinity twice.

    .. math::
        \mathbf{w} = (\mathbf{I} - r\mathbf{A}')^{-1} \mathbf{1}, \quad
        \mathbf{A}' = \frac{\mathbf{A}}{d + \epsilon}, \quad
        r = \frac{1 - \epsilon}{d}, \quad d = \max_i \textstyle\sum_j A_{ij}, \quad \epsilon = 5 \cdot 10^{-6} n

    Args:
        A: A square affinity with non-negative weights.
        tol: Relative residual of the solution of :math:`\mathbf{w} - \mathbf{1}`.
        max_iter: Products at most.

    Shapes:
        - **input:** ``A`` :math:`(N, N)`
        - **output:** scores and degrees :math:`(N,)`

    Returns:
        The weights as scores; zeros where the affinity is 0, for which the release has no number.

    Raises:
        ValueError: If the sum does not converge, or the release's factor is negative.

    Example:
        >>> A = Affinity.from_dense(torch.full((2, 2), 2.0, dtype=torch.float64), symmetric=True)
        >>> round(released_energy(A, tol=1e-12, max_iter=10).scores[0].item(), 6)
        1.333328
    """
    size = A.shape[0]
    epsilon = 5e-6 * size
    if epsilon >= 1:
        raise ValueError(f"compat is 'matlab-2020' but there are {size} features; the release serves fewer than 200000")
    degrees = A @ torch.ones(size, dtype=torch.float64, device=A.device)
    radius = degrees.max().item()
    if radius == 0:
        return Energy(torch.zeros_like(degrees), degrees, 0.0, True, 0, 0.0)
    decay = (1 - epsilon) / (radius + epsilon)
    if decay >= 1:
        raise ValueError(
            f"compat is 'matlab-2020' but no row of the affinity sums up to 1 (the largest to {radius:.3g}), so that "
            "the sum over paths of the release need not converge; use compat=None"
        )
    found = solve(A, degrees * (decay / radius), decay, radius=radius, tol=tol, max_iter=max_iter)
    return Energy(1 + found.value, degrees, radius, False, found.iterations, found.residual)
