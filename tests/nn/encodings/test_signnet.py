"""SignNet: signs do not matter, missing vectors do not either, and its two networks are their formulas."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor

from graphattn import Affinity
from graphattn.nn.encodings import SignNet, laplacian_encoding
from tests.nn.encodings.graphs import HOUSE, HOUSE_NODES, dense, disjoint, edges

EPS = torch.finfo(torch.float64).eps
K = 6


def _inputs() -> tuple[Tensor, Tensor]:
    return laplacian_encoding(HOUSE, K, edge_weight=torch.ones(14).double(), num_nodes=HOUSE_NODES)


def _net(phi: str, **options: Any) -> SignNet:
    net = SignNet(K, 5, hidden_channels=7, phi=phi, **options).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)  # zero epsilons hide mistakes
    return net


def _graph(phi: str) -> Any:
    return HOUSE if phi == "gin" else None


@pytest.mark.parametrize("phi", ["mlp", "gin"])
def test_flipping_any_vector_changes_nothing(phi: str) -> None:
    vectors, values = _inputs()
    net, A = _net(phi), _graph(phi)
    expected = net(vectors, values, A=A)
    for m in range(K):
        flipped = vectors.clone()
        flipped[:, m] *= -1
        assert torch.equal(net(flipped, values, A=A), expected)
    moved = vectors.clone()
    moved[0, 0] += 0.1
    assert not torch.allclose(net(moved, values, A=A), expected)


@pytest.mark.parametrize("phi", ["mlp", "gin"])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_is_its_formula(num_layers: int, phi: str) -> None:
    vectors, values = _inputs()
    net = _net(phi, num_layers=num_layers)
    W = dense(HOUSE, None, HOUSE_NODES)
    parts = []
    for m in range(K):
        total = torch.zeros(HOUSE_NODES, 7).double()
        for sign in (1.0, -1.0):
            h = sign * HOUSE_NODES**0.5 * vectors[:, m : m + 1]
            for layer in range(num_layers):
                h = h.relu() if layer else h
                if phi == "gin":
                    h = (1 + net.eps[layer]) * h + W @ h
                first, _, second = net.layers[layer]
                h = (h @ first.weight.T + first.bias).relu() @ second.weight.T + second.bias
            total = total + h
        parts.append(total if values[m] > 0 else torch.zeros_like(total))
    first, _, second = net.rho
    expected = (torch.cat(parts, dim=1) @ first.weight.T + first.bias).relu() @ second.weight.T + second.bias
    found = net(vectors, values, A=_graph(phi))
    torch.testing.assert_close(found, expected, rtol=0, atol=256 * EPS * expected.abs().max().item())


@pytest.mark.parametrize("fill", [0.0, float("nan")])
@pytest.mark.parametrize("phi", ["mlp", "gin"])
def test_missing_vectors_leave_no_trace(phi: str, fill: float) -> None:
    """Whatever stands in their columns, gradients included."""
    vectors, values = _inputs()
    net, A = _net(phi), _graph(phi)
    there = values > 0
    assert 0 < there.sum() < K
    expected = net(vectors, values, A=A)
    noise = torch.where(there, vectors, torch.full_like(vectors, float("nan"))).requires_grad_()
    found = net(noise, torch.where(there, values, fill), A=A)
    assert torch.equal(found, expected)
    found.sum().backward()
    assert not noise.grad[:, ~there].any()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize("phi", ["mlp", "gin"])
def test_batched_equals_looped(phi: str) -> None:
    parts = [(HOUSE, HOUSE_NODES), (edges(nx.path_graph(3)), 3), (edges(nx.barabasi_albert_graph(9, 2, seed=0)), 9)]
    order = torch.randperm(20)
    edge_index, batch = disjoint(parts, order)
    vectors, values = (x.double() for x in laplacian_encoding(edge_index, K, batch=batch))
    net = _net(phi)
    found = net(vectors, values, batch, A=edge_index if phi == "gin" else None)
    for g, (part, n) in enumerate(parts):
        here = order[batch[order] == g]
        alone = net(vectors[here], values[g], A=part if phi == "gin" else None)
        assert here.numel() == n
        torch.testing.assert_close(found[here], alone, rtol=0, atol=256 * EPS * found.abs().max().item())


def test_graphs_of_any_kind_and_their_weights() -> None:
    vectors, values = _inputs()
    net = _net("gin")
    expected = net(vectors, values, A=HOUSE)
    A = Affinity.from_edge_index(HOUSE, num_nodes=HOUSE_NODES)
    assert torch.equal(net(vectors, values, A=A), expected)
    assert not torch.allclose(net(vectors, values, A=A.with_weight(torch.full((14,), 0.5).double())), expected)


def test_relabelled_nodes_take_their_features_along() -> None:
    vectors, values = _inputs()
    net, order = _net("gin"), torch.randperm(HOUSE_NODES)
    placed = torch.empty_like(vectors)
    placed[order] = vectors
    found = net(placed, values, A=order[HOUSE])[order]
    expected = net(vectors, values, A=HOUSE)
    torch.testing.assert_close(found, expected, rtol=0, atol=256 * EPS * expected.abs().max().item())


def test_gradients() -> None:
    vectors = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    net = SignNet(2, 2, hidden_channels=3, phi="gin").double()
    graph = edges(nx.path_graph(4))
    assert torch.autograd.gradcheck(lambda u: net(u, torch.ones(2), A=graph), vectors)


def test_reset_parameters_draws_anew() -> None:
    net = _net("gin")
    before = {name: value.clone() for name, value in net.named_parameters()}
    net.reset_parameters()
    assert all(not torch.equal(value, before[name]) for name, value in net.named_parameters())
    assert not net.eps.any()


def test_half_precision_counts_nodes_exactly() -> None:
    """257 nodes are one more than bfloat16 can count one by one."""
    net = SignNet(1, 4).bfloat16()
    vectors = torch.full((257, 1), 257**-0.5).bfloat16()
    found = net(vectors, torch.ones(1).bfloat16())
    assert torch.equal(found[:1], net(torch.ones(1, 1).bfloat16(), torch.ones(1).bfloat16()))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"k": 0}, "k is 0; expected at least 1"),
        ({"num_layers": 0}, "num_layers is 0; expected at least 1"),
        ({"phi": "gat"}, "phi is 'gat'; expected one of 'mlp', 'gin'"),
    ],
)
def test_bad_options(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        SignNet(**{"k": 3, "out_channels": 4, **options})


@pytest.mark.parametrize(
    ("vectors", "values", "batch", "expected"),
    [
        ((8, 5), (6,), None, r"vectors has shape \(8, 5\); expected \[nodes, 6\]"),
        ((8,), (6,), None, r"vectors has shape \(8,\); expected \[nodes, 6\]"),
        ((8, 6), (2, 6), None, r"values has shape \(2, 6\); expected \[6\] without batch"),
        ((8, 6), (6,), (8,), r"values has shape \(6,\) and batch \(8,\); expected \[graphs, 6\] and \[8\]"),
        ((8, 6), (1, 6), (7,), r"values has shape \(1, 6\) and batch \(7,\); expected \[graphs, 6\] and \[8\]"),
    ],
)
def test_bad_shapes(vectors: Any, values: Any, batch: Any, expected: str) -> None:
    graph = None if batch is None else torch.zeros(batch, dtype=torch.long)
    with pytest.raises(ValueError, match=expected):
        SignNet(6, 4)(torch.zeros(vectors), torch.ones(values), graph)


def test_a_graph_is_needed_or_not() -> None:
    vectors, values = torch.zeros(8, 6), torch.ones(6)
    with pytest.raises(ValueError, match="A is missing, but phi is 'gin'"):
        SignNet(6, 4, phi="gin")(vectors, values)
    with pytest.raises(ValueError, match="A is given, but phi is 'mlp'"):
        SignNet(6, 4)(vectors, values, A=HOUSE)
    with pytest.raises(ValueError, match="A has 7 nodes, but vectors has 8 rows"):
        SignNet(6, 4, phi="gin")(vectors, values, A=Affinity.from_edge_index(HOUSE))
