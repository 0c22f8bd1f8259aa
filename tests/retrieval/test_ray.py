"""Bulk jobs on a local Ray cluster: equal to those of one process, killed, resumed and failing as those."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphattn.retrieval.bulk import run_job
from tests.retrieval.bulk_lists import assert_same, make_job, results, write_lists
from tests.retrieval.test_bulk import environment, files, stop_in_the_middle

ray = pytest.importorskip("ray", reason="Ray is not installed")
data = pytest.importorskip("ray.data", reason="Ray Data is not installed")
psutil = pytest.importorskip("psutil")

pytestmark = [
    pytest.mark.slow,
    # What Ray says of its own options when it sets their defaults.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]


@pytest.fixture(scope="module", autouse=True)
def ends() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture
def cluster() -> None:
    """Start Ray unless it runs; jobs join what is there."""
    options = {"include_dashboard": False, "object_store_memory": 100_000_000, "log_to_driver": False}
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, **options)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("auto", {}),
        ("k-reciprocal", {"scope": "gallery", "k1": 8, "k2": 3}),
        ("diffusion", {"scope": "gallery", "offline": True, "k": 8, "n_trunc": 20}),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_ray_gives_what_one_process_gives(
    method: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, method, options=options)
    here = replace(job, out=tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    paths = {name: getattr(job, name).relative_to(tmp_path) for name in ("queries", "gallery", "out")}
    there = replace(job, parts=tuple(part.relative_to(tmp_path) for part in job.parts), **paths)
    reports = [run_job(here, progress=False), run_job(there, "ray", progress=False)]
    assert len({tuple((one.part, one.queries, one.dropped) for one in report) for report in reports}) == 1
    assert_same(results(there), results(here))
    assert files(there).keys() == files(here).keys()
    assert ray.is_initialized()
    assert data.DataContext.get_current().enable_progress_bars


@pytest.mark.usefixtures("cluster")
def test_a_part_that_fails_is_named(tmp_path: Path) -> None:
    job = make_job(tmp_path, skip_missing=False)
    write_lists(job.parts[2], {"q9": {"ghost": 1.0}})
    with pytest.raises(ValueError, match=r"^.*lists-2.parquet: document 'ghost' of query 'q9' is not in the gallery"):
        run_job(job, "ray", workers=1, progress=False)
    assert not job.target(job.parts[2]).exists()
    with pytest.raises(ValueError, match=r"out belongs to another job: skip_missing is True but was False"):
        run_job(replace(job, skip_missing=True), "ray", progress=False)


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    job = make_job(tmp_path, "k-reciprocal", (5,) * 24, depth=100, items=200, options={"chunk": 1})
    killed: list[int] = []

    def kill_one() -> None:
        while not list(job.out.glob("*.parquet")):
            time.sleep(0.01)
        ours = psutil.Process().children(recursive=True)
        workers = [one for one in ours if "::MapWorker" in title(one)]
        os.kill(workers[0].pid, signal.SIGKILL)
        killed.append(workers[0].pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    reports = run_job(job, "ray", workers=1, progress=False)
    killer.join()
    assert len(killed) == 1
    assert [one.queries for one in reports] == [5] * 24
    here = replace(job, out=tmp_path / "here")
    run_job(here, progress=False)
    assert_same(results(job), results(here))


JOINS = """
import pickle, sys
import ray
from graphattn.retrieval.bulk import run_job
shutdown = ray.shutdown
def tell_and_shut_down():
    print([node["NodeID"] for node in ray.nodes()])
    shutdown()
if __name__ == "__main__":
    ray.shutdown = tell_and_shut_down
    with open(sys.argv[1], "rb") as file:
        run_job(pickle.load(file), "ray", progress=False)
"""


@pytest.mark.usefixtures("cluster")
def test_a_job_joins_the_cluster_of_ray_address(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(job))
    (tmp_path / "joins.py").write_text(JOINS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(tmp_path / "joins.py"), str(tmp_path / "job.pickle")],
        env={**environment(), "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([node["NodeID"] for node in ray.nodes()])
    here = replace(job, out=tmp_path / "here")
    run_job(here, progress=False)
    assert_same(results(job), results(here))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_a_stopped_job_goes_on_in_a_cluster_of_its_own(how: signal.Signals, tmp_path: Path) -> None:
    """Whether it is killed or interrupted, nothing that it started is left, and what it had finished stays."""
    ray.shutdown()
    job = make_job(tmp_path, "k-reciprocal", (5,) * 24, depth=100, items=200, options={"chunk": 1})
    done, said, session = stop_in_the_middle(job, "ray", how)
    assert 1 <= len(done) < len(job.parts)
    assert ("KeyboardInterrupt" in said) == (how == signal.SIGINT)
    deadline = time.monotonic() + 60
    while left := [pid for pid in psutil.pids() if session_of(pid) == session]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    finished = files(job)
    reports = run_job(job, "ray", workers=2, progress=False)
    assert not ray.is_initialized()
    assert [one.queries for one in reports] == [5] * 24
    for name in done:
        assert files(job)[f"{name}.parquet"] == finished[f"{name}.parquet"]
    here = replace(job, out=tmp_path / "here")
    run_job(here, progress=False)
    assert_same(results(job), results(here))


def title(process: psutil.Process) -> str:
    """Return the command line of a process, empty if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def session_of(pid: int) -> int | None:
    """Return the session that a process belongs to, none if it has just ended or waits for its parent to notice."""
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (psutil.Error, ProcessLookupError):
        return None
