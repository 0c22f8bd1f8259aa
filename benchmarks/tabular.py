"""Attention between the rows of a table: classes, numbers, a task that needs other rows, and a large table.

The other estimator of tables, ``OTClassifier``, is measured on small sets beside what scikit-learn has.

    python benchmarks/tabular.py --data FOLDER --threads 1

``--data`` is a folder of the regression sets (``concrete``, ``yacht``, ``bostonHousing``, ``energy``) with
``data.txt``, ``index_features.txt``, ``index_target.txt`` and ``index_test_*.txt`` in each or in its folder ``data``; a
set that is not there is reported and left out. Every split of every method is written as soon as it is measured: a run
that was stopped goes on with ``--resume``, one method and split at a time, and ``--parts`` measures some of the parts.
``--report`` only writes the tables of the results that are there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import _tabular_tasks as tasks
import torch
from _results import (
    HERE,
    fresh_process,
    measure_parts,
    recording_failure,
    save,
    start,
    use_threads,
)
from _tabular_lookup import LOOKUPS, PAIRS, QUICK_PAIRS, Split, lookup
from _tabular_report import write_report
from tqdm import tqdm

from graphattn.engine import peak_memory

PARTS = ("classes", "transport", "numbers", "lookup", "large")
PACKAGES = ("scipy", "scikit-learn", "POT")
LARGE_KINDS = ("nearest rows", "chunks")
TIME_LIMIT = 3600  # seconds of the large table in its fresh process

Measure = Callable[[Any, Split, int], dict[str, float]]


def measure_classes(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Score every classifier on every fold that is not in the results yet."""
    record = results["classes"].setdefault("breast cancer", {})
    for number, split in enumerate(tqdm(tasks.breast_cancer(args.quick), desc="folds")):
        _measure_split(record, number, tasks.classifiers, tasks.classify, split, results, path, args)


def measure_transport(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Score the classifier by optimal transport beside others on every fold that is not in the results yet."""
    for name, splits in tqdm(tasks.shapes(args.quick).items(), desc="shapes"):
        record = results["transport"].setdefault(name, {})
        for number, split in enumerate(splits):
            _measure_split(record, number, tasks.shape_classifiers, tasks.count_right, split, results, path, args)


def measure_numbers(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Score every regressor on every split that is not in the results yet."""
    for name, folder in tqdm(tasks.REGRESSION.items(), desc="sets"):
        where = None if args.data is None else args.data / folder
        where = where / "data" if where is not None and (where / "data").is_dir() else where
        if where is None or not (where / "data.txt").exists():
            tqdm.write(f"{name}: there is no {folder}/data.txt in --data")
            continue
        record = results["numbers"].setdefault(name, {})
        for number in tqdm(range(tasks.QUICK_SPLITS if args.quick else tasks.SPLITS), desc=name, leave=False):
            split = tasks.regression(where, number)
            _measure_split(record, number, tasks.regressors, tasks.regress, split, results, path, args)


def measure_lookup(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Score every method on every kind of the lookup task that is not in the results yet."""
    for kind in tqdm(LOOKUPS, desc="lookups"):
        record = results["lookup"].setdefault(kind, {})
        methods = partial(tasks.lookup_regressors, kind)
        split = lookup(kind, QUICK_PAIRS if args.quick else PAIRS)
        _measure_split(record, 0, methods, tasks.regress, split, results, path, args)


def measure_large(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Train on the large table in a fresh process each, and record the peak of its memory."""
    for kind in tqdm(LARGE_KINDS, desc="large"):
        record = results["large"].setdefault(kind, {})
        if record.get("status") == "ok":
            continue
        record["status"] = "ok"
        with recording_failure(record):
            spec = {"kind": kind, "quick": args.quick, "threads": args.threads}
            record |= fresh_process("tabular.py", spec, TIME_LIMIT, show_progress=True)
        save(path, results)


def _measure_split(
    record: dict[str, Any],
    number: int,
    methods: Callable[[bool, int], dict[str, Any]],
    measure: Measure,
    split: Split,
    results: dict[str, Any],
    path: Path,
    args: argparse.Namespace,
) -> None:
    """Measure the methods whose record has nothing of a split yet."""
    for name, model in methods(args.quick, number).items():
        entry = record.setdefault(name, {"splits": {}})
        if str(number) in entry["splits"]:
            continue
        entry["status"] = "ok"
        entry.pop("reason", None)
        with recording_failure(entry):
            entry["splits"][str(number)] = measure(model, split, number)
        save(path, results)


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """Train on the large table, and predict some rows."""
    with use_threads(spec["threads"]):
        split, cpu = tasks.large(spec["quick"]), torch.device("cpu")
        before = peak_memory(cpu)
        model = tasks.large_regressor(spec["kind"], spec["quick"])
        begin = time.perf_counter()
        model.fit(split.X, split.y)
        fitted, trained = time.perf_counter(), peak_memory(cpu)
        score = model.score(split.X_test, split.y_test)
        return {
            "rows": len(split.X),
            "columns": split.X.shape[1] + 1,
            "steps": model.n_iter_,
            "fit_seconds": fitted - begin,
            "predict_seconds": time.perf_counter() - fitted,
            "r2": float(score),
            "mib_before": before,
            "mib_fitted": trained,
            "mib_predicted": peak_memory(cpu),
        }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for and write ``tabular.json`` and ``tabular.md``."""
    measures = {
        "classes": measure_classes,
        "transport": measure_transport,
        "numbers": measure_numbers,
        "lookup": measure_lookup,
        "large": measure_large,
    }
    return measure_parts(args, args.out / "tabular.json", PACKAGES, measures, write_report)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--data", type=Path, help="folder of the regression sets")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of every method")
    parser.add_argument("--quick", action="store_true", help="tiny tables and networks: tells whether everything runs")
    parser.add_argument("--resume", action="store_true", help="keep what the results in --out already hold")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the tables of the results")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.threads < 1:
        parser.error("--threads must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    start(parse(argv), run, worker)


if __name__ == "__main__":
    main()
