"""Our layers against the installed PyG's, torch's dense attention and AGNN: values and all gradients, in float64."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import AGNNConv, GATConv, GATv2Conv, TransformerConv

from graphattn.nn import AttentionConv, from_pyg
from tests.nn.cases import (
    BIPARTITE,
    CHANNELS,
    EDGE_DIM,
    HEADS,
    SQUARE,
    WIDTH,
    features,
    messages,
    randomize,
    width,
)

LOOPS = {
    "none": [[0, 1, 2, 3, 1], [1, 2, 0, 4, 2]],
    "first": [[3, 0, 1, 2, 3, 1], [3, 1, 2, 0, 4, 2]],
    "middle": [[0, 1, 3, 2, 3, 1], [1, 2, 3, 0, 4, 2]],
    "last": [[0, 1, 2, 3, 1, 3], [1, 2, 0, 4, 2, 3]],
    "duplicated": [[4, 0, 3, 1, 3, 2, 3, 1, 0, 4], [4, 1, 3, 2, 3, 0, 4, 2, 0, 4]],
    "only": [[2, 0, 2], [2, 0, 2]],
    "no_edges": [[], []],
}
FILLS: list[Any] = ["mean", "add", "min", "max", "mul", 0.7, torch.tensor([0.3, -1.2])]


def assert_parity(layer: nn.Module, x: Any, edge_index: Tensor, edge_attr: Tensor | None = None, **kwargs: Any) -> None:
    """Both paths of the converted layer give the outputs and the gradients of the layer."""
    conv = from_pyg(layer)
    expected = _run(layer, layer, x, edge_index, edge_attr, **kwargs)
    for path in (nullcontext(), messages(conv)):
        with path:
            found = _run(conv, layer, x, edge_index, edge_attr, **kwargs)
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], msg=lambda m, name=name: f"{name}: {m}")


def _run(
    conv: nn.Module, owner: nn.Module, x: Any, edge_index: Tensor, edge_attr: Tensor | None, **kwargs: Any
) -> dict:
    # The two layers share their parameters, so the names of the one serve both.
    pair = list(x) if isinstance(x, tuple) else [x]
    ends = [None if t is None else t.detach().clone().requires_grad_() for t in pair]
    leaves = {f"x[{i}]": t for i, t in enumerate(ends) if t is not None}
    if edge_attr is not None:
        leaves["edge_attr"] = edge_attr = edge_attr.detach().clone().requires_grad_()
    out = conv(tuple(ends) if isinstance(x, tuple) else ends[0], edge_index, edge_attr, **kwargs)
    leaves |= dict(owner.named_parameters())
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=out.dtype)
    grads = torch.autograd.grad(out, list(leaves.values()), cotangent, allow_unused=True)
    zeros = {n: torch.zeros_like(x) if g is None else g for (n, x), g in zip(leaves.items(), grads, strict=True)}
    return {"out": out.detach(), **zeros}


def _layer(cls: type, in_channels: Any = WIDTH, **options: Any) -> nn.Module:
    layer = cls(in_channels, CHANNELS, **options).double()
    if in_channels != -1 and in_channels != (-1, -1):
        randomize(layer)
    return layer


def _edges(loops: str) -> Tensor:
    return torch.tensor(LOOPS[loops], dtype=torch.long)


GAT_OPTIONS = [
    {},
    {"heads": HEADS},
    {"heads": HEADS, "concat": False},
    {"heads": HEADS, "bias": False},
    {"heads": HEADS, "residual": True},
    {"heads": HEADS, "residual": True, "concat": False, "bias": False},
    {"heads": HEADS, "negative_slope": 0.7},
    {"heads": HEADS, "negative_slope": 0.0},
    {"heads": HEADS, "dropout": 0.6},
    {"heads": HEADS, "aggr": "mean"},
    {"heads": HEADS, "aggr": "max"},
    {"heads": HEADS, "aggr": "sum"},
]
TRANSFORMER_OPTIONS = [
    {},
    {"heads": HEADS},
    {"heads": HEADS, "concat": False},
    {"heads": HEADS, "bias": False},
    {"heads": HEADS, "beta": True},
    {"heads": HEADS, "beta": True, "concat": False},
    {"heads": HEADS, "root_weight": False},
    {"heads": HEADS, "dropout": 0.6},
    {"heads": HEADS, "aggr": "mean"},
    {"heads": HEADS, "aggr": "max"},
]
V2_OPTIONS = [*GAT_OPTIONS, {"heads": HEADS, "share_weights": True}]
GAT_CASES = [(GATConv, o) for o in GAT_OPTIONS] + [(GATv2Conv, o) for o in V2_OPTIONS]
CASES = GAT_CASES + [(TransformerConv, o) for o in TRANSFORMER_OPTIONS]


def _id(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else ",".join(f"{k}={v}" for k, v in value.items()) or "default"


@pytest.mark.parametrize("with_edge_attr", [False, True])
@pytest.mark.parametrize("graph", [SQUARE, BIPARTITE], ids=["square", "bipartite"])
@pytest.mark.parametrize(("cls", "options"), CASES, ids=_id)
def test_every_option(cls: type, options: dict, graph: Any, with_edge_attr: bool) -> None:
    if "share_weights" in options and graph is BIPARTITE:
        pytest.skip("one projection cannot serve two widths")
    options = options | ({"edge_dim": EDGE_DIM} if with_edge_attr else {})
    layer = _layer(cls, width(graph), **options).eval()
    edge_attr = torch.randn(graph.num_edges, EDGE_DIM, dtype=torch.float64) if with_edge_attr else None
    assert_parity(layer, features(graph), graph.edge_index, edge_attr)


@pytest.mark.parametrize("fill_value", FILLS, ids=str)
@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("cls", [GATConv, GATv2Conv])
def test_self_loops_with_edge_features(cls: type, loops: str, fill_value: Any) -> None:
    layer = _layer(cls, heads=HEADS, edge_dim=EDGE_DIM, fill_value=fill_value)
    edge_index = _edges(loops)
    edge_attr = torch.randn(edge_index.size(1), EDGE_DIM, dtype=torch.float64)
    assert_parity(layer, torch.randn(5, WIDTH, dtype=torch.float64), edge_index, edge_attr)


@pytest.mark.parametrize("options", [{"aggr": "mean"}, {"aggr": "max"}, {}], ids=_id)
@pytest.mark.parametrize("add_self_loops", [False, True])
@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("cls", [GATConv, GATv2Conv])
def test_self_loops(cls: type, loops: str, add_self_loops: bool, options: dict) -> None:
    layer = _layer(cls, heads=HEADS, add_self_loops=add_self_loops, **options)
    assert_parity(layer, torch.randn(5, WIDTH, dtype=torch.float64), _edges(loops))


@pytest.mark.parametrize("cls", [GATConv, GATv2Conv, TransformerConv])
def test_edge_features_of_one_dimension(cls: type) -> None:
    layer = _layer(cls, heads=HEADS, edge_dim=1)
    edge_attr = torch.randn(SQUARE.num_edges, 1, dtype=torch.float64)
    assert_parity(layer, features(SQUARE), SQUARE.edge_index, edge_attr)
    if cls is not TransformerConv:  # PyG's reads a vector as one edge
        assert_parity(layer, features(SQUARE), SQUARE.edge_index, edge_attr[:, 0])


@pytest.mark.parametrize("cls", [GATConv, GATv2Conv])
def test_edge_dim_without_edge_features(cls: type) -> None:
    layer = _layer(cls, heads=HEADS, edge_dim=EDGE_DIM)
    assert_parity(layer, features(SQUARE), SQUARE.edge_index)


@pytest.mark.parametrize("add_self_loops", [False, True])
@pytest.mark.parametrize("in_channels", [WIDTH, (WIDTH, 9)], ids=["shared", "two"])
def test_gat_without_target_features(in_channels: Any, add_self_loops: bool) -> None:
    layer = _layer(GATConv, in_channels, heads=HEADS, add_self_loops=add_self_loops, residual=True)
    x = torch.randn(BIPARTITE.num_sources, WIDTH, dtype=torch.float64)
    size = (BIPARTITE.num_sources, BIPARTITE.num_targets)
    assert_parity(layer, (x, None), BIPARTITE.edge_index, size=size)


@pytest.mark.parametrize("graph", [SQUARE, BIPARTITE], ids=["square", "bipartite"])
def test_size_that_agrees_with_the_features(graph: Any) -> None:
    layer = _layer(GATConv, width(graph), heads=HEADS)
    assert_parity(layer, features(graph), graph.edge_index, size=(graph.num_sources, graph.num_targets))


@pytest.mark.parametrize("cls", [GATConv, GATv2Conv, TransformerConv])
def test_one_tensor_into_a_layer_with_two_widths(cls: type) -> None:
    layer = _layer(cls, (WIDTH, WIDTH), heads=HEADS, **({"share_weights": True} if cls is GATv2Conv else {}))
    assert_parity(layer, features(SQUARE), SQUARE.edge_index)


@pytest.mark.parametrize("cls", [GATConv, GATv2Conv, TransformerConv])
def test_a_pair_into_a_layer_with_one_width(cls: type) -> None:
    layer = _layer(cls, heads=HEADS)
    x = torch.randn(BIPARTITE.num_sources, WIDTH), torch.randn(BIPARTITE.num_targets, WIDTH)
    assert_parity(layer, (x[0].double(), x[1].double()), BIPARTITE.edge_index)


@pytest.mark.parametrize("ours_first", [False, True])
@pytest.mark.parametrize("graph", [SQUARE, BIPARTITE], ids=["square", "bipartite"])
@pytest.mark.parametrize("cls", [GATConv, GATv2Conv, TransformerConv])
def test_lazy_channels(cls: type, graph: Any, ours_first: bool) -> None:
    layer = _layer(cls, -1 if graph is SQUARE else (-1, -1), heads=HEADS, edge_dim=-1)
    x, edge_attr = features(graph), torch.randn(graph.num_edges, EDGE_DIM, dtype=torch.float64)
    (from_pyg(layer) if ours_first else layer)(x, graph.edge_index, edge_attr)
    assert_parity(layer, x, graph.edge_index, edge_attr)


@pytest.mark.parametrize("cls", [GATConv, GATv2Conv, TransformerConv])
def test_training_mode_and_decomposition_are_kept(cls: type) -> None:
    layer = _layer(cls, heads=HEADS, dropout=0.5).eval()
    assert not from_pyg(layer).training
    assert from_pyg(layer.train()).training


@pytest.mark.parametrize("cls", [GATConv, GATv2Conv, TransformerConv])
def test_certain_dropout(cls: type) -> None:
    """At p = 1 the two draw the same mask: nothing is left but roots and biases."""
    assert_parity(_layer(cls, heads=HEADS, dropout=1.0).train(), features(SQUARE), SQUARE.edge_index)


@pytest.mark.parametrize("cls", [GATConv, GATv2Conv, TransformerConv])
def test_returned_weights_without_self_loops(cls: type) -> None:
    options = {} if cls is TransformerConv else {"add_self_loops": False}
    layer = _layer(cls, heads=HEADS, **options)
    x = features(SQUARE)
    _, (expected_edges, expected) = layer(x, SQUARE.edge_index, return_attention_weights=True)
    _, (edges, alpha) = from_pyg(layer)(x, SQUARE.edge_index, return_attention_weights=True)
    assert torch.equal(edges, expected_edges)
    torch.testing.assert_close(alpha, expected)


@pytest.mark.parametrize("loops", LOOPS)
def test_cosine_is_agnn(loops: str) -> None:
    """With identity projections the cosine score is the propagation of AGNN, self-loops included."""
    peer = AGNNConv().double()
    conv = AttentionConv(WIDTH, WIDTH, score="cosine", add_self_loops=True, root_weight=False, bias=False).double()
    with torch.no_grad():
        for linear in (conv.score.lin_query, conv.score.lin_key, conv.score.lin_value):
            linear.weight.copy_(torch.eye(WIDTH))
        peer.beta.fill_(1.7)
        conv.score.beta.fill_(1.7)
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    results = []
    for layer, beta in ((peer, peer.beta), (conv, conv.score.beta)):
        leaf = x.clone().requires_grad_()
        out = layer(leaf, _edges(loops))
        results.append((out, *torch.autograd.grad(out.square().sum(), (leaf, beta), allow_unused=True)))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("num_targets", "num_sources"), [(6, 6), (4, 7), (1, 5)])
@pytest.mark.parametrize("path", ["fused", "messages"])
def test_dot_on_a_complete_graph_is_dense_attention(num_targets: int, num_sources: int, path: str) -> None:
    conv = AttentionConv((WIDTH, 9), CHANNELS, heads=HEADS, root_weight=False).double()
    x_src = torch.randn(num_sources, WIDTH, dtype=torch.float64, requires_grad=True)
    x_dst = torch.randn(num_targets, 9, dtype=torch.float64, requires_grad=True)
    edge_index = torch.cartesian_prod(torch.arange(num_sources), torch.arange(num_targets)).T
    with messages(conv) if path == "messages" else nullcontext():
        out = conv((x_src, x_dst), edge_index[:, torch.randperm(edge_index.size(1))])
    q, k, v, _ = conv.score.project(x_src, x_dst, None)
    dense = F.scaled_dot_product_attention(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1))
    dense = dense.transpose(0, 1).flatten(1)
    torch.testing.assert_close(out, dense)
    leaves = [x_src, x_dst, *conv.parameters()]
    found = torch.autograd.grad(out.square().sum(), leaves)
    for grad, expected in zip(found, torch.autograd.grad(dense.square().sum(), leaves), strict=True):
        torch.testing.assert_close(grad, expected)
