"""``graphattn bench`` on a file of events: networks of events beside their peers, and names that do not go there."""

from __future__ import annotations

import csv
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
    with (out / "results.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    for model in MODELS:
        result = json.loads((out / "talks" / model / "seed-0.json").read_text())
        assert result["config"]["metric"] == "average_precision"
        assert result["config"]["num_neighbors"] == (None if model == "GAT" else [10])
        assert 0 <= result["inductive"] <= 1
        assert float(rows[model]["inductive_mean"]) == result["inductive"]
        assert re.search(rf"\| {model} .* \| +{100 * result['inductive']:.2f} \|", printed)
        assert len(result["epochs"]) == 2
        assert f"| {model} " in printed
    assert "the best peer" in printed  # TGN or GAT, of which the library says how far ours are away
    checkpoint = out / "talks" / "TGAT" / "seed-0.pt"
    assert main(["predict", str(checkpoint), "--data", stream, "--out", str(tmp_path / "rows.csv")]) == 2
    assert "is about events, and only networks of nodes, graphs and links are read here; use" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("12,7,40", "12,7,-40"), "line .*column 't': '-40' is negative; shift all times, such as to start at 0"),
        (("12,7,40", "12,7,20"), "line .*column 't': '20' is before that of line .*; sort the rows by t"),
        (("12,7,40", f"12,7,{1_700_000_000 * 10**9}"), "beyond 2.*53, where float64 rounds; convert nanoseconds to"),
        (("12,7,40", "12,,40"), "column 'dst': an empty cell is no node"),
        (("src,dst,t", "src,dst,time"), "has the columns src, dst, time; t is missing"),
    ],
)
def test_broken_files_of_events(
    change: tuple[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["src,dst,t", *(f"{i % 5},{7 + i % 3},{5 * i}" for i in range(8)), "12,7,40"]
    lines += [f"1,7,{5 * i}" for i in range(9, 40)]
    (tmp_path / "talks.csv").write_text("\n".join(lines).replace(*change) + "\n")
    words = ["bench", "--dataset", f"local:{tmp_path / 'talks.csv'}", "--model", "TGAT"]
    assert main([*words, "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(message, error), error


def test_networks_of_events_do_not_go_with_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--dataset", "karate", "--model", "TGAT", "--out", str(tmp_path)]) == 2
    assert "model is 'TGAT'" in capsys.readouterr().err
