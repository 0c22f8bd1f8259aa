"""TUDataset: graphs against PyG's own reader, folds against their files."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from sklearn.model_selection import StratifiedKFold
from torch_geometric.datasets import TUDataset

from graphattn.datasets import GraphTask, load, tudataset
from graphattn.datasets.tudataset import own_fold
from tests.datasets.cases import shared


def graph_task(*args: object, **kwargs: object) -> GraphTask:
    task = load(*args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(task, GraphTask)
    return task


def _raw(name: str, folder: Path) -> None:
    """Unpack a set in the layout of PyG."""
    with zipfile.ZipFile(shared("tudataset", f"{name}.zip")) as archive:
        archive.extractall(folder.parent)
    shutil.move(folder.parent / name, folder)


@pytest.mark.parametrize(("name", "files", "count"), [("MUTAG", "MUTAG", 188), ("PROTEINS", "PROTEINS_full", 1113)])
def test_graphs_are_what_pyg_reads(name: str, files: str, count: int, tmp_path: Path) -> None:
    task = graph_task(name, root=shared("tudataset"))
    (tmp_path / files).mkdir()
    _raw(files, tmp_path / files / "raw")
    theirs = TUDataset(str(tmp_path), files)
    assert len(task.graphs) == len(theirs) == count
    for ours, other in zip(task.graphs, theirs, strict=True):
        assert sorted(ours.keys()) == sorted(other.keys())
        assert all(torch.equal(ours[key], other[key]) for key in other.keys())  # noqa: SIM118 - no dictionary
    assert (task.num_classes, task.num_features) == (2, theirs.num_features)
    assert task.split_name == ("own:0" if name == "MUTAG" else "fair:0")
    again = graph_task(name, root=tmp_path, split="own:3")
    assert all(torch.equal(a.edge_index, b.edge_index) for a, b in zip(task.graphs, again.graphs, strict=True))


@pytest.mark.parametrize("fold", [0, 9])
def test_fair_folds(fold: int) -> None:
    task = graph_task("PROTEINS", root=shared("tudataset"), split=fold)
    path = shared("tudataset", "splits_fair_comparison", "PROTEINS_full_splits.json")
    entry = json.loads(path.read_text())[fold]
    assert task.split["test"].tolist() == entry["test"]
    assert task.split["train"].tolist() == entry["model_selection"][0]["train"]
    assert task.split["val"].tolist() == entry["model_selection"][0]["validation"]
    assert sum(map(len, task.split.values())) == len(task.graphs)
    assert task.split_name == f"fair:{fold}"


def test_own_folds_are_stratified_and_cover_everything() -> None:
    y = torch.cat([torch.zeros(30), torch.ones(20)]).long()[torch.randperm(50)]
    folds = [own_fold(y, fold) for fold in range(10)]
    assert sorted(torch.cat([fold["test"] for fold in folds]).tolist()) == list(range(50))
    expected = [test for _, test in StratifiedKFold(10, shuffle=True, random_state=0).split(y, y)]
    for number, fold in enumerate(folds):
        assert fold["test"].tolist() == expected[number].tolist()
        assert fold["val"].tolist() == expected[(number + 1) % 10].tolist()
        assert y[fold["test"]].bincount().tolist() == [3, 2]
        assert sorted(torch.cat(list(fold.values())).tolist()) == list(range(50))


def _tiny(folder: Path, name: str) -> None:
    """Write twenty graphs of two nodes, of classes -1 and 1, in the original layout: attributes before labels."""
    folder.mkdir(parents=True)
    nodes = range(1, 41)
    files = {
        "A": [f"{i}, {j}" for i in nodes[::2] for i, j in ((i, i + 1), (i + 1, i))],
        "graph_indicator": [(i + 1) // 2 for i in nodes],
        "graph_labels": [-1 if i % 2 else 1 for i in range(20)],
        "node_attributes": [f"{i / 10}, {-i}" for i in nodes],
        "node_labels": [i % 3 for i in nodes],
    }
    for part, lines in files.items():
        (folder / f"{name}_{part}.txt").write_text("\n".join(map(str, lines)) + "\n")


def test_a_generated_set_keeps_labels_and_leaves_attributes(tmp_path: Path) -> None:
    _tiny(tmp_path / "ENZYMES", "ENZYMES")
    task = graph_task("ENZYMES", root=tmp_path, split="own:1")
    assert len(task.graphs) == 20
    assert torch.equal(task.graphs[1].x, torch.eye(3)[torch.tensor([0, 1])])
    assert task.graphs[1].edge_index.tolist() == [[0, 1], [1, 0]]
    assert torch.cat([graph.y for graph in task.graphs]).tolist() == [1, 0] * 10
    for file in ("node_labels", "node_attributes"):
        (tmp_path / "ENZYMES" / f"ENZYMES_{file}.txt").unlink()
    bare = graph_task("ENZYMES", root=tmp_path, split="own:1")
    assert bare.num_features == 0
    assert [graph.num_nodes for graph in bare.graphs] == [2] * 20


def test_tu_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tudataset, "_URL", shared("tudataset").as_uri() + "/")
    task = graph_task("MUTAG", root=tmp_path / "root")
    assert len(task.graphs) == 188
    assert (tmp_path / "root" / "MUTAG" / "raw" / "MUTAG_A.txt").is_file()
    monkeypatch.setitem(tudataset.SETS, "MUTAG", ("MUTAG", None, 189, 2))
    with pytest.raises(
        ValueError, match=r"MUTAG was downloaded with graphs and classes \(188, 2\); expected \(189, 2\)"
    ):
        load("MUTAG", root=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_tu_that_is_refused(tmp_path: Path) -> None:
    _tiny(tmp_path / "ENZYMES", "ENZYMES")
    with pytest.raises(ValueError, match="split is 'fair'; MUTAG has 'own:0' to 'own:9'"):
        load("MUTAG", root=tmp_path, split="fair")
    with pytest.raises(FileNotFoundError, match=r"the fair folds of ENZYMES .* ENZYMES_splits\.json"):
        load("ENZYMES", root=tmp_path)
    for content in ("[]", "not JSON", '[{"test": []}]'):
        (tmp_path / "ENZYMES_splits.json").write_text(content)
        with pytest.raises(ValueError, match=r"ENZYMES_splits\.json cannot be read .* expected ten folds"):
            load("ENZYMES", root=tmp_path)
    (tmp_path / "ENZYMES" / "ENZYMES_graph_labels.txt").write_text("1\nx\n")
    with pytest.raises(ValueError, match=r"ENZYMES_\*\.txt cannot be read"):
        load("ENZYMES", root=tmp_path, split="own")
