"""Stack Overflow's badges: the files, their folds, and what is wrong with them, by its line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphattn.datasets import SequenceTask, load_badges
from graphattn.datasets.badges import read_sequences

from .cases import shared

NAMES = "id, badge\n" + "".join(f"{number}, Badge {number}\n" for number in range(22, 0, -1))


def folder(path: Path, events: str, times: str) -> Path:
    """A tiny folder in the layout of the source: the lines train but for the last, which tests."""
    path.mkdir()
    for stem, text in (("event", events), ("time", times)):
        lines = text.splitlines(keepends=True)
        (path / f"{stem}-2-train.txt").write_text("".join(lines[:-1]))
        (path / f"{stem}-2-test.txt").write_text(lines[-1])
    (path / "badges.csv").write_text(NAMES)
    return path


def test_the_shared_files() -> None:
    root = shared("temporal", "npp_stackoverflow")
    task = load_badges(root.parent)
    assert (task.num_sequences, len(task.t), task.num_types) == (4468, 327487, 22)
    assert task.classes[3] == "Popular Question"
    with gzip.open(root / "event.txt.gz", "rt") as events, gzip.open(root / "time.txt.gz", "rt") as times:
        for number, (line, moments) in enumerate(zip(events, times, strict=True)):
            if number % 500 == 0:
                rows = slice(task.ptr[number], task.ptr[number + 1])
                assert task.event_type[rows].tolist() == list(map(int, line.split()))
                assert task.t[rows].tolist() == list(map(float, moments.split()))
    windows = task.windows("val", length=100)
    assert torch.equal(windows.event_type[windows.scored], task.target("val"))


def test_every_user_tests_in_one_fold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 6, 103)
    events = "".join(" ".join(map(str, rng.integers(1, 23, n))) + "\n" for n in lengths)
    times = "".join(" ".join(map(str, np.sort(rng.random(n)))) + "\n" for n in lengths)
    folder(tmp_path / "StackOverflow", events, times)
    tasks = [load_badges(tmp_path, fold) for fold in range(5)]
    assert [task.split_name for task in tasks] == [f"users:{fold}" for fold in range(5)]
    assert torch.cat([task.split["test"] for task in tasks]).sort()[0].tolist() == list(range(103))
    for task in tasks:
        assert torch.cat(list(task.split.values())).sort()[0].tolist() == list(range(103))
        assert [len(ids) for ids in task.split.values()][1] == 8
    assert torch.equal(load_badges(tmp_path).split["test"], tasks[0].split["test"])
    assert tasks[0].event_type.tolist() == list(map(int, events.split()))
    assert tasks[0].t.tolist() == list(map(float, times.split()))
    assert tasks[0].classes[:2] == ("Badge 1", "Badge 2")
    assert isinstance(tasks[0], SequenceTask)


@pytest.mark.parametrize(
    ("events", "times", "message"),
    [
        ("1 2\n3 x\n4 5\n", "1 2\n3 4\n4 5\n", r"event-2-train.txt, line 2: invalid literal"),
        (
            "1 2\n3 1\n4 5\n",
            "1 2\n3 4 5\n4 5\n",
            r"event-2-train.txt, line 2: 2 types, but 3 times in .*time-2-train",
        ),
        ("1 2\n3 1\n4 5\n", "1 2\n3 4\n5 4\n", r"time-2-test.txt, line 1: time 2 is before time 1"),
        ("1 2\n3 1\n4 5\n", "1 2\n4 5\n", r"event-2-train.txt has 2 lines, but .*time-2-train.txt 1"),
    ],
)
def test_broken_files(events: str, times: str, message: str, tmp_path: Path) -> None:
    folder(tmp_path / "StackOverflow", events, times)
    with pytest.raises(ValueError, match=message):
        load_badges(tmp_path)


def test_names_that_are_missing(tmp_path: Path) -> None:
    path = folder(tmp_path / "StackOverflow", "1 2\n" * 20, "1 2\n" * 20)
    (path / "badges.csv").write_text("id, badge\n1, Guru\n")
    with pytest.raises(ValueError, match=r"badges.csv names the types \[1\]; expected 1 to 22"):
        load_badges(tmp_path)


def test_files_that_are_missing(tmp_path: Path, offline: list[str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"put these files into .*StackOverflow: event-2-train.txt"):
        load_badges(tmp_path)
    assert offline == [
        "https://raw.githubusercontent.com/dunan/NeuralPointProcess/master/data/real/so/event-2-train.txt"
    ]
    assert list(tmp_path.iterdir()) == []


def test_downloads_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = folder(tmp_path / "server", "1 2\n" * 20, "1 2\n" * 20)
    monkeypatch.setattr("graphattn.datasets.badges._URL", server.as_uri() + "/")
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(ValueError, match="StackOverflow was downloaded with 20 users; expected 6633"):
        load_badges(root)
    assert list(root.iterdir()) == []
    monkeypatch.setattr("graphattn.datasets.badges._NUM_SEQUENCES", 20)
    assert load_badges(root, 1).num_sequences == 20
    assert sorted(path.name for path in (root / "StackOverflow").iterdir()) == sorted(
        path.name for path in server.iterdir()
    )


def test_sequences_of_several_files_follow_one_another(tmp_path: Path) -> None:
    given: dict[str, Any] = {"a": "1 2\n", "b": "3 4 5\n6 7\n", "s": "0 1\n", "t": "0 1.5 2\n3 3\n"}
    for name, text in given.items():
        (tmp_path / name).write_text(text)
    event_type, t, ptr = read_sequences([tmp_path / "a", tmp_path / "b"], [tmp_path / "s", tmp_path / "t"])
    assert event_type.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert t.tolist() == [0, 1, 0, 1.5, 2, 3, 3]
    assert ptr.tolist() == [0, 2, 5, 7]
