"""The truncated sum over hops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.diffusion.inputs import Radius, finish, hop_factor, prepare, spread


def neumann(A: Affinity, x: Tensor, decay: float | Tensor = 0.9, hops: int = 10, *, radius: Radius = None) -> Tensor:
    r"""Sum features over walks of every length up to a bound.

    .. math:: \mathbf{Y} = \sum_{t=0}^{K} (c\,\mathbf{A}/\rho)^{t}\,\mathbf{X}

    Its limit for :math:`K \to \infty` is :func:`resolvent`; for a symmetric affinity the rest is at most
    :math:`c^{K+1} / (1 - c)\,\lVert\mathbf{X}\rVert_2`. Differentiable by plain autograd, which keeps every hop.

    Args:
        A: A square affinity.
        x: Node features.
        decay: Fraction :math:`c` of the largest convergent factor, in (0, 1); one for all or one for each head.
        hops: Longest walk :math:`K`, at least 0.
        radius: What :math:`\mathbf{A}` is divided by, :math:`\rho`, a constant without gradient. ``None`` takes
            ``A.spectral_radius()`` of a symmetric affinity and ``A.norm_bound()``, which needs no iteration, of others;
            ``"estimate"`` always takes the spectral radius; a number or a tensor (one for all or one for each head) is
            taken as it is. A radius of 0 (no edges, or no cycles under ``"estimate"``) divides by 1, and the sum ends.

    Shapes:
        - **input:** ``x`` :math:`(N,)`, :math:`(N, C)` or :math:`(N, H, C)`
        - **output:** that of ``A @ x``

    Returns:
        The sums, in the dtype of ``A @ x``, computed in at least float32. Nodes without edges keep their features.

    Raises:
        ValueError: If a shape or a device does not fit, or ``decay``, ``hops`` or ``radius`` is out of range.
        TypeError: If ``A`` is not an affinity or ``x`` not a floating-point tensor.

    Example:
        >>> ring = Affinity.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]))
        >>> neumann(ring, torch.ones(3), decay=0.5, hops=2).tolist()
        [1.75, 1.75, 1.75]

    Reference:
        Katz, "A new status index derived from sociometric analysis", 1953; Roffo et al., "Infinite Feature
        Selection", 2015.
    """
    check_hops(hops)
    wide, start, dtype = prepare(A, x)
    factor = spread(hop_factor(A, start, decay, radius))
    total = start
    for _ in range(hops):
        total = torch.addcmul(start, wide.matmul(total), factor)
    return finish(total, x, dtype)


def check_hops(hops: Any) -> None:
    """Raise if ``hops`` is not a number of hops."""
    if not isinstance(hops, int) or isinstance(hops, bool) or hops < 0:
        raise ValueError(f"hops is {hops!r}; expected an integer of at least 0")
