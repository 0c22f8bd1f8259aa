"""Logarithms of the degrees."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch_geometric.utils import degree

from graphattn import Affinity
from graphattn.nn.encodings import degree_encoding
from tests.nn.encodings.graphs import dense, disjoint, edges, weighted


def test_is_the_logarithm_of_both_sums() -> None:
    edge_index, weight = weighted(8, 20)
    A = dense(edge_index, weight, 9)
    found = degree_encoding(edge_index, edge_weight=weight, num_nodes=9)
    torch.testing.assert_close(found, torch.stack([A.sum(1), A.sum(0)], dim=1).log1p(), rtol=1e-15, atol=0)
    assert not found[8].any()


def test_counts_edges_as_pyg_does() -> None:
    edge_index, _ = weighted(8, 20)
    found = degree_encoding(edge_index, num_nodes=8)
    expected = torch.stack([degree(edge_index[1], 8), degree(edge_index[0], 8)], dim=1).log1p()
    assert torch.equal(found, expected)
    assert torch.equal(degree_encoding(Affinity.from_edge_index(edge_index, num_nodes=8).T), expected.flip(1))


def test_batched_equals_looped() -> None:
    parts = [(edges(nx.star_graph(4)), 5), (edges(nx.path_graph(3)), 3)]
    order = torch.randperm(8)
    together, _ = disjoint(parts, order)
    apart = torch.cat([degree_encoding(e, num_nodes=n) for e, n in parts])
    assert torch.equal(degree_encoding(together, num_nodes=8)[order], apart)


def test_half_weights_give_float32() -> None:
    A = Affinity.from_edge_index(torch.tensor([[0], [1]]), torch.ones(1, dtype=torch.bfloat16))
    assert degree_encoding(A).dtype == torch.float32


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="A contains the weight -1; expected no negative weights"):
        degree_encoding(torch.tensor([[0], [1]]), edge_weight=-torch.ones(1))
    with pytest.raises(TypeError, match="edge_index is a list"):
        degree_encoding([[0], [1]])
