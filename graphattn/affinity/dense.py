"""An affinity stored as a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphattn.affinity.affinity import Affinity
from graphattn.affinity.checks import KEEP_SYMMETRY, check_count, check_kind, check_weights, target_options
from graphattn.affinity.normalize import DenseSupport, normalize_scores

if TYPE_CHECKING:
    from graphattn.affinity.sparse import SparseAffinity


class DenseAffinity(Affinity):
    r"""An affinity stored as a matrix, or as one matrix a head; its edges are the nonzero entries.

    A weight that becomes exactly 0 (a negative score under ``row``, say) is no edge any more.

    Args:
        matrix: Weights; zeros mean "no edge".
        symmetric: Whether the matrix equals its transpose.

    Shapes:
        - **input:** ``matrix`` :math:`(N, M)` or :math:`(H, N, M)`

    Raises:
        ValueError: If the shape does not fit.
        TypeError: If ``matrix`` is not a floating-point tensor.

    Example:
        >>> A = DenseAffinity(torch.tensor([[0.0, 2.0], [1.0, 1.0]]))
        >>> A.normalize("row").matrix.tolist()
        [[0.0, 1.0], [0.5, 0.5]]
    """

    def __init__(self, matrix: Tensor, *, symmetric: bool = False) -> None:
        check_weights("matrix", matrix)
        if matrix.layout != torch.strided:
            raise TypeError(f"matrix is a {matrix.layout} tensor; pass Affinity.from_torch_sparse(matrix) instead")
        if matrix.dim() not in (2, 3):
            raise ValueError(f"matrix has shape {tuple(matrix.shape)}; expected [N, M] or [H, N, M]")
        n, m = matrix.shape[-2:]
        if symmetric and n != m:
            raise ValueError(f"symmetric is True but the affinity is {n} x {m}; expected a square one")
        self._matrix = matrix
        self.symmetric = symmetric

    @property
    def matrix(self) -> Tensor:
        """The weights, ``[N, M]`` or ``[H, N, M]``."""
        return self._matrix

    @property
    def shape(self) -> tuple[int, int]:
        return self._matrix.size(-2), self._matrix.size(-1)

    @property
    def has_heads(self) -> bool:
        return self._matrix.dim() == 3

    @property
    def num_heads(self) -> int:
        return self._matrix.size(0) if self._matrix.dim() == 3 else 1

    @property
    def dtype(self) -> torch.dtype:
        return self._matrix.dtype

    @property
    def device(self) -> torch.device:
        return self._matrix.device

    @property
    def T(self) -> DenseAffinity:  # noqa: N802
        other = DenseAffinity(self._matrix.transpose(-2, -1), symmetric=self.symmetric)
        other._radius = self._radius
        return other

    def to(self, *args: Any, **kwargs: Any) -> DenseAffinity:
        device, dtype = target_options(self.dtype, self.device, args, kwargs)
        return DenseAffinity(self._matrix.to(device, dtype), symmetric=self.symmetric)

    def _apply(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(self.dtype, x.dtype)
        wide = torch.promote_types(dtype, torch.float32)
        matrix, x = self._matrix.to(wide), x.to(wide)
        if x.dim() == 3:
            out = torch.matmul(matrix, x.transpose(0, 1)).transpose(0, 1)
        elif self.has_heads:
            out = torch.matmul(matrix, x).transpose(0, 1)
        else:
            out = torch.matmul(matrix, x)
        return out.to(dtype)

    def row_sums(self) -> Tensor:
        sums = self._matrix.sum(-1, dtype=torch.promote_types(self.dtype, torch.float32)).to(self.dtype)
        return sums.t() if self.has_heads else sums

    def norm_bound(self) -> Tensor:
        size = self._matrix.detach().abs().to(torch.promote_types(self.dtype, torch.float32))
        if size.numel() == 0:
            return size.new_zeros(size.shape[:-2])
        return torch.minimum(size.sum(-1).amax(-1), size.sum(-2).amax(-1))

    def normalize(self, kind: str) -> DenseAffinity:
        if kind == "spectral":
            radius = self.spectral_radius()
            radius = radius.masked_fill(radius == 0, 1.0)
            matrix = (self._matrix / (radius.view(-1, 1, 1) if self.has_heads else radius)).to(self.dtype)
        else:
            check_kind(kind)
            matrix = normalize_scores(kind, self._matrix, DenseSupport(self._matrix != 0))
        return DenseAffinity(matrix, symmetric=self.symmetric and kind in KEEP_SYMMETRY)

    def top_k(self, k: int) -> DenseAffinity:
        check_count(k)
        edge = self._matrix != 0
        # A stable sort leaves equal weights in the order of their columns; what is no edge comes last.
        order = self._matrix.detach().masked_fill(~edge, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
        keep = torch.zeros_like(edge).scatter(-1, order[..., :k], True) & edge
        return DenseAffinity(self._matrix.masked_fill(~keep, 0.0))

    def threshold(self, value: float) -> DenseAffinity:
        return DenseAffinity(self._matrix.masked_fill(~(self._matrix >= value), 0.0), symmetric=self.symmetric)

    def to_dense(self) -> DenseAffinity:
        return DenseAffinity(self._matrix, symmetric=self.symmetric)

    def to_sparse(self) -> SparseAffinity:
        from graphattn.affinity.sparse import SparseAffinity  # made of this class, so imported late

        edge = (self._matrix != 0).any(dim=0) if self.has_heads else self._matrix != 0
        row, col = edge.nonzero(as_tuple=True)
        weight = self._matrix[..., row, col]
        return SparseAffinity(
            torch.stack([col, row]), weight.t() if self.has_heads else weight, self.shape, symmetric=self.symmetric
        )

    def __repr__(self) -> str:
        n, m = self.shape
        symmetric = ", symmetric" if self.symmetric else ""
        return f"DenseAffinity({n} x {m}, heads={self.num_heads}, dtype={self.dtype}{symmetric})"
