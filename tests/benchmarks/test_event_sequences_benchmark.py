"""The benchmark of event sequences runs end to end, goes on where it was stopped, and its rules are right."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from graphattn.datasets import SequenceTask, periodic_events

pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is not installed")

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
QUICK = ["--quick", "--folds", "2", "--seeds", "1", "--threads", "1"]


@pytest.fixture
def benchmark(scripts: Path) -> ModuleType:
    """The script as a module, its helpers beside it."""
    import event_sequences

    return event_sequences


def test_quick_run_resume_and_report(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = benchmark.run(benchmark.parse([*QUICK, "--out", str(tmp_path)]))
    text = (tmp_path / "event_sequences.json").read_text()
    assert json.loads(text) == results
    assert str(FOLDER.parent) not in text
    assert list(results["streams"]) == list(benchmark.STREAMS)
    runs = [stream["seeds"]["0"] for stream in results["streams"].values()] + list(results["badges"]["folds"].values())
    assert len(runs) == 5
    assert all(set(benchmark.MORE) < set(records) for records in runs[3:])
    for records in runs:
        assert set(benchmark.MODELS) < set(records)
        for name, record in records.items():
            assert 0 <= record["accuracy"] <= 1, name
            assert record["time_error"] > 0, name
    report = (tmp_path / "event_sequences.md").read_text()
    assert report in capsys.readouterr().out

    # What is there is not trained again, and what failed is.
    del results["badges"]["folds"]["1"]["time, Mercer"]
    (tmp_path / "event_sequences.json").write_text(json.dumps(results))
    seen = []

    def train(task: SequenceTask, *_: object) -> dict[str, float]:
        seen.append(task.name)
        raise RuntimeError("no luck")

    monkeypatch.setattr(benchmark, "train", train)
    again = benchmark.run(benchmark.parse([*QUICK, "--out", str(tmp_path), "--resume"]))
    assert len(seen) == 1
    assert again["streams"] == results["streams"]
    assert "| time, Mercer | failed: RuntimeError: no luck |" in (tmp_path / "event_sequences.md").read_text()
    assert benchmark.run(benchmark.parse(["--report", "--out", str(tmp_path)])) == again


def test_rules_are_counts(benchmark: ModuleType) -> None:
    """1 is followed by 2 and 2 by 1, but once; the test sequence follows the rule in two of three steps."""
    task = SequenceTask(
        name="toy",
        event_type=torch.tensor([1, 2, 1, 2, 1, 2, 2, 1, 2, 1, 2, 1, 1]),
        t=torch.tensor([0, 1, 2, 3, 4, 5, 9, 0, 7, 0, 3, 6, 9]).double(),
        ptr=torch.tensor([0, 7, 9, 13]),
        num_types=2,
        split={"train": torch.tensor([0]), "val": torch.tensor([1]), "test": torch.tensor([2])},
        split_name="own",
        metric="accuracy",
        licence="generated",
    )
    found = benchmark.rules(task)
    assert found["most frequent after the last type"] == {"accuracy": pytest.approx(2 / 3), "time_error": 2.0}
    assert found["most frequent type"]["accuracy"] == pytest.approx(1 / 3)


def test_networks_are_as_wide_as_one_another(benchmark: ModuleType) -> None:
    task = periodic_events(10, 4)
    sizes = [
        sum(p.numel() for p in benchmark.EventSequenceModel(task.num_types, benchmark.DIM, 1, **options).parameters())
        for name, options in benchmark.MODELS.items()
        if name != "order, learned"  # which has a table of places besides
    ]
    assert max(sizes) < 1.05 * min(sizes)


@pytest.mark.parametrize("arguments", [[], ["--quick", "--folds", "6"], ["--quick", "--seeds", "0"]])
def test_arguments_that_do_not_fit(benchmark: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.parse(arguments)
