"""The report of the benchmark of accuracy, from runs of known scores."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from graphattn.cli._bench_report import write_report
from graphattn.cli._bench_results import make_tables, read_runs
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
    front = report.front(tables, ["other", "made", "alone", "theirs", "far"])
    assert front[2:7] == [*lines, "", "Not run yet: far, other."]
    assert "Not run yet" not in "".join(report.front(tables, ["made"]))
    assert report.back(tables, {"made": "this.", "other": "that."})[2:] == ["- **made**: this.", ""]
    assert report.back(tables, {"other": "that."}) == []
    write_report(tmp_path, tables, front, report.back(tables, {"made": "this."}))
    said = (tmp_path / "results.md").read_text()
    assert said.startswith("# Results\n\nMean")
    assert said.index("| set | metric |") < said.index("Not run yet") < said.index("\n## alone\n")
    assert said.endswith("\n## What was tried beyond the search\n\n- **made**: this.\n")


def test_a_table_stands_between_its_comments(report: ModuleType) -> None:
    text = "a\n<!-- t -->\nold\n<!-- end of t -->\nb\n"
    new = report.between(text, "t", ["| x |"])
    assert new == "a\n<!-- t -->\n| x |\n<!-- end of t -->\nb\n"
    assert report.between(new, "t", ["| x |"]) == new
    with pytest.raises(ValueError, match=r"no comments '<!-- other -->' and '<!-- end of other -->'"):
        report.between(text, "other", [])
