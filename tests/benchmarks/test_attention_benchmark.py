"""The attention benchmark runs end to end, and no candidate that computes something else gets a time."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
# One thread: on a busy machine two of them wait for each other far longer than tiny graphs take.
QUICK = ["--quick", "--repeats", "1", "--threads", "1"]


@pytest.fixture
def benchmark(scripts: Path) -> ModuleType:
    """The script as a module, its helpers beside it."""
    import attention

    return attention


def over_features(problem):
    """Normalize over the heads instead of the neighbours, as the baseline of PyG's own softmax benchmark does."""
    source, target = problem.edge_index
    q, k, v = (problem.leaves[name] for name in "qkv")

    def run() -> Tensor:
        scores = (q[target] * k[source]).sum(dim=-1) * q.size(-1) ** -0.5
        return torch.zeros_like(v).index_add(0, target, v[source] * scores.softmax(dim=-1).unsqueeze(-1))

    return problem.runner(run)


def test_quick_run_times_every_candidate(tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / "attention.py", *QUICK, "--repeats", "2", "--out", tmp_path]
    command += ["--cases", "cora", "molecules", "star", "50k-1M"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=FOLDER.parent)
    assert done.returncode == 0, done.stderr

    results = json.loads((tmp_path / "attention.json").read_text())
    assert {"python", "torch", "torch-geometric", "graphattn"} <= results["versions"].keys()
    assert str(FOLDER.parent) not in json.dumps(results)
    assert list(results["cases"]) == ["cora", "molecules", "star", "50k-1M"]
    assert set(results["cases"]["50k-1M"]["subjects"]) == {"dot", "gat", "gatv2", "gat+loops", "edge_attention"}
    for case in results["cases"].values():
        for measured in case["subjects"].values():
            assert {"PyG", "graphattn reference", "graphattn, plain", "graphattn, cached"} <= set(
                measured["candidates"]
            )
            for record in measured["candidates"].values():
                assert record["status"] == "ok", record
                assert all(entry["error"] <= entry["budget"] for entry in record["agreement"].values())
                for kind in ("forward", "training"):
                    assert len(record[kind]["seconds"]) == 2
                    assert all(0 < seconds < math.inf for seconds in record[kind]["seconds"])
    assert (tmp_path / "attention.md").read_text() in done.stdout
    assert (tmp_path / "attention.png").stat().st_size > 0
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", ["over features", "PyG"])
def test_candidate_that_computes_something_else_is_not_timed(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    # As a further candidate, and in the baseline's place, where it would set everybody's error budget.
    import _attention_cases

    monkeypatch.setitem(_attention_cases.OP_CANDIDATES, name, over_features)
    args = [*QUICK, "--cases", "50k-1M", "--scores", "edge_attention", "--out", str(tmp_path)]
    results = benchmark.run(benchmark.parse(args))
    records = results["cases"]["50k-1M"]["subjects"]["edge_attention"]["candidates"]
    assert records[name]["status"] == "WRONG"
    assert not {"forward", "training", "first_training_seconds", "peak_extra_bytes"} & records[name].keys()
    assert "WRONG" in (tmp_path / "attention.md").read_text()
    assert all(record["status"] == "ok" for other, record in records.items() if other != name)


def test_failing_candidate_is_recorded_and_the_others_go_on(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import _attention_cases

    def fail(problem):
        raise MemoryError("no room in /some/where-else/file.py")

    monkeypatch.setitem(_attention_cases.OP_CANDIDATES, "failing", fail)
    args = [*QUICK, "--cases", "50k-1M", "--scores", "edge_attention", "--out", str(tmp_path)]
    results = benchmark.run(benchmark.parse(args))
    records = results["cases"]["50k-1M"]["subjects"]["edge_attention"]["candidates"]
    assert records["failing"] == {"status": "failed", "reason": "MemoryError: no room in file.py"}
    assert all(record["status"] == "ok" for name, record in records.items() if name != "failing")


def test_resume_keeps_what_is_there(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def args(*more: str):
        return benchmark.parse([*QUICK, "--cases", "cora", "--out", str(tmp_path), *more])

    first = benchmark.run(args("--scores", "dot"))["cases"]["cora"]["subjects"]["dot"]
    resumed = benchmark.run(args("--scores", "dot", "gat", "--resume"))["cases"]["cora"]["subjects"]
    assert resumed["dot"] == first
    assert resumed.keys() == {"dot", "gat"}
    with pytest.raises(SystemExit, match="other settings"):
        benchmark.run(args("--repeats", "2", "--resume"))


def test_peak_counts_what_a_step_adds() -> None:
    code = (
        "import torch\nfrom _measure import peak_extra\n"
        "kept = torch.ones(40 * 2**18)\n"
        "print(peak_extra(lambda: torch.ones(80 * 2**18).sum()) / 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0, done.stderr
    assert 79 < float(done.stdout) < 100
