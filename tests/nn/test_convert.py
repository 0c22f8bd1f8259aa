"""``accelerate`` and ``from_pyg``: the same outputs from the same parameters, and a report of what was left."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, HeteroConv, Sequential, TransformerConv
from torch_geometric.nn.models import GAT

from graphattn import accelerate, from_pyg
from graphattn.nn import AttentionConv
from tests.nn.cases import CHANNELS, EDGE_DIM, SQUARE, TARGET_WIDTH, WIDTH


class _Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = TransformerConv(WIDTH, 6, heads=2, edge_dim=EDGE_DIM, beta=True)
        self.rest = nn.ModuleDict({"gat": GATConv(12, 4, edge_dim=EDGE_DIM), "gcn": GCNConv(4, CHANNELS)})

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        x = self.first(x, edge_index, edge_attr).relu()
        return self.rest["gcn"](self.rest["gat"](x, edge_index, edge_attr), edge_index)


MODELS: dict[str, Any] = {
    "GAT": lambda: GAT(WIDTH, 12, num_layers=3, out_channels=CHANNELS, heads=4, edge_dim=EDGE_DIM),
    "GATv2": lambda: GAT(WIDTH, 12, num_layers=2, heads=4, v2=True, edge_dim=EDGE_DIM, jk="cat", residual=True),
    "custom": _Custom,
    "Sequential": lambda: Sequential(
        "x, edge_index, edge_attr",
        [
            (GATv2Conv(WIDTH, 4, heads=2, edge_dim=EDGE_DIM), "x, edge_index, edge_attr -> x"),
            nn.ReLU(),
            (TransformerConv(8, 4, edge_dim=EDGE_DIM), "x, edge_index, edge_attr -> x"),
        ],
    ),
}
COUNTS = {"GAT": 3, "GATv2": 2, "custom": 2, "Sequential": 2}


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(8, WIDTH).double(), SQUARE.edge_index, torch.randn(SQUARE.num_edges, EDGE_DIM).double()


def _call(model: nn.Module, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
    return model(x, edge_index, edge_attr=edge_attr)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_stay_and_optimizers_go_on(name: str) -> None:
    """One step of an optimizer built before gives the model that PyG's own layers would have become."""
    model = MODELS[name]().double()
    peer, inputs = copy.deepcopy(model), _inputs()
    before = list(model.parameters())
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.1) for m in (model, peer)]
    report = accelerate(model)
    assert len(report.replaced) == COUNTS[name]
    assert not report.kept
    assert {id(p) for p in model.parameters()} == {id(p) for p in before}
    assert not any(isinstance(m, (GATConv, GATv2Conv, TransformerConv)) for m in model.modules())
    torch.testing.assert_close(_call(model, *inputs), _call(peer, *inputs))
    for _ in range(2):
        for m, optimizer in zip((model, peer), optimizers, strict=True):
            optimizer.zero_grad()
            _call(m, *inputs).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(_call(model, *inputs), _call(peer, *inputs))
    assert not torch.allclose(_call(model, *inputs), _call(model, *_inputs()))


def test_hetero_conv() -> None:
    convs = {
        ("a", "to", "b"): GATConv((WIDTH, TARGET_WIDTH), CHANNELS, add_self_loops=False),
        ("b", "to", "a"): TransformerConv((TARGET_WIDTH, WIDTH), CHANNELS),
    }
    model = HeteroConv(convs).double()
    x = {"a": torch.randn(4, WIDTH).double(), "b": torch.randn(3, TARGET_WIDTH).double()}
    edges = {("a", "to", "b"): torch.tensor([[0, 3], [2, 2]]), ("b", "to", "a"): torch.tensor([[2, 1], [0, 3]])}
    expected = model(x, edges)
    assert len(accelerate(model).replaced) == 2
    for key, out in model(x, edges).items():
        torch.testing.assert_close(out, expected[key])


def test_a_shared_layer_stays_shared() -> None:
    layer = GATConv(WIDTH, WIDTH)
    model = nn.ModuleList([layer, GCNConv(2, 2), layer])
    report = accelerate(model)
    assert isinstance(model[0], AttentionConv)
    assert model[0] is model[2]
    assert report.replaced == [("0", "GATConv"), ("2", "GATConv")]


class _MyGAT(GATConv):
    pass


def test_what_cannot_be_converted_is_kept_with_its_reason() -> None:
    hooked, masked = GATConv(2, 2), GATv2Conv(2, 2)
    hooked.register_message_forward_hook(lambda module, inputs, output: None)
    masked.register_forward_hook(lambda module, inputs, output: None)
    kept = {
        "hooked": (hooked, "GATConv", "registered hooks (_message_forward_hooks)"),
        "masked": (masked, "GATv2Conv", "registered hooks (_forward_hooks)"),
        "subclass": (_MyGAT(2, 2), "_MyGAT", "and no subclass"),
        "flow": (TransformerConv(2, 2, flow="target_to_source"), "TransformerConv", "flow='target_to_source'"),
        "aggr": (GATConv(2, 2, aggr=["add", "max"]), "GATConv", "aggr="),
    }
    model = nn.ModuleDict({name: layer for name, (layer, _, _) in kept.items()} | {"plain": GATConv(2, 2)})
    report = accelerate(model)
    assert report.replaced == [("plain", "GATConv")]
    assert [(name, cls) for name, cls, _ in report.kept] == [(name, cls) for name, (_, cls, _) in kept.items()]
    for name, cls, reason in report.kept:
        assert model[name] is kept[name][0]
        assert kept[name][2] in reason, (name, cls)


def test_the_report_reads_well() -> None:
    model = nn.ModuleDict({"a": GATConv(2, 2), "b": _MyGAT(2, 2)})
    assert str(accelerate(model)) == (
        "replaced 1 layers, kept 1\n"
        "  replaced a (GATConv)\n"
        "  kept     b (_MyGAT): layer is a _MyGAT; expected one of GATConv, GATv2Conv, TransformerConv, and no subclass"
    )


@pytest.mark.parametrize("cls", [GATConv, GATv2Conv, TransformerConv])
def test_a_layer_alone_has_no_parent(cls: type) -> None:
    with pytest.raises(ValueError, match=rf"model is itself a {cls.__name__}; use from_pyg"):
        accelerate(cls(2, 2))


def test_nothing_to_replace() -> None:
    report = accelerate(nn.Sequential(nn.Linear(2, 2)))
    assert not report.replaced
    assert not report.kept
    assert str(report) == "replaced 0 layers, kept 0"


def test_from_pyg_refuses() -> None:
    with pytest.raises(TypeError, match="layer is a GCNConv; expected one of GATConv"):
        from_pyg(GCNConv(2, 2))
    with pytest.raises(TypeError, match=r"layer is a _MyGAT; .* and no subclass"):
        from_pyg(_MyGAT(2, 2))
    with pytest.raises(ValueError, match="layer is a GATConv with flow='target_to_source', which cannot be converted"):
        from_pyg(GATConv(2, 2, flow="target_to_source"))


@pytest.mark.parametrize("cls", [GATConv, GATv2Conv, TransformerConv])
def test_the_layer_itself_is_left_alone(cls: type) -> None:
    layer = cls(WIDTH, CHANNELS, heads=2).double()
    x, edge_index, _ = _inputs()
    state, before = copy.deepcopy(layer.state_dict()), layer(x, edge_index)
    from_pyg(layer)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    assert torch.equal(layer(x, edge_index), before)
