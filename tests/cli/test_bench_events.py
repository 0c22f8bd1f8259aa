"""``graphattn bench`` on a file of events: networks of events beside their peers, and names that do not go there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from graphattn.cli import main

pytest.importorskip("lightning_fabric", reason="networks are trained on Lightning Fabric")
pytest.importorskip("jsonargparse", reason="options are read by jsonargparse")

MODELS = ("TGAT", "TemporalNet", "TGN", "GAT")


@pytest.fixture
def stream(tmp_path: Path) -> str:
    random = np.random.default_rng(0)
    columns = np.stack([random.integers(0, 15, 160), random.integers(0, 15, 160), 5 * np.arange(160)], axis=1)
    np.savetxt(tmp_path / "talks.csv", columns, fmt="%d", delimiter=",", header="src,dst,t", comments="")
    return f"local:{tmp_path / 'talks.csv'}"


def test_networks_of_events_are_compared(stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe.epochs", "2", "--network.hidden_channels", "8", "--seeds", "1", "--device", "cpu"]
    out = tmp_path / "runs"
    assert main(["bench", "--dataset", stream, "--model", *MODELS, *words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for model in MODELS:
        result = json.loads((out / "talks" / model / "seed-0.json").read_text())
        assert result["config"]["metric"] == "average_precision"
        assert result["config"]["num_neighbors"] == (None if model == "GAT" else [10])
        assert 0 <= result["inductive"] <= 1
        assert len(result["epochs"]) == 2
        assert f"| {model} " in printed
    assert "the best peer" in printed  # TGN or GAT, of which the library says how far ours are away


@pytest.mark.parametrize(
    ("model", "message"),
    [("APPNP", "model is 'APPNP'; .*expected one of TGAT, TemporalNet, TGN, .* for events"), ("TGATT", "TGAT")],
)
def test_names_that_do_not_go_with_events(
    model: str, message: str, stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "--dataset", stream, "--model", model, "--out", str(tmp_path / "runs")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(message, error), error


def test_networks_of_events_do_not_go_with_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--dataset", "karate", "--model", "TGAT", "--out", str(tmp_path)]) == 2
    assert "model is 'TGAT'" in capsys.readouterr().err
