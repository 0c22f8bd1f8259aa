"""How near attention comes to the speed at which memory can be read, on the CPU.

    python benchmarks/bandwidth.py --out benchmarks/results

The floor of a forward pass is the time to read a key and a value for every edge, that of a training step the time to
read six rows an edge: the two, and in the backward keys, values, queries and gradients of the output once each. Both
are counted at the bandwidth of a plain copy, whose bytes are those read and those written. Rows are in fact read in the
order of the edges, not one after the other: the bandwidth of a gather of such rows stands beside it. All are measured
in the same process, in turn, and the table has medians over ``--repeats`` rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _results import environment, headline, save, start, use_threads
from tqdm import tqdm

from graphattn import Affinity, edge_attention

NODES, EDGES, HEADS, CHANNELS = 50_000, 1_000_000, 4, 32
GOALS = {"forward": 0.45, "with backward": 0.35}
ROWS = {"forward": 2, "with backward": 6}  # read for every edge
COPIED = 1 << 28  # bytes, far more than any cache holds


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(nodes: int, edges: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of a copy, of a gather and of both passes of attention, and the bytes of each."""
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(nodes, (2, edges), generator=generator)
    affinity = Affinity.from_edge_index(edge_index, num_nodes=nodes)
    q, k, v = (torch.randn(nodes, HEADS, CHANNELS, generator=generator).requires_grad_() for _ in range(3))
    cotangent = torch.randn(nodes, HEADS, CHANNELS, generator=generator)
    source, target = torch.ones(COPIED // 4), torch.empty(COPIED // 4)
    rows, picked = k.detach().flatten(1), torch.empty(edges, HEADS * CHANNELS)

    def forward() -> None:
        with torch.no_grad():
            edge_attention(q, k, v, affinity)

    def train() -> None:
        torch.autograd.grad(edge_attention(q, k, v, affinity), (q, k, v), cotangent)

    row = HEADS * CHANNELS * 4
    work: dict[str, tuple[Callable[[], object], int]] = {
        "copy": (lambda: target.copy_(source), 2 * COPIED),
        "gather": (lambda: torch.index_select(rows, 0, edge_index[0], out=picked), 2 * edges * row),
        "forward": (forward, ROWS["forward"] * edges * row),
        "with backward": (train, ROWS["with backward"] * edges * row),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for step, _ in work.values():
        step()
    for _ in tqdm(range(repeats), desc="rounds"):
        for name, (step, _) in work.items():
            seconds[name].append(_seconds(step))
    return {name: {"bytes": size, "seconds": seconds[name]} for name, (_, size) in work.items()}


def write_report(results: dict[str, Any], out: Path) -> str:
    """Write ``bandwidth.md`` and return its text."""
    found = results["measured"]
    rate = {name: item["bytes"] / statistics.median(item["seconds"]) / 1e9 for name, item in found.items()}
    case = results["case"]
    lines = [
        "# Attention and the bandwidth of memory",
        "",
        headline(results),
        "",
        f"{case['nodes']:,} nodes, {case['edges']:,} edges, {HEADS} heads of {CHANNELS} channels, float32, dot, "
        f"cached layout; medians over {results['settings']['repeats']} rounds (`python benchmarks/bandwidth.py`).",
        "",
        "| | GB | ms | GB/s | of the copy | asked |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, item in found.items():
        goal = f"{GOALS[name]:.2f}" if name in GOALS else ""
        lines.append(
            f"| {name} | {item['bytes'] / 1e9:.2f} | {statistics.median(item['seconds']) * 1e3:.1f} "
            f"| {rate[name]:.1f} | {rate[name] / rate['copy']:.2f} | {goal} |"
        )
    text = "\n".join(lines) + "\n"
    (out / "bandwidth.md").write_text(text)
    return text


def run(args: argparse.Namespace) -> None:
    """Measure, and write the table."""
    case = {"nodes": 500, "edges": 5_000} if args.quick else {"nodes": NODES, "edges": EDGES}
    settings = {"threads": args.threads, "repeats": args.repeats, "quick": args.quick}
    results = environment(settings) | {"case": case}
    with use_threads(args.threads):
        results["measured"] = measure(**case, repeats=args.repeats)
    save(args.out / "bandwidth.json", results)
    print(write_report(results, args.out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bandwidth"), help="folder of the results (%(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small graph, to see that it runs")
    start(parser.parse_args(), run)


if __name__ == "__main__":
    main()
