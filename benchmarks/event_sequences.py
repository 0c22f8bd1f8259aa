"""Sequences of events: does a network that sees times foretell what comes next better than one that sees their order?

    python benchmarks/event_sequences.py --data FOLDER --out benchmarks/results

``--data`` holds the badges of Stack Overflow (``event.txt.gz``, ``time.txt.gz`` and ``badges.csv``, or the files of
their source). One network, ``EventSequenceModel``, is trained with encodings of time and with encodings of the order of
events, with the same recipe and all else equal: on the badges, in folds of users, and on streams whose next type the
phase of time decides, so that the best accuracy is known with and without times. Validation decides about the epoch.
Two rules without a network stand beside them. Results are written after each run: what was stopped goes on with
``--resume``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _event_sequences_report import write_report
from _results import HERE, measure_parts, recording_failure, save, start
from tqdm import tqdm

from graphattn.datasets import SequenceTask, load_badges, periodic_events
from graphattn.engine import Recipe
from graphattn.models.event_sequence_model import EventSequenceModel
from graphattn.training.sequences import fit_sequences

Keep = Callable[[], None]
DIM = 32
# All encodings are about as wide. Mercer's half-periods are 1, 10, ..., 10^8, with three harmonics each.
MODELS: dict[str, dict[str, Any]] = {
    "time, Mercer": {"time": "mercer", "time_dim": 63, "time_options": {"harmonics": 3}},
    "time, Bochner": {"time": "bochner", "time_dim": 64},
    "order, sinusoidal": {"time": "sinusoidal", "time_dim": 64},
    "order, learned": {"time": "learned", "time_dim": 64},
}
# Of the badges alone: streams start at 0, while some badges are given on days of the calendar, as those for elections;
# and a kernel of the differences of times cannot tell their phase.
MORE: dict[str, dict[str, Any]] = {
    "time, Bochner of the calendar": {"time": "bochner", "time_dim": 64, "time_reference": "absolute"},
    "time, Bochner as a kernel": {"time": "bochner", "time_dim": 64, "fusion": "kernel"},
}
STREAMS: dict[str, dict[str, Any]] = {
    "period 10": {"period": 10.0},
    "period 7.3": {"period": 7.3},
    "period 10, a tenth at random": {"period": 10.0, "noise": 0.1},
}
LENGTH = {"badges": 100, "streams": None}  # events that a prediction may see
DROPOUT = {"badges": 0.1, "streams": 0.0}
RECIPES = {
    "badges": Recipe(epochs=30, batch_size=64, lr=0.012, optimizer="adam", weight_decay=0.0, warmup=0.1, patience=6),
    "streams": Recipe(epochs=150, batch_size=64, lr=0.04, optimizer="adam", weight_decay=0.0, warmup=0.05),
}


def train(task: SequenceTask, part: str, options: dict[str, Any], seed: int, quick: bool) -> dict[str, Any]:
    """Train one network and return its scores."""
    model = EventSequenceModel(task.num_types, DIM, 1, dropout=DROPOUT[part], **options)
    recipe = Recipe(epochs=2, batch_size=64, lr=0.04, optimizer="adam") if quick else RECIPES[part]
    result = fit_sequences(model, task, recipe, length=LENGTH[part], seed=seed, device="cpu", progress=False)
    return {
        "accuracy": result.test,
        "time_error": result.test_time_error,
        "val_accuracy": result.val,
        "epochs": len(result.epochs),
        "best_epoch": result.best_epoch,
        "parameters": result.parameters,
        "seconds": result.measured["seconds"],
    }


def rules(task: SequenceTask) -> dict[str, Any]:
    """Score what needs no network: the most frequent next type, that after the last one, and the median time."""
    pairs = {which: task.windows(which, 1, 1).event_type.unbind(dim=1) for which in ("train", "test")}
    counts = torch.zeros(task.num_types + 1, task.num_types + 1)
    counts.index_put_(pairs["train"], torch.ones(len(pairs["train"][0])), accumulate=True)
    before, after = pairs["test"]
    types = {
        "most frequent type": counts.sum(dim=0).argmax().expand(len(after)),
        "most frequent after the last type": counts.argmax(dim=1)[before],
    }
    error = task.time_error(task.elapsed("train").median().expand(len(after)), "test")
    return {name: {"accuracy": task.evaluate(found, "test"), "time_error": error} for name, found in types.items()}


def measure(task: SequenceTask, part: str, records: dict[str, Any], seed: int, keep: Keep, quick: bool) -> None:
    """Fill up what is missing of the records of a task: those of the rules and of every network."""
    records |= rules(task)
    models = MODELS | (MORE if part == "badges" else {})
    for name, options in tqdm(models.items(), desc=f"{task.name}, {task.split_name}, seed {seed}", leave=False):
        if "accuracy" not in records.get(name, {}):
            records[name] = {}
            with recording_failure(records[name]):
                records[name] |= train(task, part, options, seed, quick)
            keep()
    keep()


def measure_streams(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Train on streams whose best accuracy is known, with and without times."""
    keep = partial(save, path, results)
    sizes = {"num_sequences": 20, "length": 6} if args.quick else {"num_sequences": 1000, "length": 16}
    for name, options in STREAMS.items():
        stream = results["streams"].setdefault(name, {"seeds": {}})
        for seed in range(args.seeds):
            task = periodic_events(**sizes, num_types=4, seed=seed, **options)
            stream |= {"optimum": task.optimum, "optimum_of_order": task.optimum_of_order}
            measure(task, "streams", stream["seeds"].setdefault(str(seed), {}), seed, keep, args.quick)


def measure_badges(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Train on the badges, a fold of the users at a time."""
    keep = partial(save, path, results)
    badges = results["badges"]
    badges.setdefault("folds", {})
    for fold in range(args.folds):
        task = periodic_events(20, 6, seed=fold) if args.quick else load_badges(args.data, fold)
        badges |= {"sequences": task.num_sequences, "events": len(task.t), "types": task.num_types}
        measure(task, "badges", badges["folds"].setdefault(str(fold), {}), fold, keep, args.quick)


PARTS = {"streams": measure_streams, "badges": measure_badges}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train every network on every task and write ``event_sequences.json`` and ``.md``."""
    return measure_parts(args, args.out / "event_sequences.json", (), PARTS, write_report)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the badges")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default all)")
    parser.add_argument("--folds", type=int, default=5, help="how many of the five folds of the badges (default 5)")
    parser.add_argument("--seeds", type=int, default=5, help="how many of each stream, from seed 0 (default 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument("--quick", action="store_true", help="tiny streams in place of all, two epochs")
    parser.add_argument("--resume", action="store_true", help="keep what the results in --out already hold")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report of what is there")
    args = parser.parse_args(argv)
    if min(args.seeds, args.threads) < 1 or not 1 <= args.folds <= 5:
        parser.error("--seeds and --threads must be at least 1, --folds 1 to 5")
    if "badges" in args.parts and not (args.data or args.quick or args.report):
        parser.error("--data is missing; it is the folder of the badges (event.txt.gz, time.txt.gz and badges.csv)")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    start(parse(argv), run)


if __name__ == "__main__":
    main()
