"""Encodings as PyG transforms: the functions, on whatever a pipeline passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.transforms import BaseTransform, Compose

from graphattn.nn.encodings import (
    SignNet,
    degree_encoding,
    heat_kernel_encoding,
    laplacian_encoding,
    random_walk_encoding,
)
from graphattn.transforms.encodings import (
    AddDegreeEncoding,
    AddHeatKernelEncoding,
    AddLaplacianEncoding,
    AddRandomWalkEncoding,
)
from tests.nn.encodings.graphs import HOUSE, HOUSE_NODES, weighted


def _data(num_nodes: int = 9) -> Data:
    edge_index, weight = weighted(num_nodes, 20)
    return Data(x=torch.randn(num_nodes, 2), edge_index=edge_index, edge_weight=weight)


CASES = [
    (AddLaplacianEncoding(3), lambda *args, **options: laplacian_encoding(args[0], 3, **options)[0]),
    (AddRandomWalkEncoding(4), lambda *args, **options: random_walk_encoding(args[0], 4, **options)),
    (AddHeatKernelEncoding([1.0, 2.0]), lambda *args, **options: heat_kernel_encoding(args[0], [1.0, 2.0], **options)),
    (AddDegreeEncoding(), degree_encoding),
]


@pytest.mark.parametrize(("transform", "function"), CASES)
def test_writes_what_the_function_gives(transform: BaseTransform, function: Any) -> None:
    data = _data()
    before = data.to_dict()
    found = transform(data)
    assert torch.equal(found.pe, function(data.edge_index, edge_weight=data.edge_weight, num_nodes=9))
    assert data.to_dict().keys() == before.keys()  # the caller's graph is as it was
    del found.edge_weight
    assert torch.equal(transform(found).pe, function(data.edge_index, num_nodes=9))


@pytest.mark.parametrize(("transform", "function"), CASES)
def test_counts_nodes_without_edges(transform: BaseTransform, function: Any) -> None:
    found = transform(Data(edge_index=HOUSE, num_nodes=HOUSE_NODES + 2)).pe
    assert torch.equal(found, function(HOUSE, num_nodes=HOUSE_NODES + 2))


@pytest.mark.parametrize("transform", [case[0] for case in CASES])
def test_a_batch_is_encoded_graph_by_graph(transform: BaseTransform) -> None:
    graphs = [
        _data(9),
        Data(x=torch.randn(2, 2), edge_index=HOUSE[:, :0], edge_weight=torch.ones(0).double()),
        _data(5),
    ]
    together = transform(Batch.from_data_list(graphs))
    apart = Batch.from_data_list([transform(graph) for graph in graphs])
    torch.testing.assert_close(together.pe, apart.pe, rtol=0, atol=1e-13)
    if "pe_values" in apart:
        torch.testing.assert_close(together.pe_values, apart.pe_values, rtol=0, atol=1e-13)


def test_signnet_takes_a_batch_of_them() -> None:
    batch = Batch.from_data_list([AddLaplacianEncoding(4)(_data(n)) for n in (9, 5)])
    assert batch.pe_values.shape == (2, 4)
    net = SignNet(4, 3).double()
    expected = torch.cat([net(graph.pe, graph.pe_values[0]) for graph in batch.to_data_list()])
    torch.testing.assert_close(net(batch.pe, batch.pe_values, batch.batch), expected, rtol=0, atol=1e-13)


def test_names_of_attributes() -> None:
    data = Compose([AddRandomWalkEncoding(2, attr_name="rw"), AddLaplacianEncoding(2, attr_name="lap", weight="w")])(
        Data(edge_index=HOUSE, w=torch.rand(14), num_nodes=HOUSE_NODES)
    )
    assert torch.equal(data.rw, random_walk_encoding(HOUSE, 2, num_nodes=HOUSE_NODES))
    assert torch.equal(data.lap, laplacian_encoding(HOUSE, 2, edge_weight=data.w, num_nodes=HOUSE_NODES)[0])
    assert data.lap_values.shape == (1, 2)


def test_compat_is_passed_on() -> None:
    data = _data()
    options = {"edge_weight": data.edge_weight, "num_nodes": 9, "compat": "pyg"}
    assert torch.equal(
        AddRandomWalkEncoding(3, compat="pyg")(data).pe, random_walk_encoding(data.edge_index, 3, **options)
    )
    found = AddLaplacianEncoding(3, compat="pyg")(data).pe
    assert torch.equal(found, laplacian_encoding(data.edge_index, 3, **options)[0])


@pytest.mark.parametrize("transform", [case[0] for case in CASES])
def test_bad_graphs(transform: BaseTransform) -> None:
    with pytest.raises(TypeError, match="data is a HeteroData; expected a Data"):
        transform(HeteroData())
    with pytest.raises(ValueError, match="data has no edge_index"):
        transform(Data(x=torch.zeros(3, 1)))
