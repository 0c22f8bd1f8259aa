"""GraphTransformer against PyG's GPSConv, its attention against torch's, and what padding must not do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GPSConv, TransformerConv
from torch_geometric.transforms import AddLaplacianEigenvectorPE, AddRandomWalkPE

from graphattn.models import GraphTransformer
from graphattn.nn.global_attention import SoftmaxAttention
from tests.models.cases import GRAPHS, HIDDEN, IN, OUT, PE, assert_equal, fill, inputs_of, side_by_side


def torch_attention(ours: SoftmaxAttention) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(ours.proj.in_features, ours.heads, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    return theirs


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("with_edges", [False, True])
def test_layers_equal_gps_of_pyg(with_edges: bool, norm: str | None) -> None:
    edge_dim = 3 if with_edges else None
    net = fill(GraphTransformer(IN, HIDDEN, OUT, 2, heads=2, norm=norm, edge_dim=edge_dim))
    inputs = side_by_side([inputs_of(net, *graph) for graph in GRAPHS])
    edges = {"edge_attr": inputs["edge_attr"]} if with_edges else {}
    h = net.encoder(inputs["x"])
    for ours in net.layers:
        local = TransformerConv(HIDDEN, HIDDEN // 2, 2, edge_dim=edge_dim).double()
        local.load_state_dict({key.removeprefix("score."): v for key, v in ours.conv.state_dict().items()})
        theirs = GPSConv(HIDDEN, local, 2, norm=None if norm is None else "batch_norm").double().eval()
        theirs.attn = torch_attention(ours.attention)
        theirs.mlp[0], theirs.mlp[3] = ours.mlp.lin1, ours.mlp.lin2
        if norm is not None:
            for number in (1, 2, 3):
                getattr(theirs, f"norm{number}").module = getattr(ours, f"norm{number}")
        h = theirs(h, inputs["edge_index"], inputs["batch"], **edges)
    assert_equal(net(**inputs), net.lin(h))


def with_encodings(**options: Any) -> GraphTransformer:
    return fill(GraphTransformer(IN, HIDDEN, OUT, encoding_dim=PE, **options))


def test_encodings_are_concatenated() -> None:
    net = with_encodings(encoding="random_walk")
    inputs = inputs_of(net, *GRAPHS[2])
    h = torch.cat([net.encoder(inputs["x"]), inputs["pe"]], dim=1) @ net.lin_pe.weight.T + net.lin_pe.bias
    for layer in net.layers:
        h = layer(h, inputs["edge_index"])
    assert_equal(net(**inputs), net.lin(h))


def signs_seen(net: GraphTransformer, batch: Tensor | None, calls: int) -> Tensor:
    """What the linear map sees of encodings that are all 1, for every call."""
    seen: list[Tensor] = []
    handle = net.lin_pe.register_forward_pre_hook(lambda module, args: seen.append(args[0][:, HIDDEN:].detach()))
    for _ in range(calls):
        net(torch.randn(6, IN).double(), torch.empty(2, 0, dtype=torch.long), batch=batch, pe=torch.ones(6, PE))
    handle.remove()
    return torch.stack(seen)


def test_signs_are_drawn_for_each_graph_and_column_in_training() -> None:
    batch = torch.tensor([0, 3, 0, 3, 3, 5])
    net = with_encodings(encoding="laplacian", norm=None).train()
    seen = signs_seen(net, batch, 200)
    assert set(seen.flatten().tolist()) == {-1.0, 1.0}
    for graph in (0, 3, 5):
        rows = seen[:, batch == graph]
        assert (rows == rows[:, :1]).all()
    columns = torch.stack([seen[:, row, column] for row in (0, 1, 5) for column in range(PE)])
    # 200 signs each: means and products of independent signs have standard deviation 0.07.
    assert ((columns @ columns.T / 200) - torch.eye(len(columns))).abs().max() < 0.36
    assert columns.mean(1).abs().max() < 0.36
    assert (signs_seen(net, None, 20).std(dim=1) == 0).all()
    assert (signs_seen(net.eval(), batch, 3) == 1).all()
    assert (signs_seen(with_encodings(encoding="random_walk", norm=None).train(), batch, 3) == 1).all()


def test_encodings_of_pyg() -> None:
    """Those that PyG's transforms make go in as they are; they tell apart nodes that the edges do not."""
    ring = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])
    edge_index = torch.cat([ring, ring.flip(0), torch.tensor([[0, 3], [3, 0]])], dim=1)
    data = Data(edge_index=edge_index, num_nodes=6)
    x = torch.ones(6, IN).double()
    for encoding, transform in (
        ("laplacian", AddLaplacianEigenvectorPE(PE, attr_name="pe", is_undirected=True)),
        ("random_walk", AddRandomWalkPE(PE, attr_name="pe")),
    ):
        net = with_encodings(encoding=encoding)
        out = net(x, edge_index, pe=transform(data).pe)
        assert not torch.allclose(out[0], out[1])
    out = fill(GraphTransformer(IN, HIDDEN, OUT))(x, edge_index)
    assert_equal(out, out[:1].expand_as(out))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "sine", "encoding_dim": 2}, "encoding is 'sine'; expected one of None, 'laplacian'"),
        ({"encoding": "laplacian"}, "encoding is 'laplacian' and encoding_dim is None; pass both or neither"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"heads": 5}, "hidden_channels is 6 and heads is 5"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GraphTransformer(IN, HIDDEN, OUT, **options)


def test_bad_encodings() -> None:
    x, edge_index = torch.randn(3, IN).double(), torch.tensor([[0], [1]])
    net = with_encodings(encoding="random_walk")
    with pytest.raises(ValueError, match=r"pe is None; expected random_walk encodings of shape \(3, 2\)"):
        net(x, edge_index)
    with pytest.raises(ValueError, match=r"pe is of shape \(3, 4\); expected random_walk encodings of shape \(3, 2\)"):
        net(x, edge_index, pe=torch.ones(3, 4))
    with pytest.raises(ValueError, match="pe is given, but encoding is None"):
        fill(GraphTransformer(IN, HIDDEN, OUT))(x, edge_index, pe=torch.ones(3, 2))
