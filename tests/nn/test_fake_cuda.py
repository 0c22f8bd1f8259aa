"""The layers on CUDA, without a GPU: fake tensors run every kernel's shape function and every device check.

Forward only: torch's autograd engine asks the driver for the device before it runs a backward there.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch_geometric.nn import MessagePassing

import graphattn.nn
from graphattn.nn import AttentionConv, DiffusionConv, RerankConv, TemporalAttentionConv
from graphattn.nn.encodings.time import TGATEncoding
from tests.nn.cases import (
    BIPARTITE,
    CHANNELS,
    EDGE_DIM,
    HEADS,
    NORMALIZE_KINDS,
    SCORE_NAMES,
    SQUARE,
    Graph,
    make,
    width,
)

# Every public layer, and the test below that runs it on fake CUDA tensors.
COVERED = {
    AttentionConv: "test_attention_conv",
    DiffusionConv: "test_diffusion_conv",
    RerankConv: "test_rerank_conv",
    TemporalAttentionConv: "test_temporal_attention_conv",
}


def test_every_public_layer_is_covered() -> None:
    public = [getattr(graphattn.nn, name) for name in graphattn.nn.__all__]
    layers = {obj for obj in public if inspect.isclass(obj) and issubclass(obj, MessagePassing)}
    assert layers == set(COVERED), "a new layer needs a test here"
    assert all(callable(globals()[name]) for name in COVERED.values())


def _fake(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device="cuda", requires_grad=x.requires_grad)


@pytest.mark.parametrize("with_edge_attr", [False, True])
@pytest.mark.parametrize("add_self_loops", [False, True])
@pytest.mark.parametrize("graph", [SQUARE, BIPARTITE], ids=["square", "bipartite"])
@pytest.mark.parametrize("kind", NORMALIZE_KINDS)
@pytest.mark.parametrize("score", SCORE_NAMES)
def test_attention_conv(score: str, kind: str, graph: Graph, add_self_loops: bool, with_edge_attr: bool) -> None:
    options: dict[str, Any] = {"edge_dim": EDGE_DIM} if with_edge_attr else {}
    conv = make(score, in_channels=width(graph), normalize=kind, add_self_loops=add_self_loops, **options).float()
    source, target = width(graph) if isinstance(width(graph), tuple) else (width(graph), width(graph))
    num_edges = graph.num_edges + add_self_loops * min(graph.num_targets, graph.num_sources)
    with FakeTensorMode():
        parameters = {name: _fake(p) for name, p in conv.named_parameters()}
        x_src = torch.empty(graph.num_sources, source, device="cuda", requires_grad=True)
        x_dst = torch.empty(graph.num_targets, target, device="cuda", requires_grad=True)
        x = x_src if graph is SQUARE else (x_src, x_dst)
        edge_index = torch.empty(graph.edge_index.shape, dtype=torch.long, device="cuda")
        edge_attr = torch.empty(graph.num_edges, EDGE_DIM, device="cuda") if with_edge_attr else None
        out, (edges, alpha) = functional_call(
            conv, parameters, (x, edge_index, edge_attr), {"return_attention_weights": True}
        )
    assert out.shape == (graph.num_targets, HEADS * CHANNELS)
    assert edges.shape == (2, num_edges)
    assert alpha.shape == (num_edges, HEADS)
    assert out.requires_grad
    assert {tensor.device.type for tensor in (out, edges, alpha)} == {"cuda"}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("kernel", "hops"), [("ppr", 3), ("ppr", math.inf), ("sgc", 2), ("katz", 3), ("katz", math.inf), ("heat", None)]
)
def test_diffusion_conv(kernel: str, hops: float | None, weighted: bool) -> None:
    conv = DiffusionConv(3, 2, kernel=kernel, hops=hops, learn_decay=kernel in ("ppr", "katz"))
    with FakeTensorMode():
        parameters = {name: _fake(p) for name, p in conv.named_parameters()}
        x = torch.empty(5, 3, device="cuda", requires_grad=True)
        weight = torch.empty(11, device="cuda") if weighted else None
        out = functional_call(conv, parameters, (x, torch.empty(2, 11, dtype=torch.long, device="cuda"), weight))
    assert out.shape == (5, 2)
    assert out.device.type == "cuda"
    assert out.requires_grad


@pytest.mark.parametrize("kind", NORMALIZE_KINDS)
def test_rerank_conv(kind: str) -> None:
    with FakeTensorMode():
        x = torch.empty(5, 3, device="cuda", requires_grad=True)
        edge_index = torch.empty(2, 11, dtype=torch.long, device="cuda")
        batch = torch.empty(5, dtype=torch.long, device="cuda")
        out = RerankConv(kind, l2_normalize=True)(x, edge_index, torch.empty(11, device="cuda"), batch)
    assert out.shape == (5, 3)
    assert out.device.type == "cuda"
    assert out.requires_grad


@pytest.mark.parametrize("mode", ["product", "map"])
def test_temporal_attention_conv(mode: str) -> None:
    conv = TemporalAttentionConv(3, 2, TGATEncoding(5), edge_dim=2, mode=mode)
    with FakeTensorMode():
        parameters = {name: _fake(p) for name, p in conv.named_parameters()}
        x, edge_attr = torch.empty(5, 3, device="cuda", requires_grad=True), torch.empty(11, 2, device="cuda")
        edge_index = torch.empty(2, 11, dtype=torch.long, device="cuda")
        edge_time = torch.empty(11, dtype=torch.long, device="cuda")
        out = functional_call(conv, parameters, (x, edge_index, edge_time, edge_attr))
    assert out.shape == (5, 2)
    assert out.device.type == "cuda"
    assert out.requires_grad
