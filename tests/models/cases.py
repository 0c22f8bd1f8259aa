"""What the tests of the networks share: one small instance of each, graphs of unequal size, and calls of all alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.models import (
    APPNPNet,
    AttentionNet,
    GPSNet,
    GraphTransformer,
    InfDiffusionNet,
    MessagePassingNet,
)
from graphattn.models.network import Network

IN, HIDDEN, OUT, EDGE_DIM, PE = 5, 6, 4, 3, 2  # all different

NETWORKS: dict[str, Callable[[], Network]] = {
    "attention": lambda: AttentionNet(IN, HIDDEN, OUT, heads=2),
    "attention-all": lambda: AttentionNet(
        IN,
        HIDDEN,
        OUT,
        3,
        heads=3,
        score="dot",
        hops=math.inf,
        learn_decay=True,
        residual=True,
        norm="layer",
        jump="cat",
        act="elu",
        edge_dim=EDGE_DIM,
        add_self_loops=False,
    ),
    "attention-frobenius": lambda: AttentionNet(IN, HIDDEN, OUT, normalize="relu_frobenius", hops=2, jump="max"),
    "attention-lstm": lambda: AttentionNet(IN, HIDDEN, OUT, score="gat", hops=2, series="sum", jump="lstm"),
    "attention-raw": lambda: AttentionNet(IN, HIDDEN, OUT, heads=2, score="gat", encoder=None),
    "diffusion": lambda: InfDiffusionNet(IN, HIDDEN, OUT),
    "diffusion-raw": lambda: InfDiffusionNet(IN, HIDDEN, OUT, 2, encoder=None, norm="batch"),
    "diffusion-labels": lambda: InfDiffusionNet(IN, HIDDEN, OUT, 2, label_input=True, norm="layer"),
    "diffusion-learned": lambda: InfDiffusionNet(
        IN, HIDDEN, OUT, 2, affinity="learned", heads=2, edge_dim=EDGE_DIM, label_input=True
    ),
    "transformer": lambda: GraphTransformer(IN, HIDDEN, OUT, heads=3),
    "transformer-all": lambda: GraphTransformer(
        IN, HIDDEN, OUT, 3, heads=2, score="gatv2", hops=2, edge_dim=EDGE_DIM, encoding="laplacian", encoding_dim=PE
    ),
}
# SGFormer, whose attention is float32 alone, has tests of its own.
PEERS: dict[str, Callable[[], Network]] = {
    "gcn": lambda: MessagePassingNet("gcn", IN, HIDDEN, OUT),
    "sage": lambda: MessagePassingNet("sage", IN, HIDDEN, OUT, norm="batch_norm", jump="cat", encoder="linear"),
    "gat": lambda: MessagePassingNet("gat", IN, HIDDEN, OUT, heads=2),
    "gatv2": lambda: MessagePassingNet("gatv2", IN, HIDDEN, OUT, heads=2, edge_dim=EDGE_DIM),
    "appnp": lambda: APPNPNet(IN, HIDDEN, OUT),
    "gps": lambda: GPSNet(IN, HIDDEN, OUT, heads=2),
    "gps-all": lambda: GPSNet(IN, HIDDEN, OUT, heads=2, edge_dim=EDGE_DIM, encoding_dim=PE),
}
ALL = {**NETWORKS, **PEERS}

# Sizes and edges of graphs: one node, two, five with a loop and parallel edges, three without edges.
GRAPHS = [
    (1, [[0], [0]]),
    (2, [[0], [1]]),
    (5, [[0, 1, 1, 2, 3, 3, 4], [1, 0, 0, 3, 2, 3, 0]]),
    (3, [[], []]),
]


def fill(net: nn.Module) -> nn.Module:
    """Draw every parameter and running statistic far from its initial value, in float64."""
    net = net.double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.5)
        for name, buffer in net.named_buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_()
    return net


def inputs_of(net: Network, num_nodes: int, edge_index: Any) -> dict[str, Any]:
    """Random inputs of every kind that a network takes."""
    edge_index = torch.as_tensor(edge_index, dtype=torch.long).reshape(2, -1)
    config = net.config
    inputs: dict[str, Any] = {"x": torch.randn(num_nodes, IN).double(), "edge_index": edge_index}
    if config.get("edge_dim"):
        inputs["edge_attr"] = torch.randn(edge_index.size(1), EDGE_DIM).double()
    if config.get("encoding_dim"):
        inputs["pe"] = torch.randn(num_nodes, PE).double()
    if config.get("label_input"):
        inputs["labels"] = torch.randint(-1, OUT, (num_nodes,))
    return inputs


def side_by_side(graphs: list[dict[str, Any]]) -> dict[str, Any]:
    """One graph of many, with the graph of each node."""
    sizes = torch.tensor([len(graph["x"]) for graph in graphs])
    starts = sizes.cumsum(0) - sizes
    whole = {key: torch.cat([graph[key] for graph in graphs]) for key in graphs[0] if key != "edge_index"}
    edges = [graph["edge_index"] + start for graph, start in zip(graphs, starts, strict=True)]
    return {**whole, "edge_index": torch.cat(edges, dim=1), "batch": torch.arange(len(graphs)).repeat_interleave(sizes)}


def assert_equal(found: Tensor, expected: Tensor) -> None:
    """Compare float64 results to a thousand roundings of the largest value."""
    atol = 1e3 * torch.finfo(torch.float64).eps * max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def assert_solved(found: Tensor, expected: Tensor) -> None:
    """Compare float64 results of which a solver has left a residual of 1e-12, times 1 / (1 - decay) and some layers."""
    atol = 1e-9 * max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
