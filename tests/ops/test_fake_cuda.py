"""What can be said about CUDA without a GPU: every op runs on fake CUDA tensors, every operator has a CUDA kernel."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from graphattn._optional import is_available
from graphattn.ops import Layout, additive_attention, edge_attention, reference, scatter, triton
from graphattn.ops.attention import choose_backend
from tests.ops.cases import GRAPHS, OPS, Graph, as_tuple
from tests.ops.test_compile import _registered


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", ["bipartite_unsorted", "no_edges"])
@pytest.mark.parametrize("op", OPS)
def test_forward_on_fake_cuda(
    op: str, name: str, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch-scatter's operators have no fake versions; without it "auto" is triton or the reference.
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
    monkeypatch.setattr(triton, "serves", lambda *_: False)
    monkeypatch.setattr(scatter, "serves_cuda", lambda: loadable)
    monkeypatch.setattr("graphattn.ops.attention.require", lambda *names: asked.append(names))
    monkeypatch.setattr(scatter, "sddmm", lambda q, k, layout: q.new_empty(layout.num_edges, q.size(1)))
    with FakeTensorMode():
        x, edges = torch.empty(4, 2, 3, device="cuda"), torch.empty(2, 6, dtype=torch.long, device="cuda")
        assert OPS["sddmm"].call({"q": x, "k": x}, Graph(edges, 4, 4), edges).shape == (6, 2)
    assert asked == ([("torch_scatter", "scatter")] if expected else [])


@pytest.mark.skipif(not is_available("triton"), reason="triton is not installed")
@pytest.mark.parametrize(
    ("dtype", "channels", "expected"),
    [
        (torch.float32, 1, triton),
        (torch.bfloat16, 256, triton),
        (torch.float16, 257, reference),
        (torch.float64, 8, reference),
    ],
)
def test_auto_takes_triton_on_cuda_where_it_serves(
    dtype: torch.dtype, channels: int, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scatter, "serves_cuda", lambda: False)
    with FakeTensorMode():
        x = torch.empty(4, 2, channels, device="cuda", dtype=dtype)
        layout = Layout(torch.empty(2, 6, dtype=torch.long, device="cuda"), 4, 4)
        assert choose_backend("auto", layout, x, x) is expected


@pytest.mark.skipif(not is_available("triton"), reason="triton is not installed")
def test_triton_says_why_it_cannot_serve() -> None:
    edges = torch.zeros(2, 1, dtype=torch.long)
    x = torch.ones(1, 1, 3)
    with pytest.raises(ValueError, match="backend 'triton' serves CUDA tensors only, but the inputs are on cpu"):
        edge_attention(x, x, x, edges, backend="triton")
    with FakeTensorMode():
        edges = torch.empty(2, 1, dtype=torch.long, device="cuda")
        x = torch.empty(1, 1, 3, device="cuda", dtype=torch.float64)
        with pytest.raises(ValueError, match="backend 'triton' serves float32, bfloat16 and float16, but an input is"):
            edge_attention(x, x, x, edges, backend="triton")
        x = torch.empty(1, 1, 257, device="cuda")
        limit = "serves at most 256 channels per head, and as many features of an edge, but the inputs have 257"
        with pytest.raises(ValueError, match=limit):
            edge_attention(x, x, x, edges, backend="triton")
        x, edge_proj = torch.empty(1, 1, 3, device="cuda"), torch.empty(1, 3, 257, device="cuda")
        edge_attr = torch.empty(1, 257, device="cuda")
        with pytest.raises(ValueError, match=limit):
            edge_attention(x, x, x, edges, edge_attr=edge_attr, edge_proj=edge_proj, backend="triton")
        with pytest.raises(ValueError, match=limit):
            additive_attention(x, x, x, x[0], edges, edge_attr=edge_attr, edge_proj=edge_proj, backend="triton")


def test_csr_is_refused_on_cuda() -> None:
    with FakeTensorMode():
        x, edges = torch.empty(4, 2, 3, device="cuda"), torch.empty(2, 6, dtype=torch.long, device="cuda")
        with pytest.raises(ValueError, match="backend 'csr' serves CPU tensors only, but the inputs are on cuda"):
            OPS["sddmm"].call({"q": x, "k": x}, Graph(edges, 4, 4), edges, backend="csr")


@pytest.mark.parametrize("name", _registered())
def test_every_operator_has_a_kernel_for_cuda(name: str) -> None:
    assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"graphattn::{name}", "CUDA")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"graphattn::{name}", "Meta")
