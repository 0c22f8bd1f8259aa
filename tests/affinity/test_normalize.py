"""One definition, two storages: edges agree with matrices, both with brute force, and the theory holds."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import from_networkx, to_undirected

from graphattn.affinity import Affinity
from graphattn.affinity.normalize import (
    NORMALIZATIONS,
    DenseSupport,
    EdgeSupport,
    normalize_scores,
    sinkhorn,
)
from graphattn.ops import Layout

KINDS = list(NORMALIZATIONS)
INF = math.inf


def pattern(n: int, m: int) -> Tensor:
    """A mask with an empty row and an empty column, unless there is only one."""
    mask = torch.rand(n, m) < 0.6
    mask[-1, 0] = True
    if n > 1:
        mask[1] = False
    if m > 1:
        mask[:, 1] = False
    return mask


def as_edges(mask: Tensor) -> tuple[Tensor, Layout]:
    """The edges of a mask in random order."""
    row, col = mask.nonzero(as_tuple=True)
    order = torch.randperm(row.numel())
    edge_index = torch.stack([col[order], row[order]])
    return edge_index, Layout(edge_index, *mask.shape)


def gather(matrix: Tensor, edge_index: Tensor) -> Tensor:
    """Entries [E, H] of a matrix [H, N, M]."""
    return matrix[:, edge_index[1], edge_index[0]].t()


def brute_force(kind: str, scores: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """One head, straight from the formulas; -inf where there is no edge."""
    edge = (scores > -INF) & (prior > 0)
    s = np.where(edge, scores, 0.0)
    relu = np.where(edge, np.maximum(s, 0) * prior, 0.0)
    exp = np.where(edge, np.exp(s) * prior, 0.0)

    def over(x: np.ndarray, by: np.ndarray) -> np.ndarray:
        return np.divide(x, by, out=np.zeros_like(x), where=np.broadcast_to(by, x.shape) != 0)

    def divide(x: np.ndarray, axis: int) -> np.ndarray:
        return over(x, x.sum(axis=axis, keepdims=True))

    if kind == "softmax":
        return divide(exp, 1)
    if kind == "row":
        return divide(relu, 1)
    if kind == "symmetric":
        rows = relu.sum(1)
        cols = rows if relu.shape[0] == relu.shape[1] else relu.sum(0)
        return over(over(relu, np.sqrt(rows)[:, None]), np.sqrt(cols)[None, :])
    if kind == "sigmoid":
        return np.where(edge, prior / (1 + np.exp(-s)), 0.0)
    if kind == "sinkhorn":
        for _ in range(20):
            exp = divide(divide(exp, 0), 1)
        return exp
    if kind == "relu_frobenius":
        return relu / (np.linalg.norm(relu) + 1e-6)
    return s * prior


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (6, 6), (1, 4), (4, 1)])
def test_edges_equal_matrix_equal_brute_force(kind: str, with_prior: bool, size: tuple[int, int]) -> None:
    """Also with removed edges, empty rows and columns, and NaN wherever nobody may look; gradients too."""
    mask = pattern(*size)
    scores = torch.randn(3, *size, dtype=torch.float64)
    scores[0][torch.rand(size) < 0.2] = -INF
    prior = torch.rand(3, *size, dtype=torch.float64) if with_prior else torch.ones(3, *size, dtype=torch.float64)
    if with_prior:
        prior[1][torch.rand(size) < 0.2] = 0.0
    edge_index, layout = as_edges(mask)
    target = torch.randn(3, *size, dtype=torch.float64)

    matrix_inputs = [x.masked_fill(~mask, math.nan).requires_grad_() for x in (scores, prior)]
    edge_inputs = [gather(x, edge_index).clone().requires_grad_() for x in (scores, prior)]
    dense = normalize_scores(kind, matrix_inputs[0], DenseSupport(mask), matrix_inputs[1] if with_prior else None)
    edges = normalize_scores(kind, edge_inputs[0], EdgeSupport(layout), edge_inputs[1] if with_prior else None)

    masked = scores.masked_fill(~mask, -INF)
    truth = np.stack([brute_force(kind, s, p) for s, p in zip(masked.numpy(), prior.numpy(), strict=True)])
    torch.testing.assert_close(dense.detach(), torch.from_numpy(truth))
    torch.testing.assert_close(edges, gather(dense, edge_index))

    used = 2 if with_prior else 1
    dense_grads = torch.autograd.grad((dense * target).sum(), matrix_inputs[:used])
    edge_grads = torch.autograd.grad((edges * gather(target, edge_index)).sum(), edge_inputs[:used])
    for ours, theirs in zip(edge_grads, dense_grads, strict=True):
        assert ours.isfinite().all()
        assert not theirs[:, ~mask].any()
        torch.testing.assert_close(ours, gather(theirs, edge_index))
    assert not edge_grads[0][edge_inputs[0] == -INF].any()


@pytest.mark.parametrize("kind", [*KINDS, "spectral"])
@pytest.mark.parametrize("heads", [None, 2])
@pytest.mark.parametrize("size", [(5, 7), (6, 6)])
def test_affinities_normalize_alike(kind: str, heads: int | None, size: tuple[int, int]) -> None:
    if kind == "spectral" and size[0] != size[1]:
        pytest.skip("only a square affinity has a spectrum")
    edge_index, layout = as_edges(pattern(*size))
    shape = (layout.num_edges,) if heads is None else (layout.num_edges, heads)
    weight = torch.randn(shape, dtype=torch.float64).requires_grad_()
    A = Affinity.from_edge_index(edge_index, weight, size[::-1])
    sparse, dense = A.normalize(kind), A.to_dense().normalize(kind)
    torch.testing.assert_close(sparse.to_dense().matrix, dense.matrix)
    target = torch.randn_like(dense.matrix)
    grads = [torch.autograd.grad((B.to_dense().matrix * target).sum(), weight)[0] for B in (sparse, dense)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("square", [False, True])
def test_gradcheck(kind: str, square: bool) -> None:
    """Scores stay away from the kink of relu; one row has no positive score, one edge is removed."""
    mask = pattern(4, 4 if square else 5)
    edge_index, layout = as_edges(mask)
    scores = torch.rand(layout.num_edges, 2, dtype=torch.float64) + 0.2
    scores[edge_index[1] == 0] *= -1
    prior = torch.rand(layout.num_edges, 2, dtype=torch.float64) + 0.2
    batch = torch.tensor([4, 4, 1, 1])
    scores.requires_grad_()
    prior.requires_grad_()

    def edges(scores: Tensor, prior: Tensor) -> Tensor:
        removed = torch.zeros_like(scores, dtype=torch.bool).index_fill(0, torch.tensor([1]), True)
        scores = scores.masked_fill(removed, -INF)
        return normalize_scores(kind, scores, EdgeSupport(layout, batch), prior)

    def dense(scores: Tensor, prior: Tensor) -> Tensor:
        flat = edge_index[1] * mask.size(1) + edge_index[0]
        s, p = (torch.zeros(mask.numel(), 2).double().index_copy(0, flat, x).t() for x in (scores, prior))
        return normalize_scores(kind, s.view(2, *mask.shape), DenseSupport(mask), p.view(2, *mask.shape))

    assert torch.autograd.gradcheck(edges, (scores, prior))
    assert torch.autograd.gradcheck(dense, (scores, prior))


@pytest.mark.parametrize("kind", KINDS)
def test_batched_equals_looped(kind: str) -> None:
    """Graphs of (targets, sources) nodes, one without edges, ids beyond the number of nodes, nodes of a graph apart."""
    sizes = [(1, 2), (2, 5), (3, 2), (5, 2)]
    masks = [torch.ones(1, 2).bool(), pattern(2, 5), torch.zeros(3, 2).bool(), pattern(5, 2)]
    ids, parts, edge_lists, offset = [98, 0, 7, 99], [], [], [0, 0]
    for (n, m), mask in zip(sizes, masks, strict=True):
        edge_index, layout = as_edges(mask)
        scores = 3 * torch.randn(layout.num_edges, 2, dtype=torch.float64)
        # A rectangular graph alone must not be taken for a square one in the batch: both are rectangular here.
        parts.append((scores, layout))
        edge_lists.append(edge_index + torch.tensor(offset[::-1]).view(2, 1))
        offset = [offset[0] + n, offset[1] + m]
    assert offset == [11, 11]
    edges, scores = torch.cat(edge_lists, dim=1), torch.cat([s for s, _ in parts])
    batch = torch.cat([torch.full((n,), i) for i, (n, _) in zip(ids, sizes, strict=True)])
    # One more source than targets keeps the batch rectangular, too.
    node, edge = torch.randperm(11), torch.randperm(edges.size(1))
    moved = torch.empty_like(batch)
    moved[node] = batch
    layout = Layout(torch.stack([edges[0], node[edges[1]]])[:, edge], 11, 12)
    together = normalize_scores(kind, scores[edge], EdgeSupport(layout, moved))
    alone = torch.cat([normalize_scores(kind, s, EdgeSupport(one)) for s, one in parts])
    torch.testing.assert_close(together, alone[edge])


# Theory ###############################################################################################################


def full(n: int, m: int) -> DenseSupport:
    return DenseSupport(torch.ones(n, m, dtype=torch.bool))


def test_softmax_is_row_of_exponentials() -> None:
    scores = torch.randn(2, 4, 5, dtype=torch.float64)
    shifted = (scores - scores.amax(-1, keepdim=True)).exp()
    softmax = normalize_scores("softmax", scores, full(4, 5))
    torch.testing.assert_close(softmax, normalize_scores("row", shifted, full(4, 5)))
    torch.testing.assert_close(softmax, torch.softmax(scores, dim=-1))
    # One source: the column scaling of the single entry cancels in the row scaling that follows.
    one = torch.randn(4, 1, dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(one, full(4, 1), rounds=1), torch.softmax(one, dim=-1))
    # Columns that sum to 1 already leave the row scaling alone: then sinkhorn of one round is softmax.
    even = scores - scores.logsumexp(-2, keepdim=True)
    torch.testing.assert_close(sinkhorn(even, full(4, 5), rounds=1), torch.softmax(even, dim=-1))


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_softmax_of_m_copies_is_one_edge_with_log_m_more(scale: float) -> None:
    edges = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 0]])
    scores = scale * torch.tensor([[0.3], [1.0], [1.0], [1.0]], dtype=torch.float64)
    copies = normalize_scores("softmax", scores, EdgeSupport(Layout(edges, 1, 2)))
    merged = scores[:2] + torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64)
    one = normalize_scores("softmax", merged, EdgeSupport(Layout(edges[:, :2], 1, 2)))
    torch.testing.assert_close(copies[1:].sum(), one[1, 0])


def test_sinkhorn_is_doubly_stochastic() -> None:
    scores = torch.randn(2, 6, 6, dtype=torch.float64)
    # Convergence is linear: rounds enough for float64, the default of 20 for the published tolerance.
    exact = sinkhorn(scores, full(6, 6), rounds=200)
    torch.testing.assert_close(exact.sum(-1), torch.ones(2, 6, dtype=torch.float64))
    torch.testing.assert_close(exact.sum(-2), torch.ones(2, 6, dtype=torch.float64))
    default = normalize_scores("sinkhorn", scores, full(6, 6))
    torch.testing.assert_close(default.sum(-1), torch.ones(2, 6, dtype=torch.float64))
    assert (default.sum(-2) - 1).abs().max() <= 1e-4
    both = sinkhorn(scores + scores.mT, full(6, 6), rounds=200)
    torch.testing.assert_close(both, both.mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sinkhorn_of_extreme_scores(dtype: torch.dtype) -> None:
    scores = (100 * torch.rand(5, 7, dtype=dtype) - 50).requires_grad_()
    weights = normalize_scores("sinkhorn", scores, full(5, 7))
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, dtype=dtype))
    assert torch.autograd.grad(weights.square().sum(), scores)[0].isfinite().all()
    if dtype == torch.float64:  # float32 would round the sum itself
        torch.testing.assert_close(normalize_scores("sinkhorn", scores + 1000, full(5, 7)), weights)


def test_sigmoid_does_not_compete() -> None:
    scores = torch.randn(4, 5, dtype=torch.float64)
    other = scores.clone()
    other[:, 2] += 1
    changed = normalize_scores("sigmoid", scores, full(4, 5)) != normalize_scores("sigmoid", other, full(4, 5))
    assert torch.equal(changed.any(0), torch.tensor([False, False, True, False, False]))


def test_symmetric_stays_symmetric_with_radius_at_most_one() -> None:
    weight = torch.rand(8, 8, dtype=torch.float64) * (torch.rand(8, 8) < 0.5)
    A = Affinity.from_dense(weight + weight.t(), symmetric=True).normalize("symmetric")
    torch.testing.assert_close(A.matrix, A.matrix.t())
    assert A.spectral_radius() <= 1 + 8 * torch.finfo(torch.float64).eps


@pytest.mark.parametrize("weighted", [False, True])
def test_symmetric_equals_gcn_norm(weighted: bool) -> None:
    edge_index = from_networkx(nx.gnp_random_graph(12, 0.3, seed=1)).edge_index
    weight = torch.ones(edge_index.size(1), dtype=torch.float64)
    if weighted:
        upper = edge_index[:, edge_index[0] < edge_index[1]]
        edge_index, weight = to_undirected(upper, torch.rand(upper.size(1), dtype=torch.float64))
    _, truth = gcn_norm(edge_index, weight, 12, add_self_loops=False, dtype=torch.float64)
    A = Affinity.from_edge_index(edge_index, weight, 12, symmetric=True)
    torch.testing.assert_close(A.normalize("symmetric").weights(), truth)
    assert A.normalize("symmetric").symmetric


def test_symmetric_of_a_directed_graph_drops_what_starts_at_degree_zero() -> None:
    """0 -> 1 -> 2: node 0 receives nothing, so its out-edge is scaled by 0, as in gcn_norm."""
    edge_index, weight = torch.tensor([[0, 1], [1, 2]]), torch.tensor([4.0, 9.0], dtype=torch.float64)
    A = Affinity.from_edge_index(edge_index, weight, 3).normalize("symmetric")
    _, truth = gcn_norm(edge_index, weight, 3, add_self_loops=False, dtype=torch.float64)
    torch.testing.assert_close(A.weights(), torch.tensor([0.0, 9.0 / 6.0], dtype=torch.float64))
    torch.testing.assert_close(A.weights(), truth)


@pytest.mark.parametrize("graph", [nx.cycle_graph(5), nx.complete_graph(5)])
def test_known_graphs(graph: nx.Graph) -> None:
    """On a regular graph of degree d every stochastic normalization is 1/d, and the radius is d."""
    A = Affinity.from_networkx(graph).to(torch.float64)
    even = torch.full((A.num_edges,), 1 / A.row_sums()[0].item(), dtype=torch.float64)
    for kind in ("softmax", "row", "symmetric", "sinkhorn", "spectral"):
        torch.testing.assert_close(A.normalize(kind).weights(), even)
    norm = math.sqrt(A.num_edges) + 1e-6
    torch.testing.assert_close(A.normalize("relu_frobenius").weights(), torch.full_like(even, 1 / norm))


def test_frobenius_norm_is_one_whatever_the_scale() -> None:
    scores = torch.randn(3, 4, 4, dtype=torch.float64)
    weights = normalize_scores("relu_frobenius", scores, full(4, 4))
    norm = scores.relu().norm(dim=(1, 2))
    torch.testing.assert_close(weights.norm(dim=(1, 2)), norm / (norm + 1e-6))
    scaled = normalize_scores("relu_frobenius", 1e12 * scores, full(4, 4))
    torch.testing.assert_close(scaled, scores.relu() / norm.view(3, 1, 1))
    both = normalize_scores("relu_frobenius", scores @ scores.mT, full(4, 4))
    torch.testing.assert_close(both, both.mT)
    assert normalize_scores("relu_frobenius", torch.tensor([[-2.0]]), full(1, 1)).item() == 0


# Edges that are not there #############################################################################################


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-INF, -1.0])
def test_nothing_left_gives_zero_and_zero_gradient(kind: str, value: float) -> None:
    if value == -1.0 and kind not in {"row", "symmetric", "relu_frobenius"}:
        pytest.skip("only the kinds that read the positive part drop negative scores")
    layout = Layout(torch.tensor([[0, 1, 1], [0, 0, 2]]), 3, 3)
    for support, shape in ((EdgeSupport(layout), (3, 2)), (full(3, 3), (2, 3, 3))):
        scores = torch.full(shape, value, dtype=torch.float64, requires_grad=True)
        weights = normalize_scores(kind, scores, support)
        assert not weights.any()
        assert not torch.autograd.grad(weights.sum(), scores)[0].any()


@pytest.mark.parametrize("kind", ["softmax", "sinkhorn"])
def test_prior_of_zero_removes_the_edge(kind: str) -> None:
    layout = Layout(torch.tensor([[0, 1, 2, 0], [0, 0, 0, 1]]), 2, 3)
    scores = torch.randn(4, 1, dtype=torch.float64, requires_grad=True)
    prior = torch.tensor([[0.5], [0.0], [2.0], [1.0]], dtype=torch.float64, requires_grad=True)
    weights = normalize_scores(kind, scores, EdgeSupport(layout), prior)
    kept = [0, 2, 3]
    rest = Layout(layout.edge_index[:, kept], 2, 3)
    alone = normalize_scores(kind, scores[kept] + prior[kept].log(), EdgeSupport(rest))
    torch.testing.assert_close(weights[kept], alone)
    assert weights[1] == 0
    for grad in torch.autograd.grad(weights.square().sum(), (scores, prior)):
        assert grad.isfinite().all()
        assert grad[1] == 0


def test_heads_may_share_a_prior() -> None:
    layout = Layout(torch.tensor([[0, 1, 0], [0, 0, 1]]), 2, 2)
    scores, prior = torch.randn(3, 2, dtype=torch.float64), torch.rand(3, 1, dtype=torch.float64)
    for kind in KINDS:
        shared = normalize_scores(kind, scores, EdgeSupport(layout), prior)
        assert torch.equal(shared, normalize_scores(kind, scores, EdgeSupport(layout), prior.repeat(1, 2)))
    matrix, one = torch.randn(3, 2, 2, dtype=torch.float64), torch.rand(2, 2, dtype=torch.float64)
    for kind in KINDS:
        shared = normalize_scores(kind, matrix, full(2, 2), one)
        assert torch.equal(shared, normalize_scores(kind, matrix, full(2, 2), one.repeat(3, 1, 1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_the_wide_result_rounded_once(kind: str, dtype: torch.dtype) -> None:
    """A row of 4,000 entries: sums taken in the narrow dtype would be far off."""
    layout = Layout(torch.stack([torch.arange(4000), torch.zeros(4000, dtype=torch.int64)]), 1, 4000)
    scores = torch.randn(4000, 1).to(dtype)
    ours = normalize_scores(kind, scores, EdgeSupport(layout))
    assert torch.equal(ours, normalize_scores(kind, scores.float(), EdgeSupport(layout)).to(dtype))


def test_supports_by_hand() -> None:
    """Edges (j, i): (0, 0), (2, 0), (2, 1); rows 0 and 1 of 3, columns 0 and 2 of 3."""
    edges = torch.tensor([[0, 2, 2], [0, 0, 1]])
    x = torch.tensor([1.0, 2.0, 4.0])
    matrix = torch.full((3, 3), 100.0)
    matrix[edges[1], edges[0]] = x
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[edges[1], edges[0]] = True
    supports: list[tuple[Any, Tensor, Any]] = [
        (EdgeSupport(Layout(edges, 3, 3)), x.view(3, 1), lambda y: y.flatten().tolist()),
        (DenseSupport(mask), matrix, lambda y: y[edges[1], edges[0]].tolist()),
    ]
    for support, values, read in supports:
        assert read(support.row_sum(values)) == [3, 3, 4]
        assert read(support.col_sum(values)) == [1, 6, 6]
        assert read(support.row_max(values)) == [2, 2, 4]
        assert read(support.col_max(values)) == [1, 4, 4]
        assert read(support.total(values)) == [7, 7, 7]
        assert [read(d) for d in support.degrees(values)] == [[3, 3, 4], [3, 0, 0]]
        assert support.zero_outside(values).sum() == 7
        assert not support.row_max(values.requires_grad_()).requires_grad


LAYOUT = Layout(torch.tensor([[0, 1], [1, 0]]), 2, 2)
SCORES = torch.ones(2, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: normalize_scores("max", SCORES, EdgeSupport(LAYOUT)), ValueError, "kind is 'max'.*'softmax'.*'none'"),
        (lambda: normalize_scores("spectral", SCORES, EdgeSupport(LAYOUT)), ValueError, "kind is 'spectral'"),
        (
            lambda: normalize_scores("row", SCORES.long(), EdgeSupport(LAYOUT)),
            TypeError,
            "scores has dtype torch.int64",
        ),
        (
            lambda: normalize_scores("row", SCORES[0], EdgeSupport(LAYOUT)),
            ValueError,
            r"scores has shape \(1,\).*\[2, he",
        ),
        (lambda: normalize_scores("row", SCORES, full(2, 2)), ValueError, r"scores has shape \(2, 1\); .*\(2, 2\)"),
        (lambda: normalize_scores("row", SCORES, EdgeSupport(LAYOUT), SCORES.long()), TypeError, "prior has dtype"),
        (lambda: normalize_scores("row", SCORES, EdgeSupport(LAYOUT), torch.ones(2, 3)), ValueError, "prior has shape"),
        (lambda: normalize_scores("row", SCORES, EdgeSupport(LAYOUT), -SCORES), ValueError, "prior contains -1.0"),
        (lambda: EdgeSupport(LAYOUT, torch.zeros(3).long()), ValueError, r"batch has shape \(3,\).*expected \(2,\)"),
        (lambda: EdgeSupport(LAYOUT, torch.zeros(2)), ValueError, "batch has .* dtype torch.float32; .* integers"),
        (lambda: DenseSupport(SCORES), TypeError, "mask has dtype torch.float32; expected torch.bool"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
