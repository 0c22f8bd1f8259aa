"""Conversions: the orientation on a graph written out by hand, round trips, gradients and errors."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from graphattn.affinity import Affinity, DenseAffinity, SparseAffinity

# Three nodes a, b, c and three edges: a -> b of weight 2, b -> c of weight 3, c -> c of weight 5. A[i, j] belongs to
# edge j -> i, so that row b holds 2 in column a, and row c holds 3 in column b and 5 in its own.
EDGES = torch.tensor([[0, 1, 2], [1, 2, 2]])
WEIGHT = torch.tensor([2.0, 3.0, 5.0])
MATRIX = [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 3.0, 5.0]]
LAYOUTS = [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc]


def hand_graph() -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from("abc")
    graph.add_weighted_edges_from([("a", "b", 2.0), ("b", "c", 3.0), ("c", "c", 5.0)])
    return graph


def matrix(A: Affinity) -> list[list[float]]:
    return A.to_dense().matrix.tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Affinity.from_edge_index(EDGES, WEIGHT),
        lambda: Affinity.from_edge_index(EdgeIndex(EDGES, sparse_size=(3, 3)), WEIGHT),
        lambda: Affinity.from_edge_index(EdgeIndex(EDGES, sparse_size=(3, 3), sort_order="col"), WEIGHT),
        lambda: Affinity.from_dense(torch.tensor(MATRIX)),
        lambda: Affinity.from_numpy(np.array(MATRIX, dtype=np.float32)),
        lambda: Affinity.from_numpy(np.array(MATRIX, dtype=np.int64)),
        lambda: Affinity.from_networkx(hand_graph()),
        lambda: Affinity.from_scipy(sp.coo_array(np.array(MATRIX, dtype=np.float32))),
        lambda: Affinity.from_scipy(sp.csc_matrix(np.array(MATRIX, dtype=np.int32))),
        lambda: Affinity.from_scipy(sp.csr_array(np.array(MATRIX, dtype=np.float32).T), transpose=True),
        *[lambda to=to: Affinity.from_torch_sparse(torch.tensor(MATRIX).to_sparse(layout=to)) for to in LAYOUTS],
        *[
            lambda to=to: Affinity.from_torch_sparse(torch.tensor(MATRIX).t().to_sparse(layout=to), transpose=True)
            for to in LAYOUTS
        ],
        lambda: Affinity.from_data(Data(edge_index=EDGES, edge_weight=WEIGHT, num_nodes=3)),
        lambda: Affinity.from_data(Data(edge_index=EDGES, w=WEIGHT, num_nodes=3), weight="w"),
    ],
)
def test_orientation_in(make: Any) -> None:
    A = make()
    assert matrix(A) == MATRIX
    assert A.dtype == torch.float32
    assert (A @ torch.tensor([1.0, 10.0, 100.0])).tolist() == [0, 2, 530]
    assert not A.symmetric


@pytest.mark.parametrize(
    "make", [lambda: Affinity.from_edge_index(EDGES, WEIGHT), lambda: Affinity.from_dense(torch.tensor(MATRIX))]
)
def test_orientation_out(make: Any) -> None:
    A = make()
    edge_index, weight = A.to_edge_index()
    assert edge_index.tolist() == EDGES.tolist()
    assert weight.tolist() == [2, 3, 5]
    assert A.to_numpy().tolist() == MATRIX
    assert A.to_scipy().toarray().tolist() == MATRIX
    for layout in LAYOUTS:
        out = A.to_torch_sparse(layout)
        assert out.layout == layout
        assert out.to_dense().tolist() == MATRIX
    data = A.to_data()
    assert data.edge_index.tolist() == EDGES.tolist()
    assert (data.edge_weight.tolist(), data.num_nodes) == ([2, 3, 5], 3)
    graph = A.to_networkx()
    assert sorted(graph.edges(data="weight")) == [(0, 1, 2.0), (1, 2, 3.0), (2, 2, 5.0)]
    assert nx.to_numpy_array(graph).T.tolist() == MATRIX


def random_sparse(heads: int | None = None) -> SparseAffinity:
    """Four targets, six sources, an empty row, edges unsorted."""
    edges = torch.tensor([[3, 0, 1, 4, 2, 0, 3], [1, 0, 3, 0, 1, 3, 0]])
    shape = (7,) if heads is None else (7, heads)
    return Affinity.from_edge_index(edges, torch.rand(shape, dtype=torch.float64) + 0.1, (6, 4))


@pytest.mark.parametrize("heads", [None, 1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_sparse_round_trip(heads: int | None, layout: torch.layout) -> None:
    A = random_sparse(heads)
    out = A.to_torch_sparse(layout)
    assert out.shape == ((4, 6) if heads is None else (4, 6, heads))
    B = Affinity.from_torch_sparse(out)
    assert B.has_heads == A.has_heads
    assert torch.equal(B.to_dense().matrix, A.to_dense().matrix)
    turned = Affinity.from_torch_sparse(out, transpose=True)
    assert torch.equal(turned.to_dense().matrix, A.T.to_dense().matrix)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("heads", [None, 3])
def test_torch_sparse_keeps_gradients(layout: torch.layout, heads: int | None) -> None:
    A = random_sparse(heads)
    weight = A.weights().requires_grad_()
    target = torch.randn_like(A.to_dense().matrix)
    back = Affinity.from_torch_sparse(A.with_weight(weight).to_torch_sparse(layout))
    ours = torch.autograd.grad((back.to_dense().matrix * target).sum(), weight)[0]
    truth = torch.autograd.grad((A.with_weight(weight).to_dense().matrix * target).sum(), weight)[0]
    assert torch.equal(ours, truth)


def test_round_trips_of_rectangular_affinities() -> None:
    A = random_sparse()
    D = A.to_dense()
    for B in (
        Affinity.from_scipy(A.to_scipy()),
        Affinity.from_scipy(D.to_scipy()),
        Affinity.from_scipy(A.to_scipy().T, transpose=True),
        Affinity.from_numpy(A.to_numpy()),
        Affinity.from_edge_index(*A.to_edge_index(), (6, 4)),
        Affinity.from_edge_index(*D.to_edge_index(), (6, 4)),
        Affinity.from_dense(D.matrix),
        D.to_sparse(),
        A.to_sparse(),
    ):
        assert B.shape == (4, 6)
        assert torch.equal(B.to_dense().matrix, D.matrix)
    three = random_sparse(3)
    assert torch.equal(Affinity.from_numpy(three.to_numpy()).matrix, three.to_dense().matrix)


def test_parallel_edges_add_up_on_the_way_out() -> None:
    A = Affinity.from_edge_index(torch.tensor([[0, 0, 1], [1, 1, 1]]), torch.tensor([2.0, 3.0, 4.0]))
    expected = [[0, 0], [5, 4]]
    assert A.to_numpy().tolist() == expected
    assert A.to_scipy().toarray().tolist() == expected
    assert A.to_scipy().nnz == 2
    for layout in LAYOUTS:
        assert A.to_torch_sparse(layout).to_dense().tolist() == expected
    assert dict(A.to_networkx().edges)[0, 1] == {"weight": 5.0}
    kept = A.to_networkx(multigraph=True)
    assert sorted(kept.edges(data="weight")) == [(0, 1, 2.0), (0, 1, 3.0), (1, 1, 4.0)]
    assert A.to_edge_index()[0].tolist() == [[0, 0, 1], [1, 1, 1]]
    # Without weights, two parallel edges are still one of weight 2.
    assert dict(A.with_weight(None).to_networkx().edges)[0, 1] == {"weight": 2.0}
    uncoalesced = torch.sparse_coo_tensor(torch.tensor([[1, 1], [0, 0]]), torch.tensor([2.0, 3.0]), (2, 2))
    assert matrix(Affinity.from_torch_sparse(uncoalesced)) == [[0, 0], [5, 0]]
    both = sp.coo_array(([2.0, 3.0], ([1, 1], [0, 0])), shape=(2, 2))
    assert Affinity.from_scipy(both).num_edges == 2
    assert matrix(Affinity.from_scipy(both)) == [[0, 0], [5, 0]]


def test_networkx_agrees_with_networkx() -> None:
    directed = nx.gnp_random_graph(9, 0.3, seed=0, directed=True)
    undirected = nx.gnp_random_graph(9, 0.3, seed=0)
    undirected.add_edge(4, 4)
    for graph in (directed, undirected):
        for i, (u, v) in enumerate(graph.edges):
            graph[u][v]["weight"] = 1.0 + i
        A = Affinity.from_networkx(graph)
        truth = nx.to_numpy_array(graph, dtype=np.float32).T
        assert np.array_equal(A.to_numpy(), truth)
        assert A.symmetric == (not graph.is_directed())
        assert nx.utils.graphs_equal(A.to_networkx(), graph)
        assert nx.utils.graphs_equal(A.to_dense().to_networkx(), graph)


def test_networkx_labels_and_parallel_edges_come_back() -> None:
    graph = hand_graph()
    A = Affinity.from_networkx(graph)
    assert A.labels == ("a", "b", "c")
    assert nx.utils.graphs_equal(A.to_networkx(), graph)
    assert set(A.T.to_networkx().edges) == {("b", "a"), ("c", "b"), ("c", "c")}
    assert set(A.normalize("row").threshold(0.5).to_networkx().edges) == {("a", "b"), ("c", "c")}
    for kind in (nx.MultiDiGraph, nx.MultiGraph):
        many = kind()
        many.add_nodes_from("zyx")
        many.add_weighted_edges_from([("x", "y", 2.0), ("x", "y", 3.0), ("z", "z", 5.0), ("z", "z", 7.0)])
        B = Affinity.from_networkx(many)
        assert B.num_edges == (4 if many.is_directed() else 6)
        truth = nx.to_numpy_array(many).T
        assert np.array_equal(B.to_numpy(), truth)
        assert nx.utils.graphs_equal(B.to_networkx(multigraph=True), many)


def test_networkx_weights() -> None:
    graph = nx.DiGraph([("a", "b"), ("b", "c")])
    graph["b"]["c"]["weight"] = 4
    graph["b"]["c"]["capacity"] = 9
    assert Affinity.from_networkx(graph).weights().tolist() == [1, 4]
    assert Affinity.from_networkx(graph, weight="capacity").weights().tolist() == [1, 9]
    plain = Affinity.from_networkx(graph, weight=None)
    assert plain.weight is None
    assert list(plain.to_networkx().edges(data=True)) == [("a", "b", {}), ("b", "c", {})]
    assert dict(Affinity.from_networkx(graph).to_networkx(weight="w").edges)["b", "c"] == {"w": 4.0}
    empty = Affinity.from_networkx(nx.DiGraph())
    assert (empty.shape, empty.num_edges) == ((0, 0), 0)
    assert len(empty.to_networkx()) == 0


def test_data_round_trip() -> None:
    data = Data(edge_index=EDGES, edge_weight=WEIGHT, num_nodes=5)
    back = Affinity.from_data(data).to_data()
    assert torch.equal(back.edge_index, EDGES)
    assert torch.equal(back.edge_weight, WEIGHT)
    assert back.num_nodes == 5
    plain = Affinity.from_data(Data(edge_index=EDGES, x=torch.zeros(4, 1)))
    assert plain.weight is None
    assert plain.shape == (4, 4)
    assert "edge_weight" not in plain.to_data()
    heads = Affinity.from_data(Data(edge_index=EDGES, edge_attr=torch.ones(3, 2), num_nodes=3), weight="edge_attr")
    assert heads.num_heads == 2


def test_sizes() -> None:
    assert Affinity.from_edge_index(EDGES).shape == (3, 3)
    assert Affinity.from_edge_index(EDGES, num_nodes=7).shape == (7, 7)
    assert Affinity.from_edge_index(EDGES, num_nodes=(4, 5)).shape == (5, 4)  # PyG's size: sources, then targets
    assert Affinity.from_edge_index(EDGES[:, :0]).shape == (0, 0)
    assert Affinity.from_edge_index(EdgeIndex(EDGES, sparse_size=(4, 5))).shape == (5, 4)
    assert Affinity.from_edge_index(EdgeIndex(EDGES)).shape == (3, 3)
    assert Affinity.from_edge_index(EdgeIndex(EDGES, sparse_size=(4, 5)), num_nodes=(6, 7)).shape == (7, 6)


def test_builders_mark_symmetry_only_when_told() -> None:
    both = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert not Affinity.from_dense(both).symmetric
    assert not Affinity.from_scipy(sp.csr_array(both.numpy())).symmetric
    assert Affinity.from_dense(both, symmetric=True).symmetric
    assert Affinity.from_numpy(both.numpy(), symmetric=True).symmetric
    assert Affinity.from_scipy(sp.csr_array(both.numpy()), symmetric=True).symmetric
    assert Affinity.from_torch_sparse(both.to_sparse(), symmetric=True).symmetric
    assert Affinity.from_data(Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2), symmetric=True).symmetric


def test_copies_are_copies() -> None:
    array = np.eye(2)
    A = Affinity.from_numpy(array)
    array[:] = 9
    A.to_numpy()[:] = 9
    sparse = sp.csr_array(np.eye(2))
    B = Affinity.from_scipy(sparse)
    sparse.data[:] = 9
    sparse.indices[:] = 0
    B.to_scipy().data[:] = 9
    B.to_numpy()[:] = 9
    for C in (A, B):
        assert matrix(C) == [[1, 0], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_on_the_way_out(dtype: torch.dtype) -> None:
    A = Affinity.from_edge_index(EDGES, WEIGHT.to(dtype))
    assert A.to_scipy().toarray().tolist() == MATRIX
    assert A.to_numpy().tolist() == MATRIX
    assert A.to_torch_sparse().dtype == dtype
    assert sorted(A.to_networkx().edges(data="weight")) == [(0, 1, 2.0), (1, 2, 3.0), (2, 2, 5.0)]


def heads(count: int) -> SparseAffinity:
    return Affinity.from_edge_index(EDGES, torch.ones(3, count))


def nan_graph() -> nx.DiGraph:
    graph = hand_graph()
    graph["a"]["b"]["weight"] = math.nan
    return graph


def wordy_graph() -> nx.DiGraph:
    graph = hand_graph()
    graph["a"]["b"]["weight"] = "heavy"
    return graph


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Affinity.from_numpy([[1.0]]), TypeError, "array is a list; expected a NumPy array"),
        (lambda: Affinity.from_numpy(np.ones(2)), ValueError, r"matrix has shape \(2,\)"),
        (lambda: Affinity.from_numpy(np.ones((2, 2), dtype=complex)), TypeError, "matrix has dtype torch.complex128"),
        (lambda: Affinity.from_scipy(np.eye(2)), TypeError, "matrix is a ndarray; expected a SciPy sparse"),
        (
            lambda: Affinity.from_scipy(sp.coo_array(np.ones(3))),
            ValueError,
            r"matrix has shape \(3,\); expected \[N, M\]",
        ),
        (lambda: Affinity.from_scipy(sp.csr_array([[math.nan]])), ValueError, "weight contains 1 NaN"),
        (lambda: Affinity.from_torch_sparse(np.eye(2)), TypeError, "matrix is a ndarray"),
        (lambda: Affinity.from_torch_sparse(torch.eye(2)), TypeError, "matrix is a torch.strided tensor; expected COO"),
        (lambda: Affinity.from_torch_sparse(torch.ones(2, 2, 2).to_sparse()), ValueError, "3 sparse dimensions"),
        (lambda: Affinity.from_torch_sparse(torch.ones(2, 2, 2).to_sparse_csr()), ValueError, "no batch dimension"),
        (lambda: Affinity.from_torch_sparse(torch.ones(2, 2, 2, 2).to_sparse(2)), ValueError, "2 dense dimensions"),
        (lambda: Affinity.from_networkx(wordy_graph()), TypeError, r"edge \('a', 'b'\) has weight 'heavy'"),
        (lambda: Affinity.from_networkx(nan_graph()), ValueError, "weight contains 1 NaN"),
        (lambda: Affinity.from_data(Data(x=torch.ones(2, 1))), ValueError, "data has no edge_index"),
        (lambda: random_sparse().to_networkx(), ValueError, "4 x 6; a networkx graph needs a square one"),
        (lambda: random_sparse().to_data(), ValueError, "4 x 6; a PyG graph needs a square one"),
        (lambda: heads(2).to_networkx(), ValueError, "2 heads; a networkx graph holds one"),
        (lambda: heads(2).to_scipy(), ValueError, "2 heads; a SciPy matrix holds one"),
        (
            lambda: heads(2).to_torch_sparse(torch.strided),
            ValueError,
            "layout is torch.strided; expected torch.sparse_c",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_one_head_with_a_head_axis_converts_like_none() -> None:
    assert heads(1).to_scipy().toarray().tolist() == Affinity.from_edge_index(EDGES).to_scipy().toarray().tolist()
    assert nx.utils.graphs_equal(heads(1).to_networkx(), Affinity.from_edge_index(EDGES, torch.ones(3)).to_networkx())
    assert isinstance(heads(1).to_dense(), DenseAffinity)
