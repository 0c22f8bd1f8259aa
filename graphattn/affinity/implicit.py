"""An affinity that is applied and never stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from graphattn.affinity.affinity import Affinity
from graphattn.affinity.checks import check_count, check_kind
from graphattn.affinity.dense import DenseAffinity
from graphattn.affinity.spectrum import perron_bound
from graphattn.ops.inputs import without_autocast

if TYPE_CHECKING:
    from graphattn.affinity.sparse import SparseAffinity

Product = Callable[[Tensor], Tensor]
Rows = Callable[[int, int], Tensor]

# Rows that are computed, used and dropped together.
_BLOCK_BYTES = 64 << 20


class ImplicitAffinity(Affinity):
    r"""An affinity known by its product :math:`\mathbf{A}\mathbf{x}` alone, so that it may be larger than memory.

    Either a pair of functions multiplies (a sum of outer products, say, costs :math:`O(N)`), or
    :meth:`from_rows` computes :math:`\mathbf{A}` a few rows at a time, uses them and drops them. It serves wherever
    ``A @ x`` does: :mod:`graphattn.diffusion`, the selectors. It has no head axis and is eager only. Normalizations and
    bounds of the spectral radius take its weights to be non-negative, and raise where a sum of them shows otherwise.

    Args:
        matvec: Maps ``[M, C]`` to ``[N, C]``, linearly.
        shape: Number of targets and sources :math:`(N, M)`.
        rmatvec: Maps ``[N, C]`` to ``[M, C]``, the product with the transpose; a symmetric affinity needs none.
        rows: Computes rows ``start`` to ``stop`` as ``[stop - start, M]``; without it they come from products with
            unit vectors: of ``rmatvec``, or if there is none, of all columns at once.
        symmetric: Whether the affinity equals its transpose.
        dtype: Dtype of the weights; torch's default dtype if not given.
        device: Where ``matvec`` works; the CPU if not given.

    Raises:
        ValueError: If the shape does not fit, or a symmetric affinity is not square.
        TypeError: If ``dtype`` is not a floating-point one.

    Example:
        >>> f = torch.tensor([1.0, 2.0])
        >>> A = ImplicitAffinity(lambda x: f[:, None] * (f @ x), (2, 2), symmetric=True)
        >>> A @ torch.tensor([1.0, 1.0])
        tensor([3., 6.])
        >>> A.spectral_radius()
        tensor(5.)
    """

    def __init__(
        self,
        matvec: Product,
        shape: tuple[int, int],
        *,
        rmatvec: Product | None = None,
        rows: Rows | None = None,
        symmetric: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point:
            raise TypeError(f"dtype is {dtype}; an affinity needs a floating-point dtype")
        _check_shape(shape)
        if symmetric and shape[0] != shape[1]:
            raise ValueError(f"symmetric is True but the affinity is {shape[0]} x {shape[1]}; expected a square one")
        self._matvec = matvec
        self._rmatvec = matvec if symmetric else rmatvec
        self._rows = None if rows is None else partial(_checked, rows, shape[1])
        self._shape = int(shape[0]), int(shape[1])
        self._block_size = _block_rows(shape, dtype)
        self._dtype = dtype
        self._device = torch.empty(0, device=device).device
        self.symmetric = symmetric

    @staticmethod
    def from_rows(
        rows: Rows,
        shape: tuple[int, int],
        *,
        symmetric: bool = False,
        block_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> ImplicitAffinity:
        r"""Multiply by a function that computes some rows at a time: :math:`O(b M)` memory, forward and backward.

        Args:
            rows: Computes rows ``start`` to ``stop`` as ``[stop - start, M]``, the same every time. A tensor it reads
                may need a gradient; rows are computed anew for the backward.
            shape: Number of targets and sources :math:`(N, M)`.
            symmetric: Whether the affinity equals its transpose.
            block_size: Rows :math:`b` of a block; by default as many as fit 64 MiB.
            dtype: Dtype of the rows; torch's default dtype if not given.
            device: Device of the rows; the CPU if not given.

        Raises:
            ValueError: If ``block_size`` is not positive, or the shape does not fit.

        Example:
            >>> x = torch.tensor([[0.0], [1.0], [3.0]])
            >>> A = ImplicitAffinity.from_rows(lambda a, b: torch.cdist(x[a:b], x), (3, 3), symmetric=True)
            >>> A @ torch.ones(3)
            tensor([4., 3., 5.])
        """
        _check_shape(shape)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        size = _block_rows(shape, dtype) if block_size is None else block_size
        if size < 1:
            raise ValueError(f"block_size is {block_size}; expected at least 1")
        rows = partial(_checked, rows, shape[1])

        def matvec(x: Tensor) -> Tensor:
            out = torch.promote_types(dtype, x.dtype)
            x = x.to(torch.promote_types(out, torch.float32))
            with without_autocast(x.device):
                parts = [_recomputed(_product, rows, span, x) for span in _spans(shape[0], size)]
                return torch.cat([x.new_empty(0, x.size(1)), *parts]).to(out)

        def rmatvec(x: Tensor) -> Tensor:
            out = torch.promote_types(dtype, x.dtype)
            x = x.to(torch.promote_types(out, torch.float32))
            total = x.new_zeros(shape[1], x.size(1))
            with without_autocast(x.device):
                for span in _spans(shape[0], size):
                    total = total + _recomputed(_transposed_product, rows, span, x[slice(*span)])
                return total.to(out)

        affinity = ImplicitAffinity(
            matvec, shape, rmatvec=rmatvec, rows=rows, symmetric=symmetric, dtype=dtype, device=device
        )
        affinity._block_size = size
        return affinity

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def has_heads(self) -> bool:
        return False

    @property
    def num_heads(self) -> int:
        return 1

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def T(self) -> ImplicitAffinity:  # noqa: N802
        """The transposed affinity; raises ValueError if there is no ``rmatvec``."""
        if self.symmetric:
            return self
        if self._rmatvec is None:
            raise ValueError("rmatvec is None; a transposed product needs it, or symmetric=True")
        other = self._like(self._rmatvec, self._matvec, None, (self._shape[1], self._shape[0]))
        other._radius = self._radius
        return other

    def to(self, *args: Any, **kwargs: Any) -> ImplicitAffinity:
        """Return this affinity where device and dtype are what it has; its functions cannot be moved."""
        probe = torch.empty(0, dtype=self._dtype, device=self._device).to(*args, **kwargs)
        if probe.dtype != self._dtype or probe.device != self._device:
            raise ValueError(
                f"an ImplicitAffinity of {self._dtype} on {self._device} was asked to be {probe.dtype} on "
                f"{probe.device}; its functions cannot be moved, make it anew from tensors that have been"
            )
        return self

    def _apply(self, x: Tensor) -> Tensor:
        columns = x.flatten(1)
        out = self._matvec(columns)
        if out.shape != (self._shape[0], columns.size(1)):
            raise ValueError(
                f"the product of {self._shape[0]} x {self._shape[1]} weights with x of shape {tuple(columns.shape)} "
                f"came back with shape {tuple(out.shape)}; expected {(self._shape[0], columns.size(1))}"
            )
        return out.reshape(self._shape[0], *x.shape[1:])

    def row_sums(self) -> Tensor:
        return self @ torch.ones(self._shape[1], dtype=self._dtype, device=self._device)

    def norm_bound(self) -> Tensor:
        """Bound the spectral radius by the largest row sum or, if there is a transpose, column sum."""
        with torch.no_grad():
            sums = [self._degrees()]
            if not self.symmetric and self._rmatvec is not None:
                sums.append(self.T._degrees())
        wide = torch.promote_types(self._dtype, torch.float32)
        return torch.stack([x.to(wide).max() if x.numel() else x.new_zeros((), dtype=wide) for x in sums]).min()

    def _degrees(self) -> Tensor:
        """Row sums, of which none may be negative."""
        sums = self.row_sums()
        if sums.device.type == "cpu" and not bool((sums >= 0).all()):
            raise ValueError(f"the affinity has negative or undefined weights: a row sums to {sums.min():.4g}")
        return sums

    def spectral_radius(self) -> Tensor:
        """Bound the largest eigenvalue from above by power iteration, once; within 1e-4 of it where that converges.

        See :func:`~graphattn.affinity.spectrum.perron_bound`, which also tells whether it did.
        """
        if self._shape[0] != self._shape[1]:
            raise ValueError(
                f"the affinity is {self._shape[0]} x {self._shape[1]}; only a square one has a spectral radius"
            )
        if self._radius is None:
            dtype = torch.promote_types(self._dtype, torch.float32)
            bound = perron_bound(self.matmul, self._shape[0], self.symmetric, dtype=dtype, device=self._device)
            self._radius = torch.tensor(bound.upper, dtype=dtype, device=self._device)
        return self._radius

    def normalize(self, kind: str) -> ImplicitAffinity:
        """Normalize by scaling rows and columns: ``"row"``, ``"symmetric"``, ``"spectral"`` or ``"none"``.

        The others need the entries: store the affinity first, by :meth:`to_dense` or :meth:`top_k`.
        """
        if kind == "none":
            return self
        if kind == "spectral":
            radius = self.spectral_radius()
            scale = radius.masked_fill(radius == 0, 1.0).reciprocal()
            return self._scaled(scale.expand(self._shape[0], 1), None, symmetric=self.symmetric)
        if kind == "row":
            return self._scaled(_power(self._degrees(), -1.0), None)
        if kind == "symmetric":
            left = _power(self._degrees(), -0.5)
            square = self._shape[0] == self._shape[1]
            right = left if square else _power(self.T._degrees(), -0.5)
            return self._scaled(left, right, symmetric=self.symmetric)
        check_kind(kind)
        raise ValueError(f"kind is {kind!r}, which needs the entries; call to_dense() or top_k(k) first")

    def _scaled(self, left: Tensor, right: Tensor | None, symmetric: bool = False) -> ImplicitAffinity:
        """Scale targets by ``left [N, 1]`` and sources by ``right [M, 1]``."""
        matvec, rmatvec, rows = self._matvec, self._rmatvec, self.rows

        def scaled(x: Tensor) -> Tensor:
            return left * matvec(x if right is None else right * x)

        def transposed(x: Tensor) -> Tensor:
            assert rmatvec is not None
            return rmatvec(left * x) if right is None else right * rmatvec(left * x)

        def some(start: int, stop: int) -> Tensor:
            part = left[start:stop] * rows(start, stop)
            return part if right is None else part * right.t()

        return self._like(scaled, None if rmatvec is None else transposed, some, self._shape, symmetric)

    def _like(
        self,
        matvec: Product,
        rmatvec: Product | None,
        rows: Rows | None,
        shape: tuple[int, int],
        symmetric: bool = False,
    ) -> ImplicitAffinity:
        other = ImplicitAffinity(
            matvec, shape, rmatvec=rmatvec, rows=rows, symmetric=symmetric, dtype=self._dtype, device=self._device
        )
        other._block_size = self._block_size
        return other

    def rows(self, start: int, stop: int) -> Tensor:
        """Compute rows ``start`` to ``stop``, shape ``[stop - start, M]``.

        Example:
            >>> A = ImplicitAffinity(lambda x: 2 * x, (3, 3), symmetric=True)
            >>> A.rows(1, 2)
            tensor([[0., 2., 0.]])
        """
        n, m = self._shape
        if not 0 <= start <= stop <= n:
            raise ValueError(f"start is {start} and stop is {stop}; expected 0 <= start <= stop <= {n}")
        if self._rows is not None:
            return self._rows(start, stop)
        # A row of A is a column of its transpose; without a transpose, columns of A have to do.
        if self._rmatvec is None:
            return (self @ torch.eye(m, dtype=self._dtype, device=self._device))[start:stop]
        unit = torch.zeros(n, stop - start, dtype=self._dtype, device=self._device)
        unit[start:stop].fill_diagonal_(1.0)
        return (self.T @ unit).t()

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Blocks of rows, each with its first."""
        # Where all columns have to do, they are computed once.
        whole = self._rows is None and self._rmatvec is None
        for start, stop in _spans(self._shape[0], max(1, self._shape[0]) if whole else self._block_size):
            yield start, self.rows(start, stop)

    def top_k(self, k: int) -> SparseAffinity:  # type: ignore[override]
        """Keep the ``k`` largest weights of each row as edges; ties go to the lowest column."""
        check_count(k)
        return self._stored(lambda block: block.top_k(k))

    def threshold(self, value: float) -> SparseAffinity:  # type: ignore[override]
        """Keep the weights of at least ``value`` as edges."""
        return self._stored(lambda block: block.threshold(value), self.symmetric)

    def to_sparse(self) -> SparseAffinity:
        return self._stored(lambda block: block, self.symmetric)

    def _stored(self, keep: Callable[[DenseAffinity], DenseAffinity], symmetric: bool = False) -> SparseAffinity:
        from graphattn.affinity.sparse import SparseAffinity  # as in DenseAffinity

        edges = [torch.empty(2, 0, dtype=torch.int64, device=self._device)]
        weights = [torch.empty(0, dtype=self._dtype, device=self._device)]
        for start, rows in self._blocks():
            part = keep(DenseAffinity(rows)).to_sparse()
            edges.append(part.edge_index + part.edge_index.new_tensor([[0], [start]]))
            weights.append(part.weights())
        return SparseAffinity(torch.cat(edges, dim=1), torch.cat(weights), self._shape, symmetric=symmetric)

    def to_dense(self) -> DenseAffinity:
        nothing = torch.empty(0, self._shape[1], dtype=self._dtype, device=self._device)
        matrix = torch.cat([nothing, *(rows for _, rows in self._blocks())])
        return DenseAffinity(matrix, symmetric=self.symmetric)

    def __repr__(self) -> str:
        symmetric = ", symmetric" if self.symmetric else ""
        return f"ImplicitAffinity({self._shape[0]} x {self._shape[1]}, dtype={self._dtype}{symmetric})"


def _check_shape(shape: tuple[int, int]) -> None:
    if len(shape) != 2 or min(shape) < 0:
        raise ValueError(f"shape is {tuple(shape)}; expected (targets, sources), both at least 0")


def _block_rows(shape: tuple[int, int], dtype: torch.dtype) -> int:
    """How many rows, or columns of the transpose, fit a block."""
    return max(1, _BLOCK_BYTES // (dtype.itemsize * max(1, *shape)))


def _spans(rows: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, size):
        yield start, min(start + size, rows)


def _checked(rows: Rows, width: int, start: int, stop: int) -> Tensor:
    block = rows(start, stop)
    if block.shape != (stop - start, width):
        raise ValueError(f"rows({start}, {stop}) returned shape {tuple(block.shape)}; expected {(stop - start, width)}")
    return block


def _recomputed(product: Callable[[Rows, tuple[int, int], Tensor], Tensor], *args: Any) -> Tensor:
    """Multiply by a block that is dropped at once, and computed again if a backward comes."""
    if not torch.is_grad_enabled():
        return product(*args)
    return checkpoint(product, *args, use_reentrant=False, preserve_rng_state=False)


def _product(rows: Rows, span: tuple[int, int], x: Tensor) -> Tensor:
    return rows(*span).to(x.dtype) @ x


def _transposed_product(rows: Rows, span: tuple[int, int], x: Tensor) -> Tensor:
    return rows(*span).to(x.dtype).t() @ x


def _power(degree: Tensor, exponent: float) -> Tensor:
    """A power of each degree as a column; degree 0 gives 0."""
    empty = degree == 0
    return degree.masked_fill(empty, 1.0).pow(exponent).masked_fill(empty, 0.0).unsqueeze(1)
