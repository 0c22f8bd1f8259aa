"""Tasks: what they refuse, and how they score."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.data import Data

from graphattn.datasets import GraphTask, LinkTask, NodeTask, _checks

SPLIT = {"train": torch.tensor([5, 0, 2]), "val": torch.tensor([4]), "test": torch.tensor([3, 1])}
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def node_task(**changes: Any) -> NodeTask:
    given: dict[str, Any] = {
        "name": "toy",
        "data": Data(x=torch.eye(6), edge_index=torch.tensor([[0, 1], [1, 2]]), y=LABELS),
        "split": SPLIT,
        "split_name": "own",
        "metric": "accuracy",
        "licence": "none",
        "num_classes": 3,
    }
    return NodeTask(**{**given, **changes})


def graph_task(**changes: Any) -> GraphTask:
    graphs = [Data(x=torch.ones(k + 1, 2), y=torch.tensor([k % 3])) for k in range(6)]
    given: dict[str, Any] = {
        "name": "toy",
        "graphs": graphs,
        "split": SPLIT,
        "split_name": "own",
        "metric": "accuracy",
        "licence": "none",
        "num_classes": 3,
    }
    return GraphTask(**{**given, **changes})


def link_task(**changes: Any) -> LinkTask:
    given: dict[str, Any] = {
        "name": "toy",
        "data": Data(x=torch.eye(6), edge_index=torch.tensor([[0, 1], [1, 0]])),
        "split": {
            "train": torch.tensor([[0], [1]]),
            "val": torch.tensor([[1], [2]]),
            "test": torch.tensor([[2, 3], [3, 4]]),
        },
        "negatives": {"val": torch.tensor([[0], [5]]), "test": torch.tensor([[0, 1, 2], [4, 5, 5]])},
        "split_name": "own",
        "metric": "roc_auc",
        "licence": "none",
    }
    return LinkTask(**{**given, **changes})


def graph_of(**changes: Any) -> Data:
    return Data(**{"x": torch.eye(6), "edge_index": torch.tensor([[0, 1], [1, 2]]), "y": LABELS, **changes})


def test_predictions_follow_the_order_of_the_split() -> None:
    task = node_task()
    assert task.target("train").tolist() == [2, 0, 2]
    assert task.evaluate(torch.tensor([2, 0, 0]), "train") == 2 / 3
    scores = torch.nn.functional.one_hot(task.target("test"), 3).float()
    assert task.evaluate(scores) == 1.0
    assert task.evaluate(scores.numpy()[::-1].copy()) == 0.0
    assert (task.out_channels, task.num_features, task.higher_is_better) == (3, 6, True)


def test_masks_are_kept_as_ids() -> None:
    masks = {part: torch.zeros(6, dtype=torch.bool).index_fill(0, ids, True) for part, ids in SPLIT.items()}
    task = node_task(split=masks)
    assert {part: ids.tolist() for part, ids in task.split.items()} == {"train": [0, 2, 5], "val": [4], "test": [1, 3]}
    assert masks["val"].dtype == torch.bool


def test_graphs_give_their_targets_one_below_the_other() -> None:
    task = graph_task()
    assert task.target("train").tolist() == [2, 0, 2]
    assert task.evaluate(torch.tensor([0, 1]), "test") == 1.0
    assert (task.out_channels, task.num_features) == (3, 2)
    of_nodes = [Data(x=torch.ones(k + 1, 2), y=torch.arange(k + 1) % 3) for k in range(6)]
    assert graph_task(graphs=of_nodes).target("test").tolist() == [0, 1, 2, 0, 0, 1]


def test_several_targets_need_an_output_each() -> None:
    targets = torch.tensor([[0.0, 1.0], [1.0, torch.nan], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    task = node_task(data=graph_of(y=targets), metric="roc_auc", num_classes=2)
    assert task.out_channels == 2
    # Nodes 5, 0 and 2: the first targets are (1, 0, 0), the second (0, 1, 0).
    assert task.evaluate(torch.tensor([[2.0, 0.0], [3.0, 0.0], [1.0, -5.0]]), "train") == (0.5 + 0.75) / 2
    with pytest.raises(ValueError, match="needs items of both classes"):
        task.evaluate(torch.zeros(2, 2), "test")


def test_links_are_scored_together() -> None:
    task = link_task()
    assert task.evaluate((torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0, 0.5])), "test") == 5 / 6
    assert task.evaluate((np.array([1.0]), np.array([2.0])), "val") == 0.0


def test_predictions_in_half_precision_and_targets_without_dimension() -> None:
    task = node_task()
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert task.evaluate(scores.to(dtype)) == 1.0
    graphs = [Data(x=torch.ones(k + 1, 2), y=torch.tensor(k % 3)) for k in range(6)]
    assert graph_task(graphs=graphs).target("train").tolist() == [2, 0, 2]


def test_tasks_are_frozen_and_pickle() -> None:
    task = node_task()
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.name = "other"  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(task))
    assert torch.equal(again.split["test"], task.split["test"])
    assert again.evaluate(again.target()) == 1.0


def _with(part: str, ids: Any) -> dict[str, Tensor]:
    return {**SPLIT, part: torch.as_tensor(ids)}


@pytest.mark.parametrize("make", [node_task, graph_task])
@pytest.mark.parametrize(
    ("split", "error", "message"),
    [
        (
            {"train": SPLIT["train"]},
            ValueError,
            r"split of toy has the parts \['train'\]; expected train, val and test",
        ),
        (_with("val", torch.empty(0, dtype=torch.long)), ValueError, r"split 'val' of toy is empty"),
        (_with("val", torch.zeros(6, dtype=torch.bool)), ValueError, r"split 'val' of toy is empty"),
        (_with("test", [3, 6]), ValueError, r"split 'test' of toy has ids from 3 to 6, but there are 6 (node|graph)s"),
        (_with("test", [3, -1]), ValueError, r"split 'test' of toy has ids from -1 to 3"),
        (_with("test", [3, 2]), ValueError, r"split of toy leaks: 1 (node|graph)s of 'test' are also in 'train', .* 2"),
        (_with("test", [3, 1, 3]), ValueError, r"split 'test' of toy names (node|graph) 3 more than once"),
        (_with("test", [1.0]), TypeError, r"split 'test' of toy has shape \(1,\) and dtype torch.float32"),
        (_with("test", [[1]]), TypeError, r"split 'test' of toy has shape \(1, 1\)"),
        (_with("test", [True]), ValueError, r"split 'test' of toy is a mask of shape \(1,\); expected \(6,\)"),
    ],
)
def test_splits_that_are_refused(make: Any, split: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make(split=split)


NAN = torch.eye(6).index_fill(0, torch.tensor([4]), torch.nan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": graph_of(x=NAN)}, r"features of toy hold 6 NaN or infinite values, the first in row 4, column 0"),
        ({"data": graph_of(edge_attr=torch.tensor([0.0, torch.inf]))}, r"hold 1 NaN .* row 1 of edge_attr"),
        ({"data": graph_of(edge_index=torch.tensor([[0], [6]]))}, r"edge_index of toy has nodes from 0 to 6"),
        ({"data": graph_of(y=torch.tensor([0, 1, 3, 0, 1, 2]))}, r"labels of toy hold 1 such as 3 .* from 0 to 2"),
        ({"data": graph_of(y=torch.tensor([0, -1, 2, 0, 1, 2]))}, r"labels of toy hold 1 such as -1"),
        ({"data": graph_of(y=None)}, r"y of toy is NoneType, but there are 6 nodes"),
        ({"data": graph_of(y=LABELS[:5])}, r"y of toy is \(5,\), but there are 6 nodes"),
        ({"data": graph_of(y=LABELS / 0), "num_classes": None, "metric": "mae"}, r"expected finite numbers"),
        ({"metric": "hits@20"}, r"metric of toy is 'hits@20'; expected one of accuracy"),
    ],
)
def test_nodes_that_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        node_task(**changes)


def test_unknown_labels_outside_of_the_split_are_fine() -> None:
    split = {**SPLIT, "test": torch.tensor([3])}
    task = node_task(data=graph_of(y=torch.tensor([0, -1, 2, 0, 1, 2])), split=split)
    assert task.target().tolist() == [0]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (Data(x=torch.tensor([[torch.nan]]), y=torch.tensor([0])), r"row 0, column 0 of graph 3"),
        (Data(x=torch.ones(1, 1)), r"graph 3 of toy has no y"),
        (Data(x=torch.ones(1, 2), y=torch.tensor([3])), r"labels of toy hold 1 such as 3"),
        (
            Data(x=torch.ones(1, 2), y=torch.tensor([0]), edge_index=torch.tensor([[0], [1]])),
            r"edge_index of toy, graph 3, has nodes from 0 to 1, but there are 1",
        ),
    ],
)
def test_graphs_that_are_refused(graph: Data, message: str) -> None:
    graphs = list(graph_task().graphs)
    graphs[3] = graph
    with pytest.raises(ValueError, match=message):
        graph_task(graphs=graphs)


def _links(part: str, edges: Any) -> dict[str, Tensor]:
    return {**link_task().split, part: torch.tensor(edges, dtype=torch.long)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": _links("test", [[1], [0]])}, r"leaks: 1 links of 'train' are links of 'test', such as 0 - 1"),
        ({"split": _links("train", [[4], [5]])}, None),
        ({"split": _links("val", [[3], [2]])}, r"leaks: 1 links of 'val' are links of 'test', such as 2 - 3"),
        (
            {"data": Data(edge_index=torch.tensor([[4], [3]]), num_nodes=6)},
            r"leaks: 1 links of 'test' are edges of the graph, such as 3 - 4",
        ),
        ({"split": _links("val", [[], []])}, r"split 'val' of toy is empty"),
        ({"split": _links("val", [[1, 2, 3]])}, r"split 'val' of toy has shape \(1, 3\); expected \(2, E\)"),
        ({"split": _links("val", [[1], [6]])}, r"split 'val' of toy has nodes from 1 to 6, but there are 6"),
        ({"negatives": {"val": torch.tensor([[0], [5]])}}, r"negatives of toy have no 'test'"),
        ({"split": {"train": SPLIT["train"]}}, r"split of toy has the parts \['train'\]"),
        (
            {"metric": "accuracy"},
            r"metric of toy is 'accuracy'; expected one of roc_auc, average_precision, or an eval",
        ),
    ],
)
def test_links_that_are_refused(changes: Any, message: str | None) -> None:
    if message is None:
        link_task(**changes)
        return
    with pytest.raises(ValueError, match=message):
        link_task(**changes)


def test_links_may_come_back_where_that_is_said() -> None:
    assert link_task(split=_links("test", [[1], [0]]), repeats=True).repeats


@pytest.mark.parametrize(
    ("prediction", "which", "error", "message"),
    [
        (torch.zeros(6, 3), "test", ValueError, r"shape \(6, 3\), but 'test' of toy has 2 rows; pass the rows of task"),
        (torch.tensor(1.0), "test", ValueError, r"prediction has shape \(\)"),
        (torch.full((2, 3), torch.nan), "test", ValueError, r"prediction for 'test' of toy holds NaN"),
        (torch.zeros(2, 3), "valid", ValueError, r"which is 'valid'; expected one of 'train', 'val', 'test'"),
        (torch.zeros(2), "test", ValueError, r"expected scores \[n, C\] of at least 2 classes, or integer labels"),
    ],
)
def test_predictions_that_are_refused(prediction: Any, which: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        node_task().evaluate(prediction, which)


def test_scores_of_links_that_are_refused() -> None:
    task = link_task()
    with pytest.raises(ValueError, match=r"has 2 rows; pass the scores of task.split\['test'\]"):
        task.evaluate((torch.zeros(3), torch.zeros(3)))
    with pytest.raises(ValueError, match=r"shape \(2,\), but 'test' of toy has 3 rows"):
        task.evaluate((torch.zeros(2), torch.zeros(2)))
    with pytest.raises(ValueError, match=r"scores \(3, 1\), negatives are \(3,\)"):
        task.evaluate((torch.zeros(2), torch.zeros(3, 1)))
    with pytest.raises(TypeError, match=r"prediction is Tensor; expected \(scores of links, of negatives\)"):
        task.evaluate(torch.zeros(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"which is 'train', but negatives has only 'val', 'test'"):
        task.evaluate((torch.zeros(1), torch.zeros(1)), "train")


class _Largest(TorchDispatchMode):
    """Remembers how many entries the largest tensor has that was made."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not func.is_view:
            self.entries = max(self.entries, made.numel())
        return made


def mapped(path: Path, rows: int) -> np.ndarray:
    x = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, 7))
    x[:] = 1.0
    return x


def test_features_in_a_mapped_file_are_checked_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "_BLOCK_ENTRIES", 700)
    x = mapped(tmp_path / "x.npy", 1050)
    data = Data(x=torch.from_numpy(x), edge_index=torch.tensor([[0], [1]]), y=torch.zeros(1050, dtype=torch.long))
    with _Largest() as largest:
        assert node_task(data=data).data.x.data_ptr() == data.x.data_ptr()
    assert 700 <= largest.entries < 1050 * 2  # the labels are copied whole
    x[950, 3] = x[1049, 6] = np.nan
    x[950, 5] = np.inf
    with pytest.raises(
        ValueError, match=r"features of toy hold 3 NaN or infinite values, the first in row 950, column 3;"
    ):
        node_task(data=data)


@pytest.mark.parametrize("rows_per_block", [1, 2, 100])
def test_sparse_features_are_checked(rows_per_block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "_BLOCK_ENTRIES", rows_per_block)
    x = torch.diag(torch.arange(1.0, 7.0))
    assert node_task(data=graph_of(x=x.to_sparse_csr())).num_features == 6
    x[4, 1] = torch.inf
    x[5, 5] = torch.nan
    with pytest.raises(ValueError, match=r"hold 2 NaN or infinite values, the first in row 4, column 1; replace"):
        node_task(data=graph_of(x=x.to_sparse_csr()))


def test_positional_encodings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"hold 1 NaN or infinite values, the first in row 1, column 0 of pe;"):
        node_task(data=graph_of(pe=torch.tensor([[0.0], [torch.nan], [0], [0], [0], [0]])))


def test_classes_are_named() -> None:
    assert node_task().classes == ("0", "1", "2")
    assert node_task(classes=("a", "b", "c")).classes == ("a", "b", "c")
    assert graph_task(classes=("a", "b", "c")).classes == ("a", "b", "c")
    assert dataclasses.replace(node_task(classes=("a", "b", "c")), name="other").classes == ("a", "b", "c")
    assert node_task(data=graph_of(y=LABELS / 2), num_classes=None, metric="mae").classes is None
    targets = torch.tensor([[0.0, 1.0]] * 6)
    assert node_task(data=graph_of(y=targets), metric="roc_auc", num_classes=2).classes is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a", "b")}, r"classes of toy are \('a', 'b'\); expected 3 names"),
        (
            {"classes": ("a",), "data": graph_of(y=LABELS / 2), "num_classes": None, "metric": "mae"},
            r"classes of toy are \('a',\); expected None where rows are in no class",
        ),
    ],
)
def test_names_of_classes_that_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        node_task(**changes)
