"""What holds for every network: configs, gradients, the order of nodes, batches, and devices and dtypes."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import graphattn.models
from graphattn.models import (
    AttentionNet,
    EventNetwork,
    EventSequenceModel,
    GraphHead,
    LinkHead,
    SGFormerNet,
    from_config,
)
from graphattn.models.network import Network
from tests.models.cases import (
    ALL,
    GRAPHS,
    HIDDEN,
    IN,
    NETWORKS,
    OUT,
    assert_solved,
    fill,
    inputs_of,
    side_by_side,
)


def test_every_network_is_covered() -> None:
    public = [getattr(graphattn.models, name) for name in graphattn.models.__all__]
    networks = {obj for obj in public if isinstance(obj, type) and issubclass(obj, Network)}
    over_events = (EventNetwork, EventSequenceModel)  # which have tests of their own
    networks = {network for network in networks if not issubclass(network, over_events)}
    assert networks == {type(make()) for make in ALL.values()} | {GraphHead, LinkHead, SGFormerNet}, (
        "a new network needs a case"
    )


@pytest.mark.parametrize("name", ALL)
def test_a_config_builds_the_network_again(name: str) -> None:
    net = fill(ALL[name]())
    again = from_config(json.loads(json.dumps(net.config, allow_nan=False))).double().eval()
    assert again.config == net.config
    again.load_state_dict(net.state_dict())
    inputs = inputs_of(net, *GRAPHS[2])
    assert torch.equal(again(**inputs), net(**inputs))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.config == net.config
        assert torch.equal(other(**inputs), net(**inputs))


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_every_parameter(name: str) -> None:
    net = fill(ALL[name]())
    # Of a rectifier at most half may be shut for all nodes of one graph, so all the graphs come together.
    batch = side_by_side([inputs_of(net, *graph) for graph in GRAPHS[1:3]])
    net(**batch).square().sum().backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert (parameter.grad != 0).any(), parameter_name


@pytest.mark.parametrize("name", ALL)
def test_nodes_may_come_in_any_order(name: str) -> None:
    net = fill(ALL[name]())
    inputs = side_by_side([inputs_of(net, *graph) for graph in (GRAPHS[2], GRAPHS[2])])
    order = torch.randperm(10)
    moved = {key: value if key == "edge_attr" else value[order] for key, value in inputs.items() if key != "edge_index"}
    moved["edge_index"] = order.argsort()[inputs["edge_index"]]
    if name.startswith("gps"):  # PyG's padding asks for sorted graphs
        moved.pop("batch"), inputs.pop("batch")
    assert_solved(net(**moved), net(**inputs)[order])


@pytest.mark.parametrize("name", ALL)
def test_batched_equals_looped(name: str) -> None:
    net = fill(ALL[name]())
    graphs = [inputs_of(net, *graph) for graph in GRAPHS]
    assert_solved(net(**side_by_side(graphs)), torch.cat([net(**graph) for graph in graphs]))


@pytest.mark.parametrize("name", ALL)
def test_reset_draws_all_parameters_anew(name: str) -> None:
    net = fill(ALL[name]())
    before = {key: value.clone() for key, value in net.named_parameters()}
    net.reset_parameters()
    for key, value in net.named_parameters():
        if not key.endswith("attn.out_proj.weight"):  # which torch's MultiheadAttention does not draw anew
            assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ALL)
def test_dropout_only_in_training(name: str) -> None:
    config = ALL[name]().config
    net = from_config({**config, "dropout": 0.5}).double().eval()
    inputs = inputs_of(net, *GRAPHS[2])
    assert torch.equal(net(**inputs), net(**inputs))
    net.train()
    assert not torch.equal(net(**inputs), net(**inputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_low_precision(name: str) -> None:
    """bfloat16 stays within sixteen roundings of the largest output: three layers of about five operations."""
    net = ALL[name]().eval()
    inputs = inputs_of(net, *GRAPHS[2])
    truth = copy.deepcopy(net).double()(**inputs)
    low = {key: v.bfloat16() if v.is_floating_point() else v for key, v in inputs.items()}
    found = net.bfloat16()(**low)
    assert found.dtype == torch.bfloat16
    assert (found.double() - truth).abs().max() <= 16 * torch.finfo(torch.bfloat16).eps * truth.abs().max()


# Without a batch, whose padding reads the sizes of its graphs.
def test_infinity_becomes_a_word() -> None:
    config = AttentionNet(3, 4, 2, hops=math.inf).config
    assert config["hops"] == "inf"
    assert AttentionNet.from_config(config).convs[0].hops == math.inf


def test_a_config_may_leave_out_defaults() -> None:
    config = {"in_channels": 3, "hidden_channels": 4, "out_channels": 2}
    assert AttentionNet.from_config(config).config == AttentionNet(3, 4, 2).config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model": "AttentionNet", "hiden_channels": 4},
            "'hiden_channels', which AttentionNet does not take; did you mean 'hidden_channels'",
        ),
        ({"model": "AttentionNet", "in_channels": 4}, "lacks 'hidden_channels', 'out_channels'"),
        ({"model": "AttentionNett"}, "model is 'AttentionNett'; expected one of .* did you mean 'AttentionNet'"),
        ({}, "model is None; expected one of APPNPNet"),
    ],
)
def test_bad_configs(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_config(config)


def test_config_of_another_class() -> None:
    with pytest.raises(ValueError, match="config is of 'AttentionNet', not of InfDiffusionNet"):
        graphattn.models.InfDiffusionNet.from_config(AttentionNet(3, 4, 2).config)


def test_parameters_of_the_budget() -> None:
    """At most 100,000 parameters, on bags of 1,433 words and on molecules."""
    atoms, bonds = [119, 5, 12, 12, 10, 6, 6, 2, 2], [5, 6, 2]
    molecule = {"encoder": "embedding", "vocabulary": atoms, "edge_dim": 3, "edge_vocabulary": bonds}
    configs: list[tuple[dict[str, Any], int]] = [
        ({"model": "AttentionNet", "in_channels": 1433, "hidden_channels": 56, "out_channels": 7, "heads": 8}, 93_695),
        ({"model": "InfDiffusionNet", "in_channels": 1433, "hidden_channels": 64, "out_channels": 7}, 92_232),
        ({"model": "InfDiffusionNet", "in_channels": 500, "hidden_channels": 64, "out_channels": 3}, 32_260),
        (
            {
                "model": "GraphHead",
                "channels": 40,
                "out_channels": 1,
                "backbone": {
                    "model": "GraphTransformer",
                    "in_channels": 9,
                    "hidden_channels": 40,
                    "out_channels": 40,
                    "num_layers": 3,
                    "heads": 4,
                    "encoding": "random_walk",
                    "encoding_dim": 16,
                    **molecule,
                },
            },
            75_881,
        ),
    ]
    for config, count in configs:
        found = sum(p.numel() for p in from_config(config).parameters())
        assert found == count <= 100_000, config


@pytest.mark.parametrize("name", ALL)
def test_no_edges_and_no_nodes(name: str) -> None:
    net = fill(ALL[name]())
    assert torch.isfinite(net(**inputs_of(net, 3, [[], []]))).all()
    if name in NETWORKS and name != "attention-lstm":  # torch's LSTM refuses an empty batch
        assert net(**inputs_of(net, 0, [[], []])).shape == (0, OUT)


def test_arguments_are_no_children() -> None:
    """A backbone is registered once, though it is also among the arguments."""
    head = GraphHead(AttentionNet(IN, HIDDEN, OUT), OUT, 1)
    assert sum(isinstance(module, AttentionNet) for module in head.modules()) == 1
    assert [name for name, _ in head.named_children()] == ["backbone", "pool", "lin"]
    assert isinstance(head.backbone, nn.Module)
