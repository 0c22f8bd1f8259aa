"""PyG's networks behind our contract compute what PyG's do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.nn import GAT, GCN, GraphSAGE

from graphattn.models import APPNPNet, GPSNet, MessagePassingNet, SGFormerNet, from_config
from tests.models.cases import EDGE_DIM, GRAPHS, HIDDEN, IN, OUT, assert_equal, fill, inputs_of

SIZE, EDGES = GRAPHS[2][0], torch.tensor(GRAPHS[2][1])


@pytest.mark.parametrize(
    ("conv", "make", "options"),
    [
        ("gcn", GCN, {"norm": "batch_norm"}),
        ("sage", GraphSAGE, {"jump": "cat"}),
        ("gat", GAT, {"heads": 2, "act": "elu"}),
        ("gatv2", lambda *args, **kw: GAT(*args, v2=True, **kw), {"heads": 2, "edge_dim": EDGE_DIM}),
    ],
)
def test_stacks_are_those_of_pyg(conv: str, make: Any, options: dict[str, Any]) -> None:
    net = fill(MessagePassingNet(conv, IN, HIDDEN, OUT, 3, **options))
    theirs = make(IN, HIDDEN, 3, OUT, **{"jk" if key == "jump" else key: v for key, v in options.items()})
    theirs = theirs.double().eval()
    theirs.load_state_dict(net.net.state_dict())
    inputs = inputs_of(net, SIZE, EDGES)
    edge_attr = inputs.pop("edge_attr", None)
    assert_equal(net(**inputs, edge_attr=edge_attr), theirs(**inputs, edge_attr=edge_attr))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("conv", ["gcn", "sage", "gat", "gatv2", "appnp"])
def test_sparse_features_equal_dense_ones(conv: str) -> None:
    net = fill(APPNPNet(IN, HIDDEN, OUT) if conv == "appnp" else MessagePassingNet(conv, IN, HIDDEN, OUT))
    x = torch.randn(SIZE, IN).double() * (torch.rand(SIZE, IN) < 0.5)
    assert_equal(net(x.to_sparse_csr(), EDGES), net(x, EDGES))


def test_appnp_equals_dense_powers() -> None:
    net = fill(APPNPNet(IN, HIDDEN, OUT, hops=3, decay=0.7))
    edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    A = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]]).double()
    A = A.sum(1, keepdim=True).rsqrt() * A * A.sum(1).rsqrt()
    x = torch.randn(3, IN).double()
    first = net.lin(F.relu(net.encoder(x)))
    z = first
    for _ in range(3):
        z = 0.7 * A @ z + 0.3 * first
    # PyG normalizes edges without weights in torch's default dtype.
    torch.testing.assert_close(net(x, edge_index), z, rtol=0, atol=1e-6 * float(z.detach().abs().max()))


def test_sgformer_gives_logits() -> None:
    """In float32, which its attention asks for."""
    net = fill(SGFormerNet(IN, HIDDEN, OUT, 2)).float()
    x = torch.randn(SIZE, IN)
    expected = net.net(x, EDGES, torch.zeros(SIZE, dtype=torch.long))
    torch.testing.assert_close(net(x, EDGES).log_softmax(1), expected)
    again = from_config(net.config).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x, EDGES), net(x, EDGES))
    out = net(x, EDGES)
    out.square().sum().backward()
    assert all((p.grad != 0).any() for p in net.parameters())
    net.reset_parameters()
    assert not torch.allclose(net(x, EDGES), out)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MessagePassingNet("gin", IN, HIDDEN, OUT), "conv is 'gin'; expected one of 'gcn', 'sage'"),
        (lambda: MessagePassingNet("gcn", IN, HIDDEN, OUT, heads=2), "heads is 2 and edge_dim is None, but 'gcn'"),
        (lambda: MessagePassingNet("gcn", IN, HIDDEN, OUT, vocabulary=[3]), "vocabulary is given, but encoder is None"),
    ],
)
def test_bad_options(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MessagePassingNet("gcn", IN, HIDDEN, OUT),
        lambda: APPNPNet(IN, HIDDEN, OUT),
        lambda: SGFormerNet(5, 6, 4),
    ],
)
def test_edge_features_are_not_ignored(make: Any) -> None:
    with pytest.raises(ValueError, match=r"edge_attr is given, but .* not read edge features"):
        make()(torch.randn(SIZE, IN), EDGES, torch.ones(EDGES.size(1), 1))


def test_encodings_go_with_their_width() -> None:
    x = torch.randn(SIZE, IN)
    with pytest.raises(ValueError, match="pe is missing; it goes with encoding_dim"):
        GPSNet(IN, HIDDEN, OUT, encoding_dim=2)(x, EDGES)
    with pytest.raises(ValueError, match="pe is given; it goes with encoding_dim"):
        GPSNet(IN, HIDDEN, OUT)(x, EDGES, pe=torch.ones(SIZE, 2))
