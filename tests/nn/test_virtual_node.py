"""Virtual nodes: edges written out, any two nodes within two hops, graphs side by side, and away again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.affinity import Affinity, EdgeType, SparseAffinity, expander, union, window
from graphattn.nn import AttentionConv, VirtualNode

BATCH = torch.tensor([0, 2, 0, 3, 2, 2])  # graph 1 is empty, nodes are in no order
EDGES = torch.tensor([[0, 2, 1, 5, 5], [2, 0, 4, 1, 1]])  # two parallel ones


def features(num_nodes: int = 6) -> Tensor:
    return torch.randn(num_nodes, 4, dtype=torch.float64)


def test_nodes_and_edges() -> None:
    module, x = VirtualNode(4, num_virtual=2).double(), features()
    nodes, A, batch = module(x, EDGES, BATCH)
    assert torch.equal(nodes[:6], x)
    assert torch.equal(nodes[6:], module.embedding.repeat(4, 1))
    assert batch.tolist() == [*BATCH.tolist(), 0, 0, 1, 1, 2, 2, 3, 3]
    dense = torch.zeros(14, 14)
    dense.index_put_((EDGES[1], EDGES[0]), torch.ones(5), accumulate=True)
    for node, graph in enumerate(BATCH.tolist()):
        for virtual in (6 + 2 * graph, 7 + 2 * graph):
            dense[node, virtual] = dense[virtual, node] = 1.0
    assert torch.equal(A.to_dense().matrix, dense)
    assert torch.equal(A.edge_index[:, :5], EDGES)
    source, target = A.edge_index
    expected = torch.where(target >= 6, EdgeType.TO_VIRTUAL, torch.where(source >= 6, EdgeType.FROM_VIRTUAL, 0))
    assert torch.equal(A.edge_type, expected)
    assert not torch.equal(module.embedding[0], module.embedding[1]), "nodes drawn alike would stay alike"


def test_any_two_nodes_of_a_graph_are_two_hops_apart() -> None:
    _, A, batch = VirtualNode(4)(features().float(), torch.empty(2, 0, dtype=torch.long), BATCH)
    two_hops = A.to_dense().matrix @ A.to_dense().matrix
    assert torch.equal(two_hops[:6, :6] > 0, BATCH.unsqueeze(1) == BATCH)
    assert batch[6:].tolist() == [0, 1, 2, 3]


def test_affinities_keep_what_they_say() -> None:
    """Weights, heads, types and symmetry of the given edges stay; virtual edges have weight 1."""
    module, x = VirtualNode(4).double(), features()
    given = SparseAffinity(EDGES, torch.rand(5, 3), (6, 6), edge_type=torch.arange(20, 25))
    _, A, _ = module(x, given, BATCH)
    assert torch.equal(A.weight[:5], given.weight)
    assert torch.equal(A.weight[5:], torch.ones(12, 3))
    assert A.edge_type[:5].tolist() == [20, 21, 22, 23, 24]
    assert not A.symmetric
    longformer = union(window(6, 1))
    _, A, _ = module(x, longformer)
    assert A.symmetric
    assert A.weight is None
    assert torch.equal(A.to_dense().matrix, A.to_dense().matrix.T)
    _, A, _ = module(x, Affinity.from_dense(torch.diag(torch.full((6,), 2.0))))
    assert A.weight.tolist() == [2.0] * 6 + [1.0] * 12


def test_graphs_come_out_as_they_would_alone() -> None:
    """Two layers over virtual nodes, batched and graph by graph: nodes, readout and the gradient of what is learned."""
    torch.manual_seed(0)
    module = VirtualNode(4, num_virtual=2).double()
    convs = [AttentionConv(4, 4).double() for _ in range(2)]

    def net(x: Tensor, edge_index: Tensor, **graphs: Any) -> tuple[Tensor, Tensor]:
        h, A, _ = module(x, edge_index, **graphs)
        for conv in convs:
            h = conv(h, A)
        return module.split(h, x.size(0))

    x = features()
    nodes, readout = net(x, EDGES, batch=BATCH, num_graphs=4)
    total = torch.zeros((), dtype=torch.float64)
    for graph in range(4):
        own = (graph == BATCH).nonzero().squeeze(1)
        local = torch.full((6,), -1).index_put((own,), torch.arange(own.numel()))[EDGES]
        alone, alone_readout = net(x[own], local[:, local[0] >= 0])
        torch.testing.assert_close(nodes[own], alone, rtol=0, atol=1e-14)
        torch.testing.assert_close(readout[graph], alone_readout[0], rtol=0, atol=1e-14)
        total = total + alone.sum() + alone_readout.sum()
    (batched,) = torch.autograd.grad(nodes.sum() + readout.sum(), module.embedding)
    (looped,) = torch.autograd.grad(total, module.embedding)
    torch.testing.assert_close(batched, looped, rtol=0, atol=1e-13)


def test_a_graph_with_expander_and_virtual_edges() -> None:
    """Exphormer's edges: attention over them is masked dense attention with the features of each pair's type."""
    size, given = 12, Affinity.from_edge_index(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]), num_nodes=12)
    x = features(size)
    module, embedding = VirtualNode(4).double(), torch.nn.Embedding(len(EdgeType), 3).double()
    h, A, _ = module(x, union(given, expander(size, 2, generator=torch.Generator().manual_seed(0))))
    conv = AttentionConv(4, 5, edge_dim=3, root_weight=False).double()
    out = conv(h, A, embedding(A.edge_type))
    out.sum().backward()
    touched = embedding.weight.grad.abs().sum(1) > 0
    kinds = [EdgeType.GIVEN, EdgeType.EXPANDER, EdgeType.TO_VIRTUAL, EdgeType.FROM_VIRTUAL]
    assert touched.nonzero().flatten().tolist() == kinds

    types = torch.full((13, 13), -1).index_put((A.edge_index[1], A.edge_index[0]), A.edge_type)
    q, k, v, _ = conv.score.project(h, h, None)
    feature = conv.score.lift(embedding(types.clamp(min=0)).flatten(0, 1)).view(13, 13, 5)
    scores = torch.einsum("ic,ijc->ij", q[:, 0], k[:, 0] + feature) * conv.score.scale
    weights = scores.masked_fill(types < 0, -torch.inf).softmax(1)
    truth = torch.einsum("ij,ijc->ic", weights, v[:, 0] + feature)
    torch.testing.assert_close(out, truth, rtol=0, atol=1e-13)


def test_away_again() -> None:
    module, x = VirtualNode(4, num_virtual=2), torch.rand(6, 4)
    h, _, _ = module(x, EDGES, BATCH)
    nodes, virtual = module.split(h, 6)
    assert torch.equal(nodes, x)
    assert torch.equal(virtual, module.embedding.expand(4, 2, 4))
    heads = torch.rand(14, 3, 5)
    assert torch.equal(module.split(heads, 6)[1].flatten(0, 1), heads[6:])


def test_no_nodes() -> None:
    module = VirtualNode(4)
    empty = torch.empty(2, 0, dtype=torch.long)
    h, A, batch = module(torch.empty(0, 4), empty, torch.empty(0, dtype=torch.long), num_graphs=2)
    assert torch.equal(h, module.embedding.repeat(2, 1))
    assert A.num_edges == 0
    assert batch.tolist() == [0, 1]


X = torch.rand(6, 4)
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "channels": (lambda: VirtualNode(0), ValueError, "channels is 0 and num_virtual is 1; expected at least 1 each"),
    "number": (lambda: VirtualNode(4, 0), ValueError, "channels is 4 and num_virtual is 0; expected at least 1 each"),
    "width": (lambda: VirtualNode(5)(X, EDGES), ValueError, "x has shape (6, 4); expected [nodes, 5]"),
    "dtype": (lambda: VirtualNode(4)(X.long(), EDGES), TypeError, "x has dtype torch.int64"),
    "edges": (lambda: VirtualNode(4)(X, EDGES.float()), TypeError, "edge_index has dtype torch.float32"),
    "range": (lambda: VirtualNode(4)(X[:5], EDGES), ValueError, "edge_index[0] contains 5, but there are 5"),
    "affinity": (
        lambda: VirtualNode(4)(X, window(5, 1)),
        ValueError,
        "edge_index is an affinity of shape (5, 5); expected (6, 6), as x has 6 nodes",
    ),
    "batch shape": (
        lambda: VirtualNode(4)(X, EDGES, BATCH[:5]),
        ValueError,
        "batch has shape (5,) and dtype torch.int64; expected (6,) integers: the graph of each node",
    ),
    "batch dtype": (lambda: VirtualNode(4)(X, EDGES, BATCH.float()), ValueError, "and dtype torch.float32; expected"),
    "batch range": (
        lambda: VirtualNode(4)(X, EDGES, BATCH, num_graphs=3),
        ValueError,
        "batch contains 3; expected graphs in [0, 3)",
    ),
    "negative batch": (lambda: VirtualNode(4)(X, EDGES, BATCH - 1), ValueError, "batch contains -1; expected graphs"),
    "graphs alone": (
        lambda: VirtualNode(4)(X, EDGES, num_graphs=3),
        ValueError,
        "num_graphs is 3, but there is no batch; pass it",
    ),
    "split": (
        lambda: VirtualNode(4, 2).split(X, 5),
        ValueError,
        "num_nodes is 5 and x has 6 nodes; expected 2 more per graph",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_representation() -> None:
    assert repr(VirtualNode(4, num_virtual=3)) == "VirtualNode(4, num_virtual=3)"
