"""Transforms of node features: sparse where that pays, and numbers of nodes where there are none."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data

from graphattn.models import AttentionNet
from graphattn.transforms import NodeIds, SparseFeatures

EDGES = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])


def words(rows: int, columns: int, ones: int) -> torch.Tensor:
    """A bag of words with so many entries that are not 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(rows * columns)
    x[torch.randperm(rows * columns, generator=generator)[:ones]] = torch.rand(ones, generator=generator) + 0.5
    return x.reshape(rows, columns)


@pytest.mark.parametrize(("ones", "layout"), [(0, torch.sparse_csr), (12, torch.sparse_csr), (13, torch.strided)])
def test_features_become_sparse_up_to_a_share(ones: int, layout: torch.layout) -> None:
    data = Data(x=words(4, 30, ones), edge_index=EDGES)
    x = data.x.clone()
    new = SparseFeatures(density=0.1)(data)
    assert new.x.layout == layout
    assert torch.equal(new.x.to_dense(), x)
    assert data.x.layout == torch.strided
    assert torch.equal(data.x, x)


def test_sparse_features_change_no_output() -> None:
    data = Data(x=words(4, 30, 12), edge_index=EDGES)
    torch.manual_seed(0)
    net = AttentionNet(30, 8, 3).double().eval()
    dense = net(data.x.double(), EDGES)
    data.x = data.x.double()
    sparse = net(SparseFeatures()(data).x, EDGES)
    assert (dense - sparse).abs().max() <= 100 * torch.finfo(torch.float64).eps * dense.abs().max()


def test_sparse_or_whole_features_stay() -> None:
    csr = words(4, 30, 5).to_sparse_csr()
    assert SparseFeatures()(Data(x=csr)).x is csr
    categories = torch.zeros(4, 2, dtype=torch.long)
    assert SparseFeatures()(Data(x=categories)).x is categories


@pytest.mark.parametrize("density", [-0.1, 1.5, float("nan")])
def test_shares_that_are_refused(density: float) -> None:
    with pytest.raises(ValueError, match=r"density is .*; expected a share in \[0, 1\]"):
        SparseFeatures(density)


def test_features_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data has no x; expected features \[nodes, columns\]"):
        SparseFeatures()(Data(edge_index=EDGES))
    with pytest.raises(ValueError, match=r"data has x of shape \(4,\)"):
        SparseFeatures()(Data(x=torch.zeros(4)))
    with pytest.raises(ValueError, match=r"data has features of shape \(4, 2\); remove x"):
        NodeIds()(Data(x=torch.zeros(4, 2)))


def test_node_ids_stand_for_a_vector_per_node() -> None:
    data = Data(edge_index=EDGES, num_nodes=5)
    new = NodeIds()(data)
    assert data.x is None
    assert (new.num_nodes, new.num_node_features) == (5, 1)
    net = AttentionNet(1, 4, 2, encoder="embedding", vocabulary=[5])
    assert torch.equal(net.encoder(new.x), net.encoder.embed.tables[0].weight)


def test_names_of_options() -> None:
    assert repr(SparseFeatures(0.2)) == "SparseFeatures(density=0.2)"
    assert repr(NodeIds()) == "NodeIds()"
