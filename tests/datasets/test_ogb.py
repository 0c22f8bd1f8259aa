"""OGB's files against OGB's own loaders, and sets that are too large to be at hand on tiny files in their layout."""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphattn.datasets import GraphTask, LinkTask, NodeTask, load, ogb
from graphattn.datasets._pickles import load_torch
from graphattn.datasets.ogb import SETS, read_csv, read_graphs
from tests.datasets.cases import shared


@pytest.fixture
def their_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ogb load what it saved, which torch has refused since 2.6, and keep it from asking PyPI for its version."""
    pytest.importorskip("pandas", reason="pandas is not installed")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setitem(sys.modules, "outdated", None)
    pytest.importorskip("ogb", reason="ogb is not installed")


def same(ours: Data, theirs: Data, *, but: tuple[str, ...] = ()) -> bool:
    keys = {key for key in theirs.keys() if key not in (*but, "num_nodes")}  # noqa: SIM118 - no dictionary
    assert keys <= set(ours.keys())
    assert ours.num_nodes == theirs.num_nodes
    return all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in keys)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["ogbg-molbace", "ogbg-molesol"])
def test_molecules_are_what_ogb_reads(name: str, tmp_path: Path, their_loaders: None) -> None:
    from ogb.graphproppred import PygGraphPropPredDataset

    folder = name.replace("-", "_")
    task = load(name, root=shared("ogb"))
    shutil.copytree(shared("ogb", folder), tmp_path / folder)
    theirs = PygGraphPropPredDataset(name, root=str(tmp_path))
    assert isinstance(task, GraphTask)
    assert len(task.graphs) == len(theirs)
    assert all(same(ours, other) for ours, other in zip(task.graphs, theirs, strict=True))
    for part, ids in theirs.get_idx_split().items():
        assert torch.equal(task.split["val" if part == "valid" else part], ids)
    assert (task.split_name, task.out_channels) == ("scaffold", theirs.num_tasks)
    assert task.num_classes == (2 if theirs.num_classes == 2 else None)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_ddi_is_what_ogb_reads(tmp_path: Path, their_loaders: None) -> None:
    """The splits of ddi stand as arrays in the shared folder; the files that OGB gives are written from them here."""
    from ogb.linkproppred import PygLinkPropPredDataset

    task = load("ogbl-ddi", root=shared("ogb"))
    assert isinstance(task, LinkTask)
    folder = tmp_path / "ogbl_ddi"
    shutil.copytree(shared("ogb", "ogbl_ddi"), folder)
    split = folder / "split" / "target"
    with np.load(split / "edge_split.npz") as arrays:
        for part in ("valid", "test"):
            torch.save(
                {key: arrays[f"{part}_{key}"].astype(np.int64) for key in ("edge", "edge_neg")}, split / f"{part}.pt"
            )
    edges = read_csv(folder / "raw" / "edge.csv.gz")
    torch.save({"edge": edges}, split / "train.pt")
    (split / "edge_split.npz").unlink()

    again = load("ogbl-ddi", root=tmp_path)
    assert isinstance(again, LinkTask)
    theirs = PygLinkPropPredDataset("ogbl-ddi", root=str(tmp_path))
    for ours in (task, again):
        assert same(ours.data, theirs[0])
        for part, entry in theirs.get_edge_split().items():
            assert torch.equal(ours.split["val" if part == "valid" else part], entry["edge"].t())
            if part != "train":
                assert torch.equal(ours.negatives["val" if part == "valid" else part], entry["edge_neg"].t())
    assert task.split["train"].shape == (2, 1067911)

    positive, negative = torch.rand(task.split["test"].size(1)), torch.rand(task.negatives["test"].size(1))
    # Hits@20 by its definition: how many true links score above the 20th best of the others.
    expected = (positive > negative.sort(descending=True)[0][19]).double().mean().item()
    assert task.evaluate((positive, negative), "test") == pytest.approx(expected, abs=1e-7)


def _graphs(count: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    graphs = []
    for number in range(count):
        nodes, edges = int(generator.integers(2, 6)), 0 if number == 1 else int(generator.integers(1, 7))
        graphs.append(
            {
                "edge_index": generator.integers(nodes, size=(2, edges)),
                "num_nodes": nodes,
                "node_feat": generator.normal(size=(nodes, 3)).astype(np.float32),
                "edge_feat": generator.integers(5, size=(edges, 2)),
            }
        )
    return graphs


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_dataset_saver_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, their_loaders: None) -> None:
    from ogb.io import DatasetSaver

    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    graphs, labels = _graphs(8, generator), generator.integers(2, size=(8, 1))
    split = {"train": np.array([0, 3, 5, 6]), "valid": np.array([1, 2]), "test": np.array([7, 4])}
    saver = DatasetSaver("ogbg-molbace", is_hetero=False, version=1)
    saver.save_graph_list(graphs)
    saver.save_target_labels(labels)
    saver.save_split(split, split_name="scaffold")
    Path(saver.dataset_dir).rename(tmp_path / "ogbg_molbace")

    task = load("ogbg-molbace", root=tmp_path)
    assert isinstance(task, GraphTask)
    for ours, written, label in zip(task.graphs, graphs, labels, strict=True):
        assert ours.edge_index.tolist() == written["edge_index"].tolist()
        assert ours.x.tolist() == written["node_feat"].tolist()
        assert ours.edge_attr.tolist() == written["edge_feat"].tolist()
        assert ours.num_nodes == written["num_nodes"]
        assert ours.y.tolist() == [label.tolist()]
    for part, ids in split.items():
        assert task.split["val" if part == "valid" else part].tolist() == ids.tolist()


def _csv(path: Path, rows: Any) -> None:
    """Write rows of numbers as OGB does; NaN is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(rows)
    array = array[:, None] if array.ndim == 1 else array
    with gzip.open(path, "wt") as file:
        file.writelines(
            ",".join("" if value != value else str(value) for value in row) + "\n" for row in array.tolist()
        )


def _node_set(folder: Path, split: str, labels: Any, **values: Any) -> np.ndarray:
    """Write a graph of six nodes in the CSV layout."""
    edges = np.array([[0, 1], [1, 2], [2, 3], [4, 3]])
    _csv(folder / "raw" / "edge.csv.gz", edges)
    _csv(folder / "raw" / "num-node-list.csv.gz", [6])
    _csv(folder / "raw" / "num-edge-list.csv.gz", [4])
    if labels is not None:
        _csv(folder / "raw" / "node-label.csv.gz", labels)
    for name, rows in values.items():
        _csv(folder / "raw" / f"{name.replace('_', '-') if name.endswith('feat') else name}.csv.gz", rows)
    if split:
        for part, ids in (("train", [0, 1, 2]), ("valid", [3]), ("test", [5, 4])):
            _csv(folder / "split" / split / f"{part}.csv.gz", ids)
    return edges


def test_arxiv_in_its_layout(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    features, years = np.random.default_rng(0).normal(size=(6, 4)), np.arange(2010, 2016)
    edges = _node_set(tmp_path / "ogbn_arxiv", "time", [3, 0, 39, 1, 2, 3], node_feat=features, node_year=years)
    task = load("ogbn-arxiv", root=tmp_path)
    assert isinstance(task, NodeTask)
    assert torch.equal(task.data.edge_index, torch.from_numpy(edges.T))
    assert torch.equal(task.data.x, torch.from_numpy(features).float())
    assert task.data.node_year.flatten().tolist() == years.tolist()
    assert task.target("test").tolist() == [3, 2]
    assert (task.out_channels, task.metric, task.split_name) == (40, "accuracy", "time")


def test_proteins_in_their_layout(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    labels = np.random.default_rng(0).integers(2, size=(6, 112))
    weights = np.random.default_rng(1).random((4, 8))
    edges = _node_set(tmp_path / "ogbn_proteins", "species", labels, edge_feat=weights, species=np.arange(6))
    task = load("ogbn-proteins", root=tmp_path)
    assert isinstance(task, NodeTask)
    both = [pair for i, j in edges.tolist() for pair in ([i, j], [j, i])]
    assert task.data.edge_index.t().tolist() == both
    assert torch.equal(task.data.edge_attr, torch.from_numpy(weights).float().repeat_interleave(2, dim=0))
    assert task.data.node_species.flatten().tolist() == list(range(6))
    assert (task.out_channels, task.num_features) == (112, 0)


def test_papers_in_the_binary_layout(tmp_path: Path) -> None:
    raw = tmp_path / "ogbn_papers100M" / "raw"
    _node_set(raw.parent, "time", None)
    for path in raw.iterdir():
        path.unlink()
    edges = np.array([[0, 1, 5], [1, 2, 0]])
    np.savez(
        raw / "data.npz", edge_index=edges, num_nodes_list=[6], num_edges_list=[3], node_feat=np.eye(6, dtype="f4")
    )
    np.savez(raw / "node-label.npz", node_label=np.array([[0.0], [171], [1], [2], [3], [4]]))
    pytest.importorskip("pandas", reason="pandas, which reads the split, is not installed")
    task = load("ogbn-papers100M", root=tmp_path)
    assert isinstance(task, NodeTask)
    assert torch.equal(task.data.edge_index, torch.from_numpy(edges))
    assert task.data.y.tolist() == [0, 171, 1, 2, 3, 4]
    np.savez(raw / "node-label.npz", node_label=np.array([[0.0], [171], [1], [np.nan], [3], [4]]))
    with pytest.raises(ValueError, match=r"labels of ogbn-papers100M hold 1 such as -1"):
        load("ogbn-papers100M", root=tmp_path)


def test_multitask_labels_may_be_missing(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    raw = tmp_path / "ogbg_molmuv" / "raw"
    labels = np.random.default_rng(0).integers(2, size=(4, 17)).astype(float)
    labels[1, 3] = labels[2, 0] = np.nan
    _csv(raw / "edge.csv.gz", [[0, 1], [1, 0], [0, 1]])
    _csv(raw / "num-node-list.csv.gz", [2, 2, 1, 2])
    _csv(raw / "num-edge-list.csv.gz", [1, 1, 0, 1])
    _csv(raw / "graph-label.csv.gz", labels)
    for part, ids in (("train", [0, 2]), ("valid", [1]), ("test", [3])):
        _csv(raw.parent / "split" / "scaffold" / f"{part}.csv.gz", ids)
    task = load("ogbg-molmuv", root=tmp_path)
    assert isinstance(task, GraphTask)
    found = torch.cat([graph.y for graph in task.graphs])
    assert torch.equal(found.nan_to_num(9), torch.from_numpy(labels).float().nan_to_num(9))
    assert [graph.edge_index.tolist() for graph in task.graphs] == [
        [[0, 1], [1, 0]],
        [[1, 0], [0, 1]],
        [[], []],
        [[0, 1], [1, 0]],
    ]
    assert (task.out_channels, task.metric) == (17, "average_precision")


def _save(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    for part, entry in entries.items():
        torch.save({key: np.asarray(value) for key, value in entry.items()}, folder / f"{part}.pt")


def test_citations_have_negatives_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    folder = tmp_path / "ogbl_citation2"
    _node_set(folder, "", None, node_feat=np.eye(6), node_year=np.arange(6))
    others = np.array([[0, 1, 3], [2, 3, 4]])
    entries = {
        "train": {"source_node": [0, 1, 2, 4], "target_node": [1, 2, 3, 3]},
        "valid": {"source_node": [5, 0], "target_node": [4, 5], "target_node_neg": others},
        "test": {"source_node": [5, 1], "target_node": [2, 4], "target_node_neg": others},
    }
    _save(folder / "split" / "time", entries)
    task = load("ogbl-citation2", root=tmp_path)
    assert isinstance(task, LinkTask)
    assert task.split["test"].tolist() == [[5, 1], [2, 4]]
    assert task.negatives["test"].tolist() == [[[5, 5, 5], [1, 1, 1]], others.tolist()]
    assert task.data.edge_index.tolist() == [[0, 1, 2, 4], [1, 2, 3, 3]]
    with pytest.raises(ValueError, match=r"scores \(2, 2\), negatives are \(2, 3\)"):
        task.evaluate((torch.zeros(2), torch.zeros(2, 2)))
    pytest.importorskip("ogb", reason="ogb is not installed")
    # The first link is ahead of all others, the second behind two: (1 + 1/3) / 2.
    scores: tuple[Tensor, Tensor] = (torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 0.5, -1.0], [1.0, 2.0, -1.0]]))
    assert task.evaluate(scores) == pytest.approx(2 / 3, abs=1e-7)


def test_collaborations_come_back(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    folder = tmp_path / "ogbl_collab"
    values = {"node_feat": np.eye(6), "edge_weight": [1, 2, 1, 3], "edge_year": [2000, 2001, 2002, 2003]}
    edges = _node_set(folder, "", None, **values)
    entry = {"edge": [[0, 1]], "weight": [1], "year": [2018], "edge_neg": [[0, 5]]}
    train = {"edge": edges, "weight": [1, 2, 1, 3], "year": [2000, 2001, 2002, 2003]}
    _save(folder / "split" / "time", {"train": train, "valid": entry, "test": entry})
    task = load("ogbl-collab", root=tmp_path)
    assert isinstance(task, LinkTask)
    assert task.repeats
    assert task.data.edge_year.flatten().tolist() == [2000, 2000, 2001, 2001, 2002, 2002, 2003, 2003]
    assert task.split["train"].tolist() == edges.T.tolist()


def test_a_leak_in_other_sets_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    edges = _node_set(tmp_path / "ogbl_ppa", "", None)
    entry = {"edge": [[1, 0]], "edge_neg": [[0, 5]]}
    _save(tmp_path / "ogbl_ppa" / "split" / "throughput", {"train": {"edge": edges}, "valid": entry, "test": entry})
    with pytest.raises(ValueError, match="split of ogbl-ppa leaks"):
        load("ogbl-ppa", root=tmp_path)


def test_ogb_downloads_and_places_the_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    server = tmp_path / "server" / "graphproppred" / "csv_mol_download"
    shutil.copytree(shared("ogb", "ogbg_molesol"), tmp_path / "zip" / "esol")
    server.mkdir(parents=True)
    shutil.make_archive(str(server / "esol"), "zip", tmp_path / "zip")
    monkeypatch.setattr(ogb, "_URL", (tmp_path / "server").as_uri() + "/")
    task = load("ogbg-molesol", root=tmp_path / "root")
    assert isinstance(task, GraphTask)
    assert len(task.graphs) == 1128
    assert (tmp_path / "root" / "ogbg_molesol" / "mapping" / "mol.csv.gz").is_file()
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["ogbg_molesol"]


def test_ogb_that_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    with pytest.raises(FileNotFoundError, match=r"ogbg_molbace: raw/edge.csv.gz, raw/num-node-list.csv.gz"):
        load("ogbg-molbace", root=tmp_path)
    with pytest.raises(ValueError, match="split is 'random'; ogbg-molbace has 'scaffold'"):
        load("ogbg-molbace", root=tmp_path, split="random")
    folder = tmp_path / "ogbn_arxiv"
    _node_set(folder, "time", [0, 1, 2, 3, 4, 5, 6], node_feat=np.eye(6))
    with pytest.raises(ValueError, match="ogbn-arxiv has 7 labels for 6 nodes"):
        load("ogbn-arxiv", root=tmp_path)
    _node_set(folder, "time", [0, 1, 2, 3, 4, 40], node_feat=np.eye(6))
    with pytest.raises(ValueError, match=r"labels of ogbn-arxiv hold 1 such as 40 .* classes from 0 to 39"):
        load("ogbn-arxiv", root=tmp_path)
    _node_set(folder, "time", [0, 1, 2, 3, 4, 5], node_feat=np.eye(5))
    with pytest.raises(ValueError, match="node_feat has 5 rows, the graphs have 6"):
        load("ogbn-arxiv", root=tmp_path)
    with gzip.open(folder / "raw" / "node-feat.csv.gz", "wt") as file:
        file.write("1,2\n3,4\n5,six\n")
    with pytest.raises(ValueError, match=r"node-feat\.csv\.gz, line 3: 'six' is not a number"):
        load("ogbn-arxiv", root=tmp_path)
    (folder / "raw" / "node-feat.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"the files of ogbn-arxiv in .* cannot be read"):
        load("ogbn-arxiv", root=tmp_path)
    _node_set(folder, "time", [0, 1, 2, 3, 4, 5], node_feat=np.eye(6))
    shutil.rmtree(folder / "split")
    with pytest.raises(ValueError, match=r"cannot be read \(FileNotFoundError"):
        load("ogbn-arxiv", root=tmp_path)


def test_pickles_of_splits_that_would_run_code_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")

    class Harmful:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harm",))

    _node_set(tmp_path / "ogbl_ppa", "", None)
    folder = tmp_path / "ogbl_ppa" / "split" / "throughput"
    folder.mkdir(parents=True)
    for part in ("train", "valid", "test"):
        torch.save({"edge": Harmful()}, folder / f"{part}.pt")
    with pytest.raises(ValueError, match="UnpicklingError"):
        load("ogbl-ppa", root=tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("archive", [True, False])
def test_arrays_saved_by_old_and_new_versions(tmp_path: Path, protocol: int, archive: bool) -> None:
    content = {"train": np.arange(3), "valid": np.arange(2, dtype=np.int32), "test": torch.ones(2)}
    options: dict[str, Any] = {"_use_new_zipfile_serialization": archive}
    torch.save(content, tmp_path / "split_dict.pt", pickle_protocol=protocol, **options)
    found = load_torch(tmp_path / "split_dict.pt")
    assert {part: ids.tolist() for part, ids in found.items()} == {part: ids.tolist() for part, ids in content.items()}


def test_graphs_without_pandas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphattn import _optional

    _node_set(tmp_path, "", None)
    for module in [module for module in sys.modules if module.split(".")[0] == "pandas"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pandas", None)
    _optional._attempt.cache_clear()
    try:
        with pytest.raises(ImportError, match=r"pip install 'graphattn\[ogb\]'"):
            read_graphs(tmp_path / "raw", SETS["ogbn-arxiv"])
    finally:
        _optional._attempt.cache_clear()
