"""Linear maps of CSR features against those of dense ones, and what is kept of their patterns."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear

from graphattn.nn import sparse_features
from graphattn.nn.sparse_features import linear, with_values
from graphattn.ops import layout
from tests.budget import assert_within_budget

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")


def features(rows: int = 30, columns: int = 7, density: float = 0.3) -> Tensor:
    return torch.where(torch.rand(rows, columns) < density, torch.randn(rows, columns), 0.0)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("rows", "columns", "density"), [(30, 7, 0.3), (5, 40, 0.5), (4, 3, 0.0), (0, 3, 0.5)], ids=str
)
@pytest.mark.parametrize("bias", [False, True])
def test_forward_and_gradients(bias: bool, rows: int, columns: int, density: float, index: torch.dtype) -> None:
    x = features(rows, columns, density)
    lin = nn.Linear(columns, 6, bias=bias)
    upstream = torch.randn(rows, 6)

    def run(dtype: torch.dtype, sparse: bool) -> list[Tensor]:
        lin.to(dtype)
        csr = x.to(dtype).to_sparse_csr()
        values = csr.values().clone().requires_grad_()
        if sparse:
            places = csr.crow_indices().to(index), csr.col_indices().to(index)
            out = linear(lin, with_values(torch.sparse_csr_tensor(*places, csr.values(), csr.shape), values))
        else:
            at = csr.to_sparse_coo().indices()
            out = lin(torch.zeros(rows, columns, dtype=dtype).index_put(tuple(at), values))
        return [out, *torch.autograd.grad((out * upstream.to(dtype)).sum(), [values, *lin.parameters()])]

    exact = run(torch.float64, sparse=False)
    for found, wanted in zip(run(torch.float64, sparse=True), exact, strict=True):
        torch.testing.assert_close(found, wanted)
    for found, dense, wanted in zip(run(torch.float32, True), run(torch.float32, False), exact, strict=True):
        assert_within_budget(found, dense, wanted)


def test_a_lazy_map_gets_its_width() -> None:
    lin = Linear(-1, 3)
    x = features()
    assert torch.equal(linear(lin, x.to_sparse_csr()), lin(x.to_sparse_csr()))
    assert lin.weight.shape == (3, 7)


def test_a_pattern_is_transposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all steps of a training, whose dropout gives the matrix other values each time."""
    calls: list[int] = []
    transpose = layout.csc_layout
    monkeypatch.setattr(layout, "csc_layout", lambda *args: calls.append(1) or transpose(*args))
    lin, x = nn.Linear(7, 6), features().to_sparse_csr()
    for _ in range(3):
        dropped = with_values(x, x.values() * torch.randn(x.values().shape))
        lin.zero_grad()
        linear(lin, dropped).square().sum().backward()
        dense = dropped.to_dense()
        torch.testing.assert_close(lin.weight.grad, 2 * (lin(dense).T @ dense))
    assert len(calls) == 1


def test_what_is_kept_goes_with_the_matrix() -> None:
    gc.collect()
    before = len(sparse_features._LAYOUTS)
    x = features().to_sparse_csr()
    linear(nn.Linear(7, 6), with_values(x, x.values() * 2)).sum().backward()
    gc.collect()
    assert len(sparse_features._LAYOUTS) == before + 1
    del x
    gc.collect()
    assert len(sparse_features._LAYOUTS) == before
