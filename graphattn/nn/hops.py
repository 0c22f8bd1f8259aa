"""Many hops over the affinity that a layer has built: its series, and the scale at which the series converges."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graphattn import ops
from graphattn.affinity import SparseAffinity
from graphattn.diffusion.resolvent import resolvent
from graphattn.ops import Layout
from graphattn.ops.layout import slot_rows

Step = Callable[[Tensor], Any]  # one hop: [N, H, C] to the same
SERIES = ("mean", "sum")


def check_hops(hops: float, decay: float) -> None:
    """Raise if ``hops`` is not a number of hops or ``decay`` not a fraction."""
    whole = isinstance(hops, int) and not isinstance(hops, bool) and hops >= 1
    if not whole and hops != math.inf:
        raise ValueError(f"hops is {hops!r}; expected an integer of at least 1, or math.inf")
    if not 0.0 < decay < 1.0:
        raise ValueError(f"decay is {decay!r}; expected a number between 0 and 1, both excluded")


def tolerance(dtype: torch.dtype) -> float:
    """Residual that a layer's solver and series may leave: five digits in float32, twelve in float64."""
    return torch.finfo(dtype).eps ** 0.75


def logit(decay: float) -> float:
    """Number whose sigmoid is ``decay``: what is learned in its place, so that no step can leave (0, 1)."""
    return math.log(decay) - math.log1p(-decay)


def fraction(decay_logit: Tensor) -> Tensor:
    """Turn a learned logit into a decay, kept off 0 and 1, where rounding would put a large one."""
    wide = decay_logit.to(torch.promote_types(decay_logit.dtype, torch.float32))
    eps = torch.finfo(wide.dtype).eps
    return wide.sigmoid().clamp(eps, 1 - eps)


def sum_hops(
    first: Tensor,
    weights: Tensor | Step,
    layout: Layout,
    hops: float,
    decay: float | Tensor,
    series: str,
    backend: str,
) -> Tensor:
    r"""Add the further hops to the first one.

    .. math:: \mathbf{O} = \sum_{t=1}^{K} w_t \mathbf{A}^{t-1} \mathbf{U}, \quad
        w_t = c^t \text{ (sum) or } c^{t-1} / \textstyle\sum_{s<K} c^s \text{ (mean)}

    Args:
        first: What one hop has gathered, :math:`\mathbf{U}`.
        weights: The affinity :math:`\mathbf{A}` on the edges, of spectral radius at most 1; or, for finite ``hops``, a
            function that multiplies by it.
        layout: The edges.
        hops: :math:`K`, or ``math.inf``.
        decay: :math:`c`, one for all or one for each head.
        series: ``"mean"`` or ``"sum"``.
        backend: What multiplies; the solver of ``math.inf`` has one of its own.

    Shapes:
        - **input:** ``first`` :math:`(N, H, C)`, ``weights`` :math:`(E, H)`
        - **output:** :math:`(N, H, C)`

    Returns:
        The sum, in the dtype of ``first``, computed in at least float32.

    Raises:
        ValueError: If ``hops`` is not 1 and there are not as many targets as sources.

    Example:
        >>> ring = Layout(torch.tensor([[0, 1], [1, 0]]), 2, 2)
        >>> first = torch.tensor([4.0, 8.0]).view(2, 1, 1)
        >>> sum_hops(first, torch.ones(2, 1), ring, 2, 0.5, "sum", "auto").flatten().tolist()
        [4.0, 5.0]
    """
    if hops != 1 and layout.num_rows != layout.num_cols:
        raise ValueError(
            f"hops is {hops} but x has {layout.num_cols} sources and {layout.num_rows} targets; "
            "further hops need the targets to be the sources, pass hops=1"
        )
    wide = torch.promote_types(first.dtype, torch.float32)
    if isinstance(weights, Tensor):
        wide = torch.promote_types(wide, weights.dtype)
        step: Step = partial(ops.spmm, weights.to(wide), edge_index=layout, backend=backend)
    else:
        step = weights
    total = first.to(wide)
    per_head = decay.to(wide).unsqueeze(-1) if isinstance(decay, Tensor) else decay
    if hops == math.inf:
        assert isinstance(weights, Tensor), "the solver needs the weights themselves"
        total = resolvent(SparseAffinity(layout, weights.to(wide)), total, decay, radius=1.0, tol=tolerance(wide))
        length = 1 / (1 - per_head)
    else:
        start, length = total, per_head**0
        for _ in range(int(hops) - 1):
            total = start + per_head * step(total)
            length = 1 + per_head * length
    return (total * (per_head if series == "sum" else 1 / length)).to(first.dtype)


def bound_radius(kind: str, weights: Tensor, layout: Layout, batch: Tensor | None) -> Tensor:
    r"""Divide the weights of a normalization so that the spectral radius of every graph is at most 1.

    Softmax, row and sinkhorn weights sum to 1 in each row, and symmetric ones are similar to such: they stay. Sigmoid
    weights are divided by the largest row sum. The Frobenius norm of relu_frobenius, which takes parallel edges
    apart, is no bound where those add up: there the weights are divided by that of the matrix they add up to.

    Args:
        kind: Name of the normalization.
        weights: Its non-negative weights.
        layout: The edges.
        batch: Graph of each node; by default all belong to one.

    Shapes:
        - **input:** ``weights`` :math:`(E, H)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(E, H)`

    Returns:
        The divided weights, differentiable, in their dtype.

    Example:
        >>> edges = Layout(torch.tensor([[0, 1, 0], [0, 0, 1]]), 2, 2)
        >>> bound_radius("sigmoid", torch.tensor([[0.5], [0.3], [0.4]]), edges, None).flatten().tolist()
        [0.625, 0.375, 0.5]
    """
    if kind not in ("sigmoid", "relu_frobenius"):
        return weights
    wide = weights.to(torch.promote_types(weights.dtype, torch.float32))
    target = layout.edge_index[1].long()
    if batch is None:
        graph = torch.zeros(layout.num_rows, dtype=torch.long, device=target.device)
    else:
        # A graph is named by how many nodes have a smaller id: always below N, even where ids skip empty graphs.
        graph = torch.searchsorted(batch.sort().values, batch)
    zeros = wide.new_zeros(layout.num_rows, wide.size(1))
    if kind == "sigmoid":
        sums = zeros.index_add(0, target, wide)
        radius = zeros.scatter_reduce(0, graph.unsqueeze(1).expand_as(sums), sums, "amax")
        radius = radius.masked_fill(radius == 0, 1.0)
    else:
        # sum_ij A_ij^2 over the edges: each times the sum of the edges beside it.
        square = zeros.index_add(0, graph.index_select(0, target), wide * _sum_parallel(wide, layout))
        radius = square.clamp_min(1.0).sqrt()
    return (wide / radius.index_select(0, graph).index_select(0, target)).to(weights.dtype)


def _sum_parallel(weights: Tensor, layout: Layout) -> Tensor:
    """Sum of the weights of all edges between the same two nodes, at each of them."""
    rowptr, col, perm = layout.csr()
    row = slot_rows(rowptr, layout.num_edges)
    slots = weights if perm is None else weights.index_select(0, perm)
    first = torch.ones_like(row, dtype=torch.bool)
    first[1:] = (row[1:] != row[:-1]) | (col[1:] != col[:-1])
    entry = first.cumsum(0) - 1
    sums = torch.zeros_like(slots).index_add(0, entry, slots).index_select(0, entry)
    return sums if perm is None else torch.zeros_like(sums).index_copy(0, perm, sums)
