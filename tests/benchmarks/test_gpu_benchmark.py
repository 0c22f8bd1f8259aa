"""The GPU benchmark without a GPU: it refuses to run, and everything but events and memory counters is right."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def gpu(scripts: Path) -> ModuleType:
    import gpu

    return gpu


def _problem(gpu: ModuleType, **options: Any) -> Any:
    return gpu.Problem(**{"nodes": 20, "edges": 60, "heads": 2, "channels": 4, **options})


def _clock(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which the benchmark would use")
def test_without_a_gpu_it_refuses(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "gpu.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "no CUDA device was found" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("itemsize", [4, 2])
@pytest.mark.parametrize(
    ("score", "edge_dim"), [("dot", 0), ("dot", 3), ("gat", 0), ("gat", 3), ("gatv2", 0), ("gatv2", 3)]
)
def test_a_case_end_to_end(gpu: ModuleType, score: str, edge_dim: int, itemsize: int) -> None:
    problem = _problem(gpu, score=score, edge_dim=edge_dim, itemsize=itemsize)
    found = gpu.measure(problem, "cpu", 2, 1000, 1e9, "a CPU", _clock, lambda work: work() or 1)
    layers = set() if edge_dim else {gpu.PYG_LAYER, gpu.OUR_LAYER}
    assert set(found["candidates"]) >= {gpu.BASELINE, gpu.OURS} | layers
    for record in found["candidates"].values():
        assert record["status"] == "ok", record
        assert len(record["forward"]["seconds"]) == len(record["backward"]["seconds"]) == 2
    results = {"device": {"name": "a CPU", "copy_bytes_per_second": 1e9}, "cases": {"tiny": found}}
    text = gpu.report(json.loads(json.dumps(results)))
    assert "the measured bandwidth of a copy" in text
    rows = [line for line in text.splitlines() if line.startswith("| tiny")]
    assert len(rows) == len(found["candidates"])
    assert all(row.count("|") == len(gpu.COLUMNS) + 1 for row in rows)


@pytest.mark.parametrize(
    ("score", "edge_dim"), [("dot", 0), ("dot", 3), ("gat", 0), ("gat", 3), ("gatv2", 0), ("gatv2", 3)]
)
def test_all_operators_compute_the_same(gpu: ModuleType, score: str, edge_dim: int) -> None:
    problem = _problem(gpu, score=score, edge_dim=edge_dim)
    graph, inputs = gpu.Graph.draw(problem, "cpu"), gpu.draw_inputs(problem, "cpu")
    cotangent = gpu.cotangent_of(problem, "cpu")
    truth = gpu.results_of(gpu.attend(problem, graph.affinity, "reference"), gpu.double(inputs), cotangent)
    for run in gpu.operators(problem, graph).values():
        found = gpu.results_of(run, inputs, cotangent)
        assert found.keys() == truth.keys()
        for name in truth:
            torch.testing.assert_close(found[name].double(), truth[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("score", ["dot", "gat", "gatv2"])
def test_both_layers_compute_the_same(gpu: ModuleType, score: str) -> None:
    problem = _problem(gpu, score=score)
    runs, _ = gpu.layers(problem, gpu.Graph.draw(problem, "cpu"), "cpu")
    x = {"x": torch.randn(problem.nodes, problem.heads * problem.channels)}
    torch.testing.assert_close(runs[gpu.OUR_LAYER](x), runs[gpu.PYG_LAYER](x), rtol=1e-4, atol=1e-5)


def test_what_differs_is_never_timed(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    original = gpu.operators

    def with_a_wrong_one(problem: Any, graph: Any) -> Any:
        runs = original(problem, graph)
        return {**runs, "wrong": lambda x: 1.01 * runs[gpu.OURS](x), "broken": lambda x: x["missing"]}

    monkeypatch.setattr(gpu, "operators", with_a_wrong_one)
    records = gpu.measure(_problem(gpu), "cpu", 1, 0, 1e9, "", _clock, lambda work: work() or 1)["candidates"]
    assert records["wrong"]["status"] == "WRONG"
    assert records["broken"]["status"] == "failed"
    assert "forward" not in records["wrong"]
    assert "forward" not in records["broken"]
    assert "forward" in records[gpu.OURS]


def test_a_peer_that_cannot_be_imported_is_a_failed_candidate(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import _gpu_candidates

    monkeypatch.setattr(_gpu_candidates.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "dgl", None)
    monkeypatch.setitem(sys.modules, "turbo_gnn", None)
    records: dict[str, Any] = {}
    gpu.check(_problem(gpu), "cpu", records)
    assert records["DGL"]["status"] == records["turbo-gnn"]["status"] == "failed"
    assert records[gpu.OURS]["status"] == "ok"


def test_a_case_passes_with_an_operator_alone_but_not_without_it(gpu: ModuleType) -> None:
    fine, wrong = {"status": "ok"}, {"status": "WRONG"}
    assert gpu._passed({"candidates": {gpu.OURS: fine}})
    assert gpu._passed({"candidates": {gpu.OURS: fine, gpu.OUR_LAYER: fine, gpu.BASELINE: wrong}})
    assert not gpu._passed({"candidates": {gpu.OURS: fine, gpu.OUR_LAYER: wrong}})
    assert not gpu._passed({"candidates": {gpu.OUR_LAYER: fine}})
    assert not gpu._passed({"status": "failed", "reason": "out of memory"})


def test_copies_fill_twice_the_cache(gpu: ModuleType) -> None:
    x = torch.empty(256)  # 1 KiB
    assert gpu.copies({"x": x}, 0) == 1
    assert gpu.copies({"x": x}, 2048) == 4
    assert gpu.copies({"x": x, "again": x}, 2048) == 4
    assert gpu.copies({"x": x}, 2049) == 5
    assert gpu.copies({"x": x}, 1 << 40) == gpu.MAX_COPIES


def test_inputs_rotate(gpu: ModuleType) -> None:
    seen = []
    sets = [{"x": torch.full((1, 1, 1), float(i), requires_grad=True)} for i in range(3)]
    runs = {"one": lambda x: seen.append(x["x"].item()) or x["x"] * 2}
    gpu.time_candidates(runs, sets, torch.ones(1, 1, 1), {}, {}, 4, _clock, lambda work: work() or 1)
    assert seen[:2] == [0.0, 0.0]  # the warm-up and the peak
    assert seen[2:] == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 0.0, 0.0]


def test_roofline_uses_published_rates_where_the_device_is_known(gpu: ModuleType) -> None:
    problem = _problem(gpu)
    assert gpu.rates_of("NVIDIA A100-SXM4-80GB") == "A100"
    assert gpu.rates_of("NVIDIA L4") is None
    cost = gpu.kernel_costs(problem)["forward"]
    least, most = gpu.roofline_seconds(problem, 1e9, None)["forward"]
    assert (least, most) == (cost.least(problem) / 1e9, cost.most(problem) / 1e9)
    least, _ = gpu.roofline_seconds(problem, 1e9, "A100")["forward"]
    assert least == pytest.approx(gpu.seconds(cost.least(problem), cost.flops * problem.edges, "A100"))
