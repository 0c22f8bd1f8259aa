"""The training of the probe models runs end to end, goes on where it stopped, and leaves the packaged weights alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from graphattn.analysis.probe_model import WEIGHTS, ProbeModel, load_probe_model

QUICK = ["--quick", "--seeds", "2", "--threads", "1"]


@pytest.fixture
def benchmark(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, its helpers beside it."""
    import train_probe

    monkeypatch.setitem(train_probe.TRAINING, "batch_size", 4)
    monkeypatch.setattr(train_probe, "PROBES", 2)
    return train_probe


def test_quick_run_and_resume(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = WEIGHTS.read_bytes()
    results = benchmark.run(benchmark.parse([*QUICK, "--out", str(tmp_path)]))
    names = ["head_roles.json", "head_roles.md", "head_roles.png", "probe_model.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert WEIGHTS.read_bytes() == packaged
    assert json.loads((tmp_path / "head_roles.json").read_text())["models"] == results["models"]
    assert capsys.readouterr().out.strip() == (tmp_path / "head_roles.md").read_text().strip()
    assert (tmp_path / "head_roles.png").read_bytes().startswith(b"\x89PNG")

    del results["models"]["1"]
    (tmp_path / "head_roles.json").write_text(json.dumps(results))
    trained = []
    train = benchmark.train
    monkeypatch.setattr(benchmark, "train", lambda seed, steps: trained.append(seed) or train(seed, steps))
    again = benchmark.run(benchmark.parse([*QUICK, "--out", str(tmp_path), "--resume"]))
    assert trained == [1]
    assert list(again["models"]) == ["0", "1"]


def test_the_packaged_model_is_the_first(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.run(benchmark.parse([*QUICK, "--seeds", "1", "--out", str(tmp_path)]))
    kept, trained = load_probe_model(tmp_path / "probe_model.npz"), benchmark.train(0, 20)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(kept.state_dict()[name], value, rtol=0, atol=0)


def test_two_heads_that_share_are_dearer_than_one(benchmark: ModuleType) -> None:
    shared, single = (ProbeModel(8, 6, dim=4, num_layers=1, heads=2) for _ in range(2))
    with torch.no_grad():
        for model, sizes in ((shared, (1.0, 1.0)), (single, (2.0, 0.0))):
            for head, size in enumerate(sizes):
                weights = model.head_weights(0, head)
                for weight in weights:
                    weight.zero_()
                weights[0][0, 0] = size
    assert benchmark.penalty(shared).item() == pytest.approx(2 * 1.001**0.5)
    assert benchmark.penalty(single).item() == pytest.approx(2.001**0.5 + 0.001**0.5)


def test_removed_heads_are_told_by_their_label(benchmark: ModuleType) -> None:
    model = {
        "heads": [[0, 0], [0, 1]],
        "labels": ["previous", "none"],
        "scores": {role: [0.5, 0.1] for role in ("previous", "induction", "duplicate", "current", "first")},
        "loss": 0.5,
        "loss_without": [3.0, 0.75],
    }
    rises, lines = benchmark.describe({"models": {"0": model, "1": model}})
    assert rises == {"previous": [2.5, 2.5], "none": [0.25, 0.25]}
    assert lines[3] == "| 0 | 0 | 0 | 0.50 | 0.50 | 0.50 | 0.50 | 0.50 | previous | 3.000 |"
    assert len(lines) == 2 + 2 * 3


def test_mistakes_are_named(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.parse(["--steps", "5"])
    assert "--steps 20" in capsys.readouterr().err
