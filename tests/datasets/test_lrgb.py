"""LRGB on tiny generated files in the original layout; the sets themselves were not at hand."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.datasets import GraphTask, load, lrgb

SIZES = {"train": 4, "val": 2, "test": 3}


def _write(folder: Path, name: str) -> dict[str, list[tuple]]:
    """Write graphs as tuples, the way the benchmark does: by torch the peptides, by pickle the superpixels."""
    folder.mkdir(parents=True)
    written: dict[str, list[tuple]] = {}
    for part, size in SIZES.items():
        entries: list[tuple] = []
        for number in range(size):
            nodes = number + 3
            edges = torch.randint(nodes, (2, 5))
            y: Any
            if name == "Peptides-func":
                y = torch.randint(2, (1, 10)).float()
            elif name == "Peptides-struct":
                y = torch.randn(1, 11)
            else:
                y = [0, 90, 13] + [1] * (nodes - 3)
            x, attr = (
                (torch.randint(9, (nodes, 9)), torch.randint(3, (5, 3)))
                if name.startswith("Pep")
                else (torch.randn(nodes, 14, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64))
            )
            entries.append((x, attr, edges, y))
        if name.startswith("Peptides"):
            torch.save(entries, folder / f"{part}.pt")
        else:
            (folder / f"{part}.pickle").write_bytes(pickle.dumps(entries))
        written[part] = entries
    return written


@pytest.mark.parametrize("name", ["Peptides-func", "Peptides-struct", "COCO-SP"])
@pytest.mark.parametrize("lower", [True, False])
def test_graphs_are_what_was_written(name: str, lower: bool, tmp_path: Path) -> None:
    written = _write(tmp_path / (name.lower() if lower else name) / "raw", name)
    task = load(name, root=tmp_path)
    assert isinstance(task, GraphTask)
    assert task.split_name == "official"
    for part, entries in written.items():
        assert len(task.split[part]) == SIZES[part]
        for i, (x, attr, edges, y) in zip(task.split[part].tolist(), entries, strict=True):
            graph = task.graphs[i]
            assert torch.equal(graph.x, x if name.startswith("Pep") else x.float())
            assert torch.equal(graph.edge_attr, attr if name.startswith("Pep") else attr.float())
            assert torch.equal(graph.edge_index, edges)
            if isinstance(y, Tensor):
                assert torch.equal(graph.y, y)
            else:  # COCO skips 12 before 13, and ten numbers before 90
                assert graph.y.tolist()[:3] == [0, 80, 12]
    assert task.out_channels == {"Peptides-func": 10, "Peptides-struct": 11, "COCO-SP": 81}[name]


def test_metrics_of_the_benchmark(tmp_path: Path) -> None:
    _write(tmp_path / "peptides-struct", "Peptides-struct")
    task = load("peptides_struct", root=tmp_path)
    assert isinstance(task, GraphTask)
    prediction = torch.randn(3, 11)
    expected = (prediction.double() - task.target().double()).abs().mean().item()
    assert task.evaluate(prediction) == pytest.approx(expected, rel=1e-14)
    assert not task.higher_is_better


def test_lrgb_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "server" / "files" / "peptidesfunc", "Peptides-func")
    shutil.make_archive(str(tmp_path / "server" / "peptidesfunc"), "zip", tmp_path / "server" / "files")
    monkeypatch.setattr(lrgb, "_URL", (tmp_path / "server").as_uri() + "/{}.zip")
    monkeypatch.setitem(lrgb.SETS, "Peptides-func", (*lrgb.SETS["Peptides-func"][:3], "peptidesfunc", ""))
    assert isinstance(load("Peptides-func", root=tmp_path / "root"), GraphTask)
    assert sorted(path.name for path in (tmp_path / "root" / "peptides-func" / "raw").iterdir()) == [
        "test.pt",
        "train.pt",
        "val.pt",
    ]


def test_lrgb_that_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "pascalvoc-sp", "PascalVOC-SP")

    class Harmful:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harm",))

    (tmp_path / "pascalvoc-sp" / "val.pickle").write_bytes(pickle.dumps([Harmful()]))
    with pytest.raises(ValueError, match=r"val\.pickle cannot be read \(it names pathlib"):
        load("PascalVOC-SP", root=tmp_path)
    assert not (tmp_path / "harm").exists()
    _write(tmp_path / "peptides-func", "Peptides-func")
    torch.save([3], tmp_path / "peptides-func" / "test.pt")
    with pytest.raises(ValueError, match=r"test\.pt cannot be read .* expected a list of tuples of tensors"):
        load("Peptides-func", root=tmp_path)
    (tmp_path / "peptides-func" / "test.pt").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"test\.pt cannot be read"):
        load("Peptides-func", root=tmp_path)
    with pytest.raises(ValueError, match=r"PCQM-Contact., which is left out: it asks for links within many graphs"):
        load("PCQM-Contact", root=tmp_path)
