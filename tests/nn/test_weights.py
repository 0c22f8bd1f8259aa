"""Returned weights, self-loops, priors and dropout: every weight stands at its own edge and rebuilds the output."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn import Affinity
from graphattn.nn import AttentionConv
from tests.nn.cases import (
    BIPARTITE,
    CHANNELS,
    EDGE_DIM,
    HEADS,
    NORMALIZE_KINDS,
    SCORE_NAMES,
    SQUARE,
    Graph,
    assert_same_run,
    features,
    make,
    messages,
    oracle,
    rebuild,
    run,
    width,
)

every_score = pytest.mark.parametrize("score", SCORE_NAMES)
every_kind = pytest.mark.parametrize("kind", NORMALIZE_KINDS)
both_paths = pytest.mark.parametrize("path", ["fused", "messages"])
both_graphs = pytest.mark.parametrize("graph", [SQUARE, BIPARTITE], ids=["square", "bipartite"])

LOOPS = {
    "first": [[3, 0, 1, 2], [3, 1, 2, 0]],
    "middle": [[0, 1, 3, 2], [1, 2, 3, 0]],
    "last": [[0, 1, 2, 3], [1, 2, 0, 3]],
    "duplicated": [[3, 0, 3, 1, 2, 3], [3, 1, 3, 2, 0, 3]],
}


def on_path(path: str, conv: AttentionConv) -> Any:
    return messages(conv) if path == "messages" else nullcontext()


# Returned weights and self-loops ######################################################################################


@both_paths
@both_graphs
@every_kind
@every_score
def test_weights_rebuild_the_output(score: str, kind: str, graph: Graph, path: str) -> None:
    conv = make(score, in_channels=width(graph), normalize=kind, edge_dim=EDGE_DIM)
    x, edge_attr = features(graph), torch.randn(graph.num_edges, EDGE_DIM).double()
    with on_path(path, conv):
        out, (edges, alpha) = conv(x, graph.edge_index, edge_attr, return_attention_weights=True)
    assert torch.equal(edges, graph.edge_index)
    torch.testing.assert_close(rebuild(conv, x, edges, alpha, edge_attr), out)


@both_paths
@pytest.mark.parametrize("loops", LOOPS)
@every_kind
@every_score
def test_self_loops_leave_the_callers_edges_in_place(score: str, kind: str, loops: str, path: str) -> None:
    """The weights stand in the slots of the caller; loops of the layer follow, silent where the caller has one."""
    conv = make(score, normalize=kind, add_self_loops=True)
    edge_index, x = torch.tensor(LOOPS[loops]), torch.randn(5, 7).double()
    with on_path(path, conv):
        out, (edges, alpha) = conv(x, edge_index, return_attention_weights=True)
    num_edges = edge_index.size(1)
    assert torch.equal(edges[:, :num_edges], edge_index)
    assert torch.equal(edges[:, num_edges:], torch.arange(5).expand(2, -1))
    assert not alpha[num_edges + 3].any()
    repeats = ((edge_index[0] == edge_index[1]).nonzero().flatten())[1:]
    assert not alpha[repeats].any()
    torch.testing.assert_close(rebuild(conv, x, edges, alpha), out)
    # The same layer over edges in which every node has its one loop.
    plain = torch.cat([edge_index[:, edge_index[0] != edge_index[1]], torch.arange(5).expand(2, -1)], dim=1)
    conv.add_self_loops = False
    torch.testing.assert_close(conv(x, plain), out)


@both_graphs
@every_score
def test_loops_number_the_smaller_side(score: str, graph: Graph) -> None:
    conv = make(score, in_channels=width(graph), add_self_loops=True)
    x = features(graph)
    out, (edges, alpha) = conv(x, graph.edge_index, return_attention_weights=True)
    assert edges.size(1) == graph.num_edges + min(graph.num_targets, graph.num_sources)
    torch.testing.assert_close(rebuild(conv, x, edges, alpha), out)
    both = edges[0] == edges[1]
    per_node = torch.zeros(graph.num_targets).index_add(0, edges[1][both], (alpha[both, 0] > 0).float())
    assert (per_node == 1).all()


@both_paths
@every_score
def test_a_loops_features_are_filled(score: str, path: str) -> None:
    """Two nodes, edges 0 -> 0 and 0 -> 1: the caller's loop is scored with its fill, not with its own feature."""
    conv = make(score, edge_dim=EDGE_DIM, add_self_loops=True, fill_value=0.5)
    x, edge_index = torch.randn(2, 7).double(), torch.tensor([[0, 0], [0, 1]])
    edge_attr = torch.randn(2, EDGE_DIM).double()
    other = edge_attr + torch.tensor([[9.0], [0.0]])
    with on_path(path, conv):
        out, (edges, alpha) = conv(x, edge_index, edge_attr, return_attention_weights=True)
        torch.testing.assert_close(conv(x, edge_index, other), out)
    filled = torch.cat([torch.full((1, EDGE_DIM), 0.5), edge_attr[1:], torch.full((2, EDGE_DIM), 0.5)]).double()
    torch.testing.assert_close(rebuild(conv, x, edges, alpha, filled), out)
    assert (alpha[2] == 0).all()
    torch.testing.assert_close(alpha[[0]], torch.ones(1, HEADS).double())
    torch.testing.assert_close(alpha[1] + alpha[3], torch.ones(HEADS).double())


# Priors ###############################################################################################################


@both_graphs
@pytest.mark.parametrize("heads", [0, 1, HEADS])
@every_kind
@every_score
def test_a_prior_multiplies_the_affinity(score: str, kind: str, heads: int, graph: Graph) -> None:
    conv = make(score, in_channels=width(graph), normalize=kind, edge_dim=EDGE_DIM)
    weight = torch.rand(graph.num_edges, heads or 1).double()
    weight[::4] = 0.0
    x, edge_attr = features(graph), torch.randn(graph.num_edges, EDGE_DIM).double()
    affinity = Affinity.from_edge_index(
        graph.edge_index, weight if heads else weight[:, 0], num_nodes=(graph.num_sources, graph.num_targets)
    )
    expected, weights = oracle(conv, x, graph, edge_attr, prior=weight)
    for path in ("fused", "messages"):
        with on_path(path, conv):
            out, (edges, alpha) = conv(x, affinity, edge_attr, return_attention_weights=True)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(alpha, weights)
        assert torch.equal(edges, graph.edge_index)


@every_kind
@every_score
def test_a_prior_learns(score: str, kind: str) -> None:
    """Its gradient is that of the formula, by both paths, and finite where it is 0."""
    conv = make(score, normalize=kind)
    x, weight = features(SQUARE), torch.rand(SQUARE.num_edges, HEADS).double()
    weight[::4] = 0.0
    weight.requires_grad_()
    affinity = Affinity.from_edge_index(SQUARE.edge_index, weight, num_nodes=8)
    cotangent = torch.randn(8, HEADS * CHANNELS).double()
    expected = torch.autograd.grad((oracle(conv, x, SQUARE, prior=weight)[0] * cotangent).sum(), weight)[0]
    for path in ("fused", "messages"):
        with on_path(path, conv):
            grad = torch.autograd.grad((conv(x, affinity) * cotangent).sum(), weight)[0]
        assert torch.isfinite(grad).all()
        torch.testing.assert_close(grad[weight > 0], expected[weight > 0])


@every_score
def test_a_prior_of_zero_removes_the_edge(score: str) -> None:
    conv = make(score, edge_dim=EDGE_DIM)
    x, edge_attr = features(SQUARE), torch.randn(SQUARE.num_edges, EDGE_DIM).double()
    keep = torch.arange(SQUARE.num_edges) % 3 > 0
    affinity = Affinity.from_edge_index(SQUARE.edge_index, keep.double(), num_nodes=8)
    torch.testing.assert_close(conv(x, affinity, edge_attr), conv(x, SQUARE.edge_index[:, keep], edge_attr[keep]))


@every_score
def test_copies_are_a_prior(score: str) -> None:
    """m copies of an edge equal one edge of weight m."""
    conv = make(score)
    edge_index, copies = torch.tensor([[0, 1, 2, 4], [3, 3, 3, 0]]), torch.tensor([1, 3, 2, 4])
    x = features(SQUARE)
    affinity = Affinity.from_edge_index(edge_index, copies.double(), num_nodes=8)
    expected = conv(x, edge_index.repeat_interleave(copies, dim=1))
    torch.testing.assert_close(conv(x, affinity), expected)
    torch.testing.assert_close(conv(x, affinity.to_dense()), expected)


@pytest.mark.parametrize("layout", ["coo", "csr"])
@every_score
def test_a_sparse_tensor_is_a_prior(score: str, layout: str) -> None:
    """Its rows are the targets and its values multiply the exponentials; those that are stored as 0 are no edges."""
    matrix = torch.rand(6, 10).double() * (torch.rand(6, 10) < 0.4)
    sparse = matrix.to_sparse() if layout == "coo" else Affinity.from_dense(matrix).to_torch_sparse()
    conv = make(score, in_channels=width(BIPARTITE))
    target, source = matrix.nonzero().T
    weight = matrix[target, source].unsqueeze(1)
    graph = Graph(torch.stack([source, target]), 6, 10)
    x = features(BIPARTITE)
    expected, weights = oracle(conv, x, graph, prior=weight)
    for edges in (sparse, Affinity.from_dense(matrix)):
        out, (edges_out, alpha) = conv(x, edges, return_attention_weights=True)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(alpha, weights)
        assert torch.equal(edges_out.long(), graph.edge_index)


@both_paths
@every_score
def test_a_prior_and_self_loops(score: str, path: str) -> None:
    """Loops that the layer adds have weight 1; the caller's first loop keeps its own."""
    conv = make(score, add_self_loops=True)
    x, edge_index = torch.randn(4, 7).double(), torch.tensor([[2, 0, 2, 1], [2, 1, 2, 0]])
    weight = torch.tensor([0.5, 2.0, 7.0, 0.0]).double()
    with on_path(path, conv):
        out, (_, alpha) = conv(x, Affinity.from_edge_index(edge_index, weight, 4), return_attention_weights=True)
    looped = torch.cat([edge_index, torch.arange(4).expand(2, -1)], dim=1)
    prior = torch.tensor([0.5, 2.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]).double().unsqueeze(1)
    expected, weights = oracle(conv, x, Graph(looped, 4, 4), prior=prior)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(alpha, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("prior_dtype", [torch.float32, torch.float64])
@both_paths
@every_score
def test_a_prior_does_not_change_the_dtype(score: str, path: str, dtype: torch.dtype, prior_dtype: torch.dtype) -> None:
    conv = make(score, dtype=dtype)
    affinity = Affinity.from_edge_index(SQUARE.edge_index, torch.rand(SQUARE.num_edges, dtype=prior_dtype), 8)
    with on_path(path, conv):
        out, (_, alpha) = conv(features(SQUARE, dtype), affinity, return_attention_weights=True)
    assert out.dtype == alpha.dtype == dtype


# Dropout ##############################################################################################################


@every_kind
@every_score
def test_dropout(score: str, kind: str) -> None:
    conv = make(score, normalize=kind, edge_dim=EDGE_DIM, dropout=0.4)
    x, edge_attr = features(SQUARE), torch.randn(SQUARE.num_edges, EDGE_DIM).double()
    state = torch.random.get_rng_state()
    expected, weights = oracle(conv, x, SQUARE, edge_attr)
    torch.testing.assert_close(conv.eval()(x, SQUARE.edge_index, edge_attr), expected)
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing is drawn in evaluation

    conv.train()
    torch.manual_seed(5)
    fused = run(conv, x, SQUARE.edge_index, edge_attr)
    torch.manual_seed(5)
    with messages(conv):
        assert_same_run(run(conv, x, SQUARE.edge_index, edge_attr), fused)
    torch.manual_seed(5)
    out, (_, alpha) = conv(x, SQUARE.edge_index, edge_attr, return_attention_weights=True)
    torch.testing.assert_close(alpha, weights)  # before dropout
    torch.manual_seed(5)
    keep = torch.rand(SQUARE.num_edges, HEADS) >= 0.4
    assert keep.any()
    assert not keep.all()
    torch.testing.assert_close(out, rebuild(conv, x, SQUARE.edge_index, weights * keep / 0.6, edge_attr))


@both_paths
@every_kind
@every_score
def test_certain_dropout_leaves_the_root(score: str, kind: str, path: str) -> None:
    conv = make(score, normalize=kind, dropout=1.0, root_weight=True).train()
    x = features(SQUARE)
    with on_path(path, conv):
        found = run(conv, x, SQUARE.edge_index)
    nothing: Tensor = rebuild(conv, x, SQUARE.edge_index, torch.zeros(SQUARE.num_edges, HEADS).double())
    torch.testing.assert_close(found["out"], nothing.detach())
    assert all(torch.isfinite(value).all() for value in found.values())
