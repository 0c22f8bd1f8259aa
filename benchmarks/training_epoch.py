"""A full-batch training epoch of AttentionNet beside PyG's GAT of equal width, in the same harness.

    python benchmarks/training_epoch.py --data ../shared/data --out benchmarks/results

Each run is a fresh process that trains by ``graphattn.training.fit`` and takes the median of its epochs, the first one
left out; an epoch is a step over the whole graph and a validation. Runs of the networks alternate, and the table has
the medians over ``--repeats`` rounds. All have two layers of GAT attention, 8 heads and 64 channels (4 and 128 on the
synthetic graph), and give the features to the first layer. After the last one PyG's network as it is usually made has
the mean of its heads, ours a linear map; with ``jump="last"`` PyG's has one too, and both have the same parameters.
Bags of words are given to all as sparse rows, and again as dense ones, which is PyG's usual form.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from _results import (
    HERE,
    environment,
    fresh_process,
    headline,
    load_results,
    recording_failure,
    save,
    start,
    use_threads,
)
from torch_geometric.data import Data
from tqdm import tqdm

from graphattn.datasets import NodeTask, load, transform
from graphattn.training import Recipe, fit
from graphattn.training.networks import make_network

OURS, PEER, EQUAL = "AttentionNet", "GAT", "GAT of equal form"
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    OURS: ("AttentionNet", {"score": "gat", "encoder": None}),
    PEER: ("GAT", {}),
    EQUAL: ("GAT", {"jump": "last"}),
}
SYNTHETIC = "170k nodes / 2.3M edges"
# Set, whether its features are sparse, channels, heads, epochs of a run.
CASES: dict[str, tuple[str, bool, int, int, int]] = {
    "Cora": ("Cora", True, 64, 8, 60),
    "Cora, dense features": ("Cora", False, 64, 8, 60),
    "Amazon-Photo": ("Amazon-Photo", True, 64, 8, 30),
    "Amazon-Photo, dense features": ("Amazon-Photo", False, 64, 8, 30),
    SYNTHETIC: (SYNTHETIC, False, 128, 4, 4),
}
FOLDERS = {"Cora": "planetoid", "Amazon-Photo": "npz_graphs"}


def synthetic(nodes: int = 170_000, edges: int = 2_300_000) -> NodeTask:
    """A graph as large as ogbn-arxiv in both directions, whose degrees have a heavy tail."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(nodes, generator=generator).pow(-0.5)
    source = torch.multinomial(weights, edges, replacement=True, generator=generator)
    target = torch.randint(nodes, (edges,), generator=generator)
    order = torch.randperm(nodes, generator=generator)
    parts = order.split([nodes // 2, nodes // 4, nodes - nodes // 2 - nodes // 4])
    return NodeTask(
        name=SYNTHETIC,
        data=Data(
            x=torch.randn(nodes, 128, generator=generator),
            edge_index=torch.stack([source, target]),
            y=torch.randint(40, (nodes,), generator=generator),
        ),
        split=dict(zip(("train", "val", "test"), parts, strict=True)),
        split_name="random",
        metric="accuracy",
        licence="generated",
        num_classes=40,
    )


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """Train one network in this process."""
    name, sparse, width, heads, epochs = CASES[spec["case"]]
    if name == SYNTHETIC:
        task = synthetic(*((2_000, 20_000) if spec["quick"] else ()))
    else:
        folder = Path(spec["data"]) / FOLDERS[name]
        task = load(name, folder if folder.is_dir() else spec["data"])
    if sparse:
        task = transform(task, {"SparseFeatures": {}})
    model, options = NETWORKS[spec["model"]]
    options = {"hidden_channels": width, "heads": heads, "num_layers": 2, "dropout": 0.5, **options}
    network = make_network(model, task, options)
    with use_threads(spec["threads"]):
        recipe = Recipe(3 if spec["quick"] else epochs, batch_size=None, lr=0.005, optimizer="adamw")
        result = fit(network, task, recipe, device="cpu", progress=False)
    return {
        "seconds": result.measured["seconds_per_epoch"],
        "memory_mib": result.measured["peak_memory_mib"],
        "parameters": result.parameters,
    }


def run(args: argparse.Namespace) -> None:
    """Measure all cases and write the table."""
    path = args.out / "training_epoch.json"
    current = environment({"threads": args.threads, "repeats": args.repeats, "quick": args.quick})
    results = load_results(path, current) if args.resume and path.exists() else current
    cases = results.setdefault("cases", {})
    todo = [(case, round_, model) for case in args.cases for round_ in range(args.repeats) for model in NETWORKS]
    for case, round_, model in tqdm(todo, desc="runs"):
        runs = cases.setdefault(case, {}).setdefault(model, [])
        if len(runs) > round_:
            continue
        spec = {"case": case, "model": model, "data": str(args.data), "threads": args.threads, "quick": args.quick}
        record: dict[str, Any] = {"status": "ok"}
        with recording_failure(record):
            record |= fresh_process("training_epoch.py", spec, seconds=3600)
        runs.append(record)
        save(path, results)
    report = write_report(results, args.out)
    print(report)


def write_report(results: dict[str, Any], out: Path) -> str:
    """Write ``training_epoch.md`` and return its text."""
    lines = [
        "# A training epoch of AttentionNet and of PyG's GAT",
        "",
        headline(results),
        "",
        f"Medians over {results['settings']['repeats']} alternating runs (`python benchmarks/training_epoch.py`); an "
        "epoch is a step over the whole graph and a validation. Ratios above 1 are in favour of AttentionNet.",
        "",
        f"| case | {' | '.join(f'{name}, ms' for name in NETWORKS)} | times as fast | as {EQUAL} | "
        f"{' | '.join(f'{name}, MiB' for name in NETWORKS)} | parameters |",
        f"|---{'|--:' * (2 * len(NETWORKS) + 3)}|",
    ]
    for case, models in results["cases"].items():
        failed = [run["reason"] for runs in models.values() for run in runs if run["status"] != "ok"]
        if failed:
            lines.append(f"| {case} | failed: {failed[0]} |{' |' * (2 * len(NETWORKS) + 2)}")
            continue
        seconds, memory = (
            {model: statistics.median(run[name] for run in runs) for model, runs in models.items()}
            for name in ("seconds", "memory_mib")
        )
        cells = [f"{seconds[model] * 1e3:.1f}" for model in NETWORKS]
        cells += [f"{seconds[model] / seconds[OURS]:.2f}x" for model in (PEER, EQUAL)]
        cells += [f"{memory[model]:.0f}" for model in NETWORKS]
        cells.append(" / ".join(f"{models[model][0]['parameters']:,}" for model in NETWORKS))
        lines.append(f"| {case} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    (out / "training_epoch.md").write_text(text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent / "data", help="folder of the sets (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("training-epoch"), help="folder of the results (%(default)s)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="few epochs and a small graph, to see that it runs")
    parser.add_argument("--resume", action="store_true", help="go on with the runs in --out")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    start(parser.parse_args(), run, worker)


if __name__ == "__main__":
    main()
