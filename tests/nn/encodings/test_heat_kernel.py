"""The diagonal of the heat kernel: the matrix exponential, closed forms and GraphGPS's numbers."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor

from graphattn import Affinity
from graphattn.nn.encodings import heat_kernel, heat_kernel_encoding, inputs
from tests.nn.encodings.graphs import HOUSE, HOUSE_NODES, dense, disjoint, edges, weighted

EPS = torch.finfo(torch.float64).eps
TIMES = [0.1, 3.0, 1.0, 0.1, 20.0]  # not sorted, with a repetition


@pytest.fixture(params=["eigenvectors", "polynomials", "polynomials in blocks"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways, whatever the size."""
    if request.param != "eigenvectors":
        monkeypatch.setattr(heat_kernel, "_DENSE", 0)
    if request.param == "polynomials in blocks":
        monkeypatch.setattr(inputs, "_BLOCK_BYTES", 200)
    return request.param


def _by_exponential(W: Tensor, times: list[float]) -> Tensor:
    """exp(-t L), less the projection on the null space, which is 1 / n within a component of n nodes."""
    reach = torch.linalg.matrix_power((W > 0).double() + torch.eye(W.size(0)), W.size(0)) > 0
    constant = 1 / reach.sum(1)
    L = torch.diag(W.sum(1)) - W
    return torch.stack([torch.linalg.matrix_exp(-t * L).diagonal() - constant for t in times], dim=1)


@pytest.mark.usefixtures("path")
def test_is_the_matrix_exponential() -> None:
    """A weighted directed graph is made symmetric, its loops are left out, its components are heated each alone."""
    n = 16
    edge_index, weight = weighted(n - 2, 14)
    found = heat_kernel_encoding(edge_index, TIMES, edge_weight=weight, num_nodes=n)
    A = dense(edge_index, weight, n)
    W = (A + A.T) / 2
    expected = _by_exponential(W - torch.diag(W.diagonal()), TIMES)
    # The exponential of a matrix is computed to eps times its norm.
    torch.testing.assert_close(found, expected, rtol=0, atol=64 * EPS * 20)
    assert (found >= 0).all()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("n", [3, 8])
def test_complete_graph_and_cycle(n: int) -> None:
    """All eigenvectors of these spread evenly: the mean of exp(-t lambda) over the eigenvalues but the first."""
    t = torch.tensor(TIMES, dtype=torch.float64)
    for graph, values in (
        (nx.complete_graph(n), torch.full((n - 1,), float(n)).double()),
        (nx.cycle_graph(n), 2 - 2 * (2 * torch.pi * torch.arange(1, n).double() / n).cos()),
    ):
        edge_index = edges(graph)
        found = heat_kernel_encoding(edge_index, TIMES, edge_weight=torch.ones(edge_index.size(1)).double())
        expected = torch.exp(-values[:, None] * t).sum(0) / n
        torch.testing.assert_close(found, expected.expand(n, -1), rtol=0, atol=256 * EPS)


def test_eigenvectors_keep_what_polynomials_round_off() -> None:
    """Term by term nothing cancels: exp(-40) / 2 of a pair at t = 20."""
    found = heat_kernel_encoding(torch.tensor([[0, 1], [1, 0]]), [20.0], edge_weight=torch.ones(2).double())
    expected = torch.exp(torch.tensor(-40.0).double()) / 2
    torch.testing.assert_close(found, expected.expand(2, 1), rtol=256 * EPS, atol=0)


@pytest.mark.usefixtures("path")
def test_is_graphgps_encoding() -> None:
    """Numbers that the released get_heat_kernels_diag gives at t = 1, 2 and 4."""
    golden = torch.tensor(
        [
            [0.032953, 0.003811, 0.000162],
            [0.032953, 0.003811, 0.000162],
            [0.101543, 0.019633, 0.001067],
            [0.101543, 0.019633, 0.001067],
            [0.111168, 0.025505, 0.001590],
            [0.067668, 0.009158, 0.000168],
            [0.067668, 0.009158, 0.000168],
            [0.000000, 0.000000, 0.000000],
        ]
    )
    found = heat_kernel_encoding(HOUSE, (1, 2, 4), num_nodes=HOUSE_NODES)
    torch.testing.assert_close(found, golden, rtol=0, atol=5.1e-7)


def test_default_times_are_1_to_16() -> None:
    found = heat_kernel_encoding(HOUSE)
    assert torch.equal(found, heat_kernel_encoding(HOUSE, range(1, 17)))
    assert found.shape == (7, 16)
    assert found.dtype == torch.float32


@pytest.mark.usefixtures("path")
def test_batched_equals_looped() -> None:
    parts = [(edges(nx.star_graph(4)), 5), (HOUSE, HOUSE_NODES), (edges(nx.path_graph(3)), 3)]
    order = torch.randperm(16)
    together, _ = disjoint(parts, order)
    found = heat_kernel_encoding(together, TIMES, num_nodes=16)
    apart = torch.cat([heat_kernel_encoding(e, TIMES, num_nodes=n) for e, n in parts])
    torch.testing.assert_close(found[order], apart, rtol=0, atol=64 * EPS)


def test_no_edges_and_no_nodes() -> None:
    none = torch.empty(2, 0, dtype=torch.long)
    assert not heat_kernel_encoding(none, [1.0], num_nodes=4).any()
    assert heat_kernel_encoding(none, [1.0, 2.0], num_nodes=0).shape == (0, 2)
    loops = torch.tensor([[0, 1], [0, 1]])
    assert not heat_kernel_encoding(loops, [1.0]).any()


@pytest.mark.parametrize(
    ("A", "options", "expected"),
    [
        (HOUSE, {"times": []}, r"times is \[\]; expected at least one number"),
        (HOUSE, {"times": [1, 0]}, r"times is \[1\.0, 0\.0\]; expected at least one number, all positive"),
        (HOUSE, {"times": [float("nan")]}, r"times is \[nan\]"),
        (Affinity.from_edge_index(HOUSE, num_nodes=(7, 9)), {}, "A is 9 x 7; expected a square affinity"),
    ],
)
def test_bad_arguments(A: Any, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        heat_kernel_encoding(A, **options)
