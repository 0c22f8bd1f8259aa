"""The pairs of nodes that a kernel is evaluated on, and the affinity that its values become."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from graphattn import ops
from graphattn.affinity.affinity import Affinity
from graphattn.affinity.dense import DenseAffinity
from graphattn.affinity.implicit import ImplicitAffinity
from graphattn.affinity.sparse import SparseAffinity
from graphattn.ops import Layout
from graphattn.ops.inputs import as_layout, check_float, widen, without_autocast


class Pairs(ABC):
    """Some pairs (i, j) of a target and a source; every method gives one value per pair."""

    @abstractmethod
    def products(self, x: Tensor, y: Tensor) -> Tensor:
        """Inner products of the rows of ``x [N, D]`` and ``y [M, D]``."""

    @abstractmethod
    def distances(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared distances of the rows of ``x [N, D]`` and ``y [M, D]``."""

    @abstractmethod
    def outer(self, x: Tensor) -> Tensor:
        """Products of the values ``x [N]`` of the two ends, targets and sources being the same nodes."""


class EdgePairs(Pairs):
    """The pairs that edges join: values ``[E]``, in the caller's order, without an array of E x D."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def products(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.sddmm(x.unsqueeze(1), y.unsqueeze(1), self.layout).squeeze(1)

    def distances(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.edge_scores(_edge_distance, x.unsqueeze(1), y.unsqueeze(1), None, self.layout).squeeze(1)

    def outer(self, x: Tensor) -> Tensor:
        source, target = self.layout.edge_index.long()
        return x.index_select(0, target) * x.index_select(0, source)


class RowPairs(Pairs):
    """All pairs of some targets, rows ``start`` to ``stop``: values ``[stop - start, M]``."""

    def __init__(self, start: int, stop: int) -> None:
        self.rows = slice(start, stop)

    def products(self, x: Tensor, y: Tensor) -> Tensor:
        with without_autocast(x.device):
            return x[self.rows] @ y.t()

    def distances(self, x: Tensor, y: Tensor) -> Tensor:
        return squared_distances(x[self.rows], y)

    def outer(self, x: Tensor) -> Tensor:
        return x[self.rows].unsqueeze(1) * x


def _edge_distance(x_i: Tensor, y_j: Tensor, _: Tensor | None) -> Tensor:
    return (x_i - y_j).square().sum(dim=-1)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of all rows, from differences: exact 0 for equal rows, and no N x M x D array."""
    return _SquaredDistances.apply(x, y)


class _SquaredDistances(torch.autograd.Function):
    """Distances from differences, with a backward of two matrix products.

    The backward of torch.cdist takes N x M x D memory on CUDA and cannot be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square_()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        # Gradients do not depend on the origin; near the points, less cancels.
        center = x.detach().sum(dim=0) / max(x.size(0), 1)
        x, y = x - center, y - center
        with without_autocast(x.device):
            grad_x = 2 * (grad.sum(1, keepdim=True) * x - grad @ y) if ctx.needs_input_grad[0] else None
            grad_y = 2 * (grad.sum(0).unsqueeze(1) * y - grad.t() @ x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_y


def read_features(**given: Tensor | None) -> tuple[list[Any], torch.dtype]:
    """Check features ``[nodes, D]`` and return them in at least float32, with the dtype that weights are to have."""
    named = [(name, x) for name, x in given.items() if x is not None]
    for name, x in named:
        check_float(name, x)
        if x.dim() != 2 or x.size(1) == 0:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected [nodes, D] with D at least 1")
        if x.device != named[0][1].device:
            first, where = named[0][0], named[0][1].device
            raise ValueError(f"{name} is on {x.device} but {first} is on {where}; move one of them")
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            wrong = (~torch.isfinite(x.detach()).all(dim=1)).nonzero().flatten()
            if wrong.numel():
                raise ValueError(f"{name} is not finite in {wrong.numel()} rows, the first being {wrong[0]}")
    return widen(*given.values())


class Build:
    """Makes an affinity of a kernel: on given edges, on all pairs, or on all pairs without storing them.

    Args:
        x: Features of the targets.
        y: Features of the sources, if they are another set.
        edge_index: Edges in any form, or ``None`` for all pairs.
        stored: Whether to store the weights of all pairs.
        dtype: Dtype of the weights.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> Build(x, None, None, True, x.dtype)(lambda pairs: pairs.distances(x, x)).matrix
        tensor([[0., 4.],
                [4., 0.]])
    """

    def __init__(self, x: Tensor, y: Tensor | None, edge_index: Any, stored: bool, dtype: torch.dtype) -> None:
        if y is not None and y.size(1) != x.size(1):
            raise ValueError(f"y has {y.size(1)} features but x has {x.size(1)}; expected the same")
        self.shape = x.size(0), x.size(0) if y is None else y.size(0)
        self.symmetric = y is None
        self.edges = None if edge_index is None else self._read_edges(edge_index)
        if self.edges is not None and self.edges.device != x.device:
            raise ValueError(f"x is on {x.device} but edge_index is on {self.edges.device}; move one of them")
        if self.edges is not None and not stored:
            raise ValueError("stored is False but edge_index is given; leave one of them: edges are always stored")
        self.stored = stored
        self.dtype = dtype
        self.device = x.device

    def _read_edges(self, edge_index: Any) -> SparseAffinity:
        if isinstance(edge_index, DenseAffinity):
            edge_index = edge_index.to_sparse()
        if isinstance(edge_index, SparseAffinity):
            as_layout(edge_index, *self.shape)  # refuses another size
            return edge_index
        undirected = isinstance(edge_index, EdgeIndex) and edge_index.is_undirected
        n, m = self.shape
        return Affinity.from_edge_index(edge_index, None, (m, n), symmetric=undirected and self.symmetric)

    def __call__(self, kernel: Callable[[Pairs], Tensor]) -> Affinity:
        if self.edges is not None:
            weight = kernel(EdgePairs(self.edges.layout)).to(self.dtype)
            return self.edges.with_weight(weight, symmetric=self.edges.symmetric and self.symmetric)

        def rows(start: int, stop: int) -> Tensor:
            return kernel(RowPairs(start, stop)).to(self.dtype)

        if self.stored:
            return DenseAffinity(rows(0, self.shape[0]), symmetric=self.symmetric)
        return ImplicitAffinity.from_rows(
            rows, self.shape, symmetric=self.symmetric, dtype=self.dtype, device=self.device
        )

    def products(self, x: Tensor, y: Tensor, scale: float) -> Affinity:
        """Make the affinity of scaled inner products; if it is not stored, its two thin factors multiply in turn."""

        def kernel(pairs: Pairs) -> Tensor:
            return scale * pairs.products(x, y)

        if self.stored:
            return self(kernel)
        return ImplicitAffinity(
            lambda v: self._multiply(x, y, scale, v),
            self.shape,
            rmatvec=lambda v: self._multiply(y, x, scale, v),
            rows=lambda start, stop: kernel(RowPairs(start, stop)).to(self.dtype),
            symmetric=self.symmetric,
            dtype=self.dtype,
            device=self.device,
        )

    def _multiply(self, left: Tensor, right: Tensor, scale: float, v: Tensor) -> Tensor:
        wide = torch.promote_types(left.dtype, v.dtype)
        with without_autocast(v.device):
            out = left.to(wide) @ (scale * (right.t().to(wide) @ v.to(wide)))
        return out.to(torch.promote_types(self.dtype, v.dtype))
