"""Planetoid, heterophilous, Amazon and Coauthor graphs against PyG's own loaders and the files themselves."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from torch_geometric.datasets import Amazon, Planetoid
from torch_geometric.utils import is_undirected

from graphattn.datasets import NodeTask, heterophilous, load, npz_graphs, planetoid
from tests.datasets.cases import copied, shared


def node_task(*args: object, **kwargs: object) -> NodeTask:
    task = load(*args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(task, NodeTask)
    return task


@pytest.mark.parametrize("name", ["Cora", "PubMed"])
def test_planetoid_is_what_pyg_reads(name: str, tmp_path: Path) -> None:
    task = node_task(name, root=shared("planetoid"))
    copied(shared("planetoid"), tmp_path / name / "raw", f"ind.{name.lower()}.*")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Planetoid(str(tmp_path), name)[0]
    assert torch.equal(task.data.x, theirs.x)
    assert torch.equal(task.data.edge_index, theirs.edge_index)
    assert torch.equal(task.data.y, theirs.y)
    for part in ("train", "val", "test"):
        assert torch.equal(task.split[part], theirs[f"{part}_mask"].nonzero().flatten())
        assert f"{part}_mask" not in task.data  # the split of the task is the only one
    assert (task.split_name, task.metric) == ("public", "accuracy")
    assert (task.data.num_nodes, task.num_features, task.num_classes) == planetoid.SETS[name]
    assert {len(task.split[part]) for part in ("val", "test")} == {500, 1000}


def test_planetoid_in_the_layout_of_pyg(tmp_path: Path) -> None:
    copied(shared("planetoid"), tmp_path / "Cora" / "raw", "ind.cora.*")
    task = node_task("cora", root=tmp_path, split="random-20:7")
    assert (task.name, task.split_name) == ("Cora", "random-20:7")
    assert task.data.y[task.split["train"]].bincount().tolist() == [20] * 7
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == ["Cora", "raw"]


@pytest.mark.parametrize("folder", ["Cora/geom-gcn/raw", "Cora/raw", "."])
def test_geom_gcn_splits(tmp_path: Path, folder: str) -> None:
    """The splits' files are generated in the original layout; the real ones were not at hand."""
    copied(shared("planetoid"), tmp_path / "Cora" / "raw", "ind.cora.*")
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    masks = []
    for i in range(10):
        part = np.random.default_rng(i).permutation(np.arange(2708) % 3)
        masks.append({f"{name}_mask": part == j for j, name in enumerate(("train", "val", "test"))})
        np.savez(tmp_path / folder / f"cora_split_0.6_0.2_{i}.npz", **masks[-1])
    task = node_task("Cora", root=tmp_path, split="geom-gcn:4")
    assert task.split_name == "geom-gcn:4"
    for part in ("train", "val", "test"):
        assert task.split[part].tolist() == masks[4][f"{part}_mask"].nonzero()[0].tolist()


def test_planetoid_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planetoid, "_URL", shared("planetoid").as_uri() + "/")
    task = node_task("Cora", root=tmp_path / "root")
    assert task.data.num_edges == 10556
    assert len(list((tmp_path / "root" / "Cora" / "raw").iterdir())) == 8
    monkeypatch.setitem(planetoid.SETS, "Cora", (2708, 1433, 8))
    with pytest.raises(ValueError, match=r"Cora was downloaded with nodes, features and classes \(2708, 1433, 7\)"):
        load("Cora", root=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_planetoid_that_is_broken(tmp_path: Path) -> None:
    copied(shared("planetoid"), tmp_path, "ind.cora.*")
    whole = (tmp_path / "ind.cora.graph").read_bytes()
    (tmp_path / "ind.cora.graph").write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"the files of Cora in .* cannot be read"):
        load("Cora", root=tmp_path)


NODES = {
    "minesweeper": ("Minesweeper", 10000),
    "squirrel_filtered": ("squirrel-filtered", 2223),
    "texas": ("Texas", 183),
}


@pytest.mark.parametrize("file", NODES)
def test_heterophilous_graphs_hold_the_edges_of_their_files_in_both_directions(file: str) -> None:
    source = shared("heterophilous", f"{file}.npz")
    task = node_task(file, root=source.parent, split=3)
    with np.load(source) as arrays:
        pairs = {(int(i), int(j)) for i, j in arrays["edges"]}
        found = set(map(tuple, task.data.edge_index.t().tolist()))
        assert found == pairs | {(j, i) for i, j in pairs}
        assert len(found) == task.data.num_edges
        assert torch.equal(task.data.x, torch.from_numpy(arrays["node_features"]))
        assert torch.equal(task.data.y, torch.from_numpy(arrays["node_labels"]))
        for part in ("train", "val", "test"):
            assert task.split[part].tolist() == arrays[f"{part}_masks"][3].nonzero()[0].tolist()
    assert task.split_name == "official:3"
    assert task.metric == ("roc_auc" if file == "minesweeper" else "accuracy")
    assert (task.name, task.data.num_nodes) == NODES[file]
    assert (task.data.num_nodes, task.num_features, task.num_classes) == heterophilous.SETS[task.name][1:4]


def test_minesweeper_is_scored_by_two_outputs_or_one() -> None:
    task = node_task("Minesweeper", root=shared("heterophilous"))
    assert task.out_channels == 2
    scores = torch.randn(len(task.split["test"]), 2)
    assert task.evaluate(scores) == task.evaluate(scores[:, 1] - scores[:, 0])


def test_heterophilous_in_the_layout_of_pyg_and_by_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shared("heterophilous", "texas.npz")
    (tmp_path / "texas" / "raw").mkdir(parents=True)
    shutil.copy(source, tmp_path / "texas" / "raw")
    assert node_task("Texas", root=tmp_path).split_name == "official:0"
    monkeypatch.setattr(heterophilous, "_URL", source.parent.as_uri() + "/")
    assert node_task("texas", root=tmp_path / "new", split="random-60-20-20:1").data.num_nodes == 183
    assert (tmp_path / "new" / "texas" / "raw" / "texas.npz").is_file()
    monkeypatch.setitem(heterophilous.SETS, "Texas", ("texas", 184, 1703, 5, "accuracy"))
    with pytest.raises(ValueError, match=r"Texas was downloaded with nodes, features and classes \(183, 1703, 5\)"):
        load("Texas", root=tmp_path / "third")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_heterophilous_that_is_broken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "texas.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"texas\.npz cannot be read .* expected an npz of arrays"):
        load("Texas", root=tmp_path)
    np.savez(tmp_path / "texas.npz", node_features=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"has the arrays node_features; node_labels, edges, .* is missing"):
        load("Texas", root=tmp_path)


def _plain(source: Path, goal: Path) -> None:
    """Write a pickled graph in the layout of plain arrays."""
    with np.load(source, allow_pickle=True) as arrays:
        matrices = {"adj": arrays["adj_matrix"].item(), "attr": arrays["node_attr"].item()}
        parts = {
            f"{name}_{part}": getattr(matrix, part) for name, matrix in matrices.items() for part in ("data", "indices")
        }
        parts |= {f"{name}_indptr": matrix.indptr for name, matrix in matrices.items()}
        parts |= {f"{name}_shape": np.array(matrix.shape) for name, matrix in matrices.items()}
        names = np.array(["camera", "lens"], dtype=object)
        np.savez(goal, **parts, labels=arrays["node_label"], class_names=names)


def test_amazon_is_what_pyg_reads_in_both_layouts(tmp_path: Path) -> None:
    source = shared("npz_graphs", "amazon_photo.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # np.load, of pickles that name modules which SciPy moved
        (tmp_path / "Photo" / "raw").mkdir(parents=True)
        _plain(source, tmp_path / "Photo" / "raw" / "amazon_electronics_photo.npz")
    theirs = Amazon(str(tmp_path), "Photo")[0]
    for root in (tmp_path, source.parent):
        task = node_task("Amazon-Photo", root=root, split="random-20:2")
        assert torch.equal(task.data.x, theirs.x)
        assert torch.equal(task.data.edge_index, theirs.edge_index)
        assert torch.equal(task.data.y, theirs.y)
        assert task.split_name == "random-20:2"
    assert (task.data.num_nodes, task.num_features, task.num_classes) == npz_graphs.SETS["Amazon-Photo"][3]
    assert task.data.num_edges == 2 * 119081
    assert is_undirected(task.data.edge_index)


def test_archives_that_would_run_code_are_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harm",))

    content = {"adj_matrix": np.array(Harmful(), dtype=object), "node_attr": np.eye(2), "node_label": np.zeros(2)}
    np.savez(tmp_path / "amazon_photo.npz", **content)
    with pytest.raises(ValueError, match=r"it names pathlib.*, which is no array"):
        load("Amazon-Photo", root=tmp_path)
    assert not (tmp_path / "harm").exists()


def test_npz_graphs_that_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "coauthor_cs.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"coauthor_cs\.npz cannot be read"):
        load("Coauthor-CS", root=tmp_path)
    np.savez(path, adj_matrix=np.array(scipy.sparse.csr_matrix(np.eye(3)), dtype=object))
    with pytest.raises(ValueError, match=r"has no 'node_attr'; expected adj_\*, attr_\*"):
        load("Coauthor-CS", root=tmp_path)
