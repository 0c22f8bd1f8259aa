"""The benchmark of streams of events: it runs and resumes, chooses by validation, and says where it misses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch_geometric.data import TemporalData

from graphattn.datasets import EventTask, chronological_split

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is not installed")


def stream() -> EventTask:
    generator = torch.Generator().manual_seed(0)
    src, dst = torch.randint(0, 20, (2, 200), generator=generator)
    data = TemporalData(src=src, dst=dst, t=torch.arange(200) * 7, msg=torch.zeros(200, 0))
    split = chronological_split(data)
    return EventTask(name="toy", data=data, num_nodes=20, split=split, split_name="own", licence="generated")


@pytest.fixture
def temporal(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with its folder on the path, on a stream of its own."""
    import temporal as script

    monkeypatch.setattr(script, "load_events", lambda name, args: stream())
    return script


def run(temporal: ModuleType, out: Path, *options: str) -> dict[str, Any]:
    words = ["--quick", "--seeds", "1", "--repeats", "1", "--threads", "1", "--sets", "CollegeMsg", "--out", str(out)]
    return temporal.run(temporal.parse([*words, *options]))


def test_quick_run_measures_everything_and_resumes(
    temporal: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[tuple[Any, ...]] = []
    train = temporal.train
    monkeypatch.setattr(temporal, "train", lambda *what: trained.append(what[1:4]) or train(*what))
    results = run(temporal, tmp_path)
    assert sorted(trained) == sorted((model, rate, 0) for model in temporal.MODELS for rate in (1e-3, 1e-4))
    for model, entry in results["links"]["sets"]["CollegeMsg"].items():
        best = max(entry["rates"].values(), key=lambda run: run["val"])
        assert entry["seeds"]["0"] == best, model
        assert best["status"] == "ok"
        assert 0 <= best["test"] <= 1
    speed = results["speed"]["cases"]["quick"]
    assert speed["status"] == "ok", speed
    assert set(speed["ratio"]) == set(speed["ratios"]) == {"equal", "example"}
    assert min(speed["ratio"].values()) > 0
    assert all(len(ratios) == 9 for ratios in speed["ratios"].values())
    text = (tmp_path / "temporal.json").read_text()
    assert json.loads(text) == results
    assert str(FOLDER.parent) not in text
    report = (tmp_path / "temporal.md").read_text()
    assert report in capsys.readouterr().out
    assert "mean nothing" in report
    assert not list(tmp_path.glob("*.partial"))

    trained.clear()
    resumed = run(temporal, tmp_path, "--resume", "--seeds", "2", "--parts", "links", "--models", "TGAT")
    rate = resumed["links"]["sets"]["CollegeMsg"]["TGAT"]["rate"]
    assert trained == [("TGAT", rate, 1)]
    assert resumed["links"]["sets"]["CollegeMsg"]["GAT"] == results["links"]["sets"]["CollegeMsg"]["GAT"]
    monkeypatch.setattr(temporal, "QUICK", {**temporal.QUICK, "channels": 16})
    with pytest.raises(SystemExit, match="trained otherwise"):
        run(temporal, tmp_path, "--resume", "--parts", "links")


def test_failures_are_told_and_tried_again(
    temporal: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train = temporal.train

    def fails(task: EventTask, model: str, rate: float, *rest: Any) -> dict[str, Any]:
        if rate == 1e-4 or model == "GAT":
            raise FloatingPointError("the loss is nan in /some/where/file.py")
        return train(task, model, rate, *rest)

    monkeypatch.setattr(temporal, "train", fails)
    found = run(temporal, tmp_path, "--parts", "links", "--models", "TGAT", "GAT")["links"]["sets"]["CollegeMsg"]
    assert found["TGAT"]["rate"] == 1e-3
    assert found["TGAT"]["seeds"]["0"]["status"] == "ok"
    report = (tmp_path / "temporal.md").read_text()
    assert "- CollegeMsg, GAT, seed 0: FloatingPointError: the loss is nan in file.py" in report
    assert "/some/where" not in report
    monkeypatch.setattr(temporal, "train", train)
    run(temporal, tmp_path, "--parts", "links", "--models", "GAT", "--resume")
    assert "FloatingPointError" not in (tmp_path / "temporal.md").read_text()


def test_report_says_by_how_much_and_what_is_missed(temporal: ModuleType, tmp_path: Path) -> None:
    run(temporal, tmp_path)
    path = tmp_path / "temporal.json"
    results = json.loads(path.read_text())
    networks = results["links"]["sets"]["CollegeMsg"]
    for model, scores in (("TGAT", (0.8, 0.84)), ("TemporalNet", (0.9,)), ("TGN", (0.85,)), ("GAT", (0.7,))):
        entry = networks[model]
        one = {**entry["seeds"]["0"], "inductive": None}
        entry["seeds"] = {str(seed): {**one, "test": score} for seed, score in enumerate(scores)}
    results["speed"]["cases"] = {
        "fast": {**results["speed"]["cases"]["quick"], "ratio": {"equal": 2.5, "example": 2.5}},
        "slow": {**results["speed"]["cases"]["quick"], "ratio": {"equal": 2.5, "example": 1.5}},
    }
    path.write_text(json.dumps(results))
    assert run(temporal, tmp_path, "--report") == results
    text = (tmp_path / "temporal.md").read_text()
    assert "| CollegeMsg | TGAT | 82.0 ± 2.8 | – | 2 |" in text
    assert "- CollegeMsg: TGAT is 3.0 points **below** TGN (PyG's example) and 12.0 points above GAT" in text
    assert "- CollegeMsg: TemporalNet is 5.0 points above TGN (PyG's example) and 20.0 points above GAT" in text
    assert "Less than 2x the layer of the example: slow." in text
    assert "Less than 2x the layer of equal function" not in text


def test_all_layers_see_the_same_events(temporal: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = sys.modules["_temporal_speed"]
    seen: dict[str, list[Any]] = {"_Attention": [], "_EqualTransformer": [], "_Transformer": []}
    for name, calls in seen.items():
        layer = getattr(speed, name)
        forward = layer.forward

        def note(self: Any, x: Any, past: Any, forward: Any = forward, calls: list[Any] = calls) -> Any:
            out = forward(self, x, past)
            calls.append((past.edge_index, past.edge_time, past.msg, x[0], out.shape))
            return out

        monkeypatch.setattr(layer, "forward", note)
    for edge_dim in (0, 1):
        found = speed.measure(stream().data, speed.Case(10, 3, edge_dim), repeats=1)
        assert found["seconds"]["ours"] > 0
    ours, *peers = seen.values()
    assert len(ours) == 2 * 9 * 2
    for theirs in peers:
        for one, other in zip(ours, theirs, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))
            assert one[4] == other[4]
            assert bool((one[1] > 0).all())


@pytest.mark.slow
def test_sets_are_found_in_their_folders(scripts: Path) -> None:
    data = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not (data / "temporal").is_dir():
        pytest.skip("the files of the streams are not there")
    import temporal as script

    args = script.parse(["--data", str(data), "--quick"])
    for name, nodes in (("CollegeMsg", 1899), ("BitcoinOTC", 5881), ("BitcoinAlpha", 3783)):
        task = script.load_events(name, args)
        assert (task.num_nodes, task.data.num_events) == (nodes, script.QUICK_EVENTS)
