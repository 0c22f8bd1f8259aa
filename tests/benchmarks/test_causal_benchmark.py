"""The benchmark of causal structure runs end to end, and its figures are those of its own definitions."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(scripts: Path) -> ModuleType:
    """The script as a module, its helpers beside it."""
    pytest.importorskip("causallearn")
    import causal

    return causal


def test_what_was_recorded_holds() -> None:
    """All models have the graph of their exact covariance, and all sets that of causal-learn on the data."""
    recorded = json.loads((FOLDER / "results" / "causal.json").read_text())
    models = recorded["models"]
    settings = {(entry["n_samples"], entry["alpha"]) for entry in models["learned"]}
    assert settings == {(100_000, 1e-4), (768, 0.01)}
    for entry in models["learned"]:
        assert entry["same skeleton"] == entry["same graph"] == models["count"] == 100
        assert entry["n_samples"] < 100_000 or entry["true skeleton"] >= 85
    assert recorded["sets"].keys() == {"asia", "cancer", "Sachs"}
    for found in recorded["sets"].values():
        for learned in found["learned"].values():
            assert learned["graphattn"] == learned["causal-learn"]
            assert learned["between"] == 0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set of the form of the smallest one: 1 -> 3 <- 2, in a few samples."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    X[:, 2] += X[:, 0] + X[:, 1]
    folder = tmp_path / "sets"
    folder.mkdir()
    np.savetxt(folder / "cancer.txt.gz", X, header="X1 X2 X3", comments="")
    text = "Graph Nodes:\nX1;X2;X3\n\nGraph Edges:\n1. X1 --> X3\n2. X2 --> X3\n"
    (folder / "cancer.graph.txt").write_text(text)
    return folder


def test_a_quick_run_measures_both_parts(
    benchmark: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.run(benchmark.parse(["--quick", "--data", str(data), "--out", str(tmp_path)]))
    text = (tmp_path / "causal.json").read_text()
    assert str(FOLDER.parent) not in text
    results = json.loads(text)
    assert {"causal-learn", "graphattn", "scipy"} <= results["versions"].keys()
    assert [(entry["n_samples"], entry["learner"]) for entry in results["models"]["learned"]] == [
        (n_samples, learner) for n_samples in (100_000, 768) for learner in ("fci", "pc", "skeleton")
    ]
    for entry in results["models"]["learned"]:
        assert entry["same skeleton"] == entry["same graph"] == 5
        assert (entry["true skeleton"] == 5) == (entry["missing"] + entry["extra"] == 0)
        assert len(entry["wrong models"]) == 5 - entry["true skeleton"]
    learned = results["sets"]["cancer"]["learned"]
    assert {learner: found["between"] for learner, found in learned.items()} == {"fci": 0, "pc": 0}
    assert learned["pc"]["graphattn"] == learned["pc"]["causal-learn"] == 0
    assert learned["fci"]["graphattn"] == 2  # its circles, where the known graph has tails
    report = (tmp_path / "causal.md").read_text()
    assert "| 768 | 0.01 | skeleton | 5 of 5 | 5 of 5 |" in report
    assert "| cancer | 3 | 400 | 2 | pc | 0 | 0 | 0 | 0 | 0 |" in report
    assert report in capsys.readouterr().out
