"""AttentionNet against the same network made by hand of PyG's layers, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GATConv, GATv2Conv, TransformerConv
from torch_geometric.nn.models import JumpingKnowledge

from graphattn.models import AttentionNet
from graphattn.models.inputs import drop_features
from tests.models.cases import GRAPHS, HIDDEN, IN, NETWORKS, OUT, assert_equal, fill, inputs_of

PYG = {"gat": GATConv, "gatv2": GATv2Conv, "dot": TransformerConv}


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Give a layer of PyG our weights: the same names but for the score's prefix, and GAT's only projection."""
    state = {name.removeprefix("score."): value for name, value in source.state_dict().items()}
    wanted = target.state_dict()
    if "lin.weight" in wanted:
        state["lin.weight"] = state.pop("lin_src.weight")
    assert {name for name in wanted if wanted[name].numel()} <= state.keys()
    target.load_state_dict({name: state[name].reshape(wanted[name].shape) for name in wanted})


@pytest.mark.parametrize("jump", [None, "cat", "max", "lstm"])
@pytest.mark.parametrize("norm", [None, "layer", "batch"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("score", PYG)
def test_equals_a_stack_of_pyg_layers(score: str, residual: bool, norm: str | None, jump: str | None) -> None:
    loops = {} if score == "dot" else {"add_self_loops": True}
    net = AttentionNet(
        IN, HIDDEN, OUT, 2, heads=2, score=score, residual=residual, norm=norm, jump=jump, act="elu",
        add_self_loops=bool(loops), edge_dim=3,
    )  # fmt: skip
    fill(net)
    size, edge_index = GRAPHS[2]
    inputs = inputs_of(net, size, edge_index)

    h = F.elu(F.linear(inputs["x"], net.encoder.lin.weight, net.encoder.lin.bias))
    layers = []
    for ours, normalize in zip(net.convs, net.norms, strict=True):
        conv = PYG[score](HIDDEN, HIDDEN // 2, 2, edge_dim=3, **loops).double()
        copy_weights(ours, conv)
        out = F.elu(normalize(conv(h, inputs["edge_index"], inputs["edge_attr"])))
        h = out + h if residual else out
        layers.append(h)
    if jump is not None:
        joined = JumpingKnowledge(jump, HIDDEN, 2).double()
        joined.load_state_dict(net.jump.state_dict())
        h = joined(layers)
    assert_equal(net(**inputs), h @ net.lin.weight.T + net.lin.bias)


@pytest.mark.parametrize("score", PYG)
def test_without_an_encoder_the_first_layer_maps_the_features(score: str) -> None:
    net = AttentionNet(IN, HIDDEN, OUT, 2, heads=2, score=score, encoder=None, add_self_loops=False)
    fill(net)
    inputs = inputs_of(net, *GRAPHS[2])

    h = inputs["x"]
    for ours, width in zip(net.convs, (IN, HIDDEN), strict=True):
        loops = {} if score == "dot" else {"add_self_loops": False}
        conv = PYG[score](width, HIDDEN // 2, 2, **loops).double()
        copy_weights(ours, conv)
        h = F.relu(conv(h, inputs["edge_index"]))
    assert_equal(net(**inputs), h @ net.lin.weight.T + net.lin.bias)
    with pytest.raises(ValueError, match=r"x has shape \(3, 2\); expected \[nodes, 5\]"):
        net(torch.ones(3, 2), inputs["edge_index"])
    with pytest.raises(ValueError, match=r"residual is True but encoder is None"):
        AttentionNet(IN, HIDDEN, OUT, encoder=None, residual=True)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("name", ["attention", "diffusion", "transformer"])
def test_sparse_features_equal_dense_ones(name: str) -> None:
    net = fill(NETWORKS[name]())
    inputs = inputs_of(net, *GRAPHS[2])
    inputs["x"] = inputs["x"] * (torch.rand(5, IN) < 0.5)
    sparse = {**inputs, "x": inputs["x"].to_sparse_csr()}
    expected, found = net(**inputs), net(**sparse)
    assert_equal(found, expected)
    weight = net.encoder.lin.weight
    assert_equal(
        torch.autograd.grad(found.square().sum(), weight)[0], torch.autograd.grad(expected.square().sum(), weight)[0]
    )


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_dropout_of_sparse_features() -> None:
    x = (torch.rand(300, 40) < 0.2).double()
    dropped = drop_features(x.to_sparse_csr(), 0.25).to_dense()
    assert set(dropped[x == 1].tolist()) == {0.0, 1 / 0.75}
    assert (dropped[x == 0] == 0).all()
    kept = (dropped[x == 1] != 0).double().mean().item()
    assert kept == pytest.approx(0.75, abs=5 * (0.25 * 0.75 / float(x.sum())) ** 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0; expected at least 1"),
        ({"heads": 4}, "hidden_channels is 6 and heads is 4; expected a width that the heads divide"),
        ({"jump": "sum"}, "jump is 'sum'; expected one of None, 'cat'"),
        ({"norm": "graph"}, "norm is 'graph'; expected one of None, 'layer', 'batch'"),
        ({"act": "tanh"}, "act is 'tanh'; expected one of 'relu'"),
        ({"dropout": 1.0}, r"dropout is 1.0; expected a probability in \[0, 1\)"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
        ({"encoder": "onehot"}, "encoder is 'onehot'; expected one of 'linear', 'embedding'"),
        ({"encoder": "embedding"}, "encoder is 'embedding' and vocabulary is None"),
        ({"vocabulary": [3] * IN}, "'embedding' needs one, 'linear' takes none"),
        ({"encoder": "embedding", "vocabulary": [3]}, "vocabulary has 1 columns, but in_channels is 5"),
        ({"edge_vocabulary": [3]}, "edge_vocabulary has 1 columns, but edge_dim is None"),
        ({"score": "none"}, "score is 'none'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionNet(IN, HIDDEN, OUT, **options)
