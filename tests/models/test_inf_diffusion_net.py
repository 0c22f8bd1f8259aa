"""InfDiffusionNet against inverses of dense matrices, its labels, and the losses of training with few labels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn import Affinity
from graphattn.models import InfDiffusionNet, consistency_loss, mask_labels
from graphattn.nn.dropout import drop
from tests.models.cases import GRAPHS, HIDDEN, IN, OUT, assert_equal, assert_solved, fill, inputs_of
from tests.nn.cases import Graph, oracle_hops

SIZE, EDGES = GRAPHS[2][0], torch.tensor(GRAPHS[2][1])
# Without loops and parallel edges, whose handling belongs to the layers.
SIMPLE = torch.tensor([[0, 1, 1, 2, 3, 4], [1, 0, 2, 3, 2, 0]])


def normalized(edge_index: Tensor, size: int) -> Tensor:
    """Row = target, with self-loops, divided by the roots of both in-degrees."""
    dense = torch.eye(size).double()
    dense[edge_index[1], edge_index[0]] = 1.0
    root = dense.sum(1).rsqrt()
    return root.unsqueeze(1) * dense * root


@pytest.mark.parametrize("learn_decay", [False, True])
def test_given_affinity_equals_dense_inverses(learn_decay: bool) -> None:
    net = fill(InfDiffusionNet(IN, HIDDEN, OUT, 2, decay=0.8, learn_decay=learn_decay, norm="layer", act="elu"))
    x = torch.randn(SIZE, IN).double()
    h, A = F.elu(net.encoder(x)), normalized(SIMPLE, SIZE)
    for number, conv in enumerate(net.convs):
        if number:
            h = F.elu(net.norms[0](h))
        c = torch.as_tensor(conv.decay, dtype=torch.float64)
        h = (1 - c) * torch.linalg.inv(torch.eye(SIZE) - c * A) @ h @ conv.lin.weight.T + conv.bias
    assert (net.convs[0].decay != net.convs[1].decay) == learn_decay
    assert_solved(net(x, SIMPLE), h)


@pytest.mark.parametrize("sparse", [False, True])
def test_without_an_encoder_features_are_diffused_first(sparse: bool) -> None:
    net = fill(InfDiffusionNet(IN, HIDDEN, OUT, 2, encoder=None, decay=0.8, learn_decay=False, norm="layer"))
    x = F.dropout(torch.randn(SIZE, IN).double())
    h, spread = x, 0.2 * torch.linalg.inv(torch.eye(SIZE) - 0.8 * normalized(SIMPLE, SIZE))
    for conv, norm in zip(net.convs, net.norms, strict=True):
        h = F.relu(norm(spread @ h @ conv.lin.weight.T + conv.bias))
    assert_solved(net(x.to_sparse_csr() if sparse else x, SIMPLE), net.lin(h))


def test_learned_affinity_equals_dense_inverses() -> None:
    """Each layer and head along attention weights of its own, of which self-loops are a part."""
    net = fill(InfDiffusionNet(IN, HIDDEN, OUT, 2, affinity="learned", heads=2, score="gatv2"))
    x = torch.randn(SIZE, IN).double()
    loops = torch.arange(SIZE).expand(2, -1)
    graph = Graph(torch.cat([SIMPLE, loops], dim=1), SIZE, SIZE)
    h = F.relu(net.encoder(x))
    for number, conv in enumerate(net.convs):
        h = F.relu(h) if number else h
        h = oracle_hops(conv, h, graph)[0]
    assert len({round(c, 9) for conv in net.convs for c in conv.decay.tolist()}) == 4
    assert_solved(net(x, SIMPLE), h)


def test_information_flows_over_all_hops() -> None:
    """The last node of a long path hears of the first one as the inverse says."""
    size = 60
    path = torch.stack([torch.arange(size - 1), torch.arange(1, size)])
    edge_index = torch.cat([path, path.flip(0)], dim=1)
    net = fill(InfDiffusionNet(IN, HIDDEN, OUT, decay=0.99, learn_decay=False))
    x = torch.randn(size, IN).double()
    moved = torch.cat([x[:1] + 1, x[1:]])
    far = torch.linalg.inv(torch.eye(size) - 0.99 * normalized(edge_index, size))[-1, 0] * 0.01
    source = F.relu(net.encoder(moved)) - F.relu(net.encoder(x))
    expected = far * source[0] @ net.convs[0].lin.weight.T
    assert_solved((net(moved, edge_index) - net(x, edge_index))[-1], expected)
    assert expected.abs().max() > 1e-6


def test_affinity_counts_with_its_weights() -> None:
    net = fill(InfDiffusionNet(IN, HIDDEN, OUT))
    inputs = inputs_of(net, SIZE, SIMPLE)
    plain = net(**inputs)
    inputs["edge_index"] = Affinity.from_edge_index(SIMPLE, torch.ones(6).double(), SIZE)
    assert_solved(net(**inputs), plain)
    inputs["edge_index"] = Affinity.from_edge_index(SIMPLE, torch.rand(6).double(), SIZE)
    assert not torch.allclose(net(**inputs), plain)


def test_labels_are_added_to_the_code() -> None:
    net = fill(InfDiffusionNet(IN, HIDDEN, OUT, label_input=True))
    plain = InfDiffusionNet(IN, HIDDEN, OUT).double().eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("label_embedding")})
    x, labels = torch.randn(SIZE, IN).double(), torch.tensor([2, -1, 0, -1, 3])
    assert_equal(net(x, EDGES, labels=torch.full((SIZE,), -1)), plain(x, EDGES))
    one_hot = torch.zeros(SIZE, OUT).double()
    one_hot[[0, 2, 4], [2, 0, 3]] = 1.0
    conv = net.convs[0]
    spread = (1 - conv.decay) * torch.linalg.inv(torch.eye(SIZE) - conv.decay * normalized(SIMPLE, SIZE))
    expected = spread @ one_hot @ net.label_embedding.weight @ conv.lin.weight.T
    assert_solved(net(x, SIMPLE, labels=labels) - plain(x, SIMPLE), expected)


def test_dropped_nodes_are_silent() -> None:
    """In training a node before a diffusion is either 0, with all its channels, or scaled up."""
    net = fill(InfDiffusionNet(IN, HIDDEN, OUT, drop_node=0.25)).train()
    seen: list[Tensor] = []
    net.convs[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    x = torch.randn(4000, IN).double()
    empty = torch.empty(2, 0, dtype=torch.long)
    net(x, empty)
    net.eval()(x, empty)
    silenced, whole = seen
    has = (whole != 0).any(dim=1)
    silent = (silenced == 0).all(dim=1)
    assert_equal(silenced, torch.where(silent.unsqueeze(1), 0.0, whole / 0.75))
    assert silent[has].double().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.1875 / 4000))


def test_dropped_nodes_of_sparse_features() -> None:
    """The same nodes as of dense ones, and gradients of the map without what they would have said."""
    net = fill(InfDiffusionNet(IN, HIDDEN, OUT, encoder=None, drop_node=0.5)).train()
    x = torch.randn(SIZE, IN).double()
    x[1] = 0.0
    outputs = []
    for features in (x, x.to_sparse_csr()):
        torch.manual_seed(1)
        out = net(features, SIMPLE)
        outputs.append((out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))))
    torch.manual_seed(1)
    silent = drop(torch.ones(SIZE).double(), 0.5) == 0
    assert 0 < silent.sum() < SIZE
    kept = torch.where(silent.unsqueeze(1), 0.0, 2 * x)
    assert_solved(outputs[0][0], net.eval()(kept, SIMPLE))
    for dense, sparse in zip(*outputs, strict=True):
        assert_solved(sparse, dense)


def test_a_large_part_of_the_labels_is_hidden() -> None:
    labels, train = torch.randint(0, OUT, (3000,)), torch.arange(0, 3000, 3)
    generator = torch.Generator().manual_seed(1)
    shown, hidden = mask_labels(labels, train, 0.7, generator=generator)
    known = (shown >= 0).nonzero().flatten()
    assert torch.equal(torch.cat([known, hidden]).sort().values, train)
    assert torch.equal(shown[known], labels[known])
    assert (shown[hidden] == -1).all()
    assert len(hidden) == pytest.approx(700, abs=5 * math.sqrt(210))
    again = mask_labels(labels, train, 0.7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again[1], hidden)
    everything, nothing = mask_labels(labels, train, 0.0)
    assert torch.equal(everything[train], labels[train])
    assert len(nothing) == 0
    with pytest.raises(ValueError, match=r"rate is 1\.5; expected a probability"):
        mask_labels(labels, train, 1.5)


def test_consistency_equals_its_formula() -> None:
    outputs = [torch.randn(4, 3).double().requires_grad_() for _ in range(3)]
    runs = [out.detach().exp() / out.detach().exp().sum(1, keepdim=True) for out in outputs]
    mean = sum(runs) / 3
    target = mean**2 / (mean**2).sum(1, keepdim=True)
    loss = consistency_loss(outputs, 0.5)
    assert_equal(loss, sum((run - target).square().sum() for run in runs) / 12)
    softmax = outputs[0].softmax(1)
    expected = torch.autograd.grad((softmax - target).square().sum() / 12, outputs[0])[0]
    assert_equal(torch.autograd.grad(loss, outputs[0])[0], expected)
    # A class that no run believes in is a probability of 0 in float32.
    sure = torch.tensor([[200.0, -200.0]], requires_grad=True)
    consistency_loss([sure, sure]).backward()
    assert torch.isfinite(sure.grad).all()
    with pytest.raises(ValueError, match="outputs holds 1 runs; expected at least two"):
        consistency_loss(outputs[:1])
    with pytest.raises(ValueError, match="temperature is 0; expected a positive number"):
        consistency_loss(outputs, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"affinity": "both"}, "affinity is 'both'; expected one of 'given', 'learned'"),
        ({"heads": 2}, "heads, score and edge_dim belong to affinity='learned'"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"drop_node": 1.0}, "drop_node is 1.0; expected a probability"),
        ({"decay": 1.0}, "decay is 1.0"),
        ({"encoder": None, "label_input": True}, "label_input is True but encoder is None"),
        ({"encoder": None, "vocabulary": [3]}, "vocabulary is given, but encoder is None"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfDiffusionNet(IN, HIDDEN, OUT, **options)


def test_bad_inputs() -> None:
    x = torch.randn(SIZE, IN).double()
    plain, labelled = (fill(InfDiffusionNet(IN, HIDDEN, OUT, label_input=flag)) for flag in (False, True))
    with pytest.raises(ValueError, match="labels are given, but label_input is False"):
        plain(x, EDGES, labels=torch.zeros(SIZE, dtype=torch.long))
    with pytest.raises(ValueError, match="labels is None; expected a class for each of 5 nodes"):
        labelled(x, EDGES)
    with pytest.raises(ValueError, match=r"labels is of shape \(4,\); expected a class for each of 5 nodes"):
        labelled(x, EDGES, labels=torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="edge_attr is given, but affinity='given' has no use for it"):
        plain(x, EDGES, torch.ones(EDGES.size(1), 1))
