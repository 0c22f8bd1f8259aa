"""The graphs of many lists as one block-diagonal affinity, and linear systems on each of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from graphattn.affinity import SparseAffinity
from graphattn.diffusion.operators import solve_columns, stored_product, stored_tensors
from graphattn.diffusion.solvers import ConvergenceWarning

ListProduct = Callable[[Tensor], Tensor]


def block_diagonal(weight: Tensor) -> SparseAffinity:
    """Join the symmetric graphs ``[B, n, n]`` of some lists, scaled by degrees; node i of list b is node b n + i.

    Weights are float64 from here on: systems on these graphs have condition numbers that cost float32 its digits.
    """
    num_lists, n = weight.shape[:2]
    which, target, source = weight.nonzero(as_tuple=True)
    edges = torch.stack([source, target]) + which * n
    values = weight[which, target, source].double()
    return SparseAffinity(edges, values, (num_lists * n, num_lists * n), symmetric=True).normalize("symmetric")


def list_product(A: SparseAffinity, num_lists: int) -> ListProduct:
    """Return the product of a block-diagonal affinity with one column for each list, ``[B, n, 1]``."""
    product = stored_product(*stored_tensors(A, ()))
    return lambda x: product(x.reshape(1, -1, 1)).view(num_lists, -1, 1)


def solve_lists(product: ListProduct, y: Tensor, factor: float, tol: float, max_iter: int) -> tuple[Tensor, Tensor]:
    """Solve ``(I - factor A) f = y`` for every list by conjugate gradients that stop on their own.

    Args:
        product: How A, symmetric and with no eigenvalue above 1 in size, is applied to columns ``[B, n, 1]``.
        y: Right-hand sides ``[B, n]``.
        factor: A number below 1.
        tol: Largest residual of a list relative to its right-hand side.
        max_iter: Products at most.

    Returns:
        The solutions ``[B, n]``, and the relative residual ``[B]`` of each.
    """
    b = y.double().unsqueeze(2)
    factors = b.new_full((b.size(0), 1), factor)
    with warnings.catch_warnings():
        # Few products are a choice that publications make; the residual is reported for each list.
        warnings.simplefilter("ignore", ConvergenceWarning)
        f = solve_columns(product, b, factors, True, tol, max_iter, False, "diffusion").value
    rest = b - f + factor * product(f)
    length = torch.linalg.vector_norm(b, dim=1).squeeze(1)
    residual = torch.linalg.vector_norm(rest, dim=1).squeeze(1) / length.masked_fill(length == 0, 1.0)
    return f.squeeze(2), residual
