"""Transforms of tasks: what they do, what they record, and what they refuse."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest
import torch
from torch_geometric.data import Data, TemporalData
from torch_geometric.transforms import AddRandomWalkPE, NormalizeFeatures

from graphattn.datasets import EventTask, GraphTask, NodeTask, load, transform
from tests.datasets.test_tasks import graph_task, link_task, node_task

WALK = {"AddRandomWalkPE": {"walk_length": 3, "attr_name": "pe"}}
RING = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])


def ring_task(**changes: Any) -> NodeTask:
    x = torch.arange(24.0).reshape(6, 4)
    return node_task(data=Data(x=x, edge_index=RING, y=torch.tensor([0, 1, 2, 0, 1, 2])), **changes)


def test_transforms_act_in_their_order_and_are_recorded() -> None:
    task = ring_task()
    before = task.data.clone()
    new = transform(task, {"NormalizeFeatures": {}, **WALK})
    expected = AddRandomWalkPE(3, "pe")(NormalizeFeatures()(task.data))
    assert torch.equal(new.data.x, expected.x)
    assert torch.equal(new.data.pe, expected.pe)
    assert new.transform == {"NormalizeFeatures": {}, **WALK}
    assert list(new.transform) == ["NormalizeFeatures", "AddRandomWalkPE"]
    assert (task.transform, "pe" in task.data) == ({}, False)
    assert torch.equal(task.data.x, before.x)
    assert new.split is task.split
    assert new.evaluate(new.target()) == 1.0


def test_later_transforms_are_recorded_behind_earlier_ones() -> None:
    new = transform(transform(ring_task(), WALK), {"SparseFeatures": {"density": 1.0}})
    assert list(new.transform) == ["AddRandomWalkPE", "SparseFeatures"]
    assert new.data.x.layout == torch.sparse_csr
    with pytest.raises(ValueError, match=r"transforms has 'AddRandomWalkPE', which toy went through before"):
        transform(new, WALK)


def test_the_record_is_plain_and_that_of_its_own() -> None:
    given: dict[str, Any] = {"AddRandomWalkPE": {"walk_length": 3, "attr_name": "pe"}}
    new = transform(ring_task(), given)
    given["AddRandomWalkPE"]["walk_length"] = 9
    assert json.loads(json.dumps(new.transform)) == WALK
    assert transform(ring_task(), {"Diffuse": {"hops": math.inf}}).transform == {"Diffuse": {"hops": math.inf}}
    assert pickle.loads(pickle.dumps(new)).transform == WALK


def test_no_transform_is_a_task_like_before() -> None:
    task = ring_task()
    new = transform(task, {})
    assert new is not task
    assert torch.equal(new.data.x, task.data.x)


def test_graphs_are_transformed_each_for_itself() -> None:
    graphs = [
        Data(x=torch.rand(k + 2, 3), y=torch.tensor([k % 3]), edge_index=torch.tensor([[0, 1], [1, 0]]))
        for k in range(6)
    ]
    task = graph_task(graphs=graphs)
    jitter = {"AddLaplacianEigenvectorPE": {"k": 1, "attr_name": "pe", "is_undirected": True}, "NormalizeFeatures": {}}
    new = transform(task, jitter)
    assert isinstance(new, GraphTask)
    alone = transform(graph_task(graphs=graphs[3:] + graphs[:3]), jitter)
    for number, graph in enumerate(new.graphs):
        assert torch.equal(graph.x, NormalizeFeatures()(graphs[number]).x)
        assert torch.equal(graph.pe, alone.graphs[(number - 3) % 6].pe)
    assert all("pe" not in graph for graph in graphs)


def test_random_transforms_are_repeatable_and_leave_other_random_numbers_alone() -> None:
    task = load("sbm")  # large enough for the eigenvectors to be found by iteration, from a random start
    names = {
        "AddLaplacianEigenvectorPE": {"k": 4, "attr_name": "pe", "is_undirected": True},
        "AddRemainingSelfLoops": {},
    }
    torch.manual_seed(3)
    first = transform(task, names)
    drawn = torch.rand(2)
    torch.manual_seed(4)
    assert torch.equal(transform(task, names).data.pe, first.data.pe)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), drawn)


def test_derived_edges_may_join_pairs_to_predict() -> None:
    edges = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
    split = {
        "train": torch.tensor([[0, 1, 2], [1, 2, 3]]),
        "val": torch.tensor([[0], [2]]),
        "test": torch.tensor([[1], [3]]),
    }
    task = link_task(data=Data(edge_index=edges, num_nodes=6), split=split)
    new = transform(task, {"Diffuse": {}, "NodeIds": {}})
    assert (torch.tensor([[0], [2]]) == new.data.edge_index).all(0).any()
    assert new.data.x.flatten().tolist() == list(range(6))
    assert (new.num_features, task.num_features) == (1, 0)


@pytest.mark.parametrize(
    ("transforms", "error", "message"),
    [
        ({"NormaliseFeatures": {}}, ValueError, r"transforms has 'NormaliseFeatures', .* did you mean 'NormalizeFeat"),
        ({"SparseFeature": {}}, ValueError, r"did you mean 'SparseFeatures'\?"),
        ({"AddRandomWalkPE": {"length": 3}}, ValueError, r"AddRandomWalkPE does not take 'length'; .* 'walk_length'\?"),
        ({"NodeIds": {"start": 1}}, ValueError, r"NodeIds does not take 'start'; it takes none"),
        ({"AddRandomWalkPE": {}}, ValueError, r"AddRandomWalkPE cannot be made with \{\} \(missing .* 'walk_length'"),
        ({"Diffuse": {"kernel": "pr"}}, ValueError, r"Diffuse cannot be made with .* \(kernel is 'pr'; expected"),
        ({"Compose": {}}, ValueError, r"transforms has 'Compose', which is none of PyG or of graphattn"),
        ({"NormalizeFeatures": {"attrs": torch.ones(1)}}, TypeError, r"Tensor is not JSON .*; expected plain values"),
        ({"NormalizeFeatures": None}, TypeError, r"transforms is .*; expected arguments by name, such as"),
        (["NormalizeFeatures"], TypeError, r"transforms is \['NormalizeFeatures'\]; expected arguments by name"),
        ({"NodeIds": {}}, ValueError, r"NodeIds cannot be applied to toy \(ValueError: data has features"),
        ({"NormalizeScale": {}}, ValueError, r"NormalizeScale cannot be applied to toy \("),
        ({"ToSparseTensor": {}}, ValueError, r"ToSparseTensor takes away the edge_index of toy, which networks need"),
        ({"VirtualNode": {}}, ValueError, r"transforms leave 7 of the 6 nodes of toy, whose split names nodes"),
        ({"RandomLinkSplit": {}}, ValueError, r"RandomLinkSplit makes a tuple of toy; expected one graph"),
    ],
)
def test_transforms_that_are_refused(transforms: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        transform(ring_task(), transforms)


def test_the_graph_that_does_not_suit_is_named() -> None:
    graphs = list(graph_task().graphs)
    graphs[4] = Data(num_nodes=2, y=torch.tensor([0]))
    with pytest.raises(
        ValueError, match=r"SparseFeatures cannot be applied to graph 4 of toy \(ValueError: data has no x"
    ):
        transform(graph_task(graphs=graphs), {"SparseFeatures": {}})


def test_features_that_become_nan_are_found() -> None:
    data = Data(x=torch.ones(6, 2), edge_index=RING, y=torch.tensor([0, 1, 2, 0, 1, 2]))
    data.pos = torch.full((6, 2), torch.inf)
    task = node_task(data=data)
    with pytest.raises(ValueError, match=r"features of toy hold .* NaN or infinite values, .* of edge_attr"):
        transform(task, {"Distance": {"norm": False}})


def test_events_have_no_transforms() -> None:
    ends = torch.zeros(4, dtype=torch.long)
    stream = TemporalData(src=ends, dst=ends + 1, t=torch.arange(4), msg=torch.ones(4, 0))
    split = {"train": torch.tensor([0, 1]), "val": torch.tensor([2]), "test": torch.tensor([3])}
    task = EventTask(name="pings", data=stream, num_nodes=2, split=split, split_name="own", licence="generated")
    with pytest.raises(TypeError, match="pings is a stream of events; transforms are of graphs"):
        transform(task, {"NormalizeFeatures": {}})
