"""The catalog: names, and the sets that need no files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.datasets import KarateClub
from torch_geometric.utils import is_undirected

from graphattn.datasets import NodeTask, load, names


def test_names_are_known_in_any_case() -> None:
    assert len(names()) == len({name.lower().replace("_", "-") for name in names()})
    for name in ("SBM", "sbm", "Sbm"):
        assert load(name).name == "sbm"
    assert load("digits_KNN").name == "digits-knn"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Coraa", r"name is 'Coraa', which is no known set \(near: 'Cora'"),
        ("ogbg-hiv", r"near: .*'ogbg-molhiv'"),
        ("mineswepper", r"\(near: 'Minesweeper'"),
        ("squirrel", r"name is 'squirrel', which is left out: nodes come twice.* load 'squirrel-filtered'"),
        ("ogbn-mag", r"left out: it is heterogeneous"),
        ("xyzzy", r"\(graphattn.datasets.names\(\) lists all\); a graph of your own is 'local:PATH'"),
        ("", r"name is ''"),
    ],
)
def test_names_that_are_not_known(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(name)


def test_types_of_names() -> None:
    with pytest.raises(TypeError, match="name is 3; expected the name of a set"):
        load(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in names() if name not in ("digits-knn", "karate", "sbm")])
def test_every_set_that_needs_files_says_where_they_belong(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load(name, root=tmp_path)
    assert "put" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", names())
def test_every_set_lists_its_splits(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"split is 'none'; {name} has '"):
        load(name, root=tmp_path, split="none")


def embedded(name: str, split: Any = None) -> NodeTask:
    task = load(name, root="/no/such/folder", split=split)
    assert isinstance(task, NodeTask)
    assert is_undirected(task.data.edge_index)
    return task


def test_karate() -> None:
    task, theirs = embedded("karate"), KarateClub()[0]
    assert torch.equal(task.data.edge_index, theirs.edge_index)
    assert torch.equal(task.data.y, theirs.y)
    assert torch.equal(task.split["train"], theirs.train_mask.nonzero().flatten())
    assert sorted(torch.cat(list(task.split.values())).tolist()) == list(range(34))
    assert not torch.equal(embedded("karate", 1).split["val"], task.split["val"])
    assert embedded("karate", "random-60-20-20").split_name == "random-60-20-20:0"


def test_digits_are_joined_with_their_nearest() -> None:
    task = embedded("digits-knn")
    x = task.data.x.double()
    squares = (x * x).sum(1)
    distance = (squares[:, None] + squares - 2 * x @ x.T).fill_diagonal_(torch.inf)
    tenth = distance.sort(dim=1)[0][:, 9]
    source, target = task.data.edge_index
    near = distance[source, target] <= torch.maximum(tenth[source], tenth[target]) + 1e-9
    assert near.all()
    assert 1797 * 10 <= task.data.num_edges <= 1797 * 20
    assert (task.num_classes, task.num_features) == (10, 64)
    twenty = embedded("digits-knn", "random-20")
    assert twenty.data.y[twenty.split["train"]].bincount().tolist() == [20] * 10


def test_the_block_model_is_always_the_same_and_has_blocks() -> None:
    first, second = embedded("sbm"), embedded("sbm", 5)
    assert torch.equal(first.data.x, second.data.x)
    assert torch.equal(first.data.edge_index, second.data.edge_index)
    assert (first.split_name, second.split_name) == ("random-60-20-20:0", "random-60-20-20:5")
    y, (source, target) = first.data.y, first.data.edge_index
    within = (y[source] == y[target]).sum().item() / 2
    between = first.data.num_edges / 2 - within
    # Binomial counts, within five standard deviations of their means.
    for count, pairs, chance in ((within, 4 * 100 * 99 / 2, 0.08), (between, 6 * 100 * 100, 0.01)):
        assert abs(count - pairs * chance) < 5 * (pairs * chance * (1 - chance)) ** 0.5
