"""The nodes of a rectangle, each of which attends to those around it."""

from __future__ import annotations

import torch

from graphattn.affinity._graphs import check_integer
from graphattn.affinity.patterns import EdgeType
from graphattn.affinity.sparse import SparseAffinity

__all__ = ["grid"]


def grid(rows: int, cols: int, radius: int = 1, *, diagonal: bool = False) -> SparseAffinity:
    r"""Let every node of a rectangle, numbered row by row, attend to itself and the nodes around it.

    .. math::
        A_{ij} = 1 \iff |r_i - r_j| + |c_i - c_j| \le R, \quad \text{or} \quad
        \max(|r_i - r_j|, |c_i - c_j|) \le R \text{ with diagonal}

    Args:
        rows: Number of rows.
        cols: Number of columns.
        radius: How far :math:`R` a node sees.
        diagonal: Whether a diagonal step counts as one, not two: a square around each node instead of a diamond.

    Shapes:
        - **output:** an affinity :math:`N \times N` of :math:`N` = ``rows * cols``

    Returns:
        A symmetric affinity of ones, edges listed by (target, source), of type ``EdgeType.GRID``. Time and memory are
        :math:`O(N R^2)`.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> around = grid(3, 3).to_dense().matrix[4]  # of the node in the middle
        >>> around.view(3, 3)
        tensor([[0., 1., 0.],
                [1., 1., 1.],
                [0., 1., 0.]])
        >>> grid(3, 3, diagonal=True).row_sums().view(3, 3)
        tensor([[4., 6., 4.],
                [6., 9., 6.],
                [4., 6., 4.]])
    """
    for name, value in (("rows", rows), ("cols", cols), ("radius", radius)):
        check_integer(name, value, 0)
    steps = torch.cartesian_prod(*[torch.arange(-min(radius, n), min(radius, n) + 1) for n in (rows, cols)])
    if not diagonal:
        steps = steps[steps.abs().sum(dim=1) <= radius]
    node = torch.cartesian_prod(torch.arange(rows), torch.arange(cols))
    at = node.unsqueeze(1) + steps
    target, step = ((at >= 0) & (at < torch.tensor([rows, cols]))).all(dim=2).nonzero(as_tuple=True)
    source = at[target, step, 0] * cols + at[target, step, 1]
    types = torch.full_like(target, int(EdgeType.GRID))
    shape = (rows * cols, rows * cols)
    return SparseAffinity(torch.stack([source, target]), None, shape, symmetric=True, edge_type=types)
