"""HIV from SMILES: molecules against OGB's files and its own function, the task on a part of it."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.datasets import GraphTask, load, molecules
from graphattn.datasets.molecules import read_smiles
from tests.datasets.cases import shared

pd = pytest.importorskip("pandas", reason="pandas is not installed")
pytest.importorskip("rdkit", reason="rdkit is not installed")
pytest.importorskip("ogb.utils.features", reason="ogb is not installed")

REFUSED = "C[N](C)(C)C"  # four bonds of a nitrogen without charge


def test_bace_from_smiles_is_what_ogb_gives() -> None:
    smiles = pd.read_csv(shared("ogb", "ogbg_molbace", "mapping", "mol.csv.gz"))["smiles"].tolist()[:300]
    task = load("ogbg-molbace", root=shared("ogb"))
    assert isinstance(task, GraphTask)
    for ours, theirs in zip(read_smiles(smiles), task.graphs[:300], strict=True):
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.edge_index, theirs.edge_index)
        assert torch.equal(ours.edge_attr, theirs.edge_attr)


def test_molecules_are_what_smiles2graph_gives() -> None:
    from ogb.utils import smiles2graph

    smiles = ["CCO", "[Na+].[Cl-]", "C", "c1ccccc1O", "N#N", "F/C=C/F", "N[C@@H](C)C(=O)O"]
    for text, ours in zip(smiles, read_smiles(smiles), strict=True):
        theirs = smiles2graph(text)
        assert ours.x.tolist() == theirs["node_feat"].tolist()
        assert ours.edge_index.tolist() == theirs["edge_index"].tolist()
        assert ours.edge_attr.tolist() == theirs["edge_feat"].tolist()
        assert ours.num_nodes == theirs["num_nodes"]


def test_valences_that_rdkit_refuses_are_read() -> None:
    from rdkit import Chem

    assert Chem.MolFromSmiles(REFUSED) is None
    (graph,) = read_smiles([REFUSED])
    assert graph.x[:, 0].tolist() == [5, 6, 5, 5, 5]  # atomic numbers, less one
    assert graph.edge_index.tolist() == [[0, 1, 1, 2, 1, 3, 1, 4], [1, 0, 2, 1, 3, 1, 4, 1]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("C1CC", "is no SMILES that rdkit reads"),
        ("not one", "is no SMILES that rdkit reads"),
        ("", "has no atoms"),
        ("c1cccc1", "is refused by rdkit"),
    ],
)
def test_what_is_no_molecule(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"molecule 1, '{text}', {reason}"):
        read_smiles(["CC", text])


def _part(folder: Path, rows: int = 60) -> list[str]:
    """Write the first molecules of HIV, all of which rdkit reads or not, and a split of them."""
    source = shared("molecules", "hiv.csv.gz")
    with gzip.open(source, "rt") as file:
        lines = [next(file) for _ in range(rows + 1)]
    with gzip.open(folder / "hiv.csv.gz", "wt") as file:
        file.writelines(lines)
    np.savez(folder / "hiv_scaffold_split.npz", train=np.arange(4, rows), valid=np.array([0, 1]), test=np.array([3, 2]))
    return [line.strip() for line in lines[1:]]


def test_hiv_from_smiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _part(tmp_path)
    task = load("molhiv_smiles", root=tmp_path)
    assert isinstance(task, GraphTask)
    assert [int(graph.y) for graph in task.graphs] == [int(line[-1]) for line in lines]
    assert task.split["test"].tolist() == [3, 2]
    assert (task.name, task.split_name, task.metric, task.out_channels) == ("molhiv-smiles", "scaffold", "roc_auc", 1)
    expected = read_smiles([line.rpartition(",")[0] for line in lines])
    monkeypatch.setattr(molecules, "_arrays", lambda smiles: pytest.fail("the graphs are kept"))
    again = load("molhiv-smiles", root=tmp_path)
    assert isinstance(again, GraphTask)
    for graphs in (task.graphs, again.graphs):
        for ours, theirs in zip(graphs, expected, strict=True):
            assert torch.equal(ours.x, theirs.x)
            assert torch.equal(ours.edge_attr, theirs.edge_attr)
            assert torch.equal(ours.edge_index, theirs.edge_index)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "hiv.csv.gz",
        "hiv_graphs.npz",
        "hiv_scaffold_split.npz",
    ]


def test_what_was_kept_of_other_files_is_made_again(tmp_path: Path) -> None:
    _part(tmp_path)
    load("molhiv-smiles", root=tmp_path)
    _part(tmp_path, rows=50)
    task = load("molhiv-smiles", root=tmp_path)
    assert isinstance(task, GraphTask)
    assert len(task.graphs) == 50
    (tmp_path / "hiv_graphs.npz").write_bytes(b"half a file")
    again = load("molhiv-smiles", root=tmp_path)
    assert isinstance(again, GraphTask)
    assert len(again.graphs) == 50


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    _part(tmp_path)
    tmp_path.chmod(0o500)
    try:
        assert isinstance(load("molhiv-smiles", root=tmp_path), GraphTask)
    finally:
        tmp_path.chmod(0o700)


def test_hiv_that_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"put hiv\.csv\.gz and hiv_scaffold_split\.npz there"):
        load("molhiv-smiles", root=tmp_path)
    _part(tmp_path)
    np.savez(tmp_path / "hiv_scaffold_split.npz", train=np.arange(3))
    with pytest.raises(ValueError, match="valid, test is missing"):
        load("molhiv-smiles", root=tmp_path)
    with gzip.open(tmp_path / "hiv.csv.gz", "wt") as file:
        file.write("smiles,active\nCC,1\n")
    with pytest.raises(ValueError, match="has the columns smiles, active; expected smiles and HIV_active"):
        load("molhiv-smiles", root=tmp_path)
    with gzip.open(tmp_path / "hiv.csv.gz", "wt") as file:
        file.write("smiles,HIV_active\nCC,1\nCO,\n")
    with pytest.raises(ValueError, match=r"hiv\.csv\.gz, line 3: HIV_active is ''; expected 0 or 1"):
        load("molhiv-smiles", root=tmp_path)
    with pytest.raises(ValueError, match="split is 'random'; molhiv-smiles has 'scaffold'"):
        load("molhiv-smiles", root=tmp_path, split="random")


@pytest.mark.slow
def test_all_of_hiv(tmp_path: Path) -> None:
    for name in ("hiv.csv.gz", "hiv_scaffold_split.npz"):
        (tmp_path / name).symlink_to(shared("molecules", name))
    task = load("molhiv-smiles", root=tmp_path)
    assert isinstance(task, GraphTask)
    assert {part: len(ids) for part, ids in task.split.items()} == {"train": 32901, "val": 4113, "test": 4113}
    # OGB's averages: 25.5 atoms and 27.5 bonds a molecule.
    assert round(sum(graph.num_nodes or 0 for graph in task.graphs) / 41127, 1) == 25.5
    assert round(sum(graph.num_edges for graph in task.graphs) / 2 / 41127, 1) == 27.5
