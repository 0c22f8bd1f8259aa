"""Where the time of one training step goes, ours beside PyG's, on the graphs where the ratio is small.

    python benchmarks/attention_profile.py --out benchmarks/results

Times are the operators' own CPU time as torch's profiler sees it, summed over STEPS steps and divided by their number.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from _attention_cases import CASES, LAYERS, make_problem
from torch.profiler import ProfilerActivity, profile

from graphattn import Affinity, from_pyg

STEPS = 10
PARTS = {
    "linear maps": ("mm", "addmm", "linear", "bmm"),
    "copies and fills": ("copy_", "fill_", "zero_", "clone", "contiguous", "cat"),
    "gathers and scatters": ("index", "gather", "scatter", "repeat_interleave", "take"),
    "sparse kernels": ("sampled_addmm", "segment_reduce", "sparse", "csr", "graphattn"),
    "elementwise and sums": ("add", "mul", "sub", "div", "exp", "relu", "sum", "eq", "masked", "where", "max"),
}


def part_of(name: str) -> str:
    """Name the part of a step that an operator belongs to."""
    plain = name.removeprefix("aten::").rstrip("_")
    for part, words in PARTS.items():
        if plain in words or (part != "linear maps" and any(word.rstrip("_") in plain for word in words)):
            return part
    return "dispatch and the rest"


def measure(step: Callable[[], None]) -> Counter[str]:
    """Run a step and return milliseconds per part."""
    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(STEPS):
            step()
    times: Counter[str] = Counter()
    for event in recorded.key_averages():
        times[part_of(event.key)] += event.self_cpu_time_total / 1e3 / STEPS
    return times


def main() -> None:
    """Profile the small cases and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["cora", "molecules", "star"], help="names of the cases")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the result")
    args = parser.parse_args()

    parts = [*PARTS, "dispatch and the rest"]
    lines = [f"Milliseconds of one training step (forward and backward), float32, {torch.get_num_threads()} threads, "]
    lines += [f"torch {torch.__version__}; ours with a cached layout.", ""]
    lines += [
        "| case | score | layer | total | " + " | ".join(parts) + " |",
        "|---|---|---|" + "--:|" * (len(parts) + 1),
    ]
    for case in (case for case in CASES if case.name in args.cases):
        for score in LAYERS:
            problem = make_problem(case, score)
            layer, x = problem.layer, problem.leaves["x"]
            assert layer is not None
            ours, affinity = from_pyg(layer), Affinity.from_edge_index(problem.edge_index, num_nodes=case.nodes)
            candidates = {
                "PyG": lambda layer=layer, x=x, edges=problem.edge_index: layer(x, edges).sum().backward(),
                "graphattn": lambda ours=ours, x=x, affinity=affinity: ours(x, affinity).sum().backward(),
            }
            for name, step in candidates.items():
                times = measure(step)
                cells = " | ".join(f"{times[part]:.2f}" for part in parts)
                lines.append(f"| {case.name} | {score} | {name} | {sum(times.values()):.2f} | {cells} |")
                print(lines[-1], flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    part = args.out / "attention_profile.md.part"
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(part, args.out / "attention_profile.md")


if __name__ == "__main__":
    main()
