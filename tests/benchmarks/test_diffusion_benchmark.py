"""The diffusion benchmarks run end to end: right candidates are timed, wrong ones named, training runs resumed."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def diffusion(scripts: Path) -> ModuleType:
    import diffusion

    return diffusion


@pytest.fixture
def hops(scripts: Path) -> ModuleType:
    import hops

    return hops


def run_diffusion(diffusion: ModuleType, out: Path, *options: str) -> dict:
    return diffusion.run(diffusion.parse(["--quick", "--repeats", "2", "--threads", "1", "--out", str(out), *options]))


def test_quick_run_compares_at_equal_or_smaller_error(
    diffusion: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_diffusion(diffusion, tmp_path)
    text = (tmp_path / "diffusion.json").read_text()
    results = json.loads(text)
    assert str(FOLDER.parent) not in text
    candidates = results["forward"]["candidates"]
    assert {"PyG APPNP, 10 hops", "PyG APPNP, sorted, 10 hops", "graphattn pagerank, 10 hops"} <= candidates.keys()
    for record in candidates.values():
        assert record["status"] == "ok", record
        assert record["difference"] <= record["budget"]
        assert len(record["forward"]["seconds"]) == 2
    matches = results["forward"]["matches"]
    assert list(matches) == [f"PyG APPNP, {hops} hops" for hops in (10, 20, 40, 80)]
    assert matches["PyG APPNP, 10 hops"] is not None
    for theirs, ours in matches.items():
        if ours is not None:
            for error in ("error", "largest_error"):
                assert candidates[ours][error] <= candidates[theirs][error]
    for record in results["gdc"]["random"].values():
        assert record["status"] == "ok"
        assert record["difference"] < 1e-5
    assert (tmp_path / "diffusion.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "diffusion.png").stat().st_size > 0
    assert not list(tmp_path.glob("*.partial"))

    resumed = run_diffusion(diffusion, tmp_path, "--resume")
    assert resumed["forward"] == results["forward"]
    with pytest.raises(SystemExit, match="other settings"):
        run_diffusion(diffusion, tmp_path, "--resume", "--repeats", "3")


def test_exact_solution_is_that_of_the_dense_inverse(diffusion: ModuleType) -> None:
    problem = diffusion.cases.make_problem(None)
    A = np.eye(120)
    A[tuple(problem.edge_index[:, problem.edge_index[0] != problem.edge_index[1]].numpy())] = 1
    scale = A.sum(axis=1) ** -0.5
    dense = 0.1 * np.linalg.inv(np.eye(120) - 0.9 * scale[:, None] * A * scale) @ problem.x.double().numpy()
    np.testing.assert_allclose(problem.exact.numpy(), dense, rtol=0, atol=1e-11 * abs(dense).max())


def test_candidate_that_computes_something_else_is_not_timed(
    diffusion: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cases = diffusion.cases
    right = cases.finite_candidates

    def with_wrong(problem):
        teleport = partial(cases.pagerank, problem.A, problem.x, 0.11, 10)
        return [*right(problem), cases.Candidate("another teleport", teleport, 10)]

    monkeypatch.setattr(cases, "finite_candidates", with_wrong)
    records = run_diffusion(diffusion, tmp_path, "--parts", "forward")["forward"]["candidates"]
    assert records["another teleport, 10 hops"]["status"] == "WRONG"
    assert "forward" not in records["another teleport, 10 hops"]
    assert "WRONG" in (tmp_path / "diffusion.md").read_text()
    assert all(record["status"] == "ok" for name, record in records.items() if "another" not in name)


def test_diffused_graph_with_other_weights_is_wrong(diffusion: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    gdc = diffusion.gdc

    def one_off(data):
        edge_index, weight = gdc._ours(data)
        weight = weight.clone()
        weight[0] *= 1.01
        return edge_index, weight

    def one_missing(data):
        edge_index, weight = gdc._ours(data)
        return edge_index[:, 1:], weight[1:]

    for wrong in (one_off, one_missing):
        monkeypatch.setitem(gdc.CANDIDATES, "wrong", wrong)
        assert gdc.check("random", "wrong", None)["status"] == "WRONG"


def test_training_steps_of_many_hops_have_the_gradients_of_all_hops(diffusion: ModuleType) -> None:
    cases = diffusion.cases
    problem = cases.make_problem(None)
    truth = cases.backward_runner(problem, cases.RESOLVENT, 0).results()
    for who, number in ((cases.PYG, 200), ("graphattn neumann", 200)):
        found = cases.backward_runner(problem, who, number).results()
        for name, value in truth.items():
            # The solver's tolerance, 1e-6 of the right-hand side, grows by the norm of the inverse.
            assert torch.linalg.norm(found[name] - value) <= 2e-5 * torch.linalg.norm(value), name


def run_hops(hops: ModuleType, out: Path, *options: str) -> dict:
    return hops.run(hops.parse(["--quick", "--threads", "1", "--epochs", "8", "--out", str(out), *options]))


def test_hops_runs_resumes_and_pairs_the_seeds(
    hops: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []
    train = hops.train
    monkeypatch.setattr(hops, "train", lambda graph, model, *rest: trained.append(model) or train(graph, model, *rest))
    run_hops(hops, tmp_path, "--seeds", "2")
    results = json.loads((tmp_path / "hops.json").read_text())
    assert sorted(trained) == sorted([*hops.MODELS] * 4)  # two configurations, two seeds
    for entry in results["models"].values():
        best = max(entry["tuning"].values(), key=lambda run: (run["val_accuracy"], -run["val_loss"]))
        assert entry["config"] == best["config"]
        # The same seed and configuration give the same network.
        assert entry["seeds"]["0"]["test_accuracy"] == best["test_accuracy"]
        assert 1 / 3 < entry["seeds"]["0"]["test_accuracy"] <= 1
    for pair in hops.PAIRS.items():
        many, one = ([results["models"][model]["seeds"][s]["test_accuracy"] for s in "01"] for model in pair)
        assert results["paired"][pair[0]]["differences"] == [a - b for a, b in zip(many, one, strict=True)]
        assert results["paired"][pair[0]]["mean"] == pytest.approx(np.mean(many) - np.mean(one))
    assert (tmp_path / "hops.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "hops.png").stat().st_size > 0

    trained.clear()
    resumed = run_hops(hops, tmp_path, "--seeds", "3", "--resume")
    assert sorted(trained) == sorted(hops.MODELS)
    for model, entry in resumed["models"].items():
        assert entry["seeds"].items() >= results["models"][model]["seeds"].items()
    with pytest.raises(SystemExit, match="other settings"):
        run_hops(hops, tmp_path, "--epochs", "9", "--resume")


def test_paired_models_have_the_same_budget(hops: ModuleType) -> None:
    networks = {model: hops.build(model, hops.GRID[0], 1433, 7) for model in hops.MODELS}
    parameters = {model: sum(p.numel() for p in network.parameters()) for model, network in networks.items()}
    assert parameters["GAT's form, hops=1"] == parameters["GAT"]
    for many, one in hops.PAIRS.items():
        assert parameters[many] == parameters[one] + 8 + 1  # a decay for each head


def test_epoch_is_chosen_by_validation(hops: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # (validation accuracy, validation loss, test accuracy) of each epoch; the last is out of reach of the patience.
    script = [(0.5, 1.0, 0.1), (0.7, 0.9, 0.2), (0.7, 0.8, 0.3), (0.6, 0.1, 0.9), (0.7, 0.85, 0.4), (0.9, 0.1, 1.0)]
    epochs = iter(script)

    def scripted(*_: object):
        val, loss, test = next(epochs)
        return {"val": val, "test": test}, loss

    monkeypatch.setattr(hops, "evaluate", scripted)
    monkeypatch.setattr(hops, "PATIENCE", 2)
    graph = hops.Graph(hops.random_graph())
    record = hops.train(graph, "hops=1", hops.GRID[0], 0, 100)
    assert (record["test_accuracy"], record["epoch"], record["epochs"]) == (0.3, 2, 5)


def test_dropped_entries_are_those_of_dense_dropout(hops: ModuleType) -> None:
    torch.manual_seed(0)
    x = hops.Graph(hops.random_graph(features=400)).x
    dropped = hops.drop_entries(x, 0.6, training=True).to_dense()
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], x.to_dense()[kept] / 0.4)
    spread = math.sqrt(0.6 * 0.4 / kept.numel())
    assert abs(kept.double().mean().item() - 0.4) < 5 * spread
    assert hops.drop_entries(x, 0.6, training=False) is x
