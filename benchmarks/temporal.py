"""Networks over streams of events: whom a node meets next, and the time of a layer, beside PyG.

    python benchmarks/temporal.py --data ../shared/data --threads 1

Links: TGAT and TemporalNet, PyG's example of TGN and a static GAT on CollegeMsg, BitcoinOTC and BitcoinAlpha with the
same events, negatives, epochs, batches, widths and neighbours. The learning rate of each network is one of three, by
the validation of seed 0 alone. Speed: a forward and backward pass of TemporalAttentionConv and of TransformerConv on
the same sampled events.
Results are written after each run: a benchmark that was stopped goes on with ``--resume``; ``--sets`` and ``--models``
take it in parts, and more ``--seeds`` add to those it has. ``--report`` only writes the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _temporal_speed as speed
import torch
from _results import HERE, measure_parts, recording_failure, save, start
from _temporal_report import OURS, PEERS, write_report
from tqdm import tqdm

from graphattn.datasets import EventTask, chronological_split, load
from graphattn.training import EventResult, Recipe, fit
from graphattn.training.event_networks import make_event_network
from graphattn.training.experiment import default_settings

PARTS = ("links", "speed")
MODELS = (*OURS, *PEERS)
FOLDERS = {"CollegeMsg": "temporal/collegemsg", "BitcoinOTC": "temporal/bitcoin", "BitcoinAlpha": "temporal/bitcoin"}
SETTING = {"channels": 64, "neighbors": 10, "epochs": 10, "batch_size": 200, "rates": [1e-3, 3e-4, 1e-4]}
QUICK = {"channels": 8, "neighbors": 3, "epochs": 1, "batch_size": 100, "rates": [1e-3, 1e-4]}
QUICK_EVENTS = 600


def load_events(name: str, args: argparse.Namespace) -> EventTask:
    """Load a stream; of a quick run its beginning."""
    folder = args.data / FOLDERS[name]
    task = load(name, folder if folder.is_dir() else args.data)
    assert isinstance(task, EventTask)
    if not args.quick:
        return task
    data = task.data[:QUICK_EVENTS]
    split = chronological_split(data)
    return EventTask(
        name=name, data=data, num_nodes=task.num_nodes, split=split, split_name="quick", licence=task.licence
    )


def train(task: EventTask, model: str, rate: float, seed: int, setting: dict[str, Any]) -> dict[str, Any]:
    """Train a network and return what it has come to."""
    settings = default_settings("event", model).updated({"network": {"hidden_channels": setting["channels"]}})
    options = {**settings.recipe, "epochs": setting["epochs"], "batch_size": setting["batch_size"], "patience": None}
    options["lr"] = rate * 256 / setting["batch_size"]  # a recipe names the rate of a batch of 256
    network = make_event_network(model, task, settings.network)
    neighbors = None if network.past == "graph" else [setting["neighbors"]] * network.num_layers
    result = fit(network, task, Recipe(**options), seed=seed, num_neighbors=neighbors, device="cpu", progress=False)
    assert isinstance(result, EventResult)
    return {
        "val": result.val,
        "test": result.test,
        "inductive": result.inductive,
        "best_epoch": result.best_epoch,
        "losses": [epoch["loss"] for epoch in result.epochs],
        "validation": [epoch["score"] for epoch in result.epochs],
        "parameters": result.parameters,
        "seconds_per_epoch": result.measured["seconds_per_epoch"],
    }


def measure_links(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Choose a rate for every network on every set, and train it with every seed that is not in the results yet."""
    setting = QUICK if args.quick else SETTING
    if results["links"].setdefault("setting", setting) != setting:
        raise SystemExit(f"{path} was trained otherwise; run without --resume to start anew")
    sets = results["links"].setdefault("sets", {})
    todo = [(name, model) for name in args.sets for model in args.models]
    for name, model in tqdm(todo, desc="links"):
        task = load_events(name, args)
        entry = sets.setdefault(name, {}).setdefault(model, {"rates": {}, "seeds": {}})
        for rate in setting["rates"]:
            _run(entry["rates"], f"{rate:g}", results, path, (task, model, rate, 0, setting))
        tried = {rate: entry["rates"][f"{rate:g}"] for rate in setting["rates"]}
        scores = {rate: run["val"] for rate, run in tried.items() if run["status"] == "ok"}
        entry["rate"] = max(scores, key=lambda rate: scores[rate]) if scores else setting["rates"][0]
        entry["seeds"]["0"] = tried[entry["rate"]]
        for seed in range(1, args.seeds):
            _run(entry["seeds"], str(seed), results, path, (task, model, entry["rate"], seed, setting))
        save(path, results)


def _run(
    runs: dict[str, Any],
    key: str,
    results: dict[str, Any],
    path: Path,
    what: tuple[EventTask, str, float, int, dict[str, Any]],
) -> None:
    """Train one network, unless that is done, and write down what it has come to."""
    if runs.get(key, {}).get("status") == "ok":
        return
    runs[key] = {"status": "ok"}
    with recording_failure(runs[key]):
        runs[key] |= train(*what)
    save(path, results)


def measure_speed(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Time a step of each layer in every case."""
    stream = load_events("CollegeMsg", args).data
    cases = results["speed"].setdefault("cases", {})
    for name, case in tqdm(speed.cases(args).items(), desc="speed"):
        if cases.get(name, {}).get("status") == "ok":
            continue
        cases[name] = {"status": "ok"}
        with recording_failure(cases[name]):
            cases[name] |= speed.measure(stream, case, args.repeats)
        save(path, results)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for, or only report what was."""
    measures = {"links": measure_links, "speed": measure_speed}
    return measure_parts(args, args.out / "temporal.json", (), measures, write_report)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the sets (default data)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--sets", nargs="+", choices=list(FOLDERS), default=list(FOLDERS), help="streams of events")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="networks")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each network (default 3)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of the timing (default 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument("--quick", action="store_true", help="tiny data: tells whether everything runs")
    parser.add_argument("--resume", action="store_true", help="keep what the results in --out already hold")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the tables")
    args = parser.parse_args(argv)
    if min(args.seeds, args.repeats, args.threads) < 1:
        parser.error("--seeds, --repeats and --threads must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    start(parse(argv), run)


if __name__ == "__main__":
    main()
