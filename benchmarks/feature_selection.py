"""Feature selection: speed and memory against the dense inverse, a table too large for it, and quality.

    python benchmarks/feature_selection.py --data FOLDER --out benchmarks/results

``--data`` is a folder of ``.mat`` files with ``X`` and ``Y``, as scikit-feature offers them; a set that is not there is
reported and left out. Speed: the ranking has to agree with that of the dense inverse before anything is timed, then the
candidates take turns; peak memory is measured in a fresh process each. Quality: accuracy of a linear SVM in repeated
stratified cross-validation, with the selection inside the training folds. Results are written after each step: a run
that was stopped goes on with ``--resume``, and more ``--cv-repeats`` add to the folds it has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _selection_quality as quality
import _selection_speed as speed
import torch
from _results import HERE, fresh_process, measure_parts, recording_failure, save, start, use_threads
from _selection_report import write_report
from tqdm import tqdm

PARTS = ("speed", "large", "quality")
PACKAGES = ("scipy", "scikit-learn", "skrebate")


def measure_speed(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Compare with the dense inverse at every size that is not in the results yet."""
    for size in tqdm(speed.QUICK_SIZES if args.quick else speed.SIZES, desc="sizes"):
        if str(size) not in results["speed"]:
            results["speed"][str(size)] = speed.measure(size, args.repeats, args.threads, args.quick)
            save(path, results)


def measure_large(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Rank the large table in a fresh process, and compare float32 with float64."""
    large = results["large"]
    sizes = (speed.QUICK_LARGE, speed.QUICK_PRECISION) if args.quick else (speed.LARGE, speed.PRECISION)
    for part, size in zip(("ranked", "precisions"), sizes, strict=True):
        if large.get(part, {}).get("status") == "ok":
            continue
        large[part] = {"status": "ok"}
        with recording_failure(large[part]):
            if part == "ranked":
                spec = {"do": "rank", "size": asdict(size), "threads": args.threads}
                large[part] |= fresh_process("feature_selection.py", spec, speed.TIME_LIMIT, show_progress=True)
            else:
                large[part] |= speed.compare_precisions(size)
        save(path, results)


def measure_quality(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Evaluate every method on every fold that is not in the results yet."""
    for name in tqdm(["synthetic"] if args.quick else quality.SETS, desc="sets"):
        if not args.quick and not (args.data / f"{name}.mat").exists():
            results["quality"][name] = {"status": "missing", "reason": f"there is no {name}.mat"}
            save(path, results)
            tqdm.write(f"{name}: there is no {name}.mat")
            continue
        table = quality.quick_set() if args.quick else quality.load_set(name, args.data)
        entry = results["quality"][name] = {
            "status": "ok",
            "samples": len(table.y),
            "features": table.X.shape[1],
            "classes": len(set(table.y.tolist())),
            "repeats": args.cv_repeats,
            "methods": results["quality"].get(name, {}).get("methods", {}),
        }
        _evaluate_methods(table, entry["methods"], results, path, args)


def _evaluate_methods(
    table: quality.Table, methods: dict[str, Any], results: dict[str, Any], path: Path, args: argparse.Namespace
) -> None:
    counts = quality.QUICK_COUNTS if args.quick else quality.COUNTS
    for method in tqdm(quality.RANKERS, desc=table.name, leave=False):
        record = methods.setdefault(method, {"folds": {}})
        record["status"] = "ok"
        with recording_failure(record):
            for fold, train, test in quality.folds(table, args.cv_repeats):
                if fold not in record["folds"]:
                    record["folds"][fold] = quality.evaluate(table, method, train, test, counts)
                    save(path, results)
        save(path, results)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for and write ``feature_selection.json``, ``.md`` and ``.png``."""
    measures = {"speed": measure_speed, "large": measure_large, "quality": measure_quality}
    return measure_parts(args, args.out / "feature_selection.json", PACKAGES, measures, write_report)


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """Do what only means something in a fresh process."""
    size = speed.Size(**spec["size"])
    with use_threads(spec["threads"]):
        return speed.weigh(size, spec["candidate"]) if spec["do"] == "weigh" else speed.rank_large(size)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--data", type=Path, help="folder of the .mat files, for the quality part")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the timing (default 3)")
    parser.add_argument("--cv-repeats", type=int, default=2, help="repeats of the 5-fold cross-validation (default 2)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of every candidate")
    parser.add_argument("--quick", action="store_true", help="tiny tables, no memory: tells whether everything runs")
    parser.add_argument("--resume", action="store_true", help="keep what the results in --out already hold")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.repeats, args.cv_repeats, args.threads) < 1:
        parser.error("--repeats, --cv-repeats and --threads must be at least 1")
    if "quality" in args.parts and not (args.data or args.quick or args.worker):
        parser.error("--data is missing; the quality part reads its .mat files from there (or leave it out by --parts)")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    start(parse(argv), run, worker)


if __name__ == "__main__":
    main()
