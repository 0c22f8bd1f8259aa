"""The benchmark of tables runs end to end, goes on where it was stopped, and its tasks are what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
QUICK = ["--quick", "--threads", "1"]


@pytest.fixture
def benchmark(scripts: Path) -> ModuleType:
    """The script as a module, its helpers beside it."""
    import tabular

    return tabular


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two sets, one of them with a folder ``data`` of its own."""
    rng = np.random.default_rng(0)
    for name, inner in (("yacht", "data"), ("energy", "")):
        folder = tmp_path / "sets" / name / inner
        folder.mkdir(parents=True)
        np.savetxt(folder / "data.txt", np.arange(60.0).reshape(20, 3) + rng.normal(size=(20, 3)))
        np.savetxt(folder / "index_features.txt", [0, 2], fmt="%d")
        np.savetxt(folder / "index_target.txt", [1], fmt="%d")
        np.savetxt(folder / "index_test_0.txt", [3, 7], fmt="%d")
    return tmp_path / "sets"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_quick_run_measures_every_part_and_goes_on(
    benchmark: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*QUICK, "--data", str(data), "--out", str(tmp_path)]
    benchmark.main([*command, "--parts", "classes", "transport", "numbers", "lookup"])
    results = json.loads((tmp_path / "tabular.json").read_text())
    assert str(FOLDER.parent) not in json.dumps(results)
    assert set(results["numbers"]) == {"yacht", "energy"}
    assert set(results["classes"]["breast cancer"]["NPT"]["splits"]) == {"0", "1"}
    for part in ("classes", "transport", "numbers", "lookup"):
        for record in results[part].values():
            for entry in record.values():
                assert entry["status"] == "ok", entry
                assert all(math.isfinite(value) for split in entry["splits"].values() for value in split.values())
    text = (tmp_path / "tabular.md").read_text()
    assert text in capsys.readouterr().out
    assert "A quick run on tiny tables" in text
    assert "concrete" not in text

    assert set(results["transport"]) == {"moons", "circles", "iris"}
    assert "optimal transport - SVM, fold by fold: accuracy " in text

    # What is there is not measured again.
    first = results["lookup"]["plain"]["NPT"]["splits"]["0"]
    del results["lookup"]["plain"]["MLP"]["splits"]["0"]
    (tmp_path / "tabular.json").write_text(json.dumps(results))
    benchmark.main([*command, "--parts", "lookup", "--resume"])
    resumed = json.loads((tmp_path / "tabular.json").read_text())
    assert resumed["lookup"]["plain"]["NPT"]["splits"]["0"] == first
    assert "0" in resumed["lookup"]["plain"]["MLP"]["splits"]
    assert resumed["classes"] == results["classes"]
    (tmp_path / "tabular.md").unlink()
    benchmark.main(["--report", "--out", str(tmp_path)])
    assert "## Lookup" in (tmp_path / "tabular.md").read_text()


def test_results_without_a_part_get_it_and_keep_the_others(benchmark: ModuleType, tmp_path: Path) -> None:
    command = [*QUICK, "--out", str(tmp_path), "--parts"]
    benchmark.main([*command, "transport"])
    results = json.loads((tmp_path / "tabular.json").read_text())
    transport = results.pop("transport")
    results["large"] = {"chunks": {"status": "failed", "reason": "no room"}}
    (tmp_path / "tabular.json").write_text(json.dumps(results))
    benchmark.main(["--report", "--out", str(tmp_path)])
    assert "by optimal transport" not in (tmp_path / "tabular.md").read_text()
    benchmark.main([*command, "transport", "--resume"])
    resumed = json.loads((tmp_path / "tabular.json").read_text())
    for name, record in transport.items():
        for method, entry in record.items():
            for fold, scores in entry["splits"].items():
                assert resumed["transport"][name][method]["splits"][fold]["accuracy"] == scores["accuracy"]
    assert resumed["large"] == results["large"]
    text = (tmp_path / "tabular.md").read_text()
    assert "## Classes by optimal transport" in text
    assert "failed: no room" in text


@pytest.mark.slow
def test_the_large_table_is_measured_in_a_fresh_process(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.main([*QUICK, "--parts", "large", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "tabular.json").read_text())["large"]
    for record in results.values():
        assert record["status"] == "ok", record
        assert record["mib_before"] <= record["mib_fitted"] <= record["mib_predicted"]
    assert "| nearest rows | 300 x 5 |" in (tmp_path / "tabular.md").read_text()


def test_a_failure_is_recorded_and_the_others_go_on(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no convergence")

    tasks = benchmark.tasks
    monkeypatch.setattr(tasks.NPTRegressor, "fit", fail)
    benchmark.main([*QUICK, "--parts", "lookup", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "tabular.json").read_text())["lookup"]["plain"]
    assert record["NPT"]["status"] == "failed"
    assert "no convergence" in (tmp_path / "tabular.md").read_text()
    assert record["k-NN"]["status"] == "ok"


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("features", [0, 4])
def test_lookup_rows_come_in_pairs(benchmark: ModuleType, shift: float, features: int) -> None:
    names = {(0, 0.0): "plain", (4, 0.0): "random features", (0, 1.0): "targets + 1"}
    split = benchmark.lookup(names.get((features, shift), "random features, targets + 1"), pairs=16)
    assert split.X.shape[1] == split.X_test.shape[1] == 8 + features + 1
    keys = [tuple(row[:8]) for row in split.X]
    for row, target in zip(split.X_test, split.y_test, strict=True):
        (place,) = [i for i, key in enumerate(keys) if key == tuple(row[:8])]
        assert target == pytest.approx(split.y[place] + shift)
        assert (split.X[place, -1], row[-1]) == (0, shift)
    assert len(set(keys)) == 16


def test_shapes_are_cut_into_folds(benchmark: ModuleType) -> None:
    found = benchmark.tasks.shapes(quick=False)
    assert {name: (len(splits), len(splits[0].X) + len(splits[0].X_test)) for name, splits in found.items()} == {
        "moons": (10, 500),
        "circles": (10, 500),
        "iris": (10, 150),
    }
    for splits in found.values():
        tested = np.vstack([split.X_test for split in splits])
        everything = np.vstack([splits[0].X, splits[0].X_test])
        np.testing.assert_array_equal(np.sort(tested, axis=0), np.sort(everything, axis=0))


def test_regression_splits_are_the_files(benchmark: ModuleType, data: Path) -> None:
    split = benchmark.tasks.regression(data / "energy", 0)
    table = np.loadtxt(data / "energy" / "data.txt")
    np.testing.assert_array_equal(split.X_test, table[[3, 7]][:, [0, 2]])
    np.testing.assert_array_equal(split.y_test, table[[3, 7], 1])
    kept = [i for i in range(20) if i not in (3, 7)]
    np.testing.assert_array_equal(split.X, table[kept][:, [0, 2]])


def test_differences_are_split_by_split(benchmark: ModuleType) -> None:
    import _tabular_report as report

    ours = {"splits": {"0": {"s": 1.0}, "1": {"s": 2.0}, "2": {"s": 9.0}}}
    theirs = {"splits": {"1": {"s": 4.0}, "0": {"s": 2.0}}}
    mean, error = report.compare(ours, theirs, "s")
    assert (mean, error) == (-1.5, pytest.approx(0.5))
    assert report._difference((mean, error)) == "-1.5000 ± 0.5000 (3.0 standard errors)"
    assert report._difference((-0.05, 0.0)) == report._difference((-0.05, math.nan)) == "-0.0500"
