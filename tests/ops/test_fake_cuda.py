"""What can be said about CUDA without a GPU: every op runs on fake CUDA tensors, every operator has a CUDA kernel."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from graphattn.ops import scatter
from tests.ops.cases import GRAPHS, OPS, Graph, as_tuple
from tests.ops.test_compile import _registered


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", ["bipartite_unsorted", "no_edges"])
@pytest.mark.parametrize("op", OPS)
def test_forward_on_fake_cuda(
    op: str, name: str, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch-scatter's operators have no fake versions; without it "auto" is the reference.
    monkeypatch.setattr(scatter, "serves_cuda", lambda: False)
    graph = GRAPHS[name]
    inputs = OPS[op].inputs(graph, dtype)
    expected = as_tuple(OPS[op].call(inputs, graph, graph.edge_index))
    options = {"dropout": 0.5} if "att" in op or "agg" in op else {}
    with FakeTensorMode():
        fake = {n: torch.empty(x.shape, dtype=dtype, device="cuda") for n, x in inputs.items()}
        edges = torch.empty(graph.edge_index.shape, dtype=torch.long, device="cuda")
        found = as_tuple(
            OPS[op].call(fake, Graph(edges, graph.num_rows, graph.num_cols), edges, backend=backend, **options)
        )
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype, a.device.type) == (b.shape, b.dtype, "cuda")


@pytest.mark.parametrize(("loadable", "expected"), [(True, scatter), (False, None)])
def test_auto_takes_scatter_on_cuda_where_it_is_loadable(
    loadable: bool, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(scatter, "serves_cuda", lambda: loadable)
    monkeypatch.setattr("graphattn.ops.attention.require", lambda *names: asked.append(names))
    monkeypatch.setattr(scatter, "sddmm", lambda q, k, layout: q.new_empty(layout.num_edges, q.size(1)))
    with FakeTensorMode():
        x, edges = torch.empty(4, 2, 3, device="cuda"), torch.empty(2, 6, dtype=torch.long, device="cuda")
        assert OPS["sddmm"].call({"q": x, "k": x}, Graph(edges, 4, 4), edges).shape == (6, 2)
    assert asked == ([("torch_scatter", "scatter")] if expected else [])


def test_csr_is_refused_on_cuda() -> None:
    with FakeTensorMode():
        x, edges = torch.empty(4, 2, 3, device="cuda"), torch.empty(2, 6, dtype=torch.long, device="cuda")
        with pytest.raises(ValueError, match="backend 'csr' serves CPU tensors only, but the inputs are on cuda"):
            OPS["sddmm"].call({"q": x, "k": x}, Graph(edges, 4, 4), edges, backend="csr")


@pytest.mark.parametrize("name", _registered())
def test_every_operator_has_a_kernel_for_cuda(name: str) -> None:
    assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"graphattn::{name}", "CUDA")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"graphattn::{name}", "Meta")
