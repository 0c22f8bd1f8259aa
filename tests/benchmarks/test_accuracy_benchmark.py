"""The report of the benchmark of accuracy, from runs of known scores."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from graphattn.cli._bench_results import make_tables, read_runs


def write(folder: Path, model: str, scores: list[float], **changes: Any) -> None:
    for seed, test in enumerate(scores):
        config = {"task": "made", "split": "public", "metric": "accuracy", "recipe": {"seed": seed}} | changes
        measured = {
            **{"seconds": 1.0, "seconds_per_epoch": 0.1, "peak_memory_mib": 9.0, "threads": 1, "revision": None},
            "versions": {"torch": "2", "graphattn": "0"},
            "hardware": {"cpu": "abacus", "accelerator": None},
        }
        path = folder / config["task"] / model / f"seed-{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"config": config, "val": 0.5, "test": test, "parameters": 7, "measured": measured}))


@pytest.fixture
def report(scripts: Path) -> ModuleType:
    import _accuracy_report

    return _accuracy_report


def test_the_summary_has_the_best_of_each_side(report: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, "AttentionNet", [0.5, 0.7])
    write(tmp_path, "InfDiffusionNet", [0.2, 0.3])
    write(tmp_path, "GCN", [0.4, 0.5])
    write(tmp_path, "GAT", [0.1, 0.1])
    write(tmp_path, "AttentionNet", [1.5], task="alone", metric="rmse")
    tables = make_tables(read_runs(tmp_path)[0])
    # Differences 0.1 and 0.2: mean 0.15, standard error 0.05.
    assert report.summary(tables)[2:] == [
        "| alone | rmse, lower is better | AttentionNet 1.5000 | – | – |",
        "| made | accuracy, % | AttentionNet 60.00 ± 14.14 | GCN 45.00 ± 7.07 | +15.00 ± 5.00 |",
    ]
    said = report.page(
        "# Results\n\nAbout.\n\n## alone\n\ntable\n",
        tables,
        {"made": "this.", "other": "that."},
        ["other", "made", "alone", "far"],
    )
    assert said.startswith("# Results\n\nAbout.\n\n| set | metric |")
    assert "\n\nNot run yet: far, other.\n\n" in said
    assert said.index("| made |") < said.index("\n## alone\n\ntable\n")
    assert said.endswith("\n## What was tried beyond the search\n\n- **made**: this.\n")


def test_a_table_stands_between_its_comments(report: ModuleType) -> None:
    text = "a\n<!-- t -->\nold\n<!-- end of t -->\nb\n"
    new = report.between(text, "t", ["| x |"])
    assert new == "a\n<!-- t -->\n| x |\n<!-- end of t -->\nb\n"
    assert report.between(new, "t", ["| x |"]) == new
    with pytest.raises(ValueError, match=r"no comments '<!-- other -->' and '<!-- end of other -->'"):
        report.between(text, "other", [])
