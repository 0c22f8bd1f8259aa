"""How little two features repeat each other: 1 - |Spearman|, multiplied in blocks that are stored or computed anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, issparse, vstack
from torch import Tensor
from torch.autograd.function import FunctionCtx
from tqdm import tqdm

from graphattn.affinity.columns import check_samples, column_blocks

# A block of this many rows and columns stays in the cache between the steps that make and use it.
_BLOCK = 1024
_BUDGET_BYTES = 2 << 30
STORES = ("auto", "stored", "blocked")


def average_ranks(rows: Tensor) -> Tensor:
    """Rank the values of each row from 1 up; equal values share the mean of their ranks.

    Example:
        >>> average_ranks(torch.tensor([[5.0, 7.0, 5.0]])).tolist()
        [[1.5, 3.0, 1.5]]
    """
    value, order = rows.sort(dim=1)
    position = torch.arange(1.0, rows.size(1) + 1, dtype=torch.float64, device=rows.device)
    new = torch.ones_like(value, dtype=torch.bool)
    new[:, 1:] = value[:, 1:] != value[:, :-1]
    last = new.roll(-1, dims=1)  # a value is the last of its kind where the next one, or the first of all, is new
    first_rank = (position * new).cummax(dim=1).values
    last_rank = torch.where(last, position, torch.inf).flip(1).cummin(dim=1).values.flip(1)
    return torch.empty_like(first_rank).scatter_(1, order, (first_rank + last_rank) / 2)


def standardised_ranks(rows: Tensor) -> Tensor:
    """Average ranks of each row, centred and of unit norm; zeros for a constant row.

    The inner product of two such rows is Spearman's correlation.

    Example:
        >>> z = standardised_ranks(torch.tensor([[1.0, 2.0, 9.0], [3.0, 2.0, 1.0]]))
        >>> round((z[0] @ z[1]).item(), 12)
        -1.0
    """
    ranks = average_ranks(rows) - (rows.size(1) + 1) / 2
    norm = ranks.norm(dim=1, keepdim=True)
    return ranks / norm.masked_fill(norm == 0, 1.0)


class Redundancy:
    r"""Multiply by the symmetric matrix :math:`1 - |\rho_{ij}|` of Spearman's correlation between features.

    Only blocks on and above the diagonal are computed, each serves two products. They are stored where that takes at
    most 2 GiB (``"auto"``), else computed anew for every product: :math:`O(T F + b^2)` memory for blocks of
    :math:`b` features. A constant feature correlates with nothing, not even itself: its row is 1 throughout; all
    others have 0 on the diagonal. Weights are never negative.

    Args:
        x: Samples by features: a tensor, a NumPy array or a SciPy sparse matrix, whose ranks stay sparse.
        dtype: Precision of the blocks; their products are float64.
        store: ``"auto"``, ``"stored"`` or ``"blocked"``.
        block_size: Rows and columns :math:`b` of a block.
        progress: Whether to show the progress of each product that computes its blocks, on standard error.
        device: Where to compute; the CPU if not given.

    Shapes:
        - **input:** ``x`` :math:`(T, F)`; the product takes :math:`(F, C)`
        - **output:** :math:`(F, C)`, float64

    Raises:
        ValueError: If ``store`` is unknown, ``block_size`` is not positive, or ``x`` does not fit.

    Example:
        >>> product = Redundancy(torch.tensor([[1.0, 2.0, 0.0], [2.0, 9.0, 0.0], [3.0, 10.0, 0.0]]))
        >>> product(torch.ones(3, 1, dtype=torch.float64)).flatten()
        tensor([1.0000, 1.0000, 3.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        x: Any,
        *,
        dtype: torch.dtype = torch.float32,
        store: str = "auto",
        block_size: int = _BLOCK,
        progress: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        if store not in STORES:
            raise ValueError(f"store is {store!r}; expected one of " + ", ".join(map(repr, STORES)))
        if block_size < 1:
            raise ValueError(f"block_size is {block_size}; expected at least 1")
        x = check_samples(x)
        self._ranks = _SparseRanks(x, dtype, device) if issparse(x) else _Ranks(x, dtype, device)
        self._size = size = int(x.shape[1])
        self._block_size = block_size
        self._progress = progress
        self._one = torch.ones((), dtype=dtype, device=device)
        # One block more than the triangle: those on the diagonal are stored whole.
        fits = size * (size + block_size) // 2 * dtype.itemsize <= _BUDGET_BYTES
        self._blocks: list[Tensor] | None = None
        if store == "stored" or (store == "auto" and fits):
            self._blocks = [block.clone() for _, _, block in self._computed()]

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = _Symmetric.apply(x, self)
        return product

    def multiply(self, x: Tensor) -> Tensor:
        """Compute the product, without gradient."""
        x = x.double()
        out = torch.zeros_like(x)
        wide = self._buffer(torch.float64)
        blocks = self._computed() if self._blocks is None else self._stored(self._blocks)
        for rows, cols, block in blocks:
            # Widened here: rounding a float32 product anew each time would keep a solver from converging.
            block = wide[: block.numel()].view(block.shape).copy_(block)
            out[rows] += block @ x[cols]
            if rows != cols:
                out[cols] += block.t() @ x[rows]
        return out

    def rows(self, start: int, stop: int) -> Tensor:
        """Compute some rows of the matrix, ``[stop - start, F]``, in float64."""
        left = self._ranks[start:stop]
        parts = [self._redundancy(left, self._ranks[cols], start - cols.start).double() for cols in self._slices()]
        return torch.cat(parts, dim=1)

    def _slices(self) -> list[slice]:
        step = self._block_size
        return [slice(start, min(start + step, self._size)) for start in range(0, self._size, step)]

    def _buffer(self, dtype: torch.dtype) -> Tensor:
        return torch.empty(min(self._block_size, self._size) ** 2, dtype=dtype, device=self._one.device)

    def _stored(self, blocks: list[Tensor]) -> Iterator[tuple[slice, slice, Tensor]]:
        slices = self._slices()
        pairs = ((rows, cols) for i, rows in enumerate(slices) for cols in slices[i:])
        for (rows, cols), block in zip(pairs, blocks, strict=True):
            yield rows, cols, block

    def _computed(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Compute the blocks one after the other in the same memory: use each before asking for the next."""
        slices, buffer = self._slices(), self._buffer(self._one.dtype)
        total = len(slices) * (len(slices) + 1) // 2
        with tqdm(total=total, desc="feature affinity", leave=False, disable=not self._progress) as bar:
            for i, rows in enumerate(slices):
                left = self._ranks[rows]
                for cols in slices[i:]:
                    right = self._ranks[cols]
                    out = buffer[: left.size(0) * right.size(0)].view(left.size(0), right.size(0))
                    yield rows, cols, self._redundancy(left, right, rows.start - cols.start, out)
                    bar.update()

    def _redundancy(self, left: Tensor, right: Tensor, offset: int, out: Tensor | None = None) -> Tensor:
        """Compute one block; its diagonal of the whole matrix runs at ``row + offset == column``."""
        block = torch.mm(left, right.t(), out=out).abs_()
        # Rounding may lift a correlation above 1; affinities must not be negative.
        torch.sub(self._one, block, out=block).clamp_min_(0.0)
        first, last = max(0, -offset), min(left.size(0), right.size(0) - offset)
        if last > first:
            own = torch.arange(first, last, device=block.device)
            block[own, own + offset] = (left[first:last] == 0).all(dim=1).to(block.dtype)
        return block


class _Symmetric(torch.autograd.Function):
    """The product of a symmetric matrix, which is its own backward: no block is kept for it."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, matrix: Redundancy) -> Tensor:
        ctx.matrix = matrix  # type: ignore[attr-defined]
        return matrix.multiply(x)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return _Symmetric.apply(gradient, ctx.matrix), None  # type: ignore[attr-defined]


class _Ranks:
    """Standardised ranks, a feature a row."""

    def __init__(self, x: Any, dtype: torch.dtype, device: torch.device | str | None) -> None:
        self._z = torch.empty(x.shape[1], x.shape[0], dtype=dtype, device=device)
        for start, stop, block in column_blocks(x, device):
            self._z[start:stop] = standardised_ranks(block)

    def __getitem__(self, features: slice) -> Tensor:
        return self._z[features]


class _SparseRanks:
    """Standardised ranks of sparse data: the zeros of a feature share one rank, beside which the others are stored."""

    def __init__(self, x: Any, dtype: torch.dtype, device: torch.device | str | None) -> None:
        self._dtype, self._device = dtype, device
        entries, zeros = [csr_array((0, x.shape[0]))], [torch.empty(0, 1, dtype=torch.float64)]
        for _, _, block in column_blocks(x):
            z = standardised_ranks(block)
            zero = torch.where(block == 0, z, -torch.inf).amax(dim=1, keepdim=True)
            zero = zero.masked_fill(zero.isinf(), 0.0)
            entries.append(csr_array(torch.where(block == 0, 0.0, z - zero).numpy()))
            zeros.append(zero)
        self._entries = vstack(entries, format="csr")
        self._zero = torch.cat(zeros)

    def __getitem__(self, features: slice) -> Tensor:
        entries = torch.from_numpy(np.asarray(self._entries[features].toarray()))
        return (entries + self._zero[features]).to(device=self._device, dtype=self._dtype)
