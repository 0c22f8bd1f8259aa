"""Events of one's own: tables, and what is wrong with them, by its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphattn.datasets import EventTask, load

HEADER = "src,dst,t,weight,label\n"
ROWS = [f"u{i % 4}, v{i % 3},{i // 2},{i / 10},{i % 2}\n" for i in range(40)]


def events_of(path: Path, text: str, split: str | None = "chronological-70-15-15") -> EventTask:
    path.write_text(text)
    task = load(f"local:{path}", split=split)
    assert isinstance(task, EventTask)
    return task


def without(column: int) -> str:
    """The table without a column."""
    lines = [line.strip().split(",") for line in [HEADER, *ROWS]]
    return "".join(",".join(cells[:column] + cells[column + 1 :]) + "\n" for cells in lines)


def test_a_table_with_labels(tmp_path: Path) -> None:
    task = events_of(tmp_path / "mine.csv", HEADER + "".join(ROWS), None)
    assert task.split_name == "chronological-70-15-15"
    assert (task.name, task.kind, task.metric, task.num_nodes, task.licence) == (
        "mine",
        "node",
        "roc_auc",
        7,
        "your own",
    )
    assert task.node_ids == ("u0", "u1", "u2", "u3", "v0", "v1", "v2")
    assert [task.node_ids[i] for i in task.data.dst[:4].tolist()] == ["v0", "v1", "v2", "v0"]
    assert task.data.t.tolist() == [i // 2 for i in range(40)]
    assert task.data.t.dtype == torch.int64
    assert torch.equal(task.data.msg, torch.arange(40.0)[:, None] / 10)
    assert task.data.y.tolist() == [i % 2 for i in range(40)]
    assert [len(ids) for ids in task.split.values()] == [28, 6, 6]


def test_a_table_without_labels_asks_for_links(tmp_path: Path) -> None:
    task = events_of(tmp_path / "mine.csv", without(4), None)
    assert (task.kind, task.metric, task.split_name) == ("link", "average_precision", "inductive-70-15-15:0")
    assert task.bipartite
    assert (
        events_of(tmp_path / "bare.csv", "src,dst,t\n" + "".join(f"a,b{i},{i / 4}\n" for i in range(20))).num_features
        == 0
    )


def test_times_keep_every_digit(tmp_path: Path) -> None:
    big = 1 << 52
    integers = "src,dst,t\n" + "".join(f"a,b{i},{big + i}\n" for i in range(20))
    assert events_of(tmp_path / "a.csv", integers).data.t.tolist() == [big + i for i in range(20)]
    fractions = "src,dst,t\n" + "".join(f"a,b{i},{1600000000 + i}.25\n" for i in range(20))
    task = events_of(tmp_path / "b.csv", fractions)
    assert task.data.t.dtype == torch.float64
    assert task.data.t.tolist() == [1600000000.25 + i for i in range(20)]


def test_labels_of_many_kinds(tmp_path: Path) -> None:
    def labelled(labels: list[str]) -> EventTask:
        rows = [f"a,b{i},{i},{label}\n" for i, label in enumerate(labels)]
        return events_of(tmp_path / "mine.csv", "src,dst,t,label\n" + "".join(rows))

    words = labelled(["low", "", "high", "mid"] * 5)
    assert (words.metric, words.classes, words.out_channels) == ("accuracy", ("high", "low", "mid"), 3)
    assert 1 not in words.split["train"].tolist()
    assert sum(len(ids) for ids in words.split.values()) == 15
    values = labelled([f"{i}.5" for i in range(20)])
    assert (values.metric, values.num_classes) == ("rmse", None)


def test_tables_in_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"src": list(range(20)), "dst": [5] * 20, "t": [i / 2 for i in range(20)], "z": [1.0] * 20}
    parquet.write_table(pa.table(columns), tmp_path / "mine.parquet")
    task = load(f"local:{tmp_path / 'mine.parquet'}", split="chronological-70-15-15")
    assert isinstance(task, EventTask)
    assert task.node_ids[:3] == ("0", "1", "2")
    assert task.data.t.tolist() == columns["t"]
    parquet.write_table(pa.table({**columns, "dst": [None, *[5] * 19]}), tmp_path / "mine.parquet")
    with pytest.raises(ValueError, match=r"mine.parquet, row 1, column 'dst': an empty cell is no node"):
        load(f"local:{tmp_path / 'mine.parquet'}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("u0,v0,4,1,0", r"mine.csv, line 21, column 't': '4' is before that of line 20, 9; sort the rows by t"),
        ("u0,v0,-4,1,0", r"line 21, column 't': '-4' is negative; shift all times, such as to start at 0"),
        ("u0,v0,nan,1,0", r"line 21, column 't': an empty cell|line 21, column 't': 'nan' is no finite number"),
        ("u0,v0,,1,0", r"line 21, column 't': an empty cell is no finite number; convert dates to seconds"),
        ("u0,v0,2024-01-01,1,0", r"line 21, column 't': '2024-01-01' is no finite number; convert dates to seconds"),
        (
            "u0,v0,1700000000000000000,1,0",
            r"line 21, column 't': '17.*' is beyond 2\*\*53, .* convert nanoseconds to sec",
        ),
        ("u0,,10,1,0", r"line 21, column 'dst': an empty cell is no node"),
        ("u0,v0,10,,0", r"line 21, column 'weight': an empty cell is no finite number; features must be known"),
        ("u0,v0,10,x,0", r"line 21, column 'weight': 'x' is no finite number"),
        ("u0,v0,10,1", r"line 21: 4 fields, but the header has 5"),
        ("u0,v0,10,1,-3", r"line 21, column 'label': '-3' is no class; classes count from 0"),
    ],
)
def test_broken_rows(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        events_of(tmp_path / "mine.csv", HEADER + "".join([*ROWS[:19], row + "\n", *ROWS[20:]]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from,to,t\na,b,1\n", r"mine.csv has the columns from, to, t; src, dst is missing"),
        (HEADER, r"local:.*mine.csv has no events; expected at least one in each part"),
        ("src,dst,t\n" + "a,b,1\n" * 20, r"split 'val' of mine is empty"),
    ],
)
def test_broken_tables(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        events_of(tmp_path / "mine.csv", text)


def test_a_table_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"mine.csv does not exist; expected a table with the columns src, dst"):
        load(f"local:{tmp_path / 'mine.csv'}")
    (tmp_path / "mine.csv").write_text(without(4))
    with pytest.raises(ValueError, match=r"split is 'given'; local:.*mine.csv has 'inductive-70-15-15:SEED'"):
        load(f"local:{tmp_path / 'mine.csv'}", split="given")
