"""All options of AttentionConv on CUDA, without a GPU: fake tensors run every shape function and device check.

Forward only: torch's autograd engine asks the driver for the device before it runs a backward there.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

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
