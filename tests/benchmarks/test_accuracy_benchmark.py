"""The report of the benchmark of accuracy, from runs of known scores."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from graphattn.cli._bench_report import write_report
from graphattn.cli._bench_results import failure, make_tables, read_runs
from tests.results import write_result


@pytest.fixture
def report(scripts: Path) -> ModuleType:
    import _accuracy_report

    return _accuracy_report


def test_the_summary_has_the_best_of_each_side(report: ModuleType, tmp_path: Path) -> None:
    made = {"AttentionNet": [0.5, 0.7], "InfDiffusionNet": [0.2, 0.3], "GCN": [0.4, 0.5], "GAT": [0.1, 0.1]}
    for model, scores in made.items():
        for seed, test in enumerate(scores):
            write_result(tmp_path / "made", model, seed, test)
    write_result(tmp_path / "alone", "AttentionNet", 0, 1.5, task="alone", metric="rmse")
    write_result(tmp_path / "theirs", "GCN", 0, 0.25, task="theirs")
    tables = make_tables(read_runs(tmp_path)[0])
    # Differences 0.1 and 0.2: mean 0.15, standard error 0.05.
    lines = [
        "| alone | rmse, lower is better | AttentionNet 1.5000 | – | – |",
        "| made | accuracy, % | AttentionNet 60.00 ± 14.14 | GCN 45.00 ± 7.07 | +15.00 ± 5.00 |",
        "| theirs | accuracy, % | – | GCN 25.00 | – |",
    ]
    assert report.summary(tables)[2:] == lines
    wanted = {"other": ["GCN"], "made": ["GAT", "SAGE", "GPS"], "alone": ["AttentionNet"], "far": []}
    front = report.front(tables, wanted)
    assert front[2:7] == [*lines, "", "Not run yet: far; other; GPS, SAGE on made."]
    assert "Not run yet" not in "".join(report.front(tables, {"made": ["GCN"]}))
    assert report.back(tables, {"made": "this.", "other": "that."})[2:] == ["- **made**: this.", ""]
    assert report.back(tables, {"other": "that."}) == []
    write_report(tmp_path, tables, front, report.back(tables, {"made": "this."}))
    said = (tmp_path / "results.md").read_text()
    assert said.startswith("# Results\n\nMean")
    assert said.index("| set | metric |") < said.index("Not run yet") < said.index("\n## alone\n")
    assert said.endswith("\n## What was tried beyond the search\n\n- **made**: this.\n")


def test_results_are_replaced_in_parts(scripts: Path, tmp_path: Path) -> None:
    """By network and set: those that were not run again stay as they are, in the table and in the settings."""
    import accuracy

    def make(folder: str, model: str, scores: list[float], epochs: int) -> None:
        place = tmp_path / folder / "Texas"
        for seed, test in enumerate(scores):
            write_result(place, model, seed, test, task="Texas", split=f"official:{seed}", epochs=[{"loss": 1.0}])
        settings = {"network": {}, "recipe": {"epochs": epochs}, "transform": {}, "training": {"max_minutes": 2}}
        (place / model / "settings.json").write_text(json.dumps(settings))
        (place / model / "search").mkdir()
        (place / model / "search" / "search.json").write_text(json.dumps([{"number": 0, "settings": settings}]))

    def report(out: str, **changes: Any) -> dict[str, Any]:
        options = {"sets": list(accuracy.SETS), "models": list(accuracy.MODELS), "readme": None, **changes}
        folders = {"out": tmp_path / out, "results": tmp_path / "results", "configs": tmp_path / "configs"}
        accuracy.write_results(argparse.Namespace(**folders, **options))
        return json.loads((tmp_path / "results" / "runs.json").read_text())["Texas"]

    make("first", "AttentionNet", [0.5, 0.7, 0.9], 10)
    make("first", "GCN", [0.4, 0.6], 20)
    (tmp_path / "first" / "Texas" / "GCN" / "seed-2.failed.json").write_text(
        json.dumps(failure("Texas", "official:2", "accuracy", 2, "out of memory"))
    )
    first = report("first")
    before = (tmp_path / "results" / "results.md").read_text()
    assert report("nowhere") == first
    assert (tmp_path / "results" / "results.md").read_text() == before

    make("second", "AttentionNet", [0.25], 30)
    assert report("second", models=["GCN"]) == first
    assert report("second", sets=["Cora"]) == first
    second = report("second")
    assert second["GCN"] == first["GCN"]
    assert [result["test"] for result in second["AttentionNet"]["runs"]] == [0.25]
    said = (tmp_path / "results" / "results.md").read_text()
    assert "AttentionNet 25.00" in said
    assert "out of memory" in said
    chosen = yaml.safe_load((tmp_path / "configs" / "Texas.yaml").read_text())["settings"]
    assert {model: settings["recipe"]["epochs"] for model, settings in chosen.items()} == {
        "AttentionNet": 30,
        "GCN": 20,
    }


def test_a_table_stands_between_its_comments(report: ModuleType) -> None:
    text = "a\n<!-- t -->\nold\n<!-- end of t -->\nb\n"
    new = report.between(text, "t", ["| x |"])
    assert new == "a\n<!-- t -->\n| x |\n<!-- end of t -->\nb\n"
    assert report.between(new, "t", ["| x |"]) == new
    with pytest.raises(ValueError, match=r"no comments '<!-- other -->' and '<!-- end of other -->'"):
        report.between(text, "other", [])
