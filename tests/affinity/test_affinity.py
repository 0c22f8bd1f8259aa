"""The affinity classes: sparse agrees with dense, theory holds, nothing is edited, layouts are shared, errors speak."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from graphattn.affinity import Affinity, DenseAffinity, SparseAffinity
from graphattn.affinity.normalize import NORMALIZATIONS
from graphattn.ops import Layout

N, M, E = 4, 6, 9
KINDS = [*NORMALIZATIONS, "spectral"]
# Target 2 draws on nothing, source 5 is drawn on by nobody; no parallel edges; not sorted.
EDGES = torch.tensor([[3, 0, 1, 4, 2, 0, 3, 1, 2], [1, 0, 3, 0, 1, 3, 0, 1, 3]])


def weights(heads: int | None = None, edges: int = E) -> Tensor:
    return torch.rand((edges,) if heads is None else (edges, heads), dtype=torch.float64) + 0.1


def rectangular(heads: int | None = None) -> SparseAffinity:
    return Affinity.from_edge_index(EDGES, weights(heads), (M, N))


def square(heads: int | None = None) -> SparseAffinity:
    return Affinity.from_edge_index(EDGES, weights(heads), M)


def close(a: Any, b: Any) -> None:
    a, b = (x.to_dense().matrix if isinstance(x, Affinity) else x for x in (a, b))
    torch.testing.assert_close(a, b)


def by_hand(A: SparseAffinity) -> Tensor:
    """The matrix [H, N, M] (or [N, M]), entry by entry."""
    weight = A.weights() if A.has_heads else A.weights().unsqueeze(1)
    matrix = torch.zeros(weight.size(1), *A.shape, dtype=weight.dtype)
    for e, (source, target) in enumerate(A.edge_index.t().tolist()):
        for h in range(weight.size(1)):
            matrix[h, target, source] += weight[e, h]
    return matrix if A.has_heads else matrix[0]


@pytest.mark.parametrize("heads", [None, 1, 3])
@pytest.mark.parametrize("make", [rectangular, square])
def test_dense_equals_sparse(make: Any, heads: int | None) -> None:
    A = make(heads)
    n, m = A.shape
    D = A.to_dense()
    assert torch.equal(D.matrix, by_hand(A))
    assert (D.shape, D.num_heads, D.dtype, D.has_heads) == (A.shape, A.num_heads, A.dtype, A.has_heads)
    close(D.to_sparse(), D)
    close(A.T, D.T)
    close(A.T, by_hand(A).transpose(-2, -1))
    close(A.row_sums(), D.row_sums())
    close(A.row_sums(), by_hand(A).sum(-1).t() if heads else by_hand(A).sum(-1))
    close(A.top_k(1), D.top_k(1))
    close(A.top_k(2), D.top_k(2))
    close(A.threshold(0.5), D.threshold(0.5))
    for shape in [(m,), (m, 2), (m, 3, 2)]:
        x = torch.randn(shape, dtype=torch.float64)
        close(A @ x, D @ x)
        xt = torch.randn(n, *shape[1:], dtype=torch.float64)
        close(A.T @ xt, D.T @ xt)


def test_products_by_hand() -> None:
    A = Affinity.from_edge_index(torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]]), torch.tensor([2.0, 3.0, 5.0, 7.0]), (2, 3))
    assert A.to_dense().matrix.tolist() == [[0, 12], [2, 3], [0, 0]]  # parallel edges add up
    assert (A @ torch.tensor([10.0, 1.0])).tolist() == [12, 23, 0]
    assert (A.T @ torch.tensor([10.0, 1.0, 100.0])).tolist() == [2, 123]
    two = A.with_weight(torch.stack([A.weights(), 10 * A.weights()], dim=1))
    x = torch.tensor([10.0, 1.0])
    assert (two @ x).tolist() == [[12, 120], [23, 230], [0, 0]]
    assert (two @ x.view(2, 1)).tolist() == [[[12], [120]], [[23], [230]], [[0], [0]]]
    assert (two @ torch.stack([x, 2 * x], dim=1).unsqueeze(-1)).tolist() == [[[12], [240]], [[23], [460]], [[0], [0]]]


@pytest.mark.parametrize("heads", [None, 3])
def test_gradients_reach_weights(heads: int | None) -> None:
    weight = weights(heads).requires_grad_()
    x = torch.randn(M, 2, dtype=torch.float64, requires_grad=True)

    def run(weight: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        A = Affinity.from_edge_index(EDGES, weight, (M, N))
        D = A.to_dense()
        y = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        return (
            A @ x,
            D @ x,
            A.T @ y,
            D.T @ y,
            A.row_sums(),
            D.row_sums(),
            A.coalesce().weights(),
            D.to_sparse().weights(),
        )

    assert torch.autograd.gradcheck(run, (weight, x))


def test_int32_and_noncontiguous() -> None:
    weight, x = weights(3), torch.randn(M, 3, 2, dtype=torch.float64)
    A = Affinity.from_edge_index(EDGES, weight, (M, N))
    strided = torch.empty(3, E, dtype=torch.float64).t().copy_(weight)
    B = Affinity.from_edge_index(EDGES.int().t().contiguous().t(), strided, (M, N))
    assert torch.equal(A @ x, B @ x)
    assert torch.equal(A.T @ x[:N], B.T @ x[:N])
    for kind in NORMALIZATIONS:
        assert torch.equal(A.normalize(kind).weights(), B.normalize(kind).weights())
    assert torch.equal(by_hand(A.top_k(1)), by_hand(B.top_k(1)))
    close(A.coalesce(), B.coalesce())


@pytest.mark.parametrize("kind", KINDS)
def test_edge_order_does_not_matter(kind: str) -> None:
    A = square(3)
    order = torch.randperm(E)
    B = Affinity.from_edge_index(EDGES[:, order], A.weights()[order], M)
    x = torch.randn(M, 3, 2, dtype=torch.float64)
    close(A @ x, B @ x)
    close(A.T @ x, B.T @ x)
    close(A.normalize(kind).weights()[order], B.normalize(kind).weights())
    assert torch.equal(by_hand(A.top_k(1)), by_hand(B.top_k(1)))
    assert torch.equal(A.coalesce().edge_index, B.coalesce().edge_index)


@pytest.mark.parametrize("kind", KINDS)
def test_node_relabelling(kind: str) -> None:
    """Cycles of three nodes: not their own inverse, so that a wrong direction would show."""
    new = torch.tensor([1, 2, 0, 4, 5, 3])
    A = square(3)
    B = Affinity.from_edge_index(new[EDGES], A.weights(), M)
    x = torch.randn(M, 3, 2, dtype=torch.float64)
    moved = torch.empty_like(x)
    moved[new] = x
    close((B @ moved)[new], A @ x)
    close((B.normalize(kind) @ moved)[new], A.normalize(kind) @ x)
    close(B.spectral_radius(), A.spectral_radius())


def test_parallel_edges() -> None:
    A = Affinity.from_edge_index(torch.cat([EDGES, EDGES[:, :4]], dim=1), weights(3, E + 4), (M, N))
    merged = A.coalesce()
    assert merged.num_edges == E
    assert merged.edge_index.flip(0).t().tolist() == sorted(EDGES.flip(0).t().tolist())
    close(merged, A)
    close(A.row_sums(), merged.row_sums())
    x = torch.randn(M, 2, dtype=torch.float64)
    close(A @ x, A.to_dense() @ x)
    close(A.T @ x[:N], A.to_dense().T @ x[:N])
    assert A.with_weight(None).coalesce().weights().sum() == E + 4


def test_top_k_ties_duplicates_and_heads() -> None:
    edges = torch.tensor([[3, 1, 2, 0, 0], [0, 0, 0, 0, 1]])
    A = Affinity.from_edge_index(edges, torch.tensor([5.0, 5.0, 5.0, 1.0, 2.0]), (4, 2))
    assert A.top_k(2).edge_index.tolist() == [[1, 2, 0], [0, 0, 1]]  # the lowest columns among the fives
    assert A.top_k(2).weights().tolist() == [5, 5, 2]
    assert A.to_dense().top_k(2).matrix.tolist() == A.top_k(2).to_dense().matrix.tolist()
    assert A.top_k(9).edge_index.tolist() == edges.tolist()
    two = A.with_weight(torch.tensor([[9.0, 1.0], [1.0, 9.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])).top_k(1)
    assert two.edge_index.tolist() == [[3, 1, 0], [0, 0, 1]]
    assert two.weights().tolist() == [[9, 0], [0, 9], [1, 1]]
    assert A.with_weight(None).top_k(1).weight is None
    twice = Affinity.from_edge_index(torch.tensor([[1, 1, 0], [0, 0, 0]]), torch.tensor([3.0, 4.0, 2.0]), 2)
    assert twice.top_k(2).weights().tolist() == [3, 4]  # parallel edges count apart


def test_top_k_and_threshold_of_negative_weights() -> None:
    matrix = torch.tensor([[-1.0, 0.0, -3.0], [0.0, 0.0, 0.0]])
    for A in (Affinity.from_dense(matrix), Affinity.from_dense(matrix).to_sparse()):
        assert A.top_k(1).to_dense().matrix.tolist() == [[-1, 0, 0], [0, 0, 0]]
        assert A.threshold(-2.0).to_dense().matrix.tolist() == [[-1, 0, 0], [0, 0, 0]]


def test_threshold_of_heads() -> None:
    A = Affinity.from_edge_index(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[1.0, 3.0], [1.0, 1.0]]), 2)
    assert A.threshold(2.0).edge_index.tolist() == [[0], [1]]
    assert A.threshold(2.0).weights().tolist() == [[0, 3]]


@pytest.mark.parametrize(
    ("graph", "radius"),
    [
        (nx.cycle_graph(7), 2.0),
        (nx.cycle_graph(200), 2.0),
        (nx.cycle_graph(7, nx.DiGraph), 1.0),
        (nx.cycle_graph(200, nx.DiGraph), 1.0),
        (nx.star_graph(9), 3.0),
        (nx.star_graph(100), 10.0),
        (nx.complete_graph(6), 5.0),
        (nx.complete_graph(80), 79.0),
        (nx.path_graph(100), 2 * math.cos(math.pi / 101)),
        (nx.path_graph(40, nx.DiGraph), 0.0),
        (nx.path_graph(100, nx.DiGraph), 0.0),
        (nx.empty_graph(0), 0.0),
        (nx.empty_graph(3), 0.0),
    ],
)
def test_spectral_radius_of_known_graphs(graph: nx.Graph, radius: float) -> None:
    A = Affinity.from_networkx(graph).to(torch.float64)
    for B in (A, A.to_dense(), A.T, Affinity.from_edge_index(*A.to_edge_index(), A.shape[0])):
        torch.testing.assert_close(B.spectral_radius(), torch.tensor(radius, dtype=torch.float64))


def test_directed_acyclic_graph_with_large_weights() -> None:
    source, target = torch.triu_indices(90, 90, 1)
    weight = torch.randn(source.numel(), dtype=torch.float64) * 1e3
    A = Affinity.from_edge_index(torch.stack([target, source]), weight, 90)
    assert A.spectral_radius() == 0
    close(A.normalize("spectral"), A)
    assert A.with_weight(torch.zeros_like(weight)).spectral_radius() == 0


@pytest.mark.parametrize("nodes", [30, 120])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_spectral_radius_equals_numpy(nodes: int, symmetric: bool, signed: bool) -> None:
    matrix = torch.rand(2, nodes, nodes, dtype=torch.float64) * (torch.rand(2, nodes, nodes) < 0.2)
    matrix = matrix - 0.4 * (matrix != 0) if signed else matrix
    matrix = matrix + matrix.transpose(1, 2) if symmetric else matrix
    A = Affinity.from_dense(matrix, symmetric=symmetric)
    truth = torch.from_numpy(np.abs(np.linalg.eigvals(matrix.numpy())).max(axis=1))
    torch.testing.assert_close(A.spectral_radius(), truth)
    torch.testing.assert_close(A.to_sparse().spectral_radius(), truth)
    torch.testing.assert_close(A.to_sparse().normalize("spectral").spectral_radius(), torch.ones_like(truth))


def test_equal_moduli_fall_back_to_a_dense_solver() -> None:
    ring = Affinity.from_networkx(nx.cycle_graph(100, nx.DiGraph)).to(torch.float64)
    signs = torch.ones(100, dtype=torch.float64)
    signs[0] = -1.0
    torch.testing.assert_close(ring.with_weight(signs).spectral_radius(), torch.tensor(1.0, dtype=torch.float64))


def test_spectral_radius_is_cached_and_detached() -> None:
    A = Affinity.from_edge_index(EDGES, weights().requires_grad_(), M)
    assert A.spectral_radius() is A.spectral_radius()
    assert A.T.spectral_radius() is A.spectral_radius()
    assert not A.spectral_radius().requires_grad
    B = A.with_weight(2 * A.weights())
    close(B.spectral_radius(), 2 * A.spectral_radius())
    grad = torch.autograd.grad(A.normalize("spectral").weights().sum(), A.weights())[0]
    close(grad, (1 / A.spectral_radius()).expand(E))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_edited(kind: str) -> None:
    edges, weight, x = EDGES.clone(), weights(3), torch.randn(M, 3, 2, dtype=torch.float64)
    copies = weight.clone(), x.clone()
    A = Affinity.from_edge_index(edges, weight, M)
    for B in (A, A.to_dense()):
        for C in (
            B.normalize(kind),
            B.top_k(1),
            B.threshold(0.5),
            B.T,
            B.to(torch.float32),
            B.to_dense(),
            B.to_sparse(),
        ):
            assert C is not B
        B @ x
        B.spectral_radius()
    A.coalesce()
    assert torch.equal(edges, EDGES)
    assert torch.equal(weight, copies[0])
    assert torch.equal(x, copies[1])
    with pytest.raises(AttributeError):
        A.weight = weight  # type: ignore[misc]


def test_layout_is_shared() -> None:
    A = rectangular()
    views = (A.normalize("row"), A.with_weight(None), A.to(torch.float32), A.to_sparse(), A.T.T, A.normalize("row").T.T)
    for view in views:
        assert view.layout is A.layout
    assert A.T.layout is A.T.layout
    assert A.normalize("row").T.layout is A.T.layout


@pytest.mark.parametrize("first", ["csr", "csc", "neither"])
@pytest.mark.parametrize("order", ["as given", "sorted"])
def test_transposed_layout_equals_one_sorted_anew(first: str, order: str) -> None:
    edges = torch.cat([EDGES, EDGES[:, :4]], dim=1)
    if order == "sorted":
        edges = Affinity.from_edge_index(edges, num_nodes=(M, N)).layout
        rowptr, col, perm = edges.csr()
        edges = Layout(edges.edge_index[:, perm], N, M, (rowptr, col, None))
    A = SparseAffinity(edges, None, (N, M))
    if first != "neither":
        getattr(A.layout, first)()
    shared = A.T.layout
    truth = Layout(A.edge_index.flip(0), M, N)
    assert (shared.num_rows, shared.num_cols, shared.num_edges) == (M, N, E + 4)
    for ours, expected in zip((*shared.csr(), *shared.csc()), (*truth.csr(), *truth.csc()), strict=True):
        assert torch.equal(ours, expected)


def test_symmetric_flag() -> None:
    source, target = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    A = Affinity.from_edge_index(torch.stack([source, target]), torch.tensor([2.0, 2.0, 3.0, 3.0]), symmetric=True)
    for B in (A, A.to_dense()):
        kept = {kind for kind in KINDS if B.normalize(kind).symmetric}
        assert kept == {"symmetric", "spectral", "relu_frobenius", "sigmoid", "none"}
        assert B.T.symmetric
        assert B.threshold(2.5).symmetric
        assert B.to(torch.float64).symmetric
        assert not B.top_k(1).symmetric
        assert B.to_dense().symmetric
        assert B.to_sparse().symmetric
        for kind in kept:
            matrix = B.normalize(kind).to_dense().matrix
            assert torch.equal(matrix, matrix.t())
    assert A.coalesce().symmetric
    assert not A.with_weight(torch.arange(4.0)).symmetric


def test_edges_without_weights_are_ones() -> None:
    A = Affinity.from_edge_index(EDGES, num_nodes=(M, N))
    assert A.weight is None
    assert A.dtype == torch.get_default_dtype()
    x = torch.randn(M, 2, dtype=torch.float64)
    assert (A @ x).dtype == torch.float64
    close(A @ x, A.with_weight(torch.ones(E, dtype=torch.float64)) @ x)
    assert A.to(torch.float64).weights().dtype == A.to(torch.float64).dtype == torch.float64
    assert A.T.weight is None


def test_dtypes_and_accumulation() -> None:
    hub = Affinity.from_edge_index(torch.stack([torch.arange(5000), torch.zeros(5000).long()]), num_nodes=(5000, 1))
    half = hub.to(torch.float16)
    assert half.row_sums().item() == 5000  # a float16 sum of ones stops at 2048
    assert (half @ torch.ones(5000, dtype=torch.float16)).item() == 5000
    assert half.to_dense().row_sums().item() == 5000
    assert (half.to_dense() @ torch.ones(5000, dtype=torch.float16)).item() == 5000
    assert half.normalize("row").weights().unique().tolist() == [torch.tensor(1 / 5000).half().item()]
    x = torch.randn(M, dtype=torch.float64)
    for A in (rectangular().to(torch.float32), rectangular().to(torch.float32).to_dense()):
        assert (A @ x).dtype == torch.float64
        assert (A @ x.float()).dtype == torch.float32


@pytest.mark.parametrize("sizes", [(0, 0), (3, 0), (0, 3), (2, 3)])
@pytest.mark.parametrize("heads", [None, 2])
def test_no_edges(sizes: tuple[int, int], heads: int | None) -> None:
    n, m = sizes
    A = Affinity.from_edge_index(torch.empty(2, 0, dtype=torch.int64), weights(heads, 0), (m, n))
    for B in (A, A.to_dense(), A.coalesce(), A.top_k(1), A.threshold(0.0), A.T.T, A.to_dense().to_sparse()):
        assert B.shape == (n, m)
        assert torch.equal(B @ torch.ones(m, 2, 3, dtype=torch.float64), torch.zeros(n, 2, 3, dtype=torch.float64))
        assert not B.row_sums().any()
        for kind in NORMALIZATIONS:
            assert not B.normalize(kind).to_dense().matrix.any()
    if n == m:
        assert not A.spectral_radius().any()


def test_edge_index_lends_its_size_and_pointers() -> None:
    edges = EdgeIndex(EDGES[:, EDGES[1].argsort()], sparse_size=(M, N), sort_order="col")
    weight, x = weights(), torch.randn(M, 2, dtype=torch.float64)
    A = Affinity.from_edge_index(edges, weight)
    assert A.shape == (N, M)
    assert not isinstance(A.edge_index, EdgeIndex)
    close(A @ x, Affinity.from_edge_index(edges.as_tensor(), weight, (M, N)) @ x)
    close(A.T @ x[:N], A.to_dense().T @ x[:N])
    assert A.layout.csr()[2] is None  # borrowed: a new sort would have left a permutation


def test_repr() -> None:
    assert repr(rectangular(3)) == "SparseAffinity(4 x 6, edges=9, heads=3, dtype=torch.float64)"
    ring = Affinity.from_networkx(nx.cycle_graph(3))
    assert repr(ring) == "SparseAffinity(3 x 3, edges=6, heads=1, dtype=torch.float32, symmetric)"
    assert repr(ring.to_dense()) == "DenseAffinity(3 x 3, heads=1, dtype=torch.float32, symmetric)"


# All but these are slow.
QUICK = {("softmax", 3), ("symmetric", None)}


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        pytest.param(kind, heads, marks=() if (kind, heads) in QUICK else pytest.mark.slow)
        for kind in ("row", "softmax", "symmetric", "relu_frobenius")
        for heads in (None, 3)
    ],
)
def test_compiled_equals_eager(kind: str, heads: int | None, reset_dynamo: None) -> None:
    A = square(heads)
    A.layout.csc()

    def step(weight: Tensor, x: Tensor, affinity: SparseAffinity) -> tuple[Tensor, int, Tensor]:
        B = affinity.with_weight(weight).normalize(kind)
        return B.matmul(x), B.num_heads * B.layout.num_edges, affinity.T.matmul(x)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    inputs = A.weights().clone().requires_grad_(), torch.randn(M, 2, dtype=torch.float64, requires_grad=True)
    ours, truth = compiled(*inputs, A), step(*inputs, A)
    close(ours, truth)
    close(torch.autograd.grad(ours[0].square().sum(), inputs), torch.autograd.grad(truth[0].square().sum(), inputs))


W2 = torch.ones(2)
RING = torch.tensor([[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Affinity.from_edge_index([[0], [1]]), TypeError, "edge_index is a list"),
        (lambda: Affinity.from_edge_index(RING.double()), TypeError, "edge_index has dtype torch.float64"),
        (lambda: Affinity.from_edge_index(RING[:1]), ValueError, r"edge_index has shape \(1, 2\)"),
        (lambda: Affinity.from_edge_index(RING, num_nodes=1), ValueError, r"edge_index\[0\] contains 1, .* 1 source"),
        (
            lambda: Affinity.from_edge_index(RING, num_nodes=(2, 1)),
            ValueError,
            r"edge_index\[1\] contains 1, .* 1 target",
        ),
        (lambda: Affinity.from_edge_index(-RING), ValueError, r"edge_index\[0\] contains -1"),
        (lambda: Affinity.from_edge_index(RING, num_nodes=2.0), ValueError, "num_nodes is 2.0; expected an integer"),
        (lambda: Affinity.from_edge_index(RING, num_nodes=(2, 2, 2)), ValueError, r"num_nodes is \(2, 2, 2\)"),
        (lambda: Affinity.from_edge_index(RING, [1.0, 2.0]), TypeError, "weight is a list"),
        (lambda: Affinity.from_edge_index(RING, torch.tensor([1, 2])), TypeError, "weight has dtype torch.int64"),
        (lambda: Affinity.from_edge_index(RING, torch.ones(3)), ValueError, r"weight has shape \(3,\); expected \[2\]"),
        (lambda: Affinity.from_edge_index(RING, torch.ones(2, 1, 1)), ValueError, r"weight has shape \(2, 1, 1\)"),
        (
            lambda: Affinity.from_edge_index(RING, W2 * math.nan),
            ValueError,
            r"weight contains 2 NaN, the first at \(0,\)",
        ),
        (
            lambda: Affinity.from_edge_index(RING, W2.to("meta")),
            ValueError,
            "weight is on meta but edge_index is on cpu",
        ),
        (
            lambda: Affinity.from_edge_index(RING, num_nodes=(2, 3), symmetric=True),
            ValueError,
            "symmetric is True .* 3 x 2",
        ),
        (lambda: Affinity.from_edge_index(RING, labels="abc"), ValueError, "labels names 3 nodes"),
        (lambda: Affinity.from_edge_index(RING, num_nodes=(3, 2), labels="ab"), ValueError, "labels names 2 nodes"),
        (lambda: SparseAffinity(RING), ValueError, "shape is None"),
        (lambda: SparseAffinity(RING, None, (-1, 2)), ValueError, r"shape is \(-1, 2\)"),
        (lambda: SparseAffinity(Layout(RING, 2, 2), None, (3, 2)), ValueError, r"shape is \(3, 2\) but the layout"),
        (lambda: Affinity.from_dense([[1.0]]), TypeError, "matrix is a list"),
        (lambda: Affinity.from_dense(torch.eye(2).long()), TypeError, "matrix has dtype torch.int64"),
        (
            lambda: Affinity.from_dense(torch.eye(2).to_sparse()),
            TypeError,
            "torch.sparse_coo tensor; pass Affinity.from_t",
        ),
        (lambda: Affinity.from_dense(W2), ValueError, r"matrix has shape \(2,\)"),
        (
            lambda: Affinity.from_dense(torch.eye(2) * math.nan),
            ValueError,
            r"matrix contains 4 NaN, the first at \(0, 0\)",
        ),
        (lambda: Affinity.from_dense(torch.ones(2, 3), symmetric=True), ValueError, "symmetric is True .* 2 x 3"),
        (lambda: rectangular().normalize("l2"), ValueError, "kind is 'l2'; expected one of 'softmax', .*'spectral'"),
        (lambda: rectangular().to_dense().normalize("l2"), ValueError, "kind is 'l2'; expected one of .*'spectral'"),
        (lambda: rectangular().spectral_radius(), ValueError, "4 x 6; only a square one"),
        (lambda: rectangular().to_dense().normalize("spectral"), ValueError, "4 x 6; only a square one"),
        (lambda: rectangular().top_k(0), ValueError, "k is 0; expected a positive integer"),
        (lambda: rectangular().to_dense().top_k(1.5), ValueError, "k is 1.5; expected a positive integer"),
        (lambda: rectangular().to(torch.int64), TypeError, "dtype is torch.int64; an affinity needs"),
        (lambda: rectangular() @ [1.0], TypeError, "x is a list"),
        (lambda: rectangular() @ torch.ones(M).long(), TypeError, "x has dtype torch.int64"),
        (
            lambda: rectangular() @ torch.ones(N),
            ValueError,
            r"x has shape \(4,\); expected \[6\], \[6, C\] or \[6, H, C\]",
        ),
        (lambda: rectangular(3) @ torch.ones(M, 2, 1), ValueError, r"x has shape \(6, 2, 1\); .*\[6, 3, C\]"),
        (lambda: rectangular().to_dense() @ torch.tensor(1.0), ValueError, r"x has shape \(\)"),
        (lambda: rectangular() @ torch.ones(M, device="meta"), ValueError, "x is on meta but the affinity is on cpu"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_checks_that_read_values_are_skipped_off_the_cpu() -> None:
    A = Affinity.from_edge_index(RING.to("meta"), W2.to("meta"), 1)
    assert A.shape == (1, 1)
    assert isinstance(Affinity.from_dense(torch.eye(2, device="meta")), DenseAffinity)
