"""Speed and memory of our attention against PyG's, DGL's and plain torch, interleaved in one run.

    python benchmarks/attention.py --out benchmarks/results --dgl-python /path/to/python/with/dgl

Every candidate first has to agree with a float64 oracle; one that does not is reported as WRONG and never timed. Then
all of them take turns, round by round, so that a slow spell of the machine hits them alike. Peak memory is measured in
a fresh process per candidate. Results are written after each computation: a run that was stopped goes on with
``--resume``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _attention_cases import (
    BASELINE,
    CASES,
    DGL,
    SUBJECTS,
    Builder,
    Case,
    Problem,
    candidates,
    gathers,
    make_problem,
    oracle,
)
from _attention_report import write_report
from _results import (
    HERE,
    available_bytes,
    environment,
    fresh_process,
    load_results,
    recording_failure,
    save,
    start,
    summary,
)
from torch import Tensor
from tqdm import tqdm

TINY_EDGES = 400  # of the warm-up and of --quick
REDUCED_EDGES = 200_000  # of the agreement check where the oracle does not fit
TURN_SECONDS = 0.2
STEPS = 3  # of the products-sized training: the first sorts the edges, the others do not
FULL_STEP_LIMIT = 420  # seconds for those steps; a candidate that takes longer is reported as such


class DGLProcess:
    """The interpreter that has DGL, kept alive so that its rounds alternate with ours."""

    def __init__(self, python: str, threads: int) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process, see close)
        self._process = subprocess.Popen(
            [python, str(HERE / "_dgl_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | {"DGLBACKEND": "pytorch", "OMP_NUM_THREADS": str(threads)},
        )
        self._expired = False
        self.versions: dict[str, str] = self.ask("hello", threads=threads)

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send one request and return the answer; raise with the process's last words if there is none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # the reason is in the log, read below
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer and self._expired:
            raise TimeoutError(f"not done after {FULL_STEP_LIMIT} s")
        if not answer:
            self._log.seek(0)
            last = (self._log.read().strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"the DGL process ended with code {self._process.wait()}: {last}")
        return json.loads(answer)

    def load(self, problem: Problem) -> DGLRunner:
        """Hand a problem over; the former one is dropped."""
        arrays = {"edge_index": problem.edge_index, **problem.leaves}
        if problem.cotangent is not None:
            arrays["cotangent"] = problem.cotangent
        if problem.layer is not None:
            arrays |= {f"w:{name}": value for name, value in problem.layer.state_dict().items()}
        case = problem.case
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "problem.npz")
            np.savez(path, **{name: value.detach().numpy() for name, value in arrays.items()})
            self.ask(
                "load", path=path, subject=problem.subject, nodes=case.nodes, heads=case.heads, channels=case.channels
            )
        return DGLRunner(self)

    def expire(self) -> None:
        """Stop, so that whoever waits for an answer learns that time is over."""
        self._expired = True
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


class DGLRunner:
    """A :class:`_measure.Runner` in the other interpreter; seconds are measured there."""

    def __init__(self, process: DGLProcess) -> None:
        self._process = process

    def forward(self, calls: int = 1) -> float:
        return self._process.ask("forward", calls=calls)

    def train(self, calls: int = 1) -> float:
        return self._process.ask("train", calls=calls)

    def peak(self) -> int:
        return self._process.ask("peak")

    def results(self) -> dict[str, Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "results.npz")
            self._process.ask("results", path=path)
            with np.load(path) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def measure(case: Case, subject: str, args: argparse.Namespace, dgl: DGLProcess | None) -> dict[str, Any]:
    """Check, time and weigh every candidate of one computation."""
    builders = candidates(subject)
    if dgl is not None:
        builders[DGL] = dgl.load
    records: dict[str, Any] = {name: {"status": "ok"} for name in builders}

    compared = compared_case(case, subject)
    check_agreement(compared, subject, builders, records)
    if not case.full_step:
        turn_seconds = 0.0 if args.quick else TURN_SECONDS
        time_candidates(make_problem(case, subject), builders, records, args.repeats, turn_seconds)
    if not args.quick:
        for name in tqdm([name for name in builders if _ok(records, name)], desc="memory", leave=False):
            weigh(case, subject, name, records[name], args)
    return {"agreement_nodes": compared.nodes, "agreement_edges": compared.edges, "candidates": records}


def compared_case(case: Case, subject: str) -> Case:
    """Return the case itself, or a smaller one where its float64 oracle would not fit well into memory.

    The gradient of gatv2 jumps where a channel of an edge is 0. Among 10^8 of them float32 puts some on the other side
    than float64, for PyG as for us; among few it does not.
    """
    fits = 6 * case.gathered_bytes() < available_bytes()
    return case if fits and subject != "gatv2" else case.scaled(REDUCED_EDGES)


def check_agreement(case: Case, subject: str, builders: dict[str, Builder], records: dict[str, Any]) -> None:
    """Compare every candidate's output and gradients with the oracle; mark those that differ as WRONG.

    A result may be at most twice as far from the truth as the baseline's, plus two float32 roundings of the largest
    true value. The baseline sets that budget and is itself held to 1e-3 of the largest true value. Gradients of
    parameters are dense products of the gradients compared here; the unit tests compare them.
    """
    problem = make_problem(case, subject)
    truth = oracle(problem)
    largest = {name: value.abs().max().item() for name, value in truth.items()}
    budget = {name: 1e-3 * value for name, value in largest.items()}
    for name, build in builders.items():
        record = records[name]
        with recording_failure(record):
            results = build(problem).results()
            errors = {key: _error(results[key], value) for key, value in truth.items()}
            record["agreement"] = {
                key: {"error": _finite(errors[key]), "budget": budget[key], "largest": largest[key]} for key in truth
            }
            wrong = [key for key in truth if not errors[key] <= budget[key]]
            if wrong:
                record |= {"status": "WRONG", "reason": f"{', '.join(wrong)} differs from the float64 oracle"}
            elif name == BASELINE:
                eps = torch.finfo(torch.float32).eps
                budget = {key: 2 * (errors[key] + eps * largest[key]) for key in truth}


def _error(result: Tensor, truth: Tensor) -> float:
    """Return the largest absolute difference; infinite where the shapes differ or something is not finite."""
    if result.shape != truth.shape or not bool(torch.isfinite(result).all()):
        return math.inf
    return (result.double() - truth).abs().max().item()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity


def time_candidates(
    problem: Problem, builders: dict[str, Builder], records: dict[str, Any], repeats: int, turn_seconds: float
) -> None:
    """Let the candidates take turns; the first training step of each, which may sort edges, is kept apart.

    Another candidate starts each round, so that none always follows the same one. A turn is one call, or as many as fit
    into ``turn_seconds`` and then their median: the first calls of a turn find cold caches and sleeping threads.
    """
    runners: dict[str, Any] = {}
    for name, build in builders.items():
        if _ok(records, name) and _fits(problem.case, name, records[name]):
            with recording_failure(records[name]):
                runner = build(problem)
                records[name]["first_training_seconds"] = runner.train()
                runners[name] = runner
    if not runners:
        return
    for method, key in (("forward", "forward"), ("train", "training")):
        calls: dict[str, int] = {}
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for turn in tqdm(range(repeats + 1), desc=key, leave=False):
            names = list(runners)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                if not _ok(records, name):
                    continue
                with recording_failure(records[name]):
                    took = getattr(runners[name], method)(calls.get(name, 1))
                    if turn:
                        seconds[name].append(took)
                    else:  # the warm-up round tells how long a call takes
                        calls[name] = max(1, min(100, int(turn_seconds / took)))
        for name, times in seconds.items():
            if _ok(records, name):
                records[name][key] = summary(times)


def weigh(case: Case, subject: str, name: str, record: dict[str, Any], args: argparse.Namespace) -> None:
    """Measure a candidate's peak extra memory of one training step, in a fresh process.

    With ``full_step`` the same process also takes the times: nothing else would fit beside it.
    """
    if not _fits(case, name, record):
        return
    with recording_failure(record):
        if name == DGL:
            answer = _weigh_dgl(case, subject, args)
        else:
            spec = {"case": dataclasses.asdict(case), "subject": subject, "candidate": name, "threads": args.threads}
            answer = fresh_process("attention.py", spec, FULL_STEP_LIMIT)
        record["peak_extra_bytes"] = answer["peak"]
        if case.full_step:
            record["training"] = summary(answer["seconds"])


def _weigh_dgl(case: Case, subject: str, args: argparse.Namespace) -> dict[str, Any]:
    process = DGLProcess(args.dgl_python, args.threads)
    alarm = threading.Timer(FULL_STEP_LIMIT, process.expire)
    alarm.start()
    try:
        return _peak_and_times(process.load, case, subject)
    finally:
        alarm.cancel()
        process.close()


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """Do what :func:`weigh` asks of a fresh process."""
    torch.set_num_threads(spec["threads"])
    build = candidates(spec["subject"])[spec["candidate"]]
    return _peak_and_times(build, Case(**spec["case"]), spec["subject"])


def _peak_and_times(build: Callable[[Problem], Any], case: Case, subject: str) -> dict[str, Any]:
    tiny = build(make_problem(case.scaled(TINY_EDGES), subject, full_step=case.full_step))
    for _ in range(2):
        tiny.train()
    runner = build(make_problem(case, subject, full_step=case.full_step))
    peak = runner.peak()
    return {"peak": peak, "seconds": [runner.train() for _ in range(STEPS)] if case.full_step else []}


def _fits(case: Case, name: str, record: dict[str, Any]) -> bool:
    """Whether there is memory for a candidate; notes why not, so that no process is killed to find out."""
    needed = case.gathered_bytes()
    if not gathers(name) or needed < available_bytes():
        return True
    record |= {"status": "skipped", "reason": f"needs at least {needed / 2**30:.0f} GiB (estimated)"}
    return False


def _ok(records: dict[str, Any], name: str) -> bool:
    return records[name]["status"] == "ok"


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that the numbers depend on."""
    return {"threads": args.threads, "repeats": args.repeats, "quick": args.quick, "dtype": "float32"}


def peers(dgl: DGLProcess | None) -> dict[str, str | None]:
    """Return the versions of what we are compared with."""
    scatter = sys.modules.get("torch_scatter")
    versions = {"torch-scatter": scatter.__version__ if scatter else None}
    return versions | (dgl.versions if dgl else {"dgl": None})


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for and write ``attention.json``, ``.md`` and ``.png``."""
    torch.set_num_threads(args.threads)
    path = args.out / "attention.json"
    dgl = DGLProcess(args.dgl_python, args.threads) if args.dgl_python else None
    try:
        results = environment(settings(args), peers(dgl))
        results = load_results(path, results) if args.resume and path.exists() else results | {"cases": {}}
        for case, subject in tqdm(selected(args), desc="computations"):
            entry = results["cases"].setdefault(case.name, describe(case))
            if subject not in entry["subjects"]:
                entry["subjects"][subject] = measure(case, subject, args, dgl)
                save(path, results)
    finally:
        if dgl is not None:
            dgl.close()
    print(write_report(results, args.out))
    return results


def describe(case: Case) -> dict[str, Any]:
    """Return a case as it stands in the results."""
    sizes = {key: getattr(case, key) for key in ("kind", "nodes", "edges", "heads", "channels", "in_channels")}
    return {**sizes, "full_step": case.full_step, "subjects": {}}


def selected(args: argparse.Namespace) -> list[tuple[Case, str]]:
    """Return the computations to do, small graphs first."""
    cases = [case for case in CASES if case.name in args.cases and not (args.skip_products and case.full_step)]
    if args.quick:
        cases = [dataclasses.replace(case.scaled(TINY_EDGES), full_step=False) for case in cases]
    return [(case, subject) for case in cases for subject in case.subjects if subject in args.scores]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--scores", nargs="+", choices=SUBJECTS, default=SUBJECTS, metavar="NAME", help=", ".join(SUBJECTS)
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the first call (default 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads of every candidate")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--dgl-python", metavar="PATH", help="another interpreter, in which DGL can be imported")
    parser.add_argument("--skip-products", action="store_true", help="leave out the largest graph")
    parser.add_argument("--quick", action="store_true", help="tiny graphs, no memory: tells whether everything runs")
    parser.add_argument("--resume", action="store_true", help="keep what the results in --out already hold")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.repeats < 1 or args.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    start(parse(argv), run, worker)


if __name__ == "__main__":
    main()
