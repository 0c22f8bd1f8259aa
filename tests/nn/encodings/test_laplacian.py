"""Laplacian eigenvectors: the eigenvalue equation, known spectra, hard graphs, and PyG's and GraphGPS's versions."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import AddLaplacianEigenvectorPE

from graphattn import Affinity
from graphattn.nn.encodings import laplacian, laplacian_encoding
from tests.nn.encodings.graphs import HOUSE, HOUSE_NODES, ROOF_EDGES, dense, disjoint, edges, weighted

EPS = torch.finfo(torch.float64).eps


@pytest.fixture(params=["dense", "lanczos", "factorized"])
def solver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the solvers, whatever the size; a graph must have more than 4 k nodes to be iterated on."""
    if request.param != "dense":
        monkeypatch.setattr(laplacian, "_DENSE", 0)
    if request.param == "factorized":
        strongest = laplacian._strongest

        def give_up(apply: Any, known: np.ndarray, k: int) -> np.ndarray:
            if not hasattr(apply, "__self__"):  # the method of a factorization is bound
                raise laplacian.ArpackNoConvergence("no", np.empty(0), np.empty((0, 0)))
            return strongest(apply, known, k)

        monkeypatch.setattr(laplacian, "_strongest", give_up)
    return request.param


def _laplacian(A: Tensor) -> Tensor:
    W = (A + A.T) / 2
    W = W - torch.diag(W.diagonal())
    scale = W.sum(1).rsqrt()
    scale = torch.where(scale.isfinite(), scale, 0.0)
    return torch.diag((W.sum(1) > 0).double()) - scale[:, None] * W * scale


def _double(edge_index: Tensor, k: int, n: int, **options: Any) -> tuple[Tensor, Tensor]:
    return laplacian_encoding(
        edge_index, k, edge_weight=torch.ones(edge_index.size(1)).double(), num_nodes=n, **options
    )


def _assert_pairs(L: Tensor, vectors: Tensor, values: Tensor, tol: float) -> None:
    """L u = lambda u and U^T U = Id, and no other eigenvalue is lower but those of the null space."""
    torch.testing.assert_close(L @ vectors, vectors * values, rtol=0, atol=tol)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(values.numel()).double(), rtol=0, atol=tol)
    spectrum = torch.linalg.eigvalsh(L)
    null = int((spectrum < 1e-10).sum())
    torch.testing.assert_close(values, spectrum[null : null + values.numel()], rtol=0, atol=tol)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_lowest_pairs_of_a_weighted_directed_graph(k: int) -> None:
    edge_index, weight = weighted(12, 40)
    vectors, values = laplacian_encoding(edge_index, k, edge_weight=weight, num_nodes=12)
    _assert_pairs(_laplacian(dense(edge_index, weight, 12)), vectors, values, 64 * EPS)


GRAPHS = {
    "cycle": nx.cycle_graph(70),  # every eigenvalue twice
    "torus": nx.grid_2d_graph(9, 9, periodic=True),  # four and eight times
    "path": nx.path_graph(80),  # a small gap
    "star": nx.star_graph(60),  # one value for all but two
    "complete": nx.complete_graph(60),  # one value for all but one
    "bipartite": nx.complete_bipartite_graph(30, 35),
    "random": nx.barabasi_albert_graph(90, 3, seed=0),
    "in three parts": nx.disjoint_union_all([nx.cycle_graph(50), nx.path_graph(60), nx.cycle_graph(50)]),
}


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("name", GRAPHS)
def test_every_solver_on_hard_graphs(name: str) -> None:
    graph = GRAPHS[name]
    edge_index, n = edges(graph), graph.number_of_nodes()
    vectors, values = _double(edge_index, 9, n)
    # Residuals of the iteration are at most 1e-12 of the largest eigenvalue of what it iterates on.
    _assert_pairs(_laplacian(dense(edge_index, None, n)), vectors, values, 1e-11)


def test_lanczos_gives_way_to_a_factorization(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of 2,000 nodes has eigenvalues 1e-6 apart, which 2 - lambda does not tell in time."""
    factorized = []
    splu = laplacian.splu
    monkeypatch.setattr(laplacian, "splu", lambda matrix: factorized.append(1) or splu(matrix))
    vectors, values = _double(edges(nx.path_graph(2000)), 3, 2000)
    assert factorized
    expected = 1 - torch.cos(torch.pi * torch.arange(1, 4).double() / 1999)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(3).double(), rtol=0, atol=1e-11)


def test_cycle() -> None:
    n = 11
    _, values = _double(edges(nx.cycle_graph(n)), 10, n)
    expected = (1 - torch.cos(2 * torch.pi * torch.arange(1, n).double() / n)).sort().values
    torch.testing.assert_close(values, expected, rtol=0, atol=16 * EPS)


def test_complete_graph() -> None:
    n = 6
    vectors, values = _double(edges(nx.complete_graph(n)), 8, n)
    torch.testing.assert_close(values[:5], torch.full((5,), n / (n - 1), dtype=torch.float64), rtol=0, atol=16 * EPS)
    # The eigenspace is all but the constant vector, and there is nothing beyond it.
    projector = torch.eye(n).double() - 1 / n
    torch.testing.assert_close(vectors @ vectors.T, projector, rtol=0, atol=32 * EPS)
    assert not vectors[:, 5:].any()
    assert not values[5:].any()


def test_the_null_space_is_left_out_whole() -> None:
    """One vector for each component, the isolated node included, and zeros for the vectors that are not there."""
    vectors, values = _double(HOUSE, 8, HOUSE_NODES)
    assert int((values > 0).sum()) == HOUSE_NODES - 3
    assert not vectors[:, 5:].any()
    assert not vectors[7].any()
    _assert_pairs(_laplacian(dense(HOUSE, None, HOUSE_NODES)), vectors[:, :5], values[:5], 64 * EPS)


def test_edges_of_weight_0_are_none() -> None:
    weight = torch.ones(14).double()
    weight[[6, 13]] = 0.0  # the pair falls apart
    vectors, values = laplacian_encoding(HOUSE, 5, edge_weight=weight, num_nodes=HOUSE_NODES)
    assert not vectors[5:].any()
    assert int((values > 0).sum()) == 4


def test_the_largest_entry_is_positive() -> None:
    edge_index, weight = weighted(12, 40)
    vectors, _ = laplacian_encoding(edge_index, 6, edge_weight=weight, num_nodes=12)
    assert (vectors.amax(0) == vectors.abs().amax(0)).all()


def test_of_equal_entries_the_first_is_positive() -> None:
    """Both ends of a path have the same size, and rounding does not choose between them."""
    for n in range(2, 30):
        vectors, _ = _double(edges(nx.path_graph(n)), 1, n)
        assert vectors[0, 0] > 0


def test_relabelled_nodes_take_their_entries_along() -> None:
    edge_index, weight = weighted(12, 40)
    order = torch.randperm(12)
    vectors, values = laplacian_encoding(edge_index, 5, edge_weight=weight, num_nodes=12)
    there, same = laplacian_encoding(order[edge_index], 5, edge_weight=weight, num_nodes=12)
    torch.testing.assert_close(same, values, rtol=0, atol=64 * EPS)
    torch.testing.assert_close(there[order], vectors, rtol=0, atol=1e4 * EPS)  # vectors turn by eps / gap


@pytest.mark.usefixtures("solver")
def test_the_projector_of_a_repeated_eigenvalue_goes_along() -> None:
    """Any basis of an eigenspace will do, so that its vectors may change, but not what they span."""
    n, order = 40, torch.randperm(40)
    edge_index = edges(nx.cycle_graph(n))
    here, there = (_double(e, 4, n)[0] for e in (edge_index, order[edge_index]))
    for space in (slice(0, 2), slice(2, 4)):
        moved = there[order][:, space]
        torch.testing.assert_close(moved @ moved.T, here[:, space] @ here[:, space].T, rtol=0, atol=1e-10)


def test_batched_equals_looped() -> None:
    """Graphs of unequal size, nodes in any order, a graph without nodes between them."""
    random = nx.barabasi_albert_graph(9, 2, seed=1)
    none = torch.empty(2, 0, dtype=torch.long)
    parts = [(ROOF_EDGES, 5), (none, 0), (edges(random), 9), (none, 2)]
    order = torch.randperm(16)
    together, batch = disjoint(parts, order)
    vectors, values = laplacian_encoding(together, 6, batch=batch)
    assert values.shape == (4, 6)
    for g, (edge_index, n) in enumerate(parts):
        expected, pairs = laplacian_encoding(edge_index, 6, num_nodes=n)
        torch.testing.assert_close(values[g], pairs)
        # Nodes of a graph keep the order in which they stand, so that the same entry is the first of equals.
        torch.testing.assert_close(vectors[order][batch[order] == g].abs(), expected.abs(), rtol=0, atol=1e-6)
    assert torch.equal(laplacian_encoding(Affinity.from_edge_index(together, num_nodes=16), 6, batch=batch)[0], vectors)


def test_an_affinity_and_its_dtype() -> None:
    A = Affinity.from_edge_index(HOUSE, torch.ones(14, dtype=torch.float16), HOUSE_NODES)
    vectors, values = laplacian_encoding(A, 4)
    assert vectors.dtype == values.dtype == torch.float32
    expected = laplacian_encoding(HOUSE, 4, num_nodes=HOUSE_NODES)
    assert torch.equal(vectors, expected[0])
    assert torch.equal(values, expected[1])


@pytest.mark.parametrize("seed", range(3))
def test_is_pygs_encoding_on_connected_graphs(seed: int) -> None:
    graph = nx.barabasi_albert_graph(20, 3, seed=seed)
    data = Data(edge_index=edges(graph), edge_weight=torch.ones(2 * graph.number_of_edges()).double(), num_nodes=20)
    expected = AddLaplacianEigenvectorPE(6, is_undirected=True)(data).laplacian_eigenvector_pe
    for compat in (None, "pyg"):
        found, _ = _double(data.edge_index, 6, 20, compat=compat)
        signs = (found * expected).sum(0).sign()
        torch.testing.assert_close(found * signs, expected, rtol=0, atol=1e4 * EPS)


def test_pyg_leaves_out_one_vector_only() -> None:
    """Up to the basis of a repeated eigenvalue: 0 of the square and of the pair."""
    weight = torch.ones(14).double()
    data = Data(edge_index=HOUSE, edge_weight=weight, num_nodes=HOUSE_NODES)
    theirs = AddLaplacianEigenvectorPE(7, is_undirected=True)(data).laplacian_eigenvector_pe
    found, values = laplacian_encoding(HOUSE, 9, edge_weight=weight, num_nodes=HOUSE_NODES, compat="pyg")
    assert not found[:, 7:].any()
    # Eigenvalues 0 0 | 2/3 1 1 3/2 11/6 2: the second 0 is kept, and the isolated node has one of the two 1s.
    expected = torch.tensor([0.0, 2 / 3, 1, 1, 3 / 2, 11 / 6, 2, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=0, atol=64 * EPS)
    for space in ([1], [2, 3], [4], [5], [6]):
        ours, same = found[:, space], theirs[:, space]
        torch.testing.assert_close(ours @ ours.T, same @ same.T, rtol=0, atol=256 * EPS)


def test_is_graphgps_encoding() -> None:
    """Numbers that the released get_lap_decomp_stats gives for the normalized Laplacian, up to signs."""
    nan = float("nan")
    golden = torch.tensor(
        [
            [-5.000001e-01, -2.236068e-01, 5.477226e-01, 4.472136e-01, 4.472136e-01, nan],
            [-5.000001e-01, -2.236068e-01, -5.477226e-01, 4.472136e-01, -4.472136e-01, nan],
            [-4.082483e-01, 5.477226e-01, -4.472136e-01, -1.825742e-01, 5.477226e-01, nan],
            [-4.082483e-01, 5.477226e-01, 4.472136e-01, -1.825742e-01, -5.477226e-01, nan],
            [-4.082483e-01, -5.477226e-01, 0.0, -7.302968e-01, 0.0, nan],
        ]
    )
    vectors, values = laplacian_encoding(ROOF_EDGES, 6, edge_weight=torch.rand(12), compat="graphgps")
    signs = (vectors * golden).sum(0).sign()
    torch.testing.assert_close(vectors * signs, golden, rtol=0, atol=1e-6, equal_nan=True)
    # Theirs starts at 4.4e-8, as the Laplacian is made in float32.
    expected = torch.tensor([0.0, 2 / 3, 1.0, 1.5, 11 / 6, nan])
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6, equal_nan=True)


def test_no_edges_and_no_nodes() -> None:
    none = torch.empty(2, 0, dtype=torch.long)
    vectors, values = laplacian_encoding(none, 3, num_nodes=4)
    assert vectors.shape == (4, 3)
    assert not vectors.any()
    assert not values.any()
    assert laplacian_encoding(none, 3, num_nodes=0)[0].shape == (0, 3)
    assert laplacian_encoding(none, 3, batch=none[0])[1].shape == (0, 3)
    lone, ones = laplacian_encoding(none, 3, num_nodes=2, compat="pyg")
    assert lone.tolist() == [[0.0, 0, 0], [1.0, 0, 0]]
    assert ones.tolist() == [1.0, 0, 0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"k": 0}, "k is 0; expected an integer of at least 1"),
        ({"k": 2.0}, r"k is 2\.0; expected an integer"),
        ({"compat": "dgl"}, "compat is 'dgl'; expected one of None, 'pyg', 'graphgps'"),
        ({"batch": torch.zeros(9, dtype=torch.long), "num_nodes": 7}, r"batch has shape \(9,\) and .*; expected \[7\]"),
        ({"batch": torch.zeros(7)}, r"batch has shape \(7,\) and dtype torch\.float32; expected \[7\] integers"),
        ({"batch": torch.tensor([-1, 0, 0, 0, 0, 0, 0])}, "batch contains -1; expected graphs counted from 0"),
        ({"batch": torch.tensor([0, 0, 0, 0, 1, 2, 2])}, "A has an edge between two graphs of batch"),
        ({"edge_weight": -torch.ones(14)}, "A contains the weight -1; expected no negative weights"),
    ],
)
def test_bad_arguments(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        laplacian_encoding(HOUSE, **options)


@pytest.mark.filterwarnings("ignore")  # what it imports is older than the libraries it imports it from
def test_is_the_fourier_basis_of_pygsp() -> None:
    pygsp = pytest.importorskip("pygsp", reason="the parity needs pygsp")
    graph = nx.barabasi_albert_graph(20, 3, seed=0)
    theirs = pygsp.graphs.Graph(nx.to_numpy_array(graph), lap_type="normalized")
    theirs.compute_fourier_basis()
    vectors, values = _double(edges(graph), 7, 20)
    torch.testing.assert_close(values, torch.from_numpy(theirs.e[1:8]), rtol=0, atol=64 * EPS)
    basis = torch.from_numpy(theirs.U[:, 1:8].copy())
    torch.testing.assert_close(vectors * (vectors * basis).sum(0).sign(), basis, rtol=0, atol=1e4 * EPS)
