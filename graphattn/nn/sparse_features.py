"""Features of which few are not 0, such as bags of words, as CSR matrices whose pattern is sorted once.

torch multiplies a CSR matrix fast, but for the gradient of the other factor it transposes it, by sorting all entries in
every step. Here the transpose of a pattern is kept as long as its matrix lives, and goes along where values change.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary
from torch_geometric.nn.dense.linear import Linear

from graphattn.ops.csr import csr_spmm
from graphattn.ops.layout import csc_layout


class _Pattern:
    def __init__(self, x: Tensor) -> None:
        fits = max(*x.shape, x.values().size(0)) < 2**31
        index = torch.int32 if fits else torch.int64
        self.rowptr, self.col, self.num_cols = x.crow_indices().to(index), x.col_indices().to(index), x.size(1)

    @cached_property
    def csc(self) -> tuple[Tensor, Tensor, Tensor]:
        return csc_layout(self.rowptr, self.col, self.num_cols)


_PATTERNS = WeakTensorKeyDictionary()


def _pattern(x: Tensor) -> _Pattern:
    pattern = _PATTERNS.get(x)
    if pattern is None:
        pattern = _PATTERNS[x] = _Pattern(x)
    return pattern


def with_values(x: Tensor, values: Tensor) -> Tensor:
    """Return a CSR matrix with other values in the same places.

    Example:
        >>> with_values(torch.eye(2).to_sparse_csr(), torch.tensor([2.0, 3.0])).to_dense()
        tensor([[2., 0.],
                [0., 3.]])
    """
    new = torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), values, x.shape, check_invariants=False)
    if x.device.type == "cpu":
        _PATTERNS[new] = _pattern(x)
    return new


def linear(lin: nn.Linear | Linear, x: Tensor) -> Tensor:
    """Apply a linear layer to dense or CSR features.

    Args:
        lin: A ``Linear`` of torch or of PyG.
        x: Features, one row a node.

    Shapes:
        - **input:** :math:`(N, F)`
        - **output:** :math:`(N, C)`

    Example:
        >>> lin = nn.Linear(2, 3)
        >>> torch.equal(linear(lin, torch.eye(2).to_sparse_csr()), lin(torch.eye(2)))
        True
    """
    if x.layout != torch.sparse_csr or x.device.type != "cpu" or is_lazy(lin.weight):
        return lin(x)
    if not (torch.is_grad_enabled() and lin.weight.requires_grad):
        return lin(x)  # then nothing is transposed
    pattern = _pattern(x)
    columns = lin.weight.t().contiguous().unsqueeze(0)
    out = csr_spmm(x.values().unsqueeze(0), columns, pattern.rowptr, pattern.col, *pattern.csc).squeeze(0)
    return out if lin.bias is None else out + lin.bias
