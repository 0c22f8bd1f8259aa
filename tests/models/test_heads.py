"""Heads for graphs and pairs against loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.models import AttentionNet, GraphHead, GraphTransformer, LinkHead, from_config
from graphattn.models.heads import POOLS
from tests.models.cases import GRAPHS, HIDDEN, IN, OUT, PE, assert_equal, fill, inputs_of, side_by_side


def pooled(head: GraphHead, rows: Tensor) -> Tensor:
    kind = head.config["pool"]
    if kind == "attention":
        return (head.pool.gate_nn(rows).softmax(0) * rows).sum(0)
    return {"mean": lambda: rows.mean(0), "add": lambda: rows.sum(0), "max": lambda: rows.amax(0)}[kind]()


@pytest.mark.parametrize("pool", POOLS)
def test_graphs_are_pooled_as_alone(pool: str) -> None:
    head = fill(GraphHead(AttentionNet(IN, HIDDEN, OUT), OUT, 2, pool=pool))
    graphs = [inputs_of(head.backbone, *graph) for graph in GRAPHS]
    whole = side_by_side(graphs)
    expected = torch.stack([head.lin(pooled(head, head.backbone(**graph))) for graph in graphs])
    assert_equal(head(**whole), expected)
    assert_equal(torch.cat([head(**graph) for graph in graphs]), expected)
    # Nodes of the graphs in any order, and two more graphs without any.
    order = torch.randperm(len(whole["batch"]))
    mixed = {
        "x": whole["x"][order],
        "batch": whole["batch"][order],
        "edge_index": order.argsort()[whole["edge_index"]],
    }
    more = head(**mixed, num_graphs=6)
    assert_equal(more[:4], expected)
    assert_equal(more[4:], head.lin.bias.expand(2, -1))


@pytest.mark.parametrize("pool", POOLS)
def test_gradients_of_graph_heads(pool: str) -> None:
    head = fill(GraphHead(AttentionNet(IN, HIDDEN, OUT), OUT, 2, pool=pool))
    head(**side_by_side([inputs_of(head.backbone, *graph) for graph in GRAPHS])).square().sum().backward()
    for name, parameter in head.named_parameters():
        # Weights that sum to 1 do not depend on a constant that is added to all scores.
        if name != "pool.gate_nn.bias":
            assert (parameter.grad != 0).any(), name


def test_further_inputs_reach_the_backbone() -> None:
    backbone = GraphTransformer(IN, HIDDEN, OUT, encoding="random_walk", encoding_dim=PE)
    inputs = inputs_of(backbone, *GRAPHS[2])
    graph_head = fill(GraphHead(backbone, OUT, 1))
    assert_equal(graph_head(**inputs), graph_head.lin(backbone(**inputs).mean(0, keepdim=True)))
    pairs = torch.tensor([[0, 3], [4, 3]])
    link_head = fill(LinkHead(backbone, OUT, decoder="dot"))
    h = backbone(**inputs)
    assert_equal(link_head(**inputs, pairs=pairs), (h[pairs[0]] * h[pairs[1]]).sum(1))


@pytest.mark.parametrize("num_layers", [1, 3])
def test_pairs_are_decoded_by_a_perceptron(num_layers: int) -> None:
    head = fill(LinkHead(AttentionNet(IN, HIDDEN, OUT), OUT, num_layers=num_layers))
    inputs = inputs_of(head.backbone, *GRAPHS[2])
    h = head.backbone(**inputs)
    pairs = torch.tensor([[0, 3, 1], [4, 3, 0]])
    expected = []
    for i, j in pairs.T.tolist():
        hidden = h[i] * h[j]
        for number, lin in enumerate(head.lins, start=1):
            hidden = lin.weight @ hidden + lin.bias
            hidden = F.relu(hidden) if number < num_layers else hidden
        expected.append(hidden)
    out = head(**inputs, pairs=pairs)
    assert_equal(out, torch.cat(expected))
    assert_equal(head.decode(h, pairs.flip(0)), out)


@pytest.mark.parametrize("make", [lambda b: GraphHead(b, OUT, 1, pool="attention"), lambda b: LinkHead(b, OUT)])
def test_config_holds_the_backbone(make: Any) -> None:
    head = make(AttentionNet(IN, HIDDEN, OUT, jump="max"))
    assert head.config["backbone"]["jump"] == "max"
    again = from_config(head.config)
    assert again.config == head.config
    again.load_state_dict(head.state_dict())
    before = {key: value.clone() for key, value in head.named_parameters()}
    head.reset_parameters()
    assert all(not torch.equal(value, before[key]) for key, value in head.named_parameters() if "bias" not in key)


def test_bad_heads() -> None:
    backbone = AttentionNet(IN, HIDDEN, OUT)
    with pytest.raises(ValueError, match="pool is 'sum'; expected one of 'mean', 'add', 'max', 'attention'"):
        GraphHead(backbone, OUT, 1, pool="sum")
    with pytest.raises(ValueError, match="dropout is 2; expected a probability"):
        GraphHead(backbone, OUT, 1, dropout=2)
    with pytest.raises(ValueError, match="decoder is 'bilinear'; expected one of 'dot', 'mlp'"):
        LinkHead(backbone, OUT, decoder="bilinear")
    with pytest.raises(ValueError, match="num_layers is 0"):
        LinkHead(backbone, OUT, num_layers=0)
    with pytest.raises(ValueError, match=r"pairs has shape \(3, 2\); expected \[2, pairs\]"):
        LinkHead(backbone, OUT).decode(torch.ones(4, OUT), torch.zeros(3, 2, dtype=torch.long))
