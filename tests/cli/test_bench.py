"""``graphattn bench`` from the command to its tables."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from graphattn import _optional
from graphattn.cli import _bench_plan, bench, main
from graphattn.cli._bench_options import read_defaults
from graphattn.datasets import NodeTask, load, names
from graphattn.engine import Recipe
from graphattn.training import loading
from graphattn.training.experiment import default_settings
from graphattn.training.search import search
from tests.results import write_result

pytest.importorskip("lightning_fabric", reason="networks are trained on Lightning Fabric")
pytest.importorskip("jsonargparse", reason="options are read by jsonargparse")
yaml = pytest.importorskip("yaml", reason="options are read from YAML")

SMALL = ["--recipe.epochs", "3", "--network.hidden_channels", "8", "--device", "cpu"]


@pytest.fixture(autouse=True)
def configs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of default settings, empty in place of those that come with the package."""
    folder = tmp_path_factory.mktemp("defaults") / "configs"
    folder.mkdir()
    monkeypatch.setattr(_bench_plan, "_CONFIGS", folder)
    return folder


def call(*words: object) -> int:
    return main(["bench", *map(str, words)])


def scores(folder: Path, model: str, name: str = "test") -> list[float]:
    return [json.loads(path.read_text())[name] for path in sorted((folder / model).glob("seed-?.json"))]


def cells(text: str, model: str) -> list[str]:
    """The cells of the last row of a model."""
    row = [line for line in text.splitlines() if line.startswith(f"| {model} ")][-1]
    return [cell.strip() for cell in row.strip("|").split("|")]


def kept(folder: Path) -> dict[str, Any]:
    """What two runs of the same settings agree in: their results and their weights."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("seed-*.*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "measured"}
        elif path.suffix == ".pt":
            best = torch.load(path, weights_only=True)["best"]
            found[name] = {key: value.tolist() for key, value in best.items()}
    return found


# --- runs and their table ---------------------------------------------------------------------------------------------


def test_networks_are_trained_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn: dict[str, Figure]
) -> None:
    out = tmp_path / "runs"
    assert call("--dataset", "KARATE", "sbm", "--model", "gcn", "AttentionNet", "--seeds", 3, "--out", out, *SMALL) == 0
    said = capsys.readouterr()
    assert (
        "settings of karate, GCN: defaults for node tasks < options network.hidden_channels, recipe.epochs" in said.err
    )
    assert said.out.count("## karate") == said.out.count("## sbm") == 2  # so far, and complete
    assert "Split random-60-20-20:0; accuracy in %; seeds 0 to 2." in said.out
    document = (out / "results.md").read_text()
    assert "torch " + torch.__version__ in document
    karate = document[document.index("## karate") : document.index("## sbm")]
    for text in (said.out[: said.out.index("## sbm")], karate):
        for model in ("GCN", "AttentionNet"):
            row = cells(text, model)
            test, val = (np.array(scores(out / "karate", model, name)) for name in ("test", "val"))
            assert row[1].strip("*") == f"{100 * test.mean():.2f} ± {100 * test.std(ddof=1):.2f}"
            assert row[2] == f"{100 * val.mean():.2f} ± {100 * val.std(ddof=1):.2f}"
            assert row[7:] == ["3", "0"]
    result = json.loads((out / "karate" / "GCN" / "seed-1.json").read_text())
    assert (result["config"]["model"]["conv"], result["config"]["model"]["hidden_channels"]) == ("gcn", 8)
    assert (result["config"]["recipe"]["epochs"], result["config"]["recipe"]["seed"]) == (3, 1)
    assert result["parameters"] == 34 * 8 + 8 + 8 * 4 + 4 == int(cells(karate, "GCN")[3])
    assert {"versions", "hardware", "revision", "seconds", "peak_memory_mib"} <= result["measured"].keys()
    panels = drawn["results"].axes
    assert [axes.get_title() for axes in panels] == ["karate", "sbm"]
    assert sorted(label.get_text() for label in panels[0].get_yticklabels()) == ["AttentionNet", "GCN"]
    points = {
        round(x, 6) for line in panels[0].lines if len(line.get_xdata()) == 3 for x in np.asarray(line.get_xdata())
    }
    assert points == {round(100 * s, 6) for model in ("GCN", "AttentionNet") for s in scores(out / "karate", model)}


def test_the_same_call_begins_anew_only_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dataset", "karate", "--model", "GCN", "--seeds", 1, "--out", tmp_path, *SMALL]
    assert call(*words) == 0
    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "karate" / "GCN").iterdir() if "plan" not in path.name
    }
    assert call(*words) == 2
    assert "karate/GCN has runs; --resume goes on with them" in capsys.readouterr().err
    assert call(*words, "--resume") == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert call(*words, "--resume", "--recipe.lr", 0.5) == 2
    assert "was begun with other settings: settings.recipe.lr was 0.01, is 0.5" in capsys.readouterr().err
    (tmp_path / "karate" / "GCN" / "plan.yaml").write_text("{ [")
    assert call(*words, "--resume") == 2
    assert "plan.yaml: while parsing" in capsys.readouterr().err
    (tmp_path / "karate" / "GCN" / "plan.yaml").unlink()
    assert call(*words, "--resume") == 2
    assert "GCN has no plan.yaml" in capsys.readouterr().err


def test_seeds_have_splits_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = "random-60-20-20:{seed}"
    assert call("--dataset", "sbm", "--model", "GCN", "--seeds", 2, "--split", split, "--out", tmp_path, *SMALL) == 0
    assert f"Split {split}; accuracy" in capsys.readouterr().out
    splits = scores(tmp_path / "sbm", "GCN", "config")
    assert [config["split"] for config in splits] == ["random-60-20-20:0", "random-60-20-20:1"]


def test_a_set_is_read_once_for_all_networks_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []

    def count(*asked: Any) -> Any:
        read.append(asked[2])
        return load(*asked)

    monkeypatch.setattr(loading, "load", count)
    words = ["--dataset", "sbm", "--model", "GCN", "SAGE", "--seeds", 2, *SMALL]
    assert call(*words, "--out", tmp_path / "shared") == 0
    assert read == [None]
    assert call(*words, "--out", tmp_path / "own", "--split", "random-60-20-20:{seed}") == 0
    assert read[1:] == ["random-60-20-20:0", "random-60-20-20:1"] * 2


def test_a_local_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, edges = ["id,y,a"], ["source,target"]
    rows += [f"{node},{'xy'[node % 2]},{node % 2 + node / 100}" for node in range(40)]
    edges += [f"{node},{(node + 2) % 40}" for node in range(40)]
    folder = tmp_path / "ring"
    folder.mkdir()
    (folder / "nodes.csv").write_text("\n".join(rows))
    (folder / "edges.csv").write_text("\n".join(edges))
    words = ["--model", "GCN", "--seeds", 1, "--out", tmp_path / "runs", *SMALL]
    assert call("--dataset", f"local:{folder}", *words) == 0
    assert "## ring" in capsys.readouterr().out
    assert (tmp_path / "runs" / "ring" / "GCN" / "seed-0.json").exists()
    (tmp_path / "other").mkdir()
    folder.rename(tmp_path / "other" / "ring")
    assert call("--dataset", f"local:{tmp_path / 'other' / 'ring'}", "--resume", *words) == 2
    assert "dataset was local:" in capsys.readouterr().err


# --- interruptions and failures ---------------------------------------------------------------------------------------


def test_a_stopped_call_goes_on_and_ends_as_if_it_had_not_been_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs, real, looked = 6, NodeTask.evaluate, []

    def evaluate(*args: Any) -> float:
        looked.append(args[-1])
        if len(looked) == epochs + 1 + 4:  # all epochs and the test of seed 0, and the fourth epoch of seed 1
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(NodeTask, "evaluate", evaluate)
    words = ["--dataset", "karate", "--model", "GCN", "--seeds", "2", *SMALL, "--recipe.epochs", str(epochs)]
    assert call(*words, "--out", tmp_path / "stopped") == 130
    said = capsys.readouterr().err
    assert "graphattn bench: interrupted" in said
    again = re.search(r"go on with: graphattn (bench .+ --resume)\n", said)
    assert again is not None
    before = (tmp_path / "stopped" / "karate" / "GCN" / "seed-0.json").read_bytes()
    looked.clear()
    assert main(shlex.split(again.group(1))) == 0
    assert looked == ["val"] * 3 + ["test"]
    assert (tmp_path / "stopped" / "karate" / "GCN" / "seed-0.json").read_bytes() == before
    looked.clear()
    assert main(shlex.split(again.group(1))) == 0
    assert looked == []
    monkeypatch.setattr(NodeTask, "evaluate", real)
    assert call(*words, "--out", tmp_path / "straight") == 0
    assert kept(tmp_path / "stopped") == kept(tmp_path / "straight")
    assert len(kept(tmp_path / "straight")) == 4


def test_runs_that_fail_are_recorded_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, faults = bench.run_seed, {0: FloatingPointError("the loss is nan"), 2: KeyError("odd")}

    def run(*args: Any, seed: int, **options: Any) -> Any:
        if seed in faults and args[1] == "GCN":
            raise faults[seed]
        return real(*args, seed=seed, **options)

    monkeypatch.setattr(bench, "run_seed", run)
    words = ["--dataset", "karate", "--model", "GCN", "APPNP", "--seeds", 3, "--out", tmp_path, *SMALL]
    assert call(*words) == 1
    said = capsys.readouterr()
    assert cells(said.out, "GCN")[7:] == ["1", "2"]
    assert cells(said.out, "APPNP")[7:] == ["3", "0"]
    assert "- GCN, seed 0: the loss is nan\n- GCN, seed 2: KeyError: 'odd'" in said.out
    assert "Traceback" in said.err
    record = json.loads((tmp_path / "karate" / "GCN" / "seed-0.failed.json").read_text())
    assert record["failure"] == "the loss is nan"
    assert record["config"]["split"] == "one-per-class:0"
    faults.clear()
    assert call(*words, "--resume") == 0
    assert cells(capsys.readouterr().out, "GCN")[7:] == ["3", "0"]
    assert not list(tmp_path.rglob("*.failed.json"))


def test_networks_above_the_budget_of_parameters_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dataset", "karate", "--model", "GCN", "--seeds", 2, "--max-parameters", 315, "--out", tmp_path, *SMALL]
    assert call(*words) == 1
    said = capsys.readouterr()
    assert "- GCN, seeds 0 to 1: GCN has 316 parameters" in said.out
    assert "Traceback" not in said.err
    assert cells((tmp_path / "results.md").read_text(), "GCN")[1:] == ["–"] * 6 + ["0", "2"]
    assert not (tmp_path / "results.png").exists()


def test_training_ends_after_the_budget_of_time(tmp_path: Path) -> None:
    words = ["--dataset", "karate", "--model", "GCN", "--seeds", 1, "--budget", 1e-6, "--out", tmp_path, *SMALL]
    assert call(*words) == 0
    assert scores(tmp_path / "karate", "GCN", "stopped") == ["time"]
    assert [len(epochs) for epochs in scores(tmp_path / "karate", "GCN", "epochs")] == [1]


def test_only_the_first_of_several_processes_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def run(*args: Any, **options: Any) -> Any:
        called.append((options["seed"], options["devices"], options["strategy"]))
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(bench, "run_seed", run)
    monkeypatch.setenv("LOCAL_RANK", "1")
    (tmp_path / "karate" / "GCN").mkdir(parents=True)
    (tmp_path / "karate" / "GCN" / "plan.yaml").write_text("by the first process")
    words = ["--dataset", "karate", "--model", "GCN", "--seeds", 2, "--devices", 2, "--strategy", "ddp"]
    assert call(*words, "--out", tmp_path, *SMALL) == 1
    assert capsys.readouterr().out == ""
    assert called == [(0, 2, "ddp"), (1, 2, "ddp")]
    assert [path.name for path in tmp_path.rglob("*.*")] == ["plan.yaml"]


def test_processes_that_torchrun_has_started_work_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def run(*args: Any, **options: Any) -> Any:
        called.append((options["devices"], options["num_nodes"]))
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(bench, "run_seed", run)
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "6"), ("LOCAL_WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    words = ["--dataset", "karate", "--model", "GCN", "--seeds", 1, "--out", tmp_path / "runs", *SMALL]
    assert call(*words) == 1
    assert called == [(2, 3)]
    capsys.readouterr()
    assert call(*words, "--devices", 3) == 2
    assert "--devices is 3, but torchrun starts 2 on each machine; leave it out" in capsys.readouterr().err
    assert call(*words, "--search", 2) == 2
    assert "--search works on one device" in capsys.readouterr().err


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize(("start", "options"), [([], ["--devices", "2", "--strategy", "ddp"]), (TORCHRUN, [])])
def test_two_processes_make_one_table(start: list[str], options: list[str], tmp_path: Path) -> None:
    words = ["--dataset", "sbm", "--model", "GCN", "SAGE", "--seeds", "2", "--out", str(tmp_path), *SMALL]
    words += ["--training.num_neighbors", "[5, 5]", "--recipe.batch_size", "64", "--transform", "{}"]
    command = [sys.executable, "-W", "ignore", *start, "-m", "graphattn", "bench", *words, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("## sbm") == 2
    assert done.stderr.count("seed 1: test") == 2
    for model in ("GCN", "SAGE"):
        assert cells(done.stdout, model)[7:] == ["2", "0"]
    # Those that go on have all runs to read, and nothing to train.
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300)
    assert (again.returncode, again.stdout.count("## sbm")) == (0, 2)
    assert again.stdout.split("## sbm")[-1] == done.stdout.split("## sbm")[-1]


# --- reports of what others have left ---------------------------------------------------------------------------------


def test_report_of_known_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, peer = {0: 0.50, 1: 0.60, 2: 0.73}, {0: 0.48, 1: 0.61, 2: 0.70, 3: 0.90}
    for model, made in (("AttentionNet", ours), ("GAT", peer), ("GCN", dict.fromkeys(range(3), 0.1))):
        for seed, test in made.items():
            write_result(tmp_path / "made", model, seed, test)
    assert call("report", tmp_path) == 0
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if line.startswith("| ")] == [
        "model",
        "GAT",
        "AttentionNet",
        "GCN",
    ]
    # By hand: mean 0.61, deviations -0.11, -0.01, 0.12, their squares 0.0266 in all, over 2: 0.0133.
    assert cells(said, "AttentionNet") == [
        *("AttentionNet", f"61.00 ± {100 * math.sqrt(0.0133):.2f}", f"71.00 ± {100 * math.sqrt(0.0133):.2f}"),
        *("1,234", "3.0", "500.0", "102", "3", "0"),
    ]
    # 0.6725; -0.1925, -0.0625, 0.0275, 0.2275; squares 0.037056 + 0.003906 + 0.000756 + 0.051756 = 0.093475, over 3.
    assert cells(said, "GAT")[1] == f"**67.25 ± {100 * math.sqrt(0.093475 / 3):.2f}**"
    # Of seeds 0, 1, 2: 0.02, -0.01, 0.03; mean 0.04 / 3; squares of deviations 0.0014 - 0.0016 / 3, over 2, over 3.
    error = 100 * math.sqrt((0.0014 - 0.0016 / 3) / 2 / 3)
    line = f"AttentionNet minus GAT, the best peer: +1.33 ± {error:.2f} points (standard error, paired over 3 seeds)."
    assert line in said
    document = (tmp_path / "results.md").read_text()
    assert said.strip() in document
    assert "Measured with abacus, threads: 1; torch 2, graphattn 0 (abc)." in document
    with (tmp_path / "results.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert float(rows["GAT"]["test_mean"]) == pytest.approx(0.6725, abs=1e-15)
    assert float(rows["GAT"]["test_std"]) == pytest.approx(math.sqrt(0.093475 / 3), rel=1e-14)
    assert (rows["GAT"]["seeds"], rows["GAT"]["parameters"], rows["GAT"]["failed"]) == ("4", "1234", "0")
    assert float(rows["AttentionNet"]["seconds"]) == 3.0
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_tables_name_their_machines_and_revisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, revision in enumerate(("b", "a", None, "a")):
        write_result(tmp_path, "GCN", seed, 0.5, revision=revision)
    write_result(tmp_path, "GAT", 0, 0.5, hardware={"cpu": "abacus", "accelerator": "loom"})
    write_result(tmp_path / "other", "GAT", 0, 0.5, task="other", revision=None)
    assert call("report", tmp_path) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Measured")]
    assert lines == [
        "Measured with abacus, threads: 1; torch 2, graphattn 0 (a, b) and loom; torch 2, graphattn 0 (abc).",
        "Measured with abacus, threads: 1; torch 2, graphattn 0.",
    ]


def test_errors_are_printed_as_they_are_and_the_lowest_is_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn: dict[str, Figure]
) -> None:
    for model, test in (("SAGE", 1.25), ("GraphTransformer", 1.0), ("GPS", 2.0)):
        write_result(tmp_path, model, 0, test, metric="rmse")
    assert call("report", tmp_path) == 0
    said = capsys.readouterr().out
    assert "rmse, lower is better; seed 0." in said
    assert cells(said, "GraphTransformer")[1] == "**1.0000**"
    assert cells(said, "SAGE")[1] == "1.2500"
    assert "GraphTransformer minus SAGE, the best peer: -0.2500, of too few seeds for an error." in said
    (axes,) = drawn["results"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["GraphTransformer", "SAGE", "GPS"]
    assert "lower is better" in axes.get_xlabel()


def test_seeds_that_are_not_the_same_are_not_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, test in enumerate((0.5, 0.7, 0.2, 0.6)):
        write_result(tmp_path, "InfDiffusionNet" if seed < 2 else "GCN", seed, test)
    assert call("report", tmp_path) == 0
    # Variances 0.02 and 0.08, each over two seeds.
    error = 100 * math.sqrt(0.02 / 2 + 0.08 / 2)
    assert f"+20.00 ± {error:.2f} points (standard error, over seeds that are not the same)" in capsys.readouterr().out


def test_scores_of_different_splits_stand_in_different_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        write_result(tmp_path, "GCN", seed, 0.5, split=f"official:{seed}")
        write_result(tmp_path, "GAT", seed, 0.6, split="official:0")
        write_result(tmp_path / "elsewhere", "GCN", seed, 0.7, split="random-20:1")
        write_result(tmp_path / "elsewhere", "GATv2", seed, 0.7, metric="roc_auc")
    write_result(tmp_path, "SAGE", 1, 0.4, split="official:1")
    assert call("report", tmp_path) == 0
    said = capsys.readouterr().out
    tables = {re.findall(r"Split (\S+); (\S+) ", text)[0]: text for text in said.split("## made")[1:]}
    models = {key: re.findall(r"^\| (\w+) ", text, re.MULTILINE)[1:] for key, text in tables.items()}
    assert models == {
        ("official:{seed}", "accuracy"): ["GCN", "SAGE"],
        ("official:0", "accuracy"): ["GAT"],
        ("random-20:1", "accuracy"): ["GCN"],
        ("public", "roc_auc"): ["GATv2"],
    }


def test_files_that_are_no_results_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path, "GCN", 0, 0.5)
    write_result(tmp_path / "copy", "GCN", 0, 0.9)
    write_result(tmp_path, "GAT", 0, math.nan)
    write_result(tmp_path / "GAT", "search", 7, 0.9)
    for name, text in (("half", '{"config": {'), ("list", "[1]"), ("foreign", '{"a": 1}'), ("odd", '{"config": 3}')):
        (tmp_path / f"{name}.json").write_text(text)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    assert call("report", tmp_path) == 0
    said = capsys.readouterr()
    for name in ("half", "list", "foreign", "odd", "binary"):
        assert f"{name}.json is no result of a run" in said.err
    assert "foreign.json is no result of a run: has no 'config'" in said.err
    assert "GAT/seed-0.json is no result of a run: its scores are not finite" in said.err
    assert "copy/GCN/seed-0.json" in said.err or "GCN/seed-0.json is passed over" in said.err
    assert said.out.count("| GCN ") == 1
    assert "GAT" not in said.out


def test_a_folder_without_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", tmp_path) == 2
    assert "has no results" in capsys.readouterr().err
    assert call("report", tmp_path / "nowhere") == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- options and settings ---------------------------------------------------------------------------------------------


def dry(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert call("--dataset", "karate", "--model", "GCN", "SAGE", "--dry-run", *words) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_later_settings_win(tmp_path: Path, configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    default = default_settings("node", "GCN")
    assert dry(capsys)["per_dataset"]["karate"]["settings"]["GCN"]["recipe"] == default.recipe

    stored = {"network": {"dropout": 0.1, "hidden_channels": 11}, "recipe": {"lr": 0.1, "epochs": 11, "patience": 11}}
    (configs / "karate.yaml").write_text(yaml.safe_dump({"split": "random-60-20-20:1", "settings": {"GCN": stored}}))
    given = {"gcn": {"network": {"hidden_channels": 22}, "recipe": {"epochs": 22, "patience": 22}}}
    (tmp_path / "given.yaml").write_text(yaml.safe_dump({"settings": given, "seeds": 4, "recipe": {"patience": 33}}))
    words = ["--config", tmp_path / "given.yaml", "--recipe.epochs", 44, "--budget", 2.5]
    assert call("--dataset", "karate", "--model", "GCN", "SAGE", "--dry-run", *words) == 0
    said = capsys.readouterr()
    changes = "options recipe.patience, recipe.epochs, training.max_minutes"
    assert f"karate, GCN: defaults for node tasks < karate.yaml < settings < {changes}\n" in said.err
    assert f"karate, SAGE: defaults for node tasks < {changes}\n" in said.err
    found = yaml.safe_load(said.out)
    assert found["seeds"] == 4
    assert found["per_dataset"]["karate"]["split"] == "random-60-20-20:1"
    gcn, sage = (found["per_dataset"]["karate"]["settings"][model] for model in ("GCN", "SAGE"))
    assert (gcn["network"]["dropout"], gcn["network"]["hidden_channels"], gcn["network"]["num_layers"]) == (0.1, 22, 2)
    assert (gcn["recipe"]["lr"], gcn["recipe"]["epochs"], gcn["recipe"]["patience"]) == (0.1, 44, 33)
    assert sage["recipe"] == {**default_settings("node", "SAGE").recipe, "epochs": 44, "patience": 33}
    assert gcn["training"] == sage["training"] == {"max_minutes": 2.5}
    for words, transform in (([], default.transform), (["--transform", "{}"], {})):
        assert dry(capsys, *words)["per_dataset"]["karate"]["settings"]["SAGE"]["transform"] == transform
    one = dry(capsys, "--transform.AddSelfLoops", "{}")["per_dataset"]["karate"]["settings"]
    assert one["GCN"]["transform"] == one["SAGE"]["transform"] == {"AddSelfLoops": {}}
    assert dry(capsys, "--split", "one-per-class:1")["per_dataset"]["karate"]["split"] == "one-per-class:1"


def test_a_dry_run_can_be_run(tmp_path: Path, configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (configs / "sbm.yaml").write_text("settings: {GCN: {transform: {}, network: {dropout: 0.3}}}\n")
    words = ["--dataset", "sbm", "Karate", "--model", "GCN", "AttentionNet", "--out", tmp_path, "--recipe.lr", "1e-3"]
    words += [
        "--settings",
        '{"AttentionNet": {"network": {"hops": .inf}}}',
        "--seeds",
        2,
        "--training",
        "{max_minutes: 1}",
    ]
    assert call(*words, "--dry-run") == 0
    said = capsys.readouterr().out
    assert yaml.safe_load(said)["dataset"] == ["sbm", "karate"]
    settings = yaml.safe_load(said)["per_dataset"]["sbm"]["settings"]
    assert (settings["GCN"]["transform"], settings["GCN"]["recipe"]["lr"]) == ({}, 0.001)
    assert settings["AttentionNet"]["network"]["hops"] == math.inf
    (tmp_path / "again.yaml").write_text(said)
    (configs / "sbm.yaml").write_text("settings: {GCN: {network: {dropout: 0.9}}}\n")
    assert call("--config", tmp_path / "again.yaml", "--dry-run") == 0
    assert capsys.readouterr().out == said


def test_one_name_in_a_file_needs_no_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.yaml").write_text("dataset: karate\nmodel: GCN\n")
    assert call("--config", tmp_path / "one.yaml", "--dry-run") == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"] == ["GCN"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model GCN", "--dataset is missing"),
        ("--dataset karate", "--model is missing"),
        ("--dataset carate --model GCN", "near: 'karate'"),
        ("--dataset karate --model GCNN", "--model names GCNN, which is unknown; did you mean GCN?"),
        ("--dataset karate --model xyz", "--model names xyz, which is unknown; expected one of AttentionNet, "),
        ("--dataset karate karate --model GCN", "--dataset names karate more than once"),
        ("--dataset karate Karate --model GCN", "--dataset names several sets that are called karate"),
        ("--datasett karate", "did you mean --dataset?"),
        ("--dry_run", "did you mean --dry-run?"),
        ("--dataset karate --model GCN --seeds 0", "--seeds is 0; expected more than 0"),
        ("--dataset karate --model GCN --seeds x", "seeds"),
        ("--dataset karate --model GCN --budget -1", "--budget is -1.0; expected more than 0"),
        ("--dataset karate --model GCN --search 2 --devices 2", "--search works on one device"),
        ("--dataset karate --model GCN --devices 0", "--devices is 0; expected more than 0"),
        ("--dataset karate --model GCN --max-parameters 0", "--max-parameters is 0; expected more than 0"),
        ("--dataset karate --model GCN --precision 8", "precision"),
        ("--dataset karate --model GCN --network.hiden_channels 3", "did you mean 'hidden_channels'?"),
        ("--dataset karate --model GCN --recipe.epoch 3", "karate, GCN: recipe has 'epoch'"),
        ("--dataset karate --model GCN --recipe.epochs 0", "karate, GCN, recipe: epochs is 0"),
        ("--dataset karate --model GCN --training.neighbors 3", "did you mean 'num_neighbors'?"),
        ("--dataset karate --model GCN --settings {GCNN:{}}", "settings"),
        ("--dataset karate --model GCN --split rando-20", "split is 'rando-20'"),
        ("--dataset karate --model GCN --device tpux", "--device tpux cannot be used"),
        (
            "--dataset xyzzy --model GCN",
            "bench: name is 'xyzzy', which is no known set (graphattn.datasets.names() ",
        ),
        ("--dataset local:nowhere.pt --model GCN", "graphattn bench: local:nowhere.pt does not exist"),
        ("--config nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_mistakes_are_explained_before_anything_starts(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*words.split(), "--out", tmp_path / "out") == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: GCN", "did you mean --model?"),
        ("settings: {GCNN: {}}", "settings names GCNN, which is unknown; did you mean GCN?"),
        ("settings: {GCN: 3}", "settings"),
        ("per_dataset: {carate: {}}", "per_dataset names carate, which is unknown; did you mean karate?"),
        ("per_dataset: {karate: {setings: {}}}", "per_dataset of karate names setings, which is unknown; did you mean"),
        ("per_dataset: {karate: {settings: [1]}}", "per_dataset of karate has settings of type list"),
        ("per_dataset: {karate: {settings: {GCNN: {}}}}", "did you mean GCN?"),
        ("per_dataset: {karate: {settings: {GCN: {networks: {}}}}}", "settings has 'networks'"),
        ("seeds: [", "Problems parsing config"),
    ],
)
def test_mistakes_in_a_file_are_explained(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "given.yaml").write_text(text)
    words = ["--dataset", "karate", "--model", "GCN", "--out", tmp_path / "out"]
    assert call(*words, "--config", tmp_path / "given.yaml") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mistakes_in_the_default_settings_name_their_file(configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (configs / "karate.yaml").write_text("settngs: {GCN: {network: {dropout: 0.3}}}\n")
    assert call("--dataset", "karate", "--model", "GCN", "--dry-run") == 2
    assert "karate.yaml: " in capsys.readouterr().err


def test_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call("--help")
    assert stop.value.code == 0
    said = capsys.readouterr().out
    words = ["graphattn bench", "report", "interruption", "--per-dataset", "--max-parameters", "--strategy", "SGFormer"]
    assert [word for word in words if word not in said] == []
    assert main([]) == 2
    assert "Train networks on sets with several seeds" in capsys.readouterr().out


@pytest.fixture
def without_jsonargparse(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    _optional._attempt.cache_clear()
    yield
    _optional._attempt.cache_clear()


@pytest.mark.usefixtures("without_jsonargparse")
def test_without_jsonargparse_the_extra_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--dataset", "karate", "--model", "GCN") == 2
    assert "jsonargparse is needed here" in (said := capsys.readouterr().err)
    assert "pip install 'graphattn[train]'" in said


# --- search -----------------------------------------------------------------------------------------------------------


def test_searched_settings_are_trained_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], configs: Path
) -> None:
    pytest.importorskip("optuna", reason="settings are searched by Optuna")
    words = ["--dataset", "karate", "--model", "GCN", "APPNP", "--seeds", 2, "--search", 2, "--out", tmp_path, *SMALL]
    assert call(*words) == 0
    said = capsys.readouterr()
    path = tmp_path / "karate" / "settings.yaml"
    assert f"settings of karate, GCN: the best of 2 that were tried, kept in {path}\n" in said.err
    found = yaml.safe_load(path.read_text())["settings"]
    asked = default_settings("node", "GCN").updated({"recipe": {"epochs": 3}, "network": {"hidden_channels": 8}})
    out = tmp_path / "karate" / "GCN" / "search"
    best = search(load("karate"), "GCN", asked, trials=2, out=out, device="cpu", progress=False)
    assert found["GCN"]["recipe"] == best.recipe
    assert found["GCN"]["network"] == best.network
    assert found.keys() == {"GCN", "APPNP"}
    configs_of_runs = scores(tmp_path / "karate", "GCN", "config")
    assert [config["recipe"]["lr"] for config in configs_of_runs] == [best.recipe["lr"]] * 2
    assert cells(said.out, "GCN")[7:] == ["2", "0"]  # trials are no runs
    # What was found serves as the defaults of the set.
    (configs / "karate.yaml").write_text((tmp_path / "karate" / "settings.yaml").read_text())
    assert dry(capsys)["per_dataset"]["karate"]["settings"]["GCN"] == found["GCN"]


def test_a_search_that_fails_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="settings are searched by Optuna")

    def fail(*args: Any, **options: Any) -> Any:
        raise ValueError("no settings came to a score")

    monkeypatch.setattr(bench, "search", fail)
    words = ["--dataset", "karate", "--model", "GCN", "--search", 2, "--seeds", 2, "--out", tmp_path, *SMALL]
    assert call(*words) == 1
    assert "- GCN, seed 0: the search failed: no settings came to a score" in capsys.readouterr().out


def test_every_named_set_comes_with_settings_that_hold() -> None:
    folder = Path(_bench_plan.__file__).parents[1] / "configs"
    assert {path.stem for path in folder.glob("*.yaml")} == set(names())
    for path in folder.glob("*.yaml"):
        stored = read_defaults(path)
        for model, groups in stored["settings"].items():
            settings = default_settings("node", model).updated(groups)
            Recipe(**settings.recipe)
