"""The feature-selection benchmark runs end to end, and no candidate that ranks otherwise gets a time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.io import savemat
from scipy.stats import spearmanr

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
QUICK = ["--quick", "--repeats", "2", "--cv-repeats", "1", "--threads", "1"]


@pytest.fixture
def benchmark(scripts: Path) -> ModuleType:
    """The script as a module, its helpers beside it."""
    import feature_selection

    return feature_selection


def test_quick_run_measures_every_part(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.run(benchmark.parse([*QUICK, "--out", str(tmp_path)]))
    text = (tmp_path / "feature_selection.json").read_text()
    results = json.loads(text)
    assert {"python", "scipy", "scikit-learn", "graphattn"} <= results["versions"].keys()
    assert str(FOLDER.parent) not in text

    for size in results["speed"].values():
        assert set(size["candidates"]) == {"dense inverse", "PyIFS formula", "graphattn", "graphattn, blocked"}
        for name, record in size["candidates"].items():
            assert record["status"] == "ok", record
            assert len(record["fit"]["seconds"]) == 2
            assert all(0 < seconds < math.inf for seconds in record["fit"]["seconds"])
            if name.startswith("graphattn"):
                assert record["agreement"]["tau"] >= 0.9999
                assert record["agreement"]["misplaced"] == 0
    assert results["large"]["ranked"]["residual"] <= 1e-6
    assert results["large"]["ranked"]["radius_certified"]
    assert results["large"]["precisions"]["tau"] >= 0.9999

    methods = results["quality"]["synthetic"]["methods"]
    assert {"InfFS", "InfFSSupervised", "ILFS", "ECFS", "F value", "all features"} <= methods.keys()
    for name, record in methods.items():
        if name == "ReliefF" and results["versions"]["skrebate"] is None:
            assert "skrebate" in record["reason"]
            continue
        assert record["status"] == "ok", record
        assert list(record["folds"]) == ["0/0", "0/1", "0/2", "0/3", "0/4"]
        for fold in record["folds"].values():
            assert list(fold["accuracy"]) == (["40"] if name == "all features" else ["5", "10"])
        # Half of the 40 features are informative or repeat what others say: ten of them beat guessing.
        assert np.mean([list(fold["accuracy"].values())[-1] for fold in record["folds"].values()]) > 0.6

    assert (tmp_path / "feature_selection.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "feature_selection.png").stat().st_size > 0
    assert not list(tmp_path.glob("*.partial"))


def test_candidate_that_ranks_otherwise_is_not_timed(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def swapped(X: np.ndarray, **options: float) -> np.ndarray:
        """Exchange the scores of the best and the worst feature; the rest is right."""
        scores = benchmark.speed.our_scores(X, **options)
        ends = [scores.argmax(), scores.argmin()]
        scores[ends] = scores[ends[::-1]]
        return scores

    monkeypatch.setitem(benchmark.speed.CANDIDATES, "swapped", swapped)
    args = benchmark.parse([*QUICK, "--parts", "speed", "--out", str(tmp_path)])
    for size in benchmark.run(args)["speed"].values():
        records = size["candidates"]
        assert records["swapped"]["status"] == "WRONG"
        assert "fit" not in records["swapped"]
        assert all(record["status"] == "ok" for name, record in records.items() if name != "swapped")
    assert "WRONG" in (tmp_path / "feature_selection.md").read_text()


def test_one_exchange_beyond_the_gap_is_counted(benchmark: ModuleType) -> None:
    truth = np.random.default_rng(0).random(200) + 1
    assert benchmark.speed.misplaced(truth, 3 * truth - 1) == 0

    order = np.argsort(-truth)
    exchanged = truth.copy()
    exchanged[order[[10, 11]]] = truth[order[[11, 10]]]
    assert benchmark.speed.misplaced(truth, exchanged) == 1
    close = truth.copy()
    close[order[11]] = close[order[10]] * (1 - 1e-7)
    assert benchmark.speed.misplaced(close, exchanged) == 0


def test_formulas_are_those_that_were_published(benchmark: ModuleType) -> None:
    X = benchmark.speed.synthetic(benchmark.speed.Size(40, 15))
    n, std = X.shape[1], X.std(axis=0, ddof=1)
    correlation, sigma = np.empty((n, n)), np.empty((n, n))
    for i in range(n):
        for j in range(n):
            correlation[i, j] = spearmanr(X[:, i], X[:, j]).statistic
            sigma[i, j] = max(std[i], std[j])
    sigma = (sigma - sigma.min()) / (sigma.max() - sigma.min())
    for score, term in (
        (benchmark.speed.dense_scores, 1 - abs(correlation)),
        (benchmark.speed.pyifs_scores, correlation),
    ):
        A = 0.5 * term + 0.5 * sigma
        inverse = np.linalg.inv(np.eye(n) - 0.9 / np.linalg.eigvals(A).real.max() * A)
        np.testing.assert_allclose(score(X), (inverse - np.eye(n)).sum(axis=1), rtol=1e-10)


def test_selection_sees_the_training_rows_alone(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    table = benchmark.quality.quick_set()
    seen = []

    def last_columns_first(X: np.ndarray, y: np.ndarray) -> np.ndarray:
        seen.append((X, y))
        return np.arange(X.shape[1])[::-1]

    monkeypatch.setitem(benchmark.quality.RANKERS, "spy", last_columns_first)
    tested = []
    for _, train, test in benchmark.quality.folds(table, 1):
        record = benchmark.quality.evaluate(table, "spy", train, test, (3,))
        X, y = seen.pop()
        np.testing.assert_array_equal(X, table.X[train])
        np.testing.assert_array_equal(y, table.y[train])
        assert not set(train) & set(test)
        assert 0 <= record["accuracy"]["3"] <= 1
        tested += test.tolist()
    assert sorted(tested) == list(range(len(table.y)))


def test_missing_set_is_reported_and_a_stopped_run_goes_on(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = benchmark.quality.quick_set()
    savemat(tmp_path / "here.mat", {"X": table.X, "Y": table.y[:, None]})
    monkeypatch.setattr(benchmark.quality, "SETS", ("gone", "here"))
    rankers = {name: benchmark.quality.RANKERS[name] for name in ("variance", "F value", "all features")}
    monkeypatch.setattr(benchmark.quality, "RANKERS", rankers)
    monkeypatch.setattr(benchmark.quality, "COUNTS", (5, 20))
    options = ["--parts", "quality", "--data", str(tmp_path), "--out", str(tmp_path), "--threads", "1"]
    first = benchmark.run(benchmark.parse([*options, "--cv-repeats", "1"]))["quality"]
    assert first["gone"]["status"] == "missing"
    assert "gone.mat" in first["gone"]["reason"]
    assert (first["here"]["samples"], first["here"]["features"], first["here"]["classes"]) == (80, 40, 2)
    assert "gone" in (tmp_path / "feature_selection.md").read_text()

    path = tmp_path / "feature_selection.json"
    stopped = json.loads(path.read_text())
    del stopped["quality"]["here"]["methods"]["F value"]["folds"]["0/3"]
    path.write_text(json.dumps(stopped))
    evaluated = []
    evaluate = benchmark.quality.evaluate
    monkeypatch.setattr(
        benchmark.quality,
        "evaluate",
        lambda table, method, *rest: evaluated.append(method) or evaluate(table, method, *rest),
    )
    resumed = benchmark.run(benchmark.parse([*options, "--cv-repeats", "1", "--resume"]))["quality"]
    assert evaluated == ["F value"]
    for method, record in resumed["here"]["methods"].items():
        accuracy = {fold: r["accuracy"] for fold, r in first["here"]["methods"][method]["folds"].items()}
        assert {fold: r["accuracy"] for fold, r in record["folds"].items()} == accuracy
    evaluated.clear()
    more = benchmark.run(benchmark.parse([*options, "--cv-repeats", "2", "--resume"]))["quality"]["here"]
    assert evaluated == [name for name in rankers for _ in range(5)]
    assert more["repeats"] == 2
    assert {fold for record in more["methods"].values() for fold in record["folds"]} == {
        f"{repeat}/{fold}" for repeat in range(2) for fold in range(5)
    }
    with pytest.raises(SystemExit, match="other settings"):
        benchmark.run(benchmark.parse([*options, "--repeats", "4", "--resume"]))


def test_ranks_are_shared_in_ties_and_averaged_over_sets(benchmark: ModuleType) -> None:
    from _selection_report import mean_ranks

    def entry(**accuracy: float) -> dict:
        folds = {name: {"0/0": {"accuracy": {"10": value}}} for name, value in accuracy.items()}
        return {"status": "ok", "methods": {name: {"status": "ok", "folds": fold} for name, fold in folds.items()}}

    sets = {"one": entry(a=0.9, b=0.9, c=0.5), "two": entry(a=0.6, b=0.7, c=0.8), "gone": {"status": "missing"}}
    assert mean_ranks(sets) == {"a": {10: 2.25}, "b": {10: 1.75}, "c": {10: 2.0}}
