"""Diffusion: accuracy, time and memory of many hops, against PyG's APPNP and GDC.

    python benchmarks/diffusion.py --data FOLDER --out benchmarks/results

``--data`` is a folder of Planetoid's raw files (``ind.pubmed.*``, ``ind.cora.*``). Forward: 64 channels over PubMed;
every candidate first has to be as close to the truth as its hops or its tolerance promise, then they take turns; ours
is compared at the loosest tolerance whose error is not above APPNP's. Backward: peak memory against the number of hops,
in a fresh process each. GDC: the diffused graph of Cora and PubMed. Results are written after each step: a run that was
stopped goes on with ``--resume``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _diffusion_cases as cases
import _diffusion_gdc as gdc
import torch
from _diffusion_report import write_report
from _measure import Runner
from _results import HERE, environment, fresh_process, load_results, recording_failure, save, start, summary
from tqdm import tqdm

PARTS = ("forward", "backward", "gdc")
TURN_SECONDS = 0.2
TIME_LIMIT = 900.0  # seconds of a fresh process


def measure_forward(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Check all candidates, choose our tolerances, and time everyone in turns."""
    problem = cases.make_problem(None if args.quick else args.data)
    finite = cases.finite_candidates(problem)
    matched = {str(c): cases.as_accurate(problem, c.run()) for c in finite if c.who == cases.PYG}
    candidates = {str(c): c for c in (*finite, *matched.values(), cases.solver(problem, 1e-6)) if c is not None}
    records: dict[str, Any] = {name: {"status": "ok"} for name in candidates}
    for name in tqdm(candidates, desc="agreement"):
        with recording_failure(records[name]):
            records[name] |= cases.check(problem, candidates[name])
    runners = {
        name: Runner(candidate.run, {}, cotangent=problem.x)
        for name, candidate in candidates.items()
        if records[name]["status"] == "ok"
    }
    time_candidates(runners, records, args.repeats, 0.0 if args.quick else TURN_SECONDS)
    results["forward"] = {
        "nodes": problem.x.size(0),
        "edges": problem.edge_index.size(1),
        "channels": cases.CHANNELS,
        "teleport": cases.TELEPORT,
        "matches": {theirs: None if ours is None else str(ours) for theirs, ours in matched.items()},
        "candidates": records,
    }
    save(path, results)


def time_candidates(runners: dict[str, Runner], records: dict[str, Any], repeats: int, turn_seconds: float) -> None:
    """Let the candidates take turns, another one first in each round; a turn is the median of several calls."""
    names = list(runners)
    calls: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in tqdm(range(repeats + 1), desc="rounds"):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            took = runners[name].forward(calls.get(name, 1))
            if turn:
                seconds[name].append(took)
            else:  # the warm-up round tells how long a call takes
                calls[name] = max(1, min(100, int(turn_seconds / took)))
    for name in names:
        records[name]["forward"] = summary(seconds[name])


def measure_backward(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Weigh a training step by number of hops."""
    wanted = [(who, hops) for who in (cases.PYG, "graphattn neumann") for hops in cases.BACKWARD_HOPS]
    records = results.setdefault("backward", {})
    for who, hops in tqdm([*wanted, (cases.RESOLVENT, 0)], desc="backward"):
        name = f"{who}, {hops} hops" if hops else who
        if records.get(name, {}).get("status") != "ok":
            records[name] = {"status": "ok", "who": who, "hops": hops or None}
            with recording_failure(records[name]):
                spec = {"do": "backward", "who": who, "hops": hops, "threads": args.threads, "data": str(args.data)}
                records[name] |= fresh_process("diffusion.py", spec, TIME_LIMIT)
            save(path, results)


def measure_gdc(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Diffuse whole graphs: the same edges first, then time and peak memory in a fresh process each."""
    records = results.setdefault("gdc", {})
    for graph in gdc.QUICK_GRAPHS if args.quick else gdc.GRAPHS:
        for who in tqdm(gdc.CANDIDATES, desc=graph):
            record = records.setdefault(graph, {}).setdefault(who, {})
            if record.get("status") == "ok":
                continue
            record.clear()
            record["status"] = "ok"
            with recording_failure(record):
                record |= gdc.check(graph, who, args.data)
                if record["status"] == "ok" and not args.quick:
                    spec = {"do": "gdc", "graph": graph, "who": who, "threads": args.threads, "data": str(args.data)}
                    record |= fresh_process("diffusion.py", spec, TIME_LIMIT)
            save(path, results)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for and write ``diffusion.json``, ``.md`` and ``.png``."""
    torch.set_num_threads(args.threads)
    path = args.out / "diffusion.json"
    results = environment({name: getattr(args, name) for name in ("threads", "repeats", "quick")})
    results = load_results(path, results) if args.resume and path.exists() else results
    if "forward" in args.parts and "forward" not in results:
        measure_forward(results, path, args)
    if "backward" in args.parts and not args.quick:
        measure_backward(results, path, args)
    if "gdc" in args.parts:
        measure_gdc(results, path, args)
    print(write_report(results, args.out))
    return results


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure the peak memory of a step, and its time afterwards; meaningful in a fresh process only."""
    torch.set_num_threads(spec["threads"])
    data = Path(spec["data"])
    if spec["do"] == "gdc":
        return gdc.weigh(spec["graph"], spec["who"], data)
    cases.backward_runner(cases.make_problem(None), spec["who"], spec["hops"]).train()
    runner = cases.backward_runner(cases.make_problem(data), spec["who"], spec["hops"])
    return {"peak_extra_bytes": runner.peak(), "training": summary([runner.train() for _ in range(3)])}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--data", type=Path, help="folder of Planetoid's raw files")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the timing (default 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument("--quick", action="store_true", help="a tiny graph, no memory: tells whether everything runs")
    parser.add_argument("--resume", action="store_true", help="keep what the results in --out already hold")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.repeats, args.threads) < 1:
        parser.error("--repeats and --threads must be at least 1")
    if not (args.data or args.quick or args.worker):
        parser.error("--data is missing; it is the folder of Planetoid's raw files (ind.pubmed.*, ind.cora.*)")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    start(parse(argv), run, worker)


if __name__ == "__main__":
    main()
