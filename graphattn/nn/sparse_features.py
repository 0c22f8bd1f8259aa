"""Features of which few are not 0, such as bags of words, as CSR matrices whose pattern is sorted once.

torch multiplies a CSR matrix fast, but for the gradient of the other factor it transposes it, by sorting all entries in
every step. Here the transpose of a pattern is kept as long as its matrix lives, and goes along where values change.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary
from torch_geometric.nn.dense.linear import Linear

from graphattn.ops import Layout, spmm
from graphattn.ops.layout import index_dtype, slot_rows

_LAYOUTS = WeakTensorKeyDictionary()


def _layout(x: Tensor) -> Layout:
    """Return the pattern of a matrix as edges from columns to rows."""
    layout = _LAYOUTS.get(x)
    if layout is None:
        (num_rows, num_cols), rowptr, col = x.shape, x.crow_indices(), x.col_indices()
        edges = torch.stack([col, slot_rows(rowptr, col.numel()).to(col.dtype)])
        index = index_dtype(edges, num_rows, num_cols)
        layout = _LAYOUTS[x] = Layout(edges, num_rows, num_cols, (rowptr.to(index), col.to(index), None))
    return layout


def with_values(x: Tensor, values: Tensor) -> Tensor:
    """Return a CSR matrix with other values in the same places.

    Example:
        >>> with_values(torch.eye(2).to_sparse_csr(), torch.tensor([2.0, 3.0])).to_dense()
        tensor([[2., 0.],
                [0., 3.]])
    """
    new = torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), values, x.shape, check_invariants=False)
    if x.device.type == "cpu":
        _LAYOUTS[new] = _layout(x)
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
    out = spmm(x.values().unsqueeze(1), lin.weight.t().unsqueeze(1), _layout(x), backend="csr").squeeze(1)
    return out if lin.bias is None else out + lin.bias
