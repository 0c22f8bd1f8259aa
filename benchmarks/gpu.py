"""Check the fused kernels on a CUDA device, then time them and the layers against PyG and against the roofline.

    python benchmarks/gpu.py --out results

Every candidate first has to agree with a float64 reference on a small graph of the same kind; one that does not is
reported as WRONG and never timed. Times are medians of CUDA events, the candidates taking turns. The inputs rotate
through so many copies that none is found in the L2 cache. PyG has no sorted edges, as its users pass them; our edges
are sorted once, before. Without a GPU nothing is measured, and the exit status is 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _gpu_candidates import (
    BASELINE,
    OUR_LAYER,
    OURS,
    PYG_LAYER,
    Graph,
    Run,
    attend,
    draw_inputs,
    layers,
    operators,
)
from _results import environment, installed, recording_failure, save
from roofline import CASES, DEVICES, Problem, kernel_costs, seconds
from torch import Tensor

CHECKED_NODES, CHECKED_EDGES = 2_000, 40_000
PASSES = ("forward", "backward")
COPIED = 1 << 30  # bytes, more than any L2 cache holds
MAX_COPIES = 64
_IDLE_CYCLES = 4_000_000  # two to four milliseconds
COLUMNS = (
    "case",
    "candidate",
    "status",
    "forward, ms",
    "backward, ms",
    "peak, MiB",
    "times the baseline",
    "of roofline",
)

Clock = Callable[[Callable[[], object]], float]
Peak = Callable[[Callable[[], object]], int]


# Measuring on the device #############################################################################################


def event_seconds(work: Callable[[], object]) -> float:
    """Run work between two CUDA events; return the seconds between them.

    The device idles first, so that all work is queued by the time it starts: what is timed is the device, not Python.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(_IDLE_CYCLES)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def cuda_peak(work: Callable[[], object]) -> int:
    """Return the bytes that work allocates beyond those allocated before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = work()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def copy_bandwidth(clock: Clock, device: str, size: int = COPIED) -> float:
    """Return the bytes a second of a plain copy, those read and those written."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / statistics.median(clock(lambda: target.copy_(source)) for _ in range(10))


def copies(inputs: dict[str, Tensor], cache: int) -> int:
    """Return how many copies of the inputs fill twice the cache, so that the next one is never in it."""
    size = sum(x.numel() * x.element_size() for x in {id(x): x for x in inputs.values()}.values())
    return max(1, min(MAX_COPIES, -(-2 * cache // max(size, 1))))


# Checking and timing #################################################################################################


def results_of(run: Run, inputs: dict[str, Tensor], cotangent: Tensor) -> dict[str, Tensor]:
    """Return the output and the gradient of every input, by name."""
    named = {id(x): (name, x) for name, x in inputs.items()}
    out = run(inputs)
    grads = torch.autograd.grad(out, [x for _, x in named.values()], cotangent.to(out.dtype))
    return {"output": out.detach()} | {f"gradient of {n}": g for (n, _), g in zip(named.values(), grads, strict=True)}


def double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same numbers as float64 leaves, what was one tensor still being one."""
    wide = {id(x): x.detach().double().requires_grad_() for x in inputs.values()}
    return {name: wide[id(x)] for name, x in inputs.items()}


def cotangent_of(problem: Problem, device: str) -> Tensor:
    shape = problem.nodes, problem.heads, problem.channels
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)


def check(problem: Problem, device: str, records: dict[str, Any]) -> None:
    """Compare every operator with the float64 reference; mark those that differ as WRONG.

    A result of ours may be at most twice as far from the truth as plain torch in the same dtype, plus two roundings of
    the largest true value; one of another library twice as far as PyG's, if that is further.
    """
    small = dataclasses.replace(
        problem, nodes=min(problem.nodes, CHECKED_NODES), edges=min(problem.edges, CHECKED_EDGES)
    )
    graph, inputs, cotangent = Graph.draw(small, device), draw_inputs(small, device), cotangent_of(small, device)
    truth = results_of(attend(small, graph.affinity, "reference"), double(inputs), cotangent)
    standards = [results_of(attend(small, graph.affinity, "reference"), inputs, cotangent)]
    for name, run in operators(small, graph).items():
        record = records.setdefault(name, {"status": "ok"})
        with recording_failure(record):
            found = results_of(run, inputs, cotangent)
            if name == BASELINE:
                standards.append(found)
                continue
            allowed = standards[:1] if name == OURS else standards
            budget = {key: max(_budget(s[key], value) for s in allowed) for key, value in truth.items()}
            wrong = [key for key, value in truth.items() if not _error(found[key], value) <= budget[key]]
            if wrong:
                record |= {"status": "WRONG", "reason": f"{', '.join(wrong)} differs from the float64 reference"}


def _error(found: Tensor, truth: Tensor) -> float:
    return (found.double() - truth).abs().max().item()


def _budget(plain: Tensor, truth: Tensor) -> float:
    return 2 * (_error(plain, truth) + torch.finfo(plain.dtype).eps * truth.abs().max().item())


def time_candidates(
    runs: dict[str, Run],
    sets: Sequence[dict[str, Tensor]],
    cotangent: Tensor,
    parameters: dict[str, list[Tensor]],
    records: dict[str, Any],
    repeats: int,
    clock: Clock,
    peak: Peak,
) -> None:
    """Time forward and backward of every candidate that agreed, in turns, over rotating sets of inputs."""
    going = [name for name in runs if records.setdefault(name, {"status": "ok"})["status"] == "ok"]
    times: dict[str, dict[str, list[float]]] = {name: {which: [] for which in PASSES} for name in going}

    def step(name: str, inputs: dict[str, Tensor]) -> None:
        out = runs[name](inputs)
        torch.autograd.grad(out, _leaves(inputs, parameters.get(name, [])), cotangent.to(out.dtype).view_as(out))

    for name in list(going):
        with recording_failure(records[name]):
            step(name, sets[0])  # compiles
            records[name]["peak_bytes"] = peak(lambda name=name: step(name, sets[0]))  # type: ignore[misc]
        if records[name]["status"] != "ok":
            going.remove(name)
    for turn in range(repeats):
        inputs = sets[turn % len(sets)]
        for name in list(going):
            with recording_failure(records[name]):
                with torch.no_grad():
                    times[name]["forward"].append(clock(lambda: runs[name](inputs)))  # noqa: B023 (called at once)
                out = runs[name](inputs)
                leaves, grad = _leaves(inputs, parameters.get(name, [])), cotangent.to(out.dtype).view_as(out)
                times[name]["backward"].append(clock(lambda: torch.autograd.grad(out, leaves, grad)))  # noqa: B023
            if records[name]["status"] != "ok":
                going.remove(name)
    for name in going:
        records[name] |= {which: {"seconds": t, "median": statistics.median(t)} for which, t in times[name].items()}


def _leaves(inputs: dict[str, Tensor], parameters: list[Tensor]) -> list[Tensor]:
    return [*{id(x): x for x in inputs.values()}.values(), *parameters]


# Against the roofline ################################################################################################


def rates_of(name: str) -> str | None:
    """Return which of the published rates belong to a device."""
    return next((known for known in DEVICES if known in name), None)


def roofline_seconds(problem: Problem, bandwidth: float, device: str | None) -> dict[str, tuple[float, float]]:
    """Return the least and the most time of both passes, at the published rates or at a measured bandwidth."""
    costs = kernel_costs(problem)
    parts = {"forward": ["forward"], "backward": [name for name in costs if name != "forward"]}

    def time(moved: int, flops: int) -> float:
        return moved / bandwidth if device is None else seconds(moved, flops, device)

    return {
        which: (
            sum(time(costs[name].least(problem), costs[name].flops * problem.edges) for name in names),
            sum(time(costs[name].most(problem), costs[name].flops * problem.edges) for name in names),
        )
        for which, names in parts.items()
    }


def measure(
    problem: Problem, device: str, repeats: int, cache: int, bandwidth: float, name: str, clock: Clock, peak: Peak
) -> dict[str, Any]:
    """Check and time one case: the bare operators, then, of those without edge features, the layers."""
    records: dict[str, Any] = {}
    check(problem, device, records)
    graph, inputs, cotangent = Graph.draw(problem, device), draw_inputs(problem, device), cotangent_of(problem, device)
    sets = [inputs, *(draw_inputs(problem, device, seed) for seed in range(1, copies(inputs, cache)))]
    time_candidates(operators(problem, graph), sets, cotangent, {}, records, repeats, clock, peak)

    bounds = roofline_seconds(problem, bandwidth, rates_of(name))
    if problem.edge_dim:
        return {"candidates": records, "roofline": bounds}
    runs, modules = layers(problem, graph, device)
    shape = problem.nodes, problem.heads * problem.channels
    dtype = inputs["v"].dtype
    generator = torch.Generator().manual_seed(2)
    features = [
        {"x": torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()}
        for _ in range(copies({"x": torch.empty(shape, dtype=dtype, device="meta")}, cache))
    ]
    parameters = {key: list(module.parameters()) for key, module in modules.items()}
    time_candidates(runs, features, cotangent, parameters, records, repeats, clock, peak)
    return {"candidates": records, "roofline": bounds}


def report(results: dict[str, Any]) -> str:
    """Write the table: measured times, and the share of the roofline that our operator reaches."""
    device = results["device"]
    source = "published rates" if rates_of(device["name"]) else "the measured bandwidth of a copy"
    lines = [
        "# Measured on a GPU",
        "",
        f"{device['name']}; a copy moves {device['copy_bytes_per_second'] / 1e12:.2f} TB/s. The roofline is a "
        f"prediction from {source}: *of roofline* is the predicted time over the measured one, forward / backward, "
        "with every gathered row from memory once and, in brackets, once for every edge.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    for case, found in results["cases"].items():
        if "candidates" not in found:
            lines.append(f"| {case} | | {found['reason']} |" + " |" * (len(COLUMNS) - 3))
            continue
        for name, record in found["candidates"].items():
            lines.append(f"| {' | '.join([case, name, *_cells(name, record, found)])} |")
    return "\n".join(lines) + "\n"


def _cells(name: str, record: dict[str, Any], found: dict[str, Any]) -> list[str]:
    if "forward" not in record:
        reason = str(record.get("reason", "not timed")).split(". ")[0]  # the first of an allocator's sentences
        return [f"{record['status']}: {reason}", *[""] * 5]
    measured = [record[which]["median"] for which in PASSES]
    cells = ["ok", *(f"{time * 1e3:.3f}" for time in measured), f"{record['peak_bytes'] / 2**20:.1f}"]
    baseline = found["candidates"].get(PYG_LAYER if name in (OUR_LAYER, PYG_LAYER) else BASELINE, {})
    ratios = [
        baseline[which]["median"] / time for which, time in zip(PASSES, measured, strict=True) if which in baseline
    ]
    cells.append(" / ".join(f"{ratio:.2f}x" for ratio in ratios))
    shares = [[bound / time for bound in found["roofline"][p]] for p, time in zip(PASSES, measured, strict=True)]
    cells.append(" / ".join(f"{low:.2f} ({high:.2f})" for low, high in shares) if name == OURS else "")
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of gpu.json and gpu.md")
    parser.add_argument("--repeats", type=int, default=30, help="rounds of every case")
    parser.add_argument(
        "--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE", help="some only"
    )
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("no CUDA device was found: nothing was measured, and no figure is given without one", file=sys.stderr)
        raise SystemExit(2)
    properties = torch.cuda.get_device_properties(0)
    settings = {"repeats": args.repeats, "checked_edges": CHECKED_EDGES}
    results = environment(settings, installed("triton", "turbo-gnn", "dgl"))
    bandwidth = copy_bandwidth(event_seconds, "cuda")
    results |= {"device": {"name": properties.name, "copy_bytes_per_second": bandwidth}, "cases": {}}
    for case in args.cases:
        found: dict[str, Any] = {}
        with recording_failure(found):
            found |= measure(
                CASES[case],
                "cuda",
                args.repeats,
                properties.L2_cache_size,
                bandwidth,
                properties.name,
                event_seconds,
                cuda_peak,
            )
        results["cases"][case] = found
        torch.cuda.empty_cache()
        save(args.out / "gpu.json", results)
    text = report(results)
    (args.out / "gpu.md").write_text(text)
    print(text)
    wrong = [case for case, found in results["cases"].items() if not _passed(found)]
    if wrong:
        raise SystemExit(f"graphattn failed or disagrees in: {'; '.join(wrong)}")


def _passed(found: dict[str, Any]) -> bool:
    """Tell whether our operator agreed and ran, and our layer, which cases with edge features do not have."""
    records = found.get("candidates", {})
    ours = [records[name]["status"] for name in (OURS, OUR_LAYER) if name in records]
    return OURS in records and set(ours) == {"ok"}


if __name__ == "__main__":
    main()
