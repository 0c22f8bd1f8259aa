"""The training of the learned re-ranker runs end to end, and keeps the people it searches out of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from graphattn.retrieval import ContextualReranker

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
QUICK = ["--quick", "--splits", "2", "--threads", "1"]


@pytest.fixture
def benchmark(scripts: Path) -> ModuleType:
    """The script as a module, its helpers beside it."""
    import train_contextual

    return train_contextual


def test_quick_run_and_resume(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = benchmark.parse([*QUICK, "--out", str(tmp_path)])
    results = benchmark.run(args)
    text = (tmp_path / "train_contextual.json").read_text()
    assert json.loads(text) == results
    assert str(FOLDER.parent) not in text
    assert list(results["splits"]) == ["0", "1"]
    for split in results["splits"].values():
        assert all(record["status"] == "ok" for record in split["training"].values()), split["training"]
        for record in split["training"].values():
            scores = record["validation_map"]
            assert scores[record["best_epoch"]] == max(scores)
        rows = split["sets"]["clusters"]
        assert set(rows) == {benchmark.FIRST, benchmark.RAW, *benchmark.TRAINED}
        assert all(0 < row["map"] <= 1 and row["queries"] == 30 and row["K"] == 29 for row in rows.values())
    assert (tmp_path / "train_contextual.md").read_text() in capsys.readouterr().out
    assert ContextualReranker.load(tmp_path / "reranking_cache" / "contextual_reranker.pt").width == 48
    assert not list(tmp_path.rglob("contextual_training*"))

    monkeypatch.setattr(benchmark, "measure_split", None)
    assert benchmark.run(benchmark.parse([*QUICK, "--out", str(tmp_path), "--resume"]))["splits"] == results["splits"]


def test_people_are_either_trained_on_or_searched(benchmark: ModuleType) -> None:
    data = benchmark.quick_set()
    seen = set()
    for seed in range(4):
        people, trains, searched = benchmark.split_people(data, seed)
        assert np.array_equal(people, np.repeat(np.arange(6), 10))
        assert set(people[trains]).isdisjoint(people[searched])
        assert sorted([*trains, *searched]) == list(range(60))
        assert len(trains) == 30
        seen.add(tuple(trains))
    assert len(seen) > 1


def test_average_precision(benchmark: ModuleType) -> None:
    angle = np.radians([1, 10, 20, 25, 100, 130])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = benchmark.judge(x, np.array([0, 0, 1, 0, 1, 1]), None)
    # Positives stand at ranks 1 and 3, and for the item at 25 degrees at ranks 2 and 3.
    assert found["ap"][[0, 1, 3]] == pytest.approx([(1 + 2 / 3) / 2, (1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2])
    assert found["P_1"].tolist()[4:] == [True, True]
    assert found["P_5"] == pytest.approx(np.full(6, 2 / 5))
    row = benchmark.compare({**found, "ap": found["ap"] + [0.1, 0, -0.1, 0, 0, 0]}, found)
    assert (row["better"], row["worse"], row["queries"]) == (1, 1, 6)
