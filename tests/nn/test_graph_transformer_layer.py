"""GraphTransformerLayer against torch's encoder layer and the parts put together, with every attention by its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, GINEConv

from graphattn.models import GraphTransformer, from_config
from graphattn.nn import AttentionConv, GraphTransformerLayer
from graphattn.nn.global_attention import PrimalAttention, SoftmaxAttention, make_attention
from graphattn.nn.global_attention.catalog import ATTENTIONS

CHANNELS = 8
EDGES = torch.tensor([[0, 1, 2, 3, 4, 4, 1], [1, 0, 3, 4, 2, 3, 1]])
BATCH = torch.tensor([0, 0, 1, 1, 1])


def heads_of(name: str) -> int:
    return 1 if name.startswith("hyper") else 2


def nodes() -> Tensor:
    return torch.randn(5, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def make(conv: nn.Module | None, attention: nn.Module | None, **options: Any) -> GraphTransformerLayer:
    return GraphTransformerLayer(CHANNELS, conv, attention, **options).double().eval()


@pytest.mark.parametrize("norm_first", [False, True])
def test_without_edges_equals_the_encoder_layer_of_torch(norm_first: bool) -> None:
    ours = make(None, SoftmaxAttention(CHANNELS, 2), norm_first=norm_first, act="gelu", ff_channels=12)
    theirs = nn.TransformerEncoderLayer(
        CHANNELS, 2, 12, activation="gelu", norm_first=norm_first, batch_first=True, dtype=torch.float64
    ).eval()
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.attention.qkv.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.attention.qkv.bias)
    theirs.self_attn.out_proj.load_state_dict(ours.attention.proj.state_dict())
    theirs.linear1.load_state_dict(ours.mlp.lin1.state_dict())
    theirs.linear2.load_state_dict(ours.mlp.lin2.state_dict())
    x = nodes()
    torch.testing.assert_close(ours(x), theirs(x[None])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm_first", [False, True])
def test_parts_put_together(norm_first: bool) -> None:
    conv, attention = AttentionConv(CHANNELS, 4, 2, edge_dim=3), SoftmaxAttention(CHANNELS, 2)
    layer = make(conv, attention, norm_first=norm_first, norm="batch")
    with torch.no_grad():
        for norm in (layer.norm1, layer.norm2, layer.norm3):
            norm.running_mean.uniform_()
            norm.running_var.uniform_(0.5, 2.0)
    x, edge_attr = nodes(), torch.rand(EDGES.size(1), 3).double()
    if norm_first:
        both = x + conv(layer.norm1(x), EDGES, edge_attr) + attention(layer.norm2(x), BATCH)
        expected = both + layer.mlp(layer.norm3(both))
    else:
        both = layer.norm1(x + conv(x, EDGES, edge_attr)) + layer.norm2(x + attention(x, BATCH))
        expected = layer.norm3(both + layer.mlp(both))
    torch.testing.assert_close(layer(x, EDGES, edge_attr, BATCH), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("conv", [GCNConv(CHANNELS, CHANNELS), GINEConv(nn.Linear(CHANNELS, CHANNELS), edge_dim=3)])
def test_layers_of_pyg_along_the_edges(conv: nn.Module) -> None:
    layer = make(conv, None)
    x = nodes()
    features = {"edge_attr": torch.rand(EDGES.size(1), 3).double()} if isinstance(conv, GINEConv) else {}
    near = layer.norm1(x + conv(x, EDGES, **features))
    torch.testing.assert_close(layer(x, EDGES, **features), layer.norm3(near + layer.mlp(near)))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_attention_in_the_network(name: str) -> None:
    torch.manual_seed(0)
    net = GraphTransformer(CHANNELS, CHANNELS, 3, heads=heads_of(name), attention=name).double().eval()
    assert isinstance(net.layers[0].attention, type(make_attention(name, CHANNELS, heads_of(name))))
    x = nodes()
    together = net(x, EDGES, batch=BATCH)
    first = net(x[:2], EDGES[:, [0, 1, 6]])
    second = net(x[2:], EDGES[:, 2:6] - 2)
    torch.testing.assert_close(together, torch.cat([first, second]), rtol=1e-9, atol=1e-10)
    far = torch.autograd.functional.jacobian(lambda x: net(x, EDGES[:, :0], batch=BATCH)[0], x)
    assert bool((far[:, 1] != 0).any())  # no edge leads there
    assert bool((far[:, 2:] == 0).all())  # another graph
    again = from_config(net.config).double()
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again.eval()(x, EDGES, batch=BATCH), together)


def test_options_of_the_attention_arrive() -> None:
    options = {"num_landmarks": 5, "pinv": "exact"}
    net = GraphTransformer(CHANNELS, CHANNELS, 3, attention="nystrom", attention_options=options, attention_dropout=0.1)
    attention = net.layers[1].attention
    assert (attention.num_landmarks, attention.pinv, attention.dropout) == (5, "exact", 0.1)
    assert net.config["attention_options"] == options
    assert GraphTransformer(CHANNELS, CHANNELS, 3, attention=None).layers[0].attention is None


def test_loss_of_the_attention() -> None:
    net = GraphTransformer(CHANNELS, CHANNELS, 3, heads=2, attention="primal").double().eval()
    x, losses = nodes(), []
    out, loss = net(x, EDGES, batch=BATCH, return_loss=True)
    h = net.encoder(x)
    for layer in net.layers:
        assert isinstance(layer.attention, PrimalAttention)
        losses.append(layer.attention(h, BATCH, return_loss=True)[1])
        h = layer(h, EDGES, batch=BATCH)
    torch.testing.assert_close(loss, (losses[0] + losses[1]) / 2)
    torch.testing.assert_close(out, net(x, EDGES, batch=BATCH))


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"conv": None, "attention": None}, None, "conv and attention are both None; pass at least one"),
        ({"norm": "instance"}, None, "norm is 'instance'; expected one of"),
        ({"act": "tanh"}, None, "act is 'tanh'; expected one of"),
        ({"dropout": 1.5}, None, r"dropout is 1.5; expected a probability"),
        ({"conv": None}, {"edge_index": EDGES}, "edges are given, but conv is None"),
        ({}, {}, "edge_index is missing; expected edges for conv"),
    ],
)
def test_mistakes(options: dict[str, Any], call: dict[str, Any] | None, message: str) -> None:
    parts = {"conv": AttentionConv(CHANNELS, CHANNELS), "attention": SoftmaxAttention(CHANNELS)}
    with pytest.raises(ValueError, match=message):
        GraphTransformerLayer(CHANNELS, **parts | options)(nodes().float(), **call or {})


def test_unknown_attention() -> None:
    with pytest.raises(ValueError, match="attention is 'perfomer'; did you mean 'performer'"):
        make_attention("perfomer", 8)
    with pytest.raises(ValueError, match="heads is 2, but HyperAttention has none"):
        make_attention("hyper", 8, 2)
    with pytest.raises(ValueError, match=r"attention_options is .*, but attention is None"):
        GraphTransformer(CHANNELS, CHANNELS, 3, attention=None, attention_options={"rank": 2})
