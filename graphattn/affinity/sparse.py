"""An affinity stored as edges with weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

from graphattn import ops
from graphattn.affinity.affinity import Affinity
from graphattn.affinity.checks import KEEP_SYMMETRY, check_count, check_kind, check_weights, target_options
from graphattn.affinity.dense import DenseAffinity
from graphattn.affinity.normalize import EdgeSupport, normalize_scores
from graphattn.ops import Layout
from graphattn.ops.layout import check_edge_index, slot_rows


class SparseAffinity(Affinity):
    r"""An affinity stored as edges, in the order they came, with a weight each.

    The sorted form that the kernels need is built on first use and shared by every affinity derived from this one that
    has the same edges: normalized, with other weights, transposed. Parallel edges are separate entries that add up in
    products and conversions. :meth:`Affinity.from_edge_index` also checks indices and weights, which this does not.

    Args:
        edge_index: Edges, source row first; or a :class:`~graphattn.ops.Layout` of them, which is then shared.
        weight: Weights; ones by default.
        shape: Number of targets and sources :math:`(N, M)`; a ``Layout`` knows its own.
        symmetric: Whether every edge has its reverse of the same weight.
        labels: Names of the nodes of a square affinity.
        edge_type: What kind of edge each is: numbers that stay with the edges whatever becomes of their weights.

    Shapes:
        - **input:** ``edge_index`` :math:`(2, E)`, ``weight`` :math:`(E,)` or :math:`(E, H)`, ``edge_type``
          :math:`(E,)`

    Raises:
        ValueError: If a shape or a device does not fit, or ``shape`` is missing.
        TypeError: If ``edge_index`` or ``edge_type`` is not an integer tensor or ``weight`` not a floating-point one.

    Example:
        >>> A = SparseAffinity(torch.tensor([[0, 1], [1, 1]]), torch.tensor([2.0, 3.0]), (2, 2))
        >>> A.row_sums().tolist()
        [0.0, 5.0]
        >>> A.normalize("row").layout is A.layout
        True
    """

    def __init__(
        self,
        edge_index: Tensor | Layout,
        weight: Tensor | None = None,
        shape: tuple[int, int] | None = None,
        *,
        symmetric: bool = False,
        labels: Sequence[Hashable] | None = None,
        edge_type: Tensor | None = None,
    ) -> None:
        if isinstance(edge_index, Layout):
            layout = edge_index
            if shape is not None and tuple(shape) != (layout.num_rows, layout.num_cols):
                raise ValueError(f"shape is {tuple(shape)} but the layout has {(layout.num_rows, layout.num_cols)}")
        else:
            check_edge_index(edge_index)
            if shape is None:
                raise ValueError("shape is None; pass (targets, sources), which edge_index does not tell")
            if len(shape) != 2 or min(shape) < 0:
                raise ValueError(f"shape is {tuple(shape)}; expected (targets, sources), both at least 0")
            layout = Layout(edge_index, *shape)
        n, m = layout.num_rows, layout.num_cols
        if weight is not None:
            check_weights("weight", weight)
            if weight.dim() not in (1, 2) or weight.size(0) != layout.num_edges:
                expected = f"[{layout.num_edges}] or [{layout.num_edges}, H]: one weight per edge"
                raise ValueError(f"weight has shape {tuple(weight.shape)}; expected {expected}")
            if weight.device != layout.edge_index.device:
                where = layout.edge_index.device
                raise ValueError(f"weight is on {weight.device} but edge_index is on {where}; move one of them")
        if symmetric and n != m:
            raise ValueError(f"symmetric is True but the affinity is {n} x {m}; expected a square one")
        if labels is not None and (n != m or len(labels) != n):
            raise ValueError(
                f"labels names {len(labels)} nodes; expected {n}, of a square affinity, but it is {n} x {m}"
            )
        if edge_type is not None:
            _check_edge_type(edge_type, layout)
        self._layout = layout
        self._transposed: Layout | None = None
        self._weight = weight
        self._edge_type = edge_type
        self._dtype = torch.get_default_dtype() if weight is None else weight.dtype
        self.symmetric = symmetric
        self.labels = None if labels is None else tuple(labels)

    @property
    def layout(self) -> Layout:
        """The edges and their sorted form, as every op of :mod:`graphattn.ops` takes them."""
        return self._layout

    @property
    def edge_index(self) -> Tensor:
        """Edges ``[2, E]``, source row first, in the caller's order."""
        return self._layout.edge_index

    @property
    def weight(self) -> Tensor | None:
        """Weights ``[E]`` or ``[E, H]``; ``None`` means ones."""
        return self._weight

    @property
    def edge_type(self) -> Tensor | None:
        """Kind of each edge ``[E]``, integers; ``None`` if edges are all of a kind."""
        return self._edge_type

    @property
    def num_edges(self) -> int:
        """Number of edges, parallel ones counted apart."""
        return self._layout.num_edges

    @property
    def shape(self) -> tuple[int, int]:
        return self._layout.num_rows, self._layout.num_cols

    @property
    def has_heads(self) -> bool:
        return self._weight is not None and self._weight.dim() == 2

    @property
    def num_heads(self) -> int:
        return self._weight.size(1) if self._weight is not None and self._weight.dim() == 2 else 1

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def device(self) -> torch.device:
        return self.edge_index.device

    def weights(self) -> Tensor:
        """Return the weights ``[E]`` or ``[E, H]``, ones where there are none."""
        if self._weight is None:
            return torch.ones(self.num_edges, dtype=self._dtype, device=self.device)
        return self._weight

    def with_weight(self, weight: Tensor | None, *, symmetric: bool = False) -> SparseAffinity:
        """Put other weights on the same edges; the sorted form is shared.

        Args:
            weight: Weights ``[E]`` or ``[E, H]``; ``None`` means ones.
            symmetric: Whether every edge has its reverse of the same weight.

        Returns:
            A new affinity with the same ``layout``, labels and edge types.

        Example:
            >>> A = SparseAffinity(torch.tensor([[0, 1], [1, 0]]), None, (2, 2))
            >>> A.with_weight(torch.tensor([5.0, 7.0])).row_sums().tolist()
            [7.0, 5.0]
        """
        other = SparseAffinity(self._layout, weight, symmetric=symmetric, labels=self.labels, edge_type=self._edge_type)
        other._transposed = self._transposed
        return other

    @property
    def T(self) -> SparseAffinity:  # noqa: N802
        if self._transposed is None:
            self._transposed = self._layout.transpose()
        other = SparseAffinity(
            self._transposed, self._weight, symmetric=self.symmetric, labels=self.labels, edge_type=self._edge_type
        )
        other._transposed, other._radius, other._dtype = self._layout, self._radius, self._dtype
        return other

    def to(self, *args: Any, **kwargs: Any) -> SparseAffinity:
        device, dtype = target_options(self.dtype, self.device, args, kwargs)
        # Ones have no dtype of their own: they are written out where another one than torch's default is asked for.
        weight = None if self._weight is None and dtype == self._dtype else self.weights().to(device, dtype)
        if device == self.device:
            return self.with_weight(weight, symmetric=self.symmetric)
        edge_type = None if self._edge_type is None else self._edge_type.to(device)
        return SparseAffinity(
            self.edge_index.to(device),
            weight,
            self.shape,
            symmetric=self.symmetric,
            labels=self.labels,
            edge_type=edge_type,
        )

    def _columns(self) -> Tensor:
        """The weights as [E, H]."""
        weights = self.weights()
        return weights if weights.dim() == 2 else weights.unsqueeze(1)

    def _apply(self, x: Tensor) -> Tensor:
        weights = x.new_ones(self.num_edges, 1) if self._weight is None else self._columns()
        if x.dim() == 2:
            out = ops.spmm(weights, x.unsqueeze(1), self._layout)
            return out if self.has_heads else out.squeeze(1)
        if self.num_heads == 1:
            # One head serves all: the heads of x are so many channels.
            return ops.spmm(weights, x.flatten(1).unsqueeze(1), self._layout).reshape(self.shape[0], *x.shape[1:])
        return ops.spmm(weights, x, self._layout)

    def row_sums(self) -> Tensor:
        weights = self._columns()
        wide = weights.to(torch.promote_types(self._dtype, torch.float32))
        sums = wide.new_zeros(self.shape[0], wide.size(1)).index_add(0, self.edge_index[1].long(), wide)
        sums = sums.to(self._dtype)
        return sums if self.has_heads else sums.squeeze(1)

    def norm_bound(self) -> Tensor:
        size = self._columns().detach().abs().to(torch.promote_types(self._dtype, torch.float32))
        source, target = self.edge_index.long()
        ends = ((target, self.shape[0]), (source, self.shape[1]))
        sums = [size.new_zeros(max(nodes, 1), size.size(1)).index_add_(0, end, size) for end, nodes in ends]
        bound = torch.minimum(sums[0].amax(0), sums[1].amax(0))
        return bound if self.has_heads else bound[0]

    def normalize(self, kind: str) -> SparseAffinity:
        if kind == "spectral":
            radius = self.spectral_radius()
            wide = self.weights() / radius.masked_fill(radius == 0, 1.0)
            weight = wide.to(self._dtype)
        else:
            check_kind(kind)
            weight = normalize_scores(kind, self._columns(), EdgeSupport(self._layout))
            weight = weight if self.has_heads else weight.squeeze(1)
        return self.with_weight(weight, symmetric=self.symmetric and kind in KEEP_SYMMETRY)

    def top_k(self, k: int) -> SparseAffinity:
        check_count(k)
        rowptr, _, perm = self._layout.csr()
        slots = self._columns().detach()
        slots = slots if perm is None else slots.index_select(0, perm)
        row = slot_rows(rowptr, self.num_edges)
        # Slots are sorted by (row, column); two stable sorts make that (row, weight from the largest, column).
        order = slots.sort(dim=0, descending=True, stable=True).indices
        order = order.gather(0, row[order].sort(dim=0, stable=True).indices)
        rank = torch.arange(self.num_edges, device=self.device) - rowptr.long().index_select(0, row)
        keep = torch.zeros_like(slots, dtype=torch.bool).scatter(0, order, (rank < k).unsqueeze(1).expand_as(slots))
        if perm is not None:
            keep = torch.zeros_like(keep).index_copy(0, perm, keep)
        return self._keep(keep, symmetric=False)

    def threshold(self, value: float) -> SparseAffinity:
        return self._keep(self._columns() >= value, symmetric=self.symmetric)

    def _keep(self, keep: Tensor, symmetric: bool) -> SparseAffinity:
        """Drop the edges that no head keeps."""
        edges = keep.any(dim=1)
        weight = None
        if self._weight is not None:
            weight = self._columns().masked_fill(~keep, 0.0)[edges]
            weight = weight if self.has_heads else weight.squeeze(1)
        other = SparseAffinity(
            self.edge_index[:, edges],
            weight,
            self.shape,
            symmetric=symmetric,
            labels=self.labels,
            edge_type=None if self._edge_type is None else self._edge_type[edges],
        )
        other._dtype = self._dtype
        return other

    def coalesce(self) -> SparseAffinity:
        """Add parallel edges up and list the edges by (target, source); the first of them lends its type.

        Returns:
            A new affinity without parallel edges, with weights written out.

        Example:
            >>> A = SparseAffinity(torch.tensor([[1, 0, 1], [0, 0, 0]]), torch.tensor([1.0, 2.0, 4.0]), (2, 2))
            >>> A.coalesce().edge_index.tolist(), A.coalesce().weight.tolist()
            ([[0, 1], [0, 0]], [2.0, 5.0])
        """
        rowptr, col, perm = self._layout.csr()
        row = slot_rows(rowptr, self.num_edges)
        first = torch.ones_like(row, dtype=torch.bool)
        first[1:] = (row[1:] != row[:-1]) | (col[1:] != col[:-1])
        weights = self._columns()
        weights = weights if perm is None else weights.index_select(0, perm)
        edge_index = torch.stack([col[first].long(), row[first]])
        wide = weights.to(torch.promote_types(self._dtype, torch.float32))
        sums = wide.new_zeros(edge_index.size(1), wide.size(1)).index_add(0, first.cumsum(0) - 1, wide)
        sums = (sums if self.has_heads else sums.squeeze(1)).to(self._dtype)
        edge_type = self._edge_type
        if edge_type is not None:
            edge_type = (edge_type if perm is None else edge_type.index_select(0, perm))[first]
        return SparseAffinity(
            edge_index, sums, self.shape, symmetric=self.symmetric, labels=self.labels, edge_type=edge_type
        )

    def to_dense(self) -> DenseAffinity:
        n, m = self.shape
        source, target = self.edge_index.long()
        weights = self._columns()
        wide = weights.to(torch.promote_types(self._dtype, torch.float32)).t()
        matrix = wide.new_zeros(wide.size(0), n * m).index_add(1, target * m + source, wide).to(self._dtype)
        return DenseAffinity(
            matrix.view(self.num_heads, n, m) if self.has_heads else matrix.view(n, m), symmetric=self.symmetric
        )

    def to_sparse(self) -> SparseAffinity:
        return self.with_weight(self._weight, symmetric=self.symmetric)

    def _host_matrices(self) -> Iterator[csr_array]:
        """One float64 SciPy matrix per head."""
        source, target = self.edge_index.cpu().numpy()
        for weight in self._columns().detach().cpu().double().numpy().T:
            yield csr_array((weight, (target, source)), shape=self.shape)

    def __repr__(self) -> str:
        n, m = self.shape
        symmetric = ", symmetric" if self.symmetric else ""
        return (
            f"SparseAffinity({n} x {m}, edges={self.num_edges}, heads={self.num_heads}, dtype={self.dtype}{symmetric})"
        )


def _check_edge_type(edge_type: Any, layout: Layout) -> None:
    """Raise if edge types are not one integer per edge, where the edges are."""
    if not isinstance(edge_type, Tensor) or edge_type.is_floating_point() or edge_type.dtype == torch.bool:
        what = f"dtype {edge_type.dtype}" if isinstance(edge_type, Tensor) else f"type {type(edge_type).__name__}"
        raise TypeError(f"edge_type has {what}; expected an integer Tensor")
    if tuple(edge_type.shape) != (layout.num_edges,):
        raise ValueError(f"edge_type has shape {tuple(edge_type.shape)}; expected ({layout.num_edges},): one per edge")
    if edge_type.device != layout.edge_index.device:
        where = layout.edge_index.device
        raise ValueError(f"edge_type is on {edge_type.device} but edge_index is on {where}; move one of them")
