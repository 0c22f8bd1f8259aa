"""Return probabilities of random walks: dense powers, closed forms, PyG's and GraphGPS's."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_geometric.data import Data
from torch_geometric.transforms import AddRandomWalkPE

from graphattn import Affinity
from graphattn.nn.encodings import inputs, random_walk_encoding
from tests.nn.encodings.graphs import HOUSE, HOUSE_NODES, dense, disjoint, edges, weighted

EPS = torch.finfo(torch.float64).eps


def _by_powers(A: torch.Tensor, steps: int) -> torch.Tensor:
    degree = A.sum(1, keepdim=True)
    P = torch.where(degree > 0, A / degree, 0.0)
    return torch.stack([torch.linalg.matrix_power(P, t).diagonal() for t in range(1, steps + 1)], dim=1)


@pytest.mark.parametrize("block", [None, 3])
def test_is_the_diagonal_of_dense_powers(block: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weighted directed graph with loops, parallel edges and nodes without edges, in one block and in several."""
    n = 17
    edge_index, weight = weighted(n - 1, 40)
    if block:
        monkeypatch.setattr(inputs, "_BLOCK_BYTES", block * n * 8)
    found = random_walk_encoding(edge_index, 9, edge_weight=weight, num_nodes=n)
    torch.testing.assert_close(found, _by_powers(dense(edge_index, weight, n), 9), rtol=64 * EPS, atol=EPS)


def test_float32_is_the_default() -> None:
    found = random_walk_encoding(HOUSE, 8, num_nodes=HOUSE_NODES)
    assert found.dtype == torch.float32
    truth = _by_powers(dense(HOUSE, None, HOUSE_NODES), 8)
    torch.testing.assert_close(found.double(), truth, rtol=16 * torch.finfo(torch.float32).eps, atol=0)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_complete_graph(n: int) -> None:
    t = torch.arange(1, 11).double()
    expected = (1 + (n - 1) * (-1 / (n - 1)) ** t) / n
    found = random_walk_encoding(edges(nx.complete_graph(n)), 10, edge_weight=torch.ones(n * (n - 1)).double())
    torch.testing.assert_close(found, expected.expand(n, -1), rtol=0, atol=16 * EPS)


@pytest.mark.parametrize("n", [4, 5, 12])
def test_cycle(n: int) -> None:
    t = torch.arange(1, 11).double()
    expected = (2 * torch.pi * torch.arange(n).double() / n).cos()[:, None].pow(t).mean(0)
    found = random_walk_encoding(edges(nx.cycle_graph(n)), 10, edge_weight=torch.ones(2 * n).double())
    torch.testing.assert_close(found, expected.expand(n, -1), rtol=0, atol=16 * EPS)
    if n % 2 == 0:
        assert not found[:, 0::2].any()


def test_steps_go_to_the_nodes_one_draws_on() -> None:
    """0 -> 1 -> 2 -> 0 and 1 -> 0: node 0 draws on 2 and on 1, so that it goes back over 1 half the time."""
    edge_index = torch.tensor([[0, 1, 2, 1], [1, 2, 0, 0]])
    assert random_walk_encoding(edge_index, 2)[0].tolist() == [0.0, 0.5]
    A = Affinity.from_edge_index(edge_index)
    assert torch.equal(random_walk_encoding(A, 5), random_walk_encoding(edge_index, 5))
    assert torch.equal(random_walk_encoding(A.T, 5), random_walk_encoding(edge_index.flip(0), 5))


def test_batched_equals_looped() -> None:
    parts = [(edges(nx.path_graph(4)), 4), (HOUSE, HOUSE_NODES), (edges(nx.complete_graph(5)), 5)]
    order = torch.randperm(17)
    together, _ = disjoint(parts, order)
    found = random_walk_encoding(together, 6, num_nodes=17)
    apart = torch.cat([random_walk_encoding(e, 6, num_nodes=n) for e, n in parts])
    assert torch.equal(found[order], apart)


def test_relabelled_nodes_take_their_encodings_along() -> None:
    edge_index, weight = weighted(9, 25)
    order = torch.randperm(9)
    found = random_walk_encoding(order[edge_index], 5, edge_weight=weight, num_nodes=9)[order]
    expected = random_walk_encoding(edge_index, 5, edge_weight=weight, num_nodes=9)
    torch.testing.assert_close(found, expected, rtol=64 * EPS, atol=EPS)


def test_is_pygs_encoding_on_unweighted_graphs() -> None:
    data = Data(edge_index=HOUSE, num_nodes=HOUSE_NODES)
    expected = AddRandomWalkPE(6)(data).random_walk_pe
    for compat in (None, "pyg", "graphgps"):
        torch.testing.assert_close(random_walk_encoding(HOUSE, 6, num_nodes=HOUSE_NODES, compat=compat), expected)


def test_pyg_loses_the_weights_of_the_numerator() -> None:
    edge_index = torch.tensor([[0, 0, 1, 2, 2, 3], [1, 2, 0, 0, 3, 2]])
    weight = torch.tensor([1.0, 3.0, 1.0, 3.0, 0.5, 0.5])
    expected = AddRandomWalkPE(6)(Data(edge_index=edge_index, edge_weight=weight, num_nodes=5)).random_walk_pe
    found = random_walk_encoding(edge_index, 6, edge_weight=weight, num_nodes=5, compat="pyg")
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(random_walk_encoding(edge_index, 6, edge_weight=weight, num_nodes=5), expected)


def test_pygs_walk_follows_the_edges() -> None:
    # No parallel edges, whose weights PyG does not add up.
    edge_index = torch.tensor([[0, 1, 2, 1, 3, 2, 0], [1, 2, 0, 0, 1, 3, 3]])
    expected = AddRandomWalkPE(6)(Data(edge_index=edge_index, num_nodes=4)).random_walk_pe
    torch.testing.assert_close(random_walk_encoding(edge_index, 6, compat="pyg"), expected)
    along = Affinity.from_edge_index(edge_index).T
    torch.testing.assert_close(random_walk_encoding(along, 6), expected)


def test_is_graphgps_encoding() -> None:
    """Numbers that the released get_rw_landing_probs gives, which reads no weights."""
    golden = torch.tensor(
        [
            [0.0, 0.444444, 0.111111, 0.359568],
            [0.0, 0.444444, 0.111111, 0.359568],
            [0.0, 0.416667, 0.000000, 0.317130],
            [0.0, 0.416667, 0.000000, 0.317130],
            [0.0, 0.333333, 0.111111, 0.203704],
            [0.0, 1.000000, 0.000000, 1.000000],
            [0.0, 1.000000, 0.000000, 1.000000],
            [0.0, 0.000000, 0.000000, 0.000000],
        ]
    )
    weight = torch.rand(HOUSE.size(1))
    found = random_walk_encoding(HOUSE, 4, edge_weight=weight, num_nodes=HOUSE_NODES, compat="graphgps")
    torch.testing.assert_close(found, golden, rtol=0, atol=5.1e-7)


def test_no_edges_and_no_nodes() -> None:
    none = torch.empty(2, 0, dtype=torch.long)
    assert not random_walk_encoding(none, 3, num_nodes=4).any()
    assert random_walk_encoding(none, 3, num_nodes=0).shape == (0, 3)


class _NoSquares(TorchDispatchMode):
    """Fail on a tensor of as many elements as a matrix over all pairs of nodes."""

    def __init__(self, num_nodes: int) -> None:
        super().__init__()
        self.limit = num_nodes**2

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        assert all(x.numel() < self.limit for x in tree_leaves(out) if isinstance(x, torch.Tensor)), func
        return out


def test_no_matrix_over_all_pairs() -> None:
    """Of one component, so that every node needs a column of its own."""
    n = 4096
    with _NoSquares(n):
        found = random_walk_encoding(edges(nx.cycle_graph(n)), 2)
    assert torch.equal(found, torch.tensor([0.0, 0.5]).expand(n, -1))


@pytest.mark.parametrize(
    ("A", "options", "expected"),
    [
        (HOUSE, {"steps": 0}, "steps is 0; expected an integer of at least 1"),
        (HOUSE, {"steps": 2.5}, r"steps is 2\.5; expected an integer"),
        (HOUSE, {"compat": "dgl"}, "compat is 'dgl'; expected one of None, 'pyg', 'graphgps'"),
        (Affinity.from_edge_index(HOUSE), {"num_nodes": 9}, "num_nodes is given, but A has its own"),
        (Affinity.from_edge_index(HOUSE), {"edge_weight": torch.ones(14)}, "edge_weight is given, but A has its own"),
        (Affinity.from_edge_index(HOUSE, num_nodes=(7, 9)), {}, "A is 9 x 7; expected a square affinity"),
        (Affinity.from_edge_index(HOUSE, torch.ones(14, 2)), {}, "A has weights for 2 heads; expected one weight"),
        (HOUSE, {"edge_weight": torch.full((14,), -2.0)}, "A contains the weight -2; expected no negative weights"),
        (HOUSE, {"edge_weight": torch.ones(3)}, r"weight has shape \(3,\)"),
    ],
)
def test_bad_arguments(A: Any, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        random_walk_encoding(A, **options)


def test_sparse_matrices_are_taken_as_they_are() -> None:
    edge_index, weight = weighted(6, 15)
    matrix = dense(edge_index, weight, 6)
    expected = random_walk_encoding(edge_index, 4, edge_weight=weight, num_nodes=6)
    torch.testing.assert_close(random_walk_encoding(matrix.to_sparse_csr(), 4), expected, rtol=64 * EPS, atol=EPS)
