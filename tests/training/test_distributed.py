"""Training in two real processes: the same batches, gradients, files and results as in one."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from graphattn.engine import load_checkpoint

pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is not installed")

from tests.training.worker import run

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without gloo",
)
ROOT = Path(__file__).parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SAMPLED: dict[str, Any] = {"kind": "nodes", "noisy": True, "num_neighbors": [3, 2], "recipe": {"ema": 0.7}}


def launch(folder: Path, jobs: list[dict[str, Any]], launcher: list[str] | None = None) -> str:
    """Start the jobs in two processes, by Fabric or by a launcher; return why they failed, empty if they did not."""
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE", "RANK")},
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *(launcher or []), str(ROOT / "tests" / "training" / "worker.py")]
    jobs = [{"devices": 2, **job} for job in jobs]
    done = subprocess.run(
        [*command, str(folder), json.dumps(jobs)], env=environment, capture_output=True, text=True, timeout=300
    )
    return done.stderr if done.returncode else ""


def outcomes(folder: Path) -> list[list[dict[str, Any]]]:
    """Return what each of two processes has found, by job."""
    ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    return [list(job) for job in zip(*ranks, strict=True)]


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """Return what two results that are equal have in common."""
    return {name: value for name, value in result.items() if name != "measured"}


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Several runs one after the other, by Fabric's launcher: batches of all neighbours, and of graphs.

    Neither 25 nodes nor 24 graphs make batches of 11, and 11 has no half: the parts are unequal in every step.
    """
    exact: dict[str, Any] = {"precision": "64-true", "recipe": {"optimizer": "sgd", "lr": 5.0}}
    # Of 12 steps each loss is rounded to float32, in two parts or in one.
    budget = 12 * torch.finfo(torch.float32).eps
    jobs = [
        {"kind": "nodes", "num_neighbors": [-1, -1], **exact},
        {"kind": "nodes", "num_neighbors": [-1, -1], **exact, "seed": 4, "out": "out"},
        {"kind": "graphs", **exact},
        {"kind": "nodes", "num_neighbors": [3, 2], "noisy": True, "recipe": {"batch_size": 7}},
    ]
    assert launch(tmp_path, jobs) == ""
    found = outcomes(tmp_path)
    for job, (first, second) in zip(jobs, found, strict=True):
        assert first["result"] == second["result"]
        assert first["weights"] == second["weights"]
        assert first["result"]["config"]["processes"] == 2
        if job["kind"] == "nodes":
            # Each training node once in each epoch, in one of the processes.
            for epoch in range(4):
                steps = len(first["rows"]) // 4
                rows = [rows for each in (first, second) for rows in each["rows"][epoch * steps :][:steps]]
                assert sorted(itertools.chain.from_iterable(rows)) == list(range(25))
    for job, (first, _) in zip(jobs[:3], found, strict=False):
        result, net = run(**{name: value for name, value in job.items() if name != "out"})
        for ours, theirs in zip(first["result"]["epochs"], result.epochs, strict=True):
            assert ours == pytest.approx(theirs, rel=budget)
        assert (first["result"]["best_epoch"], first["result"]["test"]) == (result.best_epoch, result.test)
        for name, value in net.state_dict().items():
            weights = torch.tensor(first["weights"][name], dtype=value.dtype)
            torch.testing.assert_close(weights, value, rtol=budget, atol=budget)
    stored = json.loads((tmp_path / "out" / "seed-4.json").read_text())
    assert stored == found[1][0]["result"]
    assert len((tmp_path / "out" / "seed-4.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_two_processes_that_are_killed_go_on_to_the_same_bits(victim: int, tmp_path: Path) -> None:
    """Under torchrun; one process dies in the middle of the third epoch, which takes the other with it."""
    whole = {**SAMPLED, "out": "whole"}
    parts = {**SAMPLED, "out": "parts"}
    assert launch(tmp_path, [whole], TORCHRUN) == ""
    expected = outcomes(tmp_path)[0]
    assert launch(tmp_path, [{**parts, "kill": 2, "victim": victim}], TORCHRUN) != ""
    lines = (tmp_path / "parts" / "seed-3.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert launch(tmp_path, [{**parts, "resume": True}], TORCHRUN) == ""
    for ours, theirs in zip(outcomes(tmp_path)[0], expected, strict=True):
        assert numbers(ours["result"]) == numbers(theirs["result"])
        assert ours["weights"] == theirs["weights"]
    states = [load_checkpoint(tmp_path / folder / "seed-3.pt") for folder in ("whole", "parts")]
    for part in ("model", "best"):
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0][part].items())
    texts = [(tmp_path / folder / "seed-3.jsonl").read_text() for folder in ("whole", "parts")]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_links_in_two_processes(tmp_path: Path) -> None:
    """Random pairs are drawn by each process, so that the losses differ from those of one in nothing but chance."""
    job: dict[str, Any] = {"kind": "links", "num_neighbors": [-1, -1], "recipe": {"epochs": 30, "batch_size": 50}}
    assert launch(tmp_path, [job]) == ""
    first, second = outcomes(tmp_path)[0]
    assert first["result"] == second["result"]
    assert first["result"]["test"] > 0.75
    assert first["result"]["epochs"][-1]["loss"] < 0.95 * first["result"]["epochs"][0]["loss"]


@pytest.mark.slow
def test_an_error_of_the_first_process_ends_all(tmp_path: Path) -> None:
    """A checkpoint of other settings is refused in all processes, none of which waits for the other."""
    job = {**SAMPLED, "out": "out"}
    assert launch(tmp_path, [job]) == ""
    assert "belongs to another run; recipe is" in launch(tmp_path, [{**job, "resume": True, "recipe": {"epochs": 5}}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "devices is 0; expected an integer, at least 1"),
        ({"num_nodes": 1.5, "num_neighbors": [2]}, "num_nodes is 1.5; expected an integer, at least 1"),
        ({"strategy": "fsdp"}, "strategy is 'fsdp'; expected 'auto' or 'ddp'"),
        ({"devices": 2}, "2 devices are asked for, but each step is over the whole graph of communities"),
        (
            {"devices": 2, "num_neighbors": [2], "device": "cpu:0"},
            "device is 'cpu:0', a single one, but devices is 2; pass device='cpu'",
        ),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run("nodes", {"batch_size": 8 if "num_neighbors" in options else None}, **options)


def test_links_over_the_whole_graph_are_not_shared() -> None:
    with pytest.raises(ValueError, match="2 devices are asked for, but each step is over the whole graph of joined"):
        run("links", {}, devices=2)


def test_processes_of_torchrun_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="torchrun has started 2 processes, but devices is 1 and num_nodes is 1; pass"):
        run("nodes", {"batch_size": None})
